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
use super::connection::{Connection, SessionPool};
use super::connection_limit::Permit;
use super::eviction::{Activity, ActivityWord, Evictor};
use super::io::{Dialer, Host, Io};
use super::pipe::{Pipe, Pipes};
use super::pool::Pool;
use super::slab::Slab;
use super::socket;
use super::socket::Peeked;
use super::turn::TurnEnd;
use super::{At, Engine};
use crate::lock::Lock;
use crate::log_throttle::LogThrottle;
use crate::session::{Direction, Side};
use crate::shortage;
use crate::state::ProxyState;
use crate::upstream::UpstreamId;
use upstream_conn::UpstreamConn;

/// How often idle upstream connections are looked through for old ones.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often a client that has sent something which is not being read is asked whether it has gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long tasks that are told to end may take to do so.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// The running engine.
pub struct Tasks {
    shared: Arc<Shared>,
    /// By core.
    handles: Vec<Handle>,
    /// The threads that run the count, and what ends each.
    threads: Lock<Vec<(JoinHandle<()>, Arc<Notify>)>>,
}

/// One runtime, on a thread of its own. A task stays with it, so nobody is woken in vain; a
/// connection to an upstream does unless another core has none left.
#[derive(Clone, Copy)]
struct WorkerId(u32);

impl WorkerId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the tasks of one core share.
struct WorkerState {
    idle: Pool<UpstreamConn>,
    sessions: SessionPool<UpstreamConn>,
    /// Tasks that have not ended.
    alive: AtomicUsize,
}

/// What all tasks share.
struct Shared {
    state: Arc<ProxyState>,
    /// By core.
    workers: Vec<WorkerState>,
    pipes: Arc<Pipes>,
    slots: Slab<Slot>,
    evictor: Evictor,
    /// Whether every task is to end now.
    is_ending: AtomicBool,
    /// Exchanges that were under way when their task was told to end.
    cut: AtomicUsize,
    shortage: Lock<LogThrottle>,
}

/// What others may know of the task that has this number.
#[derive(Default)]
struct Slot {
    waker: Lock<Option<Waker>>,
    activity: ActivityWord,
    /// Whether another client needs its place.
    is_evicted: AtomicBool,
}

impl Slot {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }
}

impl Tasks {
    /// Starts `workers` runtimes that serve up to `slots` connections together; `descriptors` is
    /// the limit on them.
    pub fn start(
        state: Arc<ProxyState>,
        workers: usize,
        slots: usize,
        descriptors: usize,
    ) -> io::Result<Self> {
        let config = &state.config;
        let idle = Pool::new(config.upstreams.len(), config.limits.pool, config.timeouts.pool);
        let new = |_| WorkerState {
            idle: idle.beside(),
            sessions: SessionPool::default(),
            alive: AtomicUsize::new(0),
        };
        let shared = Arc::new(Shared {
            workers: (0..workers).map(new).collect(),
            pipes: Pipes::new(descriptors),
            slots: Slab::new(slots),
            evictor: Evictor::new(Instant::now()),
            is_ending: AtomicBool::new(false),
            cut: AtomicUsize::new(0),
            shortage: Lock::default(),
            state,
        });
        let mut tasks = Tasks { shared, handles: Vec::new(), threads: Lock::default() };
        for worker in 0..workers {
            tasks.start_worker(WorkerId(worker as u32))?;
        }
        Ok(tasks)
    }

