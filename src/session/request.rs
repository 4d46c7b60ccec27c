//! The way in: a request's head and body, and the choice of an upstream for it.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::exchange::{Exchange, RequestLeg, ResponseLeg};
use super::reply::DISCARD;
use super::response::is_own_fault;
use super::retry::{Attempt, Failure, Verdict, decide};
use super::{ConnectFailure, LEAST_READ, Link, Phase, Session, Timeout};
use crate::buffer;
use crate::client_addr;
use crate::config::Limits;
use crate::http1::body::{Decoder, Encoder, Flow, Transfer};
use crate::http1::head;
use crate::http1::head::{HeadLimits, RequestHead};
use crate::http1::rewrite;
use crate::http1::rewrite::{RequestRules, TrailerRules};
use crate::message::fields::{Name, number};
use crate::message::{BadBody, Framing, Method, Reject, Request, Version};
use crate::rate_limit::WINDOW;
use crate::upstream::TicketStatus;
use crate::upstream::health::Observation;
use crate::upstream::{Chosen, InFlight, NoChoice, TRIAL_INTERVAL};

/// Seconds after which a request that met our own shortage may be tried again.
const RETRY_AFTER_SHORTAGE: u64 = 1;
/// Seconds after which a request that found every upstream full may be tried again.
const RETRY_AFTER_OVERLOAD: u64 = 1;

/// How long a client must have sent nothing of its request's body for the end of the upstream's
/// connection to be taken for the upstream's own read timeout. Pauses within a body that is on its
/// way are shorter, and such a request is sent again if it may be.
const CLIENT_STALL: Duration = Duration::from_millis(250);

/// Bytes of a body that are held for certain, beside any head, so that it can be sent again.
const MOST_HELD: u64 = (buffer::SIZE - Limits::MAX_HEAD - 4 * 1024) as u64;

const TOO_MANY_WAIT: &str = "every live upstream is busy, and no more requests may wait";

pub(super) fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits { line: limits.request_line, head: limits.head, fields: limits.fields }
}

/// Why a request that could be read is not forwarded.
struct Refusal {
    reject: Reject,
    retry_after: Option<u64>,
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Refusal { reject, retry_after: None }
    }
}

impl Session {
    /// Looks at the request head that is arriving. Returns whether anything has changed.
    pub(super) fn read_request(&mut self, now: Instant) -> bool {
        let limits = head_limits(&self.state.config.limits);
        let skipped = self.search.skip_empty_line(self.client.input.unread());
        self.client.input.consume(skipped);
        let wire = self.client.input.unread();
        if wire.is_empty() {
            if self.client.ended {
                self.phase = Phase::Closed { abort: false };
            }
            return self.client.ended;
        }
        match head::arriving_request(&mut self.search, wire, limits) {
            Ok(Some(len)) => self.begin(len, limits, now),
            Ok(None) if self.client.ended => {
                self.refuse_head(Reject::bad("the request head is not complete"), now);
            }
            Ok(None) => return false,
            Err(reject) => self.refuse_head(reject, now),
        }
        true
    }

    /// Answers a head that could not be read. Nothing after it is read as a request.
    pub(super) fn refuse_head(&mut self, reject: Reject, now: Instant) {
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
        self.exchange = Some(Exchange::new(request, self.peer, now));
        self.has_asked = true;
        self.request_leg = RequestLeg::Cut;
        self.answer(reject, None);
    }

    /// Takes the head of `len` bytes, writes what goes on of it, and chooses an upstream.
    fn begin(&mut self, len: usize, limits: HeadLimits, now: Instant) {
        let bytes = &self.client.input.unread()[..len];
        let head = match head::request(bytes, &self.search, limits) {
            Ok(head) => head,
            Err(reject) => return self.refuse_head(reject, now),
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
            self.upstream.output.retain();
            let rules = RequestRules {
                peer: self.peer,
                trusted,
                via: config.forwarding.via_request,
                upstream_host: config.forwarding.upstream_host,
            };
            exchange.host_slot = rewrite::request(&head, &rules, &mut self.upstream.output);
        }
        self.request_leg = match head.request.framing {
            Framing::Empty => RequestLeg::Done,
            framing => {
                let decoder = Decoder::new(framing, limits.head, limits.fields);
                let is_chunked = framing == Framing::Chunked;
                let encoder = if is_chunked { Encoder::CHUNKED } else { Encoder::Plain };
                RequestLeg::Body(Transfer::new(decoder, encoder))
            }
        };
        self.response_leg = ResponseLeg::Head(Default::default());
        self.exchange = Some(exchange);
        self.has_asked = true;
        self.client.input.consume(len);
        if let Some(Refusal { reject, retry_after }) = refusal {
            return self.answer(reject, retry_after);
        }
        self.state.budget.deposit();
        // What has arrived of the body is looked at before an upstream hears of the request (rule
        // 16).
        self.relay_request(now);
        if let ResponseLeg::Head(_) = self.response_leg {
            self.choose(now);
        }
    }

