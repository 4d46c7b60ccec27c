//! The async engine: a tokio task for each connection.
//!
//! A task is one future that takes turns: it does what its session says until nothing moves, and is
//! then woken by whatever it asked in vain, or by its one timer. Not here: what a turn does
//! (`turn.rs`).

mod upstream_conn;

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::time::Sleep;

use super::connect;
use super::connection::{Connection, Spares};
use super::connection_limit::Pass;
use super::eviction::{Activity, ActivityWord, Evictor};
use super::pipe::{Pipe, Pipes};
use super::pool::Pool;
use super::slab::Slab;
use super::socket;
use super::socket::Heard;
use super::tokio::upstream_conn::Line;
use super::turn::{Hands, Turn};
use super::{At, Engine};
use crate::lock::Lock;
use crate::log_throttle::LogThrottle;
use crate::session::{Direction, Side};
use crate::shortage;
use crate::state::ProxyState;
use crate::upstream::UpstreamId;

/// How often idle upstream connections are looked through for old ones.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often a client that has sent something which is not being read is asked whether it has gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long tasks that are told to end may take to do so.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// The running engine.
pub struct Tasks {
    hub: Arc<Hub>,
    /// By core.
    handles: Vec<Handle>,
    /// The threads that run the cores, and what ends each.
    threads: Lock<Vec<(JoinHandle<()>, Arc<Notify>)>>,
}

/// One runtime, on a thread of its own. A task stays with it, so nobody is woken in vain; a
/// connection to an upstream does unless another core has none left.
#[derive(Clone, Copy)]
struct Core(u32);

impl Core {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the tasks of one core share.
struct Shelf {
    idle: Pool<Line>,
    spares: Spares<Line>,
    /// Tasks that have not ended.
    alive: AtomicUsize,
}

/// What all tasks share.
struct Hub {
    state: Arc<ProxyState>,
    /// By core.
    shelves: Vec<Shelf>,
    pipes: Arc<Pipes>,
    places: Slab<Place>,
    evictor: Evictor,
    /// Whether every task is to end now.
    is_ending: AtomicBool,
    /// Exchanges that were under way when their task was told to end.
    cut: AtomicUsize,
    shortage: Lock<LogThrottle>,
}

/// What others may know of the task that has this number.
#[derive(Default)]
struct Place {
    waker: Lock<Option<Waker>>,
    activity: ActivityWord,
    /// Whether another client needs its place.
    is_evicted: AtomicBool,
}

impl Place {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }
}

impl Tasks {
    /// Starts `workers` runtimes that serve up to `places` connections together; `descriptors` is
    /// the limit on them.
    pub fn start(
        state: Arc<ProxyState>,
        workers: usize,
        places: usize,
        descriptors: usize,
    ) -> io::Result<Self> {
        let config = &state.config;
        let idle = Pool::new(config.upstreams.len(), config.limits.pool, config.timeouts.pool);
        let shelf = |_| Shelf {
            idle: idle.beside(),
            spares: Spares::default(),
            alive: AtomicUsize::new(0),
        };
        let hub = Arc::new(Hub {
            shelves: (0..workers).map(shelf).collect(),
            pipes: Pipes::new(descriptors),
            places: Slab::new(places),
            evictor: Evictor::new(Instant::now()),
            is_ending: AtomicBool::new(false),
            cut: AtomicUsize::new(0),
            shortage: Lock::default(),
            state,
        });
        let mut tasks = Tasks { hub, handles: Vec::new(), threads: Lock::default() };
        for core in 0..workers {
            tasks.start_core(Core(core as u32))?;
        }
        Ok(tasks)
    }

    fn start_core(&mut self, core: Core) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let end = Arc::new(Notify::new());
        let (hub, ending) = (self.hub.clone(), end.clone());
        let run = move || {
            runtime.spawn(async move {
                let mut trim_at = None;
                loop {
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    let (now, shelf) = (Instant::now(), hub.shelf(core));
                    hub.sweep(core, now);
                    if trim_at.is_none_or(|at| at <= now) {
                        trim_at = shelf.spares.give_back_unused(now);
                    }
                }
            });
            // Tasks that are left then end with the runtime.
            runtime.block_on(ending.notified());
        };
        let thread = thread::Builder::new().name("worker".to_string()).spawn(run)?;
        self.threads.lock().push((thread, end));
        self.handles.push(handle);
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.hub.shelves.iter().any(|shelf| shelf.alive.load(Ordering::Acquire) > 0)
    }
}

