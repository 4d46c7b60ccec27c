//! The accept loop: blocking, on a thread of its own, the same for every engine.
//!
//! Not here: what happens to a connection (`threads/`), how many there may be (`connection_limit.rs`).

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, SocketFlags};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use super::Engine;
use super::connection_limit::ConnectionLimit;
use crate::config::WhenFull;
use crate::lock::Lock;
use crate::log_throttle::LogThrottle;
use crate::shortage;
use crate::state::ProxyState;

/// Connections that may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 4096;
/// How long the loop rests when descriptors or memory have run out.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// How often the loop looks whether it is to stop while it waits for a connection to end.
const FULL_LOOK: Duration = Duration::from_millis(100);
/// How long the thread that accepts has to hear a knock at our own door.
const KNOCK_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is told to make room for another one may take to go, and how many are
/// told for one that comes.
const EVICTION_PATIENCE: Duration = Duration::from_millis(50);
const EVICTIONS: usize = 3;
/// How long one knock may take.
const KNOCK_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a connection that is being made when we stop may take to be there: over a network, and on
/// this machine.
const HANDSHAKE: Duration = Duration::from_millis(100);
const HANDSHAKE_HERE: Duration = Duration::from_millis(2);

/// Listens on `address`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The thread that accepts.
pub struct Acceptor {
    thread: Option<JoinHandle<()>>,
    stopping: Arc<Lock<Option<Instant>>>,
    /// Whether the thread has seen that it is to stop.
    is_woken: Arc<AtomicBool>,
    address: SocketAddr,
    /// Closed when both this and the thread have let go of it.
    listener: Option<Arc<TcpListener>>,
    /// A descriptor that is given back before the knock, which needs one.
    reserve: Option<OwnedFd>,
}

impl Acceptor {
    /// Starts to accept.
    pub fn start(
        listener: TcpListener,
        connection_limit: Arc<ConnectionLimit>,
        state: Arc<ProxyState>,
        engine: Arc<dyn Engine>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stopping = Arc::new(Lock::new(None));
        let is_woken = Arc::new(AtomicBool::new(false));
        let listener = Arc::new(listener);
        let reserve = Some(listener.as_fd().try_clone_to_owned()?);
        let accepting = Accepting {
            listener: listener.clone(),
            connection_limit,
            state,
            engine,
            stopping: stopping.clone(),
            is_woken: is_woken.clone(),
            have_waited: Cell::new(false),
        };
        let thread =
            thread::Builder::new().name("accept".to_string()).spawn(move || accepting.run())?;
        Ok(Acceptor {
            thread: Some(thread),
            stopping,
            is_woken,
            address,
            listener: Some(listener),
            reserve,
        })
    }

