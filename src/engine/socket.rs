//! A non-blocking socket that remembers when asking it would be in vain.
//!
//! Not here: what the bytes are (`session/`), who waits for the socket (`event_queue.rs`).

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::connect;
use super::pipe::Pipe;

/// A TCP socket that is watched with edge-triggered events: after a short read or write it is not
/// asked again before an event says that something has changed.
pub struct Socket {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// The end has arrived behind the bytes that are still to be read, so there will be no more
    /// event.
    ends: bool,
    /// Whether events tell when it can be written to; until it was once full, nobody asks.
    output_watched: bool,
}

impl Socket {
    /// A connected socket of which nothing is known but that it can be written to.
    pub fn connected(stream: TcpStream) -> Self {
        Socket { stream, readable: false, writable: true, ends: false, output_watched: false }
    }

    /// Begins to connect. Also says whether it is connected already.
    pub fn connect(to: SocketAddr) -> io::Result<(Self, bool)> {
        let (stream, is_connected) = connect::begin(to)?;
        let socket =
            Socket { writable: is_connected, output_watched: true, ..Self::connected(stream) };
        Ok((socket, is_connected))
    }

    /// How connecting ended; `None` if it has not. Asked only if an event has come, which may still
    /// have been meant for another one.
    pub fn connect_result(&mut self) -> Option<io::Result<()>> {
        if !self.writable {
            return None;
        }
        let result = connect::result(&self.stream);
        self.writable = result.is_some();
        result
    }

    /// An event has said that it can be read, or written to, or that its end has arrived.
    pub fn apply_readiness(&mut self, readable: bool, writable: bool, ends: bool) {
        self.readable |= readable;
        self.writable |= writable;
        self.ends |= ends;
    }

    /// Whether it has to be watched for output from now on. Told once.
    pub fn wants_output_watch(&mut self) -> bool {
        let wants = !self.writable && !self.output_watched;
        self.output_watched |= wants;
        wants
    }

    /// Whether its end has arrived, as far as events have told.
    pub fn has_ended(&self) -> bool {
        self.ends
    }

    /// Whether asking it for bytes may bring some, as far as is known.
    pub fn may_be_read(&self) -> bool {
        self.readable
    }

    /// Listens without taking anything.
    pub fn peek(&mut self) -> Peeked {
        let peeked = peek(&self.stream);
        self.readable &= peeked != Peeked::Nothing;
        peeked
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Socket {
    /// Reads some bytes; 0 is the end. `WouldBlock` means "not now".
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.readable {
            return Err(ErrorKind::WouldBlock.into());
        }
        let result = self.stream.read(into);
        match &result {
            Ok(n) => self.readable = *n == into.len() || (self.ends && *n > 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(_) => (),
        }
        result
    }

    /// Writes some of the bytes; `is_last` as with `send`. `WouldBlock` means "not now".
    pub fn write(&mut self, bytes: &[u8], is_last: bool) -> io::Result<usize> {
        if !self.writable {
            return Err(ErrorKind::WouldBlock.into());
        }
        let result = send(&self.stream, bytes, is_last);
        match &result {
            Ok(n) => self.writable = *n == bytes.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
            Err(_) => (),
        }
        result
    }

    /// Takes bytes into a pipe; 0 is the end. `WouldBlock` means "not now".
    pub fn fill(&mut self, pipe: &mut Pipe, most: usize) -> io::Result<usize> {
        if !self.readable {
            return Err(ErrorKind::WouldBlock.into());
        }
        // A pipe takes fewer bytes than there are, so only asking in vain says that there are none.
        let result = pipe.fill(&self.stream, most);
        self.readable = !is_would_block(&result);
        result
    }

    /// Writes some of what is in a pipe. `WouldBlock` means "not now".
    pub fn drain(&mut self, pipe: &mut Pipe) -> io::Result<usize> {
        if !self.writable {
            return Err(ErrorKind::WouldBlock.into());
        }
        let result = pipe.drain(&self.stream);
        self.writable = !is_would_block(&result);
        result
    }

    /// Ends the sending direction.
    pub fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}

fn is_would_block(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// What is waiting to be read on a connection that nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// Nothing: it can be used.
    Nothing,
    /// Its end, or an error.
    End,
    /// Bytes that nobody has asked for.
    Bytes,
}

/// Listens without taking anything.
pub fn peek(socket: impl AsFd) -> Peeked {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let mut byte = [0];
    match rustix::net::recv(socket, &mut byte[..], flags) {
        Err(Errno::AGAIN) => Peeked::Nothing,
        Ok((_, 1..)) => Peeked::Bytes,
        Ok(_) | Err(_) => Peeked::End,
    }
}

/// Reads some of what has arrived, if anything has.
pub fn receive(socket: impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, into, RecvFlags::DONTWAIT)?.1)
}

/// Writes some of the bytes. If they are the last before the end, which is to follow at once, the
/// system keeps them until then, and sends one segment instead of two.
pub fn send(socket: impl AsFd, bytes: &[u8], is_last: bool) -> io::Result<usize> {
    let more = if is_last { SendFlags::MORE } else { SendFlags::empty() };
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | more)?)
}

/// Acknowledges what has been read at once, not with what is written next.
pub fn acknowledge(socket: &impl AsFd) {
    // Without it the peer waits a little longer, which is all.
    let _ = sockopt::set_tcp_quickack(socket, true);
}

/// Makes closing a socket a reset: whatever is still on its way is thrown away.
pub fn reset_on_close(socket: &impl AsFd) {
    // Without it the close is an ordinary one, which is all that can be done.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Makes closing a connection keep no local port in TIME_WAIT: a reset, unless the other side has
/// ended its direction. Then it has to wait, and what it has yet to read still reaches it.
pub fn keep_no_port(socket: &impl AsFd) {
    if peek(socket) != Peeked::End {
        reset_on_close(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (Socket::connected(near), far)
    }

    #[test]
    fn nothing_is_heard_until_a_byte_or_the_end_has_arrived() {
        let (socket, mut far) = pair();
        assert_eq!(peek(&socket), Peeked::Nothing);
        far.write_all(b"x").unwrap();
        assert_eq!(peek(&socket), Peeked::Bytes);
        let (socket, far) = pair();
        drop(far);
        assert_eq!(peek(&socket), Peeked::End);
    }

    #[test]
    fn a_short_read_is_not_followed_by_another_unless_the_end_is_there() {
        let (mut socket, mut far) = pair();
        far.write_all(b"abc").unwrap();
        drop(far);
        let mut bytes = [0; 8];
        assert!(socket.read(&mut bytes).is_err(), "no event has come");
        socket.apply_readiness(true, false, false);
        assert_eq!(socket.read(&mut bytes).unwrap(), 3);
        assert!(socket.read(&mut bytes).is_err(), "the read was short");
        socket.apply_readiness(true, false, true);
        assert_eq!(socket.read(&mut bytes).unwrap(), 0);
    }

    #[test]
    fn a_full_socket_asks_to_be_watched_once() {
        let (mut socket, _far) = pair();
        assert!(!socket.wants_output_watch());
        let bytes = vec![0; 1 << 20];
        while socket.write(&bytes, false).is_ok() {}
        assert!(socket.wants_output_watch());
        assert!(!socket.wants_output_watch());
    }
}
