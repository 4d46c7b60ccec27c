//! What an exchange waits for, how long, and what happens when that was too long.
//!
//! What is waited for follows from the state, so there is one alarm at a time and it knows its
//! reason. Not here: timers (`engine/`), what a connection without an exchange waits for
//! (`session/deadline.rs`).

use std::time::{Duration, Instant};

use super::retry::{CLIENT_STALLED, Failure};
use super::{
    ClientSide, Ending, Exchange, ExchangeOutcome, Link, RequestLeg, ResponseLeg, StreamEnd,
};
use crate::config::Config;
use crate::message::Reply;

/// How long a request waits for descriptors, ports or memory before it asks again; each further
/// pause is twice as long, so that many waiting requests do not make the shortage worse.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// How often the pause is doubled.
const SHORTAGE_DOUBLINGS: u32 = 3;

/// How long 102 and 103 can put off `Response`, counted from when the request was out. Each puts it
/// off by one `--response-timeout`.
const LONGEST_INTERIM: Duration = Duration::from_secs(600);

/// Bytes of a body that must come within `--queue-timeout` for its request to keep an upstream busy
/// for which others wait.
const LEAST_BODY: u64 = 1024;
/// How often that is checked within `--queue-timeout` …
const CAPACITY_CHECKS: u32 = 4;
/// … and the least time between two checks.
const CAPACITY_PAUSE: Duration = Duration::from_millis(10);

/// How long a client must have sent nothing of its request's body for the end of the upstream's
/// connection to be taken for the upstream's own read timeout. Pauses within a body that is on its
/// way are shorter, and such a request is sent again if it may be.
const CLIENT_STALL: Duration = Duration::from_millis(250);

/// What is waited for.
///
/// | waits for  | since                         | when it is over                                      |
/// |------------|-------------------------------|------------------------------------------------------|
/// | `Idle`     | the last exchange             | closed without an answer                             |
/// | `Grace`    | the drain began               | closed without an answer                             |
/// | `Head`     | its first byte                | 408                                                  |
/// | `Shortage` | descriptors ran out           | the connect is tried again; 503 after the time of one |
/// | `Queue`    | every upstream was full       | 503                                                  |
/// | `Connect`  | the connect was asked for     | the next address, then the next upstream             |
/// | `Response` | the request was out; put off by 102 and 103 | 504                                    |
/// | `Progress` | the last byte moved           | 408 or 504, depending on which side stalls; abort if answered |
/// | `Tunnel`   | the last byte moved           | closed                                               |
/// | `Linger`   | the last answer was out       | closed; the rest of a rejected request's body is not read |
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

/// What is waited for, and since when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    pub timeout: Timeout,
    pub since: Instant,
}

impl Wait {
    /// Starts the clock again.
    pub fn begin(&mut self, timeout: Timeout, now: Instant) {
        *self = Wait { timeout, since: now };
    }

    /// Starts the clock again if something else is waited for than before.
    pub fn note(&mut self, timeout: Timeout, now: Instant) {
        if self.timeout != timeout {
            self.begin(timeout, now);
        }
    }
}

/// How fast a request's body comes; looked at only where `--max-in-flight` bounds what an upstream has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Since when fewer bytes have come than keep the capacity of an upstream.
    pub since: Instant,
    /// Bytes of the body that had come then.
    pub bytes: u64,
    /// When it is checked next.
    pub check_at: Instant,
}

impl Exchange {
    /// What is waited for now. `is_read`: the client has taken all of its output.
    pub(crate) fn waits_for(&self, is_read: bool) -> Timeout {
        let output_is_out = self.upstream.is_flushed() || self.upstream.write_closed;
        match (&self.request_leg, &self.response_leg) {
            (RequestLeg::Tunnel, _) => Timeout::Tunnel,
            // The answer is out, and may be the only thing that the client came for.
            _ if self.request_leg.is_discarding() && is_read => Timeout::Linger,
            (_, ResponseLeg::Head(_)) if self.link == Link::Queued => Timeout::Queue,
            (_, ResponseLeg::Head(_)) if self.link == Link::Connecting => Timeout::Connect,
            (_, ResponseLeg::Head(_)) if self.link == Link::Short => Timeout::Shortage,
            (RequestLeg::Body(_), ResponseLeg::Head(_))
                if !self.awaits_continue && !self.upstream.write_closed =>
            {
                Timeout::Progress
            }
            (_, ResponseLeg::Head(_)) if output_is_out => Timeout::Response,
            _ => Timeout::Progress,
        }
    }

    /// When `Timeout::Response` is over, if it is waited for since then.
    pub(crate) fn response_deadline(&self, config: &Config, since: Instant) -> Instant {
        let patience = config.timeouts.response;
        let at = since + patience;
        let interim_at = self.attempt.interim_at;
        interim_at.map_or(at, |last| (last + patience).min(since + LONGEST_INTERIM).max(at))
    }

