//! The threads engine: a CPU-sized pool of workers that wait together.
//!
//! The known flaw of a thread pool is that whoever waits holds a worker. Here no session waits in a
//! worker: a worker drives a session until nothing moves, leaves it in the waiting room and takes the
//! next one that is ready. So two workers serve any number of clients that are idle, slow or hostile.
//! Not here: what a turn does (`drive.rs`).

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use threadpool::ThreadPool;

use super::drive::{Attached, Connection, Turn};
use super::gate::Pass;
use super::pool::Pool;
use super::slab::Slab;
use super::waiting_room::{About, Events, Key, News, Seat, UPSTREAM, WAKE, WaitingRoom};
use super::wheel::Wheel;
use super::wire::{Socket, Wire};
use crate::background::Seldom;
use crate::lock::Lock;
use crate::session::Session;
use crate::state::ProxyState;
use crate::upstream::UpstreamId;

/// How often idle upstream connections are looked through for old ones, while there are any.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The running engine.
pub struct Threads {
    shared: Arc<Shared>,
    pool: ThreadPool,
}

/// What the workers share.
pub struct Shared {
    /// Where sessions wait.
    pub room: WaitingRoom,
    state: Arc<ProxyState>,
    places: Slab<Place>,
    lines: Slab<LinePlace>,
    idle: Pool<Line>,
    wheel: Wheel<Due>,
    is_sweeping: AtomicBool,
    shortage: Lock<Seldom>,
}

/// A seat and who sits on it.
#[derive(Default)]
struct Place {
    seat: Seat,
    /// Locked by whoever has taken the seat, so nobody ever waits for it.
    connection: Lock<Option<Box<Connection>>>,
}

/// Who uses an upstream connection.
#[derive(Default)]
struct LinePlace {
    generation: AtomicU32,
    /// The number of the session's key; `IDLE` in the pool.
    owner: AtomicU64,
}

const IDLE: u64 = 0;

/// A connection to an upstream. It is registered in the waiting room under its own key once, whoever
/// uses it.
pub struct Line {
    /// The socket.
    pub socket: Socket,
    key: Key,
    id: UpstreamId,
}

/// What comes up in the wheel.
#[derive(Clone, Copy, Debug)]
enum Due {
    Session(Key),
    Sweep,
}