    /// Whether a request that could be read is served here, and now.
    fn refusal(&self, head: &RequestHead<'_>, client: IpAddr, now: Instant) -> Option<Refusal> {
        if self.turned_away.is_some() {
            let reject = Reject::with(503, "too many connections");
            return Some(Refusal { reject, retry_after: Some(RETRY_AFTER_SHORTAGE) });
        }
        let is_traced = head.request.method == Method::Options;
        let mut hops = head.fields.values(Name::MaxForwards).filter(|_| is_traced).map(number);
        let mut ends_here = false;
        if hops.any(|hops| hops.inspect(|hops| ends_here |= *hops == 0).is_none()) {
            return Some(Reject::bad("Max-Forwards is not a number").into());
        }
        // Every well-formed request counts, also one that is answered here (rule 46).
        if let Some(limiter) = &self.state.limiter
            && let Err(wait) = limiter.admit(client, now)
        {
            let reject = Reject::with(429, "too many requests from this client within a minute");
            let seconds = (wait.as_secs_f64().ceil() as u64).clamp(1, WINDOW.as_secs());
            return Some(Refusal { reject, retry_after: Some(seconds) });
        }
        if let Some(reject) = head.refusal {
            return Some(reject.into());
        }
        let is_too_long = matches!(
            (head.request.framing, self.state.config.limits.body),
            (Framing::Length(length), Some(most)) if length > most
        );
        if is_too_long {
            return Some(Reject::with(413, "the body is too long").into());
        }
        ends_here.then(|| Reject::with(200, "").into())
    }

    /// The most bytes that may be read from the client: what certainly belongs to the present request,
    /// and one head. Pipelined requests beyond that wait in the kernel. A client whose last request
    /// had a long body is expected to send another, so head and body are read at once.
    pub(super) fn most_of_request(&self) -> usize {
        let of_body = match &self.request_leg {
            RequestLeg::Head if self.sends_long_bodies && self.client.input.is_empty() => {
                return usize::MAX;
            }
            RequestLeg::Head | RequestLeg::Done | RequestLeg::Cut => 0,
            RequestLeg::Body(transfer) => transfer.decoder.left_for_certain(),
            RequestLeg::Tunnel => return usize::MAX,
        };
        let of_body = usize::try_from(of_body).unwrap_or(usize::MAX);
        let most = of_body.saturating_add(self.state.config.limits.head);
        most.saturating_sub(self.client.input.len())
    }

    /// Moves what has arrived of the request's body. Returns whether anything has changed.
    pub(super) fn relay_request(&mut self, now: Instant) -> bool {
        let RequestLeg::Body(transfer) = &mut self.request_leg else { return false };
        if self.upstream.write_closed {
            return false;
        }
        let Some(exchange) = &mut self.exchange else { return false };
        let before = self.client.input.len();
        let (from, to) = (&mut self.client.input, &mut self.upstream.output);
        let flow = transfer.run(from, to, &exchange.request_trailers);
        let (bytes, is_discarding) = (transfer.bytes, transfer.encoder == Encoder::Nowhere);
        let moved = self.client.input.len() != before;
        exchange.request_bytes = bytes;
        exchange.awaits_continue &= !moved;
        let too_long = self.state.config.limits.body.is_some_and(|most| bytes > most);
        match flow {
            Err(BadBody(why)) => self.bad_request_body(Reject::bad(why), now),
            Ok(_) if too_long && !is_discarding => {
                self.bad_request_body(Reject::with(413, "the body is too long"), now);
            }
            Ok(_) if is_discarding && bytes > DISCARD => self.request_leg = RequestLeg::Cut,
            Ok(Flow::Ended) => self.request_leg = RequestLeg::Done,
            Ok(Flow::Starved) if self.client.ended => self.client_gone(now),
            Ok(_) => return moved,
        }
        true
    }

    /// The body broke its framing or a limit: what was forwarded of it must never look complete.
    fn bad_request_body(&mut self, reject: Reject, now: Instant) {
        if let ResponseLeg::Head(_) = self.response_leg {
            self.answer(reject, None);
        } else if self.request_leg.is_discarding() {
            self.request_leg = RequestLeg::Cut;
        } else {
            self.abort(reject.why, now);
        }
    }

