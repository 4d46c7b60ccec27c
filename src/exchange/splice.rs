//! Bodies that go from socket to socket, past the session: it only counts their bytes.
//!
//! Only a body that leaves as it comes can do that, so a chunked one never does. An engine may
//! decline; then the body goes through the buffers like any other. Not here: how bytes get from one
//! socket to another (`engine/pipe.rs`).

use super::{ConnState, Exchange, Link, RequestLeg, ResponseLeg, Side};
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
pub(crate) enum BodyPath {
    /// Through the buffers.
    Copy,
    /// Past the session as soon as what was read of it has left the input.
    Flush,
    /// Past the session.
    Splice(Splice),
}

impl Exchange {
    /// How the body toward `to` goes on.
    pub(crate) fn body_path(&self, client: &ConnState, to: Side) -> BodyPath {
        let (conn, from) = match to {
            Side::Client => (client, &self.upstream),
            Side::Upstream => (&self.upstream, client),
        };
        if conn.write_closed || (to == Side::Upstream && !matches!(self.link, Link::Open { .. })) {
            return BodyPath::Copy;
        }
        let left = self.body_toward(to).and_then(Transfer::left_as_it_comes).unwrap_or(0);
        let is_next = from.input.is_empty();
        if conn.in_pipe > 0 {
            BodyPath::Splice(Splice { to, most: if is_next { left } else { 0 } })
        } else if left < LEAST || conn.output.can_retain_more() {
            BodyPath::Copy
        } else if is_next {
            BodyPath::Splice(Splice { to, most: left })
        } else {
            BodyPath::Flush
        }
    }

    /// `n` bytes of a body were taken from `from`, past the session.
    pub(crate) fn spliced_in(&mut self, from: Side, n: usize) {
        let transfer = match (from, &mut self.request_leg, &mut self.response_leg) {
            (Side::Client, RequestLeg::Body(transfer), _) => transfer,
            (Side::Upstream, _, ResponseLeg::Body(transfer)) => transfer,
            _ => return,
        };
        transfer.went_past(n);
        self.awaits_continue &= from != Side::Client;
    }

    fn body_toward(&self, to: Side) -> Option<&Transfer> {
        match (to, &self.request_leg, &self.response_leg) {
            (Side::Upstream, RequestLeg::Body(transfer), _) => Some(transfer),
            (Side::Client, _, ResponseLeg::Body(transfer)) => Some(transfer),
            _ => None,
        }
    }
}
