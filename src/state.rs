//! What all sessions and the background threads share: `Arc<ProxyState>`.
//!
//! Not here: anything that belongs to one connection (`session/`), or to waiting (`engine/`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::budget::Budget;
use crate::config::Config;
use crate::limit::Limiter;
use crate::upstream::Upstreams;

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
    pub tally: Tally,
    stopping: AtomicBool,
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
            tally: Tally::default(),
            stopping: AtomicBool::new(false),
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
}

/// Counts since the start; each is a number of exchanges unless its name says otherwise.
#[derive(Debug, Default)]
pub struct Tally {
    /// Ended with a whole answer, ours or an upstream's.
    pub finished: Count,
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
