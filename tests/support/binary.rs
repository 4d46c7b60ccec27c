//! `balancebeam` as a child process: started, listened to, signalled, and never left behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::echo::{Echo, HEALTH};
use super::until;

/// How long a process may take to start, or to end once nothing holds it.
pub const PATIENCE: Duration = Duration::from_secs(10);

const KEPT_LINES: usize = 5_000;

/// A running balancer. Dropping it kills the process and waits for its end.
pub struct Balancer {
    child: Child,
    address: SocketAddr,
    stderr: Listener,
    stdout: Listener,
}

impl Balancer {
    /// Starts one in front of `upstreams`. Active checks are off unless `flags` ask for them.
    pub fn start(engine: &str, upstreams: &[&Echo], flags: &[&str]) -> Self {
        let addresses: Vec<String> = upstreams.iter().map(|u| u.address().to_string()).collect();
        let mut arguments = vec!["--bind", "127.0.0.1:0", "--engine", engine];
        for address in &addresses {
            arguments.extend(["--upstream", address]);
        }
        if !flags.contains(&"--active-health-check-interval") {
            arguments.extend(["--active-health-check-interval", "0"]);
        }
        arguments.extend(flags);
        Balancer::run(&arguments)
    }

    /// Starts one whose active checks ask for [`HEALTH`] every second.
    pub fn probing(engine: &str, upstreams: &[&Echo]) -> Self {
        let flags = ["--active-health-check-interval", "1", "--active-health-check-path", HEALTH];
        Balancer::start(engine, upstreams, &flags)
    }

    /// Starts one that may have so many descriptors open.
    pub fn start_with_descriptors(
        most: u32,
        engine: &str,
        upstream: &Echo,
        flags: &[&str],
    ) -> Self {
        let upstream = upstream.address().to_string();
        let mut arguments = vec!["--bind", "127.0.0.1:0", "--engine", engine, "--upstream"];
        arguments.extend([upstream.as_str(), "--active-health-check-interval", "0"]);
        arguments.extend(flags);
        let mut shell = Command::new("sh");
        let limited = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
        shell.args(["-c", &limited, env!("CARGO_BIN_EXE_balancebeam")]);
        Balancer::spawn(with_pipes(&mut shell, &arguments), &arguments)
    }

    /// Starts the binary with just these arguments and waits until it tells where it listens.
    pub fn run(arguments: &[&str]) -> Self {
        Balancer::spawn(&mut command(arguments), arguments)
    }

    fn spawn(command: &mut Command, arguments: &[&str]) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let stderr = Listener::new(child.stderr.take());
        let stdout = Listener::new(child.stdout.take());
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut balancer = Balancer { child, address: nowhere, stderr, stdout };
        let start = Instant::now();
        balancer.address = loop {
            if let Some(address) = balancer.stderr.lines().iter().find_map(|line| told(line)) {
                break address;
            }
            let ended = balancer.child.try_wait().expect("a child can be asked");
            if ended.is_some() || start.elapsed() > PATIENCE {
                panic!("{arguments:?} does not listen; exit: {ended:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        balancer
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// Stops reading its log, as a log reader that hangs does.
    pub fn stop_reading(&self) {
        self.stderr.is_stopped.store(true, Ordering::SeqCst);
    }

    /// Reads its log again.
    pub fn read_again(&self) {
        self.stderr.is_stopped.store(false, Ordering::SeqCst);
    }

    /// Waits until that many log lines hold all of `words`; more of them are as wrong as fewer.
    pub fn expect_logged(&self, words: &[&str], times: usize) {
        let holds = |line: &&String| words.iter().all(|word| line.contains(word));
        let count = || self.log().iter().filter(holds).count();
        until(Duration::from_secs(2), &format!("{words:?} is logged"), || count() >= times);
        assert_eq!(count(), times, "log lines with {words:?}");
    }

    /// What it has printed to standard output so far.
    pub fn printed(&self) -> String {
        self.stdout.text()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).expect("it lives");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits for its end, and for the end of what it says.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        until(limit, "the balancer ends", || !self.is_running());
        self.stderr.finish_soon();
        self.child.wait().expect("it has ended")
    }

    /// The most memory it ever held, in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The memory it holds, in KiB.
    pub fn memory_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).expect("Linux tells it");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.read_again();
        if std::thread::panicking() {
            self.stderr.finish_soon();
            eprintln!("the balancer said:\n{}", self.stderr.text());
        }
    }
}

/// Runs the binary to its end, which must come soon; for what refuses to start.
pub fn run_to_end(arguments: &[&str]) -> Output {
    let mut child = command(arguments).spawn().expect("the binary starts");
    let (stdout, stderr) = (Listener::new(child.stdout.take()), Listener::new(child.stderr.take()));
    let start = Instant::now();
    while child.try_wait().expect("a child can be asked").is_none() {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{arguments:?} goes on; it said:\n{}", stderr.text());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = child.wait().expect("it has ended");
    stdout.finish_soon();
    stderr.finish_soon();
    Output { status, stdout: stdout.text().into(), stderr: stderr.text().into() }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_balancebeam"));
    with_pipes(&mut command, arguments);
    command
}

fn with_pipes<'a>(command: &'a mut Command, arguments: &[&str]) -> &'a mut Command {
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}

/// The address in a line that tells where the balancer listens.
fn told(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    let rest = rest.strip_prefix("http://").unwrap_or(rest);
    let word = rest.split_whitespace().next()?;
    word.trim_end_matches([',', ';', '.', '/']).parse().ok()
}

/// Reads lines from a pipe in a thread, so that the child never blocks on it, and keeps the first.
struct Listener {
    lines: Arc<Mutex<Vec<String>>>,
    is_stopped: Arc<AtomicBool>,
    reader: JoinHandle<()>,
}

impl Listener {
    fn new(pipe: Option<impl Read + Send + 'static>) -> Self {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = lines.clone();
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe.expect("it is piped")).lines().map_while(Result::ok) {
                while stopped.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < KEPT_LINES {
                    kept.push(line);
                }
            }
        });
        Listener { lines, is_stopped, reader }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Once the process has ended the pipe ends too; bounded all the same.
    fn finish_soon(&self) {
        let start = Instant::now();
        while !self.reader.is_finished() && start.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Heavy tests run alone, so that the others' deadlines stay honest on a small machine.
static TURN: RwLock<()> = RwLock::new(());

/// Held by a test that may run beside others.
pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that needs the machine for itself.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}
