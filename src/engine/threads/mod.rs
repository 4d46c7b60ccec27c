//! The threads engine: a CPU-sized pool of workers that wait together.
//!
//! The known flaw of a thread pool is that whoever waits holds a worker. Here no session waits in a
//! worker: a worker drives a session until nothing moves, leaves it in the waiting room and takes
//! the next one that is ready. So two workers serve any number of clients that are idle, slow or
//! hostile. Not here: what a turn does (`turn.rs`).

mod event_queue;
mod handover;
mod key;
mod timer_wheel;
mod upstream_conn;
mod wakeups;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use threadpool::ThreadPool;

use super::connection::{Connection, SessionPool};
use super::connection_limit::Permit;
use super::eviction::{Activity, ActivityWord, Evictor};
use super::io::{Dialer, Host, Io};
use super::pipe::{Pipe, Pipes};
use super::pool::Pool;
use super::slab::Slab;
use super::socket;
use super::socket::{Peeked, Socket};
use super::turn::{ActiveConnection, Attached, TurnEnd};
use super::{At, Engine};
use crate::free_list::UNUSED;
use crate::lock::Lock;
use crate::log_throttle::LogThrottle;
use crate::session::{Direction, Side};
use crate::shortage;
use crate::state::ProxyState;
use crate::upstream::UpstreamId;
use event_queue::{
    ENDS, EVICT, EventQueue, Events, FAILED, READABLE, Readiness, RunState, Token, UPSTREAM, WAKE,
    WRITABLE,
};
use key::Key;
use timer_wheel::{Tick, Wheel};
use upstream_conn::{UpstreamConn, UpstreamConnSlot, User};
use wakeups::WakeQueue;

/// How often idle upstream connections are looked through for old ones, while there are any.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// When a new connection is looked at although nothing was heard of it: sooner than its deadline,
/// so that the wheel does not fill with the deadlines of connections that are long gone.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Sessions that a worker has room to remember from the start.
const DUE_AT_ONCE: usize = 64;

/// The running engine.
pub struct Threads {
    shared: Arc<Shared>,
    pool: ThreadPool,
}

/// What the workers share.
struct Shared {
    event_queue: Arc<EventQueue>,
    state: Arc<ProxyState>,
    slots: Slab<Slot>,
    upstream_conns: Arc<Slab<UpstreamConnSlot>>,
    idle: Pool<UpstreamConn>,
    pipes: Arc<Pipes>,
    sessions: SessionPool<UpstreamConn>,
    wheel: Wheel<Due>,
    evictor: Evictor,
    wake_queue: Arc<WakeQueue>,
    is_sweeping: AtomicBool,
    shortage: Lock<LogThrottle>,
}

/// A seat and who sits on it.
#[derive(Default)]
struct Slot {
    run_state: RunState,
    activity: ActivityWord,
    /// Locked by whoever has taken the seat, so nobody ever waits for it.
    occupant: Lock<Option<Box<Occupant>>>,
}

/// Who sits on a seat.
struct Occupant {
    connection: Connection<Socket, UpstreamConn>,
    /// When its valid entry in the wheel comes up.
    armed: Option<Tick>,
    /// It counts as open while this lives.
    _permit: Permit,
}

/// What a turn does on behalf of the session on one seat.
struct WorkerIo<'a> {
    shared: &'a Shared,
    key: Key,
}

/// What comes up in the wheel.
#[derive(Clone, Copy, Debug)]
enum Due {
    Session(Key),
    Sweep,
}

impl Threads {
    /// Starts `workers` threads that serve up to `slots` connections, with `upstream_conns` to upstreams.
    pub fn start(
        state: Arc<ProxyState>,
        workers: usize,
        slots: usize,
        upstream_conns: usize,
        now: Instant,
    ) -> io::Result<Self> {
        let (most_idle, oldest) = (state.config.limits.pool, state.config.timeouts.pool);
        let upstreams = state.config.upstreams.len();
        let event_queue = Arc::new(EventQueue::new()?);
        let shared = Arc::new(Shared {
            wake_queue: WakeQueue::notifying(event_queue.clone()),
            event_queue,
            slots: Slab::new(slots),
            upstream_conns: Arc::new(Slab::new(upstream_conns)),
            idle: Pool::new(upstreams, most_idle, oldest),
            pipes: Pipes::new(upstream_conns),
            sessions: SessionPool::default(),
            wheel: Wheel::new(now),
            evictor: Evictor::new(now),
            is_sweeping: AtomicBool::new(false),
            shortage: Lock::default(),
            state,
        });
        let pool = ThreadPool::with_name("worker".to_string(), workers);
        for _ in 0..workers {
            let shared = shared.clone();
            pool.execute(move || shared.work());
        }
        Ok(Threads { shared, pool })
    }
}

