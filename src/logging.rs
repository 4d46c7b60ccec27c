//! Log lines on standard error, written by a thread of their own, so that no other thread waits for
//! their reader.
//!
//! A line that finds the queue full is dropped and counted. Not here: what is logged and when (the
//! `log` macros, everywhere).

use std::env;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use env_logger::{Target, WriteStyle};
use log::LevelFilter;

/// Lines that wait to be written.
const QUEUE_LINES: usize = 4096;
/// Bytes of lines that are written at a time, if so many wait.
const BATCH_BYTES: usize = 16 * 1024;
/// How long the end of the process waits for the lines that are still in the queue.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the end of the process looks whether they are written.
const FLUSH_LOOK: Duration = Duration::from_millis(1);
/// The least time between two lines that tell how many were dropped.
const TELL_PAUSE: Duration = Duration::from_secs(60);

/// The program's log.
pub struct Log {
    writer: LineWriter,
}

impl Log {
    /// Sends what is logged to standard error. `RUST_LOG` overrides the level that `verbosity`
    /// means.
    pub fn start(verbosity: u8) -> io::Result<Log> {
        let level = match verbosity {
            0 => LevelFilter::Info,
            1 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        };
        let writer = LineWriter::start(QUEUE_LINES, io::stderr(), tell_dropped)?;
        env_logger::Builder::new()
            .filter_level(level)
            .write_style(style())
            .target(Target::Pipe(Box::new(writer.clone())))
            .parse_default_env()
            .init();
        // The default hook writes to standard error itself, and would wait for its reader.
        panic::set_hook(Box::new(log_panic));
        Ok(Log { writer })
    }

    /// Writes a line without level and time.
    pub fn say(&self, line: &str) {
        self.writer.put(format!("balancebeam: {line}\n").into_bytes());
    }

    /// Waits until all lines are written, for [`FLUSH_TIMEOUT`] at most.
    pub fn flush(&self) {
        let until = Instant::now() + FLUSH_TIMEOUT;
        self.writer.wait_until_written(until);
        if self.writer.tell_of_dropped() {
            self.writer.wait_until_written(until);
        }
    }
}

fn tell_dropped(lines: u64) {
    log::warn!("log_lines_dropped={lines}: standard error was not read fast enough");
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let place = info.location().map_or_else(String::new, |location| format!(" at {location}"));
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("no message");
    log::error!("the {name} thread panicked{place}: {message}");
}

/// env_logger decides this by itself for standard error, but not for a writer of ours.
fn style() -> WriteStyle {
    let is_wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_some_and(|terminal| terminal != "dumb");
    if is_wanted && io::stderr().is_terminal() { WriteStyle::Always } else { WriteStyle::Never }
}

/// A bounded queue of lines and the thread that writes them.
#[derive(Clone)]
struct LineWriter {
    queue: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
    tell_dropped: fn(u64),
}

/// Numbers of lines.
#[derive(Default)]
struct Counts {
    queued: AtomicU64,
    /// Taken from the queue, and written or failed to be.
    done: AtomicU64,
    dropped: AtomicU64,
    told: AtomicU64,
}

impl LineWriter {
    /// `tell_dropped` logs that so many lines were dropped since it was called last.
    fn start(
        most: usize,
        output: impl Write + Send + 'static,
        tell_dropped: fn(u64),
    ) -> io::Result<Self> {
        let (queue, lines) = sync_channel(most);
        let writer = LineWriter { queue, counts: Arc::default(), tell_dropped };
        let counts = writer.counts.clone();
        thread::Builder::new()
            .name("log".to_string())
            .spawn(move || write_lines(&lines, output, &counts, tell_dropped))?;
        Ok(writer)
    }

