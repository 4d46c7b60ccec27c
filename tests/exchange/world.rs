//! One session between two wires in memory, driven the way an engine drives it.

use crate::script::Source;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use balancebeam::Config;
use balancebeam::buffer;
use balancebeam::session::{Direction, ExchangeOutcome, Next, Session, Side, Splice, Wants};
use balancebeam::state::ProxyState;
use balancebeam::upstream::Waiting;
use balancebeam::upstream::{InFlight, Upstreams};

/// Who asks, in every script; not a trusted peer.
pub const PEER: &str = "192.0.2.7";

/// The most that a session may hold: its four buffers, and the upstream's name in a held head.
pub const MOST_BUFFERED: usize = 4 * buffer::SIZE + 256;

/// Calls of `next` that may follow each other before everything has moved that can move.
const MOST_STEPS: usize = 2_000_000;

/// What a session told its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Connect { upstream: usize, source: Source },
    Queued,
    Released { keep: bool },
    Reported { status: u16, outcome: ExchangeOutcome },
    HalfClosed(Side),
    Closed { abort: bool },
}

/// What one peer has on its way to the session, and what it got from it.
#[derive(Default)]
pub struct Wire {
    /// Sent by the peer, and not yet read.
    pub pending: Vec<u8>,
    read: usize,
    /// Behind `pending` there is an end.
    pub ended: bool,
    /// Reading fails, at once.
    pub broken: bool,
    /// Writing fails.
    pub deaf: bool,
    /// Nothing is taken for now.
    pub is_full: bool,
    /// Taken by the peer, and not yet looked at by the script.
    pub seen: Vec<u8>,
    end_was_read: bool,
}

/// How many bytes move at a time.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    pub read: usize,
    pub write: usize,
}

/// What an engine makes of what it may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// It copies every body, and waits for none.
    Copies,
    /// It lets bodies go past the session, and lets a head wait for its body while others move.
    Splices,
}

/// What has been taken from one side past the session, and not yet been passed to the other.
struct Pipe {
    to: Side,
    bytes: Vec<u8>,
    /// Until bytes of a body are in it.
    may_take: bool,
}

pub struct World {
    pub session: Session,
    pub state: Arc<ProxyState>,
    pub now: Instant,
    pub client: Wire,
    pub upstream: Wire,
    pub is_connecting: bool,
    pub is_connected: bool,
    pub is_closed: bool,
    /// Exchanges of other sessions.
    pub others: Vec<InFlight>,
    /// Places of other sessions in the queue.
    pub waiting: Vec<Waiting>,
    pub events: Vec<Event>,
    pub steps: Steps,
    pub most_buffered: usize,
    pub engine: Engine,
    pipe: Pipe,
    /// Whether a body could have gone past the session.
    pub was_offered: bool,
    /// Bytes of bodies that went past it.
    pub spliced: usize,
    /// Why the exchange that was reported last ended as it did.
    pub why: &'static str,
}

/// Upstreams named `one.test:8001`, `upstream-2.test:8002` …; the first is chosen first.
pub fn upstreams(config: &Config, now: Instant) -> Upstreams {
    let addresses =
        || config.upstreams.iter().map(|_| vec![SocketAddr::from(([127, 0, 0, 1], 1))]).collect();
    let begins_with_first = |seed: &u64| {
        let trial = Upstreams::new(config, addresses(), *seed);
        trial.pick(&[], now).is_ok_and(|choice| choice.upstream().id().0 == 0)
    };
    let seed = (0..1000).find(begins_with_first).expect("some seed begins with the first");
    Upstreams::new(config, addresses(), seed)
}

impl Wire {
    /// Bytes that the session has not read.
    pub fn left(&self) -> usize {
        self.pending.len() - self.read
    }
}

impl World {
    pub fn new(config: &Config, steps: Steps) -> World {
        let now = Instant::now();
        let state = Arc::new(ProxyState::new(config.clone(), upstreams(config, now), now));
        let peer: IpAddr = PEER.parse().expect("an address");
        World {
            session: Session::new(state.clone(), peer, now),
            state,
            now,
            client: Wire::default(),
            upstream: Wire::default(),
            is_connecting: false,
            is_connected: false,
            is_closed: false,
            others: Vec::new(),
            waiting: Vec::new(),
            events: Vec::new(),
            steps,
            most_buffered: 0,
            engine: Engine::Copies,
            pipe: Pipe { to: Side::Client, bytes: Vec::new(), may_take: true },
            was_offered: false,
            spliced: 0,
            why: "",
        }
    }

