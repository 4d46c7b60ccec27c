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

    /// Keeps a connection that is idle since then; if there is no room, one that cannot be kept comes
    /// back: the oldest to the same upstream, or this one. `keeping` runs before anybody else can take it.
    pub fn put(
        &self,
        id: UpstreamId,
        since: Instant,
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
        // At the end, unless it was looked at meanwhile.
        let place = shelf.iter().rposition(|(other, _)| *other <= since).map_or(0, |at| at + 1);
        shelf.insert(place, (since, connection));
        if evicted.is_none() {
            shelves.count += 1;
        }
        evicted
    }

    /// Takes the connection to an upstream that was used last, if it has been idle for `most` at
    /// the longest, and tells for how long it has. `taking` runs before anything that is heard of it
    /// can be taken for news of an idle one.
    pub fn take(
        &self,
        id: UpstreamId,
        most: Duration,
        now: Instant,
        taking: impl FnOnce(&C),
    ) -> Option<(C, Duration)> {
        let mut shelves = self.shelves.lock();
        let shelf = shelves.shelves.get_mut(id.0)?;
        let (since, _) = shelf.last()?;
        let idle = now.saturating_duration_since(*since);
        if idle > self.oldest.min(most) {
            return None; // and so are all others; the next sweep finds them
        }
        let (_, connection) = shelf.pop()?;
        shelves.count -= 1;
        self.kept.fetch_sub(1, Ordering::AcqRel);
        taking(&connection);
        Some((connection, idle))
    }

    /// Removes the idle connection to an upstream of which `is_meant` is true, and tells since when
    /// it was idle.
    pub fn remove(&self, id: UpstreamId, is_meant: impl Fn(&C) -> bool) -> Option<(C, Instant)> {
        let mut shelves = self.shelves.lock();
        let shelf = shelves.shelves.get_mut(id.0)?;
        let index = shelf.iter().position(|(_, connection)| is_meant(connection))?;
        let (since, connection) = shelf.remove(index);
        shelves.count -= 1;
        self.kept.fetch_sub(1, Ordering::AcqRel);
        Some((connection, since))
    }

    /// Removes those that have been idle for too long, or for longer than is kept of their
    /// upstream, and tells for how long they were.
    pub fn sweep(
        &self,
        now: Instant,
        most_kept: impl Fn(UpstreamId) -> Duration,
    ) -> Vec<(C, Duration)> {
        let mut shelves = self.shelves.lock();
        let mut removed = Vec::new();
        let idle = |since: Instant| now.saturating_duration_since(since);
        for (id, shelf) in shelves.shelves.iter_mut().enumerate() {
            let Some((oldest, _)) = shelf.first() else { continue };
            let most = self.oldest.min(most_kept(UpstreamId(id)));
            if idle(*oldest) > most {
                let old = shelf.iter().take_while(|(since, _)| idle(*since) > most).count();
                let old = shelf.drain(..old);
                removed.extend(old.map(|(since, connection)| (connection, idle(since))));
            }
        }
        shelves.count -= removed.len();
        self.kept.fetch_sub(removed.len(), Ordering::AcqRel);
        removed
    }

    /// Removes those of which `has_news` is true, and tells for how long they were idle.
    pub fn remove_those(&self, now: Instant, has_news: impl Fn(&C) -> bool) -> Vec<(C, Duration)> {
        let mut shelves = self.shelves.lock();
        let mut removed = Vec::new();
        for shelf in &mut shelves.shelves {
            let with_news = shelf.extract_if(.., |(_, connection)| has_news(connection));
            let idle = |(since, connection)| (connection, now.saturating_duration_since(since));
            removed.extend(with_news.map(idle));
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
    const ANY: Duration = Duration::MAX;

    fn taken(pool: &Pool<u8>, id: UpstreamId, now: Instant) -> Option<u8> {
        pool.take(id, ANY, now, |_| ()).map(|(connection, _)| connection)
    }

    #[test]
    fn what_an_upstream_may_close_soon_is_neither_taken_nor_kept() {
        let now = Instant::now();
        let secs = Duration::from_secs;
        let pool = Pool::new(2, 10, secs(50));
        for (id, connection) in [(A, 1), (B, 2), (A, 3)] {
            pool.put(id, now + secs(connection.into()), connection, |_| ());
        }
        let later = now + secs(9);
        assert_eq!(pool.take(A, secs(5), later, |_| ()), None);
        assert_eq!(pool.take(A, secs(6), later, |_| ()), Some((3, secs(6))));
        let removed = pool.sweep(later, |id| if id == A { secs(5) } else { ANY });
        assert_eq!(removed, [(1, secs(8))]);
        assert_eq!(taken(&pool, B, later), Some(2));
    }

    #[test]
    fn one_that_was_looked_at_is_as_old_as_before() {
        let now = Instant::now();
        let pool = Pool::new(1, 10, Duration::from_secs(50));
        for after in [0, 1, 2] {
            pool.put(A, now + Duration::from_secs(after), after as u8, |_| ());
        }
        let (connection, since) = pool.remove(A, |&c| c == 1).expect("it is there");
        assert_eq!(pool.put(A, since, connection, |_| ()), None);
        for expected in [2, 1, 0] {
            assert_eq!(taken(&pool, A, now), Some(expected));
        }
    }

    #[test]
    fn those_with_news_are_removed_and_the_others_stay() {
        let now = Instant::now();
        let pool = Pool::new(2, 3, Duration::from_secs(50));
        for (id, connection) in [(A, 1), (A, 2), (B, 3)] {
            assert_eq!(pool.put(id, now, connection, |_| ()), None);
        }
        let later = now + Duration::from_secs(2);
        let removed = pool.remove_those(later, |&connection| connection != 2);
        assert_eq!(removed, [(1, Duration::from_secs(2)), (3, Duration::from_secs(2))]);
        assert_eq!(pool.put(B, now, 4, |_| ()), None, "there is room again");
        assert_eq!((taken(&pool, A, later), taken(&pool, B, later)), (Some(2), Some(4)));
    }

    #[test]
    fn the_newest_is_taken_first_and_only_for_its_upstream() {
        let now = Instant::now();
        let pool = Pool::new(2, 10, Duration::from_secs(50));
        for connection in [1, 2] {
            assert_eq!(pool.put(A, now, connection, |_| ()), None);
        }
        assert_eq!(taken(&pool, B, now), None);
        assert_eq!(taken(&pool, A, now), Some(2));
        assert_eq!(taken(&pool, A, now), Some(1));
        assert_eq!(taken(&pool, A, now), None);
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
        assert_eq!(taken(&pool, A, now), Some(1));
        assert_eq!(beside.put(B, now, 5, |_| ()), None);
        assert_eq!(beside.sweep(now + Duration::from_secs(51), |_| ANY).len(), 2);
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
        assert_eq!(taken(&pool, A, later), None);
        assert_eq!(pool.sweep(later, |_| ANY), [(1, Duration::from_secs(51))]);
        assert_eq!(pool.remove(A, |&c| c == 2), None);
        assert_eq!(pool.remove(B, |&c| c == 2), Some((2, later)));
        assert!(pool.is_empty());
    }
}
