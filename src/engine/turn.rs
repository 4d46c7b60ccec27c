//! One turn of one connection: what the session says is done, until nothing moves.
//!
//! The same for every engine; what differs is behind [`Host`]. Not here: who gets a turn and when,
//! and how to wait (`threads/`, `tokio/`).

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connect::AddressAttempts;
use super::io::Host;
use super::pipe::Pipe;
use super::socket::Peeked;
use crate::session::{ConnectFailure, Direction, Next, Session, Side, Splice, Wants};
use crate::upstream::Upstream;

/// Bytes after which a turn ends although more could move: others are waiting.
const TURN_BYTES: usize = 256 * 1024;
/// How often others go first because the body behind a head has not come.
const HEAD_WAITS: u32 = 2;
/// How often bytes are moved before a deadline that is due fires: what is there is heard, and nobody
/// puts it off for ever.
const LATE_MOVES: u32 = 16;
/// Exchanges after which a turn ends.
const TURN_EXCHANGES: usize = 32;

/// A client's connection while it is awake: its session, and the upstream connection it uses.
pub struct ActiveConnection<L> {
    /// What it means.
    pub session: Session,
    /// The upstream connection it uses.
    pub upstream: Attached<L>,
    /// What is on its way from one to the other past the session, and where to.
    pipe: Option<(Pipe, Side)>,
    /// How often it has let others go first for a head alone.
    waited: u32,
    /// Whether the system keeps the last bytes for the client until the end follows.
    keeps_last: bool,
}

/// What a session has of an upstream connection.
pub enum Attached<L> {
    /// None.
    Nothing,
    /// One that is being made.
    Connecting(L, Box<AddressAttempts>),
    /// One that can be used.
    Open(L),
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnEnd {
    /// Nothing moves; something has to happen first.
    Wait,
    /// More could move, but others are waiting.
    Yield,
    /// The connection is over.
    Gone,
}

impl<L> ActiveConnection<L> {
    /// A session without an upstream connection.
    pub fn new(session: Session) -> Self {
        ActiveConnection {
            session,
            upstream: Attached::Nothing,
            pipe: None,
            waited: 0,
            keeps_last: false,
        }
    }

    /// Whether it has nothing but a session.
    pub fn is_bare(&self) -> bool {
        matches!(self.upstream, Attached::Nothing) && self.pipe.is_none() && !self.keeps_last
    }

    /// Does what the session says until nothing moves.
    pub fn turn<H: Host<Conn = L>>(
        &mut self,
        client: &mut H::Wire,
        host: &mut H,
        now: Instant,
    ) -> TurnEnd
    where
        L: AsMut<H::Wire>,
    {
        let (mut bytes, mut exchanges) = (0, 0);
        // What happened while nobody looked, perhaps because the machine slept, was in time: it is
        // heard before a deadline fires.
        let is_due = self.session.deadline().is_some_and(|at| at <= now);
        // A drain may leave idle clients no time at all. What has arrived by then counts as well, and
        // one that begins within this turn wakes the session once more.
        let is_draining = self.session.is_draining();
        let mut grace = if is_due || is_draining { LATE_MOVES } else { 0 };
        loop {
            let next = match grace {
                0 if is_draining || !self.session.is_draining() => self.session.next(now),
                _ => self.session.next_before_deadline(now),
            };
            match next {
                Next::Transfer(wants) => match self.transfer(client, host, wants, now) {
                    moved if grace > 0 => {
                        // These bytes end no turn: after the last of them, the deadline has its say.
                        grace = if moved.is_some() { grace - 1 } else { 0 };
                    }
                    None if wants.is_head_alone && self.waited < HEAD_WAITS => {
                        self.waited += 1;
                        self.ask_for_body(host);
                        return TurnEnd::Yield;
                    }
                    None => {
                        self.session.release_memory();
                        self.pipe.take_if(|(pipe, _)| pipe.is_empty());
                        return TurnEnd::Wait;
                    }
                    Some(moved) => bytes += moved,
                },
                Next::Connect { to, pooled } => self.connect(host, to, pooled, now),
                Next::Queue(ticket) => ticket.wake_by(host.waker()),
                Next::Release { keep } => self.release(host, keep, now),
                Next::Report(record) => {
                    exchanges += 1;
                    log::debug!("{record}");
                }
                Next::Close { abort } => {
                    if abort {
                        host.reset_on_close(client);
                    } else if self.keeps_last {
                        // Closing alone would throw them away if there is something unread.
                        let _ = host.shut_down(client);
                    }
                    return TurnEnd::Gone;
                }
            }
            if bytes >= TURN_BYTES || exchanges >= TURN_EXCHANGES {
                self.waited += 1;
                return TurnEnd::Yield;
            }
        }
    }