impl Engine for Tasks {
    fn admit(&self, stream: StdStream, peer: SocketAddr, pass: Pass, turn_away: bool) {
        let hub = self.hub.clone();
        let Some(place) = hub.places.take() else {
            return log::error!("no place for a connection that was let in");
        };
        let core = hub.idlest();
        hub.shelf(core).alive.fetch_add(1, Ordering::AcqRel);
        let stay = Stay { hub, core, place, _pass: pass };
        let handle = &self.handles[core.index()];
        // The socket belongs to the runtime that the task runs on.
        let _entered = handle.enter();
        match TcpStream::from_std(stream) {
            Ok(client) => {
                let (state, now) = (stay.hub.state.clone(), Instant::now());
                let connection = Connection::new(state, peer.ip(), client, turn_away, now);
                stay.hub.note_activity(stay.place, connection.activity());
                let mut task = Task { connection, alarm: None, stay };
                // Not an `async` block: that has room of its own for all that is moved within it.
                handle.spawn(poll_fn(move |cx| task.poll(cx)));
            }
            Err(error) => {
                log::debug!("a connection that was accepted cannot be watched: {error}");
            }
        }
    }

    fn evict(&self, now: Instant) -> bool {
        self.hub.evict(now)
    }

    fn wake_all(&self) {
        self.hub.places.numbers().filter_map(|n| self.hub.places.get(n)).for_each(Place::wake);
    }

    fn end(&self) -> usize {
        let threads = std::mem::take(&mut *self.threads.lock());
        self.hub.is_ending.store(true, Ordering::Release);
        self.wake_all();
        let until = Instant::now() + END_PATIENCE;
        while !threads.is_empty() && self.is_alive() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        for (thread, end) in threads {
            end.notify_one();
            // A panic was printed where it happened.
            let _ = thread.join();
        }
        self.hub.cut.load(Ordering::Acquire)
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.end();
    }
}

/// Serves one client until its connection is over.
struct Task {
    connection: Connection<TcpStream, Line>,
    /// Made at the first turn, on the runtime that keeps its time.
    alarm: Option<Pin<Box<Sleep>>>,
    stay: Stay,
}

/// What a task has taken for as long as it lives.
struct Stay {
    hub: Arc<Hub>,
    core: Core,
    place: u32,
    _pass: Pass,
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.hub.note_activity(self.place, Activity::Busy);
        if let Some(place) = self.hub.places.get(self.place) {
            place.waker.lock().take();
            place.is_evicted.store(false, Ordering::Release);
        }
        self.hub.places.give_back(self.place);
        self.hub.shelf(self.core).alive.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Task {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Task { connection, alarm, stay: Stay { hub, core, place, .. } } = self;
        let alarm = alarm.get_or_insert_with(|| {
            // A task keeps its waker for life.
            if let Some(place) = hub.places.get(*place) {
                *place.waker.lock() = Some(cx.waker().clone());
            }
            let at = connection.deadline().unwrap_or_else(Instant::now);
            Box::pin(tokio::time::sleep_until(at.into()))
        });
        if hub.is_ending.load(Ordering::Acquire) {
            return hub.cut(connection);
        }
        let turn = AssertUnwindSafe(|| hub.turn(*core, connection, alarm.as_mut(), cx));
        let turn = catch_unwind(turn);
        hub.note_activity(*place, connection.activity());
        if let Ok(Poll::Pending) = turn
            && hub.is_evicted(*place, connection)
        {
            return Poll::Ready(());
        }
        turn.unwrap_or_else(|_| {
            log::error!("a session panicked and is lost; the others go on");
            hub.state.tally.panics.add_one();
            socket::reset_on_close(&connection.client);
            Poll::Ready(())
        })
    }
}

impl Hub {
    fn shelf(&self, core: Core) -> &Shelf {
        &self.shelves[core.index()]
    }

    /// The core that has the least to do.
    fn idlest(&self) -> Core {
        let alive = |core: &usize| self.shelves[*core].alive.load(Ordering::Relaxed);
        Core((0..self.shelves.len()).min_by_key(alive).unwrap_or(0) as u32)
    }

    /// Writes down what a connection does.
    fn note_activity(&self, place: u32, activity: Activity) {
        if let Some(place) = self.places.get(place) {
            place.activity.set(activity, &self.evictor);
        }
    }

    /// Whether a connection that has just had a turn is to be closed for another one.
    fn is_evicted(&self, place: u32, connection: &Connection<TcpStream, Line>) -> bool {
        let Some(place) = self.places.get(place) else { return false };
        place.is_evicted.load(Ordering::Relaxed)
            && place.is_evicted.swap(false, Ordering::AcqRel)
            && connection
                .activity()
                .may_be_evicted(Instant::now(), || socket::listen_in(&connection.client))
    }

