//! The word that says which session uses an upstream connection, read by workers that bring news.
//!
//! Two workers exchange two words, this one and the news on the session's seat:
//!
//! | the worker that keeps the connection | the worker that brings news of it       |
//! |--------------------------------------|-----------------------------------------|
//! | stores "idle" as the user            | adds the news to the seat of the user   |
//! | fence                                | fence                                   |
//! | loads the news on its seat           | loads the user again                    |
//!
//! At least one of the two must see what the other one stored. Otherwise the news are lost: they lie
//! on the seat of a session that no longer has the connection. Acquire and release do not give that:
//! each worker stores to one word and loads the other, and both loads may return the old value
//! (Dekker's problem; a CPU's store buffer does it). A sequentially consistent fence between store and
//! load on each side excludes it. `SeqCst` on the accesses alone would have to be on all four of them,
//! and loom could not check it, because loom treats such accesses as `AcqRel`. Not here: the news
//! (`event_queue.rs`), what is done with them (`threads/`).

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};

/// The number of the user of a connection.
#[derive(Default)]
pub(super) struct Handover(AtomicU64);

impl Handover {
    /// The present user.
    pub fn user(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Stores the next user. The connection is new, or the caller holds the lock of the pool.
    pub fn take(&self, user: u64) {
        self.0.store(user, Ordering::Release);
    }

    /// Stores `nobody` as the user. The last user has to look at its news after this.
    pub fn leave(&self, nobody: u64) {
        self.0.store(nobody, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Whether the user is still the same. The caller has just added news to that user's seat, and has
    /// to bring them to the next user if not.
    pub fn is_still(&self, user: u64) -> bool {
        fence(Ordering::SeqCst);
        self.user() == user
    }
}

/// Runs under loom, which tries every order that the memory model allows; see CONTRIBUTING.md.
#[cfg(all(test, loom))]
mod tests {
    use loom::sync::atomic::AtomicBool;
    use loom::sync::{Arc, Mutex};
    use loom::thread;

    use super::super::event_queue::{READABLE, RunState, UPSTREAM, WAKE};
    use super::super::key::Key;
    use super::*;

    const IDLE: u64 = 0;

    /// A connection whose end has arrived but was not read, the seat of its user, and the pool.
    struct Model {
        run_state: RunState,
        key: Key,
        handover: Handover,
        is_in_pool: Mutex<bool>,
        was_looked_at: AtomicBool,
    }

    impl Model {
        fn new() -> Self {
            let run_state = RunState::default();
            let key = run_state.occupy(0);
            assert!(run_state.signal(key, WAKE), "the first worker drives the session");
            run_state.take_readiness();
            let handover = Handover::default();
            handover.take(key.number());
            let (is_in_pool, was_looked_at) = (Mutex::new(false), AtomicBool::new(false));
            Model { run_state, key, handover, is_in_pool, was_looked_at }
        }

        fn look(&self) {
            self.was_looked_at.store(true, Ordering::Release);
        }

        /// As in `Pool::put`.
        fn lay_by(&self) {
            let mut is_in_pool = self.is_in_pool.lock().unwrap();
            self.handover.leave(IDLE);
            *is_in_pool = true;
        }

        /// As in `Pool::remove`.
        fn remove(&self) -> bool {
            std::mem::take(&mut *self.is_in_pool.lock().unwrap())
        }

        /// As `Shared::keep`.
        fn keep(&self) {
            loop {
                if self.run_state.take_upstream_readiness() != 0 {
                    self.look();
                }
                self.lay_by();
                if !self.run_state.has_upstream_readiness() || !self.remove() {
                    return;
                }
            }
        }

        /// As `Shared::signal_user`.
        fn signal_user(&self) {
            loop {
                match self.handover.user() {
                    IDLE => {
                        if self.remove() {
                            self.look();
                            return self.lay_by();
                        }
                        thread::yield_now();
                    }
                    user => {
                        self.run_state.signal(Key::from_number(user), READABLE << UPSTREAM);
                        if self.handover.is_still(user) {
                            return;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn news_of_a_connection_that_is_kept_meanwhile_are_not_lost() {
        loom::model(|| {
            let model = Arc::new(Model::new());
            let other = model.clone();
            let bringing = thread::spawn(move || other.signal_user());
            model.keep();
            bringing.join().unwrap();
            assert!(model.was_looked_at.load(Ordering::Acquire), "the news were lost");
            assert!(model.remove(), "the connection is in the pool");
        });
    }
}
