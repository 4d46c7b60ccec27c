//! One upstream: how it is reached, and the exchanges that it has.
//!
//! Not here: which one is chosen (`mod.rs`, `balance.rs`), what is known of its health
//! (`condition.rs`, `health.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::condition::Condition;
use super::health::Seen;
use super::queue::Queue;
use crate::config::Authority;
use crate::lock::Lock;

/// How long the connections of an upstream are not used again after it sent bytes that nobody asked
/// for. Longer than any of them may be idle, so that none of those made before is ever used again.
pub const DISTRUST: Duration = Duration::from_secs(120);

/// The least time between two warnings of the same kind about one upstream.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// Names one upstream; its place in the order in which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub usize);

/// One server that requests can be sent to.
pub struct Upstream {
    id: UpstreamId,
    authority: Authority,
    name: String,
    addresses: Lock<Arc<[SocketAddr]>>,
    /// Where in `addresses` a connect begins: behind the one that failed last.
    first_address: AtomicUsize,
    in_flight: AtomicUsize,
    bound: Option<Bound>,
    pub(super) is_up: AtomicBool,
    /// Whether a `Served` could change anything; spares the lock on every good answer.
    pub(super) is_doubted: AtomicBool,
    /// Whether its connections may not be used again for a while; spares the lock when they may.
    is_distrusted: AtomicBool,
    pub(super) condition: Lock<Condition>,
}

/// How many exchanges an upstream may have at a time.
#[derive(Clone)]
pub(super) struct Bound {
    pub most: usize,
    /// Those that wait for room, at any upstream.
    pub queue: Arc<Queue>,
    /// How ejected ones are chosen when nobody is live; `None`: they are not.
    pub when_none_live: Option<Chosen>,
    pub live: Arc<AtomicUsize>,
    pub failed_open: Arc<AtomicU64>,
}

impl Upstream {
    pub(super) fn new(
        id: UpstreamId,
        authority: Authority,
        addresses: Vec<SocketAddr>,
        bound: Option<Bound>,
    ) -> Self {
        Upstream {
            id,
            name: authority.to_string(),
            authority,
            addresses: Lock::new(addresses.into()),
            first_address: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            bound,
            is_up: AtomicBool::new(true),
            is_doubted: AtomicBool::new(false),
            is_distrusted: AtomicBool::new(false),
            condition: Lock::default(),
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
        self.is_up.load(Ordering::Acquire)
    }

    /// Whether a connection to it may serve a second exchange.
    pub fn may_reuse(&self, now: Instant) -> bool {
        if !self.is_distrusted.load(Ordering::Acquire) {
            return true;
        }
        let until = self.condition.lock().distrusted_until;
        let is_over = until.is_none_or(|until| until <= now);
        if is_over {
            self.is_distrusted.store(false, Ordering::Release);
        }
        is_over
    }

    /// It has sent bytes beyond a response, or before any request. Such bytes would be taken for
    /// the answer to the next request if they came a moment later, so for a while no connection of
    /// its is used twice.
    pub fn distrust(&self, now: Instant) {
        self.condition.lock().distrusted_until = Some(now + DISTRUST);
        if !self.is_distrusted.swap(true, Ordering::AcqRel) {
            log::warn!(
                "upstream {} sent bytes that belong to no response; for {DISTRUST:?} each request \
                 gets a connection of its own",
                self.name
            );
        }
    }

    /// Says once in a while that it fails requests, and stays.
    pub(super) fn warn_of(&self, seen: Seen, stays: &str, now: Instant) {
        let mut condition = self.condition.lock();
        let is_due = condition.warned_at.is_none_or(|at| now >= at + WARNING_PAUSE);
        if is_due {
            condition.warned_at = Some(now);
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

    /// Counts one more exchange until the guard is dropped. `None`: it has as many as it may.
    pub(super) fn begin(self: &Arc<Self>, chosen: Chosen) -> Option<InFlight> {
        let order = Ordering::SeqCst;
        if let Some(Bound { most, .. }) = &self.bound {
            // Never more, not even for a moment: whoever looks then would find no room.
            let more = |count| (count < *most).then_some(count + 1);
            self.in_flight.fetch_update(order, order, more).ok()?;
        } else {
            self.in_flight.fetch_add(1, order);
        }
        Some(InFlight { upstream: self.clone(), chosen, trial: None })
    }

    /// Gives the room that it has to those that wait for it.
    pub(super) fn serve_queue(self: &Arc<Self>) {
        let Some(bound) = &self.bound else { return };
        let Bound { most, queue, live, when_none_live, failed_open } = bound;
        // Whoever frees room looks again, so none is overlooked here.
        if queue.len() == 0 || self.in_flight.load(Ordering::SeqCst) >= *most {
            return;
        }
        let is_anybody_live = live.load(Ordering::SeqCst) > 0;
        let chosen = match (self.is_up(), is_anybody_live) {
            (true, _) => Some(Chosen::Live),
            (false, true) => None,
            (false, false) => *when_none_live,
        };
        if let Some(chosen) = chosen {
            queue.hand_over(self.id, || {
                let choice = self.begin(chosen)?;
                failed_open.fetch_add(u64::from(chosen != Chosen::Live), Ordering::Relaxed);
                Some(choice)
            });
        }
    }
}

/// A choice that was made; the exchange counts as in flight until this is dropped.
pub struct InFlight {
    pub(super) upstream: Arc<Upstream>,
    pub(super) chosen: Chosen,
    /// Which ejection it was sent in, if it was sent to try an ejected upstream.
    pub(super) trial: Option<u32>,
}

/// Why an upstream was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// It was on the live list.
    Live,
    /// It is ejected, and this request tries it.
    Trial,
    /// Nobody was on the live list.
    FailOpen,
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

    /// If it is a trial of the present ejection, it is no longer out. Returns whether it is one.
    pub(super) fn end_trial(&self) -> bool {
        if self.trial.is_none() {
            return false;
        }
        let mut condition = self.upstream.condition.lock();
        let is_its = self.trial == Some(condition.turns);
        condition.trial_out_until.take_if(|_| is_its);
        is_its
    }

    /// What a response head from it means for its health.
    pub fn served(&self) -> Seen {
        if self.chosen == Chosen::Trial { Seen::TrialServed } else { Seen::Served }
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
