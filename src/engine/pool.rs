//! Idle upstream connections, kept for the next request.
//!
//! The one that was used last is used first, so that those that are not needed grow old and go.
//! Bounded in number and age. Not here: whether a connection may be kept (`session/`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lock::Lock;
use crate::upstream::UpstreamId;

/// Idle connections of every upstream.
pub struct Pool<C> {
    shelves: Lock<Shelves<C>>,
    /// Connections in this pool and those beside it.
    kept: Arc<AtomicUsize>,
    most: usize,
    oldest: Duration,
}

struct Shelves<C> {
    /// By upstream, each from the oldest to the newest.
    shelves: Vec<Vec<(Instant, C)>>,
    count: usize,
}

impl<C> Pool<C> {
    /// At most `most` connections, none of them idle for longer than `oldest`.
    pub fn new(upstreams: usize, most: usize, oldest: Duration) -> Self {
        let shelves = (0..upstreams).map(|_| Vec::new()).collect();
        let shelves = Lock::new(Shelves { shelves, count: 0 });
        Pool { shelves, kept: Arc::default(), most, oldest }
    }

    /// Another one; the bound is for both together.
    pub fn beside(&self) -> Self {
        let upstreams = self.shelves.lock().shelves.len();
        Pool { kept: self.kept.clone(), ..Pool::new(upstreams, self.most, self.oldest) }
    }

    /// Keeps a connection; if there is no room, one that cannot be kept comes back: the oldest to
    /// the same upstream, or this one. `keeping` runs before anybody else can take it.
    pub fn put(
        &self,
        id: UpstreamId,
        now: Instant,
        connection: C,
        keeping: impl FnOnce(&C),
    ) -> Option<C> {
        let mut shelves = self.shelves.lock();
        let Some(shelf) = shelves.shelves.get_mut(id.0) else { return Some(connection) };
        let is_full = self.kept.fetch_add(1, Ordering::AcqRel) >= self.most;
        if is_full {
            self.kept.fetch_sub(1, Ordering::AcqRel);
        }
        if is_full && shelf.is_empty() {
            return Some(connection);
        }
        let evicted = is_full.then(|| shelf.remove(0).1);
        keeping(&connection);
        shelf.push((now, connection));
        if evicted.is_none() {
            shelves.count += 1;
        }
        evicted
    }

    /// Takes the connection to an upstream that was used last. `taking` runs before anything that
    /// is heard of it can be taken for news of an idle one.
    pub fn take(&self, id: UpstreamId, now: Instant, taking: impl FnOnce(&C)) -> Option<C> {
        let mut shelves = self.shelves.lock();
        let shelf = shelves.shelves.get_mut(id.0)?;
        let (since, _) = shelf.last()?;
        if now.saturating_duration_since(*since) > self.oldest {
            return None; // and so are all others; the next sweep finds them
        }
        let (_, connection) = shelf.pop()?;
        shelves.count -= 1;
        self.kept.fetch_sub(1, Ordering::AcqRel);
        taking(&connection);
        Some(connection)
    }

    /// Removes the idle connection to an upstream of which `is_meant` is true.
    pub fn remove(&self, id: UpstreamId, is_meant: impl Fn(&C) -> bool) -> Option<C> {
        let mut shelves = self.shelves.lock();
        let shelf = shelves.shelves.get_mut(id.0)?;
        let index = shelf.iter().position(|(_, connection)| is_meant(connection))?;
        let (_, connection) = shelf.remove(index);
        shelves.count -= 1;
        self.kept.fetch_sub(1, Ordering::AcqRel);
        Some(connection)
    }

    /// Removes those that have been idle for too long.
    pub fn sweep(&self, now: Instant) -> Vec<C> {
        let mut shelves = self.shelves.lock();
        let mut removed = Vec::new();
        for shelf in &mut shelves.shelves {
            let is_old = |since: Instant| now.saturating_duration_since(since) > self.oldest;
            let old = shelf.iter().take_while(|(since, _)| is_old(*since)).count();
            removed.extend(shelf.drain(..old).map(|(_, connection)| connection));
        }
        shelves.count -= removed.len();
        self.kept.fetch_sub(removed.len(), Ordering::AcqRel);
        removed
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.shelves.lock().count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: UpstreamId = UpstreamId(0);
    const B: UpstreamId = UpstreamId(1);

    #[test]
    fn the_newest_is_taken_first_and_only_for_its_upstream() {
        let now = Instant::now();
        let pool = Pool::new(2, 10, Duration::from_secs(50));
        for connection in [1, 2] {
            assert_eq!(pool.put(A, now, connection, |_| ()), None);
        }
        assert_eq!(pool.take(B, now, |_| ()), None);
        assert_eq!(pool.take(A, now, |_| ()), Some(2));
        assert_eq!(pool.take(A, now, |_| ()), Some(1));
        assert_eq!(pool.take(A, now, |_| ()), None);
    }

    #[test]
    fn the_number_is_bounded() {
        let now = Instant::now();
        let pool = Pool::new(2, 2, Duration::from_secs(50));
        assert_eq!(pool.put(A, now, 1, |_| ()), None);
        assert_eq!(pool.put(A, now, 2, |_| ()), None);
        assert_eq!(pool.put(A, now, 3, |_| ()), Some(1), "the oldest of the same upstream");
        assert_eq!(pool.put(B, now, 4, |_| ()), Some(4), "nobody else's");
        assert_eq!(Pool::new(1, 0, Duration::ZERO).put(A, now, 5, |_| ()), Some(5));
    }

    #[test]
    fn the_bound_is_for_all_pools_beside_each_other() {
        let now = Instant::now();
        let pool = Pool::new(2, 2, Duration::from_secs(50));
        let beside = pool.beside();
        assert_eq!(pool.put(A, now, 1, |_| ()), None);
        assert_eq!(beside.put(A, now, 2, |_| ()), None);
        assert_eq!(beside.put(B, now, 3, |_| ()), Some(3), "there is no room");
        assert_eq!(beside.put(A, now, 4, |_| ()), Some(2), "the oldest of the same upstream");
        assert_eq!(pool.take(A, now, |_| ()), Some(1));
        assert_eq!(beside.put(B, now, 5, |_| ()), None);
        assert_eq!(beside.sweep(now + Duration::from_secs(51)).len(), 2);
        assert_eq!(pool.put(A, now, 6, |_| ()), None);
        assert_eq!(pool.put(A, now, 7, |_| ()), None);
    }

    #[test]
    fn the_age_is_bounded() {
        let now = Instant::now();
        let later = now + Duration::from_secs(51);
        let pool = Pool::new(2, 10, Duration::from_secs(50));
        pool.put(A, now, 1, |_| ());
        pool.put(B, later, 2, |_| ());
        assert_eq!(pool.take(A, later, |_| ()), None);
        assert_eq!(pool.sweep(later), [1]);
        assert_eq!(pool.remove(A, |&c| c == 2), None);
        assert_eq!(pool.remove(B, |&c| c == 2), Some(2));
        assert!(pool.is_empty());
    }
}
