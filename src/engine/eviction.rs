//! Which connection is closed when as many are open as may be, and another client comes (rule 45).
//!
//! Each connection writes down what it does at the end of a turn: one atomic word. The accept loop
//! looks for candidates among these words, without a lock and without touching a connection; the
//! driver of a candidate looks again, at the connection itself, before it closes it. Not here: how many
//! may be open (`connection_limit.rs`), whether another client is there (`listener.rs`).

use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::socket::Peeked;
use crate::lock::Lock;

/// How long a connection has sent no whole head, or was idle, before it is closed for another one.
const EVICT_AFTER: Duration = Duration::from_secs(1);
/// Candidates that are remembered of one look at all connections.
const CANDIDATES: usize = 1024;
/// The time between two looks at all connections.
const SCAN_INTERVAL: Duration = Duration::from_millis(10);

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// An exchange is under way, or the last answer is on its way.
    Busy,
    /// It has sent no whole request head, or the next one only in part, since then.
    NoHead(Instant),
    /// It is kept alive, and has sent nothing since its last exchange ended then.
    Idle(Instant),
}

impl Activity {
    /// Whether the connection may be closed for another one. `peeked` is what is waiting to be read.
    pub fn may_be_evicted(self, now: Instant, peeked: impl FnOnce() -> Peeked) -> bool {
        match self {
            Activity::Busy => false,
            Activity::NoHead(since) | Activity::Idle(since) => {
                since + EVICT_AFTER <= now && peeked() != Peeked::Bytes
            }
        }
    }
}

/// What one connection does, for others to see: the less a word is, the sooner the connection goes.
pub struct ActivityWord(AtomicU64);

impl ActivityWord {
    const BUSY: u64 = u64::MAX;
    /// Without this bit it has sent no whole head; the other bits are the time in milliseconds.
    const IDLE: u64 = 1 << 62;

    /// The connection does this from now on.
    pub fn set(&self, activity: Activity, evictor: &Evictor) {
        let word = match activity {
            Activity::Busy => Self::BUSY,
            Activity::NoHead(since) => evictor.millis(since),
            Activity::Idle(since) => evictor.millis(since) | Self::IDLE,
        };
        if self.0.load(Ordering::Relaxed) != word {
            self.0.store(word, Ordering::Relaxed);
        }
    }
}

/// That of a place which is free.
impl Default for ActivityWord {
    fn default() -> Self {
        ActivityWord(AtomicU64::new(Self::BUSY))
    }
}

/// Chooses the connections that go.
pub struct Evictor {
    start: Instant,
    candidates: Lock<Candidates>,
}

#[derive(Default)]
struct Candidates {
    scanned: Option<Instant>,
    /// Words and places, the next one to go last.
    rest: Vec<(u64, u32)>,
}

impl Evictor {
    /// It counts from `start`.
    pub fn new(start: Instant) -> Self {
        Evictor { start, candidates: Lock::default() }
    }

