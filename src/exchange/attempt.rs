//! Attempts at upstreams: choose one, wait for capacity, connect, try again.
//!
//! Not here: whether a failed request may be sent again (`retry.rs`), which upstream is chosen
//! (`upstream/`).

use std::io::ErrorKind;
use std::time::Instant;

use super::deadline::Timeout;
use super::retry::{AttemptFacts, Failure, Verdict, decide};
use super::{ClientSide, ConnectFailure, Exchange, LEAST_READ, RequestLeg, ResponseLeg};
use crate::buffer;
use crate::config::Limits;
use crate::message::{Framing, Reply};
use crate::upstream::health::Observation;
use crate::upstream::{InFlight, NoChoice, TRIAL_INTERVAL, TicketStatus};

/// Seconds after which a request that met a shortage of this machine may be tried again.
pub(crate) const RETRY_AFTER_SHORTAGE: u64 = 1;
/// Seconds after which a request that found every upstream full may be tried again.
const RETRY_AFTER_OVERLOAD: u64 = 1;

/// Bytes of a body that are retained for certain, beside any head, so that it can be sent again.
const MOST_RETAINED: u64 = (buffer::SIZE - Limits::MAX_HEAD - 4 * 1024) as u64;

const TOO_MANY_WAIT: &str = "every live upstream is busy, and no more requests may wait";

/// One attempt at one upstream; replaced whole by the next one.
#[derive(Default)]
pub(crate) struct Attempt {
    /// The upstream, until its capacity is given back.
    pub choice: Option<InFlight>,
    /// Addresses of this upstream that did not answer in time.
    pub addresses_timed_out: usize,
    /// Whether a byte was written to the connection.
    pub wrote: bool,
    /// Whether a byte of a response has come over it.
    pub response_began: bool,
    /// Whether a byte has come over it before any was written: it answers something else.
    pub spoke_first: bool,
    /// When the last 102 or 103 has come.
    pub interim_at: Option<Instant>,
}

/// How far the exchange is with its upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    None,
    /// A shortage of this machine has prevented the connect; it will be tried again.
    Short,
    /// Every upstream is full; the request has a place in the queue.
    Queued,
    /// Every upstream is full, and the request's body is buffered first.
    Buffering,
    Connecting,
    Open {
        reused: bool,
    },
}

impl Exchange {
    /// Chooses an upstream that was not tried, or answers that there is none.
    pub(super) fn choose(&mut self, client: &mut ClientSide<'_>, now: Instant) {
        match client.state.upstreams.pick(&self.tried, now) {
            Ok(choice) => return self.go_on_with(client, choice, now),
            Err(NoChoice::Full) => return self.wait_for_capacity(client, now),
            Err(NoChoice::Nobody) => (),
        }
        if self.attempts > 0 {
            let why = self.last_failure;
            self.answer(client, Reply::keeping(502, why));
        } else {
            let wait = client.state.config.health.interval.unwrap_or(TRIAL_INTERVAL);
            let reply = Reply::keeping(503, "no upstream is up");
            self.answer(client, reply.with_retry_after(wait.as_secs().max(1)));
        }
    }

    /// Begins with an upstream that this exchange has not tried.
    fn go_on_with(&mut self, client: &mut ClientSide<'_>, choice: InFlight, now: Instant) {
        self.attempts += 1;
        let pooled = choice.upstream().may_reuse(now);
        self.begin_attempt(client, choice, 0, pooled, now);
    }

    /// Every upstream is at its concurrency limit: the request waits, unless too many do.
    fn wait_for_capacity(&mut self, client: &mut ClientSide<'_>, now: Instant) {
        // Capacity of the upstream that has failed is for others.
        self.attempt.choice = None;
        self.response_leg = ResponseLeg::Head(Default::default());
        if !self.is_body_buffered(client) {
            self.link = Link::Buffering;
            return self.check_capacity_again(client, now);
        }
        self.queued = client.state.upstreams.wait_for_capacity(self.client, &self.tried);
        if self.queued.is_none() {
            return self.overloaded(client, TOO_MANY_WAIT);
        }
        self.link = Link::Queued;
        self.is_queue_told = false;
    }

    /// Whether as much of the request's body has come as can be kept here. A request waits for
    /// capacity only then: an upstream is not kept for a body that does not come.
    fn is_body_buffered(&self, client: &ClientSide<'_>) -> bool {
        let (_, for_upstream) = self.read_budgets(client.conn);
        let is_arriving = matches!(self.request_leg, RequestLeg::Body(_));
        !is_arriving || self.awaits_continue || for_upstream < LEAST_READ
    }

