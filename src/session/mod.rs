//! One client connection, from its first byte to its last, as a plain value.
//!
//! A session knows everything about proxying and nothing about sockets, threads or clocks. Whoever
//! drives it calls [`Session::next`], does what it says, reports back, and calls it again. What is
//! reported is only written down; every decision is made within `next`, and a call too many changes
//! nothing. Not here: how to wait (`engine/`), how bytes are read (`http1/`).

mod deadline;
mod exchange;
mod record;
mod reply;
mod request;
mod response;
pub mod retry;
mod settle;
mod splice;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::http1::head::Search;
use crate::state::ProxyState;
use crate::upstream::Ticket;
use crate::upstream::Upstream;

pub use deadline::Timeout;
pub use record::{ExchangeOutcome, Record};
pub use splice::Splice;

use exchange::{Exchange, RequestLeg, ResponseLeg};
use splice::BodyPath;

/// Bytes that are read of a response at a time before its head is known: a long body behind it is
/// cheaper not copied.
const FIRST_READ: usize = 8 * 1024;

/// Room below which no more is read for a side that has not taken what there is.
const LEAST_READ: usize = 2 * 1024;

/// One of the two connections of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who asks.
    Client,
    /// Who answers.
    Upstream,
}

impl Side {
    /// The one across.
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }
}

/// What is to be done next.
pub enum Next {
    /// Move bytes where possible. When nothing moves, wait until something can, or the deadline.
    Transfer(Wants),
    /// Connect, told once; then `Transfer` until `connected` or `connect_failed` was called.
    Connect {
        /// Where to.
        to: Arc<Upstream>,
        /// The longest that one from the pool may have been idle, on which neither a byte nor an
        /// end is waiting. `None`, or if there is none: it has to be a new one.
        pooled: Option<Duration>,
    },
    /// Every upstream is busy. Wake this session by the ticket when one has room for it. Then
    /// `Transfer` until that is so.
    Queue(Arc<Ticket>),
    /// Detach the upstream connection, or withdraw the connect under way.
    Release {
        /// Whether it may be used again, by any session.
        keep: bool,
    },
    /// One exchange is over.
    Report(Record),
    /// The connection to the client is over. Told for good.
    Close {
        /// Reset it: an orderly end would look like the end of a message.
        abort: bool,
    },
}

/// Where bytes can be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// From the client.
    pub client_read: bool,
    /// To the client.
    pub client_write: bool,
    /// From the upstream.
    pub upstream_read: bool,
    /// To the upstream.
    pub upstream_write: bool,
    /// From one to the other, past the session. An engine that declines does what the others say
    /// instead; one that does not leaves reading from the one and writing to the other alone. It
    /// is asked for until everything that was taken has been passed on, or cannot be any more: then
    /// it is to be thrown away, as with the connection to that side.
    pub splice: Option<Splice>,
    /// What there is for the client is the last of all: behind it the connection is ended, at once.
    pub is_last: bool,
    /// What there is for the client is a head whose body has not come. Most often it is right
    /// behind, and one write is cheaper than two: others may go first.
    pub is_head_alone: bool,
    /// Nothing was written to the upstream yet: if reading from it brings anything, an end perhaps,
    /// it has to be looked at first, because a request of which nothing was written can be sent
    /// again.
    pub look_first: bool,
    /// The last read from the client was cut short, so more of the body is waiting. Read it before
    /// writing to the upstream, so that head and body leave in one write.
    pub read_on_first: bool,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// The other side refused, or was not reached.
    Remote(io::ErrorKind),
    /// We are short of descriptors, ports or memory; it says nothing about the upstream.
    Local(io::ErrorKind),
}

/// What failed with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Reading; nothing more will come.
    Read,
    /// Writing; nothing more will be taken. There may still be something to read.
    Write,
}

/// One connection as the session sees it.
#[derive(Default)]
struct ConnState {
    input: Buffer,
    output: Buffer,
    /// Bytes that are on their way out past the buffers; they come before those in `output`.
    in_pipe: usize,
    /// Nothing more will come, in order.
    ended: bool,
    /// Nothing more will come, by an error.
    failed: bool,
    /// Nothing more is taken.
    write_closed: bool,
    shutdown: Shutdown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shutdown {
    #[default]
    No,
    /// Once the output is out.
    Wanted,
    Done,
}

impl ConnState {
    fn clear(&mut self) {
        self.input.clear();
        self.output.clear();
        self.forget_connection();
    }

    /// For the next connection; what is in the buffers stays.
    fn forget_connection(&mut self) {
        (self.ended, self.failed, self.write_closed, self.in_pipe) = (false, false, false, 0);
        self.shutdown = Shutdown::No;
    }

