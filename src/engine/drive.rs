//! One turn of one connection: what the session says is done, until nothing moves.
//!
//! Not here: who gets a turn and when (`threads.rs`).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::gate::Pass;
use super::threads::{Line, Shared};
use super::waiting_room::{About, ENDS, FAILED, Key, News, READABLE, UPSTREAM, WRITABLE};
use super::wheel::Tick;
use super::wire::{Socket, Wire};
use crate::session::{ConnectFailure, Direction, Next, Session, Side, Source, Wants};
use crate::shortage;
use crate::upstream::Upstream;

/// Bytes after which a turn ends although more could move: others are waiting.
const TURN_BYTES: usize = 256 * 1024;
/// Exchanges after which a turn ends.
const TURN_EXCHANGES: usize = 32;

/// A client's connection and what belongs to it.
pub struct Connection {
    /// Its seat and occupancy.
    pub key: Key,
    /// What it means.
    pub session: Session,
    /// The client's socket.
    pub client: Socket,
    /// The upstream connection it uses.
    pub upstream: Attached,
    /// When its valid entry in the wheel comes up.
    pub armed: Option<Tick>,
    /// It counts as open while this lives.
    pub _pass: Pass,
}

/// What a session has of an upstream connection.
pub enum Attached {
    /// None.
    Nothing,
    /// One that is being made.
    Connecting(Line, Walk),
    /// One that can be used.
    Open(Line),
}

/// The addresses of an upstream that one connect tries, each once.
pub struct Walk {
    to: Arc<Upstream>,
    addresses: Arc<[SocketAddr]>,
    first: usize,
    tried: usize,
}

impl Walk {
    fn new(to: Arc<Upstream>) -> Self {
        Walk { addresses: to.addresses(), first: to.first_address(), to, tried: 0 }
    }

    fn next(&mut self) -> Option<SocketAddr> {
        if self.tried == self.addresses.len() {
            return None;
        }
        self.tried += 1;
        Some(self.addresses[self.index()])
    }

    /// The index of the address that was tried last.
    fn index(&self) -> usize {
        self.first.wrapping_add(self.tried.saturating_sub(1)) % self.addresses.len().max(1)
    }
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing moves; something has to happen first.
    Wait,
    /// More could move, but others are waiting.
    Yield,
    /// The connection is over.
    Gone,
}

impl Connection {
    /// Does what the session says until nothing moves.
    pub fn turn(&mut self, shared: &Shared, news: News, now: Instant) -> Turn {
        self.hear(shared, news, now);
        let (mut bytes, mut exchanges) = (0, 0);
        loop {
            match self.session.next(now) {
                Next::Transfer(wants) => match self.transfer(wants, now) {
                    None => return Turn::Wait,
                    Some(moved) => bytes += moved,
                },
                Next::Connect { to, source } => self.connect(shared, to, source, now),
                Next::Release { keep } => self.release(shared, keep, now),
                Next::Report(record) => {
                    exchanges += 1;
                    log::debug!("{record}");
                }
                Next::Close { abort } => {
                    if abort {
                        self.client.reset_on_close();
                    }
                    return Turn::Gone;
                }
            }
            if bytes >= TURN_BYTES || exchanges >= TURN_EXCHANGES {
                return Turn::Yield;
            }
        }
    }

    /// Passes on what events have said.
    fn hear(&mut self, shared: &Shared, news: News, now: Instant) {
        let has = |bit: News| news & bit != 0;
        self.client.news(has(READABLE), has(WRITABLE), has(ENDS));
        if has(FAILED) {
            self.session.failed(Side::Client, Direction::Read);
        }
        let of_upstream = |bit: News| has(bit << UPSTREAM);
        match &mut self.upstream {
            Attached::Nothing => (),
            Attached::Open(line) => {
                line.socket.news(of_upstream(READABLE), of_upstream(WRITABLE), of_upstream(ENDS));
            }
            Attached::Connecting(line, _) => {
                line.socket.news(of_upstream(READABLE), of_upstream(WRITABLE), of_upstream(ENDS));
                if of_upstream(WRITABLE) {
                    self.connect_ended(shared, now);
                }
            }
        }
    }

    /// Moves bytes where they are wanted and can move. Returns how many; `None` if nothing happened.
    fn transfer(&mut self, wants: Wants, now: Instant) -> Option<usize> {
        let session = &mut self.session;
        let mut moved = None;
        if let Attached::Open(line) = &mut self.upstream {
            if wants.upstream_read {
                count(&mut moved, receive(session, Side::Upstream, &mut line.socket, now));
            }
            if wants.upstream_write {
                count(&mut moved, send(session, Side::Upstream, &mut line.socket, now));
            }
            count(&mut moved, shut_down(session, Side::Upstream, &mut line.socket));
        }
        if wants.client_write {
            count(&mut moved, send(session, Side::Client, &mut self.client, now));
        }
        if wants.client_read {
            count(&mut moved, receive(session, Side::Client, &mut self.client, now));
        }
        count(&mut moved, shut_down(session, Side::Client, &mut self.client));
        moved
    }

