//! The upstreams: who they are, who may be chosen, and who is.
//!
//! The live list is a `Mutex` around one `Arc`; it is locked to clone or to replace that `Arc`, never
//! while choosing and never across I/O. Not here: connections (`engine/`), when to probe
//! (`health_check/`), the rule by which the state turns (`health.rs`), who waits for room (`queue.rs`).

pub mod balance;
pub mod health;
pub mod queue;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use std::net::{IpAddr, SocketAddr};

use crate::config::{Authority, Config};
use crate::lock::Lock;
use balance::{Balance, Candidates};
use health::{Change, Health, HealthRules, Seen};
use queue::{Queue, Waiting};

/// How long an ejected upstream is left alone before one real request tries it, if no probe can
/// restore it. One that fails requests is left alone for twice as long each time.
pub const TRIAL_INTERVAL: Duration = Duration::from_secs(10);
/// How long a trial that says nothing keeps others from being sent.
const TRIAL_PATIENCE: Duration = Duration::from_secs(60);
/// How often that time is doubled: up to 320 s.
const DOUBLINGS: u32 = 5;
/// The time between two requests that try one that failed requests, once the first was served.
const TRICKLE: Duration = Duration::from_secs(1);

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
    is_up: AtomicBool,
    /// Whether a `Served` could change anything; spares the lock on every good answer.
    is_doubted: AtomicBool,
    /// Whether its connections may not be used again for a while; spares the lock when they may.
    is_distrusted: AtomicBool,
    condition: Lock<Condition>,
}

/// How many exchanges an upstream may have at a time.
#[derive(Clone)]
struct Bound {
    most: usize,
    /// Those that wait for room, at any upstream.
    queue: Arc<Queue>,
    /// How ejected ones are chosen when nobody is live; `None`: they are not.
    when_none_live: Option<Chosen>,
    live: Arc<AtomicUsize>,
    failed_open: Arc<AtomicU64>,
}

/// What is known of an upstream's health.
#[derive(Default)]
struct Condition {
    health: Health,
    /// When a real request may try it; only while it is ejected and no probe can restore it.
    trial_at: Option<Instant>,
    /// How often it was ejected or restored: a trial counts for the ejection it was sent in.
    turns: u32,
    /// A trial is out, and no other one is sent before then.
    trial_out_until: Option<Instant>,
    /// How often in a row it has failed requests again soon after it was tried or restored.
    relapses: u32,
    restored_at: Option<Instant>,
    /// Until when its connections are not used again.
    distrusted_until: Option<Instant>,
    /// When it was last said that it fails requests and is not ejected.
    warned_at: Option<Instant>,
}

impl Condition {
    /// How long it is left alone before requests try it.
    fn pause(&self) -> Duration {
        let doublings = if self.health.fails_requests() { self.relapses.min(DOUBLINGS) } else { 0 };
        TRIAL_INTERVAL * (1 << doublings)
    }

    /// It has failed again: it is left alone for longer.
    fn put_off(&mut self, now: Instant) {
        self.relapses = self.relapses.saturating_add(u32::from(self.health.fails_requests()));
        self.trial_at = Some(now + self.pause());
    }

    /// It is ejected. `trials`: requests try it in any case, because nobody else does.
    fn ejected(&mut self, trials: bool, now: Instant) {
        if self.health.fails_requests() {
            let is_relapse = self.restored_at.is_some_and(|at| now < at + self.pause());
            self.relapses = if is_relapse { self.relapses.saturating_add(1) } else { 0 };
        }
        let is_tried = trials || self.health.fails_requests();
        self.trial_at = is_tried.then(|| now + self.pause());
    }

    /// A request that tried it was served, and that was not enough yet.
    fn try_again_soon(&mut self, now: Instant) {
        self.trial_at = Some(now + TRICKLE);
    }
}

