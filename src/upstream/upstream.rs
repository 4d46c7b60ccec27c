//! One upstream: how it is reached, and the exchanges that it has.
//!
//! Not here: which one is chosen (`mod.rs`, `balance.rs`), what is known of its health
//! (`ejection.rs`, `health.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::choice::Chosen;
use super::concurrency::ConcurrencyLimit;
use super::ejection::EjectionState;
use super::health::Observation;
use super::id::UpstreamId;
use super::idle_limit::IdleLimit;
use crate::config::Authority;
use crate::lock::Lock;

/// How long the connections of an upstream are not used again after it sent bytes that nobody asked
/// for. Longer than any of them may be idle, so that none of those made before is ever used again.
pub const REUSE_PAUSE: Duration = Duration::from_secs(120);

/// One server that requests can be sent to.
pub struct Upstream {
    id: UpstreamId,
    authority: Authority,
    name: String,
    addresses: Lock<Arc<[SocketAddr]>>,
    /// Where in `addresses` a connect begins: behind the one that failed last.
    first_address: AtomicUsize,
    in_flight: AtomicUsize,
    limit: Option<ConcurrencyLimit<InFlight>>,
    /// How often it was ejected or restored; odd while it is ejected.
    epoch: AtomicU32,
    /// Whether a `Served` could change anything; spares the lock on every good answer.
    pub(super) is_doubted: AtomicBool,
    /// Whether its connections may not be used again for a while; spares the lock when they may.
    is_reuse_disabled: AtomicBool,
    /// How long it lets connections be idle.
    pub idle_limit: IdleLimit,
    pub(super) ejection: Lock<EjectionState>,
}

impl Upstream {
    pub(super) fn new(
        id: UpstreamId,
        authority: Authority,
        addresses: Vec<SocketAddr>,
        limit: Option<ConcurrencyLimit<InFlight>>,
    ) -> Self {
        Upstream {
            id,
            name: authority.to_string(),
            authority,
            addresses: Lock::new(addresses.into()),
            first_address: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            limit,
            epoch: AtomicU32::new(0),
            is_doubted: AtomicBool::new(false),
            is_reuse_disabled: AtomicBool::new(false),
            idle_limit: IdleLimit::default(),
            ejection: Lock::default(),
        }
    }

    /// Which one it is.
    pub fn id(&self) -> UpstreamId {
        self.id
    }

    /// Host and port as they were given.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// `host:port`, for `Host` fields and log lines.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Exchanges that use it now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it is on the live list.
    pub fn is_up(&self) -> bool {
        self.epoch.load(Ordering::Acquire).is_multiple_of(2)
    }

    /// What it was ejected for the last time; `None` if it never was.
    pub fn ejected_for(&self) -> Option<Observation> {
        self.ejection.lock().ejected_for
    }

    /// It is ejected or restored.
    pub(super) fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a connection to it may serve a second exchange.
    pub fn may_reuse(&self, now: Instant) -> bool {
        if !self.is_reuse_disabled.load(Ordering::Acquire) {
            return true;
        }
        let until = self.ejection.lock().reuse_disabled_until;
        let is_over = until.is_none_or(|until| until <= now);
        if is_over {
            self.is_reuse_disabled.store(false, Ordering::Release);
        }
        is_over
    }

    /// It has sent bytes beyond a response, or before any request. Such bytes would be taken for
    /// the answer to the next request if they came a moment later, so for a while no connection of
    /// its is used twice.
    pub fn disable_reuse(&self, now: Instant) {
        self.ejection.lock().reuse_disabled_until = Some(now + REUSE_PAUSE);
        if !self.is_reuse_disabled.swap(true, Ordering::AcqRel) {
            log::warn!(
                "upstream {} sent bytes that belong to no response; for {REUSE_PAUSE:?} each request \
                 gets a connection of its own",
                self.name
            );
        }
    }