    pub fn wire(&mut self, side: Side) -> &mut Wire {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }

    /// Does what the session says until nothing moves.
    pub fn drive(&mut self) {
        for _ in 0..MOST_STEPS {
            if self.is_closed {
                assert!(matches!(self.session.next(self.now), Next::Close { .. }), "told for good");
                assert_eq!(self.session.deadline(), None, "nothing is waited for");
                return;
            }
            match self.session.next(self.now) {
                Next::Transfer(wants) => {
                    if !self.transfer(wants) {
                        self.session.release_memory();
                        return self.check_rest(wants);
                    }
                }
                Next::Connect { to, pooled } => {
                    let source = if pooled.is_some() { Source::Pooled } else { Source::Fresh };
                    assert!(!self.is_connected, "it has a connection already");
                    self.is_connecting = true;
                    self.events.push(Event::Connect { upstream: to.id().0, source });
                }
                Next::Queue(ticket) => {
                    ticket.wake_by(Waker::noop().clone());
                    self.events.push(Event::Queued);
                }
                Next::Release { keep } => {
                    assert!(!keep || self.is_connected, "there is nothing to keep");
                    (self.is_connected, self.is_connecting) = (false, false);
                    if self.pipe.to == Side::Upstream {
                        self.empty_pipe();
                    }
                    self.events.push(Event::Released { keep });
                }
                Next::Report(record) => {
                    let (status, outcome) = (record.status, record.outcome);
                    self.why = record.why;
                    self.events.push(Event::Reported { status, outcome });
                }
                Next::Close { abort } => {
                    assert!(!self.is_connected, "the upstream connection is left behind");
                    self.is_closed = true;
                    self.events.push(Event::Closed { abort });
                }
            }
        }
        panic!("the session does not come to rest");
    }

    /// What must hold whenever nothing moves.
    fn check_rest(&mut self, wants: Wants) {
        match self.session.next(self.now) {
            Next::Transfer(again) => assert_eq!(wants, again, "a call too many changes nothing"),
            _ => panic!("a call too many changes nothing"),
        }
        let deadline = self.session.deadline().expect("every live session has a deadline");
        assert!(deadline > self.now, "a deadline that is due has fired");
        self.note_memory();
    }

    fn note_memory(&mut self) {
        self.most_buffered = self.most_buffered.max(self.session.buffered());
        assert!(self.session.buffered() <= MOST_BUFFERED, "memory is bounded");
    }

    fn transfer(&mut self, mut wants: Wants) -> bool {
        let mut moved = false;
        if wants.upstream_read || wants.upstream_write {
            assert!(self.is_connected, "there is no upstream connection");
        }
        self.was_offered |= wants.splice.is_some();
        let is_patient = wants.is_head_alone && self.engine == Engine::Splices;
        if !self.pipe.bytes.is_empty() && !self.wire(self.pipe.to).deaf {
            let to = wants.splice.map(|splice| splice.to);
            assert_eq!(to, Some(self.pipe.to), "what is in the pipe comes first");
        }
        if let (Some(splice), Engine::Splices) = (wants.splice, self.engine) {
            moved |= self.splice(splice);
            match splice.to {
                Side::Client => (wants.upstream_read, wants.client_write) = (false, false),
                Side::Upstream => (wants.client_read, wants.upstream_write) = (false, false),
            }
        }
        if wants.read_on_first && wants.client_read {
            let more = self.read(Side::Client);
            wants.client_read = false;
            wants.upstream_write &= !more;
            moved |= more;
        }
        if wants.upstream_read {
            moved |= self.read(Side::Upstream);
        }
        if wants.upstream_write {
            moved |= self.write(Side::Upstream);
        }
        moved |= self.shut_down(Side::Upstream);
        if wants.client_read {
            moved |= self.read(Side::Client);
        }
        if wants.client_write && !(is_patient && moved) {
            moved |= self.write(Side::Client);
        }
        self.note_memory();
        moved | self.shut_down(Side::Client)
    }