    /// Chooses an upstream that was not tried, or answers that there is none.
    pub(super) fn choose(&mut self, now: Instant) {
        let Some(exchange) = &mut self.exchange else { return };
        match self.state.upstreams.pick(&exchange.tried, now) {
            Ok(choice) => return self.go_on_with(choice, now),
            Err(NoChoice::Full) => return self.wait_for_capacity(now),
            Err(NoChoice::Nobody) => (),
        }
        if exchange.attempts > 0 {
            let why = exchange.last_failure;
            self.answer(Reject::with(502, why), None);
        } else {
            let wait = self.state.config.health.interval.unwrap_or(TRIAL_INTERVAL);
            let reject = Reject::with(503, "no upstream is up");
            self.answer(reject, Some(wait.as_secs().max(1)));
        }
    }

    /// An upstream was chosen that this exchange has not tried.
    fn go_on_with(&mut self, choice: InFlight, now: Instant) {
        let Some(exchange) = &mut self.exchange else { return };
        exchange.attempts += 1;
        exchange.addresses_timed_out = 0;
        let pooled = choice.upstream().may_reuse(now);
        self.attempt(choice, pooled, now);
    }

    /// Every upstream has as many requests as it may: this one waits, unless too many do.
    fn wait_for_capacity(&mut self, now: Instant) {
        let is_buffered = self.is_body_buffered();
        let Some(exchange) = &mut self.exchange else { return };
        // Room at the one that has failed is for others.
        exchange.choice = None;
        self.response_leg = ResponseLeg::Head(Default::default());
        if !is_buffered {
            self.link = Link::Buffering;
            return self.check_capacity_again(now);
        }
        exchange.queued = self.state.upstreams.wait_for_capacity(exchange.client, &exchange.tried);
        if exchange.queued.is_none() {
            return self.overloaded(TOO_MANY_WAIT);
        }
        self.link = Link::Queued;
        self.is_queue_told = false;
    }

    /// Whether as much of the request's body has come as can be kept here. A request waits for
    /// capacity only then: an upstream is not kept for a body that does not come.
    fn is_body_buffered(&self) -> bool {
        let (_, for_upstream) = self.read_budgets();
        let awaits_continue = self.exchange.as_ref().is_some_and(|e| e.awaits_continue);
        let is_arriving = matches!(self.request_leg, RequestLeg::Body(_));
        !is_arriving || awaits_continue || for_upstream < LEAST_READ
    }

    /// Chooses again once the body is buffered, or as soon as more of it has come (`relayed`):
    /// while an upstream has capacity, bodies stream. Without that, `check_capacity` looks. Returns whether anything has changed.
    pub(super) fn settle_buffering(&mut self, relayed: bool, now: Instant) -> bool {
        let is_due = self.link == Link::Buffering && (relayed || self.is_body_buffered());
        if is_due {
            self.link = Link::None;
            self.choose(now);
        }
        is_due
    }

    /// Looks what has become of the place in the queue. Returns whether anything has changed.
    pub(super) fn settle_queue(&mut self, now: Instant) -> bool {
        if self.link != Link::Queued {
            return false;
        }
        let waiting = self.exchange.as_ref().and_then(|exchange| exchange.queued.as_ref());
        match waiting.map(|waiting| waiting.status()) {
            Some(TicketStatus::Waiting) => return false,
            Some(TicketStatus::Chosen(choice)) => {
                self.leave_queue();
                self.go_on_with(choice, now);
            }
            Some(TicketStatus::Refused) | None => self.overloaded(TOO_MANY_WAIT),
        }
        true
    }

    pub(super) fn leave_queue(&mut self) {
        self.link = Link::None;
        drop(self.exchange.as_mut().and_then(|exchange| exchange.queued.take()));
    }

    /// More is asked for than the upstreams can do. Whoever is told so soon can turn elsewhere.
    pub(super) fn overloaded(&mut self, why: &'static str) {
        self.state.counters.shed.add_one();
        self.answer(Reject::with(503, why), Some(RETRY_AFTER_OVERLOAD));
    }

