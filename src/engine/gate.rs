//! How many client connections may be open, and who waits for one to end.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections beyond the limit that are told so at a time; more than that wait.
const TURNED_AWAY: usize = 256;

/// Counts open connections.
pub struct Gate {
    open: Mutex<usize>,
    changed: Condvar,
    most: usize,
}

/// One connection that counts as open until this is dropped.
pub struct Pass(Arc<Gate>);

/// Whether a connection may be let in.
pub enum Entry {
    /// It may.
    Free(Pass),
    /// It may be told that it may not.
    TurnAway(Pass),
    /// It has to wait.
    Full,
}

impl Gate {
    /// Lets `most` in.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Gate { open: Mutex::new(0), changed: Condvar::new(), most })
    }

    /// The most places that can be taken at a time.
    pub fn places(most: usize) -> usize {
        most + TURNED_AWAY
    }

    /// Takes a place.
    pub fn enter(self: &Arc<Self>) -> Entry {
        let mut open = self.lock();
        let entry = if *open < self.most {
            Entry::Free
        } else if *open < Self::places(self.most) {
            Entry::TurnAway
        } else {
            return Entry::Full;
        };
        *open += 1;
        entry(Pass(self.clone()))
    }

    /// Waits until a connection is below the limit, for `patience` at most. Returns whether one is.
    pub fn wait_for_room(&self, patience: Duration) -> bool {
        self.wait(patience, |open| open < self.most)
    }

    /// Waits until no connection is open, for `patience` at most. Returns whether none is.
    pub fn wait_until_empty(&self, patience: Duration) -> bool {
        self.wait(patience, |open| open == 0)
    }

    fn wait(&self, patience: Duration, is_right: impl Fn(usize) -> bool) -> bool {
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

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = self.0.lock();
        *open -= 1;
        // Who waits, waits for one of these two.
        if *open == 0 || *open + 1 == self.0.most {
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_let_in_and_a_few_more_are_told() {
        let gate = Gate::new(1);
        let Entry::Free(first) = gate.enter() else { panic!("there is room") };
        let told: Vec<_> = (0..TURNED_AWAY).map(|_| gate.enter()).collect();
        assert!(told.iter().all(|entry| matches!(entry, Entry::TurnAway(_))));
        assert!(matches!(gate.enter(), Entry::Full));
        assert!(!gate.wait_for_room(Duration::ZERO));
        drop((first, told));
        assert!(gate.wait_until_empty(Duration::ZERO));
    }

    #[test]
    fn whoever_waits_is_woken() {
        let gate = Gate::new(1);
        let Entry::Free(pass) = gate.enter() else { panic!("there is room") };
        let waiting = gate.clone();
        let waiter = std::thread::spawn(move || waiting.wait_for_room(Duration::from_secs(60)));
        drop(pass);
        assert!(waiter.join().unwrap());
    }
}
