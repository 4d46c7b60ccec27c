//! Deadlines of many sessions, to a tenth of a second.
//!
//! A deadline is nearly always later than the one before and nearly never comes, so an entry is not
//! moved when its session's deadline is: it comes up at its time, and the session says when to come
//! again. A session that needs to be woken earlier gets a second entry; the first is then stale,
//! and
//! coming up costs one look. Not here: what happens when a deadline has passed (`session/deadline.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lock::Lock;

/// The length of a tick.
const TICK: Duration = Duration::from_millis(100);
/// Slots of the wheel; entries further ahead than one turn (102 s) stay for another one.
const SLOTS: usize = 1024;
/// Room that a slot keeps, in entries.
const KEPT_ENTRIES: usize = 64;
/// No entry.
const NEVER: u64 = u64::MAX;

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

struct Slots<T> {
    slots: Vec<Vec<(Tick, T)>>,
    entries: usize,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel.
    pub fn new(start: Instant) -> Self {
        Wheel {
            start,
            slots: Lock::new(Slots { slots: (0..SLOTS).map(|_| Vec::new()).collect(), entries: 0 }),
            turned: AtomicU64::new(0),
            next_due: AtomicU64::new(NEVER),
        }
    }

    /// The first tick that is not before `at`.
    pub fn tick_at(&self, at: Instant) -> Tick {
        let ahead = at.saturating_duration_since(self.start);
        ahead.as_nanos().div_ceil(TICK.as_nanos()).min(u128::from(NEVER / 2)) as Tick
    }

    /// The tick up to which entries have come up.
    pub fn turned(&self) -> Tick {
        self.turned.load(Ordering::Acquire)
    }

    /// Adds an entry. Returns the tick at which it will come up, and whether it is now the
    /// earliest, so
    /// that somebody who waits may wait for too long.
    pub fn insert(&self, tick: Tick, entry: T) -> (Tick, bool) {
        let mut slots = self.slots.lock();
        let tick = tick.max(self.turned.load(Ordering::Relaxed) + 1);
        slots.slots[tick as usize % SLOTS].push((tick, entry));
        slots.entries += 1;
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
    pub fn turn(&self, now: Instant, due: &mut Vec<T>) {
        if self.time_of(self.next_due.load(Ordering::Acquire)) > now {
            return;
        }
        let Some(mut slots) = self.slots.try_lock() else { return };
        let passed = now.saturating_duration_since(self.start).as_nanos() / TICK.as_nanos();
        let passed = passed as Tick;
        let from = self.turned.load(Ordering::Relaxed) + 1;
        let slots = &mut *slots;
        for tick in from..=passed.min(from + SLOTS as Tick - 1) {
            let entries = &mut slots.entries;
            slots.slots[tick as usize % SLOTS].retain(|&(at, entry)| {
                if at <= passed {
                    due.push(entry);
                    *entries -= 1;
                }
                at > passed
            });
            slots.slots[tick as usize % SLOTS].shrink_to(KEPT_ENTRIES);
        }
        self.turned.fetch_max(passed, Ordering::AcqRel);
        self.next_due.store(slots.next_due(passed), Ordering::Release);
    }

    fn time_of(&self, tick: Tick) -> Instant {
        const YEAR: u64 = 365 * 24 * 3600 * 10;
        self.start + TICK * tick.min(YEAR * 10).min(u32::MAX.into()) as u32
    }
}

impl<T> Slots<T> {
    /// A tick after `passed` before which no entry is due.
    fn next_due(&self, passed: Tick) -> Tick {
        if self.entries == 0 {
            return NEVER;
        }
        let ahead = (1..SLOTS as Tick).map(|ahead| passed + ahead);
        let mut filled = ahead.filter(|&tick| !self.slots[tick as usize % SLOTS].is_empty());
        filled.next().unwrap_or(passed + SLOTS as Tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &Wheel<u32>, now: Instant) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.turn(now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn entries_come_up_once_at_their_time_and_never_before() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let after = |ms| start + Duration::from_millis(ms);
        for (ms, entry) in [(250, 1), (250, 2), (1_000, 3), (60_000, 4), (3_600_000, 5)] {
            wheel.insert(wheel.tick_at(after(ms)), entry);
        }
        assert_eq!(due(&wheel, after(249)), []);
        assert_eq!(due(&wheel, after(300)), [1, 2]);
        assert_eq!(due(&wheel, after(301)), []);
        assert_eq!(due(&wheel, after(59_999)), [3]);
        assert_eq!(due(&wheel, after(60_000)), [4]);
        for seconds in (61..3_600).step_by(7) {
            assert_eq!(due(&wheel, after(seconds * 1000)), []);
        }
        assert_eq!(due(&wheel, after(3_600_000)), [5]);
        assert_eq!(wheel.wait(after(3_600_000)), None);
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
