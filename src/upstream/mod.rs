//! The upstreams together: who may be chosen, and who is.
//!
//! The live list is a `Mutex` around one `Arc`; it is locked to clone or to replace that `Arc`, never
//! while choosing and never across I/O. Not here: connections (`engine/`), when to probe
//! (`health_check/`), one of them by itself (`upstream.rs`), the rule by which its state turns
//! (`health.rs`), who waits for room (`wait_queue.rs`).

pub mod balance;
mod choice;
mod concurrency;
mod ejection;
pub mod health;
mod id;
pub mod idle_limit;
pub mod retry_budget;
#[allow(clippy::module_inception)]
mod upstream;
mod wait_queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use std::net::{IpAddr, SocketAddr};

use crate::config::Config;
use crate::lock::Lock;
use balance::{Balance, Candidates};
use concurrency::ConcurrencyLimit;
use ejection::{TRIAL_PATIENCE, TRIAL_SPACING};
use health::{Change, HealthRules, Observation};
use wait_queue::WaitQueue;

pub use choice::{Chosen, NoChoice};
pub use ejection::TRIAL_INTERVAL;
pub use id::UpstreamId;
#[cfg(test)]
pub(crate) use upstream::test_upstreams;
pub use upstream::{InFlight, REUSE_PAUSE, Upstream};

/// A request that waits for capacity, until this is dropped; it gets a choice.
pub type Waiting = wait_queue::Waiting<InFlight>;
/// The ticket of such a request.
pub type Ticket = wait_queue::Ticket<InFlight>;
/// What has become of such a request.
pub type TicketStatus = wait_queue::TicketStatus<InFlight>;

/// All upstreams, and the live list.
pub struct Upstreams {
    all: Arc<[Arc<Upstream>]>,
    live: Lock<Arc<[Arc<Upstream>]>>,
    balance: Box<dyn Balance>,
    rules: HealthRules,
    /// Whether real requests try ejected upstreams, because no probe does.
    trials: bool,
    fail_open: bool,
    /// What bounds each of them.
    limit: Option<ConcurrencyLimit<InFlight>>,
    /// How many are on the live list; spares the lock.
    live_count: AtomicUsize,
    /// No trial is due before, or none at all; spares most requests the look at all upstreams.
    next_trial: Lock<Option<Instant>>,
    failed_open: Arc<AtomicU64>,
    /// Held while an observation that must not eject too many is taken into account.
    observing: Lock<()>,
}

impl Upstreams {
    /// `addresses` belong to `config.upstreams`, in the same order; random policies draw from `seed`.
    pub fn new(config: &Config, addresses: Vec<Vec<SocketAddr>>, seed: u64) -> Self {
        let trials = config.health.interval.is_none();
        let fail_open = config.retry.fail_open;
        let failing_open = if trials { Chosen::Trial } else { Chosen::FailOpen };
        let failed_open = Arc::new(AtomicU64::new(0));
        let limit = config.limits.in_flight.map(|most| ConcurrencyLimit {
            most,
            queue: Arc::new(WaitQueue::new(config.limits.queue, config.upstreams.len())),
            when_none_live: fail_open.then_some(failing_open),
            failed_open: failed_open.clone(),
        });
        let all: Arc<[Arc<Upstream>]> = config
            .upstreams
            .iter()
            .zip(addresses)
            .enumerate()
            .map(|(i, (authority, addresses))| {
                let id = UpstreamId(i);
                Arc::new(Upstream::new(id, authority.clone(), addresses, limit.clone()))
            })
            .collect();
        Upstreams {
            live: Lock::new(all.clone()),
            all,
            balance: balance::of_policy(config.policy, seed),
            rules: HealthRules {
                rise: config.health.rise,
                fall: config.health.fall,
                eject_after: config.health.eject_after,
            },
            trials,
            fail_open,
            limit,
            live_count: AtomicUsize::new(config.upstreams.len()),
            next_trial: Lock::default(),
            failed_open,
            observing: Lock::default(),
        }
    }

    /// Every upstream, ejected ones too.
    pub fn all(&self) -> &Arc<[Arc<Upstream>]> {
        &self.all
    }

