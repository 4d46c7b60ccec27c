//! One probe on its way: a socket that never blocks, and how far it has come.
//!
//! Not here: waiting (`mod.rs`), what an answer means (`probe.rs`).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::probe::{self, Answer, Answered, Outcome};
use crate::config::Config;
use crate::engine::wire;
use crate::http1::BadResponse;
use crate::shortage;
use crate::upstream::{Upstream, UpstreamId};

/// What is read at once, in bytes.
const READ_SIZE: usize = 1024;

/// A probe that has not ended. When it is dropped, its connection is reset if the upstream has not
/// ended it.
pub struct Flight {
    upstream: UpstreamId,
    walk: Walk,
    stream: TcpStream,
    stage: Stage,
    request: Vec<u8>,
    answer: Answer,
}

enum Stage {
    /// Until then; later the next address has its turn.
    Connecting { until: Instant },
    /// So many bytes of the request are sent.
    Talking { sent: usize },
}

impl Flight {
    /// Begins to connect. It may already be known that it fails.
    pub fn launch(upstream: &Upstream, config: &Config, now: Instant) -> Result<Self, Outcome> {
        let mut walk = Walk {
            addresses: upstream.addresses(),
            first: upstream.first_address(),
            tried: 0,
            deadline: now + config.health.probe_timeout(),
            shortage: None,
            is_late: false,
        };
        let (stream, until) = walk.connect_next(now)?;
        Ok(Flight {
            upstream: upstream.id(),
            walk,
            stream,
            stage: Stage::Connecting { until },
            request: probe::request(
                config.health.host.as_deref().unwrap_or(upstream.name()),
                &config.health.path,
            ),
            answer: Answer::new(config.limits.of_response_head()),
        })
    }

    /// Whom it probes.
    pub fn upstream(&self) -> UpstreamId {
        self.upstream
    }

    /// The socket it waits for, and what for.
    pub fn waits_for(&self) -> (&TcpStream, PollFlags) {
        let flags = match self.stage {
            Stage::Connecting { .. } => PollFlags::OUT,
            Stage::Talking { sent } if sent < self.request.len() => PollFlags::IN | PollFlags::OUT,
            Stage::Talking { .. } => PollFlags::IN,
        };
        (&self.stream, flags)
    }

    /// When it is to be advanced even if its socket is not ready.
    pub fn due(&self) -> Instant {
        match self.stage {
            Stage::Connecting { until } => until,
            Stage::Talking { .. } => self.walk.deadline,
        }
    }

    /// Does what can be done without waiting. Returns how it ended, if it did.
    pub fn advance(&mut self, now: Instant) -> Option<Outcome> {
        if let Stage::Connecting { until } = self.stage {
            match is_connected(&self.stream) {
                Ok(true) => self.stage = Stage::Talking { sent: 0 },
                Ok(false) if now < until => return None,
                Ok(false) => {
                    self.walk.is_late = true;
                    return self.connect_next(now);
                }
                // It was connected, and lost before we looked.
                Err(error) if is_loss(&error) => return Some(Outcome::Closed),
                Err(error) => {
                    self.walk.note(error);
                    return self.connect_next(now);
                }
            }
        }
        let outcome = self.talk();
        let is_late = now >= self.walk.deadline;
        outcome.or_else(|| is_late.then_some(Outcome::Late))
    }

    fn connect_next(&mut self, now: Instant) -> Option<Outcome> {
        match self.walk.connect_next(now) {
            Ok((stream, until)) => {
                // The one before may have come about just now.
                wire::keep_no_port(&self.stream);
                self.stream = stream;
                self.stage = Stage::Connecting { until };
                None
            }
            Err(outcome) => Some(outcome),
        }
    }

    fn talk(&mut self) -> Option<Outcome> {
        // What comes before the request is no answer to it (rule 29).
        if let Stage::Talking { sent: 0 } = self.stage
            && let Ok(1..) = (&self.stream).read(&mut [0])
        {
            return Some(Outcome::Malformed(BadResponse::SPOKE_FIRST.0));
        }
        if let Stage::Talking { sent } = &mut self.stage
            && *sent < self.request.len()
        {
            match (&self.stream).write(&self.request[*sent..]) {
                Ok(count) => *sent += count,
                Err(error) if is_not_now(&error) => {}
                // It may have answered before it closed: what can be read decides.
                Err(_) => *sent = self.request.len(),
            }
        }
        let mut piece = [0; READ_SIZE];
        // Ends, since the answer takes only so many bytes.
        loop {
            let count = match (&self.stream).read(&mut piece) {
                Ok(0) => return Some(Outcome::Closed),
                Ok(count) => count,
                Err(error) if is_not_now(&error) => return None,
                Err(error) if shortage::is_own(&error) => return Some(Outcome::OwnShortage(error)),
                Err(_) => return Some(Outcome::Closed),
            };
            match self.answer.take(&piece[..count]) {
                Answered::More => {}
                Answered::Status(status) => return Some(Outcome::Status(status)),
                Answered::Malformed(why) => return Some(Outcome::Malformed(why)),
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        wire::keep_no_port(&self.stream);
    }
}

/// The addresses of an upstream, one after the other, until one can be connected to. Once connected
/// it stays: so do real requests.
struct Walk {
    addresses: Arc<[SocketAddr]>,
    first: usize,
    tried: usize,
    deadline: Instant,
    /// The last shortage of our own; with it, failing everywhere says nothing about the upstream.
    shortage: Option<io::Error>,
    /// Whether connecting to one of them took too long.
    is_late: bool,
}

impl Walk {
    /// Begins to connect to the next address, which gets an equal share of the time that is left.
    fn connect_next(&mut self, now: Instant) -> Result<(TcpStream, Instant), Outcome> {
        while self.tried < self.addresses.len() && now < self.deadline {
            let index = self.first.wrapping_add(self.tried) % self.addresses.len();
            let share = (self.deadline - now).div_f64((self.addresses.len() - self.tried) as f64);
            self.tried += 1;
            match begin_connect(self.addresses[index]) {
                Ok(stream) => return Ok((stream, now + share)),
                Err(error) => self.note(error),
            }
        }
        let of_upstream =
            if self.is_late { Outcome::ConnectTimedOut } else { Outcome::NoConnection };
        Err(self.shortage.take().map_or(of_upstream, Outcome::OwnShortage))
    }

    fn note(&mut self, error: io::Error) {
        if shortage::is_own(&error) {
            self.shortage = Some(error);
        }
    }
}

fn begin_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    match socket.connect(&address.into()) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Whether connecting has succeeded; `false` is not yet. A wake-up alone does not tell.
fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn is_loss(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