impl Engine for Threads {
    fn admit(&self, stream: TcpStream, peer: SocketAddr, permit: Permit, turn_away: bool) {
        let shared = &self.shared;
        let now = Instant::now();
        let Some(index) = shared.slots.take() else {
            return log::error!("no place for a connection that was let in");
        };
        let Some(slot) = shared.slots.get(index) else { return };
        let key = slot.run_state.occupy(index);
        let client = Socket::connected(stream);
        let connection = Connection::new(shared.state.clone(), peer.ip(), client, turn_away, now);
        let mut occupant = Box::new(Occupant { connection, armed: None, _permit: permit });
        // Most connections do not live for long. One that does is armed for its deadline at the
        // first look.
        let (tick, must_nudge) =
            shared.wheel.insert(shared.wheel.tick_at(now + FIRST_LOOK, now), Due::Session(key));
        occupant.armed = Some(tick);
        slot.activity.set(occupant.connection.activity(), &shared.evictor);
        let mut guard = slot.occupant.lock();
        let watched =
            shared.event_queue.watch(&occupant.connection.client, Token::Client(key), false);
        *guard = Some(occupant);
        drop(guard);
        if let Err(error) = watched {
            log::debug!("a connection that was accepted cannot be watched: {error}");
            shared.vacate(key);
        } else if must_nudge {
            shared.event_queue.notify();
        }
    }

    fn evict(&self, now: Instant) -> bool {
        self.shared.evict(now)
    }

    fn wake_all(&self) {
        let mut again = VecDeque::new();
        let now = Instant::now();
        for index in self.shared.slots.numbers() {
            if let Some(slot) = self.shared.slots.get(index) {
                // What has arrived counts, even if the news of it are still on their way.
                let readiness = WAKE | READABLE;
                self.shared.signal(slot.run_state.occupant(index), readiness, now, &mut again);
            }
        }
        self.shared.come_back_to(again);
        // The deadlines that sessions have now may be earlier than those that the workers wait for.
        self.shared.event_queue.notify();
    }

