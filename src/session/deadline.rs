//! How long a session waits, for what, and what happens when that was too long.
//!
//! What is waited for follows from the state, so there is one alarm at a time and it knows its
//! reason. Not here: timers (`engine/`).

use std::time::{Duration, Instant};

use super::exchange::{Pace, RequestLeg, ResponseLeg};
use super::retry::{CLIENT_STALLED, Failure};
use super::{Link, Phase, Session};
use crate::message::Reject;

/// How long a client that is turned away may stay, from accept to close, whatever it does.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a request waits for descriptors, ports or memory before it asks again; each further
/// pause is twice as long, so that many that wait do not make the shortage worse.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// How often the pause is doubled.
const SHORTAGE_DOUBLINGS: u32 = 3;

/// How long 102 and 103 can put off `Response`, counted from when the request was out. Each puts it
/// off by one `--response-timeout`.
const LONGEST_INTERIM: Duration = Duration::from_secs(600);

/// Bytes of a body that must come within `--queue-timeout` for its request to keep an upstream busy
/// for which others wait.
const LEAST_BODY: u64 = 1024;
/// How often that is looked at within `--queue-timeout` …
const CAPACITY_CHECKS: u32 = 4;
/// … and the least time between two looks.
const CAPACITY_PAUSE: Duration = Duration::from_millis(10);

/// What is waited for.
///
/// | waits for  | since                         | when it is over                                      |
/// |------------|-------------------------------|------------------------------------------------------|
/// | `Idle`     | the last exchange             | closed without a word                                |
/// | `Grace`    | the drain began               | closed without a word                                |
/// | `Head`     | its first byte                | 408                                                  |
/// | `Shortage` | we were short of descriptors  | the connect is tried again; 503 after the time of one |
/// | `Queue`    | every upstream was full       | 503                                                  |
/// | `Connect`  | the connect was asked for     | the next address, then the next upstream             |
/// | `Response` | the request was out; put off by 102 and 103 | 504                                    |
/// | `Progress` | the last byte moved           | 408 or 504, whoever stalls; abort if answered        |
/// | `Tunnel`   | the last byte moved           | closed                                               |
/// | `Linger`   | the last answer was out       | closed; what a refused request has left of its body is read no more |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table says it")]
pub enum Timeout {
    Idle,
    Grace,
    Head,
    Shortage,
    Queue,
    Connect,
    Response,
    Progress,
    Tunnel,
    Linger,
}

impl Session {
    /// When `next` has to be called even if nothing moves. `None` only once it is closed.
    pub fn deadline(&self) -> Option<Instant> {
        if let Phase::Closed { .. } = self.phase {
            return None;
        }
        let timeouts = &self.state.config.timeouts;
        let last_moved = self.since.max(self.moved);
        let at = match self.waiting {
            Timeout::Idle => self.since + timeouts.idle,
            Timeout::Grace => self.since + timeouts.drain_grace,
            Timeout::Head => self.since + timeouts.head,
            Timeout::Shortage => self.since + self.shortage_pause(),
            Timeout::Queue => self.since + timeouts.queue,
            Timeout::Connect => self.since + timeouts.connect,
            Timeout::Response => self.response_deadline(),
            Timeout::Progress => last_moved + timeouts.progress,
            Timeout::Tunnel => last_moved + timeouts.tunnel,
            Timeout::Linger => self.since + timeouts.linger,
        };
        let at = self.turned_away.map_or(at, |since| at.min(since + TURN_AWAY_TIMEOUT));
        Some(self.capacity_check_at().map_or(at, |check| check.min(at)))
    }

    fn response_deadline(&self) -> Instant {
        let patience = self.state.config.timeouts.response;
        let at = self.since + patience;
        let interim_at = self.exchange.as_ref().and_then(|exchange| exchange.interim_at);
        interim_at.map_or(at, |last| (last + patience).min(self.since + LONGEST_INTERIM).max(at))
    }

