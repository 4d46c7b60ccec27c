//! The way back: a response's head and body, interim responses, and the turn into a tunnel.

use std::time::Instant;

use super::retry::Failure;
use super::{ClientSide, Exchange, FIRST_READ, Link, RequestLeg, ResponseLeg};
use crate::buffer::Buffer;
use crate::http1::body::{Decoder, Encoder, Flow, Transfer};
use crate::http1::head;
use crate::http1::head::{HeadLimits, ResponseHead, Search};
use crate::http1::rewrite;
use crate::http1::rewrite::{ResponseRules, TrailerRules};
use crate::message::fields::Name;
use crate::message::{BadBody, BadResponse, Framing, Version};
use crate::upstream::InFlight;

/// Whether a status tells of a fault of the server's own, and not of a request that it cannot or will
/// not serve.
pub(super) fn is_own_fault(status: u16) -> bool {
    status >= 500 && !matches!(status, 501 | 505)
}

impl Exchange {
    /// Looks at what the upstream has said. Returns whether anything has changed.
    pub(super) fn read_response(&mut self, client: &mut ClientSide<'_>, now: Instant) -> bool {
        match self.response_leg {
            ResponseLeg::Head(search) if matches!(self.link, Link::Open { .. }) => {
                self.read_response_head(client, search, now)
            }
            ResponseLeg::Body(_) => self.relay_response(client, now),
            _ => false,
        }
    }

    fn read_response_head(
        &mut self,
        client: &mut ClientSide<'_>,
        mut search: Search,
        now: Instant,
    ) -> bool {
        if !client.conn.output.is_empty() {
            return false; // an interim response is on its way
        }
        if self.attempt.spoke_first {
            self.spoke_first(client, now);
            return true;
        }
        let limits = client.state.config.limits.of_response_head();
        let wire = self.upstream.input.unread();
        match search.end(wire, limits) {
            Ok(Some(len)) => self.take_response_head(client, len, &search, limits, now),
            Ok(None) | Err(_) if head::is_tls(wire) => {
                self.upstream_failed(client, Failure::Malformed(BadResponse::IN_TLS.0), now);
            }
            Ok(None) if self.upstream.ended || self.upstream.failed => {
                self.note_stray_bytes(now);
                self.upstream_failed(client, Failure::Lost, now);
            }
            Ok(None) => {
                self.response_leg = ResponseLeg::Head(search);
                return false;
            }
            Err(fault) => {
                self.note_stray_bytes(now);
                self.upstream_failed(client, Failure::Malformed(BadResponse::from(fault).0), now);
            }
        }
        true
    }

    /// The upstream has said something before it was asked, which is no answer (rule 29). From a
    /// connection that was idle it is a farewell, and what was lost with it is not the request.
    fn spoke_first(&mut self, client: &mut ClientSide<'_>, now: Instant) {
        let failure = match self.link {
            Link::Open { reused: true } => Failure::Lost,
            _ => Failure::Malformed(BadResponse::SPOKE_FIRST.0),
        };
        self.disable_reuse(now);
        self.upstream_failed(client, failure, now);
    }

    /// Its connections are not used again for a while (rule 29).
    fn disable_reuse(&self, now: Instant) {
        if let Some(choice) = &self.attempt.choice {
            choice.upstream().disable_reuse(now);
        }
    }

    /// Bytes on a connection that was kept, behind a request that was written to it, begin no
    /// response: most likely they were on their way before, and answer no request.
    fn note_stray_bytes(&self, now: Instant) {
        let is_response = self.upstream.input.unread().iter().zip(b"HTTP/1.").all(|(a, b)| a == b);
        if self.link == (Link::Open { reused: true }) && !is_response {
            self.disable_reuse(now);
        }
    }