    fn end(&self) -> usize {
        let shared = &self.shared;
        shared.event_queue.end();
        self.pool.join();
        let mut cut = 0;
        for index in shared.slots.numbers() {
            let occupant = shared.slots.get(index).and_then(|slot| slot.occupant.lock().take());
            if let Some(Occupant { connection, .. }) = occupant.as_deref()
                && connection.is_busy()
            {
                // An orderly end could look like the end of the answer.
                socket::reset_on_close(&connection.client);
                cut += 1;
            }
        }
        cut
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn work(&self) {
        WakeQueue::looked_at_here();
        let mut events = Events::default();
        // Room for what comes up in quiet times, so that nothing is allocated for it later.
        let mut due = Vec::with_capacity(DUE_AT_ONCE);
        let mut again = VecDeque::with_capacity(DUE_AT_ONCE);
        let mut now = Instant::now();
        // When this worker frees unused memory next; `None` while it keeps none.
        let mut trim_at: Option<Instant> = None;
        loop {
            let until_trim = trim_at.map(|at| at.saturating_duration_since(now));
            let patience = match self.wheel.wait(now) {
                _ if !again.is_empty() => Some(Duration::ZERO),
                Some(patience) => Some(until_trim.map_or(patience, |until| until.min(patience))),
                None => until_trim,
            };
            self.event_queue.wait(&mut events, patience);
            now = Instant::now();
            for (token, readiness) in events.iter() {
                match token {
                    Token::Client(key) => self.signal(key, readiness, now, &mut again),
                    Token::Upstream(key) => self.signal_user(key, readiness, now, &mut again),
                    Token::Notify => (),
                    Token::End => return,
                }
            }
            self.wheel.advance(now, &mut due);
            for entry in due.drain(..) {
                match entry {
                    Due::Session(key) => self.signal(key, WAKE, now, &mut again),
                    Due::Sweep => self.sweep(now),
                }
            }
            for _ in 0..again.len() {
                if let Some(key) = again.pop_front() {
                    self.signal(key, WAKE, now, &mut again);
                }
            }
            match trim_at {
                Some(at) if at > now => (),
                Some(_) => trim_at = self.sessions.give_back_unused(now),
                // The worker was active, which may have left memory behind.
                None => trim_at = Some(now + UNUSED),
            }
            // Those that are woken meanwhile have no event to come.
            again.extend(self.wake_queue.take());
        }
    }

    /// Leaves sessions that have yielded to the workers.
    fn come_back_to(&self, again: VecDeque<Key>) {
        for key in &again {
            self.wheel.insert(0, Due::Session(*key));
        }
        if !again.is_empty() {
            self.event_queue.notify();
        }
    }

    /// Brings news to a session, and drives it if nobody else does.
    fn signal(&self, key: Key, readiness: Readiness, now: Instant, again: &mut VecDeque<Key>) {
        if let Some(slot) = self.slots.get(key.index)
            && slot.run_state.signal(key, readiness)
        {
            self.drive(slot, key, now, again);
        }
    }

    /// Brings news of an upstream connection to whoever uses it.
    fn signal_user(&self, key: Key, readiness: Readiness, now: Instant, again: &mut VecDeque<Key>) {
        let Some(conn) = self.upstream_conns.get(key.index) else { return };
        // A user that changes between the look and the news needs another look. It cannot change
        // more often than the line is used, and each use takes longer than this.
        while let Some(user) = conn.user(key.generation) {
            let session = match user {
                User::Session(session) => session,
                User::Idle(upstream) => {
                    let is_meant = |conn: &UpstreamConn| conn.key == key;
                    if let Some((conn, since)) = self.idle.remove(upstream, is_meant) {
                        return self.look_at_idle(conn, since, now);
                    }
                    // Somebody else is between taking it and saying so.
                    std::thread::yield_now();
                    continue;
                }
            };
            let Some(slot) = self.slots.get(session.index) else { return };
            let must_drive = slot.run_state.signal(session, readiness << UPSTREAM);
            let is_same = conn.is_still_used_by(session);
            if must_drive {
                self.drive(slot, session, now, again);
            }
            if is_same {
                return;
            }
        }
    }

    /// There were news of an idle connection, perhaps old ones. If it has ended, or talks without
    /// being asked, nobody may use it again.
    fn look_at_idle(&self, mut conn: UpstreamConn, since: Instant, now: Instant) {
        let idle = now.saturating_duration_since(since);
        if self.is_reusable(&mut conn, (idle, At::Once), now) {
            self.lay_by(conn, since);
        }
    }

    /// Whether a connection that is looked at after so long an idle time can be used.
    fn is_reusable(&self, conn: &mut UpstreamConn, looked: (Duration, At), now: Instant) -> bool {
        let peeked = conn.socket.peek();
        if let Some(upstream) = self.state.upstreams.all().get(conn.upstream.0) {
            super::observe_idle(upstream, peeked, looked, now);
        }
        peeked == Peeked::Nothing
    }

    /// Drives the session on a seat that was taken, until nothing moves and nothing is new.
    fn drive(&self, slot: &Slot, key: Key, now: Instant, again: &mut VecDeque<Key>) {
        loop {
            let mut guard = slot.occupant.lock();
            let Some(occupant) = guard.as_deref_mut() else {
                return slot.run_state.free_for_now();
            };
            let readiness = slot.run_state.take_readiness();
            if occupant.armed.is_some_and(|tick| tick <= self.wheel.turned()) {
                occupant.armed = None;
            }
            let connection = &mut occupant.connection;
            let turn = catch_unwind(AssertUnwindSafe(|| {
                apply_readiness(connection, &self.sessions, readiness);
                connection.turn(&mut WorkerIo { shared: self, key }, &self.sessions, now)
            }));
            slot.activity.set(connection.activity(), &self.evictor);
            match turn {
                Ok(TurnEnd::Wait) if readiness & EVICT != 0 && may_be_evicted(connection, now) => {
                    drop(guard);
                    return self.vacate(key);
                }
                Ok(TurnEnd::Wait) => {
                    self.watch_output(connection, key);
                    self.arm(occupant, key, now);
                    drop(guard);
                    if slot.run_state.free(key) {
                        return;
                    }
                }
                Ok(TurnEnd::Yield) => {
                    self.arm(occupant, key, now);
                    again.push_back(key);
                    drop(guard);
                    return slot.run_state.free_for_now();
                }
                Ok(TurnEnd::Gone) => {
                    drop(guard);
                    return self.vacate(key);
                }
                Err(_) => {
                    log::error!("a session panicked and is lost; the others go on");
                    self.state.counters.panics.add_one();
                    socket::reset_on_close(&connection.client);
                    drop(guard);
                    return self.vacate(key);
                }
            }
        }
    }

    /// Asks to be told when a client's socket that was full can be written to again.
    fn watch_output(&self, connection: &mut Connection<Socket, UpstreamConn>, key: Key) {
        let wants = connection.client.wants_output_watch();
        if wants
            && self.event_queue.watch_output(&connection.client, Token::Client(key)).is_err()
            && let Some(awake) = connection.active()
        {
            awake.session.failed(Side::Client, Direction::Write);
        }
    }

    /// Sees to it that the session is woken at its deadline.
    fn arm(&self, occupant: &mut Occupant, key: Key, now: Instant) {
        let Some(at) = occupant.connection.deadline() else { return };
        let tick = self.wheel.tick_at(at, now);
        if occupant.armed.is_none_or(|armed| armed > tick) {
            let (tick, _) = self.wheel.insert(tick, Due::Session(key));
            occupant.armed = Some(tick);
        }
    }

    /// Ends a connection. The seat is free before the connection stops counting as open.
    fn vacate(&self, key: Key) {
        let Some(slot) = self.slots.get(key.index) else { return };
        let occupant = slot.occupant.lock().take();
        slot.activity.set(Activity::Busy, &self.evictor);
        slot.run_state.vacate();
        self.slots.give_back(key.index);
        drop(occupant);
    }

    /// Registers a new connection to an upstream, for the session `user`.
    fn open(&self, upstream: UpstreamId, user: Key, socket: Socket) -> io::Result<UpstreamConn> {
        let conn = UpstreamConn::new(&self.upstream_conns, upstream, user, socket)?;
        self.event_queue.watch(&conn.socket, Token::Upstream(conn.key), true)?;
        Ok(conn)
    }

    /// Takes an idle connection to an upstream, for the session `user`.
    fn take_idle(
        &self,
        upstream: UpstreamId,
        most: Duration,
        user: Key,
        now: Instant,
    ) -> Option<UpstreamConn> {
        // Every look takes one out, so it ends.
        loop {
            let taking = |conn: &UpstreamConn| conn.set_used_by(user);
            let (mut conn, idle) = self.idle.take(upstream, most, now, taking)?;
            if self.is_reusable(&mut conn, (idle, At::SomeTime), now) {
                return Some(conn);
            }
        }
    }

    /// Keeps a connection for the next request. `user` is who gives it back.
    fn keep(&self, mut conn: UpstreamConn, user: Key, now: Instant) {
        let Some(run_state) = self.slots.get(user.index).map(|slot| &slot.run_state) else {
            return;
        };
        let (key, upstream) = (conn.key, conn.upstream);
        loop {
            // News that have come for the user since it looked are about what is idle from now on.
            let readiness = run_state.take_upstream_readiness();
            let must_look = readiness != 0 || conn.socket.has_ended();
            if must_look && !self.is_reusable(&mut conn, (Duration::ZERO, At::Once), now) {
                return;
            }
            self.lay_by(conn, now);
            if !run_state.has_upstream_readiness() {
                break;
            }
            // More have come before it was idle, so whoever brought them did not look here.
            match self.idle.remove(upstream, |conn| conn.key == key) {
                Some((removed, _)) => conn = removed,
                None => break,
            }
        }
        if !self.is_sweeping.swap(true, Ordering::AcqRel) {
            self.wheel.insert(self.wheel.tick_at(now + SWEEP_INTERVAL, now), Due::Sweep);
        }
    }

    /// Puts a connection into the pool that is idle since then.
    fn lay_by(&self, conn: UpstreamConn, since: Instant) {
        drop(self.idle.put(conn.upstream, since, conn, UpstreamConn::set_idle));
    }

    /// Closes idle connections that are too old, and comes again while there are others.
    fn sweep(&self, now: Instant) {
        let most_kept = |id| super::most_kept(&self.state, id);
        for (mut conn, idle) in self.idle.sweep(now, most_kept) {
            self.is_reusable(&mut conn, (idle, At::SomeTime), now);
        }
        self.is_sweeping.store(false, Ordering::Release);
        if !self.idle.is_empty() && !self.is_sweeping.swap(true, Ordering::AcqRel) {
            self.wheel.insert(self.wheel.tick_at(now + SWEEP_INTERVAL, now), Due::Sweep);
        }
    }

    /// Says once in a while that the system refuses what is needed.
    fn evict(&self, now: Instant) -> bool {
        let activity = |index| self.slots.get(index).map(|slot: &Slot| &slot.activity);
        let next = self.evictor.next(self.slots.numbers(), activity, now);
        let Some(index) = next else { return false };
        if let Some(slot) = self.slots.get(index) {
            let mut again = VecDeque::new();
            self.signal(slot.run_state.occupant(index), EVICT, now, &mut again);
            self.come_back_to(again);
        }
        true
    }

    /// Silent clients have what is short: one of them goes.
    fn complain_of_shortage(&self, id: UpstreamId, error: &io::Error, now: Instant) {
        if shortage::is_of_descriptors(error) {
            self.evict(now);
        }
        if self.shortage.lock().may_log(now) {
            super::complain_of_shortage(&self.state, id, error);
        }
    }
}

/// Whether a connection that has just had a turn may be closed for another one.
fn may_be_evicted(connection: &mut Connection<Socket, UpstreamConn>, now: Instant) -> bool {
    connection.activity().may_be_evicted(now, || connection.client.peek())
}

/// Passes on what events have said.
fn apply_readiness(
    connection: &mut Connection<Socket, UpstreamConn>,
    sessions: &SessionPool<UpstreamConn>,
    readiness: Readiness,
) {
    let has = |bit: Readiness| readiness & bit != 0;
    connection.client.apply_readiness(has(READABLE), has(WRITABLE), has(ENDS));
    let ActiveConnection { session, upstream, .. } = connection.wake(sessions);
    if has(FAILED) {
        session.failed(Side::Client, Direction::Read);
    }
    if let Attached::Open(conn) | Attached::Connecting(conn, _) = upstream {
        let has = |bit: Readiness| has(bit << UPSTREAM);
        conn.socket.apply_readiness(has(READABLE), has(WRITABLE), has(ENDS));
    }
}

impl Io for WorkerIo<'_> {
    type Wire = Socket;