    fn read(&mut self, side: Side) -> bool {
        let (now, most) = (self.now, self.steps.read);
        let wire = if side == Side::Client { &mut self.client } else { &mut self.upstream };
        let session = &mut self.session;
        if wire.broken {
            session.failed(side, Direction::Read);
            return true;
        }
        let left = &wire.pending[wire.read..];
        if left.is_empty() {
            assert!(!wire.end_was_read, "an end was read already");
            wire.end_was_read = wire.ended;
            if wire.ended {
                session.received(side, 0, now);
            }
            return wire.ended;
        }
        let space = session.space(side);
        assert!(!space.is_empty(), "there is room where reading is wanted");
        let len = left.len().min(space.len()).min(most);
        space[..len].copy_from_slice(&left[..len]);
        session.received(side, len, now);
        wire.read += len;
        if wire.read == wire.pending.len() {
            wire.pending.clear();
            wire.read = 0;
        }
        true
    }

    fn write(&mut self, side: Side) -> bool {
        let (now, most) = (self.now, self.steps.write);
        let wire = if side == Side::Client { &mut self.client } else { &mut self.upstream };
        let session = &mut self.session;
        if wire.deaf {
            session.failed(side, Direction::Write);
            return true;
        }
        if wire.is_full {
            return false;
        }
        let output = session.output(side);
        assert!(!output.is_empty(), "there are bytes where writing is wanted");
        let len = output.len().min(most);
        wire.seen.extend_from_slice(&output[..len]);
        session.sent(side, len, now);
        true
    }

    /// Moves bytes past the session: what is in the output leaves with them, ahead of them.
    fn splice(&mut self, Splice { to, most }: Splice) -> bool {
        let (now, steps) = (self.now, self.steps);
        if self.pipe.to != to {
            self.empty_pipe(); // nobody takes it any more
        }
        let World { session, client, upstream, pipe, .. } = self;
        pipe.to = to;
        let mut moved = false;
        if pipe.bytes.is_empty() && !session.output(to).is_empty() {
            pipe.bytes.extend_from_slice(session.output(to));
            session.staged(to, pipe.bytes.len());
            moved = true;
        }
        let (from, into) = match to {
            Side::Client => (upstream, client),
            Side::Upstream => (client, upstream),
        };
        if pipe.may_take && most > 0 {
            let left = &from.pending[from.read..];
            let len = left.len().min(most as usize).min(steps.read);
            if from.broken {
                session.failed(to.other(), Direction::Read);
                moved = true;
            } else if len > 0 {
                pipe.bytes.extend_from_slice(&left[..len]);
                pipe.may_take = false;
                from.read += len;
                session.spliced_in(to.other(), len, now);
                self.spliced += len;
                moved = true;
            } else if from.ended {
                assert!(
                    !std::mem::replace(&mut from.end_was_read, true),
                    "an end was read already"
                );
                session.spliced_in(to.other(), 0, now);
                moved = true;
            }
        }
        if pipe.bytes.is_empty() {
            return moved;
        }
        if into.deaf {
            session.failed(to, Direction::Write);
            return true;
        }
        if into.is_full {
            return moved;
        }
        let len = pipe.bytes.len().min(steps.write);
        into.seen.extend(pipe.bytes.drain(..len));
        pipe.may_take |= pipe.bytes.is_empty();
        session.spliced_out(to, len, now);
        true
    }

    fn empty_pipe(&mut self) {
        self.pipe.bytes.clear();
        self.pipe.may_take = true;
    }

    fn shut_down(&mut self, side: Side) -> bool {
        let is_wanted =
            self.session.wants_shutdown(side) && (side == Side::Client || self.is_connected);
        if is_wanted {
            self.session.shut_down(side);
            self.events.push(Event::HalfClosed(side));
        }
        is_wanted
    }

    /// A connection that was asked for is there.
    pub fn connected(&mut self, reused: bool) {
        assert!(std::mem::take(&mut self.is_connecting), "no connection was asked for");
        self.upstream = Wire::default();
        self.is_connected = true;
        self.session.connected(reused, self.now);
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.drive();
    }
}