    fn can_read(&self) -> bool {
        !self.ended && !self.failed && self.input.room() > 0
    }

    /// Bytes that are to be read for it at most, if `read` wait for it already. What goes out waits in
    /// one buffer and not in two: what does not fit there can as well wait in the system.
    fn read_budget(&self, read: usize) -> usize {
        if self.output.is_empty() { usize::MAX } else { self.output.room().saturating_sub(read) }
    }

    fn can_write(&self) -> bool {
        !self.write_closed && !self.output.is_empty() && self.in_pipe == 0
    }

    /// Whether it is as it was at first.
    fn is_blank(&self) -> bool {
        self.input.memory() == 0
            && self.output.memory() == 0
            && self.in_pipe == 0
            && !(self.ended || self.failed || self.write_closed)
            && self.shutdown == Shutdown::No
    }

    /// Whether everything that was to go out has.
    fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.in_pipe == 0
    }

    fn half_close(&mut self) {
        if self.shutdown == Shutdown::No {
            self.shutdown = Shutdown::Wanted;
        }
    }
}

/// Where the session stands with its upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    None,
    /// Our own shortage has prevented the connect; it will be tried again.
    Short,
    /// Every upstream is full; there is a place in the queue.
    Queued,
    /// Every upstream is full, and the request's body is buffered first.
    Buffering,
    Connecting,
    Open {
        reused: bool,
    },
}

/// Where the session stands with its client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It takes requests.
    Open,
    /// The last answer is on its way.
    Last(End),
    /// It reads and drops what the client still sends, so that the client can read the last answer.
    Lingering,
    /// It is over.
    Closed { abort: bool },
}

/// How a connection ends once its output is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// At once: the client has nothing more to say.
    Orderly,
    /// After lingering (RFC 9112 §9.6).
    Linger,
    /// By a reset.
    Abort,
}

/// One client connection.
pub struct Session {
    state: Arc<ProxyState>,
    peer: IpAddr,
    phase: Phase,
    client: ConnState,
    upstream: ConnState,
    link: Link,
    /// The search for the end of the request head that is arriving.
    search: Search,
    request_leg: RequestLeg,
    response_leg: ResponseLeg,
    exchange: Option<Exchange>,
    /// What the driver has to be told, in this order.
    release: Option<bool>,
    report: Option<Record>,
    connect: Option<(Arc<Upstream>, Option<Duration>)>,
    /// Whether the driver knows the place in the queue, if there is one.
    is_queue_told: bool,
    /// What is waited for, and since when.
    waiting: Timeout,
    since: Instant,
    /// When a byte was moved last.
    moved: Instant,
    /// When the last byte came from the client.
    client_sent: Instant,
    /// The most bytes that the next read from the client may bring, if the buffer has room for more
    /// than that; else 0.
    read_limit: usize,
    /// Whether the last read from the client brought `read_limit` bytes.
    is_cut_short: bool,
    /// When it was accepted, if only to be told that there are too many.
    turned_away: Option<Instant>,
    /// Whether a whole request head has come.
    has_asked: bool,
    /// Whether the last request had a body longer than a head. Then the next one is expected to be
    /// like it, and head and body are read at once.
    sends_long_bodies: bool,
}

/// A session that only waits for a request: all that it has to remember.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Since when it has waited.
    pub since: Instant,
    sends_long_bodies: bool,
}

impl Idle {
    /// A client has just connected.
    pub fn new(now: Instant) -> Self {
        Idle { since: now, sends_long_bodies: false }
    }
}

impl Session {
    /// A client at `peer` has connected.
    pub fn new(state: Arc<ProxyState>, peer: IpAddr, now: Instant) -> Self {
        Session {
            state,
            peer: peer.to_canonical(),
            phase: Phase::Open,
            client: ConnState::default(),
            upstream: ConnState::default(),
            link: Link::None,
            search: Search::default(),
            request_leg: RequestLeg::Head,
            response_leg: ResponseLeg::Idle,
            exchange: None,
            release: None,
            report: None,
            connect: None,
            is_queue_told: true,
            waiting: Timeout::Idle,
            since: now,
            moved: now,
            client_sent: now,
            read_limit: 0,
            is_cut_short: false,
            turned_away: None,
            has_asked: false,
            sends_long_bodies: false,
        }
    }

    /// What it has to remember, if all it does is wait for a request: then it is like a new one.
    pub fn idle(&self) -> Option<Idle> {
        let is_told = self.release.is_none() && self.report.is_none() && self.connect.is_none();
        let is_blank = self.phase == Phase::Open
            && self.waiting == Timeout::Idle
            && self.exchange.is_none()
            && matches!(self.request_leg, RequestLeg::Head)
            && matches!(self.response_leg, ResponseLeg::Idle)
            && self.link == Link::None
            && self.search == Search::default()
            && self.client.is_blank()
            && self.upstream.is_blank();
        let is_idle = is_told && is_blank && self.turned_away.is_none();
        is_idle.then_some(Idle { since: self.since, sends_long_bodies: self.sends_long_bodies })
    }