    /// Chooses again once the body is buffered, or as soon as more of it has come (`relayed`):
    /// while an upstream has capacity, bodies stream. Without that, `check_capacity` looks. Returns
    /// whether anything has changed.
    pub(super) fn settle_buffering(
        &mut self,
        client: &mut ClientSide<'_>,
        relayed: bool,
        now: Instant,
    ) -> bool {
        let is_due = self.link == Link::Buffering && (relayed || self.is_body_buffered(client));
        if is_due {
            self.link = Link::None;
            self.choose(client, now);
        }
        is_due
    }

    /// Looks what has become of the place in the queue. Returns whether anything has changed.
    pub(super) fn settle_queue(&mut self, client: &mut ClientSide<'_>, now: Instant) -> bool {
        if self.link != Link::Queued {
            return false;
        }
        match self.queued.as_ref().map(|waiting| waiting.status()) {
            Some(TicketStatus::Waiting) => return false,
            Some(TicketStatus::Chosen(choice)) => {
                self.leave_queue();
                self.go_on_with(client, choice, now);
            }
            Some(TicketStatus::Refused) | None => self.overloaded(client, TOO_MANY_WAIT),
        }
        true
    }

    fn leave_queue(&mut self) {
        self.link = Link::None;
        self.queued = None;
    }

    /// Answers 503 because more is asked for than the upstreams can do. The client can turn
    /// elsewhere at once.
    pub(super) fn overloaded(&mut self, client: &mut ClientSide<'_>, why: &'static str) {
        client.state.counters.shed.add_one();
        self.answer(client, Reply::keeping(503, why).with_retry_after(RETRY_AFTER_OVERLOAD));
    }

    /// Asks for a connection on which all of the request will be sent.
    fn begin_attempt(
        &mut self,
        client: &mut ClientSide<'_>,
        choice: InFlight,
        addresses_timed_out: usize,
        pooled: bool,
        now: Instant,
    ) {
        if let Some(slot) = &mut self.host_slot {
            let name = choice.upstream().name().as_bytes();
            self.upstream.output.replace(slot.at, slot.len, name);
            slot.len = name.len();
        }
        let is_retained = match self.request.framing {
            Framing::Empty => true,
            Framing::Length(length) => length <= MOST_RETAINED,
            Framing::Chunked | Framing::UntilClose => false,
        };
        let may_send_again = self.request.method.is_idempotent() && is_retained;
        let pooled = pooled.then(|| choice.upstream().idle_limit.most_idle(may_send_again));
        client.orders.connect = Some((choice.upstream().clone(), pooled));
        self.attempt = Attempt { choice: Some(choice), addresses_timed_out, ..Attempt::default() };
        self.link = Link::Connecting;
        self.response_leg = ResponseLeg::Head(Default::default());
        // Each attempt has a deadline of its own.
        client.wait.begin(Timeout::Connect, now);
        self.begin_pace(client, now);
    }

    /// The connect has succeeded.
    pub(crate) fn connected(&mut self, reused: bool) {
        self.link = Link::Open { reused };
        (self.short_since, self.shortages) = (None, 0);
    }

    /// The connect has failed.
    pub(crate) fn connect_failed(
        &mut self,
        client: &mut ClientSide<'_>,
        why: ConnectFailure,
        now: Instant,
    ) {
        self.link = Link::None;
        self.no_connection(client, why, now);
    }

    /// There is no connection to the upstream that was chosen.
    fn no_connection(&mut self, client: &mut ClientSide<'_>, why: ConnectFailure, now: Instant) {
        match why {
            ConnectFailure::Remote(kind) => {
                let seen = match kind {
                    ErrorKind::TimedOut => Observation::ConnectTimedOut,
                    _ => Observation::NoConnection,
                };
                self.observe(client, seen, now);
                self.retry_or_give_up(client, Failure::Connect, false, now);
            }
            // Ports run out, and addresses are missing, toward one upstream and not toward others.
            ConnectFailure::Local(ErrorKind::AddrNotAvailable)
                if self.choose_another(client, now) => {}
            ConnectFailure::Local(_) => self.wait_for_resources(client, now),
        }
    }

    /// Turns to an upstream that was not tried, if there is one. No upstream is blamed.
    fn choose_another(&mut self, client: &mut ClientSide<'_>, now: Instant) -> bool {
        let Some(id) = self.attempt.choice.as_ref().map(|choice| choice.upstream().id()) else {
            return false;
        };
        if self.attempts >= client.state.config.retry.attempts {
            return false;
        }
        self.tried.push(id);
        let Ok(choice) = client.state.upstreams.pick(&self.tried, now) else {
            self.tried.pop();
            return false;
        };
        self.go_on_with(client, choice, now);
        true
    }

