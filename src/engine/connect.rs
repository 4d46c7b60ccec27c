//! Opens a TCP connection to an upstream: which address is tried next, and how connecting ended. Used
//! for traffic and for probes.
//!
//! Not here: connections that are open already (`pool.rs`), how to wait for one (the engines).

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::shortage;
use crate::upstream::Upstream;

/// The addresses of an upstream that one connect tries, each once.
pub struct AddressAttempts {
    upstream: Arc<Upstream>,
    addresses: Arc<[SocketAddr]>,
    first: usize,
    tried: usize,
    /// The kind of the last error that was the upstream's or the network's.
    remote: Option<ErrorKind>,
    /// The last shortage of this machine.
    shortage: Option<io::Error>,
}

impl AddressAttempts {
    /// Begins behind the address that failed last.
    pub fn new(upstream: Arc<Upstream>) -> Self {
        AddressAttempts {
            addresses: upstream.addresses(),
            first: upstream.first_address(),
            upstream,
            tried: 0,
            remote: None,
            shortage: None,
        }
    }

    /// The upstream that is connected to.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The next address, until each was tried.
    pub fn next_address(&mut self) -> Option<SocketAddr> {
        if self.left() == 0 {
            return None;
        }
        self.tried += 1;
        Some(self.addresses[self.index()])
    }

    /// How many addresses are left.
    pub fn left(&self) -> usize {
        self.addresses.len() - self.tried
    }

    /// Records why the address that was tried last failed. Returns the error if it is a shortage of
    /// this machine.
    pub fn failed(&mut self, error: io::Error) -> Option<&io::Error> {
        if shortage::is_own(&error) {
            self.shortage = Some(error);
            return self.shortage.as_ref();
        }
        self.remote = Some(error.kind());
        None
    }

    /// Makes the next connect begin behind the address that was tried last.
    pub fn skip_last(&self) {
        self.upstream.skip_address(self.index());
    }

    /// The kind of the last error that was the upstream's or the network's.
    pub fn remote_error(&self) -> Option<ErrorKind> {
        self.remote
    }

    /// The last shortage of this machine.
    pub fn shortage(&mut self) -> Option<io::Error> {
        self.shortage.take()
    }

    /// The index of the address that was tried last.
    fn index(&self) -> usize {
        self.first.wrapping_add(self.tried.saturating_sub(1)) % self.addresses.len().max(1)
    }
}

/// Begins to connect a non-blocking socket. Also says whether it is connected already.
pub fn begin(to: SocketAddr) -> io::Result<(TcpStream, bool)> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    match rustix::net::connect(&fd, &to) {
        Ok(()) => Ok((TcpStream::from(fd), true)),
        Err(Errno::INPROGRESS | Errno::INTR) => Ok((TcpStream::from(fd), false)),
        Err(error) => Err(error.into()),
    }
}

/// How connecting ended; `None` if it has not. A wake-up alone does not tell.
pub fn result(socket: &impl AsFd) -> Option<io::Result<()>> {
    match sockopt::socket_error(socket) {
        Ok(Ok(())) => rustix::net::getpeername(socket).is_ok().then_some(Ok(())),
        Ok(Err(errno)) | Err(errno) => Some(Err(errno.into())),
    }
}