    /// One that only waits goes on for another client, that has waited as `idle` says.
    pub fn begin_again(&mut self, peer: IpAddr, idle: Idle) {
        self.peer = peer.to_canonical();
        (self.since, self.moved) = (idle.since, idle.since);
        self.has_asked = false;
        self.sends_long_bodies = idle.sends_long_bodies;
    }

    /// Answers its first request 503: more clients are connected than are served. To be called before
    /// anything else.
    pub fn turn_away(&mut self) {
        self.turned_away = Some(self.since);
    }

    /// What is to be done next. Every decision is made here; a deadline that is due fires here,
    /// after everything that was reported has been taken into account.
    pub fn next(&mut self, now: Instant) -> Next {
        self.step(now, true)
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.state.is_stopping()
    }

    /// The same, but no deadline fires: for a driver that comes late, and has not yet told what has
    /// happened meanwhile.
    pub fn next_before_deadline(&mut self, now: Instant) -> Next {
        self.step(now, false)
    }

    fn step(&mut self, now: Instant, may_fire: bool) -> Next {
        loop {
            let changed = self.settle(now);
            self.note_wait(now);
            if let Some(next) = self.pop_action() {
                return next;
            }
            if changed {
                continue;
            }
            if may_fire && self.capacity_check_at().is_some_and(|at| at <= now) {
                self.check_capacity(now);
                continue;
            }
            if may_fire && self.deadline().is_some_and(|at| at <= now) {
                // Whatever is waited for next, it is waited for from now on.
                self.since = now;
                self.on_deadline(now);
                continue;
            }
            return Next::Transfer(self.wants());
        }
    }

    /// What the driver has to be told before anything else.
    fn pop_action(&mut self) -> Option<Next> {
        if let Some(keep) = self.release.take() {
            return Some(Next::Release { keep });
        }
        if let Some(record) = self.report.take() {
            return Some(Next::Report(record));
        }
        if let Some((to, pooled)) = self.connect.take() {
            return Some(Next::Connect { to, pooled });
        }
        if !std::mem::replace(&mut self.is_queue_told, true)
            && let Some(waiting) =
                self.exchange.as_ref().and_then(|exchange| exchange.queued.as_ref())
        {
            return Some(Next::Queue(waiting.ticket()));
        }
        match self.phase {
            Phase::Closed { abort } => Some(Next::Close { abort }),
            _ => None,
        }
    }

    /// Nothing moves: gives back memory that is not needed meanwhile. To be called before waiting.
    pub fn release_memory(&mut self) {
        for port in [&mut self.client, &mut self.upstream] {
            port.input.release_memory();
            port.output.release_memory();
        }
    }

    /// Room for bytes from `from`; never empty where `Wants` asked to read.
    pub fn space(&mut self, from: Side) -> &mut [u8] {
        let (for_client, for_upstream) = self.read_budgets();
        let most_of_request = self.most_of_request();
        let space = match from {
            Side::Client => self.client.input.space(),
            Side::Upstream => self.upstream.input.space(),
        };
        let most = match (from, &self.request_leg, &self.response_leg) {
            (Side::Client, RequestLeg::Body(_) | RequestLeg::Tunnel, _) => for_upstream,
            (Side::Upstream, _, ResponseLeg::Head(_)) => FIRST_READ,
            (Side::Upstream, _, ResponseLeg::Body(_) | ResponseLeg::Tunnel) => for_client,
            _ => space.len(),
        };
        let mut len = most.min(space.len());
        if from == Side::Client {
            self.read_limit = if most_of_request < len { most_of_request } else { 0 };
            len = len.min(most_of_request);
        }
        &mut space[..len]
    }

    /// `n` bytes were read into `space`; 0 is the end.
    pub fn received(&mut self, from: Side, n: usize, now: Instant) {
        let port = self.conn_mut(from);
        if n == 0 {
            port.ended = true;
            return;
        }
        port.input.filled(n);
        self.moved = now;
        if from == Side::Client {
            self.client_sent = now;
            self.is_cut_short = n == self.read_limit;
        } else if let Some(exchange) = &mut self.exchange {
            exchange.spoke_first |= !exchange.wrote;
            exchange.response_began |= !exchange.spoke_first;
        }
    }

    /// Bytes for `to`.
    pub fn output(&self, to: Side) -> &[u8] {
        self.conn(to).output.unread()
    }

