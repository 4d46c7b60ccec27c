//! Memory of buffers that nobody uses at present, so that after warm-up nothing is allocated.
//!
//! Each thread keeps a short list for each size, and beside it all threads keep one together: a
//! session that takes its memory on one thread and gives it back on another would otherwise empty
//! one list and fill the other, for ever.

use std::cell::RefCell;

use super::{Memory, SIZE, SMALL};
use crate::lock::Lock;

/// A buffer takes a box as it is.
type Boxes = Vec<Box<Memory>>;

/// Memory of one size.
struct Stock {
    size: usize,
    /// How many a thread keeps.
    per_thread: usize,
    /// How many all threads keep together beside those.
    together: usize,
    kept_together: Lock<Boxes>,
}

impl Stock {
    const fn new(size: usize, per_thread: usize, together: usize) -> Self {
        Stock { size, per_thread, together, kept_together: Lock::new(Vec::new()) }
    }

    /// How many go from one list to the other at a time, so that the lock is taken seldom.
    const fn handed_over(&self) -> usize {
        self.per_thread / 2
    }
}

/// 16 buffers at work a thread are 1.1 MiB, 64 are 4.3 MiB; 32 that rest are 128 KiB, 2,048 are
/// 8 MiB.
static STOCKS: [Stock; 2] = [Stock::new(SIZE, 16, 64), Stock::new(SMALL, 32, 2_048)];

thread_local! {
    /// What this thread keeps, of each stock.
    static KEPT: RefCell<[Boxes; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Memory of `size` bytes, one of the two: what this thread has kept, or another one, or new.
pub(super) fn take(size: usize) -> Box<Memory> {
    let number = usize::from(size == SMALL);
    let stock = &STOCKS[number];
    let kept = KEPT.with_borrow_mut(|kept| {
        let kept = &mut kept[number];
        if kept.is_empty() {
            let mut together = stock.kept_together.lock();
            let rest = together.len().saturating_sub(stock.handed_over());
            kept.extend(together.drain(rest..));
        }
        kept.pop()
    });
    kept.unwrap_or_else(|| Memory::new(size))
}

/// Keeps memory for `take` if there is room for it. What has grown is not kept.
pub(super) fn keep(mut memory: Box<Memory>) {
    let Some(number) = STOCKS.iter().position(|stock| stock.size == memory.store.len()) else {
        return;
    };
    let stock = &STOCKS[number];
    (memory.start, memory.end, memory.holds) = (0, 0, false);
    KEPT.with_borrow_mut(|kept| {
        let kept = &mut kept[number];
        if kept.len() >= stock.per_thread {
            let mut together = stock.kept_together.lock();
            let room = stock.together.saturating_sub(together.len());
            together.extend(kept.drain(..stock.handed_over()).take(room));
        }
        kept.push(memory);
    });
}
