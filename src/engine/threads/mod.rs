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

use super::connection::{Connection, Spares};
use super::connection_limit::Pass;
use super::eviction::{Activity, ActivityWord, Evictor};
use super::pipe::{Pipe, Pipes};
use super::pool::Pool;
use super::slab::Slab;
use super::socket;
use super::socket::{Heard, Socket};
use super::threads::event_queue::{
    About, ENDS, EVICT, Events, FAILED, News, READABLE, Seat, UPSTREAM, WAKE, WRITABLE, WaitingRoom,
};
use super::threads::key::Key;
use super::threads::timer_wheel::{Tick, Wheel};
use super::threads::upstream_conn::{Line, LinePlace, User};
use super::threads::wakeups::Woken;
use super::turn::{Attached, Awake, Hands, Turn};
use super::{At, Engine};
use crate::free_list::UNUSED;
use crate::lock::Lock;
use crate::log_throttle::LogThrottle;
use crate::session::{Direction, Side};
use crate::shortage;
use crate::state::ProxyState;
use crate::upstream::UpstreamId;

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
    room: Arc<WaitingRoom>,
    state: Arc<ProxyState>,
    places: Slab<Place>,
    lines: Arc<Slab<LinePlace>>,
    idle: Pool<Line>,
    pipes: Arc<Pipes>,
    spares: Spares<Line>,
    wheel: Wheel<Due>,
    evictor: Evictor,
    woken: Arc<Woken>,
    is_sweeping: AtomicBool,
    shortage: Lock<LogThrottle>,
}

/// A seat and who sits on it.
#[derive(Default)]
struct Place {
    seat: Seat,
    activity: ActivityWord,
    /// Locked by whoever has taken the seat, so nobody ever waits for it.
    seated: Lock<Option<Box<Seated>>>,
}

/// Who sits on a seat.
struct Seated {
    connection: Connection<Socket, Line>,
    /// When its valid entry in the wheel comes up.
    armed: Option<Tick>,
    /// It counts as open while this lives.
    _pass: Pass,
}