    /// The first `n` bytes of `output` were taken.
    pub fn sent(&mut self, to: Side, n: usize, now: Instant) {
        if n == 0 {
            return;
        }
        self.moved = now;
        self.conn_mut(to).output.consume(n);
        if let Some(exchange) = &mut self.exchange {
            match to {
                Side::Client => exchange.sent_to_client += n as u64,
                Side::Upstream => exchange.wrote = true,
            }
        }
    }

    /// Whether the sending direction toward `to` is to be closed now.
    pub fn wants_shutdown(&self, to: Side) -> bool {
        let port = self.conn(to);
        port.shutdown == Shutdown::Wanted && port.is_flushed()
    }

    /// It was.
    pub fn shut_down(&mut self, to: Side) {
        self.conn_mut(to).shutdown = Shutdown::Done;
    }

    /// The connect has succeeded.
    pub fn connected(&mut self, reused: bool, now: Instant) {
        if self.awaits_connection() {
            self.link = Link::Open { reused };
            self.moved = now;
            if let Some(exchange) = &mut self.exchange {
                (exchange.short_since, exchange.shortages) = (None, 0);
            }
        }
    }

    /// The connect has failed.
    pub fn connect_failed(&mut self, why: ConnectFailure, now: Instant) {
        if self.awaits_connection() {
            self.link = Link::None;
            self.no_connection(why, now);
        }
    }

    /// Whether the driver was told to connect, and has not said what came of it.
    fn awaits_connection(&self) -> bool {
        self.link == Link::Connecting && self.connect.is_none()
    }

    /// Reading or writing has failed with an error.
    pub fn failed(&mut self, side: Side, direction: Direction) {
        let port = self.conn_mut(side);
        match direction {
            Direction::Read => port.failed = true,
            Direction::Write => port.write_closed = true,
        }
        // A client that cannot be written to is gone. What an upstream still has to say is read.
        port.failed |= side == Side::Client;
    }

    /// Whether an exchange is under way, or what it has left has not reached the client.
    pub fn is_busy(&self) -> bool {
        self.exchange.is_some() || !self.client.input.is_empty() || !self.client.is_flushed()
    }

    /// Bytes of memory that its buffers hold.
    pub fn buffered(&self) -> usize {
        [&self.client, &self.upstream]
            .iter()
            .map(|port| port.input.memory() + port.output.memory())
            .sum()
    }

    fn conn_mut(&mut self, side: Side) -> &mut ConnState {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }

    fn conn(&self, side: Side) -> &ConnState {
        match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        }
    }

    /// Bytes of bodies that are to be read at most, for the client and for the upstream.
    fn read_budgets(&self) -> (usize, usize) {
        let (sent, answered) = (self.client.input.len(), self.upstream.input.len());
        (self.client.read_budget(answered), self.upstream.read_budget(sent))
    }

    fn wants(&self) -> Wants {
        let (for_client, for_upstream) = self.read_budgets();
        let (up, down) = (self.course(Side::Upstream), self.course(Side::Client));
        let is_open = matches!(self.link, Link::Open { .. });
        let client_read = match self.phase {
            Phase::Open => match self.request_leg {
                RequestLeg::Head => true,
                // What an upstream does not take is not asked for either.
                RequestLeg::Body(_) => !self.upstream.write_closed && for_upstream >= LEAST_READ,
                RequestLeg::Tunnel => for_upstream >= LEAST_READ,
                RequestLeg::Done | RequestLeg::Cut => false,
            },
            Phase::Lingering => true,
            Phase::Last(_) | Phase::Closed { .. } => false,
        };
        let upstream_read = match self.response_leg {
            ResponseLeg::Head(_) => is_open,
            ResponseLeg::Body(_) | ResponseLeg::Tunnel => is_open && for_client >= LEAST_READ,
            ResponseLeg::Idle | ResponseLeg::Done => false,
        };
        let client_read = client_read
            && self.client.can_read()
            && self.most_of_request() > 0
            && up != BodyPath::Flush;
        Wants {
            client_read,
            client_write: self.client.can_write(),
            upstream_read: upstream_read && self.upstream.can_read() && down != BodyPath::Flush,
            upstream_write: is_open && self.upstream.can_write(),
            splice: match (up, down) {
                // What is on its way comes first: both cannot be in one pipe.
                (_, BodyPath::Splice(splice)) if self.client.in_pipe > 0 => Some(splice),
                (BodyPath::Splice(splice), _) | (_, BodyPath::Splice(splice)) => Some(splice),
                _ => None,
            },
            is_last: self.is_last_output(),
            is_head_alone: self.is_head_alone(),
            look_first: self.exchange.as_ref().is_some_and(|exchange| !exchange.wrote),
            read_on_first: client_read
                && self.is_cut_short
                && matches!(self.request_leg, RequestLeg::Body(_)),
        }
    }
}
