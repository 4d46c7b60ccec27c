//! Pipes through which bytes go from socket to socket without being copied (`splice(2)`).
//!
//! A pipe is two descriptors, so there is a bound on them; whoever gets none copies. Not here: when
//! a body may go this way (`exchange/splice.rs`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

use crate::buffer;
use crate::config::Limits;
use crate::lock::Lock;

/// Pipes that there may be at a time …
pub const MOST: usize = 64;
/// … and one for so many descriptors at the most, because connections need them more.
const DESCRIPTORS_A_PIPE: usize = 32;
/// Bytes that one may hold; the system may allow fewer.
const SIZE: usize = 256 * 1024;
/// One that may hold fewer could be full of what was in a session's output alone, and then it is of
/// no use: whether there is something to take would not be known.
const LEAST: usize = 128 * 1024;
const _: () = assert!(LEAST > buffer::SIZE + Limits::MAX_HEAD, "an output fits, with a trailer");

/// The pipes of an engine.
pub struct Pipes {
    free: Lock<Vec<Ends>>,
    most: usize,
    /// Those that exist, free or not.
    made: AtomicUsize,
}

struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// A pipe in use. When it is dropped it is free again, or closed if there is something in it.
pub struct Pipe {
    ends: Option<Ends>,
    held: usize,
    /// Whether it may take more: until bytes of a socket are in it.
    is_open: bool,
    home: Arc<Pipes>,
}

impl Pipes {
    /// None yet; `descriptors` is the limit on them.
    pub fn new(descriptors: usize) -> Arc<Self> {
        let most = MOST.min(descriptors / DESCRIPTORS_A_PIPE);
        Arc::new(Pipes { free: Lock::default(), most, made: AtomicUsize::new(0) })
    }

    /// An empty pipe; `None` if all are in use, or the system refuses one.
    pub fn take(self: &Arc<Self>) -> Option<Pipe> {
        let free = self.free.lock().pop();
        let ends = free.or_else(|| self.make())?;
        Some(Pipe { ends: Some(ends), held: 0, is_open: true, home: self.clone() })
    }

    /// One that a user with many pipes might get.
    #[cfg(test)]
    pub fn tiny(self: &Arc<Self>) -> Pipe {
        let pipe = self.take().expect("a pipe");
        let writer = &pipe.ends.as_ref().expect("its ends").writer;
        fcntl_setpipe_size(writer, 4096).expect("a smaller pipe");
        pipe
    }

    fn make(&self) -> Option<Ends> {
        if self.made.fetch_add(1, Ordering::AcqRel) < self.most
            && let Ok((reader, writer)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        {
            // A smaller one will do, but not the two pages that a user with many gets.
            let _ = fcntl_setpipe_size(&writer, SIZE);
            if fcntl_getpipe_size(&writer).is_ok_and(|size| size >= LEAST) {
                return Some(Ends { reader, writer });
            }
            // Counted on, so that it is not tried for ever.
            return None;
        }
        self.made.fetch_sub(1, Ordering::AcqRel);
        None
    }
}

impl Pipe {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Whether it may take more: only until bytes of a socket are in it. So it is never full when
    /// it takes some, and `WouldBlock` is said of the socket.
    pub fn may_take(&self) -> bool {
        self.is_open
    }

    /// Puts bytes in front of those that it will take.
    pub fn pour(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let ends = self.ends.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = rustix::io::write(&ends.writer, bytes)?;
        self.held += n;
        Ok(n)
    }

    /// Takes up to `most` bytes from a socket, which does not block; 0 is its end.
    pub fn fill(&mut self, from: impl AsFd, most: usize) -> io::Result<usize> {
        let ends = self.ends.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = splice(from, None, &ends.writer, None, most.min(SIZE), SpliceFlags::NONBLOCK)?;
        self.held += n;
        self.is_open = n == 0;
        Ok(n)
    }

    /// Writes some of what is in it into a socket.
    pub fn drain(&mut self, into: impl AsFd) -> io::Result<usize> {
        let ends = self.ends.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let n = splice(&ends.reader, None, into, None, self.held, SpliceFlags::NONBLOCK)?;
        self.held -= n.min(self.held);
        self.is_open |= self.held == 0;
        Ok(n)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        if self.held == 0 {
            self.home.free.lock().push(ends);
        } else {
            self.home.made.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (near, far)
    }

    #[test]
    fn bytes_go_through_in_order_and_the_end_is_zero() {
        let pipes = Pipes::new(usize::MAX);
        let ((near_a, mut far_a), (near_b, mut far_b)) = (pair(), pair());
        let mut pipe = pipes.take().unwrap();
        assert_eq!(pipe.fill(&near_a, 10).unwrap_err().kind(), ErrorKind::WouldBlock);
        far_a.write_all(b"hello there").unwrap();
        assert_eq!(pipe.fill(&near_a, 5).unwrap(), 5);
        assert_eq!(pipe.drain(&near_b).unwrap(), 5);
        assert!(pipe.is_empty());
        assert_eq!(pipe.fill(&near_a, 100).unwrap(), 6);
        assert_eq!(pipe.drain(&near_b).unwrap(), 6);
        drop(far_a);
        let mut got = [0; 11];
        far_b.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello there");
        assert_eq!(pipe.fill(&near_a, 1).unwrap(), 0);
    }

    #[test]
    fn there_is_a_bound_and_a_pipe_with_something_in_it_is_not_used_again() {
        let pipes = Pipes::new(usize::MAX);
        let mut taken: Vec<_> = (0..MOST).map(|_| pipes.take().unwrap()).collect();
        assert!(pipes.take().is_none());
        drop(taken.pop());
        let (near, mut far) = pair();
        far.write_all(b"left behind").unwrap();
        let mut pipe = pipes.take().unwrap();
        while pipe.is_empty() {
            let _ = pipe.fill(&near, 100);
        }
        drop(pipe);
        assert_eq!(pipes.free.lock().len(), 0);
        assert!(pipes.take().is_some());
    }
}
