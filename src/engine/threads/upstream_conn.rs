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
pub(super) struct Line {
    pub socket: Socket,
    pub key: Key,
    pub upstream: UpstreamId,
    places: Arc<Slab<LinePlace>>,
}

/// What others may know of a connection without having it.
#[derive(Default)]
pub(super) struct LinePlace {
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
    Nobody(UpstreamId),
}

const NOBODY: u64 = 0;

impl Line {
    /// Takes a place for a new connection, which the session on a seat uses. Fails when all places
    /// are taken.
    pub fn new(
        places: &Arc<Slab<LinePlace>>,
        upstream: UpstreamId,
        user: Key,
        socket: Socket,
    ) -> io::Result<Self> {
        let index = places.take().ok_or(rustix::io::Errno::MFILE)?;
        let place = places.get(index).ok_or(rustix::io::Errno::MFILE)?;
        let generation = Key::next_generation(place.generation.load(Ordering::Acquire)).max(1);
        place.generation.store(generation, Ordering::Release);
        place.upstream.store(upstream.0, Ordering::Relaxed);
        place.user.take(user.number());
        Ok(Line { socket, key: Key { index, generation }, upstream, places: places.clone() })
    }

    /// The session on a seat uses it from now on.
    pub fn set_used_by(&self, user: Key) {
        if let Some(place) = self.places.get(self.key.index) {
            place.user.take(user.number());
        }
    }

    /// It goes into the pool.
    pub fn set_idle(&self) {
        if let Some(place) = self.places.get(self.key.index) {
            place.user.leave(NOBODY);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        socket::keep_no_port(&self.socket);
        if let Some(place) = self.places.get(self.key.index) {
            let next = Key::next_generation(self.key.generation);
            place.generation.store(next, Ordering::Release);
            self.places.give_back(self.key.index);
        }
    }
}

impl AsMut<Socket> for Line {
    fn as_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl LinePlace {
    /// Who uses the connection of this generation; `None`: there is none any more.
    pub fn user(&self, generation: u32) -> Option<User> {
        if self.generation.load(Ordering::Acquire) != generation {
            return None;
        }
        Some(match self.user.user() {
            NOBODY => User::Nobody(UpstreamId(self.upstream.load(Ordering::Relaxed))),
            number => User::Session(Key::from_number(number)),
        })
    }

    /// Whether the session on a seat still uses the connection, now that news were written onto that
    /// seat.
    pub fn is_still_used_by(&self, seat: Key) -> bool {
        self.user.is_still(seat.number())
    }
}
