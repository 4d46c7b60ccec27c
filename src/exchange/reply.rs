//! The balancer's own answers, and the ways in which an exchange ends.

use std::time::Instant;

use super::record::{ExchangeOutcome, Record};
use super::{ClientSide, Ending, Exchange, RequestLeg, ResponseLeg, StreamEnd};
use crate::http1::body::{Encoder, Transfer};
use crate::http1::rewrite::{self, Answer};
use crate::message::{Method, Reply};
use crate::state::ProxyState;

/// Bytes of a rejected request's body that are read to keep the connection (rule 9).
pub(super) const DISCARD: u64 = 64 * 1024;

impl Exchange {
    /// Answers without an upstream. The connection stays usable if the request was well framed, and
    /// its body was read, or was rejected before any of it went on and is short enough to be
    /// dropped.
    pub(crate) fn answer(&mut self, client: &mut ClientSide<'_>, reply: Reply) {
        self.drop_link(client);
        self.upstream.clear();
        // A request that needs no upstream does not keep a place that other clients wait for.
        let ends =
            client.state.is_stopping() || client.state.is_crowded() && client.conn.input.is_empty();
        let body_is_short = match &self.request_leg {
            RequestLeg::Done => true,
            RequestLeg::Body(transfer) => {
                self.attempts == 0
                    && !self.awaits_continue
                    && transfer.decoder.left().is_none_or(|n| n <= DISCARD)
            }
            RequestLeg::Cut | RequestLeg::Tunnel => false,
        };
        self.persists = !reply.close && self.request.keep_alive && body_is_short && !ends;
        self.give_capacity();
        self.status = reply.status;
        self.why = reply.why;
        self.sent_to_client = 0;
        let answer = Answer {
            reply,
            is_head: self.request.method == Method::Head,
            persists: self.persists,
            version: self.request.version,
        };
        rewrite::answer(&answer, &mut client.conn.output);
        self.response_leg = ResponseLeg::Done;
        self.request_leg = match self.request_leg {
            RequestLeg::Done => RequestLeg::Done,
            RequestLeg::Body(transfer) if self.persists => {
                RequestLeg::Body(Transfer::new(transfer.decoder, Encoder::Nowhere))
            }
            _ => RequestLeg::Cut,
        };
    }

    /// The client has all of the answer.
    pub(super) fn finish(&mut self, client: &ClientSide<'_>) {
        let may_send_more = self.request.keep_alive
            || matches!(self.request_leg, RequestLeg::Cut)
            || !client.conn.input.is_empty();
        let stream = if self.persists && matches!(self.request_leg, RequestLeg::Done) {
            StreamEnd::Keep
        } else if may_send_more {
            StreamEnd::Linger
        } else {
            StreamEnd::CloseAfterOutput
        };
        self.ending = Some(Ending { outcome: ExchangeOutcome::Finished, why: "", stream });
    }

    /// The client has a part of the answer, and will never have the rest.
    pub(crate) fn abort(&mut self, client: &mut ClientSide<'_>, why: &'static str) {
        self.drop_link(client);
        let stream = StreamEnd::ResetAfterOutput;
        self.ending = Some(Ending { outcome: ExchangeOutcome::Aborted, why, stream });
    }

    /// The client is gone.
    pub(crate) fn client_gone(&mut self, client: &mut ClientSide<'_>) {
        self.drop_link(client);
        let outcome = ExchangeOutcome::ClientGone;
        let why = "the client left";
        self.ending = Some(Ending { outcome, why, stream: StreamEnd::Reset });
    }

    /// Ends both directions of a tunnel.
    pub(super) fn end_tunnel(&mut self, client: &mut ClientSide<'_>, why: &'static str) {
        self.drop_link(client);
        let outcome = ExchangeOutcome::Finished;
        self.ending = Some(Ending { outcome, why, stream: StreamEnd::Close });
    }

    /// Counts how the exchange ended, and makes the record of it.
    pub(crate) fn into_record(self, ending: Ending, state: &ProxyState, now: Instant) -> Record {
        let Ending { outcome, why, .. } = ending;
        let counters = &state.counters;
        let is_own = self.response.is_none() && self.status != 101;
        match outcome {
            ExchangeOutcome::Finished => counters.count_answer(self.status, is_own),
            ExchangeOutcome::Aborted => counters.aborted.add_one(),
            ExchangeOutcome::ClientGone => counters.client_gone.add_one(),
        }
        let why = if why.is_empty() { self.why } else { why };
        let choice = self.attempt.choice.as_ref();
        let upstream = choice.map(|choice| choice.upstream().clone()).or(self.done_by);
        let is_error = match outcome {
            ExchangeOutcome::Finished => is_own && matches!(self.status, 502..=504),
            ExchangeOutcome::Aborted => true,
            ExchangeOutcome::ClientGone => false,
        };
        if is_error {
            let is_aborted = outcome == ExchangeOutcome::Aborted;
            state.errors.count(upstream.as_ref(), self.status, is_aborted, why, now);
        }
        Record {
            client: self.client,
            outcome,
            status: if self.status == 0 { 499 } else { self.status },
            why,
            upstream,
            attempts: self.attempts,
            request_bytes: match &self.request_leg {
                RequestLeg::Body(transfer) => transfer.bytes,
                _ => self.request_bytes,
            },
            response_bytes: match &self.response_leg {
                ResponseLeg::Body(transfer) => transfer.bytes,
                _ => self.response_bytes,
            },
            took: now.saturating_duration_since(self.started),
        }
    }
}