    /// Takes what has already connected, until `until` at the latest, and stops listening.
    pub fn stop(&mut self, until: Instant) {
        let (Some(thread), Some(listener)) = (self.thread.take(), self.listener.take()) else {
            return;
        };
        *self.stopping.lock() = Some(until);
        // A blocking accept is woken by a connection: ours, or another one. One knock is nearly
        // always enough; more would only stand in the queue before real clients.
        drop(self.reserve.take());
        let mut next_knock = Instant::now();
        while !thread.is_finished() {
            let now = Instant::now();
            if now >= until {
                // Nobody hears us. This resets what is in the queue, and wakes for certain.
                let _ = rustix::net::shutdown(&*listener, Shutdown::Both);
            } else if !self.is_woken.load(Ordering::Acquire) && now >= next_knock {
                drop(TcpStream::connect_timeout(&own_door(self.address), KNOCK_TIMEOUT));
                next_knock = now + KNOCK_PAUSE;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // A panic was printed where it happened.
        let _ = thread.join();
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop(Instant::now());
    }
}

/// An address at which our own listener can be reached from this machine.
fn own_door(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Lets nobody begin to connect any more, while those who have begun can finish. A client that is not
/// heard asks again after a second, and finds the port closed or a successor there.
fn ignore_newcomers(listener: &TcpListener) -> io::Result<()> {
    // A program for the kernel: where the flags of a TCP segment are SYN without ACK, drop it.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let drop_syn = [
        SockFilter::new(0x30, 0, 0, FLAGS),     // load the byte
        SockFilter::new(0x54, 0, 0, SYN | ACK), // keep these bits
        SockFilter::new(0x15, 0, 1, SYN),       // equal: go on, else skip one
        SockFilter::new(0x06, 0, 0, 0),         // keep nothing of it
        SockFilter::new(0x06, 0, 0, u32::MAX),  // keep it all
    ];
    SockRef::from(listener).attach_filter(&drop_syn)
}

struct Accepting {
    listener: Arc<TcpListener>,
    connection_limit: Arc<ConnectionLimit>,
    state: Arc<ProxyState>,
    engine: Arc<dyn Engine>,
    stopping: Arc<Lock<Option<Instant>>>,
    is_woken: Arc<AtomicBool>,
    /// Whether those in the queue have been let wait there.
    have_waited: Cell<bool>,
}

impl Accepting {
    fn run(&self) {
        let (mut shortages, mut evictions) = (LogThrottle::default(), LogThrottle::default());
        while self.stopping.lock().is_none() {
            let to_be_told = self.refuses();
            if !self.connection_limit.is_full() {
                self.state.note_crowd(false);
            } else {
                // No connection is closed before another client comes.
                if !has(&*self.listener, PollFlags::IN, FULL_LOOK) || self.stopping.lock().is_some()
                {
                    self.state.note_crowd(false);
                    continue;
                }
                let has_room = self.make_room();
                self.state.note_crowd(!has_room);
                if has_room && evictions.may_log(Instant::now()) {
                    log::warn!(
                        "as many connections are open as --max-connections allows; those that sent no \
                         request for the longest time are closed for new ones"
                    );
                }
            }
            if !self.connection_limit.wait_for_permit(to_be_told, Duration::ZERO) {
                if shortages.may_log(Instant::now()) {
                    log::warn!(
                        "as many connections are open as --max-connections allows; new ones wait"
                    );
                }
                self.connection_limit.wait_for_permit(to_be_told, FULL_LOOK);
                self.have_waited.set(true);
                continue;
            }
            if to_be_told && self.connection_limit.is_full() && shortages.may_log(Instant::now()) {
                log::warn!(
                    "as many connections are open as --max-connections allows; new ones get 503"
                );
            }
            if let Err(error) = self.take_one()
                && shortages.may_log(Instant::now())
            {
                log::warn!(
                    "cannot accept: {error}; raise the limit on open files, or lower \
                     --max-connections"
                );
            }
        }
        self.is_woken.store(true, Ordering::Release);
        self.empty_the_queue();
    }

    fn refuses(&self) -> bool {
        self.state.config.limits.when_full == WhenFull::Refuse
    }

    /// Closes the connection that has sent no request for the longest time, because another client is
    /// there (rule 45). Returns whether there is room now.
    fn make_room(&self) -> bool {
        for _ in 0..EVICTIONS {
            if !self.engine.evict(Instant::now()) {
                break;
            }
            if self.connection_limit.wait_for_permit(false, EVICTION_PATIENCE) {
                return true;
            }
        }
        false
    }

    /// What has connected by now was promised a connection: closing the listener resets it. So nobody
    /// may connect between the last look and the close.
    fn empty_the_queue(&self) {
        if let Err(error) = self.listener.set_nonblocking(true) {
            return log::error!("cannot empty the accept queue: {error}");
        }
        if let Err(error) = ignore_newcomers(&self.listener) {
            log::warn!("whoever connects while the port is being closed may be reset: {error}");
        }
        let is_here = self.listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
        let all_there = Instant::now() + if is_here { HANDSHAKE_HERE } else { HANDSHAKE };
        let until = self.stopping.lock().unwrap_or_else(Instant::now);
        let to_be_told = self.refuses();
        while Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            if !self.connection_limit.wait_for_permit(to_be_told, left) {
                return;
            }
            match self.take_one() {
                Ok(true) => (),
                Ok(false) if Instant::now() >= all_there => return,
                Ok(false) => thread::sleep(Duration::from_millis(1)),
                Err(error) => log::debug!("cannot empty the accept queue yet: {error}"),
            }
        }
    }

    /// Accepts one connection. Returns whether there was one; an error is a shortage of our own,
    /// after which some time has passed.
    fn take_one(&self) -> io::Result<bool> {
        match accept(&self.listener) {
            Ok((stream, peer)) => match self.connection_limit.enter() {
                Some((permit, is_too_many)) => {
                    let turn_away = is_too_many || self.has_given_up(&stream);
                    self.engine.admit(stream, peer, permit, turn_away);
                }
                None => drop(stream),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if shortage::is_own(&error) => {
                // Silent connections have what a new one needs.
                let now = Instant::now();
                (0..EVICTIONS).take_while(|_| self.engine.evict(now)).for_each(drop);
                thread::sleep(SHORTAGE_PAUSE);
                self.have_waited.set(true);
                return Err(error);
            }
            // The peer was gone before we looked, or the like: the next one is another matter.
            Err(error) => log::debug!("a connection was lost before it was accepted: {error}"),
        }
        Ok(true)
    }

    /// Whether a client has ended its direction while it was let wait in the queue. Most of those have
    /// given up, and a crowd that has must not be served before those who are still there. Asking
    /// costs system calls; it ends when the queue has once been empty.
    fn has_given_up(&self, stream: &TcpStream) -> bool {
        let has_waited = self.have_waited.get();
        if has_waited {
            self.have_waited.set(has(&*self.listener, PollFlags::IN, Duration::ZERO));
        }
        has_waited && has(stream, PollFlags::RDHUP, Duration::ZERO)
    }
}

/// Whether this is so, just now or within `patience`.
fn has(socket: &impl AsFd, flag: PollFlags, patience: Duration) -> bool {
    let patience =
        Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    poll(&mut [PollFd::new(socket, flag)], Some(&patience)).is_ok_and(|ready| ready > 0)
}

fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or_else(|| io::Error::other("the peer has no address"))?;
    Ok((TcpStream::from(fd), peer))
}
