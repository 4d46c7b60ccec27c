//! How many client connections may be open, and who waits for one to end.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections beyond the limit that are told so at a time; more than that wait.
const TURNED_AWAY: usize = 256;

/// Counts open connections.
pub struct ConnectionLimit {
    open: Mutex<Open>,
    changed: Condvar,
    most: usize,
}

/// Connections that are open.
#[derive(Clone, Copy, Default)]
struct Open {
    served: usize,
    turned_away: usize,
}

/// One connection that counts as open until this is dropped.
pub struct Permit {
    connection_limit: Arc<ConnectionLimit>,
    is_turned_away: bool,
}

impl ConnectionLimit {
    /// Lets `most` in.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(ConnectionLimit { open: Mutex::default(), changed: Condvar::new(), most })
    }

    /// The most places that can be taken at a time.
    pub fn places(most: usize) -> usize {
        most.saturating_add(TURNED_AWAY)
    }

    /// Takes a place for a connection that was accepted. Also says whether it is one too many,
    /// which may only be told so. `None`: there are too many even of those.
    pub fn enter(self: &Arc<Self>) -> Option<(Permit, bool)> {
        let mut open = self.lock();
        let is_turned_away = open.served >= self.most;
        if !is_turned_away {
            open.served += 1;
        } else if open.turned_away < TURNED_AWAY {
            open.turned_away += 1;
        } else {
            return None;
        }
        Some((Permit { connection_limit: self.clone(), is_turned_away }, is_turned_away))
    }

    /// Whether as many are open as are served.
    pub fn is_full(&self) -> bool {
        self.lock().served >= self.most
    }

    /// Waits until a connection can be served, or at least told that it can't if `to_be_told`, for
    /// `patience` at most. Returns whether one can.
    pub fn wait_for_permit(&self, to_be_told: bool, patience: Duration) -> bool {
        self.wait(patience, |open| {
            open.served < self.most || to_be_told && open.turned_away < TURNED_AWAY
        })
    }

    /// Waits until no connection is open, for `patience` at most. Returns whether none is.
    pub fn wait_until_empty(&self, patience: Duration) -> bool {
        self.wait(patience, |open| open.served + open.turned_away == 0)
    }

    fn wait(&self, patience: Duration, is_right: impl Fn(Open) -> bool) -> bool {
        let until = Instant::now() + patience;
        let mut open = self.lock();
        while !is_right(*open) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(open, left);
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.connection_limit.lock();
        let (count, most) = if self.is_turned_away {
            (&mut open.turned_away, TURNED_AWAY)
        } else {
            (&mut open.served, self.connection_limit.most)
        };
        *count -= 1;
        let was_full = *count + 1 == most;
        // Who waits, waits for one of these.
        if was_full || open.served + open.turned_away == 0 {
            self.connection_limit.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_let_in_and_a_few_more_are_told() {
        let connection_limit = ConnectionLimit::new(1);
        let entered: Vec<_> = std::iter::from_fn(|| connection_limit.enter()).collect();
        let told = entered.iter().filter(|(_, is_told)| *is_told).count();
        assert_eq!((entered.len(), told), (1 + TURNED_AWAY, TURNED_AWAY));
        assert!(!entered[0].1);
        assert!(!connection_limit.wait_for_permit(true, Duration::ZERO));
        drop(entered);
        assert!(connection_limit.wait_until_empty(Duration::ZERO));
    }

    #[test]
    fn whoever_waits_is_woken() {
        let connection_limit = ConnectionLimit::new(1);
        let permit = connection_limit.enter();
        let waiting = connection_limit.clone();
        let waiter =
            std::thread::spawn(move || waiting.wait_for_permit(false, Duration::from_secs(60)));
        drop(permit);
        assert!(waiter.join().unwrap());
    }
}
