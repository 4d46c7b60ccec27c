//! The rules that join the two legs.
//!
//! | request      | response | event                       | then                                                      |
//! |--------------|----------|-----------------------------|-----------------------------------------------------------|
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

use super::{ClientSide, Exchange, Link, RequestLeg, ResponseLeg};
use crate::message::Framing;

impl Exchange {
    /// Takes one step if one can be taken. Returns whether anything has changed; `ending` says
    /// whether the exchange is over.
    pub(crate) fn advance(&mut self, client: &mut ClientSide<'_>, now: Instant) -> bool {
        if let RequestLeg::Tunnel = self.request_leg {
            return self.relay_tunnel(client);
        }
        let relayed = self.relay_request(client);
        let moved_in =
            self.settle_queue(client, now) | self.settle_buffering(client, relayed, now) | relayed;
        if self.ending.is_some() {
            return true;
        }
        let moved_out = self.read_response(client, now);
        if self.ending.is_some() {
            return true;
        }
        self.settle_done(client, now) || moved_in || moved_out
    }

    /// The response is whole, as far as the upstream is concerned.
    fn settle_done(&mut self, client: &mut ClientSide<'_>, now: Instant) -> bool {
        let ResponseLeg::Done = self.response_leg else { return false };
        let mut changed = false;
        if self.link != Link::None {
            client.orders.release = Some(self.is_upstream_reusable(now));
            self.link = Link::None;
            self.give_capacity();
            changed = true;
        }
        if matches!(self.request_leg, RequestLeg::Body(_)) && !self.request_leg.is_discarding() {
            self.request_leg = RequestLeg::Cut;
            changed = true;
        }
        let is_reading = matches!(self.request_leg, RequestLeg::Body(_));
        if client.conn.is_flushed() && !is_reading {
            self.finish(client);
            changed = true;
        }
        changed
    }

    /// Whether the connection to the client is ended as soon as its output is out.
    pub(crate) fn is_last_output(&self) -> bool {
        matches!(self.response_leg, ResponseLeg::Done)
            && matches!(self.request_leg, RequestLeg::Done | RequestLeg::Cut)
            && !self.persists
    }

    fn is_upstream_reusable(&self, now: Instant) -> bool {
        let (Some(response), Some(choice)) = (&self.response, &self.attempt.choice) else {
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
}