    /// Says once in a while that it fails requests, and stays.
    pub(super) fn warn_of(&self, seen: Observation, stays: &str, now: Instant) {
        if self.ejection.lock().warnings.may_log(now) {
            log::warn!("upstream {}: {seen}; {stays}, so it is not ejected", self.name);
        }
    }

    /// Where it can be reached now; the names of a set are resolved anew from time to time.
    pub fn addresses(&self) -> Arc<[SocketAddr]> {
        self.addresses.lock().clone()
    }

    /// The index in `addresses` at which a connect begins.
    pub fn first_address(&self) -> usize {
        self.first_address.load(Ordering::Relaxed)
    }

    /// Makes the next connect begin behind the address that has just failed.
    pub fn skip_address(&self, failed: usize) {
        self.first_address.store(failed.wrapping_add(1), Ordering::Relaxed);
    }

    /// Replaces the addresses. An empty list is ignored: the last good one is kept.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        if !addresses.is_empty() {
            *self.addresses.lock() = addresses.into();
        }
    }

    /// Counts one more exchange until the guard is dropped. `None`: the concurrency limit is reached.
    pub(super) fn begin(self: &Arc<Self>, chosen: Chosen) -> Option<InFlight> {
        match &self.limit {
            Some(limit) if !limit.take_place(&self.in_flight) => return None,
            Some(_) => (),
            None => drop(self.in_flight.fetch_add(1, Ordering::SeqCst)),
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        Some(InFlight {
            upstream: self.clone(),
            chosen,
            epoch,
            trial_until: None,
            has_failed: AtomicBool::new(false),
        })
    }

    /// Gives free places to the requests that wait for them.
    pub(super) fn serve_queue(self: &Arc<Self>) {
        if let Some(limit) = &self.limit {
            limit.serve_queue(self.id, self.is_up(), &self.in_flight, |chosen| self.begin(chosen));
        }
    }
}

/// A choice that was made; the exchange counts as in flight until this is dropped.
pub struct InFlight {
    pub(super) upstream: Arc<Upstream>,
    pub(super) chosen: Chosen,
    /// `Upstream::epoch` when it was chosen.
    epoch: u32,
    /// How long no other one is sent to try the upstream, if this one is.
    pub(super) trial_until: Option<Instant>,
    /// Whether it has failed as a trial.
    has_failed: AtomicBool,
}

impl InFlight {
    /// The upstream that was chosen.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Why it was chosen.
    pub fn chosen(&self) -> Chosen {
        self.chosen
    }

    /// Whether the upstream was ejected or restored since: what is seen of it says nothing about
    /// now.
    pub(super) fn is_outdated(&self) -> bool {
        self.epoch != self.upstream.epoch.load(Ordering::Acquire)
    }

    /// If it is the trial that is out, none is any more.
    pub(super) fn end_trial(&self) {
        if let Some(until) = self.trial_until {
            self.upstream.ejection.lock().trial_out_until.take_if(|out| *out == until);
        }
    }

    /// If it is a trial, it has failed. Returns whether it is one that had not failed before.
    pub(super) fn fails_trial(&self) -> bool {
        self.end_trial();
        self.trial_until.is_some() && !self.has_failed.swap(true, Ordering::Relaxed)
    }

    /// What a response head from it means for its health.
    pub fn served(&self) -> Observation {
        if self.chosen == Chosen::Trial { Observation::TrialServed } else { Observation::Served }
    }

    /// What one means that tells of a fault of the upstream's own.
    pub fn failed(&self, status: u16) -> Observation {
        let is_trial = self.chosen == Chosen::Trial;
        if is_trial { Observation::TrialFailed(status) } else { Observation::ServerError(status) }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end_trial();
        self.upstream.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.upstream.serve_queue();
    }
}

#[cfg(test)]
pub(crate) fn test_upstreams(count: usize) -> Vec<Arc<Upstream>> {
    (0..count)
        .map(|i| {
            let address = SocketAddr::from(([127, 0, 0, 1], 8000 + i as u16));
            Arc::new(Upstream::new(UpstreamId(i), address.into(), vec![address], None))
        })
        .collect()
}