    /// An upstream that writes head and body apart may hold the body back until the head has been
    /// acknowledged (RFC 1122 §4.2.3.4), which the system puts off for some 40 ms.
    fn ask_for_body<H: Host<Conn = L>>(&mut self, host: &mut H)
    where
        L: AsMut<H::Wire>,
    {
        if self.waited == HEAD_WAITS
            && let Attached::Open(conn) = &mut self.upstream
        {
            host.acknowledge(conn.as_mut());
        }
    }

    /// Moves bytes where they are wanted and can move. Returns how many; `None` if nothing
    /// happened.
    fn transfer<H: Host<Conn = L>>(
        &mut self,
        client: &mut H::Wire,
        host: &mut H,
        mut wants: Wants,
        now: Instant,
    ) -> Option<usize>
    where
        L: AsMut<H::Wire>,
    {
        let mut moved = Moved(None);
        moved.add(self.look_at_connect(host, now));
        if !wants.is_head_alone {
            self.waited = 0;
        }
        let is_patient = wants.is_head_alone && self.waited < HEAD_WAITS;
        wants.client_write &= !is_patient;
        if let Some(splice) = wants.splice
            && self.splice(client, host, splice, is_patient, &mut moved, now)
        {
            match splice.to {
                Side::Client => (wants.upstream_read, wants.client_write) = (false, false),
                Side::Upstream => (wants.client_read, wants.upstream_write) = (false, false),
            }
        }
        let ActiveConnection { session, upstream, keeps_last, .. } = self;
        if wants.read_on_first && wants.client_read {
            let result = host.read(client, session.space(Side::Client));
            let more = tell(session, Side::Client, Direction::Read, result, now);
            wants.client_read = false;
            wants.upstream_write &= more.is_none();
            moved.add(more);
        }
        match upstream {
            Attached::Nothing | Attached::Connecting(..) => (),
            Attached::Open(conn) => {
                if wants.upstream_read {
                    let result = host.read(conn.as_mut(), session.space(Side::Upstream));
                    moved.add(tell(session, Side::Upstream, Direction::Read, result, now));
                }
                if wants.upstream_write && !(wants.look_first && moved.0.is_some()) {
                    let result = host.write(conn.as_mut(), session.output(Side::Upstream), false);
                    moved.add(tell(session, Side::Upstream, Direction::Write, result, now));
                }
                if session.wants_shutdown(Side::Upstream) {
                    // It fails only if the connection is gone, which reading will tell.
                    let _ = host.shut_down(conn.as_mut());
                    session.shut_down(Side::Upstream);
                    moved.add(Some(0));
                }
            }
        }
        if wants.client_write {
            *keeps_last = wants.is_last;
            let result = host.write(client, session.output(Side::Client), wants.is_last);
            moved.add(tell(session, Side::Client, Direction::Write, result, now));
        }
        if wants.client_read {
            let result = host.read(client, session.space(Side::Client));
            moved.add(tell(session, Side::Client, Direction::Read, result, now));
        }
        if session.wants_shutdown(Side::Client) {
            let _ = host.shut_down(client);
            *keeps_last = false;
            session.shut_down(Side::Client);
            moved.add(Some(0));
        }
        moved.0
    }

    /// Moves bytes past the session. Returns false if there is no pipe for them.
    fn splice<H: Host<Conn = L>>(
        &mut self,
        client: &mut H::Wire,
        host: &mut H,
        Splice { to, most }: Splice,
        is_patient: bool,
        moved: &mut Moved,
        now: Instant,
    ) -> bool
    where
        L: AsMut<H::Wire>,
    {
        // What nobody takes any more is in the way.
        self.pipe.take_if(|(pipe, toward)| *toward != to && !pipe.is_empty());
        if self.pipe.is_none() {
            self.pipe = host.pipe().map(|pipe| (pipe, to));
        }
        let ActiveConnection { session, upstream, pipe: Some((pipe, toward)), .. } = self else {
            return false;
        };
        let conn = if let Attached::Open(conn) = upstream { Some(conn.as_mut()) } else { None };
        let (mut from, into) = match to {
            Side::Client => (conn, Some(client)),
            Side::Upstream => (Some(client), conn),
        };
        if is_patient
            && pipe.is_empty()
            && let (Side::Client, Some(conn)) = (to, &mut from)
        {
            // A head that is in the pipe cannot be taken back; one whose body never comes is a 502.
            match host.peek(conn) {
                Peeked::Nothing => return true,
                Peeked::End => return false,
                Peeked::Bytes => (),
            }
        }
        *toward = to;
        if pipe.is_empty() && !session.output(to).is_empty() {
            // A head and its body leave together.
            let Ok(n) = pipe.pour(session.output(to)) else { return false };
            session.staged(to, n);
        }
        if pipe.may_take()
            && session.output(to).is_empty()
            && let Some(wire) = from
            && most > 0
        {
            let result = host.fill(pipe, wire, usize::try_from(most).unwrap_or(usize::MAX));
            moved.add(count(result, |result| match result {
                Some(n) => session.spliced_in(to.other(), n, now),
                None => session.failed(to.other(), Direction::Read),
            }));
        }
        let is_head_alone = is_patient && pipe.may_take();
        if !pipe.is_empty()
            && !is_head_alone
            && let Some(wire) = into
        {
            let result = host.drain(pipe, wire);
            moved.add(count(result, |result| match result {
                Some(n) => session.spliced_out(to, n, now),
                None => session.failed(to, Direction::Write),
            }));
        }
        true
    }