    /// When to look next at a request whose body is arriving, where upstreams have a bound on their
    /// requests (`--max-in-flight`): whether its body comes too slowly to keep an upstream, or, if it
    /// has none yet, whether one has capacity now.
    pub(super) fn capacity_check_at(&self) -> Option<Instant> {
        self.state.config.limits.in_flight?;
        let is_arriving = matches!(self.request_leg, RequestLeg::Body(_))
            && !self.request_leg.is_discarding()
            && matches!(self.link, Link::Open { .. } | Link::Buffering);
        let exchange = self.exchange.as_ref().filter(|_| is_arriving)?;
        Some(exchange.pace.check_at)
    }

    /// An upstream is kept for the request from now on.
    pub(super) fn begin_pace(&mut self, now: Instant) {
        let patience = self.state.config.timeouts.queue;
        let bytes = self.body_bytes();
        if let Some(exchange) = &mut self.exchange {
            exchange.pace = Pace { since: now, bytes, check_at: now + patience };
        }
    }

    /// Puts the next look off by the time between two looks.
    pub(super) fn check_capacity_again(&mut self, now: Instant) {
        let pause = (self.state.config.timeouts.queue / CAPACITY_CHECKS).max(CAPACITY_PAUSE);
        if let Some(exchange) = &mut self.exchange {
            exchange.pace.check_at = now + pause;
        }
    }

    /// Chooses for a request that is buffered, if no other one waits for capacity. Takes the upstream
    /// away from a request whose body hardly comes, if others wait for capacity.
    pub(super) fn check_capacity(&mut self, now: Instant) {
        const WHY: &str = "the request body came too slowly while others waited";
        let patience = self.state.config.timeouts.queue;
        let bytes = self.body_bytes();
        let is_clients = self.rest_is_clients() && !self.upstream.write_closed;
        self.check_capacity_again(now);
        if self.link == Link::Buffering {
            if self.state.upstreams.waiting() == 0 {
                self.link = Link::None;
                self.choose(now);
            }
            return;
        }
        let Some(exchange) = &mut self.exchange else { return };
        let pace = &mut exchange.pace;
        // Time in which the client had to wait for the upstream is not the client's.
        if !is_clients || bytes.saturating_sub(pace.bytes) >= LEAST_BODY {
            (pace.since, pace.bytes) = (now, bytes);
        }
        let is_slow = now >= pace.since + patience;
        if !(is_slow && is_clients && self.state.upstreams.waiting() > 0) {
            return;
        }
        if let ResponseLeg::Head(_) = self.response_leg {
            self.answer(Reject::with(408, WHY), None);
        } else {
            self.abort(WHY, now);
        }
    }

    /// Bytes that have come of the request's body.
    fn body_bytes(&self) -> u64 {
        if let RequestLeg::Body(transfer) = &self.request_leg { transfer.bytes } else { 0 }
    }

    /// Since when it has waited for a whole request head, if that is all it does, and whether a part
    /// of one has come. To be asked after `next`.
    pub fn waits_for_head(&self) -> Option<(Instant, bool)> {
        let is_open = self.phase == Phase::Open && self.turned_away.is_none();
        match self.waiting {
            Timeout::Idle if is_open => Some((self.since, false)),
            Timeout::Head if is_open => Some((self.since, true)),
            _ => None,
        }
    }

    /// Whether a whole request head has come since it was new, or began again.
    pub fn has_asked(&self) -> bool {
        self.has_asked
    }

    fn shortage_pause(&self) -> Duration {
        let waited = self.exchange.as_ref().map_or(1, |exchange| exchange.shortages);
        SHORTAGE_PAUSE * (1 << waited.saturating_sub(1).min(SHORTAGE_DOUBLINGS))
    }

    /// Starts the clock anew if something else is waited for than before.
    pub(super) fn note_wait(&mut self, now: Instant) {
        let waiting = self.waits_for();
        if waiting != self.waiting {
            (self.waiting, self.since) = (waiting, now);
        }
    }

