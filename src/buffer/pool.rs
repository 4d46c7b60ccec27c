//! Memory of buffers that nobody uses at present, so that after warm-up nothing is allocated.
//!
//! Each thread keeps a short list for each size, and beside it all threads keep one together: a
//! session that takes its memory on one thread and gives it back on another would otherwise empty
//! one list and fill the other, for ever. Memory that stays unused goes back to the system. Not here:
//! when the engines ask for that (`engine/life.rs`).

use std::cell::RefCell;
use std::time::Instant;

use super::{Memory, SIZES};
use crate::free_list::FreeList;
use crate::lock::Lock;

/// A buffer takes a box as it is.
type Boxes = FreeList<Box<Memory>>;

/// The most bytes that all threads keep together.
const MOST_TOGETHER: usize = 16 << 20;
/// The most bytes that each thread keeps in addition.
const MOST_BY_THREAD: usize = 2 << 20;

/// For each of `SIZES`: how many buffers a thread keeps, and how many all threads keep together in
/// addition.
const COUNTS: [(usize, usize); SIZES.len()] = [(32, 2_048), (16, 128), (8, 64), (4, 32), (16, 64)];

const _: () = {
    let (mut number, mut by_thread, mut together) = (0, 0, 0);
    while number < SIZES.len() {
        by_thread += COUNTS[number].0 * SIZES[number];
        together += COUNTS[number].1 * SIZES[number];
        number += 1;
    }
    assert!(by_thread <= MOST_BY_THREAD && together <= MOST_TOGETHER);
};

/// Memory of one size.
struct Stock {
    by_thread: usize,
    together: usize,
    kept_together: Lock<Boxes>,
}

impl Stock {
    const fn new((by_thread, together): (usize, usize)) -> Self {
        Stock { by_thread, together, kept_together: Lock::new(Boxes::new()) }
    }

    /// How many go from one list to the other at a time, so that the lock is taken seldom.
    const fn handed_over(&self) -> usize {
        self.by_thread / 2
    }
}

static STOCKS: [Stock; SIZES.len()] = [
    Stock::new(COUNTS[0]),
    Stock::new(COUNTS[1]),
    Stock::new(COUNTS[2]),
    Stock::new(COUNTS[3]),
    Stock::new(COUNTS[4]),
];

thread_local! {
    /// What this thread keeps, of each stock.
    static KEPT: RefCell<[Boxes; SIZES.len()]> =
        const { RefCell::new([const { Boxes::new() }; SIZES.len()]) };
}

/// Memory of one of `SIZES`: what this thread has kept, or another one, or new.
pub(super) fn take(number: usize) -> Box<Memory> {
    let pool = &STOCKS[number];
    let kept = KEPT.with_borrow_mut(|kept| {
        let kept = &mut kept[number];
        if kept.is_empty() {
            let mut together = pool.kept_together.lock();
            for _ in 0..pool.handed_over() {
                let Some(memory) = together.take() else { break };
                kept.give(memory);
            }
        }
        kept.take()
    });
    kept.unwrap_or_else(|| Memory::new(SIZES[number]))
}

/// Keeps memory for `take` if there is room for it. What has grown is not kept.
pub(super) fn keep(mut memory: Box<Memory>) {
    let Some(number) = SIZES.iter().position(|size| *size == memory.store.len()) else {
        return;
    };
    let pool = &STOCKS[number];
    (memory.start, memory.end, memory.retains) = (0, 0, false);
    KEPT.with_borrow_mut(|kept| {
        let kept = &mut kept[number];
        if kept.len() >= pool.by_thread {
            let mut together = pool.kept_together.lock();
            for _ in 0..pool.handed_over() {
                let Some(oldest) = kept.take_oldest() else { break };
                if together.len() < pool.together {
                    together.give(oldest);
                }
            }
        }
        kept.give(memory);
    });
}

/// Frees memory that stayed unused, of this thread's lists and of the common ones. Returns whether
/// anything is still kept.
pub(super) fn give_back_unused(now: Instant) -> bool {
    let mut is_any = false;
    for (number, pool) in STOCKS.iter().enumerate() {
        is_any |= KEPT.with_borrow_mut(|kept| {
            while kept[number].take_unused(now).is_some() {}
            !kept[number].is_empty()
        });
        let unused = || pool.kept_together.lock().take_unused(now);
        // Each one is dropped after the lock is released: other threads may wait for it.
        while unused().is_some() {}
        is_any |= !pool.kept_together.lock().is_empty();
    }
    is_any
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::free_list::UNUSED;

    #[test]
    fn what_a_thread_keeps_is_given_back_when_it_was_not_used_for_a_while() {
        let (start, kept) =
            (Instant::now(), || KEPT.with_borrow(|kept| kept.each_ref().map(FreeList::len)));
        give_back_unused(start);
        for (number, (by_thread, _)) in COUNTS.into_iter().enumerate() {
            let taken: Vec<_> = (0..by_thread).map(|_| take(number)).collect();
            taken.into_iter().for_each(keep);
        }
        assert_eq!(kept(), COUNTS.map(|(by_thread, _)| by_thread));
        give_back_unused(start + UNUSED);
        assert_eq!(kept(), COUNTS.map(|(by_thread, _)| by_thread), "it was used meanwhile");
        let in_use = [take(0), take(0)];
        in_use.into_iter().for_each(keep);
        give_back_unused(start + UNUSED * 2);
        assert_eq!(kept(), [2, 0, 0, 0, 0]);
        give_back_unused(start + UNUSED * 3);
        assert_eq!(kept(), [0; SIZES.len()]);
    }
}