    fn take_response_head(
        &mut self,
        client: &mut ClientSide<'_>,
        len: usize,
        search: &Search,
        limits: HeadLimits,
        now: Instant,
    ) {
        let request = self.request;
        let bytes = &self.upstream.input.unread()[..len];
        let head = match head::response(bytes, search, request.method) {
            Ok(head) => head,
            Err(BadResponse(why)) => {
                self.note_stray_bytes(now);
                return self.upstream_failed(client, Failure::Malformed(why), now);
            }
        };
        if head.fields.has(Name::KeepAlive)
            && let Some(choice) = &self.attempt.choice
        {
            let said = head.fields.values(Name::KeepAlive);
            said.for_each(|value| choice.upstream().idle_limit.told(value));
        }
        let mut rules = ResponseRules {
            framing: Framing::Empty,
            method: request.method,
            version: request.version,
            persists: false,
            via: client.state.config.forwarding.via_response,
        };
        match head.response.status {
            101 if request.upgrade && matches!(self.request_leg, RequestLeg::Done) => {
                rewrite::response(&head, &rules, &mut client.conn.output);
                self.upstream.input.consume(len);
                self.become_tunnel(client, now);
            }
            101 => self.upstream_failed(client, Failure::Malformed(BadResponse::SWITCHED.0), now),
            100..=199 => {
                if request.version == Version::Http11 {
                    rewrite::response(&head, &rules, &mut client.conn.output);
                }
                let is_continued = self.awaits_continue && head.response.status == 100;
                self.awaits_continue &= !is_continued;
                if matches!(head.response.status, 102 | 103) {
                    self.attempt.interim_at = Some(now);
                }
                self.upstream.input.consume(len);
                self.response_leg = ResponseLeg::Head(Search::default());
                if is_continued {
                    self.begin_pace(client, now);
                }
            }
            _ => {
                (rules.framing, rules.persists) = self.leaves_as(client, &head, len);
                rewrite::response(&head, &rules, &mut client.conn.output);
                self.response_trailers =
                    TrailerRules::new(&head.fields, head.response.framing, false);
                self.start_response(client, head.response, rules, limits, now);
                self.upstream.input.consume(len);
            }
        }
    }

    /// The framing in which the response leaves, and whether the client's connection survives it.
    fn leaves_as(
        &self,
        client: &ClientSide<'_>,
        head: &ResponseHead<'_>,
        head_len: usize,
    ) -> (Framing, bool) {
        let framing = match (head.response.framing, self.request.version) {
            (framing @ (Framing::Empty | Framing::Length(_)), _) => framing,
            (Framing::Chunked | Framing::UntilClose, Version::Http11) => Framing::Chunked,
            (Framing::Chunked | Framing::UntilClose, Version::Http10) => Framing::UntilClose,
        };
        // An answer that is whole before its request is ends the connection, and says so. If it is
        // not, both may still come to their end.
        let is_whole = match framing {
            Framing::Empty => true,
            Framing::Length(length) => (self.upstream.input.len() - head_len) as u64 >= length,
            Framing::Chunked | Framing::UntilClose => false,
        };
        let persists = self.request.keep_alive
            && (matches!(self.request_leg, RequestLeg::Done)
                || !(is_whole || self.awaits_continue))
            && framing != Framing::UntilClose
            && !client.state.is_stopping();
        (framing, persists)
    }

    fn start_response(
        &mut self,
        client: &ClientSide<'_>,
        response: crate::message::Response,
        rules: ResponseRules,
        limits: HeadLimits,
        now: Instant,
    ) {
        let counts_errors = client.state.config.health.eject_after.is_some();
        let had_whole_request = self.has_whole_request();
        self.response = Some(response);
        self.status = response.status;
        self.persists = rules.persists;
        self.sent_to_client = 0;
        let served = self.attempt.choice.as_ref().and_then(|choice| match response.status {
            status if counts_errors && is_own_fault(status) => {
                had_whole_request.then(|| choice.failed(status))
            }
            _ => Some(choice.served()),
        });
        self.upstream.output.end_retain();
        if self.upstream.write_closed && !matches!(self.request_leg, RequestLeg::Done) {
            self.request_leg = RequestLeg::Cut;
        }
        self.response_leg = if response.framing == Framing::Empty {
            ResponseLeg::Done
        } else {
            let decoder = Decoder::new(response.framing, limits.head, limits.fields).of_response();
            let is_chunked = rules.framing == Framing::Chunked;
            let encoder = if is_chunked { Encoder::CHUNKED } else { Encoder::Plain };
            ResponseLeg::Body(Transfer::new(decoder, encoder))
        };
        if let Some(seen) = served {
            self.observe(client, seen, now);
        }
    }

