//! The accept loop: blocking, on a thread of its own, the same for every engine.
//!
//! Not here: what happens to a connection (`threads.rs`), how many there may be (`gate.rs`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::gate::{Entry, Gate, Pass};
use crate::background::Seldom;
use crate::config::WhenFull;
use crate::shortage;

/// Connections that may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 4096;
/// How long the loop rests when descriptors or memory have run out.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// How often the loop looks whether it is to stop while it waits for a connection to end.
const FULL_LOOK: Duration = Duration::from_millis(100);
/// How long one knock at our own door may take.
const KNOCK_TIMEOUT: Duration = Duration::from_millis(200);

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
    stopping: Arc<AtomicBool>,
    address: SocketAddr,
}

/// What is done with a connection; the last argument says whether it is to be turned away.
pub trait Admit: Fn(TcpStream, SocketAddr, Pass, bool) + Send + 'static {}
impl<F: Fn(TcpStream, SocketAddr, Pass, bool) + Send + 'static> Admit for F {}

impl Acceptor {
    /// Starts to accept.
    pub fn start(
        listener: TcpListener,
        gate: Arc<Gate>,
        when_full: WhenFull,
        admit: impl Admit,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let accepting = Accepting { listener, gate, when_full, stopping: stopping.clone() };
        let thread = thread::Builder::new()
            .name("accept".to_string())
            .spawn(move || accepting.run(admit))?;
        Ok(Acceptor { thread: Some(thread), stopping, address })
    }

    /// Takes what has already connected, then stops listening.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        // A blocking accept is woken by a connection. It may also find one by itself.
        while !thread.is_finished() {
            if TcpStream::connect_timeout(&own_door(self.address), KNOCK_TIMEOUT).is_err() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        let _ = thread.join();
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

struct Accepting {
    listener: TcpListener,
    gate: Arc<Gate>,
    when_full: WhenFull,
    stopping: Arc<AtomicBool>,
}

impl Accepting {
    fn run(&self, admit: impl Admit) {
        let mut seldom = Seldom::default();
        let mut is_draining = false;
        loop {
            if !is_draining && self.stopping.load(Ordering::Acquire) {
                // What has connected by now was promised a connection: closing the listener would
                // reset it.
                is_draining = true;
                if let Err(error) = self.listener.set_nonblocking(true) {
                    return log::error!("cannot empty the accept queue: {error}");
                }
            }
            let Some((pass, turn_away)) = self.enter(is_draining, &mut seldom) else { continue };
            match accept(&self.listener) {
                Ok((stream, peer)) => admit(stream, peer, pass, turn_away),
                Err(error) if is_draining && error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if shortage::is_own(&error) && !is_draining => {
                    if seldom.may_log(Instant::now()) {
                        log::warn!(
                            "cannot accept: {error}; raise the limit on open files, or lower \
                             --max-connections"
                        );
                    }
                    thread::sleep(SHORTAGE_PAUSE);
                }
                // The peer was gone before we looked, or the like: the next one is another matter.
                Err(error) => log::debug!("a connection was lost before it was accepted: {error}"),
            }
        }
    }

    /// A place for the next connection. `None`: look again.
    fn enter(&self, is_draining: bool, seldom: &mut Seldom) -> Option<(Pass, bool)> {
        match self.gate.enter() {
            Entry::Free(pass) => return Some((pass, false)),
            Entry::TurnAway(pass) if self.when_full == WhenFull::Refuse || is_draining => {
                return Some((pass, true));
            }
            Entry::TurnAway(_) | Entry::Full => (),
        }
        if seldom.may_log(Instant::now()) {
            log::warn!("--max-connections are open; new ones wait");
        }
        self.gate.wait_for_room(FULL_LOOK);
        None
    }
}

fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or_else(|| io::Error::other("the peer has no address"))?;
    Ok((TcpStream::from(fd), peer))
}
