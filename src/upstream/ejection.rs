//! What is known of one upstream, and when a real request tries it while it is ejected.
//!
//! No lock and no clock: whoever holds the lock says what happened, and when. Not here: the rule by
//! which the state turns (`health.rs`), who is sent to try (`mod.rs`).

use std::time::{Duration, Instant};

use super::health::{Health, Observation};
use crate::log_throttle::LogThrottle;

/// How long an ejected upstream is left alone before one real request tries it, if no probe can
/// restore it. One that fails requests is left alone for twice as long each time.
pub const TRIAL_INTERVAL: Duration = Duration::from_secs(10);
/// How long a trial that says nothing keeps others from being sent.
pub(super) const TRIAL_PATIENCE: Duration = Duration::from_secs(60);
/// How often that time is doubled: up to 320 s.
const DOUBLINGS: u32 = 5;
/// The time between two requests that try one that failed requests, once the first was served.
pub(super) const TRIAL_SPACING: Duration = Duration::from_secs(1);

/// What is known of an upstream's health.
#[derive(Default)]
pub(super) struct EjectionState {
    pub health: Health,
    /// Why it was ejected the last time.
    pub ejected_for: Option<Observation>,
    /// When a real request may try it; only while it is ejected and no probe can restore it.
    pub trial_at: Option<Instant>,
    /// A trial is out, and no other one is sent before then.
    pub trial_out_until: Option<Instant>,
    /// How often in a row it has failed requests again soon after it was tried or restored.
    pub re_ejections: u32,
    pub restored_at: Option<Instant>,
    /// Until when its connections are not used again.
    pub reuse_disabled_until: Option<Instant>,
    /// Limits warnings that it fails requests and is not ejected.
    pub warnings: LogThrottle,
}

impl EjectionState {
    /// How long it is left alone before requests try it.
    pub fn pause(&self) -> Duration {
        let doublings =
            if self.health.fails_requests() { self.re_ejections.min(DOUBLINGS) } else { 0 };
        TRIAL_INTERVAL * (1 << doublings)
    }

    /// A trial has failed: it is left alone for longer.
    pub fn put_off(&mut self, now: Instant) {
        self.re_ejections =
            self.re_ejections.saturating_add(u32::from(self.health.fails_requests()));
        self.trial_at = Some(now + self.pause());
    }

    /// It is ejected. `trials`: requests try it in any case, because nobody else does.
    pub fn ejected(&mut self, trials: bool, now: Instant) {
        if self.health.fails_requests() {
            let is_re_ejection = self.restored_at.is_some_and(|at| now < at + self.pause());
            self.re_ejections =
                if is_re_ejection { self.re_ejections.saturating_add(1) } else { 0 };
        }
        let is_tried = trials || self.health.fails_requests();
        self.trial_at = is_tried.then(|| now + self.pause());
    }

    /// A request that tried it was served, and that was not enough yet.
    pub fn try_again_soon(&mut self, now: Instant) {
        self.trial_at = Some(now + TRIAL_SPACING);
    }
}