/// What a turn does on behalf of the session on one seat.
struct Hand<'a> {
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
    /// Starts `workers` threads that serve up to `places` connections, with `lines` to upstreams.
    pub fn start(
        state: Arc<ProxyState>,
        workers: usize,
        places: usize,
        lines: usize,
        now: Instant,
    ) -> io::Result<Self> {
        let (most_idle, oldest) = (state.config.limits.pool, state.config.timeouts.pool);
        let upstreams = state.config.upstreams.len();
        let room = Arc::new(WaitingRoom::new()?);
        let shared = Arc::new(Shared {
            woken: Woken::nudging(room.clone()),
            room,
            places: Slab::new(places),
            lines: Arc::new(Slab::new(lines)),
            idle: Pool::new(upstreams, most_idle, oldest),
            pipes: Pipes::new(lines),
            spares: Spares::default(),
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
    fn admit(&self, stream: TcpStream, peer: SocketAddr, pass: Pass, turn_away: bool) {
        let shared = &self.shared;
        let now = Instant::now();
        let Some(index) = shared.places.take() else {
            return log::error!("no place for a connection that was let in");
        };
        let Some(place) = shared.places.get(index) else { return };
        let key = place.seat.occupy(index);
        let client = Socket::connected(stream);
        let connection = Connection::new(shared.state.clone(), peer.ip(), client, turn_away, now);
        let mut seated = Box::new(Seated { connection, armed: None, _pass: pass });
        // Most connections do not live for long. One that does is armed for its deadline at the
        // first look.
        let (tick, must_nudge) =
            shared.wheel.insert(shared.wheel.tick_at(now + FIRST_LOOK, now), Due::Session(key));
        seated.armed = Some(tick);
        place.activity.set(seated.connection.activity(), &shared.evictor);
        let mut seat = place.seated.lock();
        let watched = shared.room.watch(&seated.connection.client, About::Client(key), false);
        *seat = Some(seated);
        drop(seat);
        if let Err(error) = watched {
            log::debug!("a connection that was accepted cannot be watched: {error}");
            shared.vacate(key);
        } else if must_nudge {
            shared.room.nudge();
        }
    }

    fn evict(&self, now: Instant) -> bool {
        self.shared.evict(now)
    }

    fn wake_all(&self) {
        let mut again = VecDeque::new();
        let now = Instant::now();
        for index in self.shared.places.numbers() {
            if let Some(place) = self.shared.places.get(index) {
                // What has arrived counts, even if the news of it are still on their way.
                let news = WAKE | READABLE;
                self.shared.signal(place.seat.occupant(index), news, now, &mut again);
            }
        }
        self.shared.come_back_to(again);
        // The deadlines that sessions have now may be earlier than those that the workers wait for.
        self.shared.room.nudge();
    }

    fn end(&self) -> usize {
        let shared = &self.shared;
        shared.room.end();
        self.pool.join();
        let mut cut = 0;
        for index in shared.places.numbers() {
            let seated = shared.places.get(index).and_then(|place| place.seated.lock().take());
            if let Some(Seated { connection, .. }) = seated.as_deref()
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
        Woken::looked_at_here();
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
            match trim_at {
                Some(at) if at > now => (),
                Some(_) => trim_at = self.spares.give_back_unused(now),
                // The worker was active, which may have left memory behind.
                None => trim_at = Some(now + UNUSED),
            }
            // Those that are woken meanwhile have no event to come.
            again.extend(self.woken.take());
        }
    }

    /// Leaves sessions that have yielded to the workers.
    fn come_back_to(&self, again: VecDeque<Key>) {
        for key in &again {
            self.wheel.insert(0, Due::Session(*key));
        }
        if !again.is_empty() {
            self.room.nudge();
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
        // A user that changes between the look and the news needs another look. It cannot change
        // more often than the line is used, and each use takes longer than this.
        while let Some(user) = line.user(key.generation) {
            let seat = match user {
                User::Session(seat) => seat,
                User::Nobody(upstream) => {
                    let is_meant = |line: &Line| line.key == key;
                    if let Some((line, since)) = self.idle.remove(upstream, is_meant) {
                        return self.look_at_idle(line, since, now);
                    }
                    // Somebody else is between taking it and saying so.
                    std::thread::yield_now();
                    continue;
                }
            };
            let Some(place) = self.places.get(seat.index) else { return };
            let must_drive = place.seat.signal(seat, news << UPSTREAM);
            let is_same = line.is_still_used_by(seat);
            if must_drive {
                self.drive(place, seat, now, again);
            }
            if is_same {
                return;
            }
        }
    }

    /// There were news of an idle connection, perhaps old ones. If it has ended, or talks without
    /// being asked, nobody may use it again.
    fn look_at_idle(&self, mut line: Line, since: Instant, now: Instant) {
        let idle = now.saturating_duration_since(since);
        if self.is_quiet(&mut line, (idle, At::Once), now) {
            self.lay_by(line, since);
        }
    }

    /// Whether a connection that is looked at after so long an idle time can be used.
    fn is_quiet(&self, line: &mut Line, looked: (Duration, At), now: Instant) -> bool {
        let heard = line.socket.listen_in();
        if let Some(upstream) = self.state.upstreams.all().get(line.upstream.0) {
            super::heard_of_idle(upstream, heard, looked, now);
        }
        heard == Heard::Nothing
    }

    /// Drives the session on a seat that was taken, until nothing moves and nothing is new.
    fn drive(&self, place: &Place, key: Key, now: Instant, again: &mut VecDeque<Key>) {
        loop {
            let mut seat = place.seated.lock();
            let Some(seated) = seat.as_deref_mut() else {
                return place.seat.free_for_now();
            };
            let news = place.seat.take_news();
            if seated.armed.is_some_and(|tick| tick <= self.wheel.turned()) {
                seated.armed = None;
            }
            let connection = &mut seated.connection;
            let turn = catch_unwind(AssertUnwindSafe(|| {
                hear(connection, &self.spares, news);
                connection.turn(&mut Hand { shared: self, key }, &self.spares, now)
            }));
            place.activity.set(connection.activity(), &self.evictor);
            match turn {
                Ok(Turn::Wait) if news & EVICT != 0 && may_be_evicted(connection, now) => {
                    drop(seat);
                    return self.vacate(key);
                }
                Ok(Turn::Wait) => {
                    self.watch_output(connection, key);
                    self.arm(seated, key, now);
                    drop(seat);
                    if place.seat.free(key) {
                        return;
                    }
                }
                Ok(Turn::Yield) => {
                    self.arm(seated, key, now);
                    again.push_back(key);
                    drop(seat);
                    return place.seat.free_for_now();
                }
                Ok(Turn::Gone) => {
                    drop(seat);
                    return self.vacate(key);
                }
                Err(_) => {
                    log::error!("a session panicked and is lost; the others go on");
                    self.state.tally.panics.add_one();
                    socket::reset_on_close(&connection.client);
                    drop(seat);
                    return self.vacate(key);
                }
            }
        }
    }

    /// Asks to be told when a client's socket that was full can be written to again.
    fn watch_output(&self, connection: &mut Connection<Socket, Line>, key: Key) {
        let wants = connection.client.wants_output_watch();
        if wants
            && self.room.watch_output(&connection.client, About::Client(key)).is_err()
            && let Some(awake) = connection.awake()
        {
            awake.session.failed(Side::Client, Direction::Write);
        }
    }

    /// Sees to it that the session is woken at its deadline.
    fn arm(&self, seated: &mut Seated, key: Key, now: Instant) {
        let Some(at) = seated.connection.deadline() else { return };
        let tick = self.wheel.tick_at(at, now);
        if seated.armed.is_none_or(|armed| armed > tick) {
            let (tick, _) = self.wheel.insert(tick, Due::Session(key));
            seated.armed = Some(tick);
        }
    }

    /// Ends a connection. The seat is free before the connection stops counting as open.
    fn vacate(&self, key: Key) {
        let Some(place) = self.places.get(key.index) else { return };
        let seated = place.seated.lock().take();
        place.activity.set(Activity::Busy, &self.evictor);
        place.seat.vacate();
        self.places.give_back(key.index);
        drop(seated);
    }

    /// Registers a new connection to an upstream, for the session `user`.
    fn open(&self, upstream: UpstreamId, user: Key, socket: Socket) -> io::Result<Line> {
        let line = Line::new(&self.lines, upstream, user, socket)?;
        self.room.watch(&line.socket, About::Upstream(line.key), true)?;
        Ok(line)
    }

    /// Takes an idle connection to an upstream, for the session `user`.
    fn take_idle(
        &self,
        upstream: UpstreamId,
        most: Duration,
        user: Key,
        now: Instant,
    ) -> Option<Line> {
        // Every look takes one out, so it ends.
        loop {
            let taking = |line: &Line| line.set_used_by(user);
            let (mut line, idle) = self.idle.take(upstream, most, now, taking)?;
            if self.is_quiet(&mut line, (idle, At::SomeTime), now) {
                return Some(line);
            }
        }
    }

    /// Keeps a connection for the next request. `user` is who gives it back.
    fn keep(&self, mut line: Line, user: Key, now: Instant) {
        let Some(seat) = self.places.get(user.index).map(|place| &place.seat) else { return };
        let (key, upstream) = (line.key, line.upstream);
        loop {
            // News that have come for the user since it looked are about what is idle from now on.
            let news = seat.take_upstream_news();
            let must_look = news != 0 || line.socket.has_ended();
            if must_look && !self.is_quiet(&mut line, (Duration::ZERO, At::Once), now) {
                return;
            }
            self.lay_by(line, now);
            if !seat.has_upstream_news() {
                break;
            }
            // More have come before it was idle, so whoever brought them did not look here.
            match self.idle.remove(upstream, |line| line.key == key) {
                Some((removed, _)) => line = removed,
                None => break,
            }
        }
        if !self.is_sweeping.swap(true, Ordering::AcqRel) {
            self.wheel.insert(self.wheel.tick_at(now + SWEEP_INTERVAL, now), Due::Sweep);
        }
    }

    /// Puts a connection into the pool that is idle since then.
    fn lay_by(&self, line: Line, since: Instant) {
        drop(self.idle.put(line.upstream, since, line, Line::set_idle));
    }

    /// Closes idle connections that are too old, and comes again while there are others.
    fn sweep(&self, now: Instant) {
        let most_kept = |id| super::most_kept(&self.state, id);
        for (mut line, idle) in self.idle.sweep(now, most_kept) {
            self.is_quiet(&mut line, (idle, At::SomeTime), now);
        }
        self.is_sweeping.store(false, Ordering::Release);
        if !self.idle.is_empty() && !self.is_sweeping.swap(true, Ordering::AcqRel) {
            self.wheel.insert(self.wheel.tick_at(now + SWEEP_INTERVAL, now), Due::Sweep);
        }
    }

    /// Says once in a while that the system refuses what is needed.
    fn evict(&self, now: Instant) -> bool {
        let activity = |index| self.places.get(index).map(|place: &Place| &place.activity);
        let next = self.evictor.next(self.places.numbers(), activity, now);
        let Some(index) = next else { return false };
        if let Some(place) = self.places.get(index) {
            let mut again = VecDeque::new();
            self.signal(place.seat.occupant(index), EVICT, now, &mut again);
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
fn may_be_evicted(connection: &mut Connection<Socket, Line>, now: Instant) -> bool {
    connection.activity().may_be_evicted(now, || connection.client.listen_in())
}

/// Passes on what events have said.
fn hear(connection: &mut Connection<Socket, Line>, spares: &Spares<Line>, news: News) {
    let has = |bit: News| news & bit != 0;
    connection.client.news(has(READABLE), has(WRITABLE), has(ENDS));
    let Awake { session, upstream, .. } = connection.wake(spares);
    if has(FAILED) {
        session.failed(Side::Client, Direction::Read);
    }
    if let Attached::Open(line) | Attached::Dialling(line, _) = upstream {
        let has = |bit: News| has(bit << UPSTREAM);
        line.socket.news(has(READABLE), has(WRITABLE), has(ENDS));
    }
}

impl Hands for Hand<'_> {
    type Wire = Socket;
    type Line = Line;

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

    fn listen_in(&mut self, wire: &mut Socket) -> Heard {
        if wire.may_be_read() { wire.listen_in() } else { Heard::Nothing }
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

    fn pipe(&mut self) -> Option<Pipe> {
        self.shared.pipes.take()
    }

    fn take_idle(&mut self, id: UpstreamId, most: Duration, now: Instant) -> Option<Line> {
        self.shared.take_idle(id, most, self.key, now)
    }

    fn dial(&mut self, id: UpstreamId, address: SocketAddr) -> io::Result<(Line, bool)> {
        let (socket, is_connected) = Socket::connect(address)?;
        Ok((self.shared.open(id, self.key, socket)?, is_connected))
    }

    fn dialled(&mut self, line: &mut Line) -> Option<io::Result<()>> {
        line.socket.connect_result()
    }

    fn keep(&mut self, line: Line, now: Instant) {
        self.shared.keep(line, self.key, now);
    }

    fn waker(&mut self) -> Waker {
        self.shared.woken.waker(self.key)
    }

    fn complain_of_shortage(&mut self, id: UpstreamId, error: &io::Error, now: Instant) {
        self.shared.complain_of_shortage(id, error, now);
    }
}
