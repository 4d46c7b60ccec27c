//! A thread that works beside the traffic: it can be told to stop at any time, wherever it waits.
//!
//! Not here: what such threads do (`health_check/`, `background/rate_limit_sweep.rs`, `resolve.rs`).
//!
//! Owner and thread hold the two ends of a socket pair. The owner closes its direction to say
//! "stop", which wakes the thread even while it waits for other sockets; the thread's end closes
//! when the thread ends, however it ends, so the owner can wait for that with a limit.

pub mod health_check;
pub mod rate_limit_sweep;
pub mod resolve;

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a stop waits for the thread. One that is stuck in a system call is then left to itself.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long after a panic the work begins anew.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// The longest single wait; who waits longer waits again.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How long a thread does nothing when even waiting fails, so that it cannot spin.
const FAILED_WAIT_PAUSE: Duration = Duration::from_millis(10);

/// A running thread. Dropping it stops the thread.
pub struct Background {
    thread: Option<JoinHandle<()>>,
    line: UnixStream,
}

impl Background {
    /// Starts a thread that does `work` until it is told to stop. A panic in `work` is logged, and
    /// `work` called again: the traffic depends on what these threads do.
    pub fn start(name: &'static str, work: impl Fn(&Stop) + Send + 'static) -> io::Result<Self> {
        let (line, far_end) = UnixStream::pair()?;
        let stop = Stop(far_end);
        let body = move || {
            while catch_unwind(AssertUnwindSafe(|| work(&stop))).is_err() {
                log::error!("the {name} thread panicked; it begins anew");
                if stop.wait(Instant::now() + RESTART_PAUSE) {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_string()).spawn(body)?;
        Ok(Background { thread: Some(thread), line })
    }

    /// Tells the thread to stop, and waits for its end for up to [`PATIENCE`].
    pub fn stop(self) {}
}

impl Drop for Background {
    fn drop(&mut self) {
        // It fails only if the thread has ended already.
        let _ = self.line.shutdown(Shutdown::Write);
        let Some(thread) = self.thread.take() else { return };
        if is_closed(&self.line, Instant::now() + PATIENCE) {
            // Panics were caught and logged where they happened.
            let _ = thread.join();
        } else {
            log::debug!("the {} thread is left to itself", thread.thread().name().unwrap_or("?"));
        }
    }
}

/// What a background thread learns from that it is to stop.
pub struct Stop(UnixStream);

impl Stop {
    /// Waits until `until`, or shorter if told to stop. Returns whether it was.
    pub fn wait(&self, until: Instant) -> bool {
        is_closed(&self.0, until)
    }
}

/// Readable once told to stop; for a thread that waits for other sockets too.
impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for the other end to be closed. Nobody ever writes, so readable means closed.
fn is_closed(line: &UnixStream, until: Instant) -> bool {
    loop {
        let mut fds = [PollFd::new(line, PollFlags::IN)];
        wait_for(&mut fds, until);
        if !fds[0].revents().is_empty() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
    }
}

/// Waits until one of `fds` is ready, or until `until`; sometimes shorter, so callers look again.
pub fn wait_for(fds: &mut [PollFd<'_>], until: Instant) {
    let left = until.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => {
            log::debug!("cannot wait for sockets: {error}");
            thread::sleep(left.min(FAILED_WAIT_PAUSE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_waiting_thread_stops_when_told_and_is_waited_for() {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = ended.clone();
        let thread = Background::start("test", move |stop| {
            assert!(stop.wait(Instant::now() + LONG), "told, not timed out");
            count.fetch_add(1, Ordering::SeqCst);
        });
        thread.unwrap().stop();
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_stuck_thread_is_not_waited_for_long() {
        let (release, stuck) = mpsc::channel::<()>();
        let stuck = std::sync::Mutex::new(stuck);
        let thread = Background::start("test", move |_| {
            let _ = stuck.lock().unwrap().recv_timeout(LONG);
        });
        let begun = Instant::now();
        thread.unwrap().stop();
        let took = begun.elapsed();
        assert!((PATIENCE..10 * PATIENCE).contains(&took), "took {took:?}");
        drop(release);
    }

    #[test]
    fn a_thread_survives_its_panics() {
        let (called, calls) = mpsc::channel();
        let _thread = Background::start("test", move |stop| {
            called.send(()).unwrap();
            // Quieter than `panic!`: the hook is not called.
            if !stop.wait(Instant::now()) {
                std::panic::resume_unwind(Box::new(()));
            }
        });
        for _ in 0..2 {
            calls.recv_timeout(10 * RESTART_PAUSE).expect("it is called again");
        }
    }

    #[test]
    fn an_untold_thread_waits_as_long_as_asked() {
        let (_near, far) = UnixStream::pair().unwrap();
        let until = Instant::now() + Duration::from_millis(30);
        assert!(!Stop(far).wait(until));
        assert!(Instant::now() >= until);
    }
}
