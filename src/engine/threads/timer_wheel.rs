//! Deadlines of many sessions, to a tenth of a second.
//!
//! A deadline is nearly always later than the one before and nearly never comes, so an entry is not
//! moved when its session's deadline is: it comes up at its time, and the session says when to come
//! again. A session that needs to be woken earlier gets a second entry; the first is then stale,
//! and coming up costs one look. No entry is further ahead than one turn of the wheel: one for a later
//! deadline comes up early and is armed again, so that no session that is gone leaves one for longer.
//! Not here: what happens when a deadline has passed
//! (`session/deadline.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lock::Lock;

/// The length of a tick.
const TICK: Duration = Duration::from_millis(100);
/// Slots of the wheel.
const SLOTS: usize = 1024;
/// One turn of the wheel, 102.3 s: how far ahead an entry may be.
const ONE_TURN: Duration = TICK.saturating_mul(SLOTS as u32 - 1);
/// Room that the wheel keeps when it is empty, in entries: 32 KiB.
const KEPT_ENTRIES: usize = 1024;
/// No tick: there is no entry.
const NEVER: u64 = u64::MAX;
/// No index: a list ends.
const NOWHERE: usize = usize::MAX;

/// A time, in ticks since the wheel was made.
pub type Tick = u64;

/// A wheel of entries `T`.
pub struct Wheel<T> {
    start: Instant,
    slots: Lock<Slots<T>>,
    /// The tick up to which entries have come up.
    turned: AtomicU64,
    /// No entry is earlier than this tick.
    next_due: AtomicU64,
}

/// Each slot is a linked list. All of them share their memory, so that what comes free in one is used
/// by the next, and as long as the entries do not become more nothing is allocated.
struct Slots<T> {
    /// Where the list of each slot begins.
    first: Vec<usize>,
    linked: Vec<Linked<T>>,
    /// Where the list begins of those that are free.
    free: usize,
    /// Those that are not free.
    entries: usize,
}

#[derive(Clone, Copy)]
struct Linked<T> {
    tick: Tick,
    entry: T,
    next: usize,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel.
    pub fn new(start: Instant) -> Self {
        Wheel {
            start,
            slots: Lock::new(Slots {
                first: vec![NOWHERE; SLOTS],
                linked: Vec::with_capacity(KEPT_ENTRIES),
                free: NOWHERE,
                entries: 0,
            }),
            turned: AtomicU64::new(0),
            next_due: AtomicU64::new(NEVER),
        }
    }

    /// The first tick that is not before `at`, or one turn of the wheel from now if that is earlier:
    /// then the entry comes up before its time.
    pub fn tick_at(&self, at: Instant, now: Instant) -> Tick {
        let ahead = at.min(now + ONE_TURN).saturating_duration_since(self.start);
        ahead.as_nanos().div_ceil(TICK.as_nanos()).min(u128::from(NEVER / 2)) as Tick
    }

    /// The tick up to which entries have come up.
    pub fn turned(&self) -> Tick {
        self.turned.load(Ordering::Acquire)
    }

    /// Adds an entry. Returns the tick at which it will come up, and whether it is now the
    /// earliest, so that somebody who waits may wait for too long.
    pub fn insert(&self, tick: Tick, entry: T) -> (Tick, bool) {
        let mut slots = self.slots.lock();
        let tick = tick.max(self.turned.load(Ordering::Relaxed) + 1);
        slots.insert(tick, entry);
        let earliest = tick < self.next_due.load(Ordering::Relaxed);
        if earliest {
            self.next_due.store(tick, Ordering::Release);
        }
        (tick, earliest)
    }

    /// How long one may wait at most; `None` while there is no entry.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        match self.next_due.load(Ordering::Acquire) {
            NEVER => None,
            tick => Some(self.time_of(tick).saturating_duration_since(now)),
        }
    }

    /// Moves every entry that is due into `due`. Does nothing if somebody else is at it.
    pub fn advance(&self, now: Instant, due: &mut Vec<T>) {
        if self.time_of(self.next_due.load(Ordering::Acquire)) > now {
            return;
        }
        let Some(mut slots) = self.slots.try_lock() else { return };
        let passed = now.saturating_duration_since(self.start).as_nanos() / TICK.as_nanos();
        let passed = passed as Tick;
        let from = self.turned.load(Ordering::Relaxed) + 1;
        for tick in from..=passed.min(from + SLOTS as Tick - 1) {
            slots.take_due(tick as usize % SLOTS, passed, due);
        }
        slots.shrink();
        self.turned.fetch_max(passed, Ordering::AcqRel);
        self.next_due.store(slots.next_due(passed), Ordering::Release);
    }

    fn time_of(&self, tick: Tick) -> Instant {
        const YEAR: u64 = 365 * 24 * 3600 * 10;
        self.start + TICK * tick.min(YEAR * 10).min(u32::MAX.into()) as u32
    }
}

impl<T: Copy> Slots<T> {
    fn insert(&mut self, tick: Tick, entry: T) {
        let slot = tick as usize % SLOTS;
        let linked = Linked { tick, entry, next: self.first[slot] };
        let at = self.free;
        if at == NOWHERE {
            self.first[slot] = self.linked.len();
            self.linked.push(linked);
        } else {
            self.first[slot] = at;
            self.free = self.linked[at].next;
            self.linked[at] = linked;
        }
        self.entries += 1;
    }

