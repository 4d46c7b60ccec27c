//! An upstream that runs by itself: a listener whose connections are each handed to one script, and
//! a log of what they received.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::raw::{Broken, Conn, End, Listener, Message, PATIENCE};

/// A running upstream. Dropping it ends its connections, and fails the test if a script failed.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<thread::JoinHandle<()>>,
}

/// What an upstream got so far.
#[derive(Default)]
pub struct Log {
    /// Connections that were accepted.
    pub connections: usize,
    /// Connections whose script is over and which were closed.
    pub closed: usize,
    /// Whole requests, with the number of the connection that brought them, from 0.
    pub requests: Vec<(usize, Message)>,
    /// Requests that broke off.
    pub broken: Vec<Broken>,
    faults: Vec<String>,
    streams: Vec<Weak<TcpStream>>,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
    stopping: AtomicBool,
}

/// A connection as its script sees it.
pub struct Peer {
    conn: Conn,
    /// Which connection of the upstream it is, from 0.
    pub number: usize,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Runs `script` once for each connection, in a thread of its own; the connection is closed when it
    /// returns.
    pub fn new(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Upstream {
        let listener = Listener::new();
        let address = listener.address();
        let shared = Arc::new(Shared::default());
        let accepting = {
            let (shared, script) = (shared.clone(), Arc::new(script));
            thread::spawn(move || accept_all(&listener, &shared, &script))
        };
        Upstream { address, shared, accepting: Some(accepting) }
    }

    /// Answers every request with the same bytes.
    pub fn answering(response: &str) -> Upstream {
        let response = response.to_string();
        Upstream::new(move |peer| {
            while peer.next_request().is_some() {
                peer.send(&response);
            }
        })
    }

    /// Answers every request with its method, its target and its body.
    pub fn echo() -> Upstream {
        Upstream::new(|peer| peer.echo())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it got so far.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log()
    }

    pub fn connections(&self) -> usize {
        self.log().connections
    }

    pub fn deliveries(&self) -> usize {
        self.log().requests.len()
    }

    /// The only request it got.
    #[track_caller]
    pub fn only_request(&self) -> Message {
        let log = self.log();
        assert_eq!(log.requests.len(), 1, "requests: {:?}", log.requests);
        log.requests[0].1.clone()
    }

    /// The latest request it got.
    #[track_caller]
    pub fn last_request(&self) -> Message {
        self.log().requests.last().expect("a request").1.clone()
    }

    /// Waits until the log is as wanted.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&Log) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut log = self.log();
        while !is_so(&log) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain: {what}; got {:?}", log.requests);
            log = self.shared.changed.wait_timeout(log, left).expect("the log").0;
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        let faults = std::mem::take(&mut self.log().faults);
        for stream in self.log().streams.drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if thread::panicking() {
            faults.iter().for_each(|fault| eprintln!("an upstream's script failed too: {fault}"));
        } else {
            assert!(faults.is_empty(), "an upstream's script failed: {faults:?}");
        }
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("the log")
    }

    fn change(&self, change: impl FnOnce(&mut Log)) {
        change(&mut self.log());
        self.changed.notify_all();
    }
}

fn accept_all<S>(listener: &Listener, shared: &Arc<Shared>, script: &Arc<S>)
where
    S: Fn(&mut Peer) + Send + Sync + 'static,
{
    let mut number = 0;
    while !shared.stopping.load(Ordering::Acquire) {
        let Some(conn) = listener.try_accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        shared.change(|log| {
            log.connections += 1;
            log.streams.push(Arc::downgrade(&conn.stream()));
        });
        let (shared, script) = (shared.clone(), script.clone());
        thread::spawn(move || {
            let mut peer = Peer { conn, number, shared: shared.clone() };
            let outcome = catch_unwind(AssertUnwindSafe(|| script(&mut peer)));
            drop(peer);
            shared.change(|log| {
                log.closed += 1;
                if let Err(panic) = outcome
                    && !shared.stopping.load(Ordering::Acquire)
                {
                    log.faults.push(super::panic_text(panic.as_ref()));
                }
            });
        });
        number += 1;
    }
}

impl Peer {
    /// The next request, which is logged; `None` when the connection ends first, or nothing comes.
    pub fn next_request(&mut self) -> Option<Message> {
        let number = self.number;
        match self.conn.try_request() {
            Ok(request) => {
                self.shared.change(|log| log.requests.push((number, request.clone())));
                Some(request)
            }
            Err(broken) => {
                if !broken.wire.is_empty() {
                    self.shared.change(|log| log.broken.push(broken));
                }
                None
            }
        }
    }

    /// Answers one request after the other with what it was.
    pub fn echo(&mut self) {
        while let Some(request) = self.next_request() {
            let answer = echo_of(&request);
            if !self.conn.try_send(&answer) {
                return;
            }
        }
    }

    /// Waits until the other side ends the connection.
    pub fn hold(&mut self) -> End {
        self.conn.rest().1
    }
}

/// The answer of an echo upstream: `METHOD target body`.
pub fn echo_of(request: &Message) -> String {
    let what = request.first.trim_end_matches(" HTTP/1.1");
    let body =
        if request.body.is_empty() { what.to_string() } else { format!("{what} {}", request.body) };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.chars().count());
    if what.starts_with("HEAD ") { head } else { head + &body }
}

impl Deref for Peer {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for Peer {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}