    /// This machine is short of descriptors, ports or memory, which says nothing about the upstream.
    /// Others will give some back, so the request waits, for as long as a connect may take.
    fn wait_for_resources(&mut self, client: &mut ClientSide<'_>, now: Instant) {
        let patience = client.state.config.timeouts.connect;
        if now < *self.short_since.get_or_insert(now) + patience {
            self.shortages = self.shortages.saturating_add(1);
            self.link = Link::Short;
        } else {
            let reply = Reply::keeping(503, "out of descriptors, ports or memory");
            self.answer(client, reply.with_retry_after(RETRY_AFTER_SHORTAGE));
        }
    }

    /// Asks once more for the connection that a shortage has prevented.
    pub(super) fn connect_again(&mut self, client: &mut ClientSide<'_>, now: Instant) {
        self.link = Link::None;
        if let Some(choice) = self.attempt.choice.take() {
            let pooled = choice.upstream().may_reuse(now);
            let timed_out = self.attempt.addresses_timed_out;
            self.begin_attempt(client, choice, timed_out, pooled, now);
        }
    }

    /// Connecting took too long. The upstream's other addresses get their time, too.
    pub(super) fn connect_timed_out(&mut self, client: &mut ClientSide<'_>, now: Instant) {
        self.drop_link(client);
        let timed_out = self.attempt.addresses_timed_out + 1;
        let choice = self.attempt.choice.take();
        match choice {
            Some(choice) if timed_out < choice.upstream().addresses().len() => {
                self.begin_attempt(client, choice, timed_out, false, now);
            }
            choice => {
                self.attempt.choice = choice;
                let why = ConnectFailure::Remote(ErrorKind::TimedOut);
                self.no_connection(client, why, now);
            }
        }
    }

    /// The upstream connection gave no whole response.
    pub(super) fn upstream_failed(
        &mut self,
        client: &mut ClientSide<'_>,
        failure: Failure,
        now: Instant,
    ) {
        let reused = matches!(self.link, Link::Open { reused: true });
        self.drop_link(client);
        match failure {
            Failure::Lost if !reused && self.has_whole_request() => self.loss(client, now),
            Failure::Late => self.too_late(client, now),
            Failure::Malformed(why) if self.has_whole_request() => {
                self.malformed(client, why, now);
            }
            _ => (),
        }
        self.retry_or_give_up(client, failure, reused, now);
    }

    fn retry_or_give_up(
        &mut self,
        client: &mut ClientSide<'_>,
        failure: Failure,
        reused: bool,
        now: Instant,
    ) {
        let state = client.state;
        let client_stalls = self.client_stalls(client, now);
        if self.response.is_some() && self.sent_to_client == 0 {
            // The client has seen nothing of the answer yet, so it can be taken back.
            client.conn.output.clear();
            self.response = None;
        }
        let facts = AttemptFacts {
            reused,
            wrote: self.attempt.wrote,
            replayable: self.upstream.output.retains(),
            idempotent: self.request.method.is_idempotent(),
            response_began: self.attempt.response_began,
            answered: self.response.is_some(),
            client_stalls,
            attempts_left: self.attempts < state.config.retry.attempts
                && self.tried.len() + 1 < state.upstreams.all().len(),
        };
        let verdict = decide(&facts, failure, &state.budget, now);
        if matches!(verdict, Verdict::RetrySame | Verdict::RetryOther) {
            // At once, while all of it is retained: more of the body may come before it is sent
            // again.
            self.upstream.output.rewind();
            self.upstream.input.clear();
            self.upstream.forget_connection();
        }
        match verdict {
            Verdict::RetrySame => {
                state.counters.retried.add_one();
                if let Some(choice) = self.attempt.choice.take() {
                    let timed_out = self.attempt.addresses_timed_out;
                    self.begin_attempt(client, choice, timed_out, false, now);
                }
            }
            Verdict::RetryOther => {
                state.counters.retried.add_one();
                self.last_failure = failure.text();
                self.tried.extend(self.attempt.choice.as_ref().map(|c| c.upstream().id()));
                self.choose(client, now);
            }
            Verdict::Answer(reply) => self.answer(client, reply),
            Verdict::Abort => self.abort(client, "the upstream broke off its response"),
        }
    }

    /// Detaches the upstream connection for good, or withdraws the connect.
    pub(super) fn drop_link(&mut self, client: &mut ClientSide<'_>) {
        match self.link {
            Link::Queued => self.leave_queue(),
            Link::Buffering => self.link = Link::None,
            _ => (),
        }
        if self.link != Link::None {
            self.link = Link::None;
            client.orders.release = Some(false);
            client.orders.connect = None;
        }
    }
}