impl Upstream {
    fn new(
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
    fn warn_of(&self, seen: Seen, stays: &str, now: Instant) {
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
    fn begin(self: &Arc<Self>, chosen: Chosen) -> Option<InFlight> {
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
    fn serve_queue(self: &Arc<Self>) {
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
    upstream: Arc<Upstream>,
    chosen: Chosen,
    /// Which ejection it was sent in, if it was sent to try an ejected upstream.
    trial: Option<u32>,
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
    fn end_trial(&self) -> bool {
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

/// Why nobody was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// There is nobody who was not tried, or nobody who may be.
    Nobody,
    /// All of those have as many exchanges as they may, or others wait for them already.
    Full,
}

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
    bound: Option<Bound>,
    ejected: AtomicUsize,
    /// No trial is due before, or none at all; spares most requests the look at all upstreams.
    next_trial: Lock<Option<Instant>>,
    failed_open: Arc<AtomicU64>,
    /// Held while an observation that must not eject too many is taken into account.
    turning: Lock<()>,
}

impl Upstreams {
    /// `addresses` belong to `config.upstreams`, in the same order; random policies draw from `seed`.
    pub fn new(config: &Config, addresses: Vec<Vec<SocketAddr>>, seed: u64) -> Self {
        let trials = config.health.interval.is_none();
        let fail_open = config.retry.fail_open;
        let failing_open = if trials { Chosen::Trial } else { Chosen::FailOpen };
        let failed_open = Arc::new(AtomicU64::new(0));
        let bound = config.limits.in_flight.map(|most| Bound {
            most,
            queue: Arc::new(Queue::new(config.limits.queue)),
            when_none_live: fail_open.then_some(failing_open),
            live: Arc::new(AtomicUsize::new(config.upstreams.len())),
            failed_open: failed_open.clone(),
        });
        let all: Arc<[Arc<Upstream>]> = config
            .upstreams
            .iter()
            .zip(addresses)
            .enumerate()
            .map(|(i, (authority, addresses))| {
                let id = UpstreamId(i);
                Arc::new(Upstream::new(id, authority.clone(), addresses, bound.clone()))
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
            bound,
            ejected: AtomicUsize::new(0),
            next_trial: Lock::default(),
            failed_open,
            turning: Lock::default(),
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

    /// Requests that were sent to an ejected upstream because nobody was live.
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
        let chosen = self.choose(&live, tried, Chosen::Live, true);
        if chosen.as_ref().err() != Some(&NoChoice::Nobody) || !self.fail_open {
            return chosen;
        }
        let reason = if self.trials { Chosen::Trial } else { Chosen::FailOpen };
        let chosen = self.choose(&self.all, tried, reason, live.is_empty());
        if chosen.is_err() && !live.is_empty() {
            // Room at those that are live is not for it, and none is kept at the others.
            return Err(NoChoice::Nobody);
        }
        let chosen = chosen?;
        self.failed_open.fetch_add(1, Ordering::Relaxed);
        Ok(chosen)
    }

    fn choose(
        &self,
        among: &[Arc<Upstream>],
        tried: &[UpstreamId],
        chosen: Chosen,
        in_turn: bool,
    ) -> Result<InFlight, NoChoice> {
        let among = Candidates::new(among, tried);
        if among.is_empty() {
            return Err(NoChoice::Nobody);
        }
        if in_turn && self.bound.as_ref().is_some_and(|bound| bound.queue.len() > 0) {
            return Err(NoChoice::Full);
        }
        let first = self.balance.pick(&among, !tried.is_empty());
        // Only one that has as many as it may is followed by another one.
        let mut numbers = (first..among.len()).chain(0..first);
        numbers.find_map(|number| among.get(number).begin(chosen)).ok_or(NoChoice::Full)
    }

    /// A request of `client` waits for one that is not in `tried` to have room. `None`: too many
    /// wait already.
    pub fn wait_for_room(&self, client: IpAddr, tried: &[UpstreamId]) -> Option<Waiting> {
        let waiting = self.bound.as_ref()?.queue.join(client, tried);
        // Some may have come free before it was known that somebody waits for it.
        self.serve_queue();
        waiting
    }

    /// A request was answered 503 for want of room.
    pub fn tell_of_overload(&self, why: &str, now: Instant) {
        if let Some(bound) = &self.bound {
            bound.queue.warn(why, now);
        }
    }

    /// Requests that wait for room.
    pub fn waiting(&self) -> usize {
        self.bound.as_ref().map_or(0, |bound| bound.queue.len())
    }

    fn serve_queue(&self) {
        self.all.iter().take_while(|_| self.waiting() > 0).for_each(Upstream::serve_queue);
    }

    fn due_trial(&self, tried: &[UpstreamId], now: Instant) -> Option<InFlight> {
        if self.ejected.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut next_trial = self.next_trial.lock();
        if next_trial.is_none_or(|at| at > now) {
            return None;
        }
        let (mut due, mut next) = (None, None);
        for upstream in self.all.iter().filter(|upstream| !upstream.is_up()) {
            let mut condition = upstream.condition.lock();
            let Some(at) = condition.trial_at else { continue };
            if due.is_none() && at <= now && !tried.contains(&upstream.id) {
                // One at a time; it says sooner what came of it, or never.
                let is_free = condition.trial_out_until.is_none_or(|until| until <= now);
                due = is_free.then(|| upstream.begin(Chosen::Trial)).flatten();
                let pause = if due.is_some() { TRIAL_INTERVAL } else { TRICKLE };
                condition.trial_at = Some(now + pause);
                if let Some(choice) = &mut due {
                    condition.trial_out_until = Some(now + TRIAL_PATIENCE);
                    choice.trial = Some(condition.turns);
                }
            }
            next = condition.trial_at.map_or(next, |at| earlier(next, at));
        }
        *next_trial = next;
        due
    }

    /// Takes into account what was seen of an upstream, by a probe or by a real request.
    pub fn observe(&self, id: UpstreamId, seen: Seen, now: Instant) {
        let Some(upstream) = self.all.get(id.0) else { return };
        if seen == Seen::Served && !upstream.is_doubted.load(Ordering::Relaxed) {
            return;
        }
        log::trace!("upstream {} seen: {seen:?}", upstream.name);
        // Of several that are seen at once, each is to know how many are left.
        let is_doubtful = matches!(seen, Seen::Broken | Seen::ServerError(_) | Seen::TooLate);
        let turning = is_doubtful.then(|| self.turning.lock());
        // Perhaps it is the requests' fault; then all would be ejected one after the other.
        let stays = match seen {
            Seen::Broken if self.live().len() <= 1 => Some("it is the last one live"),
            Seen::ServerError(_) | Seen::TooLate if upstream.is_up() && self.is_half_ejected() => {
                Some("no more than half of all are ejected for that")
            }
            _ => None,
        };
        if let Some(stays) = stays {
            return upstream.warn_of(seen, stays, now);
        }
        let (change, trial_at) = {
            let mut condition = upstream.condition.lock();
            let change = condition.health.observe(seen, &self.rules);
            upstream.is_doubted.store(condition.health.is_doubted(), Ordering::Relaxed);
            upstream.is_up.store(condition.health.is_up(), Ordering::Release);
            if change.is_some() {
                condition.turns = condition.turns.wrapping_add(1);
                condition.trial_out_until = None;
            }
            match change {
                Some(Change::Ejected(_)) => condition.ejected(self.trials, now),
                Some(Change::Restored(_)) => {
                    (condition.trial_at, condition.restored_at) = (None, Some(now));
                }
                None if seen == Seen::TrialServed && !condition.health.is_up() => {
                    condition.trial_out_until = None;
                    condition.try_again_soon(now);
                }
                None => (),
            }
            (change, condition.trial_at)
        };
        self.expect_trial(trial_at);
        let Some(change) = change else { return };
        let live = self.renew_live_list();
        drop(turning);
        let of = self.all.len();
        match change {
            Change::Ejected(why) => {
                let rest = if live == 0 && self.fail_open { "; all are tried" } else { "" };
                log::warn!("upstream {} ejected: {why}; {live} of {of} live{rest}", upstream.name);
            }
            Change::Restored(why) => {
                log::info!("upstream {} restored: {why}; {live} of {of} live", upstream.name);
            }
        }
        self.serve_queue();
    }

    /// Takes into account what was seen of an upstream that was chosen for a request.
    pub fn observe_choice(&self, choice: &InFlight, seen: Seen, now: Instant) {
        self.observe(choice.upstream.id, seen, now);
        // One that was served may still be broken off.
        let is_good = matches!(seen, Seen::Served | Seen::TrialServed);
        if is_good || !choice.end_trial() || choice.upstream.is_up() {
            return;
        }
        let trial_at = {
            let mut condition = choice.upstream.condition.lock();
            condition.put_off(now);
            let name = &choice.upstream.name;
            let pause = condition.pause();
            log::info!(
                "upstream {name} failed a request that tried it: {seen}; the next in {pause:?}"
            );
            condition.trial_at
        };
        self.expect_trial(trial_at);
    }

    /// Whether one more that is ejected would make it more than half.
    fn is_half_ejected(&self) -> bool {
        2 * (self.ejected.load(Ordering::Relaxed) + 1) > self.all.len()
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
        self.ejected.store(self.all.len() - live.len(), Ordering::Relaxed);
        if let Some(bound) = &self.bound {
            bound.live.store(live.len(), Ordering::SeqCst);
        }
        live.len()
    }
}

/// The earlier of two times, of which one may not be known.
fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(count: usize, change: impl FnOnce(&mut Config)) -> Upstreams {
        let addresses: Vec<SocketAddr> =
            (0..count).map(|i| SocketAddr::from(([127, 0, 0, 1], 8000 + i as u16))).collect();
        let mut config = Config {
            upstreams: addresses.iter().map(|&address| address.into()).collect(),
            ..Config::default()
        };
        change(&mut config);
        Upstreams::new(&config, addresses.into_iter().map(|a| vec![a]).collect(), 1)
    }

    fn picks(upstreams: &Upstreams, tried: &[UpstreamId], now: Instant) -> Vec<usize> {
        let mut picks: Vec<_> = (0..6)
            .filter_map(|_| upstreams.pick(tried, now).ok().map(|p| p.upstream().id().0))
            .collect();
        picks.sort_unstable();
        picks.dedup();
        picks
    }

    #[test]
    fn only_live_upstreams_that_were_not_tried_are_chosen() {
        let now = Instant::now();
        let upstreams = upstreams(4, |_| ());
        upstreams.observe(UpstreamId(1), Seen::NoConnection, now);
        assert_eq!(picks(&upstreams, &[], now), [0, 2, 3]);
        assert_eq!(picks(&upstreams, &[UpstreamId(0), UpstreamId(3)], now), [2]);
        upstreams.observe(UpstreamId(1), Seen::ProbePassed, now);
        assert_eq!(picks(&upstreams, &[], now), [0, 1, 2, 3]);
    }

    #[test]
    fn with_nobody_live_ejected_ones_are_tried_if_allowed() {
        for fail_open in [true, false] {
            let now = Instant::now();
            let upstreams = upstreams(2, |config| config.retry.fail_open = fail_open);
            upstreams.observe(UpstreamId(0), Seen::NoConnection, now);
            upstreams.observe(UpstreamId(1), Seen::NoConnection, now);
            let expected: &[usize] = if fail_open { &[0, 1] } else { &[] };
            assert_eq!(picks(&upstreams, &[], now), expected);
            assert_eq!(upstreams.failed_open() > 0, fail_open);
        }
    }

    #[test]
    fn without_probes_one_request_tries_an_ejected_upstream_and_restores_it() {
        let start = Instant::now();
        let upstreams = upstreams(2, |config| config.health.interval = None);
        upstreams.observe(UpstreamId(0), Seen::NoConnection, start);
        assert_eq!(picks(&upstreams, &[], start), [1]);
        let later = start + TRIAL_INTERVAL;
        let trial = upstreams.pick(&[], later).unwrap();
        assert_eq!((trial.upstream().id(), trial.chosen()), (UpstreamId(0), Chosen::Trial));
        assert_eq!(picks(&upstreams, &[], later), [1], "one request, not two");
        upstreams.observe(UpstreamId(0), trial.served(), later);
        assert_eq!(picks(&upstreams, &[], later), [0, 1]);
    }

    #[test]
    fn each_ejected_upstream_is_tried_once_an_interval() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let upstreams = upstreams(4, |config| config.health.interval = None);
        upstreams.observe(UpstreamId(2), Seen::NoConnection, start);
        upstreams.observe(UpstreamId(1), Seen::NoConnection, after(4));
        let trial = |tried: &[UpstreamId], now| {
            let choice = upstreams.pick(tried, now).ok()?;
            (choice.chosen() == Chosen::Trial).then(|| choice.upstream().id().0)
        };
        for (seconds, tried, expected) in [
            (9, None, None),
            (10, Some(UpstreamId(2)), None),
            (10, None, Some(2)),
            (13, None, None),
            (14, None, Some(1)),
            (19, None, None),
            // Both are due by now, and one after the other has its turn.
            (30, None, Some(1)),
            (30, None, Some(2)),
            (30, None, None),
            (40, Some(UpstreamId(1)), Some(2)),
            (40, None, Some(1)),
        ] {
            let tried: Vec<_> = tried.into_iter().collect();
            assert_eq!(trial(&tried, after(seconds)), expected, "after {seconds} s, not {tried:?}");
        }
        upstreams.observe(UpstreamId(1), Seen::TrialServed, after(41));
        assert_eq!(trial(&[], after(60)), Some(2));
        assert_eq!(trial(&[], after(60)), None, "the other one is live again");
    }

    /// When a trial comes, in seconds after the start, if each is answered so: `+` well, `-` not.
    fn trials(answers: &str) -> Vec<u64> {
        let start = Instant::now();
        let upstreams = upstreams(2, |config| config.health.eject_after = Some(1));
        upstreams.observe(UpstreamId(0), Seen::ServerError(500), start);
        let mut answers = answers.chars();
        let mut at = Vec::new();
        for second in 0..2_000 {
            let now = start + Duration::from_secs(second);
            let choice = upstreams.pick(&[], now).unwrap();
            if choice.chosen() != Chosen::Trial {
                continue;
            }
            at.push(second);
            let seen = match answers.next() {
                Some('+') => choice.served(),
                Some('-') => Seen::ServerError(500),
                _ => break,
            };
            upstreams.observe_choice(&choice, seen, now);
        }
        at
    }

    #[test]
    fn one_that_fails_requests_comes_back_by_a_trickle_and_is_left_alone_for_longer_each_time() {
        assert_eq!(trials("+++"), [10, 11, 12], "then it is live, and there are no trials");
        assert_eq!(trials("----"), [10, 30, 70, 150, 310], "twice as long each time");
        assert_eq!(trials("------")[5..], [630, 950], "up to 320 s");
        assert_eq!(trials("++-+++"), [10, 11, 12, 32, 33, 34], "three in a row restore it");
    }

    #[test]
    fn one_that_fails_again_soon_after_it_came_back_is_left_alone_for_longer() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let upstreams = upstreams(2, |config| config.health.eject_after = Some(1));
        let fail_and_return = |at: u64| {
            upstreams.observe(UpstreamId(0), Seen::ServerError(500), after(at));
            let mut seconds = at..;
            let back = seconds.find(|second| {
                let choice = upstreams.pick(&[], after(*second)).unwrap();
                if choice.chosen() == Chosen::Trial {
                    upstreams.observe_choice(&choice, choice.served(), after(*second));
                }
                upstreams.live().len() == 2
            });
            back.unwrap() - at
        };
        assert_eq!(fail_and_return(0), 12);
        assert_eq!(fail_and_return(15), 22, "soon after it came back");
        assert_eq!(fail_and_return(50), 42);
        assert_eq!(fail_and_return(500), 12, "long after");
    }

    #[test]
    fn errors_eject_no_more_than_half_and_probes_do_not_bring_those_back() {
        let now = Instant::now();
        let upstreams = upstreams(4, |config| config.health.eject_after = Some(2));
        for id in [0, 1, 2, 3].repeat(3) {
            upstreams.observe(UpstreamId(id), Seen::TooLate, now);
        }
        assert_eq!(picks(&upstreams, &[], now), [2, 3]);
        upstreams.observe(UpstreamId(0), Seen::ProbePassed, now);
        assert_eq!(picks(&upstreams, &[], now), [2, 3]);
        upstreams.observe(UpstreamId(2), Seen::NoConnection, now);
        assert_eq!(picks(&upstreams, &[], now), [3], "a closed door is another matter");
    }

    #[test]
    fn losses_do_not_eject_the_last_live_upstream() {
        let now = Instant::now();
        let upstreams = upstreams(2, |_| ());
        for id in [0, 0, 0, 1, 1, 1] {
            upstreams.observe(UpstreamId(id), Seen::Broken, now);
        }
        assert_eq!(picks(&upstreams, &[], now), [1]);
        upstreams.observe(UpstreamId(1), Seen::NoConnection, now);
        assert!(upstreams.live().is_empty(), "a closed door is another matter");
    }

    #[test]
    fn connections_of_an_upstream_that_talks_unasked_are_not_reused_for_a_while() {
        let now = Instant::now();
        let upstream = &upstreams(1, |_| ()).all()[0].clone();
        assert!(upstream.may_reuse(now));
        upstream.distrust(now);
        assert!(!upstream.may_reuse(now + DISTRUST - Duration::from_secs(1)));
        assert!(upstream.may_reuse(now + DISTRUST));
    }

    #[test]
    fn an_exchange_counts_until_its_choice_is_dropped() {
        let upstreams = upstreams(1, |_| ());
        let one = upstreams.pick(&[], Instant::now()).unwrap();
        assert_eq!(upstreams.all()[0].in_flight(), 1);
        drop(one);
        assert_eq!(upstreams.all()[0].in_flight(), 0);
    }
}