    fn connect<H: Host<Conn = L>>(
        &mut self,
        host: &mut H,
        to: Arc<Upstream>,
        pooled: Option<Duration>,
        now: Instant,
    ) {
        let idle = pooled.and_then(|most| host.take_idle(to.id(), most, now));
        match idle {
            Some(conn) => {
                self.upstream = Attached::Open(conn);
                self.session.connected(true, now);
            }
            None => self.try_addresses(host, Box::new(AddressAttempts::new(to)), now),
        }
    }

    /// Tries the next address that is left.
    fn try_addresses<H: Host<Conn = L>>(
        &mut self,
        host: &mut H,
        mut attempts: Box<AddressAttempts>,
        now: Instant,
    ) {
        while let Some(address) = attempts.next_address() {
            match host.dial(attempts.upstream().id(), address) {
                Ok((conn, true)) => {
                    self.upstream = Attached::Open(conn);
                    return self.session.connected(false, now);
                }
                Ok((conn, false)) => {
                    self.upstream = Attached::Connecting(conn, attempts);
                    return;
                }
                Err(error) => attempt_failed(host, &mut attempts, error, now),
            }
        }
        // An error of the upstream's says more than what this machine lacks.
        let failure = match (attempts.remote_error(), attempts.shortage()) {
            (None, Some(error)) => ConnectFailure::Local(error.kind()),
            (remote, _) => ConnectFailure::Remote(remote.unwrap_or(ErrorKind::NotFound)),
        };
        self.session.connect_failed(failure, now);
    }

    /// Looks whether a connect has come to an end, good or bad. `None` if it has not.
    fn look_at_connect<H: Host<Conn = L>>(&mut self, host: &mut H, now: Instant) -> Option<usize> {
        let Attached::Connecting(conn, _) = &mut self.upstream else { return None };
        let result = host.poll_connected(conn)?;
        let dialling = std::mem::replace(&mut self.upstream, Attached::Nothing);
        if let Attached::Connecting(conn, mut attempts) = dialling {
            match result {
                Ok(()) => {
                    self.upstream = Attached::Open(conn);
                    self.session.connected(false, now);
                }
                Err(error) => {
                    drop(conn);
                    attempt_failed(host, &mut attempts, error, now);
                    self.try_addresses(host, attempts, now);
                }
            }
        }
        Some(0)
    }

    /// Gives the upstream connection back, or away.
    pub fn release<H: Host<Conn = L>>(&mut self, host: &mut H, keep: bool, now: Instant) {
        // What was meant for it is for nobody else.
        self.pipe.take_if(|(_, toward)| *toward == Side::Upstream);
        match std::mem::replace(&mut self.upstream, Attached::Nothing) {
            Attached::Open(conn) if keep => host.keep(conn, now),
            // The next connect begins behind the address that did not answer.
            Attached::Connecting(_, attempts) => attempts.skip_last(),
            Attached::Nothing | Attached::Open(_) => (),
        }
    }
}

/// The address that was tried last has failed. If that is not for what this machine lacks, the next
/// connect begins behind it.
fn attempt_failed<H: Host>(
    host: &mut H,
    attempts: &mut AddressAttempts,
    error: io::Error,
    now: Instant,
) {
    let id = attempts.upstream().id();
    match attempts.failed(error) {
        Some(shortage) => host.complain_of_shortage(id, shortage, now),
        None => attempts.skip_last(),
    }
}

/// What has happened so far: bytes, perhaps none; `None` if nothing at all.
struct Moved(Option<usize>);

impl Moved {
    fn add(&mut self, moved: Option<usize>) {
        if let Some(moved) = moved {
            self.0 = Some(self.0.unwrap_or(0) + moved);
        }
    }
}

/// Tells the session what came of reading or writing. Returns the bytes moved; `None` if nothing
/// happened.
fn tell(
    session: &mut Session,
    side: Side,
    direction: Direction,
    result: io::Result<usize>,
    now: Instant,
) -> Option<usize> {
    count(result, |moved| match (moved, direction) {
        (Some(n), Direction::Read) => session.received(side, n, now),
        (Some(n), Direction::Write) => session.sent(side, n, now),
        (None, _) => session.failed(side, direction),
    })
}

/// Tells `peeked` how many bytes were moved, or that it failed. Returns the bytes; `None` if nothing
/// happened.
fn count(result: io::Result<usize>, peeked: impl FnOnce(Option<usize>)) -> Option<usize> {
    match result {
        Ok(n) => {
            peeked(Some(n));
            return Some(n);
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
        Err(error) if error.kind() == ErrorKind::Interrupted => (),
        Err(_) => peeked(None),
    }
    Some(0)
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