    /// Asks for a connection on which all of the request will be sent.
    pub(super) fn attempt(&mut self, choice: InFlight, pooled: bool, now: Instant) {
        let Some(exchange) = &mut self.exchange else { return };
        if let Some(slot) = &mut exchange.host_slot {
            let name = choice.upstream().name().as_bytes();
            self.upstream.output.replace(slot.at, slot.len, name);
            slot.len = name.len();
        }
        exchange.wrote = false;
        (exchange.response_began, exchange.spoke_first) = (false, false);
        exchange.interim_at = None;
        let request = &exchange.request;
        let is_held = match request.framing {
            Framing::Empty => true,
            Framing::Length(length) => length <= MOST_HELD,
            Framing::Chunked | Framing::UntilClose => false,
        };
        let may_send_again = request.method.is_idempotent() && is_held;
        let pooled = pooled.then(|| choice.upstream().idle_limit.most_idle(may_send_again));
        self.connect = Some((choice.upstream().clone(), pooled));
        exchange.choice = Some(choice);
        self.link = Link::Connecting;
        self.response_leg = ResponseLeg::Head(Default::default());
        // Each attempt has a deadline of its own.
        (self.waiting, self.since) = (Timeout::Connect, now);
        self.begin_pace(now);
    }

    /// There is no connection to the upstream that was chosen.
    pub(super) fn no_connection(&mut self, why: ConnectFailure, now: Instant) {
        match why {
            ConnectFailure::Remote(kind) => {
                let timed_out = kind == ErrorKind::TimedOut;
                self.observe(
                    if timed_out {
                        Observation::ConnectTimedOut
                    } else {
                        Observation::NoConnection
                    },
                    now,
                );
                self.retry_or_give_up(Failure::Connect, false, now);
            }
            // Ports run out, and addresses are missing, toward one upstream and not toward others.
            ConnectFailure::Local(ErrorKind::AddrNotAvailable) if self.choose_another(now) => (),
            ConnectFailure::Local(_) => self.wait_for_resources(now),
        }
    }

    /// Turns to an upstream that was not tried, if there is one. Nobody is blamed.
    fn choose_another(&mut self, now: Instant) -> bool {
        let Some(exchange) = &mut self.exchange else { return false };
        let Some(id) = exchange.choice.as_ref().map(|choice| choice.upstream().id()) else {
            return false;
        };
        if exchange.attempts >= self.state.config.retry.attempts {
            return false;
        }
        exchange.tried.push(id);
        let Ok(choice) = self.state.upstreams.pick(&exchange.tried, now) else {
            exchange.tried.pop();
            return false;
        };
        self.go_on_with(choice, now);
        true
    }

    /// We are short of descriptors, ports or memory, which says nothing about the upstream. Others
    /// will give some back, so the request waits, for as long as a connect may take.
    fn wait_for_resources(&mut self, now: Instant) {
        let patience = self.state.config.timeouts.connect;
        let Some(exchange) = &mut self.exchange else { return };
        if now < *exchange.short_since.get_or_insert(now) + patience {
            exchange.shortages = exchange.shortages.saturating_add(1);
            self.link = Link::Short;
        } else {
            let reject = Reject::with(503, "out of descriptors, ports or memory");
            self.answer(reject, Some(RETRY_AFTER_SHORTAGE));
        }
    }

    /// Asks once more for the connection that our own shortage has prevented.
    pub(super) fn connect_again(&mut self, now: Instant) {
        self.link = Link::None;
        if let Some(choice) = self.exchange.as_mut().and_then(|exchange| exchange.choice.take()) {
            let pooled = choice.upstream().may_reuse(now);
            self.attempt(choice, pooled, now);
        }
    }

    /// The upstream connection gave no whole response.
    pub(super) fn upstream_failed(&mut self, failure: Failure, now: Instant) {
        let reused = matches!(self.link, Link::Open { reused: true });
        self.drop_link();
        match failure {
            Failure::Lost if !reused && self.has_whole_request() => self.loss(now),
            Failure::Late => self.too_late(now),
            Failure::Malformed(why) if self.has_whole_request() => self.malformed(why, now),
            _ => (),
        }
        self.retry_or_give_up(failure, reused, now);
    }

