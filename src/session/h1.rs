//! Requests of an HTTP/1.1 connection: where a head ends, and whether it is served.
//!
//! Not here: what becomes of a request (`exchange/`).

use std::net::IpAddr;
use std::time::Instant;

use super::{Phase, Session};
use crate::client_addr;
use crate::config::Limits;
use crate::exchange::{Exchange, RETRY_AFTER_SHORTAGE, RequestLeg};
use crate::http1::body::{Decoder, Encoder, Transfer};
use crate::http1::head::{self, HeadLimits, RequestHead};
use crate::http1::rewrite::{self, RequestRules, TrailerRules};
use crate::message::fields::{Name, number};
use crate::message::{Framing, Method, Reply, Request, Version};
use crate::rate_limit::WINDOW;

fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits { line: limits.request_line, head: limits.head, fields: limits.fields }
}

impl Session {
    /// Looks at the request head that is arriving. Returns whether anything has changed.
    ///
    /// | event                     | then           |
    /// |---------------------------|----------------|
    /// | the client ends, no bytes | close silently |
    /// | the client ends within it | 400            |
    pub(super) fn read_request(&mut self, now: Instant) -> bool {
        let limits = head_limits(&self.state.config.limits);
        let skipped = self.search.skip_empty_line(self.client.input.unread());
        self.client.input.consume(skipped);
        let wire = self.client.input.unread();
        if wire.is_empty() {
            if self.client.ended {
                self.enter(Phase::Closed { abort: false });
            }
            return self.client.ended;
        }
        match head::arriving_request(&mut self.search, wire, limits) {
            Ok(Some(len)) => self.begin(len, limits, now),
            Ok(None) if self.client.ended => {
                self.reject_head(Reply::bad("the request head is not complete"), now);
            }
            Ok(None) => return false,
            Err(reply) => self.reject_head(reply, now),
        }
        true
    }

    /// Answers a head that could not be read. Nothing after it is read as a request.
    pub(super) fn reject_head(&mut self, reply: Reply, now: Instant) {
        let line = self.search.first_line(self.client.input.unread());
        let method = match line.map(head::request_line) {
            Some(Ok((_, method, _, _))) => method,
            _ => Method::Get,
        };
        let request = Request {
            method,
            version: Version::Http11,
            framing: Framing::Empty,
            keep_alive: false,
            expects_continue: false,
            upgrade: false,
        };
        let mut exchange = Exchange::new(request, self.peer, now);
        exchange.request_leg = RequestLeg::Cut;
        self.exchange = Some(exchange);
        self.has_asked = true;
        self.on_exchange(now, |exchange, client| exchange.answer(client, reply));
    }

    /// Takes the head of `len` bytes, writes what goes on of it, and begins its exchange.
    fn begin(&mut self, len: usize, limits: HeadLimits, now: Instant) {
        let bytes = &self.client.input.unread()[..len];
        let head = match head::request(bytes, &self.search) {
            Ok(head) => head,
            Err(reject) => return self.reject_head(reject, now),
        };
        let config = &self.state.config;
        let nets = &config.forwarding.trusted;
        let trusted = client_addr::is_trusted(self.peer, nets);
        let client = if head.fields.has(Name::XForwardedFor) {
            client_addr::client_address(self.peer, head.fields.values(Name::XForwardedFor), nets)
        } else {
            self.peer
        };
        let mut exchange = Exchange::new(head.request, client, now);
        exchange.request_trailers = TrailerRules::new(&head.fields, head.request.framing, !trusted);
        exchange.request.keep_alive &= self.turned_away.is_none();
        let refusal = self.refusal(&head, client, now);
        if refusal.is_none() {
            exchange.upstream.output.retain();
            let rules = RequestRules {
                peer: self.peer,
                trusted,
                via: config.forwarding.via_request,
                upstream_host: config.forwarding.upstream_host,
            };
            exchange.host_slot = rewrite::request(&head, &rules, &mut exchange.upstream.output);
        }
        if head.request.framing != Framing::Empty {
            let decoder = Decoder::new(head.request.framing, limits.head, limits.fields);
            let is_chunked = head.request.framing == Framing::Chunked;
            let encoder = if is_chunked { Encoder::CHUNKED } else { Encoder::Plain };
            exchange.request_leg = RequestLeg::Body(Transfer::new(decoder, encoder));
        }
        self.exchange = Some(exchange);
        self.has_asked = true;
        self.client.input.consume(len);
        self.on_exchange(now, |exchange, client| exchange.start(client, refusal, now));
    }

    /// The answer to a request that is not forwarded; `None` if it is.
    fn refusal(&self, head: &RequestHead<'_>, client: IpAddr, now: Instant) -> Option<Reply> {
        if self.turned_away.is_some() {
            let reply = Reply::keeping(503, "too many connections");
            return Some(reply.with_retry_after(RETRY_AFTER_SHORTAGE));
        }
        let is_traced = head.request.method == Method::Options;
        let mut hops = head.fields.values(Name::MaxForwards).filter(|_| is_traced).map(number);
        let mut ends_here = false;
        if hops.any(|hops| hops.inspect(|hops| ends_here |= *hops == 0).is_none()) {
            return Some(Reply::bad("Max-Forwards is not a number"));
        }
        // Every well-formed request counts, also one that is answered here (rule 46).
        if let Some(limiter) = &self.state.limiter
            && let Err(wait) = limiter.admit(client, now)
        {
            let reply = Reply::keeping(429, "too many requests from this client within a minute");
            let seconds = (wait.as_secs_f64().ceil() as u64).clamp(1, WINDOW.as_secs());
            return Some(reply.with_retry_after(seconds));
        }
        if head.refusal.is_some() {
            return head.refusal;
        }
        let is_too_long = matches!(
            (head.request.framing, self.state.config.limits.body),
            (Framing::Length(length), Some(most)) if length > most
        );
        if is_too_long {
            return Some(Reply::closing(413, "the body is too long"));
        }
        ends_here.then(Reply::options)
    }
}
