//! The program: reads the flags, starts the balancer, ends it on a signal.
//!
//! Exit status: 0 after a drain, 1 when it could not run, 2 when the command line is wrong, 128 and
//! the signal's number when a second signal ended it. Not here: what the flags are (`cli/`).
#![forbid(unsafe_code)]

mod cli;
mod logging;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use balancebeam::demo::Demo;
use balancebeam::{Drained, Server, StartError};
use log::{Level, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use cli::Invocation;
use logging::Log;

const USAGE: u8 = 2;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Tell(text)) => {
            // Whoever closed stdout does not want the text.
            let _ = text.print();
            ExitCode::SUCCESS
        }
        Ok(Invocation::Balance { config, verbosity }) => run(verbosity, || {
            let server = Server::builder().configure(|c| *c = *config).start()?;
            Ok(Running {
                address: server.address(),
                guide: String::new(),
                stop: Box::new(|| server.stop()),
            })
        }),
        Ok(Invocation::Demo { bind, verbosity }) => run(verbosity, move || {
            let demo = Demo::start(bind)?;
            Ok(Running {
                address: demo.address(),
                guide: demo.guide(),
                stop: Box::new(|| demo.stop()),
            })
        }),
        Err(line) => fail(line, ExitCode::from(USAGE)),
    }
}

/// What was started, be it a balancer alone or the demo.
struct Running {
    address: SocketAddr,
    /// What to tell on stdout once it runs; may be empty.
    guide: String,
    stop: Box<dyn FnOnce() -> Drained + Send>,
}

/// What `run` waits for.
enum Event {
    Started(Result<Running, StartError>),
    Signal(i32),
    Stopped(Drained),
}

/// Starts the log and what `start` says, and returns when a signal has ended it. From here on only
/// the log's thread writes to standard error: its reader may stall, and this must go on.
fn run(
    verbosity: u8,
    start: impl FnOnce() -> Result<Running, StartError> + Send + 'static,
) -> ExitCode {
    let log = match Log::start(verbosity) {
        Ok(log) => log,
        Err(error) => return fail(cannot_spawn(&error), ExitCode::FAILURE),
    };
    let status = match start_and_watch(&log, start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            log.say(&line);
            ExitCode::FAILURE
        }
    };
    log.flush();
    status
}

/// Starting and stopping have threads of their own, so that a signal is heard while a name is being
/// resolved, and a second one during the drain. The error is one line.
fn start_and_watch(
    log: &Log,
    start: impl FnOnce() -> Result<Running, StartError> + Send + 'static,
) -> Result<(), String> {
    let (tell, told) = channel();
    // Before anything is started: a signal that comes now must not find the default action.
    hear_signals(tell.clone()).map_err(|error| format!("cannot listen to signals: {error}"))?;
    let starter = tell.clone();
    let begun = spawn("start", move || {
        // Nobody listens any more when the process is about to end.
        let _ = starter.send(Event::Started(start()));
    });
    begun.map_err(|error| cannot_spawn(&error))?;
    watch(log, &told, &tell)
}

fn cannot_spawn(error: &io::Error) -> String {
    format!("cannot start a thread: {error}")
}

fn watch(log: &Log, told: &Receiver<Event>, tell: &Sender<Event>) -> Result<(), String> {
    let mut stopping = false;
    let mut stop = None;
    loop {
        // `tell` is held here, so the channel never closes.
        let event = told.recv().map_err(|error| error.to_string())?;
        match event {
            Event::Started(Ok(running)) => {
                info!("listening on {}", running.address);
                let guide = running.guide;
                // The reader of standard output may stall, too.
                spawn("guide", move || print(&guide)).map_err(|error| cannot_spawn(&error))?;
                stop = Some(running.stop);
            }
            Event::Started(Err(error)) => {
                return Err(format!("{error}{}", remedy(&error)));
            }
            Event::Signal(signal) if stopping => {
                warn!("{}: ended at once; what was in flight is cut", name_of(signal));
                log.flush();
                #[expect(clippy::disallowed_methods, reason = "a return would wait for the drain")]
                std::process::exit(128 + signal);
            }
            Event::Signal(signal) => {
                info!(
                    "{}: finishing what is in flight; a second signal ends at once",
                    name_of(signal)
                );
                stopping = true;
            }
            Event::Stopped(Drained { finished, failed, cut }) => {
                let level = if cut > 0 { Level::Warn } else { Level::Info };
                log::log!(
                    level,
                    "stopped: since the signal finished={finished} failed={failed} cut={cut}"
                );
                return Ok(());
            }
        }
        // A signal that came before the start was complete is obeyed after it: what has been
        // accepted by then is not lost.
        if stopping && let Some(stop) = stop.take() {
            let stopper = tell.clone();
            let begun = spawn("stop", move || {
                let _ = stopper.send(Event::Stopped(stop()));
            });
            begun.map_err(|error| format!("cannot drain: {error}"))?;
        }
    }
}

/// The name of a signal that ends the process.
fn name_of(signal: i32) -> &'static str {
    if signal == SIGINT { "SIGINT" } else { "SIGTERM" }
}

/// Signals that do nothing yet. Their default action would end the process without a drain.
const IGNORED: [(i32, &str); 3] = [
    (SIGHUP, "SIGHUP ignored: there is no configuration file to reload; restart to change flags"),
    (SIGUSR1, "SIGUSR1 ignored: no action is assigned to it; SIGTERM drains and ends"),
    (SIGUSR2, "SIGUSR2 ignored: no action is assigned to it; SIGTERM drains and ends"),
];

/// Passes on each SIGINT and SIGTERM, and logs those that are ignored.
fn hear_signals(tell: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2])?;
    spawn("signals", move || {
        for signal in signals.forever() {
            if let Some((_, line)) = IGNORED.iter().find(|(ignored, _)| *ignored == signal) {
                warn!("{line}");
                continue;
            }
            if tell.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_string()).spawn(work).map(drop)
}

/// What to do about it, where the error alone does not say.
fn remedy(error: &StartError) -> &'static str {
    let StartError::Bind(_, error) = error else { return "" };
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop what listens there or choose another port with --bind",
        io::ErrorKind::PermissionDenied => "; choose a port from 1024 up with --bind",
        io::ErrorKind::AddrNotAvailable => {
            "; choose an address of this machine with --bind, such as 0.0.0.0"
        }
        _ => "",
    }
}

fn print(text: &str) {
    // Whoever closed stdout does not want the text.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Says on standard error what is wrong, in one line; before the log is started.
fn fail(line: impl Display, status: ExitCode) -> ExitCode {
    // With stderr closed the exit status must do.
    let _ = writeln!(io::stderr(), "balancebeam: {line}");
    status
}
