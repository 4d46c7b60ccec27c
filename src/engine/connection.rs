//! A client's connection, asleep or active.
//!
//! Between two requests a connection is a socket, an address and a time; everything else is put
//! aside for the next one that wakes. So an idle client costs a tenth of a busy one, and nothing is
//! allocated for a request after warm-up. Spares that stay unused are freed. Not here: what it does
//! while it is active (`turn.rs`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::eviction::Activity;
use super::io::Host;
use super::turn::{ActiveConnection, TurnEnd};
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
    current: State<L>,
}

enum State<L> {
    /// It waits for a request.
    Idle(Idle),
    Active(Box<ActiveConnection<L>>),
}

/// What connections that fell asleep have left for those that wake.
pub struct SessionPool<L>(Lock<FreeList<Box<ActiveConnection<L>>>>);

impl<L> Default for SessionPool<L> {
    fn default() -> Self {
        SessionPool(Lock::default())
    }
}

impl<L> SessionPool<L> {
    fn take(&self) -> Option<Box<ActiveConnection<L>>> {
        self.0.lock().take()
    }

    fn give(&self, spare: Box<ActiveConnection<L>>) {
        let mut sessions = self.0.lock();
        if sessions.len() < MOST_SPARE / size_of::<ActiveConnection<L>>() {
            sessions.give(spare);
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
        let current = if turn_away {
            let mut session = Session::new(state.clone(), peer, now);
            session.turn_away();
            State::Active(Box::new(ActiveConnection::new(session)))
        } else {
            State::Idle(Idle::new(now))
        };
        Connection { client, state, peer, accepted: Some(now), current }
    }

    /// What it is while it is active; wakes it.
    pub fn wake(&mut self, sessions: &SessionPool<L>) -> &mut ActiveConnection<L> {
        if let State::Idle(idle) = self.current {
            let active = match sessions.take() {
                Some(mut active) => {
                    active.session.begin_again(self.peer, idle);
                    active
                }
                None => {
                    let mut session = Session::new(self.state.clone(), self.peer, idle.since);
                    session.begin_again(self.peer, idle);
                    Box::new(ActiveConnection::new(session))
                }
            };
            self.current = State::Active(active);
        }
        match &mut self.current {
            State::Active(active) => active,
            State::Idle(_) => unreachable!("it was woken"),
        }
    }

    /// What it is if it is active.
    pub fn active(&mut self) -> Option<&mut ActiveConnection<L>> {
        if let State::Active(active) = &mut self.current { Some(active) } else { None }
    }

    /// Wakes it, does what its session says until nothing moves, and lets it sleep if it only waits
    /// for a request.
    pub fn turn<H: Host<Wire = W, Conn = L>>(
        &mut self,
        host: &mut H,
        sessions: &SessionPool<L>,
        now: Instant,
    ) -> TurnEnd {
        self.wake(sessions);
        let State::Active(mut active) =
            std::mem::replace(&mut self.current, State::Idle(Idle::new(now)))
        else {
            return TurnEnd::Wait;
        };
        let turn = active.turn(&mut self.client, host, now);
        if active.session.has_asked() {
            self.accepted = None;
        }
        match active.session.idle() {
            Some(idle) if turn == TurnEnd::Wait && active.is_bare() => {
                self.current = State::Idle(idle);
                sessions.give(active);
            }
            _ => self.current = State::Active(active),
        }
        turn
    }

    /// When it needs a turn even if nothing moves. `None` only once it is over.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.current {
            State::Idle(idle) => Some(idle.since + self.state.config.timeouts.idle),
            State::Active(active) => active.session.deadline(),
        }
    }

    /// What it does. To be asked after a turn.
    pub fn activity(&self) -> Activity {
        let waits = match &self.current {
            State::Idle(idle) => Some((idle.since, false)),
            State::Active(active) => active.session.waits_for_head(),
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
        matches!(&self.current, State::Active(active) if active.session.is_busy())
    }
}