    fn connect(&mut self, shared: &Shared, to: Arc<Upstream>, source: Source, now: Instant) {
        if source != Source::Fresh {
            while let Some(mut line) = shared.take_idle(to.id(), self.key, now) {
                if source == Source::PooledIfQuiet && !line.socket.is_quiet() {
                    shared.close(line);
                    continue;
                }
                self.upstream = Attached::Open(line);
                self.session.connected(true, now);
                return;
            }
        }
        self.walk_on(shared, Walk::new(to), ConnectFailure::Remote(ErrorKind::NotFound), now);
    }

    /// Tries the next address that is left; `failure` is what the last one said.
    fn walk_on(
        &mut self,
        shared: &Shared,
        mut walk: Walk,
        mut failure: ConnectFailure,
        now: Instant,
    ) {
        while let Some(address) = walk.next() {
            let opened = Socket::connect(address).and_then(|(socket, done)| {
                Ok((shared.open(walk.to.id(), self.key, socket)?, done))
            });
            match opened {
                Ok((line, true)) => {
                    self.upstream = Attached::Open(line);
                    return self.session.connected(false, now);
                }
                Ok((line, false)) => {
                    self.upstream = Attached::Connecting(line, walk);
                    return;
                }
                Err(error) if shortage::is_own(&error) => {
                    shared.complain_of_shortage(&error, now);
                    failure = ConnectFailure::Local(error.kind());
                }
                Err(error) => {
                    walk.to.skip_address(walk.index());
                    failure = ConnectFailure::Remote(error.kind());
                }
            }
        }
        self.session.connect_failed(failure, now);
    }

    /// An event has said that a connect has come to an end, good or bad.
    fn connect_ended(&mut self, shared: &Shared, now: Instant) {
        match std::mem::replace(&mut self.upstream, Attached::Nothing) {
            Attached::Connecting(line, walk) => match line.socket.connect_result() {
                None => self.upstream = Attached::Connecting(line, walk),
                Some(Ok(())) => {
                    self.upstream = Attached::Open(line);
                    self.session.connected(false, now);
                }
                Some(Err(error)) => {
                    walk.to.skip_address(walk.index());
                    shared.close(line);
                    let failure = if shortage::is_own(&error) {
                        ConnectFailure::Local(error.kind())
                    } else {
                        ConnectFailure::Remote(error.kind())
                    };
                    self.walk_on(shared, walk, failure, now);
                }
            },
            other => self.upstream = other,
        }
    }

    /// Gives the upstream connection back, or away.
    pub fn release(&mut self, shared: &Shared, keep: bool, now: Instant) {
        match std::mem::replace(&mut self.upstream, Attached::Nothing) {
            Attached::Nothing => (),
            Attached::Open(line) if keep => shared.keep(line, self.key, now),
            Attached::Open(line) => shared.close(line),
            Attached::Connecting(line, walk) => {
                walk.to.skip_address(walk.index());
                shared.close(line);
            }
        }
    }

    /// Asks to be told when a socket that was full can be written to again.
    pub fn watch_output(&mut self, shared: &Shared) {
        let client_wants = self.client.wants_output_watch();
        let about = About::Client(self.key);
        if client_wants && shared.room.watch_output(&self.client, about).is_err() {
            self.session.failed(Side::Client, Direction::Write);
        }
    }
}

/// Reads once. Returns the bytes read; `None` if nothing has happened.
fn receive(session: &mut Session, side: Side, wire: &mut impl Wire, now: Instant) -> Option<usize> {
    match wire.read(session.space(side)) {
        Ok(n) => {
            session.received(side, n, now);
            Some(n)
        }
        Err(error) => failed(session, side, Direction::Read, error.kind()),
    }
}

/// Writes once. Returns the bytes written; `None` if nothing has happened.
fn send(session: &mut Session, side: Side, wire: &mut impl Wire, now: Instant) -> Option<usize> {
    match wire.write(session.output(side)) {
        Ok(n) => {
            session.sent(side, n, now);
            Some(n)
        }
        Err(error) => failed(session, side, Direction::Write, error.kind()),
    }
}

fn failed(
    session: &mut Session,
    side: Side,
    direction: Direction,
    error: ErrorKind,
) -> Option<usize> {
    match error {
        ErrorKind::WouldBlock => None,
        ErrorKind::Interrupted => Some(0),
        _ => {
            session.failed(side, direction);
            Some(0)
        }
    }
}

/// Ends the sending direction if that is wanted.
fn shut_down(session: &mut Session, side: Side, wire: &mut impl Wire) -> Option<usize> {
    if !session.wants_shutdown(side) {
        return None;
    }
    // It fails only if the connection is gone, which reading will tell.
    let _ = wire.shutdown();
    session.shut_down(side);
    Some(0)
}

fn count(total: &mut Option<usize>, moved: Option<usize>) {
    if let Some(moved) = moved {
        *total = Some(total.unwrap_or(0) + moved);
    }
}
