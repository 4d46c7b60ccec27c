//! A session between a client and an upstream that are byte strings: it is driven the way an engine
//! drives it, and the driver allocates nothing.
//!
//! Not here: what a session means when peers misbehave (`tests/exchange/`), sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use balancebeam::Config;
use balancebeam::session::{ExchangeOutcome, Next, Session, Side, Wants};
use balancebeam::state::ProxyState;
use balancebeam::upstream::Upstreams;

/// So many upstreams, all of them live, at addresses that nobody connects to.
pub fn upstreams(count: usize, change: impl FnOnce(&mut Config)) -> (Config, Upstreams) {
    let address = |i: usize| SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 80));
    let mut config =
        Config { upstreams: (0..count).map(|i| address(i).into()).collect(), ..Config::default() };
    change(&mut config);
    let addresses = (0..count).map(|i| vec![address(i)]).collect();
    let upstreams = Upstreams::new(&config, addresses, 1);
    (config, upstreams)
}

/// A client connection, and the peers at its two ends.
pub struct Connection {
    session: Session,
    now: Instant,
    /// What the client sends each time.
    request: Vec<u8>,
    /// What the upstream sends each time.
    answer: Vec<u8>,
    is_upstream_known: bool,
}

/// How far one exchange has come.
#[derive(Default)]
struct Progress {
    /// Bytes that the session has read of the request, and of the answer.
    read: [usize; 2],
    /// Bytes that the client got, and the upstream.
    got: [usize; 2],
    /// The upstream has got the request, and answers.
    is_answered: bool,
    is_reported: bool,
}

impl Connection {
    pub fn new(request: Vec<u8>, answer: Vec<u8>) -> Connection {
        let now = Instant::now();
        let (config, upstreams) = upstreams(2, |_| ());
        let state = Arc::new(ProxyState::new(config, upstreams, now));
        let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        let session = Session::new(state, peer, now);
        Connection { session, now, request, answer, is_upstream_known: false }
    }

    /// Lets one exchange pass. Returns the bytes that the client and the upstream got.
    pub fn exchange(&mut self) -> [usize; 2] {
        let mut progress = Progress::default();
        loop {
            match self.session.next(self.now) {
                Next::Transfer(wants) => {
                    if self.transfer(wants, &mut progress) {
                        continue;
                    }
                    self.session.release_memory();
                    if progress.is_reported {
                        return progress.got;
                    }
                    assert!(!progress.is_answered, "the exchange hangs");
                    progress.is_answered = true;
                }
                Next::Connect { .. } => {
                    self.session.connected(self.is_upstream_known, self.now);
                    self.is_upstream_known = true;
                }
                Next::Queue(_) => panic!("there is room at the upstream"),
                Next::Release { keep } => assert!(keep, "the connection can be used again"),
                Next::Report(record) => {
                    assert_eq!((record.status, record.outcome), (200, ExchangeOutcome::Finished));
                    progress.is_reported = true;
                }
                Next::Close { .. } => panic!("the client's connection persists"),
            }
        }
    }

    /// Moves what can be moved. Returns whether anything was.
    fn transfer(&mut self, wants: Wants, progress: &mut Progress) -> bool {
        let mut moved = false;
        if wants.upstream_read && progress.is_answered {
            moved |= self.read(Side::Upstream, progress);
        }
        if wants.upstream_write {
            moved |= self.write(Side::Upstream, progress);
        }
        if wants.client_write {
            moved |= self.write(Side::Client, progress);
        }
        if wants.client_read {
            moved |= self.read(Side::Client, progress);
        }
        moved
    }

    fn read(&mut self, from: Side, progress: &mut Progress) -> bool {
        let sent = if from == Side::Client { &self.request } else { &self.answer };
        let read = &mut progress.read[from as usize];
        let left = &sent[*read..];
        if left.is_empty() {
            return false;
        }
        let space = self.session.space(from);
        let len = left.len().min(space.len());
        space[..len].copy_from_slice(&left[..len]);
        *read += len;
        self.session.received(from, len, self.now);
        true
    }

    fn write(&mut self, to: Side, progress: &mut Progress) -> bool {
        let len = self.session.output(to).len();
        progress.got[to as usize] += len;
        self.session.sent(to, len, self.now);
        true
    }
}

/// A request without a body, and with what a small client says.
pub fn get() -> Vec<u8> {
    b"GET /1k HTTP/1.1\r\nHost: test.example\r\nUser-Agent: test/1.0\r\nAccept: */*\r\n\r\n"
        .to_vec()
}

/// A request with a body of so many bytes.
pub fn post(len: usize) -> Vec<u8> {
    let head =
        format!("POST /post HTTP/1.1\r\nHost: test.example\r\nContent-Length: {len}\r\n\r\n");
    [head.as_bytes(), &vec![b'p'; len]].concat()
}

/// An answer with a body of so many bytes.
pub fn answer(len: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: test\r\n\
         Content-Type: text/plain\r\nContent-Length: {len}\r\n\r\n"
    );
    [head.as_bytes(), &vec![b'a'; len]].concat()
}