    fn start_worker(&mut self, worker: WorkerId) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let end = Arc::new(Notify::new());
        let (shared, ending) = (self.shared.clone(), end.clone());
        let run = move || {
            runtime.spawn(async move {
                let mut trim_at = None;
                loop {
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    let (now, worker_state) = (Instant::now(), shared.worker_state(worker));
                    shared.sweep(worker, now);
                    if trim_at.is_none_or(|at| at <= now) {
                        trim_at = worker_state.sessions.give_back_unused(now);
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
        self.shared.workers.iter().any(|worker| worker.alive.load(Ordering::Acquire) > 0)
    }
}

impl Engine for Tasks {
    fn admit(&self, stream: StdStream, peer: SocketAddr, permit: Permit, turn_away: bool) {
        let shared = self.shared.clone();
        let Some(slot) = shared.slots.take() else {
            return log::error!("no place for a connection that was let in");
        };
        let worker = shared.least_loaded();
        shared.worker_state(worker).alive.fetch_add(1, Ordering::AcqRel);
        let guard = TaskGuard { shared, worker, slot, _permit: permit };
        let handle = &self.handles[worker.index()];
        // The socket belongs to the runtime that the task runs on.
        let _entered = handle.enter();
        match TcpStream::from_std(stream) {
            Ok(client) => {
                let (state, now) = (guard.shared.state.clone(), Instant::now());
                let connection = Connection::new(state, peer.ip(), client, turn_away, now);
                guard.shared.note_activity(guard.slot, connection.activity());
                let mut task = Task { connection, alarm: None, guard };
                // Not an `async` block: that has room of its own for all that is moved within it.
                handle.spawn(poll_fn(move |cx| task.poll(cx)));
            }
            Err(error) => {
                log::debug!("a connection that was accepted cannot be watched: {error}");
            }
        }
    }

    fn evict(&self, now: Instant) -> bool {
        self.shared.evict(now)
    }

    fn wake_all(&self) {
        self.shared.slots.numbers().filter_map(|n| self.shared.slots.get(n)).for_each(Slot::wake);
    }

    fn end(&self) -> usize {
        let threads = std::mem::take(&mut *self.threads.lock());
        self.shared.is_ending.store(true, Ordering::Release);
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
        self.shared.cut.load(Ordering::Acquire)
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.end();
    }
}

/// Serves one client until its connection is over.
struct Task {
    connection: Connection<TcpStream, UpstreamConn>,
    /// Made at the first turn, on the runtime that keeps its time.
    alarm: Option<Pin<Box<Sleep>>>,
    guard: TaskGuard,
}

/// What a task has taken for as long as it lives.
struct TaskGuard {
    shared: Arc<Shared>,
    worker: WorkerId,
    slot: u32,
    _permit: Permit,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.shared.note_activity(self.slot, Activity::Busy);
        if let Some(slot) = self.shared.slots.get(self.slot) {
            slot.waker.lock().take();
            slot.is_evicted.store(false, Ordering::Release);
        }
        self.shared.slots.give_back(self.slot);
        self.shared.worker_state(self.worker).alive.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Task {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Task { connection, alarm, guard: TaskGuard { shared, worker, slot, .. } } = self;
        let alarm = alarm.get_or_insert_with(|| {
            // A task keeps its waker for life.
            if let Some(slot) = shared.slots.get(*slot) {
                *slot.waker.lock() = Some(cx.waker().clone());
            }
            let at = connection.deadline().unwrap_or_else(Instant::now);
            Box::pin(tokio::time::sleep_until(at.into()))
        });
        if shared.is_ending.load(Ordering::Acquire) {
            return shared.cut(connection);
        }
        let turn = AssertUnwindSafe(|| shared.turn(*worker, connection, alarm.as_mut(), cx));
        let turn = catch_unwind(turn);
        shared.note_activity(*slot, connection.activity());
        if let Ok(Poll::Pending) = turn
            && shared.is_evicted(*slot, connection)
        {
            return Poll::Ready(());
        }
        turn.unwrap_or_else(|_| {
            log::error!("a session panicked and is lost; the others go on");
            shared.state.counters.panics.add_one();
            socket::reset_on_close(&connection.client);
            Poll::Ready(())
        })
    }
}

impl Shared {
    fn worker_state(&self, worker: WorkerId) -> &WorkerState {
        &self.workers[worker.index()]
    }

    /// The core that has the least to do.
    fn least_loaded(&self) -> WorkerId {
        let alive = |worker: &usize| self.workers[*worker].alive.load(Ordering::Relaxed);
        WorkerId((0..self.workers.len()).min_by_key(alive).unwrap_or(0) as u32)
    }

    /// Writes down what a connection does.
    fn note_activity(&self, slot: u32, activity: Activity) {
        if let Some(slot) = self.slots.get(slot) {
            slot.activity.set(activity, &self.evictor);
        }
    }

    /// Whether a connection that has just had a turn is to be closed for another one.
    fn is_evicted(&self, slot: u32, connection: &Connection<TcpStream, UpstreamConn>) -> bool {
        let Some(slot) = self.slots.get(slot) else { return false };
        slot.is_evicted.load(Ordering::Relaxed)
            && slot.is_evicted.swap(false, Ordering::AcqRel)
            && connection
                .activity()
                .may_be_evicted(Instant::now(), || socket::peek(&connection.client))
    }

    /// An idle connection of this core; if there is none, one of another core, which then belongs to
    /// this one.
    fn take_idle(
        &self,
        worker: WorkerId,
        id: UpstreamId,
        most: Duration,
        now: Instant,
    ) -> Option<UpstreamConn> {
        let count = self.workers.len();
        (worker.index()..worker.index() + count).find_map(|index| {
            let WorkerState { idle, .. } = &self.workers[index % count];
            // Every look takes one out, so it ends.
            let (conn, _) = std::iter::from_fn(|| idle.take(id, most, now, |_| ()))
                .find(|(conn, idle)| self.is_reusable(conn, (*idle, At::SomeTime), now))?;
            if index == worker.index() {
                return Some(conn);
            }
            conn.adopt().ok()
        })
    }

    /// Takes turns until there is something to wait for.
    fn turn(
        &self,
        worker: WorkerId,
        connection: &mut Connection<TcpStream, UpstreamConn>,
        mut alarm: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let now = Instant::now();
        let sessions = &self.worker_state(worker).sessions;
        loop {
            match connection.turn(&mut TaskIo { shared: self, worker, cx }, sessions, now) {
                TurnEnd::Gone => return Poll::Ready(()),
                // Wakes this task once others had their turn, and what has arrived was looked at.
                TurnEnd::Yield => return pin!(tokio::task::yield_now()).poll(cx),
                TurnEnd::Wait => (),
            }
            let client = look_at_client(connection, sessions, cx);
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
    fn cut(&self, connection: &Connection<TcpStream, UpstreamConn>) -> Poll<()> {
        if connection.is_busy() {
            socket::reset_on_close(&connection.client);
            self.cut.fetch_add(1, Ordering::AcqRel);
        }
        Poll::Ready(())
    }

    /// Closes idle connections of a core that are too old, or that have ended since the last sweep.
    fn sweep(&self, worker: WorkerId, now: Instant) {
        let WorkerState { idle: pool, .. } = self.worker_state(worker);
        for (conn, idle) in pool.remove_those(now, UpstreamConn::is_readable) {
            // As old as it was at the least when it ended.
            let idle = idle.saturating_sub(SWEEP_INTERVAL);
            self.is_reusable(&conn, (idle, At::Once), now);
        }
        let most_kept = |id| super::most_kept(&self.state, id);
        for (conn, idle) in pool.sweep(now, most_kept) {
            self.is_reusable(&conn, (idle, At::SomeTime), now);
        }
    }

    /// Whether a connection that was idle for so long can be used.
    fn is_reusable(&self, conn: &UpstreamConn, looked: (Duration, At), now: Instant) -> bool {
        let mut peeked = None;
        // Asked this way, tokio learns that there is nothing to read.
        let stream = conn.stream();
        let _ = stream.try_io(Interest::READABLE, || match *peeked.insert(socket::peek(stream)) {
            Peeked::Nothing => Err(io::Error::from(ErrorKind::WouldBlock)),
            Peeked::End | Peeked::Bytes => Ok(()),
        });
        let peeked = peeked.unwrap_or_else(|| socket::peek(stream));
        if let Some(upstream) = self.state.upstreams.all().get(conn.upstream.0) {
            super::observe_idle(upstream, peeked, looked, now);
        }
        peeked == Peeked::Nothing
    }

    fn evict(&self, now: Instant) -> bool {
        let activity = |index| self.slots.get(index).map(|slot: &Slot| &slot.activity);
        let next = self.evictor.next(self.slots.numbers(), activity, now);
        let Some(index) = next else { return false };
        if let Some(slot) = self.slots.get(index) {
            slot.is_evicted.store(true, Ordering::Release);
            slot.wake();
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
    connection: &mut Connection<TcpStream, UpstreamConn>,
    sessions: &SessionPool<UpstreamConn>,
    cx: &mut Context<'_>,
) -> Client {
    if connection.client.poll_read_ready(cx).is_pending() {
        return Client::Quiet;
    }
    if connection.client.take_error().is_ok_and(|error| error.is_none()) {
        return Client::Unread;
    }
    connection.wake(sessions).session.failed(Side::Client, Direction::Read);
    Client::Failed
}

/// What a turn does on behalf of one task.
struct TaskIo<'a, 'b> {
    shared: &'a Shared,
    worker: WorkerId,
    cx: &'a mut Context<'b>,
}

impl TaskIo<'_, '_> {
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

impl Io for TaskIo<'_, '_> {
    type Wire = TcpStream;

    fn read(&mut self, wire: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(into);
        match Pin::new(&mut *wire).poll_read(self.cx, &mut buffer) {
            Poll::Ready(Ok(())) => Ok(buffer.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            // A drain may leave idle clients no time: what has arrived counts, even if the runtime
            // has not heard of it.
            Poll::Pending if self.shared.state.is_stopping() => socket::receive(&*wire, into),
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

    fn peek(&mut self, wire: &mut TcpStream) -> Peeked {
        let mut peeked = Peeked::Nothing;
        let _ = self.ask(wire, Interest::READABLE, |wire| {
            peeked = socket::peek(wire);
            match peeked {
                Peeked::Nothing => Err(ErrorKind::WouldBlock.into()),
                Peeked::End | Peeked::Bytes => Ok(0),
            }
        });
        peeked
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
}

impl Dialer for TaskIo<'_, '_> {
    type Conn = UpstreamConn;

    fn take_idle(&mut self, id: UpstreamId, most: Duration, now: Instant) -> Option<UpstreamConn> {
        self.shared.take_idle(self.worker, id, most, now)
    }

    fn dial(
        &mut self,
        upstream: UpstreamId,
        address: SocketAddr,
    ) -> io::Result<(UpstreamConn, bool)> {
        let (stream, is_connected) = connect::begin(address)?;
        Ok((UpstreamConn::new(stream, upstream)?, is_connected))
    }

    fn poll_connected(&mut self, conn: &mut UpstreamConn) -> Option<io::Result<()>> {
        match conn.stream().poll_write_ready(self.cx) {
            Poll::Ready(_) => connect::result(conn.stream()),
            Poll::Pending => None,
        }
    }

    fn keep(&mut self, conn: UpstreamConn, now: Instant) {
        drop(self.shared.worker_state(self.worker).idle.put(conn.upstream, now, conn, |_| ()));
    }
}

impl Host for TaskIo<'_, '_> {
    fn pipe(&mut self) -> Option<Pipe> {
        self.shared.pipes.take()
    }

    fn waker(&mut self) -> Waker {
        self.cx.waker().clone()
    }

    fn complain_of_shortage(&mut self, id: UpstreamId, error: &io::Error, now: Instant) {
        self.shared.complain_of_shortage(id, error, now);
    }
}
