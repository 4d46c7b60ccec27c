//! A client's connection, asleep or awake.
//!
//! Between two requests a connection is a socket, an address and a time; everything else is put
//! aside for the next one that wakes. So an idle client costs a tenth of a busy one, and nothing is
//! allocated for a request after warm-up. Spares that stay unused are freed. Not here: what it does
//! while it is awake (`turn.rs`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::eviction::Activity;
use super::turn::{Awake, Hands, Turn};
use crate::buffer;
use crate::free_list::{FreeList, UNUSED};
use crate::lock::Lock;
use crate::session::{Idle, Session};
use crate::state::ProxyState;

/// The most bytes of sessions that are kept for connections that wake.
const MOST_SPARE: usize = 128 << 10;

/// A client's connection.
pub struct Connection<W, L> {
    /// The client's socket.
    pub client: W,
    state: Arc<ProxyState>,
    peer: IpAddr,
    /// When it was accepted, until a whole request head has come.
    accepted: Option<Instant>,
    life: Life<L>,
}

enum Life<L> {
    /// It waits for a request.
    Asleep(Idle),
    Awake(Box<Awake<L>>),
}

/// What connections that fell asleep have left for those that wake.
pub struct Spares<L>(Lock<FreeList<Box<Awake<L>>>>);

impl<L> Default for Spares<L> {
    fn default() -> Self {
        Spares(Lock::default())
    }
}

impl<L> Spares<L> {
    fn take(&self) -> Option<Box<Awake<L>>> {
        self.0.lock().take()
    }

    fn give(&self, spare: Box<Awake<L>>) {
        let mut spares = self.0.lock();
        if spares.len() < MOST_SPARE / size_of::<Awake<L>>() {
            spares.give(spare);
        }
    }

    /// Frees spares and buffers that stayed unused for a while. Returns when this thread has to call
    /// again, even if nothing happens until then; `None` if nothing is kept.
    pub fn give_back_unused(&self, now: Instant) -> Option<Instant> {
        let unused = || self.0.lock().take_unused(now);
        while unused().is_some() {}
        let is_any = buffer::give_back_unused(now) | !self.0.lock().is_empty();
        is_any.then_some(now + UNUSED)
    }
}

impl<W, L: AsMut<W>> Connection<W, L> {
    /// A client at `peer` has just connected. `turn_away`: it is only to be told that there are too
    /// many.
    pub fn new(
        state: Arc<ProxyState>,
        peer: IpAddr,
        client: W,
        turn_away: bool,
        now: Instant,
    ) -> Self {
        let life = if turn_away {
            let mut session = Session::new(state.clone(), peer, now);
            session.turn_away();
            Life::Awake(Box::new(Awake::new(session)))
        } else {
            Life::Asleep(Idle::new(now))
        };
        Connection { client, state, peer, accepted: Some(now), life }
    }

    /// What it is while it is awake; wakes it.
    pub fn wake(&mut self, spares: &Spares<L>) -> &mut Awake<L> {
        if let Life::Asleep(idle) = self.life {
            let awake = match spares.take() {
                Some(mut awake) => {
                    awake.session.begin_again(self.peer, idle);
                    awake
                }
                None => {
                    let mut session = Session::new(self.state.clone(), self.peer, idle.since);
                    session.begin_again(self.peer, idle);
                    Box::new(Awake::new(session))
                }
            };
            self.life = Life::Awake(awake);
        }
        match &mut self.life {
            Life::Awake(awake) => awake,
            Life::Asleep(_) => unreachable!("it was woken"),
        }
    }

    /// What it is if it is awake.
    pub fn awake(&mut self) -> Option<&mut Awake<L>> {
        if let Life::Awake(awake) = &mut self.life { Some(awake) } else { None }
    }

    /// Wakes it, does what its session says until nothing moves, and lets it sleep if it only waits
    /// for a request.
    pub fn turn<H: Hands<Wire = W, Line = L>>(
        &mut self,
        hands: &mut H,
        spares: &Spares<L>,
        now: Instant,
    ) -> Turn {
        self.wake(spares);
        let Life::Awake(mut awake) =
            std::mem::replace(&mut self.life, Life::Asleep(Idle::new(now)))
        else {
            return Turn::Wait;
        };
        let turn = awake.turn(&mut self.client, hands, now);
        if awake.session.has_asked() {
            self.accepted = None;
        }
        match awake.session.idle() {
            Some(idle) if turn == Turn::Wait && awake.is_bare() => {
                self.life = Life::Asleep(idle);
                spares.give(awake);
            }
            _ => self.life = Life::Awake(awake),
        }
        turn
    }

    /// When it needs a turn even if nothing moves. `None` only once it is over.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.life {
            Life::Asleep(idle) => Some(idle.since + self.state.config.timeouts.idle),
            Life::Awake(awake) => awake.session.deadline(),
        }
    }

    /// What it does. To be asked after a turn.
    pub fn activity(&self) -> Activity {
        let waits = match &self.life {
            Life::Asleep(idle) => Some((idle.since, false)),
            Life::Awake(awake) => awake.session.waits_for_head(),
        };
        match (waits, self.accepted) {
            (None, _) => Activity::Busy,
            (Some(_), Some(accepted)) => Activity::NoHead(accepted),
            (Some((since, true)), None) => Activity::NoHead(since),
            (Some((since, false)), None) => Activity::Idle(since),
        }
    }

    /// Whether an exchange is under way.
    pub fn is_busy(&self) -> bool {
        matches!(&self.life, Life::Awake(awake) if awake.session.is_busy())
    }
}
