//! One probe on its way: a socket that never blocks, and how far it has come.
//!
//! Not here: waiting (`mod.rs`), what an answer means (`probe.rs`).

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::PollFlags;

use super::probe;
use super::probe::{Answer, Answered, ProbeOutcome};
use crate::config::Config;
use crate::engine::connect;
use crate::engine::connect::AddressAttempts;
use crate::engine::socket;
use crate::message::BadResponse;
use crate::shortage;
use crate::upstream::{Upstream, UpstreamId};

/// What is read at once, in bytes.
const READ_SIZE: usize = 1024;

/// A probe that has not ended. When it is dropped, its connection is reset if the upstream has not
/// ended it.
pub struct ProbeConn {
    /// Once connected to an address, the probe stays with it: so do real requests.
    attempts: AddressAttempts,
    deadline: Instant,
    /// Whether connecting to one of the addresses took too long.
    is_late: bool,
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

impl ProbeConn {
    /// Begins to connect. It may already be known that it fails.
    pub fn launch(
        upstream: &Arc<Upstream>,
        config: &Config,
        now: Instant,
    ) -> Result<Self, ProbeOutcome> {
        let mut attempts = AddressAttempts::new(upstream.clone());
        let deadline = now + config.health.probe_timeout();
        let (stream, until) = next_connect(&mut attempts, deadline, now)
            .ok_or_else(|| no_connection(&mut attempts, false))?;
        Ok(ProbeConn {
            attempts,
            deadline,
            is_late: false,
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
        self.attempts.upstream().id()
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
            Stage::Talking { .. } => self.deadline,
        }
    }

    /// Does what can be done without waiting. Returns how it ended, if it did.
    pub fn advance(&mut self, now: Instant) -> Option<ProbeOutcome> {
        if let Stage::Connecting { until } = self.stage {
            match connect::result(&self.stream) {
                Some(Ok(())) => self.stage = Stage::Talking { sent: 0 },
                None if now < until => return None,
                None => {
                    self.is_late = true;
                    return self.connect_next(now);
                }
                // It was connected, and lost before we looked.
                Some(Err(error)) if is_loss(&error) => return Some(ProbeOutcome::Closed),
                Some(Err(error)) => {
                    self.attempts.failed(error);
                    return self.connect_next(now);
                }
            }
        }
        let outcome = self.talk();
        let is_late = now >= self.deadline;
        outcome.or_else(|| is_late.then_some(ProbeOutcome::Late))
    }

    fn connect_next(&mut self, now: Instant) -> Option<ProbeOutcome> {
        let Some((stream, until)) = next_connect(&mut self.attempts, self.deadline, now) else {
            return Some(no_connection(&mut self.attempts, self.is_late));
        };
        // The one before may have come about just now.
        socket::keep_no_port(&self.stream);
        self.stream = stream;
        self.stage = Stage::Connecting { until };
        None
    }

    fn talk(&mut self) -> Option<ProbeOutcome> {
        // What comes before the request is no answer to it (rule 29).
        if let Stage::Talking { sent: 0 } = self.stage
            && let Ok(1..) = (&self.stream).read(&mut [0])
        {
            return Some(ProbeOutcome::Malformed(BadResponse::SPOKE_FIRST.0));
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
                Ok(0) => return Some(ProbeOutcome::Closed),
                Ok(count) => count,
                Err(error) if is_not_now(&error) => return None,
                Err(error) if shortage::is_own(&error) => {
                    return Some(ProbeOutcome::OwnShortage(error));
                }
                Err(_) => return Some(ProbeOutcome::Closed),
            };
            match self.answer.take(&piece[..count]) {
                Answered::More => {}
                Answered::Status(status) => return Some(ProbeOutcome::Status(status)),
                Answered::Malformed(why) => return Some(ProbeOutcome::Malformed(why)),
            }
        }
    }
}

impl Drop for ProbeConn {
    fn drop(&mut self) {
        socket::keep_no_port(&self.stream);
    }
}

/// Begins to connect to the next address, which gets an equal share of the time that is left. `None`:
/// no address or no time is left.
fn next_connect(
    attempts: &mut AddressAttempts,
    deadline: Instant,
    now: Instant,
) -> Option<(TcpStream, Instant)> {
    if now >= deadline {
        return None;
    }
    loop {
        let share = (deadline - now).div_f64(attempts.left().max(1) as f64);
        match connect::begin(attempts.next_address()?) {
            Ok((stream, _)) => return Some((stream, now + share)),
            Err(error) => drop(attempts.failed(error)),
        }
    }
}

/// What it means that no address could be connected to. With a shortage of this machine, it says
/// nothing about the upstream.
fn no_connection(attempts: &mut AddressAttempts, is_late: bool) -> ProbeOutcome {
    let of_upstream =
        if is_late { ProbeOutcome::ConnectTimedOut } else { ProbeOutcome::NoConnection };
    attempts.shortage().map_or(of_upstream, ProbeOutcome::OwnShortage)
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn is_loss(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
