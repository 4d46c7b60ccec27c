//! Sessions that were woken by what others did, not by their sockets.
//!
//! A worker looks at them before it waits, so only others have to nudge one. Not here: who wakes
//! whom (`upstream/queue.rs`).

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use super::event_queue::EventQueue;
use super::key::Key;
use crate::lock::Lock;

/// Those that are woken and were not looked at since.
pub(super) struct WakeQueue {
    keys: Lock<Vec<Key>>,
    /// Whether there is one; spares the lock.
    is_any: AtomicBool,
    event_queue: Arc<EventQueue>,
}

/// Wakes the session on one seat.
struct SessionWaker {
    wake_queue: Arc<WakeQueue>,
    key: Key,
}

thread_local! {
    /// Whether this thread looks at the woken before it waits.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

impl WakeQueue {
    /// Nobody yet; those who wait in `event_queue` are nudged for them.
    pub fn notifying(event_queue: Arc<EventQueue>) -> Arc<Self> {
        Arc::new(WakeQueue { keys: Lock::default(), is_any: AtomicBool::new(false), event_queue })
    }

    /// This thread takes them each time before it waits in the room.
    pub fn looked_at_here() {
        LOOKS.set(true);
    }

    /// What wakes the session on a seat.
    pub fn waker(self: &Arc<Self>, key: Key) -> Waker {
        Waker::from(Arc::new(SessionWaker { wake_queue: self.clone(), key }))
    }

    /// Takes those that were woken.
    pub fn take(&self) -> Vec<Key> {
        if !self.is_any.load(Ordering::Acquire) {
            return Vec::new();
        }
        self.is_any.store(false, Ordering::Release);
        std::mem::take(&mut *self.keys.lock())
    }
}

impl Wake for SessionWaker {
    fn wake(self: Arc<Self>) {
        self.wake_queue.keys.lock().push(self.key);
        self.wake_queue.is_any.store(true, Ordering::Release);
        if !LOOKS.get() {
            self.wake_queue.event_queue.notify();
        }
    }
}
