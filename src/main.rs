//! The program: reads the flags, starts the balancer, ends it on a signal.
//!
//! Exit status: 0 after a drain, 1 when it could not run, 2 when the command line is wrong, 128 and
//! the signal's number when a second signal ended it. Not here: what the flags are (`cli/`).
#![forbid(unsafe_code)]

mod cli;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use balancebeam::demo::Demo;
use balancebeam::{Drained, Server, StartError};
use log::{LevelFilter, info};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use cli::Asked;

const USAGE: u8 = 2;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Tell(text)) => {
            // Whoever closed stdout does not want the text.
            let _ = text.print();
            ExitCode::SUCCESS
        }
        Ok(Asked::Balance { config, verbosity }) => {
            log_to_stderr(verbosity);
            run(|| {
                let server = Server::builder().configure(|c| *c = *config).start()?;
                Ok(Running {
                    address: server.address(),
                    guide: String::new(),
                    stop: Box::new(|| server.stop()),
                })
            })
        }
        Ok(Asked::Demo { bind, verbosity }) => {
            log_to_stderr(verbosity);
            run(move || {
                let demo = Demo::start(bind)?;
                Ok(Running {
                    address: demo.address(),
                    guide: demo.guide(),
                    stop: Box::new(|| demo.stop()),
                })
            })
        }
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

/// Starts, and returns when a signal has ended it. Starting and stopping have threads of their own,
/// so that a signal is heard while a name is being resolved, and a second one during the drain.
fn run(start: impl FnOnce() -> Result<Running, StartError> + Send + 'static) -> ExitCode {
    let (tell, told) = channel();
    // Before anything is started: a signal that comes now must not find the default action.
    if let Err(error) = hear_signals(tell.clone()) {
        return fail(format_args!("cannot listen to signals: {error}"), ExitCode::FAILURE);
    }
    let starter = tell.clone();
    let begun = spawn("start", move || {
        // Nobody listens any more when the process is about to end.
        let _ = starter.send(Event::Started(start()));
    });
    match begun {
        Ok(()) => watch(&told, &tell),
        Err(error) => fail(format_args!("cannot start a thread: {error}"), ExitCode::FAILURE),
    }
}

fn watch(told: &Receiver<Event>, tell: &Sender<Event>) -> ExitCode {
    let mut stopping = false;
    let mut stop = None;
    loop {
        // `tell` is held here, so the channel never closes.
        let Ok(event) = told.recv() else { return ExitCode::FAILURE };
        match event {
            Event::Started(Ok(running)) => {
                info!("listening on {}", running.address);
                print(&running.guide);
                stop = Some(running.stop);
            }
            Event::Started(Err(error)) => {
                return fail(format_args!("{error}{}", remedy(&error)), ExitCode::FAILURE);
            }
            Event::Signal(signal) if stopping => {
                // Not a return: dropping what runs would wait for its drain.
                std::process::exit(128 + signal);
            }
            Event::Signal(signal) => {
                let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
                info!("{name}: finishing what is in flight; a second signal ends at once");
                stopping = true;
            }
            Event::Stopped(Drained { finished, cut }) => {
                info!("stopped: exchanges since the signal: {finished} finished, {cut} cut");
                return ExitCode::SUCCESS;
            }
        }
        // A signal that came before the start was complete is obeyed after it: what has been
        // accepted by then is not lost.
        if stopping && let Some(stop) = stop.take() {
            let stopper = tell.clone();
            let begun = spawn("stop", move || {
                let _ = stopper.send(Event::Stopped(stop()));
            });
            if let Err(error) = begun {
                return fail(format_args!("cannot drain: {error}"), ExitCode::FAILURE);
            }
        }
    }
}

/// Passes on each SIGINT and SIGTERM.
fn hear_signals(tell: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    spawn("signals", move || {
        for signal in signals.forever() {
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

/// `RUST_LOG` has the last word.
fn log_to_stderr(verbosity: u8) {
    let level = match verbosity {
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    env_logger::Builder::new().filter_level(level).parse_default_env().init();
}

fn print(text: &str) {
    // Whoever closed stdout does not want the text.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Says on stderr what is wrong, in one line.
fn fail(line: impl Display, status: ExitCode) -> ExitCode {
    // With stderr closed the exit status must do.
    let _ = writeln!(io::stderr(), "balancebeam: {line}");
    status
}
