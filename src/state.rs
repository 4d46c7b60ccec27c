//! What all sessions and the background threads share: `Arc<ProxyState>`.
//!
//! Not here: anything that belongs to one connection (`session/`), or to waiting (`engine/`).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::config::Config;
use crate::rate_limit::Limiter;
use crate::telemetry::error_log::ErrorLog;
use crate::upstream::Upstreams;
use crate::upstream::retry_budget::Budget;

/// Shared by every session, the engine, the health-check thread and the rate-limit thread.
pub struct ProxyState {
    /// What the operator decided.
    pub config: Config,
    /// Who can be sent to, and who is chosen.
    pub upstreams: Upstreams,
    /// Who may ask how often; `None` is no limit.
    pub limiter: Option<Limiter>,
    /// How many requests may be sent twice.
    pub budget: Budget,
    /// What happened so far.
    pub counters: Counters,
    /// What clients were answered by us because something went wrong.
    pub errors: ErrorLog,
    stopping: AtomicBool,
    crowded: AtomicBool,
}

impl ProxyState {
    /// Puts the parts together. `now` is when the retry budget begins to fill.
    pub fn new(config: Config, upstreams: Upstreams, now: Instant) -> Self {
        let limits = &config.limits;
        let limiter = (limits.requests_per_minute > 0)
            .then(|| Limiter::new(limits.requests_per_minute, limits.rate_limit_clients, now));
        let budget = Budget::new(config.retry.budget_percent, config.retry.budget_floor, now);
        ProxyState {
            upstreams,
            limiter,
            budget,
            counters: Counters::default(),
            errors: ErrorLog::default(),
            stopping: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            config,
        }
    }

    /// Tells every session to end after the exchange it is in.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether a drain has begun.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Notes whether clients wait for the place of a connection because all are taken
    /// (`Limits::connections`).
    pub fn note_crowd(&self, is_crowded: bool) {
        self.crowded.store(is_crowded, Ordering::Relaxed);
    }

    /// Whether clients wait for the place of a connection.
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }
}

/// Counts since the start; each is a number of exchanges unless its name says otherwise. An exchange
/// that is over is in exactly one of the first five.
#[derive(Debug, Default)]
pub struct Counters {
    /// Whole answers of upstreams, by the first digit of their status; 1 is a tunnel.
    pub answered: [Count; 6],
    /// Whole answers of ours to what no upstream was asked for: 4xx, 501, 505, `OPTIONS` for us.
    pub refused: Count,
    /// Whole answers of ours because no upstream gave one: 502, 503, 504.
    pub failed: [Count; 3],
    /// Given up after a part of the answer had reached the client.
    pub aborted: Count,
    /// Left by the client before the answer was whole.
    pub client_gone: Count,
    /// Sent again, each time it was.
    pub retried: Count,
    /// Answered 503 because no upstream had room.
    pub shed: Count,
    /// Sessions lost to a panic.
    pub panics: Count,
}

impl Counters {
    /// A client got a whole answer. `is_own`: it was ours.
    pub fn count_answer(&self, status: u16, is_own: bool) {
        let count = match status {
            502..=504 if is_own => &self.failed[usize::from(status - 502)],
            _ if is_own => &self.refused,
            _ => &self.answered[usize::from(status / 100).min(5)],
        };
        count.add_one();
    }

    /// What was counted so far. `fail_open`: requests sent to ejected upstreams.
    pub fn stats(&self, fail_open: u64) -> Stats {
        let [_, tunnels, answered_2xx, answered_3xx, answered_4xx, answered_5xx] =
            self.answered.each_ref().map(Count::get);
        let [own_502, own_503, own_504] = self.failed.each_ref().map(Count::get);
        Stats {
            tunnels,
            answered_2xx,
            answered_3xx,
            answered_4xx,
            answered_5xx,
            refused: self.refused.get(),
            own_502,
            own_503,
            own_504,
            aborted: self.aborted.get(),
            client_left: self.client_gone.get(),
            retries: self.retried.get(),
            fail_open,
            queue_rejected: self.shed.get(),
            panics: self.panics.get(),
        }
    }
}

/// Counts since the start, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Upgraded connections, such as WebSockets, that have ended.
    pub tunnels: u64,
    /// Whole answers of upstreams with a status from 200 to 299.
    pub answered_2xx: u64,
    /// The same from 300 to 399.
    pub answered_3xx: u64,
    /// The same from 400 to 499.
    pub answered_4xx: u64,
    /// The same from 500 on.
    pub answered_5xx: u64,
    /// Requests that balancebeam answered itself, because of the request: 4xx, 501, 505.
    pub refused: u64,
    /// Requests that balancebeam answered 502: the upstream gave no usable answer.
    pub own_502: u64,
    /// Requests that balancebeam answered 503: no upstream was up, or none had room.
    pub own_503: u64,
    /// Requests that balancebeam answered 504: the upstream was too late.
    pub own_504: u64,
    /// Answers that were cut before their end.
    pub aborted: u64,
    /// Requests whose client left before the answer was whole.
    pub client_left: u64,
    /// Requests that were sent again, each time they were.
    pub retries: u64,
    /// Requests that were sent to an ejected upstream because no live one was left.
    pub fail_open: u64,
    /// Requests that were answered 503 because no upstream had room (a part of `own_503`).
    pub queue_rejected: u64,
    /// Connections that were lost to a panic: a bug.
    pub panics: u64,
}

impl Stats {
    /// Requests whose client got a whole answer that does not tell of a failure between client and
    /// upstream: an upstream's, whatever its status, or a refusal.
    pub fn finished(&self) -> u64 {
        let Stats { tunnels, answered_2xx, answered_3xx, answered_4xx, answered_5xx, .. } = self;
        tunnels + answered_2xx + answered_3xx + answered_4xx + answered_5xx + self.refused
    }

    /// Requests whose client got a 502, 503 or 504 of balancebeam's own.
    pub fn failed(&self) -> u64 {
        self.own_502 + self.own_503 + self.own_504
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("2xx", self.answered_2xx),
            ("3xx", self.answered_3xx),
            ("4xx", self.answered_4xx),
            ("5xx", self.answered_5xx),
            ("tunnels", self.tunnels),
            ("refused", self.refused),
            ("own_502", self.own_502),
            ("own_503", self.own_503),
            ("own_504", self.own_504),
            ("aborted", self.aborted),
            ("client_left", self.client_left),
            ("retries", self.retries),
            ("fail_open", self.fail_open),
            ("queue_rejected", self.queue_rejected),
            ("panics", self.panics),
        ];
        for (i, (name, count)) in counts.iter().enumerate() {
            write!(f, "{}{name}={count}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