    /// The place of a connection that can go as far as its word tells: of those without a whole head
    /// the oldest, else the one that has been idle for the longest. `None`: none can go, or not yet.
    pub fn next<'a>(
        &self,
        places: Range<u32>,
        word: impl Fn(u32) -> Option<&'a ActivityWord>,
        now: Instant,
    ) -> Option<u32> {
        let word = |place| word(place).map_or(ActivityWord::BUSY, |w| w.0.load(Ordering::Relaxed));
        let mut candidates = self.candidates.lock();
        let is_old = |at: Instant| now.saturating_duration_since(at) >= SCAN_INTERVAL;
        if candidates.scanned.is_none_or(is_old) {
            candidates.scanned = Some(now);
            candidates.rest = self.scan(places, word, now);
        }
        loop {
            let (seen, place) = candidates.rest.pop()?;
            if word(place) == seen {
                return Some(place);
            }
        }
    }

    fn scan(&self, places: Range<u32>, word: impl Fn(u32) -> u64, now: Instant) -> Vec<(u64, u32)> {
        let mut oldest = BinaryHeap::new();
        let Some(since) = now.checked_sub(EVICT_AFTER).filter(|since| *since >= self.start) else {
            return Vec::new();
        };
        let latest = self.millis(since);
        for place in places {
            let word = word(place);
            let is_first = oldest.len() < CANDIDATES || oldest.peek() > Some(&(word, place));
            if word & !ActivityWord::IDLE < latest && is_first {
                oldest.push((word, place));
                if oldest.len() > CANDIDATES {
                    oldest.pop();
                }
            }
        }
        let mut candidates = oldest.into_sorted_vec();
        candidates.reverse();
        candidates
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        (since.as_secs() * 1000 + u64::from(since.subsec_millis())) & (ActivityWord::IDLE - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places that go, one after the other, out of connections that do this.
    fn order(evictor: &Evictor, words: &[ActivityWord], now: Instant) -> Vec<u32> {
        let places = 0..words.len() as u32;
        let next = || evictor.next(places.clone(), |place| words.get(place as usize), now);
        std::iter::from_fn(next).collect()
    }

    fn words(evictor: &Evictor, activities: &[Activity]) -> Vec<ActivityWord> {
        let word = |activity: &Activity| {
            let word = ActivityWord::default();
            word.set(*activity, evictor);
            word
        };
        activities.iter().map(word).collect()
    }

    #[test]
    fn the_oldest_without_a_head_goes_first_then_the_longest_idle_and_no_other() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let evictor = Evictor::new(start);
        let words = words(
            &evictor,
            &[
                Activity::Idle(at(10)),
                Activity::Busy,
                Activity::NoHead(at(1_000)),
                Activity::Idle(at(5)),
                Activity::NoHead(at(900)),
                Activity::NoHead(at(1_001)),
                Activity::Idle(at(1_500)),
            ],
        );
        assert_eq!(order(&evictor, &words, at(999)), []);
        assert_eq!(order(&evictor, &words, at(2_001)), [4, 2, 3, 0]);
        assert_eq!(order(&evictor, &words, at(2_002)), [], "it does not look again at once");
        assert_eq!(order(&evictor, &words, at(2_600)), [4, 2, 5, 3, 0, 6]);
    }

    #[test]
    fn one_that_does_something_else_by_now_stays() {
        let start = Instant::now();
        let evictor = Evictor::new(start);
        let activities = [Activity::NoHead(start), Activity::Idle(start), Activity::NoHead(start)];
        let words = words(&evictor, &activities);
        let now = start + Duration::from_secs(5);
        let next = || evictor.next(0..3, |place| words.get(place as usize), now);
        assert_eq!(next(), Some(0));
        words[2].set(Activity::Busy, &evictor);
        assert_eq!(next(), Some(1));
        assert_eq!(next(), None);
    }

    #[test]
    fn of_a_crowd_the_oldest_are_remembered() {
        let start = Instant::now();
        let evictor = Evictor::new(start);
        let most = 3 * CANDIDATES as u32;
        let activities: Vec<Activity> = (0..most)
            .map(|n| Activity::NoHead(start + Duration::from_millis((n * 7 % most).into())))
            .collect();
        let words = words(&evictor, &activities);
        let going = order(&evictor, &words, start + Duration::from_secs(60));
        let oldest: Vec<u32> = going.iter().map(|n| n * 7 % most).collect();
        assert_eq!(oldest, (0..CANDIDATES as u32).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_goes_that_is_busy_or_young_or_has_sent_something() {
        let start = Instant::now();
        let (early, late) = (start + Duration::from_millis(999), start + EVICT_AFTER);
        for (activity, now, peeked, goes) in [
            (Activity::Busy, late, Peeked::Nothing, false),
            (Activity::NoHead(start), early, Peeked::Nothing, false),
            (Activity::NoHead(start), late, Peeked::Nothing, true),
            (Activity::NoHead(start), late, Peeked::Bytes, false),
            (Activity::Idle(start), early, Peeked::Nothing, false),
            (Activity::Idle(start), late, Peeked::Bytes, false),
            (Activity::Idle(start), late, Peeked::End, true),
        ] {
            assert_eq!(activity.may_be_evicted(now, || peeked), goes, "{activity:?} {peeked:?}");
        }
    }
}