    /// An idle connection of this core; if there is none, one of another core, which then belongs to
    /// this one.
    fn take_idle(&self, core: Core, id: UpstreamId, most: Duration, now: Instant) -> Option<Line> {
        let cores = self.shelves.len();
        (core.index()..core.index() + cores).find_map(|shelf| {
            let Shelf { idle, .. } = &self.shelves[shelf % cores];
            // Every look takes one out, so it ends.
            let (line, _) = std::iter::from_fn(|| idle.take(id, most, now, |_| ()))
                .find(|(line, idle)| self.is_quiet(line, (*idle, At::SomeTime), now))?;
            if shelf == core.index() {
                return Some(line);
            }
            line.adopt().ok()
        })
    }

    /// Takes turns until there is something to wait for.
    fn turn(
        &self,
        core: Core,
        connection: &mut Connection<TcpStream, Line>,
        mut alarm: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let now = Instant::now();
        let spares = &self.shelf(core).spares;
        loop {
            match connection.turn(&mut Hand { hub: self, core, cx }, spares, now) {
                Turn::Gone => return Poll::Ready(()),
                // Wakes this task once others had their turn, and what has arrived was looked at.
                Turn::Yield => return pin!(tokio::task::yield_now()).poll(cx),
                Turn::Wait => (),
            }
            let client = look_at_client(connection, spares, cx);
            if client == Client::Failed {
                continue;
            }
            let Some(deadline) = connection.deadline() else { continue };
            let wake_at = match client {
                Client::Unread => deadline.min(now + LOOK_INTERVAL),
                Client::Quiet | Client::Failed => deadline,
            };
            // A later time is looked at when the earlier one has come.
            if wake_at < alarm.deadline().into_std() {
                alarm.as_mut().reset(wake_at.into());
            }
            while alarm.as_mut().poll(cx).is_ready() {
                if deadline <= now {
                    break;
                }
                alarm.as_mut().reset(wake_at.into());
            }
            if deadline > now {
                return Poll::Pending;
            }
        }
    }

    /// The connection ends although its exchange has not: that must not look like the end of the
    /// answer.
    fn cut(&self, connection: &Connection<TcpStream, Line>) -> Poll<()> {
        if connection.is_busy() {
            socket::reset_on_close(&connection.client);
            self.cut.fetch_add(1, Ordering::AcqRel);
        }
        Poll::Ready(())
    }

    /// Closes idle connections of a core that are too old, or that have ended since the last sweep.
    fn sweep(&self, core: Core, now: Instant) {
        let Shelf { idle: pool, .. } = self.shelf(core);
        for (line, idle) in pool.remove_those(now, Line::has_news) {
            // As old as it was at the least when it ended.
            let idle = idle.saturating_sub(SWEEP_INTERVAL);
            self.is_quiet(&line, (idle, At::Once), now);
        }
        let most_kept = |id| super::most_kept(&self.state, id);
        for (line, idle) in pool.sweep(now, most_kept) {
            self.is_quiet(&line, (idle, At::SomeTime), now);
        }
    }

    /// Whether a connection that was idle for so long can be used.
    fn is_quiet(&self, line: &Line, looked: (Duration, At), now: Instant) -> bool {
        let mut heard = None;
        // Asked this way, tokio learns that there is nothing to read.
        let stream = line.stream();
        let _ =
            stream.try_io(Interest::READABLE, || match *heard.insert(socket::listen_in(stream)) {
                Heard::Nothing => Err(io::Error::from(ErrorKind::WouldBlock)),
                Heard::End | Heard::Bytes => Ok(()),
            });
        let heard = heard.unwrap_or_else(|| socket::listen_in(stream));
        if let Some(upstream) = self.state.upstreams.all().get(line.upstream.0) {
            super::heard_of_idle(upstream, heard, looked, now);
        }
        heard == Heard::Nothing
    }