    /// Whether the client has got nothing of the response yet, and what there is for it is the head
    /// and not all of a short body.
    pub(crate) fn is_head_alone(&self) -> bool {
        let ResponseLeg::Body(transfer) = &self.response_leg else { return false };
        let is_short = transfer.decoder.left().is_some_and(|left| left < FIRST_READ as u64);
        self.sent_to_client == 0 && (transfer.bytes == 0 || is_short)
    }

    fn relay_response(&mut self, client: &mut ClientSide<'_>, now: Instant) -> bool {
        let ResponseLeg::Body(transfer) = &mut self.response_leg else { return false };
        let before = self.upstream.input.len();
        let (from, to) = (&mut self.upstream.input, &mut client.conn.output);
        let flow = transfer.run(from, to, &self.response_trailers);
        let starved = flow == Ok(Flow::Starved);
        let closed = starved && self.upstream.ended && !self.upstream.failed;
        let ended =
            flow == Ok(Flow::Ended) || (closed && transfer.sender_closed(&mut client.conn.output));
        self.response_bytes = transfer.bytes;
        if ended {
            self.response_leg = ResponseLeg::Done;
        } else if let Err(BadBody(why)) = flow {
            self.upstream_failed(client, Failure::Malformed(why), now);
        } else if starved && (self.upstream.ended || self.upstream.failed) {
            self.upstream_failed(client, Failure::Lost, now);
        } else {
            return self.upstream.input.len() != before;
        }
        true
    }

    fn become_tunnel(&mut self, client: &mut ClientSide<'_>, now: Instant) {
        self.status = 101;
        if let Some(seen) = self.attempt.choice.as_ref().map(InFlight::served) {
            self.observe(client, seen, now);
        }
        self.upstream.output.end_retain();
        self.request_leg = RequestLeg::Tunnel;
        self.response_leg = ResponseLeg::Tunnel;
    }

    /// Moves bytes through a tunnel. Returns whether anything has changed.
    pub(super) fn relay_tunnel(&mut self, client: &mut ClientSide<'_>) -> bool {
        let up = pour(&mut client.conn.input, &mut self.upstream.output);
        let down = pour(&mut self.upstream.input, &mut client.conn.output);
        self.request_bytes += up as u64;
        self.response_bytes += down as u64;
        if self.upstream.failed || self.upstream.write_closed {
            self.abort(client, "the upstream broke off the tunnel");
            return true;
        }
        if client.conn.ended && client.conn.input.is_empty() {
            self.upstream.half_close();
        }
        if self.upstream.ended && self.upstream.input.is_empty() {
            client.conn.half_close();
        }
        let all_ended = client.conn.ended && self.upstream.ended;
        let inputs_out = client.conn.input.is_empty() && self.upstream.input.is_empty();
        let outputs_out = client.conn.is_flushed() && self.upstream.is_flushed();
        if all_ended && inputs_out && outputs_out {
            self.end_tunnel(client, "");
            return true;
        }
        up + down > 0
    }
}

/// Moves what fits. Returns the bytes moved.
fn pour(from: &mut Buffer, to: &mut Buffer) -> usize {
    let len = from.len().min(to.room());
    if len > 0 {
        to.push(&from.unread()[..len]);
        from.consume(len);
    }
    len
}
