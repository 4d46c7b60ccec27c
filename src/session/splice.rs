//! Bodies that go from socket to socket, past the session: it only counts their bytes.
//!
//! Only a body that leaves as it comes can do that, so a chunked one never does. An engine may
//! decline; then the body goes through the buffers like any other. Not here: how bytes get from one
//! socket to another (`engine/pipe.rs`).

use std::time::Instant;

use super::exchange::{RequestLeg, ResponseLeg};
use super::{Link, Session, Side};
use crate::http1::body::Transfer;

/// Bytes that must be left of a body for this to be worth its system calls.
const LEAST: u64 = 32 * 1024;

/// Bytes that may go past the session, and those that are on their way past it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice {
    /// Where they go.
    pub to: Side,
    /// Bytes that may still be taken from the other side; 0 if what was taken has only to arrive.
    pub most: u64,
}

/// How the bytes of a body go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyPath {
    /// Through the buffers.
    Copy,
    /// Past the session as soon as what was read of it has left the input.
    Flush,
    /// Past the session.
    Splice(Splice),
}

impl Session {
    /// How the body toward `to` goes on.
    pub(super) fn course(&self, to: Side) -> BodyPath {
        let port = self.conn(to);
        if port.write_closed || (to == Side::Upstream && !matches!(self.link, Link::Open { .. })) {
            return BodyPath::Copy;
        }
        let left = self.body_toward(to).and_then(Transfer::left_as_it_comes).unwrap_or(0);
        let is_next = self.conn(to.other()).input.is_empty();
        if port.in_pipe > 0 {
            BodyPath::Splice(Splice { to, most: if is_next { left } else { 0 } })
        } else if left < LEAST || port.output.can_retain_more() {
            BodyPath::Copy
        } else if is_next {
            BodyPath::Splice(Splice { to, most: left })
        } else {
            BodyPath::Flush
        }
    }

    /// The first `n` bytes of `output` go ahead of those that are taken.
    pub fn staged(&mut self, to: Side, n: usize) {
        let port = self.conn_mut(to);
        port.output.end_retain();
        port.output.consume(n);
        port.in_pipe += n;
        if let (Side::Client, Some(exchange)) = (to, &mut self.exchange) {
            exchange.sent_to_client += n as u64;
        }
    }

    /// `n` bytes of a body were taken from `from`, past the session; 0 is the end.
    pub fn spliced_in(&mut self, from: Side, n: usize, now: Instant) {
        if n == 0 {
            self.conn_mut(from).ended = true;
            return;
        }
        self.moved = now;
        let to = self.conn_mut(from.other());
        to.in_pipe += n;
        to.output.end_retain();
        let transfer = match (from, &mut self.request_leg, &mut self.response_leg) {
            (Side::Client, RequestLeg::Body(transfer), _) => transfer,
            (Side::Upstream, _, ResponseLeg::Body(transfer)) => transfer,
            _ => return,
        };
        transfer.went_past(n);
        if from == Side::Client {
            self.client_sent = now;
            self.exchange.iter_mut().for_each(|exchange| exchange.awaits_continue = false);
        }
    }

    /// `to` took `n` of the bytes that are on their way past the session.
    pub fn spliced_out(&mut self, to: Side, n: usize, now: Instant) {
        self.moved = now;
        let port = self.conn_mut(to);
        port.in_pipe = port.in_pipe.saturating_sub(n);
        if let (Side::Upstream, Some(exchange)) = (to, &mut self.exchange) {
            exchange.wrote |= n > 0;
        }
    }

    fn body_toward(&self, to: Side) -> Option<&Transfer> {
        match (to, &self.request_leg, &self.response_leg) {
            (Side::Upstream, RequestLeg::Body(transfer), _) => Some(transfer),
            (Side::Client, _, ResponseLeg::Body(transfer)) => Some(transfer),
            _ => None,
        }
    }
}
