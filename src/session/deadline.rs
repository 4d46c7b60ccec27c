//! How long a session waits, for what, and what happens when that was too long.
//!
//! What is waited for follows from the state, so there is one alarm at a time and it knows its
//! reason. Not here: timers (`engine/`).

use std::time::{Duration, Instant};

use super::exchange::{RequestLeg, ResponseLeg};
use super::retry::Failure;
use super::{Link, Phase, Session};
use crate::http1::Reject;

/// How long a request waits for descriptors, ports or memory before it asks again; each further
/// pause is twice as long, so that many that wait do not make the shortage worse.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// How often the pause is doubled.
const SHORTAGE_DOUBLINGS: u32 = 3;

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
/// | `Response` | the request was out           | 504                                                  |
/// | `Progress` | the last byte moved           | 408 or 504, whoever stalls; abort if answered        |
/// | `Tunnel`   | the last byte moved           | closed                                               |
/// | `Linger`   | the last answer was out       | closed                                               |
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
        Some(match self.waiting {
            Timeout::Idle => self.since + timeouts.idle,
            Timeout::Grace => self.since + timeouts.drain_grace,
            Timeout::Head => self.since + timeouts.head,
            Timeout::Shortage => self.since + self.shortage_pause(),
            Timeout::Queue => self.since + timeouts.queue,
            Timeout::Connect => self.since + timeouts.connect,
            Timeout::Response => self.since + timeouts.response,
            Timeout::Progress => last_moved + timeouts.progress,
            Timeout::Tunnel => last_moved + timeouts.tunnel,
            Timeout::Linger => self.since + timeouts.linger,
        })
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
                (true, false) if self.turned_away => Timeout::Linger,
                (true, false) => Timeout::Idle,
            };
        };
        let output_is_out = self.upstream.is_flushed() || self.upstream.deaf;
        match (&self.request_leg, &self.response_leg) {
            (RequestLeg::Tunnel, _) => Timeout::Tunnel,
            (_, ResponseLeg::Head(_)) if self.link == Link::Queued => Timeout::Queue,
            (_, ResponseLeg::Head(_)) if self.link == Link::Connecting => Timeout::Connect,
            (_, ResponseLeg::Head(_)) if self.link == Link::Short => Timeout::Shortage,
            (RequestLeg::Body(_), ResponseLeg::Head(_))
                if !exchange.awaits_continue && !self.upstream.deaf =>
            {
                Timeout::Progress
            }
            (_, ResponseLeg::Head(_)) if output_is_out => Timeout::Response,
            _ => Timeout::Progress,
        }
    }

    /// The deadline has passed.
    pub(super) fn fire(&mut self, now: Instant) {
        match self.waiting {
            Timeout::Idle | Timeout::Grace | Timeout::Linger => {
                self.phase = Phase::Closed { abort: false };
            }
            Timeout::Head => {
                self.refuse_head(Reject::with(408, "the request head took too long"), now);
            }
            Timeout::Shortage => self.connect_again(now),
            Timeout::Queue => self.overloaded("no upstream had room in time", now),
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
        } else if awaits_response && !self.upstream.is_flushed() {
            self.too_late(now);
            self.answer(Reject::with(504, "the upstream does not read the request"), None);
        } else if awaits_response {
            self.answer(Reject::with(408, "the request body stopped arriving"), None);
        } else if self.request_leg.is_discarding() && self.client.output.is_empty() {
            self.request_leg = RequestLeg::Cut;
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