    /// How long `Timeout::Shortage` is waited for.
    pub(crate) fn shortage_pause(&self) -> Duration {
        SHORTAGE_PAUSE * (1 << self.shortages.saturating_sub(1).min(SHORTAGE_DOUBLINGS))
    }

    /// When to look next at a request whose body is arriving, where upstreams have a concurrency
    /// limit (`--max-in-flight`): whether its body comes too slowly to keep an upstream, or, if it has
    /// none yet, whether one has capacity now.
    pub(crate) fn capacity_check_at(&self, config: &Config) -> Option<Instant> {
        config.limits.in_flight?;
        let is_arriving = matches!(self.request_leg, RequestLeg::Body(_))
            && !self.request_leg.is_discarding()
            && matches!(self.link, Link::Open { .. } | Link::Buffering);
        is_arriving.then_some(self.pace.check_at)
    }

    /// Notes that an upstream is kept for the request from now on.
    pub(super) fn begin_pace(&mut self, client: &ClientSide<'_>, now: Instant) {
        let patience = client.state.config.timeouts.queue;
        self.pace = Pace { since: now, bytes: self.body_bytes(), check_at: now + patience };
    }

    /// Puts the next check off by the time between two checks.
    pub(super) fn check_capacity_again(&mut self, client: &ClientSide<'_>, now: Instant) {
        let patience = client.state.config.timeouts.queue;
        self.pace.check_at = now + (patience / CAPACITY_CHECKS).max(CAPACITY_PAUSE);
    }

    /// Chooses for a request that is buffered, if no other one waits for capacity. Takes the upstream
    /// away from a request whose body hardly comes, if others wait for capacity.
    pub(crate) fn check_capacity(&mut self, client: &mut ClientSide<'_>, now: Instant) {
        const WHY: &str = "the request body came too slowly while others waited";
        let state = client.state;
        let patience = state.config.timeouts.queue;
        let bytes = self.body_bytes();
        let is_clients = self.rest_is_clients() && !self.upstream.write_closed;
        self.check_capacity_again(client, now);
        if self.link == Link::Buffering {
            if state.upstreams.waiting() == 0 {
                self.link = Link::None;
                self.choose(client, now);
            }
            return;
        }
        // Time in which the client had to wait for the upstream is not the client's.
        if !is_clients || bytes.saturating_sub(self.pace.bytes) >= LEAST_BODY {
            (self.pace.since, self.pace.bytes) = (now, bytes);
        }
        let is_slow = now >= self.pace.since + patience;
        if !(is_slow && is_clients && state.upstreams.waiting() > 0) {
            return;
        }
        if let ResponseLeg::Head(_) = self.response_leg {
            self.answer(client, Reply::closing(408, WHY));
        } else {
            self.abort(client, WHY);
        }
    }

    /// Whether the rest of the body is the client's to send, and the client has been silent for too
    /// long for the upstream to be blamed.
    pub(super) fn client_stalls(&self, client: &ClientSide<'_>, now: Instant) -> bool {
        self.rest_is_clients() && now >= client.sent_at + CLIENT_STALL
    }

    /// Bytes that have come of the request's body.
    fn body_bytes(&self) -> u64 {
        if let RequestLeg::Body(transfer) = &self.request_leg { transfer.bytes } else { 0 }
    }

    /// What was waited for has taken too long.
    pub(crate) fn on_deadline(
        &mut self,
        client: &mut ClientSide<'_>,
        timeout: Timeout,
        now: Instant,
    ) {
        match timeout {
            Timeout::Linger => self.request_leg = RequestLeg::Cut,
            Timeout::Shortage => self.connect_again(client, now),
            Timeout::Queue => self.overloaded(client, "no upstream had room in time"),
            Timeout::Connect => self.connect_timed_out(client, now),
            Timeout::Response => self.upstream_failed(client, Failure::Late, now),
            Timeout::Tunnel => self.end_tunnel(client, "the tunnel was idle for too long"),
            Timeout::Progress => self.stalled(client, now),
            // A connection without an exchange waits for these.
            Timeout::Idle | Timeout::Grace | Timeout::Head => (),
        }
    }

    /// No byte has moved for too long.
    fn stalled(&mut self, client: &mut ClientSide<'_>, now: Instant) {
        let awaits_response = matches!(self.response_leg, ResponseLeg::Head(_));
        if awaits_response && self.link != Link::Buffering && !self.upstream.is_flushed() {
            self.too_late(client, now);
            let reply = Reply::keeping(504, "the upstream does not read the request");
            self.answer(client, reply);
        } else if awaits_response {
            self.answer(client, Reply::closing(408, CLIENT_STALLED));
        } else if client.conn.is_flushed() {
            self.abort(client, "the upstream stopped sending");
        } else {
            // There is no use in waiting for the client once more.
            self.drop_link(client);
            self.ending = Some(Ending {
                outcome: ExchangeOutcome::Aborted,
                why: "the client stopped reading",
                stream: StreamEnd::Reset,
            });
        }
    }
}