    fn retry_or_give_up(&mut self, failure: Failure, reused: bool, now: Instant) {
        let client_stalls = self.rest_is_clients() && now >= self.client_sent + CLIENT_STALL;
        let Some(exchange) = &mut self.exchange else { return };
        if exchange.response.is_some() && exchange.sent_to_client == 0 {
            // The client has seen nothing of the answer yet, so it can be taken back.
            self.client.output.clear();
            exchange.response = None;
        }
        let attempt = Attempt {
            reused,
            wrote: exchange.wrote,
            replayable: self.upstream.output.retains(),
            idempotent: exchange.request.method.is_idempotent(),
            response_began: exchange.response_began,
            answered: exchange.response.is_some(),
            client_stalls,
            attempts_left: exchange.attempts < self.state.config.retry.attempts
                && exchange.tried.len() + 1 < self.state.upstreams.all().len(),
        };
        let verdict = decide(&attempt, failure, &self.state.budget, now);
        if matches!(verdict, Verdict::RetrySame | Verdict::RetryOther) {
            // At once, while all of it is held: more of the body may come before it is sent again.
            self.upstream.output.rewind();
            self.upstream.input.clear();
            self.upstream.forget_connection();
        }
        match verdict {
            Verdict::RetrySame => {
                self.state.counters.retried.add_one();
                if let Some(choice) = exchange.choice.take() {
                    self.attempt(choice, false, now);
                }
            }
            Verdict::RetryOther => {
                self.state.counters.retried.add_one();
                exchange.last_failure = failure.text();
                exchange.tried.extend(exchange.choice.as_ref().map(|c| c.upstream().id()));
                self.choose(now);
            }
            Verdict::Answer(reject) => self.answer(reject, None),
            Verdict::Abort => self.abort("the upstream broke off its response", now),
        }
    }

    /// A fresh connection was lost. One exchange counts it once: its request may be what breaks
    /// upstreams, and must not go round and eject them all. One that is ejected has failed its trial
    /// in any case.
    fn loss(&mut self, now: Instant) {
        let Some(exchange) = &mut self.exchange else { return };
        let was_counted = std::mem::replace(&mut exchange.loss_counted, true);
        let is_trial = exchange.choice.as_ref().is_some_and(|c| c.chosen() == Chosen::Trial);
        if !was_counted || is_trial {
            let client = client_addr::key_of(exchange.client);
            self.observe(Observation::Broken { client }, now);
        }
    }

    /// Whether the client has sent all of its request. What an upstream does before is not held
    /// against it: it cannot have had a whole request.
    pub(super) fn has_whole_request(&self) -> bool {
        matches!(self.request_leg, RequestLeg::Done)
    }

    /// Whether all that has come of the request's body has gone on, and the rest is the client's to
    /// send, and the client is not waiting for a 100. So the client keeps other requests waiting, and no
    /// other upstream is tried.
    pub(super) fn rest_is_clients(&self) -> bool {
        let awaits_continue = self.exchange.as_ref().is_none_or(|e| e.awaits_continue);
        matches!(self.request_leg, RequestLeg::Body(_))
            && !self.request_leg.is_discarding()
            && !awaits_continue
            && (self.upstream.is_flushed() || self.upstream.write_closed)
    }

    /// The upstream has neither read all of the request nor answered it in time. It is not its fault
    /// if it was the client that did not go on.
    pub(super) fn too_late(&self, now: Instant) {
        let is_held_up = self.exchange.as_ref().is_none_or(|exchange| exchange.awaits_continue)
            || !self.client.is_flushed()
            || self.rest_is_clients();
        if self.state.config.health.eject_after.is_some() && !is_held_up {
            self.observe(Observation::TooLate, now);
        }
    }

    /// The upstream's answer was refused. One that was sent to try it has failed in any case.
    fn malformed(&self, why: &'static str, now: Instant) {
        let Some(exchange) = &self.exchange else { return };
        let Some(choice) = &exchange.choice else { return };
        let counts = self.state.config.health.eject_after.is_some();
        let seen = match exchange.response {
            Some(response) if counts && is_own_fault(response.status) => return, // it has counted
            Some(_) => Observation::MalformedBody(why),
            None => Observation::Malformed(why),
        };
        if counts || choice.chosen() == Chosen::Trial {
            self.observe(seen, now);
        }
    }

    /// Connecting took too long. The other addresses of the upstream have a right to their time.
    pub(super) fn connect_timed_out(&mut self, now: Instant) {
        self.drop_link();
        let Some(exchange) = &mut self.exchange else { return };
        exchange.addresses_timed_out += 1;
        let addresses = exchange.choice.as_ref().map_or(0, |c| c.upstream().addresses().len());
        if exchange.addresses_timed_out < addresses
            && let Some(choice) = exchange.choice.take()
        {
            return self.attempt(choice, false, now);
        }
        self.no_connection(ConnectFailure::Remote(ErrorKind::TimedOut), now);
    }

    /// Tells what was seen of the upstream that was chosen.
    pub(super) fn observe(&self, seen: Observation, now: Instant) {
        if let Some(choice) = self.exchange.as_ref().and_then(|exchange| exchange.choice.as_ref()) {
            self.state.upstreams.observe_choice(choice, seen, now);
        }
    }
}
