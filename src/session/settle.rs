//! The rules that join the two legs.
//!
//! | request      | response | event                       | then                                                      |
//! |--------------|----------|-----------------------------|-----------------------------------------------------------|
//! | Head         | Idle     | the client ends, no bytes   | close silently                                            |
//! | Head         | Idle     | the client ends within it   | 400                                                       |
//! | any          | Head     | 1xx, not 101                | forward it (drop it for HTTP/1.0); stay                   |
//! | Done         | Head     | 101, and it was asked for   | both legs Tunnel; the upstream is never pooled            |
//! | any          | Head     | 101 otherwise               | 502                                                       |
//! | Body         | Head     | final head                  | forward it and keep relaying both ways                    |
//! | Body         | Head     | the upstream stops reading  | wait for its response; then Cut                           |
//! | Body         | Head     | the client stalls, the upstream ends | 408, and no upstream is blamed                   |
//! | any          | Head     | the upstream ends or fails  | `retry::decide`                                           |
//! | any          | Body     | the upstream ends too soon  | abort: no clean end                                       |
//! | Body         | Done     | the answer was the upstream's | Cut; drop the upstream; linger, then close              |
//! | Body         | Done     | the answer was ours, short  | read the rest and drop it; then as Done                   |
//! | Done         | Done     | the output is out           | report; the client is idle if it persists, else close     |
//! | Body         | any      | the client ends             | drop the upstream; record "client gone"                   |
//! | any          | any      | the client fails            | drop the upstream; record "client gone"                   |
//! | Tunnel       | Tunnel   | one side ends               | flush, half-close the other; both ended: close            |
//!
//! A client that ends its sending direction after a whole request has only half-closed: it gets
//! its answer.

use std::time::Instant;

use super::exchange::{Exchange, RequestLeg, ResponseLeg};
use super::{End, Link, Phase, Session};
use crate::message::Framing;

impl Session {
    /// Takes one step if one can be taken. Returns whether anything has changed.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Closed { .. } => false,
            Phase::Open if self.client.failed => {
                self.client_gone(now);
                true
            }
            Phase::Open => self.settle_open(now),
            _ if self.client.failed => {
                self.phase = Phase::Closed { abort: true };
                true
            }
            Phase::Last(end) => self.settle_last(end),
            Phase::Lingering => {
                let discarded = self.client.input.len();
                self.client.input.consume(discarded);
                if self.client.ended {
                    self.phase = Phase::Closed { abort: false };
                }
                self.client.ended
            }
        }
    }

    fn settle_open(&mut self, now: Instant) -> bool {
        match self.request_leg {
            RequestLeg::Head => return self.read_request(now),
            RequestLeg::Tunnel => return self.relay_tunnel(now),
            RequestLeg::Body(_) | RequestLeg::Done | RequestLeg::Cut => (),
        }
        let relayed = self.relay_request(now);
        let moved_in = self.settle_queue(now) | self.settle_buffering(relayed, now) | relayed;
        if self.phase != Phase::Open {
            return true;
        }
        let moved_out = self.read_response(now);
        if self.phase != Phase::Open {
            return true;
        }
        self.settle_done(now) || moved_in || moved_out
    }

    /// The response is whole, as far as the upstream is concerned.
    fn settle_done(&mut self, now: Instant) -> bool {
        let ResponseLeg::Done = self.response_leg else { return false };
        let mut changed = false;
        if self.link != Link::None {
            self.release = Some(self.is_upstream_reusable(now));
            self.link = Link::None;
            self.exchange.iter_mut().for_each(Exchange::give_capacity);
            changed = true;
        }
        if matches!(self.request_leg, RequestLeg::Body(_)) && !self.request_leg.is_discarding() {
            self.request_leg = RequestLeg::Cut;
            changed = true;
        }
        let is_reading = matches!(self.request_leg, RequestLeg::Body(_));
        if self.client.is_flushed() && !is_reading {
            self.finish(now);
            changed = true;
        }
        changed
    }

    /// Whether the connection to the client is ended as soon as its output is out.
    pub(super) fn is_last_output(&self) -> bool {
        matches!(self.response_leg, ResponseLeg::Done)
            && matches!(self.request_leg, RequestLeg::Done | RequestLeg::Cut)
            && self.exchange.as_ref().is_some_and(|exchange| !exchange.persists)
    }

    fn is_upstream_reusable(&self, now: Instant) -> bool {
        let Some(Exchange { response: Some(response), choice: Some(choice), .. }) = &self.exchange
        else {
            return false;
        };
        if !self.upstream.input.is_empty() {
            choice.upstream().disable_reuse(now);
        }
        response.keep_alive
            && response.framing != Framing::UntilClose
            && choice.upstream().may_reuse(now)
            && matches!(self.request_leg, RequestLeg::Done)
            && self.upstream.is_flushed()
            && !(self.upstream.ended || self.upstream.failed || self.upstream.write_closed)
    }

    fn settle_last(&mut self, end: End) -> bool {
        if !self.client.is_flushed() {
            return false;
        }
        self.phase = match end {
            End::Abort => Phase::Closed { abort: true },
            End::Linger if !self.client.ended => {
                self.client.half_close();
                Phase::Lingering
            }
            End::Linger | End::Orderly => Phase::Closed { abort: false },
        };
        true
    }
}