    fn evict(&self, now: Instant) -> bool {
        let activity = |index| self.places.get(index).map(|place: &Place| &place.activity);
        let next = self.evictor.next(self.places.numbers(), activity, now);
        let Some(index) = next else { return false };
        if let Some(place) = self.places.get(index) {
            place.is_evicted.store(true, Ordering::Release);
            place.wake();
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

/// What a client does while nothing is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// Nothing; the task is woken when it does something.
    Quiet,
    /// It has sent something, or an end, that is not being read: nothing tells what comes behind
    /// that.
    Unread,
    /// It has reset its connection.
    Failed,
}

fn look_at_client(
    connection: &mut Connection<TcpStream, Line>,
    spares: &Spares<Line>,
    cx: &mut Context<'_>,
) -> Client {
    if connection.client.poll_read_ready(cx).is_pending() {
        return Client::Quiet;
    }
    if connection.client.take_error().is_ok_and(|error| error.is_none()) {
        return Client::Unread;
    }
    connection.wake(spares).session.failed(Side::Client, Direction::Read);
    Client::Failed
}

/// What a turn does on behalf of one task.
struct Hand<'a, 'b> {
    hub: &'a Hub,
    core: Core,
    cx: &'a mut Context<'b>,
}

impl Hand<'_, '_> {
    /// Asks a socket until it does something, or is not ready and wakes the task when it is.
    fn ask(
        &mut self,
        wire: &TcpStream,
        interest: Interest,
        mut ask: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let ready = if interest.is_readable() {
                wire.poll_read_ready(self.cx)
            } else {
                wire.poll_write_ready(self.cx)
            };
            match ready {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Err(ErrorKind::WouldBlock.into()),
            }
            match wire.try_io(interest, || ask(wire)) {
                // It was not ready after all; ask to be woken.
                Err(error) if error.kind() == ErrorKind::WouldBlock => (),
                result => return result,
            }
        }
    }
}

impl Hands for Hand<'_, '_> {
    type Wire = TcpStream;
    type Line = Line;

    fn read(&mut self, wire: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(into);
        match Pin::new(&mut *wire).poll_read(self.cx, &mut buffer) {
            Poll::Ready(Ok(())) => Ok(buffer.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            // A drain may leave idle clients no time: what has arrived counts, even if the runtime
            // has not heard of it.
            Poll::Pending if self.hub.state.is_stopping() => socket::receive(&*wire, into),
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn write(&mut self, wire: &mut TcpStream, bytes: &[u8], is_last: bool) -> io::Result<usize> {
        self.ask(wire, Interest::WRITABLE, |wire| socket::send(wire, bytes, is_last))
    }

    fn fill(&mut self, pipe: &mut Pipe, wire: &mut TcpStream, most: usize) -> io::Result<usize> {
        self.ask(wire, Interest::READABLE, |wire| pipe.fill(wire, most))
    }

    fn drain(&mut self, pipe: &mut Pipe, wire: &mut TcpStream) -> io::Result<usize> {
        self.ask(wire, Interest::WRITABLE, |wire| pipe.drain(wire))
    }

    fn listen_in(&mut self, wire: &mut TcpStream) -> Heard {
        let mut heard = Heard::Nothing;
        let _ = self.ask(wire, Interest::READABLE, |wire| {
            heard = socket::listen_in(wire);
            match heard {
                Heard::Nothing => Err(ErrorKind::WouldBlock.into()),
                Heard::End | Heard::Bytes => Ok(0),
            }
        });
        heard
    }

    fn acknowledge(&mut self, wire: &mut TcpStream) {
        socket::acknowledge(wire);
    }

    fn shut_down(&mut self, wire: &mut TcpStream) -> io::Result<()> {
        Ok(rustix::net::shutdown(wire, Shutdown::Write)?)
    }

    fn reset_on_close(&mut self, wire: &mut TcpStream) {
        socket::reset_on_close(wire);
    }

    fn pipe(&mut self) -> Option<Pipe> {
        self.hub.pipes.take()
    }

    fn take_idle(&mut self, id: UpstreamId, most: Duration, now: Instant) -> Option<Line> {
        self.hub.take_idle(self.core, id, most, now)
    }

    fn dial(&mut self, upstream: UpstreamId, address: SocketAddr) -> io::Result<(Line, bool)> {
        let (stream, is_connected) = connect::begin(address)?;
        Ok((Line::new(stream, upstream)?, is_connected))
    }

    fn dialled(&mut self, line: &mut Line) -> Option<io::Result<()>> {
        match line.stream().poll_write_ready(self.cx) {
            Poll::Ready(_) => connect::result(line.stream()),
            Poll::Pending => None,
        }
    }

    fn keep(&mut self, line: Line, now: Instant) {
        drop(self.hub.shelf(self.core).idle.put(line.upstream, now, line, |_| ()));
    }

    fn waker(&mut self) -> Waker {
        self.cx.waker().clone()
    }

    fn complain_of_shortage(&mut self, id: UpstreamId, error: &io::Error, now: Instant) {
        self.hub.complain_of_shortage(id, error, now);
    }
}
