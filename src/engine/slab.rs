//! Places that threads share by number, without a lock on the way to one of them.
//!
//! Places are made in blocks when they are first needed and stay until the end, so a number that an
//! event names, however late, is always the number of a place. Not here: whose a place is now.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lock::Lock;

/// Places of one block.
const BLOCK: usize = 1024;

/// Numbered places.
pub struct Slab<T> {
    blocks: Box<[OnceLock<Box<[T]>>]>,
    /// Numbers below it have been given out at least once.
    used: AtomicUsize,
    free: Lock<Vec<u32>>,
    capacity: usize,
}

impl<T: Default> Slab<T> {
    /// Room for `capacity` places; memory is taken as they are used.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.min(u32::MAX as usize);
        Slab {
            blocks: (0..capacity.div_ceil(BLOCK)).map(|_| OnceLock::new()).collect(),
            used: AtomicUsize::new(0),
            free: Lock::default(),
            capacity,
        }
    }

    /// The number of a free place; `None` if all are taken.
    pub fn take(&self) -> Option<u32> {
        let mut free = self.free.lock();
        if let Some(index) = free.pop() {
            return Some(index);
        }
        let index = self.used.load(Ordering::Relaxed);
        if index >= self.capacity {
            return None;
        }
        self.blocks[index / BLOCK].get_or_init(|| (0..BLOCK).map(|_| T::default()).collect());
        self.used.store(index + 1, Ordering::Release);
        Some(index as u32)
    }

    /// Gives a place back.
    pub fn give_back(&self, index: u32) {
        self.free.lock().push(index);
    }

    /// The place with this number.
    pub fn get(&self, index: u32) -> Option<&T> {
        self.blocks.get(index as usize / BLOCK)?.get()?.get(index as usize % BLOCK)
    }

    /// The numbers that may be in use.
    pub fn numbers(&self) -> std::ops::Range<u32> {
        0..self.used.load(Ordering::Acquire) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_out_once_until_given_back() {
        let slab: Slab<u8> = Slab::new(3);
        assert_eq!([slab.take(), slab.take(), slab.take()], [Some(0), Some(1), Some(2)]);
        assert_eq!(slab.take(), None);
        slab.give_back(1);
        assert_eq!([slab.take(), slab.take()], [Some(1), None]);
        assert_eq!(slab.numbers(), 0..3);
    }

    #[test]
    fn a_place_that_was_never_taken_does_not_exist() {
        let slab: Slab<u8> = Slab::new(5000);
        assert!(slab.get(0).is_none());
        slab.take();
        assert!(slab.get(0).is_some());
        assert!(slab.get(4000).is_none());
        assert!(slab.get(u32::MAX).is_none());
    }
}