    fn read(&mut self, wire: &mut Socket, into: &mut [u8]) -> io::Result<usize> {
        wire.read(into)
    }

    fn write(&mut self, wire: &mut Socket, bytes: &[u8], is_last: bool) -> io::Result<usize> {
        wire.write(bytes, is_last)
    }

    fn fill(&mut self, pipe: &mut Pipe, wire: &mut Socket, most: usize) -> io::Result<usize> {
        wire.fill(pipe, most)
    }

    fn drain(&mut self, pipe: &mut Pipe, wire: &mut Socket) -> io::Result<usize> {
        wire.drain(pipe)
    }

    fn peek(&mut self, wire: &mut Socket) -> Peeked {
        if wire.may_be_read() { wire.peek() } else { Peeked::Nothing }
    }

    fn acknowledge(&mut self, wire: &mut Socket) {
        socket::acknowledge(wire);
    }

    fn shut_down(&mut self, wire: &mut Socket) -> io::Result<()> {
        wire.shutdown()
    }

    fn reset_on_close(&mut self, wire: &mut Socket) {
        socket::reset_on_close(wire);
    }
}

impl Dialer for WorkerIo<'_> {
    type Conn = UpstreamConn;

    fn take_idle(&mut self, id: UpstreamId, most: Duration, now: Instant) -> Option<UpstreamConn> {
        self.shared.take_idle(id, most, self.key, now)
    }

    fn dial(&mut self, id: UpstreamId, address: SocketAddr) -> io::Result<(UpstreamConn, bool)> {
        let (socket, is_connected) = Socket::connect(address)?;
        Ok((self.shared.open(id, self.key, socket)?, is_connected))
    }

    fn poll_connected(&mut self, conn: &mut UpstreamConn) -> Option<io::Result<()>> {
        conn.socket.connect_result()
    }

    fn keep(&mut self, conn: UpstreamConn, now: Instant) {
        self.shared.keep(conn, self.key, now);
    }
}

impl Host for WorkerIo<'_> {
    fn pipe(&mut self) -> Option<Pipe> {
        self.shared.pipes.take()
    }

    fn waker(&mut self) -> Waker {
        self.shared.wake_queue.waker(self.key)
    }

    fn complain_of_shortage(&mut self, id: UpstreamId, error: &io::Error, now: Instant) {
        self.shared.complain_of_shortage(id, error, now);
    }
}