    /// Those that may be chosen.
    pub fn live(&self) -> Arc<[Arc<Upstream>]> {
        self.live.lock().clone()
    }

    /// Requests that were sent to an ejected upstream because no live one was left for them.
    pub fn failed_open(&self) -> u64 {
        self.failed_open.load(Ordering::Relaxed)
    }

    /// Chooses one that is not in `tried`: an ejected one whose trial is due, a live one, or,
    /// failing those and if the operator allows it, an ejected one.
    pub fn pick(&self, tried: &[UpstreamId], now: Instant) -> Result<InFlight, NoChoice> {
        if let Some(trial) = self.due_trial(tried, now) {
            return Ok(trial);
        }
        let live = self.live();
        let chosen = self.choose(&live, tried, Chosen::Live);
        if chosen.as_ref().err() != Some(&NoChoice::Nobody) || !self.fail_open {
            return chosen;
        }
        let reason = if self.trials { Chosen::Trial } else { Chosen::FailOpen };
        let chosen = self.choose(&self.all, tried, reason)?;
        self.failed_open.fetch_add(1, Ordering::Relaxed);
        Ok(chosen)
    }

    fn choose(
        &self,
        among: &[Arc<Upstream>],
        tried: &[UpstreamId],
        chosen: Chosen,
    ) -> Result<InFlight, NoChoice> {
        let among = Candidates::new(among, tried);
        if among.is_empty() {
            return Err(NoChoice::Nobody);
        }
        if self.limit.as_ref().is_some_and(|limit| limit.queue.len() > 0) {
            return Err(NoChoice::Full);
        }
        let first = self.balance.pick(&among, !tried.is_empty());
        // Only one that has as many as it may is followed by another one.
        let mut numbers = (first..among.len()).chain(0..first);
        numbers.find_map(|number| among.get(number).begin(chosen)).ok_or(NoChoice::Full)
    }

    /// A request of `client` waits for one that is not in `tried` to have room. `None`: too many
    /// wait already.
    pub fn wait_for_capacity(&self, client: IpAddr, tried: &[UpstreamId]) -> Option<Waiting> {
        let waiting = self.limit.as_ref()?.queue.join(client, tried);
        // Some may have come free before it was known that somebody waits for it.
        self.serve_queue();
        waiting
    }

    /// Requests that wait for room.
    pub fn waiting(&self) -> usize {
        self.limit.as_ref().map_or(0, |limit| limit.queue.len())
    }

    fn serve_queue(&self) {
        self.all.iter().take_while(|_| self.waiting() > 0).for_each(Upstream::serve_queue);
    }

    fn due_trial(&self, tried: &[UpstreamId], now: Instant) -> Option<InFlight> {
        if self.ejected() == 0 {
            return None;
        }
        let mut next_trial = self.next_trial.lock();
        if next_trial.is_none_or(|at| at > now) {
            return None;
        }
        let (mut due, mut next) = (None, None);
        for upstream in self.all.iter().filter(|upstream| !upstream.is_up()) {
            let mut ejection = upstream.ejection.lock();
            let Some(at) = ejection.trial_at else { continue };
            if due.is_none() && at <= now && !tried.contains(&upstream.id()) {
                // One at a time; it says sooner what came of it, or never.
                let is_free = ejection.trial_out_until.is_none_or(|until| until <= now);
                due = is_free.then(|| upstream.begin(Chosen::Trial)).flatten();
                let pause = if due.is_some() { ejection.pause() } else { TRIAL_SPACING };
                ejection.trial_at = Some(now + pause);
                if let Some(choice) = &mut due {
                    choice.trial_until = Some(now + TRIAL_PATIENCE);
                    ejection.trial_out_until = choice.trial_until;
                }
            }
            next = ejection.trial_at.map_or(next, |at| earlier(next, at));
        }
        *next_trial = next;
        due
    }