    /// Queues a line, or drops it.
    fn put(&self, line: Vec<u8>) {
        // Before it is there: `done` must never be ahead of this.
        self.counts.queued.fetch_add(1, Ordering::SeqCst);
        if self.queue.try_send(line).is_err() {
            self.counts.queued.fetch_sub(1, Ordering::SeqCst);
            self.counts.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn wait_until_written(&self, until: Instant) {
        let is_written =
            || self.counts.done.load(Ordering::SeqCst) >= self.counts.queued.load(Ordering::SeqCst);
        while !is_written() && Instant::now() < until {
            thread::sleep(FLUSH_LOOK);
        }
    }

    /// Returns whether there was something to tell.
    fn tell_of_dropped(&self) -> bool {
        self.counts.tell_dropped(self.tell_dropped)
    }
}

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Counts {
    /// Dropped lines that no log line has told of yet.
    fn untold(&self) -> u64 {
        self.dropped.load(Ordering::SeqCst).saturating_sub(self.told.load(Ordering::SeqCst))
    }

    fn tell_dropped(&self, tell: fn(u64)) -> bool {
        let lines = self.untold();
        if lines > 0 {
            self.told.fetch_add(lines, Ordering::SeqCst);
            tell(lines);
        }
        lines > 0
    }
}

/// Writes lines until every sender is gone.
fn write_lines(
    lines: &Receiver<Vec<u8>>,
    mut output: impl Write,
    counts: &Counts,
    tell_dropped: fn(u64),
) {
    let mut batch = Vec::new();
    let mut may_tell_at = Instant::now();
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            // Only now, since the line that tells of it must find room.
            Err(TryRecvError::Empty) if counts.untold() > 0 && Instant::now() >= may_tell_at => {
                may_tell_at = Instant::now() + TELL_PAUSE;
                counts.tell_dropped(tell_dropped);
                continue;
            }
            Err(TryRecvError::Empty) => match lines.recv_timeout(TELL_PAUSE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            },
            Err(TryRecvError::Disconnected) => return,
        };
        batch.extend_from_slice(&line);
        let mut taken = 1;
        while batch.len() < BATCH_BYTES
            && let Ok(line) = lines.try_recv()
        {
            batch.extend_from_slice(&line);
            taken += 1;
        }
        if output.write_all(&batch).and_then(|()| output.flush()).is_err() {
            counts.dropped.fetch_add(taken, Ordering::SeqCst);
        }
        counts.done.fetch_add(taken, Ordering::SeqCst);
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// An output that writes only as long as it is let.
    struct Gated {
        written: Sender<Vec<u8>>,
        is_let: Arc<Mutex<()>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _let = self.is_let.lock().unwrap();
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts_lines_and_those_in_it_are_written_later() {
        const MOST: usize = 4;
        static TOLD: AtomicU64 = AtomicU64::new(0);
        let (written, output) = channel();
        let is_let = Arc::new(Mutex::new(()));
        let stalled = is_let.lock().unwrap();
        let gated = Gated { written, is_let: is_let.clone() };
        let tell = |lines| _ = TOLD.fetch_add(lines, Ordering::SeqCst);
        let writer = LineWriter::start(MOST, gated, tell).unwrap();
        let begin = Instant::now();
        for number in 0..100 {
            writer.put(format!("{number}\n").into_bytes());
        }
        writer.wait_until_written(begin + Duration::from_millis(20));
        assert!(begin.elapsed() < PATIENCE, "nothing waits for the output");
        assert_eq!(TOLD.load(Ordering::SeqCst), 0, "it is told when there is room again");
        drop(stalled);

        writer.wait_until_written(Instant::now() + PATIENCE);
        writer.tell_of_dropped();
        let dropped = writer.counts.dropped.load(Ordering::SeqCst);
        let got: Vec<u8> = output.try_iter().flatten().collect();
        let got = String::from_utf8(got).unwrap();
        assert!(got.starts_with("0\n1\n"), "the oldest are kept: {got:?}");
        assert!(dropped >= 50, "{dropped} dropped");
        assert_eq!(got.lines().count() as u64 + dropped, 100, "each is written or counted");
        let is_told = || TOLD.load(Ordering::SeqCst) == dropped;
        let until = Instant::now() + PATIENCE;
        while !is_told() && Instant::now() < until {
            thread::sleep(FLUSH_LOOK);
        }
        assert!(is_told(), "{dropped} dropped, {TOLD:?} told");
    }
}