    fn waits_for(&self) -> Timeout {
        match self.phase {
            Phase::Lingering => return Timeout::Linger,
            Phase::Last(_) | Phase::Closed { .. } => return Timeout::Progress,
            Phase::Open => (),
        }
        let Some(exchange) = &self.exchange else {
            return match (self.client.input.is_empty(), self.state.is_stopping()) {
                (false, _) => Timeout::Head,
                (true, true) => Timeout::Grace,
                // Whoever only comes to be turned away must not keep others from being told.
                (true, false) if self.turned_away.is_some() => Timeout::Linger,
                (true, false) => Timeout::Idle,
            };
        };
        let output_is_out = self.upstream.is_flushed() || self.upstream.write_closed;
        match (&self.request_leg, &self.response_leg) {
            (RequestLeg::Tunnel, _) => Timeout::Tunnel,
            // The answer is out, and may be the only thing that it came for.
            _ if self.request_leg.is_discarding() && self.client.output.is_empty() => {
                Timeout::Linger
            }
            (_, ResponseLeg::Head(_)) if self.link == Link::Queued => Timeout::Queue,
            (_, ResponseLeg::Head(_)) if self.link == Link::Connecting => Timeout::Connect,
            (_, ResponseLeg::Head(_)) if self.link == Link::Short => Timeout::Shortage,
            (RequestLeg::Body(_), ResponseLeg::Head(_))
                if !exchange.awaits_continue && !self.upstream.write_closed =>
            {
                Timeout::Progress
            }
            (_, ResponseLeg::Head(_)) if output_is_out => Timeout::Response,
            _ => Timeout::Progress,
        }
    }

    /// The deadline has passed.
    pub(super) fn on_deadline(&mut self, now: Instant) {
        if self.turned_away.is_some_and(|since| since + TURN_AWAY_TIMEOUT <= now) {
            let is_cut = !self.client.is_flushed();
            self.abort("it was turned away, and did not leave in time", now);
            self.phase = Phase::Closed { abort: is_cut };
            return;
        }
        match self.waiting {
            Timeout::Linger if self.request_leg.is_discarding() => {
                self.request_leg = RequestLeg::Cut;
            }
            Timeout::Idle | Timeout::Grace | Timeout::Linger => {
                self.phase = Phase::Closed { abort: false };
            }
            Timeout::Head => {
                self.refuse_head(Reject::with(408, "the request head took too long"), now);
            }
            Timeout::Shortage => self.connect_again(now),
            Timeout::Queue => self.overloaded("no upstream had room in time"),
            Timeout::Connect => {
                self.connect_timed_out(now);
            }
            Timeout::Response => self.upstream_failed(Failure::Late, now),
            Timeout::Progress => self.stalled(now),
            Timeout::Tunnel => self.end_tunnel("the tunnel was idle for too long", now),
        }
    }

    /// No byte has moved for too long.
    fn stalled(&mut self, now: Instant) {
        let awaits_response = matches!(self.response_leg, ResponseLeg::Head(_));
        if let Phase::Last(_) = self.phase {
            self.abort("the client does not read", now);
            self.phase = Phase::Closed { abort: true };
        } else if awaits_response && self.link != Link::Buffering && !self.upstream.is_flushed() {
            self.too_late(now);
            self.answer(Reject::with(504, "the upstream does not read the request"), None);
        } else if awaits_response {
            self.answer(Reject::with(408, CLIENT_STALLED), None);
        } else {
            // If it is the client that does not read, there is no use in waiting for it once more.
            let client_reads = self.client.is_flushed();
            let why = if client_reads {
                "the upstream stopped sending"
            } else {
                "the client stopped reading"
            };
            self.abort(why, now);
            if !client_reads {
                self.phase = Phase::Closed { abort: true };
            }
        }
    }
}
