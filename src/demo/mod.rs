//! `balancebeam demo`: three small upstreams and a balancer in front, with nothing else installed.
//!
//! The upstreams tell what reached them; one is slow, one drops connections without an answer now
//! and then, which no client sees. They are blocking `std` code on purpose: independent peers, not
//! our own parser at both ends. Not here: printing, signals (`main.rs`).

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use log::info;
use threadpool::ThreadPool;

use crate::config::Timeouts;
use crate::server::{Drained, Server, StartError};

/// What the probes ask for, so that the dropping upstream can tell them from requests.
const PROBE_PATH: &str = "/health";
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Threads of one upstream. Half of them may wait for the next request on a kept connection.
const THREADS: usize = 32;
/// Longer than the balancer keeps an idle connection, so that it is never closed under a request.
const PATIENCE: Duration = Duration::from_secs(75);
const HEAD_MAX: u64 = 64 * 1024;
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);

/// How an upstream of the demo behaves.
#[derive(Clone, Copy, Debug)]
struct Manner {
    name: &'static str,
    delay: Duration,
    /// Every so many requests one is left without an answer; 0 is never.
    drop_every: usize,
}

const MANNERS: [Manner; 3] = [
    Manner { name: "swift", delay: Duration::ZERO, drop_every: 0 },
    Manner { name: "slow", delay: Duration::from_millis(300), drop_every: 0 },
    Manner { name: "flaky", delay: Duration::ZERO, drop_every: 4 },
];

/// A running demo. Dropping it stops it.
pub struct Demo {
    server: Server,
    upstreams: Vec<Echo>,
}

impl Demo {
    /// Starts the upstreams on ports that are free and the balancer at `bind`.
    pub fn start(bind: SocketAddr) -> Result<Demo, StartError> {
        let failed = |e| StartError::System("start an upstream of the demo", e);
        let upstreams: Result<Vec<Echo>, _> = MANNERS.into_iter().map(Echo::start).collect();
        let upstreams = upstreams.map_err(failed)?;
        let mut builder = Server::builder();
        for upstream in &upstreams {
            builder = builder.upstream(upstream.address);
        }
        let server = builder.configure(|config| {
            config.bind = bind;
            config.timeouts.drain_grace = Timeouts::default().drain_grace;
            config.health.path = PROBE_PATH.to_string();
            config.health.interval = Some(PROBE_INTERVAL);
        });
        Ok(Demo { server: server.start()?, upstreams })
    }

    /// Where the balancer listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What runs, and what to try.
    pub fn guide(&self) -> String {
        let mut text = String::from("Three upstreams run behind this balancer:\n");
        for Echo { manner, address, .. } in &self.upstreams {
            let does = match manner {
                Manner { drop_every: 0, delay: Duration::ZERO, .. } => "answers at once".into(),
                Manner { drop_every: 0, delay, .. } => format!("answers after {delay:?}"),
                Manner { drop_every, .. } => {
                    format!(
                        "breaks off every {drop_every}th GET without an answer; no client sees it"
                    )
                }
            };
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "  {:<6} {address}  {does}", manner.name);
        }
        let url = format!("http://{}", self.address());
        let _ = write!(
            text,
            "Try, in another shell:\n  \
             curl {url}/                 # who answers, and what reached it\n  \
             for i in $(seq 12); do curl -s {url}/$i | head -1; done\n  \
             curl -d hello {url}/form    # a body goes through as well\n  \
             head -c 100M /dev/zero | curl -T - {url}/   # and one of any size\n\
             Ctrl-C ends it.\n"
        );
        text
    }

    /// Drains the balancer, then ends the upstreams.
    pub fn stop(self) -> Drained {
        self.server.stop()
    }
}

/// One upstream: its accept loop ends when this is dropped, its connections when the peer closes
/// them.
struct Echo {
    manner: Manner,
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
}

impl Echo {
    fn start(manner: Manner) -> io::Result<Echo> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stopping);
        thread::Builder::new()
            .name(manner.name.to_string())
            .spawn(move || accept(&listener, manner, &told))?;
        Ok(Echo { manner, address, stopping })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the accept loop; if that fails the loop has ended already.
        drop(TcpStream::connect(self.address));
    }
}

