//! Our own answers, and the ways in which an exchange ends.

use std::time::Instant;

use super::exchange::{RequestLeg, ResponseLeg};
use super::{End, ExchangeOutcome, Link, Phase, Record, Session};
use crate::http1::body::{Encoder, Transfer};
use crate::http1::rewrite;
use crate::http1::rewrite::Answer;
use crate::message::{Method, Reject};

/// Bytes of a refused request's body that are read to keep the connection (rule 9).
pub(super) const DISCARD: u64 = 64 * 1024;

impl Session {
    /// Answers without an upstream. The connection stays usable if the request was well framed, and
    /// its body was read, or was refused before any of it went on and is short enough to be
    /// dropped.
    pub(super) fn answer(&mut self, reject: Reject, retry_after: Option<u64>) {
        self.drop_link();
        self.upstream.clear();
        // A place that others wait for is not kept by one that asks for what no upstream is needed for.
        let ends =
            self.state.is_stopping() || self.state.is_crowded() && self.client.input.is_empty();
        let Some(exchange) = &mut self.exchange else { return };
        let body_is_short = match &self.request_leg {
            RequestLeg::Done => true,
            RequestLeg::Body(transfer) => {
                exchange.attempts == 0
                    && !exchange.awaits_continue
                    && transfer.decoder.left().is_none_or(|n| n <= DISCARD)
            }
            RequestLeg::Head | RequestLeg::Cut | RequestLeg::Tunnel => false,
        };
        exchange.persists =
            reject.is_well_framed() && exchange.request.keep_alive && body_is_short && !ends;
        exchange.give_capacity();
        exchange.status = reject.status;
        exchange.why = reject.why;
        exchange.sent_to_client = 0;
        let answer = Answer {
            status: reject.status,
            why: reject.why,
            retry_after,
            is_head: exchange.request.method == Method::Head,
            persists: exchange.persists,
            version: exchange.request.version,
        };
        rewrite::answer(&answer, &mut self.client.output);
        self.response_leg = ResponseLeg::Done;
        self.request_leg = match self.request_leg {
            RequestLeg::Done => RequestLeg::Done,
            RequestLeg::Body(transfer) if exchange.persists => {
                RequestLeg::Body(Transfer::new(transfer.decoder, Encoder::Nowhere))
            }
            _ => RequestLeg::Cut,
        };
    }

    /// Detaches the upstream connection for good, or withdraws the connect.
    pub(super) fn drop_link(&mut self) {
        match self.link {
            Link::Queued => self.leave_queue(),
            Link::Buffering => self.link = Link::None,
            _ => (),
        }
        if self.link != Link::None {
            self.link = Link::None;
            self.release = Some(false);
            self.connect = None;
        }
    }

    /// The client has all of the answer.
    pub(super) fn finish(&mut self, now: Instant) {
        let Some(exchange) = &self.exchange else { return };
        let persists = exchange.persists && matches!(self.request_leg, RequestLeg::Done);
        let may_send_more = exchange.request.keep_alive
            || matches!(self.request_leg, RequestLeg::Cut)
            || !self.client.input.is_empty();
        self.sends_long_bodies = exchange.request_bytes > self.state.config.limits.head as u64;
        self.record(ExchangeOutcome::Finished, "", now);
        self.upstream.clear();
        self.request_leg = RequestLeg::Head;
        self.response_leg = ResponseLeg::Idle;
        self.search = Default::default();
        if !persists {
            self.phase = Phase::Last(if may_send_more { End::Linger } else { End::Orderly });
        }
    }

    /// The client has a part of the answer, and will never have the rest.
    pub(super) fn abort(&mut self, why: &'static str, now: Instant) {
        self.drop_link();
        self.upstream.clear();
        self.record(ExchangeOutcome::Aborted, why, now);
        self.response_leg = ResponseLeg::Idle;
        self.request_leg = RequestLeg::Cut;
        self.phase = Phase::Last(End::Abort);
    }

    /// The client is gone.
    pub(super) fn client_gone(&mut self, now: Instant) {
        self.drop_link();
        self.record(ExchangeOutcome::ClientGone, "the client left", now);
        self.phase = Phase::Closed { abort: true };
    }

    /// Ends both directions of a tunnel.
    pub(super) fn end_tunnel(&mut self, why: &'static str, now: Instant) {
        self.drop_link();
        self.record(ExchangeOutcome::Finished, why, now);
        self.phase = Phase::Closed { abort: false };
    }

    /// Writes down how the exchange ended, if there is one.
    fn record(&mut self, outcome: ExchangeOutcome, why: &'static str, now: Instant) {
        let Some(exchange) = self.exchange.take() else { return };
        let counters = &self.state.counters;
        let is_own = exchange.response.is_none() && exchange.status != 101;
        match outcome {
            ExchangeOutcome::Finished => counters.count_answer(exchange.status, is_own),
            ExchangeOutcome::Aborted => counters.aborted.add_one(),
            ExchangeOutcome::ClientGone => counters.client_gone.add_one(),
        }
        let bytes_of_leg = |leg: &RequestLeg| match leg {
            RequestLeg::Body(transfer) => transfer.bytes,
            _ => exchange.request_bytes,
        };
        let why = if why.is_empty() { exchange.why } else { why };
        let upstream = exchange.choice.as_ref().map(|c| c.upstream().clone()).or(exchange.done_by);
        let is_error = match outcome {
            ExchangeOutcome::Finished => is_own && matches!(exchange.status, 502..=504),
            ExchangeOutcome::Aborted => true,
            ExchangeOutcome::ClientGone => false,
        };
        if is_error {
            let is_aborted = outcome == ExchangeOutcome::Aborted;
            self.state.errors.count(upstream.as_ref(), exchange.status, is_aborted, why, now);
        }
        self.report = Some(Record {
            client: exchange.client,
            outcome,
            status: if exchange.status == 0 { 499 } else { exchange.status },
            why,
            upstream,
            attempts: exchange.attempts,
            request_bytes: bytes_of_leg(&self.request_leg),
            response_bytes: match &self.response_leg {
                ResponseLeg::Body(transfer) => transfer.bytes,
                _ => exchange.response_bytes,
            },
            took: now.saturating_duration_since(exchange.started),
        });
    }
}