    /// Moves the entries of a slot that are due into `due`. The others wait for another turn.
    fn take_due(&mut self, slot: usize, passed: Tick, due: &mut Vec<T>) {
        let mut at = std::mem::replace(&mut self.first[slot], NOWHERE);
        while at != NOWHERE {
            let Linked { tick, entry, next } = self.linked[at];
            let list = if tick <= passed {
                due.push(entry);
                self.entries -= 1;
                &mut self.free
            } else {
                &mut self.first[slot]
            };
            self.linked[at].next = std::mem::replace(list, at);
            at = next;
        }
    }

    /// Gives back what a crowd has left, once there is no entry.
    fn shrink(&mut self) {
        if self.entries == 0 && self.linked.len() > KEPT_ENTRIES {
            self.linked.clear();
            self.linked.shrink_to(KEPT_ENTRIES);
            self.free = NOWHERE;
        }
    }

    /// A tick after `passed` before which no entry is due.
    fn next_due(&self, passed: Tick) -> Tick {
        if self.entries == 0 {
            return NEVER;
        }
        let ahead = (1..SLOTS as Tick).map(|ahead| passed + ahead);
        let mut filled = ahead.filter(|&tick| self.first[tick as usize % SLOTS] != NOWHERE);
        filled.next().unwrap_or(passed + SLOTS as Tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &Wheel<u32>, now: Instant) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn entries_come_up_once_at_their_time_and_never_before() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let after = |ms| start + Duration::from_millis(ms);
        for (ms, entry) in [(250, 1), (250, 2), (1_000, 3), (60_000, 4), (100_000, 5)] {
            wheel.insert(wheel.tick_at(after(ms), start), entry);
        }
        assert_eq!(due(&wheel, after(249)), []);
        assert_eq!(due(&wheel, after(300)), [1, 2]);
        assert_eq!(due(&wheel, after(301)), []);
        assert_eq!(due(&wheel, after(59_999)), [3]);
        assert_eq!(due(&wheel, after(60_000)), [4]);
        for seconds in (61..100).step_by(7) {
            assert_eq!(due(&wheel, after(seconds * 1000)), []);
        }
        assert_eq!(due(&wheel, after(100_000)), [5]);
        assert_eq!(wheel.wait(after(100_000)), None);
    }

    #[test]
    fn an_entry_for_a_session_that_is_gone_stays_for_one_turn_at_most() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let an_hour = Duration::from_secs(3_600);
        for opened in 0..100 {
            // A crowd of tunnels that do not live for long, each armed for its deadline.
            let now = start + Duration::from_secs(opened);
            wheel.insert(wheel.tick_at(now + an_hour, now), 1);
        }
        let came_up = due(&wheel, start + Duration::from_secs(203));
        assert_eq!((came_up.len(), wheel.slots.lock().entries), (100, 0));
        // It was idle for a day, and still nothing comes up at once.
        let now = start + Duration::from_secs(86_400);
        wheel.insert(wheel.tick_at(now + an_hour, now), 2);
        assert_eq!(due(&wheel, now + Duration::from_secs(100)), []);
        assert_eq!(due(&wheel, now + Duration::from_secs(103)), [2]);
    }

    #[test]
    fn a_long_sleep_skips_nothing() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        for entry in 0..2_000 {
            wheel.insert(entry.into(), entry);
        }
        assert_eq!(due(&wheel, start + Duration::from_secs(86_400)).len(), 2_000);
    }

    #[test]
    fn memory_is_used_again_and_given_back_when_there_is_no_entry() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let entries = || wheel.slots.lock().linked.len();
        for tick in 1..5_000 {
            wheel.insert(tick, 1);
            wheel.insert(tick + 3_000, 2);
            assert_eq!(due(&wheel, wheel.time_of(tick)).len(), if tick > 3_000 { 2 } else { 1 });
        }
        assert_eq!(entries(), 3_002, "as many as there were at a time");
        assert_eq!(due(&wheel, wheel.time_of(10_000)).len(), 3_000);
        assert_eq!(entries(), 0);
    }

    #[test]
    fn whoever_waits_waits_for_the_earliest() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        assert_eq!(wheel.wait(start), None);
        assert_eq!(wheel.insert(50, 1), (50, true));
        assert_eq!(wheel.insert(60, 2), (60, false));
        assert_eq!(wheel.insert(20, 3), (20, true));
        assert_eq!(wheel.wait(start), Some(Duration::from_secs(2)));
        assert_eq!(due(&wheel, start + Duration::from_secs(2)), [3]);
        assert_eq!(wheel.wait(start + Duration::from_secs(2)), Some(Duration::from_secs(3)));
    }

    #[test]
    fn an_entry_for_the_past_comes_up_at_the_next_tick() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        wheel.insert(10, 1);
        assert_eq!(due(&wheel, start + Duration::from_secs(1)), [1]);
        assert_eq!(wheel.insert(3, 2), (11, true));
    }
}
