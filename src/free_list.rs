//! A free list: unused entries that are kept for reuse, and which of them stayed unused for a while.
//!
//! `take` returns the entry that was given back last. So the entries at the front are the unused
//! ones, and the smallest length within a period is their number (a low-water mark). Not here: how
//! many entries may be kept, and who trims the lists (`buffer/kept.rs`, `engine/life.rs`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long an entry stays unused before `take_unused` returns it; at most twice as long if
/// `take_unused` is called this often.
pub const UNUSED: Duration = Duration::from_secs(3);

/// Entries for reuse, the last one given back first.
#[derive(Debug)]
pub struct FreeList<T> {
    /// From the entry that was given back first to the one that was given back last.
    free: VecDeque<T>,
    /// The smallest length since `since`: this many entries at the front were not used.
    fewest: usize,
    since: Option<Instant>,
    /// How many entries at the front `take_unused` has yet to return.
    surplus: usize,
}

impl<T> Default for FreeList<T> {
    fn default() -> Self {
        FreeList::new()
    }
}

impl<T> FreeList<T> {
    /// An empty list.
    pub const fn new() -> Self {
        FreeList { free: VecDeque::new(), fewest: 0, since: None, surplus: 0 }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether the list has no entry.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes the entry that was given back last.
    pub fn take(&mut self) -> Option<T> {
        let taken = self.free.pop_back();
        self.fewest = self.fewest.min(self.free.len());
        self.surplus = self.surplus.min(self.free.len());
        taken
    }

    /// Gives an entry back.
    pub fn give(&mut self, entry: T) {
        self.free.push_back(entry);
    }

    /// Takes the entry that was given back first.
    pub fn take_oldest(&mut self) -> Option<T> {
        let taken = self.free.pop_front();
        self.fewest = self.fewest.saturating_sub(1);
        self.surplus = self.surplus.saturating_sub(1);
        taken
    }

    /// Takes an entry that was not used for [`UNUSED`]. Call it until it returns `None`.
    pub fn take_unused(&mut self, now: Instant) -> Option<T> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= UNUSED) {
            (self.surplus, self.fewest) = (self.fewest, self.free.len());
            self.since = Some(now);
        }
        if self.surplus == 0 { None } else { self.take_oldest() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unused(list: &mut FreeList<u32>, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| list.take_unused(now)).collect()
    }

    #[test]
    fn what_was_given_back_last_is_taken_first() {
        let mut list = FreeList::new();
        (1..=3).for_each(|entry| list.give(entry));
        assert_eq!((list.take(), list.take_oldest()), (Some(3), Some(1)));
        assert_eq!((list.take(), list.take(), list.take_oldest()), (Some(2), None, None));
    }

    #[test]
    fn entries_that_are_not_used_are_given_up_and_the_others_stay() {
        let (start, mut list) = (Instant::now(), FreeList::new());
        assert_eq!(unused(&mut list, start), []);
        (1..=5).for_each(|entry| list.give(entry));
        assert_eq!(unused(&mut list, start + UNUSED / 2), [], "too soon");
        assert_eq!(unused(&mut list, start + UNUSED), [], "each was used since the start");
        for step in 0..10 {
            let taken = [list.take(), list.take()];
            taken.into_iter().flatten().for_each(|entry| list.give(entry));
            assert_eq!(list.len(), if step == 0 { 5 } else { 2 });
            let given_up = unused(&mut list, start + UNUSED * (2 + step));
            assert_eq!(given_up, if step == 0 { vec![1, 2, 3] } else { vec![] });
        }
        assert_eq!(unused(&mut list, start + UNUSED * 12).len(), 2);
        assert!(list.is_empty());
    }

    #[test]
    fn what_is_needed_before_it_is_given_up_stays() {
        let (start, mut list) = (Instant::now(), FreeList::new());
        (1..=3).for_each(|entry| list.give(entry));
        assert_eq!(unused(&mut list, start), []);
        assert_eq!(list.take_unused(start + UNUSED), Some(1));
        assert_eq!([list.take(), list.take(), list.take()], [Some(3), Some(2), None]);
        assert_eq!(list.take_unused(start + UNUSED), None);
        list.give(4);
        assert_eq!(unused(&mut list, start + UNUSED * 2), [], "it was used meanwhile");
        assert_eq!(unused(&mut list, start + UNUSED * 3), [4]);
    }
}