impl Threads {
    /// Starts `workers` threads that serve up to `places` connections, with `lines` to upstreams.
    pub fn start(
        state: Arc<ProxyState>,
        workers: usize,
        places: usize,
        lines: usize,
        now: Instant,
    ) -> io::Result<Self> {
        let config = &state.config;
        let (most_idle, oldest) = (config.limits.pool, config.timeouts.pool);
        let shared = Arc::new(Shared {
            room: WaitingRoom::new()?,
            places: Slab::new(places),
            lines: Slab::new(lines),
            idle: Pool::new(config.upstreams.len(), most_idle, oldest),
            wheel: Wheel::new(now),
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

    /// Takes a connection that was accepted; it is non-blocking.
    pub fn admit(&self, stream: TcpStream, peer: SocketAddr, pass: Pass, turn_away: bool) {
        let shared = &self.shared;
        let now = Instant::now();
        let Some(index) = shared.places.take() else {
            return log::error!("no place for a connection that was let in");
        };
        let Some(place) = shared.places.get(index) else { return };
        let mut session = Session::new(shared.state.clone(), peer.ip(), now);
        if turn_away {
            session.turn_away();
        }
        let key = place.seat.occupy(index);
        let mut connection = Box::new(Connection {
            key,
            session,
            client: Socket::connected(stream),
            upstream: Attached::Nothing,
            armed: None,
            _pass: pass,
        });
        let must_nudge = shared.arm(&mut connection);
        let mut seated = place.connection.lock();
        let watched = shared.room.watch(&connection.client, About::Client(key), false);
        *seated = Some(connection);
        drop(seated);
        if let Err(error) = watched {
            shared.complain_of_shortage(&error, now);
            shared.vacate(key);
        } else if must_nudge {
            shared.room.nudge();
        }
    }

    /// Makes every session look at the state.
    pub fn wake_all(&self) {
        let mut again = VecDeque::new();
        let now = Instant::now();
        for index in self.shared.places.numbers() {
            if let Some(place) = self.shared.places.get(index) {
                self.shared.signal(place.seat.occupant(index), WAKE, now, &mut again);
            }
        }
        for key in again {
            // Whoever yields has an event or a deadline to come; the workers see to it.
            self.shared.wheel.insert(0, Due::Session(key));
        }
        self.shared.room.nudge();
    }

    /// Ends the workers. Returns the number of exchanges that were under way.
    pub fn end(&self) -> usize {
        self.shared.room.end();
        self.pool.join();
        let shared = &self.shared;
        let mut cut = 0;
        for index in shared.places.numbers() {
            let connection = shared.places.get(index).and_then(|p| p.connection.lock().take());
            cut += connection.map_or(0, |connection| usize::from(connection.session.is_busy()));
        }
        shared.idle.remove(|_| true);
        cut
    }
}

impl Shared {
    fn work(&self) {
        let mut events = Events::default();
        let mut due = Vec::new();
        let mut again = VecDeque::new();
        let mut now = Instant::now();
        loop {
            let patience =
                if again.is_empty() { self.wheel.wait(now) } else { Some(Duration::ZERO) };
            self.room.wait(&mut events, patience);
            now = Instant::now();
            for (about, news) in events.iter() {
                match about {
                    About::Client(key) => self.signal(key, news, now, &mut again),
                    About::Upstream(key) => self.signal_user(key, news, now, &mut again),
                    About::Nudge => (),
                    About::End => return,
                }
            }
            self.wheel.turn(now, &mut due);
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
        }
    }

    /// Brings news to a session, and drives it if nobody else does.
    fn signal(&self, key: Key, news: News, now: Instant, again: &mut VecDeque<Key>) {
        if let Some(place) = self.places.get(key.index)
            && place.seat.signal(key, news)
        {
            self.drive(place, key, now, again);
        }
    }

    /// Brings news of an upstream connection to whoever uses it.
    fn signal_user(&self, key: Key, news: News, now: Instant, again: &mut VecDeque<Key>) {
        let Some(line) = self.lines.get(key.index) else { return };
        // A user that changes between the look and the news needs another look. It cannot change more
        // often than the line is used, and each use takes longer than this.
        while line.generation.load(Ordering::Acquire) == key.generation {
            let owner = line.owner.load(Ordering::SeqCst);
            if owner == IDLE {
                if let Some(line) = self.idle.remove(|line| line.key == key).pop() {
                    return self.look_at_idle(line, now);
                }
                continue;
            }
            let user = Key::from_number(owner);
            let Some(place) = self.places.get(user.index) else { return };
            let must_drive = place.seat.signal(user, news << UPSTREAM);
            let is_same = line.owner.load(Ordering::SeqCst) == owner;
            if must_drive {
                self.drive(place, user, now, again);
            }
            if is_same {
                return;
            }
        }
    }

    /// There were news of an idle connection, perhaps old ones. If it has ended, or talks without being
    /// asked, nobody may use it again.
    fn look_at_idle(&self, mut line: Line, now: Instant) {
        if line.socket.is_quiet() {
            self.lay_by(line, now);
        } else {
            self.close(line);
        }
    }

    /// Drives the session on a seat that was taken, until nothing moves and nothing is new.
    fn drive(&self, place: &Place, key: Key, now: Instant, again: &mut VecDeque<Key>) {
        loop {
            let mut seated = place.connection.lock();
            let Some(connection) = seated.as_deref_mut() else {
                return place.seat.free_for_now();
            };
            let news = place.seat.take_news();
            if connection.armed.is_some_and(|tick| tick <= self.wheel.turned()) {
                connection.armed = None;
            }
            let turn = catch_unwind(AssertUnwindSafe(|| connection.turn(self, news, now)));
            match turn {
                Ok(Turn::Wait) => {
                    connection.watch_output(self);
                    self.arm(connection);
                    drop(seated);
                    if place.seat.free(key) {
                        return;
                    }
                }
                Ok(Turn::Yield) => {
                    self.arm(connection);
                    again.push_back(key);
                    drop(seated);
                    return place.seat.free_for_now();
                }
                Ok(Turn::Gone) => {
                    drop(seated);
                    return self.vacate(key);
                }
                Err(_) => {
                    log::error!("a session panicked and is lost; the others go on");
                    self.state.tally.panics.add_one();
                    connection.client.reset_on_close();
                    drop(seated);
                    return self.vacate(key);
                }
            }
        }
    }

    /// Sees to it that the session is woken at its deadline. Returns whether a worker that waits may
    /// wait for too long.
    fn arm(&self, connection: &mut Connection) -> bool {
        let Some(at) = connection.session.deadline() else { return false };
        let tick = self.wheel.tick_at(at);
        if connection.armed.is_some_and(|armed| armed <= tick) {
            return false;
        }
        let (tick, is_earliest) = self.wheel.insert(tick, Due::Session(connection.key));
        connection.armed = Some(tick);
        is_earliest
    }

    /// Ends a connection. The seat is free before the connection stops counting as open.
    fn vacate(&self, key: Key) {
        let Some(place) = self.places.get(key.index) else { return };
        let connection = place.connection.lock().take();
        place.seat.vacate();
        self.places.give_back(key.index);
        if let Some(mut connection) = connection {
            match std::mem::replace(&mut connection.upstream, Attached::Nothing) {
                Attached::Nothing => (),
                Attached::Open(line) | Attached::Connecting(line, _) => self.close(line),
            }
        }
    }

    /// Registers a new connection to an upstream, for the session `user`.
    pub fn open(&self, id: UpstreamId, user: Key, socket: Socket) -> io::Result<Line> {
        let index = self.lines.take().ok_or(rustix::io::Errno::MFILE)?;
        let place = self.lines.get(index).ok_or(rustix::io::Errno::MFILE)?;
        let generation = Key::next_generation(place.generation.load(Ordering::Acquire)).max(1);
        place.generation.store(generation, Ordering::Release);
        place.owner.store(user.number(), Ordering::SeqCst);
        let line = Line { socket, key: Key { index, generation }, id };
        match self.room.watch(&line.socket, About::Upstream(line.key), true) {
            Ok(()) => Ok(line),
            Err(error) => {
                self.close(line);
                Err(error)
            }
        }
    }

    /// Takes an idle connection to an upstream, for the session `user`.
    pub fn take_idle(&self, id: UpstreamId, user: Key, now: Instant) -> Option<Line> {
        self.idle.take(id, now, |line| {
            if let Some(place) = self.lines.get(line.key.index) {
                place.owner.store(user.number(), Ordering::SeqCst);
            }
        })
    }

    /// Keeps a connection for the next request. `user` is who gives it back.
    pub fn keep(&self, mut line: Line, user: Key, now: Instant) {
        let Some(seat) = self.places.get(user.index).map(|place| &place.seat) else { return };
        let key = line.key;
        loop {
            // News that have come for the user since it looked are about what is idle from now on.
            let news = seat.take_upstream_news();
            if (news != 0 || line.socket.may_be_readable()) && !line.socket.is_quiet() {
                return self.close(line);
            }
            self.lay_by(line, now);
            if !seat.has_upstream_news() {
                break;
            }
            // More have come before it was idle, so whoever brought them did not look here.
            match self.idle.remove(|line| line.key == key).pop() {
                Some(removed) => line = removed,
                None => break,
            }
        }
        if !self.is_sweeping.swap(true, Ordering::AcqRel) {
            self.wheel.insert(self.wheel.tick_at(now + SWEEP_INTERVAL), Due::Sweep);
        }
    }

    /// Puts a connection into the pool.
    fn lay_by(&self, line: Line, now: Instant) {
        let no_longer_used = |line: &Line| {
            if let Some(place) = self.lines.get(line.key.index) {
                place.owner.store(IDLE, Ordering::SeqCst);
            }
        };
        if let Some(evicted) = self.idle.put(line.id, now, line, no_longer_used) {
            self.close(evicted);
        }
    }

    /// Ends a connection to an upstream.
    pub fn close(&self, line: Line) {
        let Some(place) = self.lines.get(line.key.index) else { return };
        place.generation.store(Key::next_generation(line.key.generation), Ordering::Release);
        let index = line.key.index;
        drop(line);
        self.lines.give_back(index);
    }

    /// Closes idle connections that are too old, and comes again while there are others.
    fn sweep(&self, now: Instant) {
        self.idle.sweep(now).into_iter().for_each(|line| self.close(line));
        self.is_sweeping.store(false, Ordering::Release);
        if !self.idle.is_empty() && !self.is_sweeping.swap(true, Ordering::AcqRel) {
            self.wheel.insert(self.wheel.tick_at(now + SWEEP_INTERVAL), Due::Sweep);
        }
    }

    /// Says once in a while that the system refuses what is needed.
    pub fn complain_of_shortage(&self, error: &io::Error, now: Instant) {
        if self.shortage.lock().may_log(now) {
            log::warn!(
                "no connection to an upstream: {error}; raise the limit on open files, or lower --max-connections"
            );
        }
    }
}
