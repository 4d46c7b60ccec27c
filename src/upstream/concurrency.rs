//! The concurrency limit of an upstream, and what a free place of it is given to. Not here: the order
//! in which requests wait (`wait_queue.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::choice::Chosen;
use super::id::UpstreamId;
use super::wait_queue::WaitQueue;

/// How many exchanges an upstream may have at a time (`--max-in-flight`). `T` is a choice that was
/// made: a request in the queue gets it.
pub(super) struct ConcurrencyLimit<T> {
    pub most: usize,
    /// Requests that wait for capacity, at any upstream.
    pub queue: Arc<WaitQueue<T>>,
    /// How an ejected upstream is chosen if no live one is left; `None`: it is not.
    pub when_none_live: Option<Chosen>,
    pub failed_open: Arc<AtomicU64>,
}

impl<T> Clone for ConcurrencyLimit<T> {
    fn clone(&self) -> Self {
        ConcurrencyLimit {
            most: self.most,
            queue: self.queue.clone(),
            when_none_live: self.when_none_live,
            failed_open: self.failed_open.clone(),
        }
    }
}

impl<T> ConcurrencyLimit<T> {
    /// Counts one more exchange. `false`: the limit is reached. The count never exceeds the limit,
    /// not even for a moment: a concurrent look would find no capacity.
    pub fn take_place(&self, in_flight: &AtomicUsize) -> bool {
        let more = |count| (count < self.most).then_some(count + 1);
        in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Gives free places of upstream `id` to requests that wait, each made a choice by `begin`.
    pub fn serve_queue(
        &self,
        id: UpstreamId,
        is_live: bool,
        in_flight: &AtomicUsize,
        begin: impl Fn(Chosen) -> Option<T>,
    ) {
        // A thread that frees a place looks again, so none is overlooked here.
        let is_asked = is_live || self.when_none_live.is_some();
        if !is_asked || self.queue.len() == 0 || in_flight.load(Ordering::SeqCst) >= self.most {
            return;
        }
        self.queue.hand_over(id, |is_live| {
            let chosen = if is_live { Chosen::Live } else { self.when_none_live? };
            let choice = begin(chosen)?;
            self.failed_open.fetch_add(u64::from(!is_live), Ordering::Relaxed);
            Some(choice)
        });
    }
}
