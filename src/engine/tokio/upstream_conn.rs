//! A connection to an upstream on the async engine.
//!
//! Not here: idle ones (`pool.rs`), those of the threads engine (`threads/upstream_conn.rs`).

use std::io::{self, ErrorKind};
use std::net::TcpStream as StdStream;

use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::engine::socket;
use crate::engine::socket::Peeked;
use crate::upstream::UpstreamId;

/// A connection to an upstream. When it is dropped, it is reset if the upstream has not ended it.
pub(super) struct UpstreamConn {
    /// `None` once it was moved to another core.
    stream: Option<TcpStream>,
    pub upstream: UpstreamId,
}

impl UpstreamConn {
    /// It belongs to the core that calls this.
    pub fn new(stream: StdStream, upstream: UpstreamId) -> io::Result<Self> {
        Ok(UpstreamConn { stream: Some(TcpStream::from_std(stream)?), upstream })
    }

    /// Moves it to the core that calls this.
    pub fn adopt(mut self) -> io::Result<Self> {
        let stream = self.stream.take().ok_or(ErrorKind::NotConnected)?;
        UpstreamConn::new(stream.into_std()?, self.upstream)
    }

    /// Whether an end or bytes have arrived, as far as the runtime has heard: no system call while
    /// nothing has.
    pub fn is_readable(&self) -> bool {
        let stream = self.stream();
        let look = || match socket::peek(stream) {
            Peeked::Nothing => Err(ErrorKind::WouldBlock.into()),
            Peeked::End | Peeked::Bytes => Ok(()),
        };
        stream.try_io(Interest::READABLE, look).is_ok()
    }

    /// Its socket.
    pub fn stream(&self) -> &TcpStream {
        match &self.stream {
            Some(stream) => stream,
            None => unreachable!("one that was moved is gone"),
        }
    }
}

impl AsMut<TcpStream> for UpstreamConn {
    fn as_mut(&mut self) -> &mut TcpStream {
        match &mut self.stream {
            Some(stream) => stream,
            None => unreachable!("one that was moved is gone"),
        }
    }
}

impl Drop for UpstreamConn {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            socket::keep_no_port(stream);
        }
    }
}
