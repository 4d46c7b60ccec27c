//! One client connection, from its first byte to its last, as a plain value.
//!
//! A session knows everything about proxying and nothing about sockets, threads or clocks. Whoever
//! drives it calls [`Session::next`], does what it says, reports back, and calls it again. What is
//! reported is only written down; every decision is made within `next`, and a call too many changes
//! nothing. Not here: how to wait (`engine/`), how bytes are read (`http1/`).

mod deadline;
mod h1;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::exchange::{
    BodyPath, ClientSide, ConnState, Ending, Exchange, FIRST_READ, LEAST_READ, Link, Orders,
    RequestLeg, ResponseLeg, Shutdown, StreamEnd, Wait,
};
use crate::http1::head::Search;
use crate::state::ProxyState;
use crate::upstream::{Ticket, Upstream};

pub use crate::exchange::{ConnectFailure, ExchangeOutcome, Record, Side, Splice, Timeout};

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

/// What failed with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Reading; nothing more will come.
    Read,
    /// Writing; nothing more will be taken. There may still be something to read.
    Write,
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
    /// The search for the end of the request head that is arriving.
    search: Search,
    exchange: Option<Exchange>,
    orders: Orders,
    wait: Wait,
    /// When a byte was moved last.
    moved: Instant,
    /// When the last byte came from the client.
    client_sent: Instant,
    /// The most bytes that the next read from the client may bring, if the buffer has room for more
    /// than that; else 0.
    read_limit: usize,
    /// Whether the last read from the client brought `read_limit` bytes.
    is_cut_short: bool,
    /// When the client was accepted, if only to be told that there are too many.
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
            search: Search::default(),
            exchange: None,
            orders: Orders::default(),
            wait: Wait { timeout: Timeout::Idle, since: now },
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
        let is_idle = self.exchange.is_none()
            && self.phase == Phase::Open
            && self.wait.timeout == Timeout::Idle
            && self.turned_away.is_none()
            && self.orders.is_empty()
            && self.search == Search::default()
            && self.client.is_blank();
        let since = self.wait.since;
        is_idle.then_some(Idle { since, sends_long_bodies: self.sends_long_bodies })
    }

    /// One that only waits goes on for another client, that has waited as `idle` says.
    pub fn begin_again(&mut self, peer: IpAddr, idle: Idle) {
        self.peer = peer.to_canonical();
        (self.wait.since, self.moved) = (idle.since, idle.since);
        self.has_asked = false;
        self.sends_long_bodies = idle.sends_long_bodies;
    }

    /// Answers its first request 503: more clients are connected than are served. To be called before
    /// anything else.
    pub fn turn_away(&mut self) {
        self.turned_away = Some(self.wait.since);
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
                self.on_exchange(now, |exchange, client| exchange.check_capacity(client, now));
                continue;
            }
            if may_fire && self.deadline().is_some_and(|at| at <= now) {
                self.on_deadline(now);
                continue;
            }
            return Next::Transfer(self.wants());
        }
    }

    /// Takes one step if one can be taken. Returns whether anything has changed.
    fn settle(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Closed { .. } => false,
            Phase::Open if self.client.failed => {
                let left = self.on_exchange(now, |exchange, client| exchange.client_gone(client));
                if left.is_none() {
                    self.enter(Phase::Closed { abort: true });
                }
                true
            }
            Phase::Open => self
                .on_exchange(now, |exchange, client| exchange.advance(client, now))
                .unwrap_or_else(|| self.read_request(now)),
            _ if self.client.failed => {
                self.enter(Phase::Closed { abort: true });
                true
            }
            Phase::Last(end) => {
                let is_flushed = self.client.is_flushed();
                if is_flushed {
                    self.end_after_output(end);
                }
                is_flushed
            }
            Phase::Lingering => {
                let discarded = self.client.input.len();
                self.client.input.consume(discarded);
                if self.client.ended {
                    self.enter(Phase::Closed { abort: false });
                }
                self.client.ended
            }
        }
    }

    /// Does something with the exchange, if there is one, and follows its end if it has come to it.
    fn on_exchange<R>(
        &mut self,
        now: Instant,
        act: impl FnOnce(&mut Exchange, &mut ClientSide<'_>) -> R,
    ) -> Option<R> {
        let exchange = self.exchange.as_mut()?;
        let mut client = ClientSide {
            state: &self.state,
            conn: &mut self.client,
            orders: &mut self.orders,
            wait: &mut self.wait,
            sent_at: self.client_sent,
        };
        let result = act(exchange, &mut client);
        if let Some(ending) = exchange.ending {
            self.end_exchange(ending, now);
        }
        Some(result)
    }

    fn end_exchange(&mut self, ending: Ending, now: Instant) {
        let Some(exchange) = self.exchange.take() else { return };
        let most_of_head = self.state.config.limits.head as u64;
        self.sends_long_bodies = exchange.request_bytes > most_of_head;
        self.search = Search::default();
        self.orders.report = Some(exchange.into_record(ending, &self.state, now));
        self.enter(match ending.stream {
            StreamEnd::Keep => Phase::Open,
            StreamEnd::CloseAfterOutput => Phase::Last(End::Orderly),
            StreamEnd::Linger => Phase::Last(End::Linger),
            StreamEnd::ResetAfterOutput => Phase::Last(End::Abort),
            StreamEnd::Close => Phase::Closed { abort: false },
            StreamEnd::Reset => Phase::Closed { abort: true },
        });
    }

    /// The last output is out.
    fn end_after_output(&mut self, end: End) {
        let lingers = end == End::Linger && !self.client.ended;
        if lingers {
            self.client.half_close();
        }
        self.enter(match end {
            _ if lingers => Phase::Lingering,
            End::Abort => Phase::Closed { abort: true },
            End::Linger | End::Orderly => Phase::Closed { abort: false },
        });
    }

    /// The only place where the phase changes.
    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// What the driver has to be told before anything else.
    fn pop_action(&mut self) -> Option<Next> {
        if let Some(keep) = self.orders.release.take() {
            return Some(Next::Release { keep });
        }
        if let Some(record) = self.orders.report.take() {
            return Some(Next::Report(record));
        }
        if let Some((to, pooled)) = self.orders.connect.take() {
            return Some(Next::Connect { to, pooled });
        }
        if let Some(ticket) = self.exchange.as_mut().and_then(Exchange::ticket_to_tell) {
            return Some(Next::Queue(ticket));
        }
        match self.phase {
            Phase::Closed { abort } => Some(Next::Close { abort }),
            _ => None,
        }
    }

    /// Nothing moves: gives back memory that is not needed meanwhile. To be called before waiting.
    pub fn release_memory(&mut self) {
        self.client.release_memory();
        self.exchange.iter_mut().for_each(|exchange| exchange.upstream.release_memory());
    }

    /// Room for bytes from `from`; never empty where `Wants` asked to read.
    pub fn space(&mut self, from: Side) -> &mut [u8] {
        match from {
            Side::Client => self.space_from_client(),
            Side::Upstream => self.space_from_upstream(),
        }
    }

    fn space_from_client(&mut self) -> &mut [u8] {
        let most_of_request = self.most_of_request();
        let most = match &self.exchange {
            Some(
                exchange @ Exchange {
                    request_leg: RequestLeg::Body(_) | RequestLeg::Tunnel, ..
                },
            ) => exchange.read_budgets(&self.client).1,
            _ => usize::MAX,
        };
        let space = self.client.input.space();
        let len = most.min(space.len());
        self.read_limit = if most_of_request < len { most_of_request } else { 0 };
        &mut space[..len.min(most_of_request)]
    }

    fn space_from_upstream(&mut self) -> &mut [u8] {
        let Some(exchange) = &mut self.exchange else { return &mut [] };
        let (for_client, _) = exchange.read_budgets(&self.client);
        let most = match exchange.response_leg {
            ResponseLeg::Head(_) => FIRST_READ,
            ResponseLeg::Body(_) | ResponseLeg::Tunnel => for_client,
            ResponseLeg::Done => usize::MAX,
        };
        let space = exchange.upstream.input.space();
        let len = most.min(space.len());
        &mut space[..len]
    }

    /// The most bytes that may be read from the client: what certainly belongs to the present request,
    /// and one head. Pipelined requests beyond that wait in the kernel. A client whose last request
    /// had a long body is expected to send another, so head and body are read at once.
    fn most_of_request(&self) -> usize {
        let of_body = match &self.exchange {
            Some(exchange) => exchange.left_for_certain(),
            None if self.sends_long_bodies && self.client.input.is_empty() => return usize::MAX,
            None => 0,
        };
        let of_body = usize::try_from(of_body).unwrap_or(usize::MAX);
        let most = of_body.saturating_add(self.state.config.limits.head);
        most.saturating_sub(self.client.input.len())
    }

    /// `n` bytes were read into `space`; 0 is the end.
    pub fn received(&mut self, from: Side, n: usize, now: Instant) {
        let Some(conn) = self.conn_mut(from) else { return };
        if n == 0 {
            conn.ended = true;
            return;
        }
        conn.input.filled(n);
        self.moved = now;
        if from == Side::Client {
            self.client_sent = now;
            self.is_cut_short = n == self.read_limit;
        } else if let Some(exchange) = &mut self.exchange {
            let attempt = &mut exchange.attempt;
            attempt.spoke_first |= !attempt.wrote;
            attempt.response_began |= !attempt.spoke_first;
        }
    }

    /// Bytes for `to`.
    pub fn output(&self, to: Side) -> &[u8] {
        self.conn(to).map_or(&[], |conn| conn.output.unread())
    }

    /// The first `n` bytes of `output` were taken.
    pub fn sent(&mut self, to: Side, n: usize, now: Instant) {
        let Some(conn) = self.conn_mut(to).filter(|_| n > 0) else { return };
        conn.output.consume(n);
        self.moved = now;
        self.count_sent(to, n);
    }

    fn count_sent(&mut self, to: Side, n: usize) {
        let Some(exchange) = &mut self.exchange else { return };
        match to {
            Side::Client => exchange.sent_to_client += n as u64,
            Side::Upstream => exchange.attempt.wrote |= n > 0,
        }
    }

    /// The first `n` bytes of `output` go ahead of those that are spliced.
    pub fn staged(&mut self, to: Side, n: usize) {
        let Some(conn) = self.conn_mut(to) else { return };
        conn.output.end_retain();
        conn.output.consume(n);
        conn.in_pipe += n;
        if to == Side::Client {
            self.count_sent(to, n);
        }
    }

    /// `n` bytes of a body were taken from `from`, past the session; 0 is the end.
    pub fn spliced_in(&mut self, from: Side, n: usize, now: Instant) {
        if n == 0 {
            self.conn_mut(from).into_iter().for_each(|conn| conn.ended = true);
            return;
        }
        self.moved = now;
        let Some(to) = self.conn_mut(from.other()) else { return };
        to.in_pipe += n;
        to.output.end_retain();
        if from == Side::Client {
            self.client_sent = now;
        }
        self.exchange.iter_mut().for_each(|exchange| exchange.spliced_in(from, n));
    }

    /// `to` took `n` of the bytes that are on their way past the session.
    pub fn spliced_out(&mut self, to: Side, n: usize, now: Instant) {
        self.moved = now;
        let Some(conn) = self.conn_mut(to) else { return };
        conn.in_pipe = conn.in_pipe.saturating_sub(n);
        if to == Side::Upstream {
            self.count_sent(to, n);
        }
    }

    /// Whether the sending direction toward `to` is to be closed now.
    pub fn wants_shutdown(&self, to: Side) -> bool {
        self.conn(to).is_some_and(|conn| conn.shutdown == Shutdown::Wanted && conn.is_flushed())
    }

    /// Records that the sending direction was closed.
    pub fn shut_down(&mut self, to: Side) {
        self.conn_mut(to).into_iter().for_each(|conn| conn.shutdown = Shutdown::Done);
    }

    /// The connect has succeeded.
    pub fn connected(&mut self, reused: bool, now: Instant) {
        if self.awaits_connection()
            && let Some(exchange) = &mut self.exchange
        {
            exchange.connected(reused);
            self.moved = now;
        }
    }

    /// The connect has failed.
    pub fn connect_failed(&mut self, why: ConnectFailure, now: Instant) {
        if self.awaits_connection() {
            self.on_exchange(now, |exchange, client| exchange.connect_failed(client, why, now));
        }
    }

    /// Whether the driver was told to connect, and has not said what came of it.
    fn awaits_connection(&self) -> bool {
        let is_connecting = self.exchange.as_ref().is_some_and(|e| e.link == Link::Connecting);
        is_connecting && self.orders.connect.is_none()
    }

    /// Reading or writing has failed with an error.
    pub fn failed(&mut self, side: Side, direction: Direction) {
        let Some(conn) = self.conn_mut(side) else { return };
        match direction {
            Direction::Read => conn.failed = true,
            Direction::Write => conn.write_closed = true,
        }
        // A client that cannot be written to is gone. What an upstream still has to say is read.
        conn.failed |= side == Side::Client;
    }

    /// Whether an exchange is under way, or what it has left has not reached the client.
    pub fn is_busy(&self) -> bool {
        self.exchange.is_some() || !self.client.input.is_empty() || !self.client.is_flushed()
    }

    /// Bytes of memory that its buffers hold.
    pub fn buffered(&self) -> usize {
        let of_exchange = self.exchange.as_ref().map_or(0, |exchange| exchange.upstream.memory());
        self.client.memory() + of_exchange
    }

    fn conn_mut(&mut self, side: Side) -> Option<&mut ConnState> {
        match side {
            Side::Client => Some(&mut self.client),
            Side::Upstream => self.exchange.as_mut().map(|exchange| &mut exchange.upstream),
        }
    }

    fn conn(&self, side: Side) -> Option<&ConnState> {
        match side {
            Side::Client => Some(&self.client),
            Side::Upstream => self.exchange.as_ref().map(|exchange| &exchange.upstream),
        }
    }

    fn wants(&self) -> Wants {
        match &self.exchange {
            Some(exchange) => self.wants_of(exchange),
            None => Wants {
                client_read: matches!(self.phase, Phase::Open | Phase::Lingering)
                    && self.client.can_read()
                    && self.most_of_request() > 0,
                client_write: self.client.can_write(),
                // What was spliced of a response that was aborted is still on its way.
                splice: (self.client.in_pipe > 0 && !self.client.write_closed)
                    .then_some(Splice { to: Side::Client, most: 0 }),
                ..Wants::default()
            },
        }
    }

    fn wants_of(&self, exchange: &Exchange) -> Wants {
        let Exchange { upstream, request_leg, .. } = exchange;
        let (for_client, for_upstream) = exchange.read_budgets(&self.client);
        let up = exchange.body_path(&self.client, Side::Upstream);
        let down = exchange.body_path(&self.client, Side::Client);
        let is_open = matches!(exchange.link, Link::Open { .. });
        let client_read = match request_leg {
            // What an upstream does not take is not asked for either.
            RequestLeg::Body(_) => !upstream.write_closed && for_upstream >= LEAST_READ,
            RequestLeg::Tunnel => for_upstream >= LEAST_READ,
            RequestLeg::Done | RequestLeg::Cut => false,
        };
        let client_read = client_read
            && self.client.can_read()
            && self.most_of_request() > 0
            && up != BodyPath::Flush;
        let upstream_read = match exchange.response_leg {
            ResponseLeg::Head(_) => is_open,
            ResponseLeg::Body(_) | ResponseLeg::Tunnel => is_open && for_client >= LEAST_READ,
            ResponseLeg::Done => false,
        };
        Wants {
            client_read,
            client_write: self.client.can_write(),
            upstream_read: upstream_read && upstream.can_read() && down != BodyPath::Flush,
            upstream_write: is_open && upstream.can_write(),
            splice: match (up, down) {
                // What is on its way comes first: both cannot be in one pipe.
                (_, BodyPath::Splice(splice)) if self.client.in_pipe > 0 => Some(splice),
                (BodyPath::Splice(splice), _) | (_, BodyPath::Splice(splice)) => Some(splice),
                _ => None,
            },
            is_last: exchange.is_last_output(),
            is_head_alone: exchange.is_head_alone(),
            look_first: !exchange.attempt.wrote,
            read_on_first: client_read
                && self.is_cut_short
                && matches!(request_leg, RequestLeg::Body(_)),
        }
    }
}