fn accept(listener: &TcpListener, manner: Manner, stopping: &AtomicBool) {
    let pool = ThreadPool::with_name(manner.name.to_string(), THREADS);
    let asked = Arc::new(AtomicUsize::new(0));
    while !stopping.load(Ordering::Acquire) {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(PAUSE_AFTER_FAILED_ACCEPT);
            continue;
        };
        let (threads, asked) = (pool.clone(), Arc::clone(&asked));
        // A connection that breaks is the peer's decision, and nothing to tell.
        pool.execute(move || drop(serve(stream, manner, &threads, &asked)));
    }
}

/// Answers request after request on one connection.
fn serve(
    stream: TcpStream,
    manner: Manner,
    pool: &ThreadPool,
    asked: &AtomicUsize,
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut wire = BufReader::new(stream);
    while let Some(head) = Head::read(&mut wire)? {
        let body = head.discard_body(&mut wire)?;
        if head.target() != PROBE_PATH {
            let count = asked.fetch_add(1, Ordering::Relaxed) + 1;
            // Only what the balancer may send twice: "no client sees it" is a promise.
            let may_drop = head.method() == "GET" && body == 0;
            if may_drop && manner.drop_every > 0 && count.is_multiple_of(manner.drop_every) {
                info!("{} breaks off {:?}, its request {count}", manner.name, head.line());
                return Ok(());
            }
            info!("{} answers {:?}, its request {count}", manner.name, head.line());
            thread::sleep(manner.delay);
        }
        // Idle connections must never hold all threads, or a new one would wait for them.
        let crowded = pool.active_count() > THREADS / 2;
        let close = crowded || !head.keeps_alive();
        wire.get_mut().write_all(&answer(&head, body, manner.name, close))?;
        if close {
            return Ok(());
        }
    }
    Ok(())
}

/// The name, the head as it came, and how much followed it.
fn answer(head: &Head, body: u64, name: &str, close: bool) -> Vec<u8> {
    let told = head.0.replace("\r\n", "\n");
    let text = format!("{name} answers. This reached it, and {body} bytes of body:\n\n{told}");
    let connection = if close { "Connection: close\r\n" } else { "" };
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nServer: {name}\r\n\
         Content-Length: {}\r\n{connection}\r\n",
        text.len()
    );
    if head.method() != "HEAD" {
        bytes.push_str(&text);
    }
    bytes.into_bytes()
}

/// A request head as it came, without the empty line.
struct Head(String);

impl Head {
    /// `None` when the peer ended before a request.
    fn read(wire: &mut BufReader<TcpStream>) -> io::Result<Option<Head>> {
        let mut head = Vec::new();
        let mut lines = wire.take(HEAD_MAX);
        loop {
            let before = head.len();
            if lines.read_until(b'\n', &mut head)? == 0 {
                return if before == 0 { Ok(None) } else { Err(bad("a head without an end")) };
            }
            if head[before..].trim_ascii().is_empty() {
                head.truncate(before);
                return Ok(Some(Head(String::from_utf8_lossy(&head).into_owned())));
            }
        }
    }

    fn line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    fn method(&self) -> &str {
        self.line().split(' ').next().unwrap_or_default()
    }

    fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.0.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    }

    fn keeps_alive(&self) -> bool {
        self.line().ends_with("HTTP/1.1")
            && !self.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }

    /// Reads the body and returns its length.
    fn discard_body(&self, wire: &mut BufReader<TcpStream>) -> io::Result<u64> {
        if self.field("expect").is_some() {
            wire.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if self.field("transfer-encoding").is_some() {
            return discard_chunks(wire);
        }
        match self.field("content-length").map(str::parse) {
            None => Ok(0),
            Some(Ok(length)) => discard(wire, length),
            Some(Err(_)) => Err(bad("a length that is no number")),
        }
    }
}

fn discard(wire: &mut BufReader<TcpStream>, length: u64) -> io::Result<u64> {
    let got = io::copy(&mut wire.take(length), &mut io::sink())?;
    if got == length { Ok(length) } else { Err(bad("a body that ends too soon")) }
}

fn discard_chunks(wire: &mut BufReader<TcpStream>) -> io::Result<u64> {
    let mut total: u64 = 0;
    loop {
        let line = chunk_line(wire)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| bad("a chunk without a size"))?;
        if size == 0 {
            while !chunk_line(wire)?.is_empty() {} // the trailers and the empty line
            return Ok(total);
        }
        total = total.saturating_add(discard(wire, size)?);
        chunk_line(wire)?;
    }
}

fn chunk_line(wire: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if wire.take(HEAD_MAX).read_line(&mut line)? == 0 {
        return Err(bad("a body that ends too soon"));
    }
    Ok(line.trim_end().to_string())
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
