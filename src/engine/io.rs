//! What a turn needs of its engine. Not here: how an engine waits (`threads/`, `tokio/`).

use std::io;
use std::net::SocketAddr;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::pipe::Pipe;
use super::socket::Peeked;
use crate::upstream::UpstreamId;

/// Bytes in and out of sockets that never block: "not now" is `WouldBlock`.
pub trait Io {
    /// A socket.
    type Wire;

    /// Reads some bytes; 0 is the end.
    fn read(&mut self, wire: &mut Self::Wire, into: &mut [u8]) -> io::Result<usize>;
    /// Writes some of the bytes. `is_last`: the end follows at once, so it can go with them.
    fn write(&mut self, wire: &mut Self::Wire, bytes: &[u8], is_last: bool) -> io::Result<usize>;
    /// Takes up to `most` bytes into a pipe; 0 is the end.
    fn fill(&mut self, pipe: &mut Pipe, wire: &mut Self::Wire, most: usize) -> io::Result<usize>;
    /// Writes some of what is in a pipe.
    fn drain(&mut self, pipe: &mut Pipe, wire: &mut Self::Wire) -> io::Result<usize>;
    /// Looks whether bytes or an end are waiting, and takes nothing.
    fn peek(&mut self, wire: &mut Self::Wire) -> Peeked;
    /// Acknowledges what has been read at once, not with what is written next.
    fn acknowledge(&mut self, wire: &mut Self::Wire);
    /// Ends the sending direction.
    fn shut_down(&mut self, wire: &mut Self::Wire) -> io::Result<()>;
    /// Makes closing the socket a reset.
    fn reset_on_close(&mut self, wire: &mut Self::Wire);
}

/// Connections to upstreams, pooled or new.
pub trait Dialer: Io {
    /// A connection to an upstream.
    type Conn;

    /// Takes a connection that has been idle for `most` at the longest, on which neither a byte nor
    /// an end is waiting.
    fn take_idle(&mut self, id: UpstreamId, most: Duration, now: Instant) -> Option<Self::Conn>;
    /// Begins to connect. Also says whether it is connected already.
    fn dial(&mut self, id: UpstreamId, address: SocketAddr) -> io::Result<(Self::Conn, bool)>;
    /// How connecting ended; `None` if it has not.
    fn poll_connected(&mut self, conn: &mut Self::Conn) -> Option<io::Result<()>>;
    /// Keeps a connection for the next request. A connection that is dropped instead is closed.
    fn keep(&mut self, conn: Self::Conn, now: Instant);
}

/// An engine, as one turn of a connection sees it.
pub trait Host: Dialer {
    /// An empty pipe, if there is one.
    fn pipe(&mut self) -> Option<Pipe>;
    /// Wakes the connection for another turn, from any thread.
    fn waker(&mut self) -> Waker;
    /// Logs, at most once a minute, that the system refuses what a connection needs.
    fn complain_of_shortage(&mut self, id: UpstreamId, error: &io::Error, now: Instant);
}