    /// Takes into account what was seen of an upstream, by a probe or by a real request.
    pub fn observe(&self, id: UpstreamId, seen: Observation, now: Instant) {
        let Some(upstream) = self.all.get(id.0) else { return };
        if seen == Observation::Served && !upstream.is_doubted.load(Ordering::Relaxed) {
            return;
        }
        log::trace!("upstream {} seen: {seen:?}", upstream.name());
        // Of several that are seen at once, each is to know how many are left.
        let observing = (!seen.is_good()).then(|| self.observing.lock());
        let stays = match seen {
            Observation::Broken { .. } if self.ejected() + 1 >= self.all.len() => {
                Some("it is the last one live")
            }
            Observation::Broken { .. } => None,
            _ if seen.is_of_a_request() && self.is_half_ejected() => {
                Some("no more than half of all are ejected for that")
            }
            _ => None,
        };
        let (change, trial_at) = {
            let mut ejection = upstream.ejection.lock();
            let change = ejection.health.observe(seen, &self.rules, stays.is_none());
            upstream.is_doubted.store(ejection.health.is_doubted(), Ordering::Relaxed);
            if matches!(change, Some(Change::Ejected(_) | Change::Restored(_))) {
                upstream.next_epoch();
                ejection.trial_out_until = None;
            }
            match change {
                Some(Change::Ejected(why)) => {
                    ejection.ejected_for = Some(why);
                    ejection.ejected(self.trials, now);
                }
                Some(Change::Restored(_)) => {
                    (ejection.trial_at, ejection.restored_at) = (None, Some(now));
                }
                None if seen == Observation::TrialServed && !ejection.health.is_up() => {
                    ejection.trial_out_until = None;
                    ejection.try_again_soon(now);
                }
                Some(Change::Spared(_)) | None => (),
            }
            (change, ejection.trial_at)
        };
        self.expect_trial(trial_at);
        let Some(change) = change else { return };
        if let (Change::Spared(seen), Some(stays)) = (change, stays) {
            return upstream.warn_of(seen, stays, now);
        }
        let live = self.renew_live_list();
        drop(observing);
        let of = self.all.len();
        match change {
            Change::Ejected(why) => {
                let rest = if live == 0 && self.fail_open { "; all are tried" } else { "" };
                log::warn!(
                    "upstream {} ejected: {why}; {live} of {of} live{rest}",
                    upstream.name()
                );
            }
            Change::Restored(why) => {
                log::info!("upstream {} restored: {why}; {live} of {of} live", upstream.name());
            }
            Change::Spared(_) => (),
        }
        self.serve_queue();
    }

    /// Takes into account what was seen of an upstream that was chosen for a request.
    pub fn observe_choice(&self, choice: &InFlight, seen: Observation, now: Instant) {
        if choice.is_outdated() {
            return;
        }
        self.observe(choice.upstream.id(), seen, now);
        // One that was served may still be broken off.
        if seen.is_good() || choice.upstream.is_up() || !choice.fails_trial() {
            return;
        }
        let trial_at = {
            let mut ejection = choice.upstream.ejection.lock();
            ejection.put_off(now);
            let name = choice.upstream.name();
            let pause = ejection.pause();
            log::info!(
                "upstream {name} failed a request that tried it: {seen}; the next in {pause:?}"
            );
            ejection.trial_at
        };
        self.expect_trial(trial_at);
    }

    /// How many are not on the live list.
    fn ejected(&self) -> usize {
        self.all.len().saturating_sub(self.live_count.load(Ordering::SeqCst))
    }

    /// Whether one more that is ejected would make it more than half.
    fn is_half_ejected(&self) -> bool {
        2 * (self.ejected() + 1) > self.all.len()
    }

    /// An upstream is to be tried then.
    fn expect_trial(&self, at: Option<Instant>) {
        if let Some(at) = at {
            let mut next_trial = self.next_trial.lock();
            *next_trial = earlier(*next_trial, at);
        }
    }

    /// Builds the live list from the upstreams' states. Whoever comes last has seen every change
    /// that was made before it took the lock, so concurrent changes cannot leave an old list
    /// behind.
    fn renew_live_list(&self) -> usize {
        let mut live = self.live.lock();
        *live = self.all.iter().filter(|upstream| upstream.is_up()).cloned().collect();
        self.live_count.store(live.len(), Ordering::SeqCst);
        if let Some(limit) = &self.limit {
            limit.queue.set_live(live.iter().map(|upstream| upstream.id()));
        }
        live.len()
    }
}

/// The earlier of two times, of which one may not be known.
fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}

#[cfg(test)]
mod tests;
