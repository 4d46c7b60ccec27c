//! A connection to an upstream, and who uses it.
//!
//! It is registered in the waiting room once, under a key of its own, whoever uses it; so whoever
//! hears news of it asks here whose they are. Not here: idle ones (`pool.rs`), what is done with the
//! news (`threads/`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::handover::Handover;
use super::key::Key;
use crate::engine::slab::Slab;
use crate::engine::socket;
use crate::engine::socket::Socket;
use crate::upstream::UpstreamId;

/// A connection to an upstream. When it is dropped, its place is free again; if the upstream has not
/// ended it, it is reset.
pub(super) struct UpstreamConn {
    pub socket: Socket,
    pub key: Key,
    pub upstream: UpstreamId,
    slots: Arc<Slab<UpstreamConnSlot>>,
}

/// What others may know of a connection without having it.
#[derive(Default)]
pub(super) struct UpstreamConnSlot {
    generation: AtomicU32,
    upstream: AtomicUsize,
    /// The number of the session's key, which is never that of nobody.
    user: Handover,
}

/// Who uses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    /// The session on this seat.
    Session(Key),
    /// It is idle, in the pool of this upstream.
    Idle(UpstreamId),
}

const IDLE: u64 = 0;

impl UpstreamConn {
    /// Takes a place for a new connection, which the session on a seat uses. Fails when all places
    /// are taken.
    pub fn new(
        slots: &Arc<Slab<UpstreamConnSlot>>,
        upstream: UpstreamId,
        user: Key,
        socket: Socket,
    ) -> io::Result<Self> {
        let index = slots.take().ok_or(rustix::io::Errno::MFILE)?;
        let slot = slots.get(index).ok_or(rustix::io::Errno::MFILE)?;
        let generation = Key::next_generation(slot.generation.load(Ordering::Acquire)).max(1);
        slot.generation.store(generation, Ordering::Release);
        slot.upstream.store(upstream.0, Ordering::Relaxed);
        slot.user.take(user.number());
        Ok(UpstreamConn { socket, key: Key { index, generation }, upstream, slots: slots.clone() })
    }

    /// The session on a seat uses it from now on.
    pub fn set_used_by(&self, user: Key) {
        if let Some(slot) = self.slots.get(self.key.index) {
            slot.user.take(user.number());
        }
    }

    /// It goes into the pool.
    pub fn set_idle(&self) {
        if let Some(slot) = self.slots.get(self.key.index) {
            slot.user.leave(IDLE);
        }
    }
}

impl Drop for UpstreamConn {
    fn drop(&mut self) {
        socket::keep_no_port(&self.socket);
        if let Some(slot) = self.slots.get(self.key.index) {
            let next = Key::next_generation(self.key.generation);
            slot.generation.store(next, Ordering::Release);
            self.slots.give_back(self.key.index);
        }
    }
}

impl AsMut<Socket> for UpstreamConn {
    fn as_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl UpstreamConnSlot {
    /// Who uses the connection of this generation; `None`: there is none any more.
    pub fn user(&self, generation: u32) -> Option<User> {
        if self.generation.load(Ordering::Acquire) != generation {
            return None;
        }
        Some(match self.user.user() {
            IDLE => User::Idle(UpstreamId(self.upstream.load(Ordering::Relaxed))),
            number => User::Session(Key::from_number(number)),
        })
    }

    /// Whether the session on a seat still uses the connection, now that news were written onto that
    /// seat.
    pub fn is_still_used_by(&self, run_state: Key) -> bool {
        self.user.is_still(run_state.number())
    }
}
