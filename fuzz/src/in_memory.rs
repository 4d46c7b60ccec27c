//! A session between a client and upstreams that are byte strings, driven as an engine drives it.
//!
//! The client sends what it has and ends; an upstream answers 200 to each request that a simple
//! reader takes for whole. Not here: peers and engines that misbehave (`world.rs`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use balancebeam::Config;
use balancebeam::session::{ExchangeOutcome, Next, Session, Side, Wants};
use balancebeam::state::ProxyState;
use balancebeam::upstream::Upstreams;

use crate::reader::{self, Read, Request};

/// Calls of `next` for each byte of the client, and for none.
const STEPS_A_BYTE: usize = 40;
const STEPS: usize = 1_000;

/// One exchange that was reported.
#[derive(Debug, PartialEq, Eq)]
pub struct Exchange {
    pub status: u16,
    pub outcome: ExchangeOutcome,
    /// Bytes of the request's body, as the session counts them.
    pub body_len: u64,
    /// What an upstream got of it, if it got all.
    pub forwarded: Option<Request>,
}

/// What has come of one client's bytes.
#[derive(Debug, Default)]
pub struct Observation {
    pub exchanges: Vec<Exchange>,
    /// What was written to each upstream connection.
    pub connections: Vec<Vec<u8>>,
    /// What the client got.
    pub client: Vec<u8>,
}

struct Driver<'a> {
    session: Session,
    now: Instant,
    unsent: &'a [u8],
    end_was_told: bool,
    /// Whether the last connection is in use, or idle in a pool.
    is_connected: bool,
    is_pooled: bool,
    /// Bytes of the last connection that make whole requests.
    answered: usize,
    /// What the upstream has to say.
    says: Vec<u8>,
    forwarded: Option<Request>,
    seen: Observation,
}

/// Sends `bytes` to a session in pieces, of which `piece` tells the length, and then an end.
pub fn drive(bytes: &[u8], mut piece: impl FnMut(usize) -> usize) -> Observation {
    let now = Instant::now();
    let address = SocketAddr::from(([127, 0, 0, 1], 80));
    let config = Config { upstreams: vec![address.into()], ..Config::default() };
    let upstreams = Upstreams::new(&config, vec![vec![address]], 1);
    let state = Arc::new(ProxyState::new(config, upstreams, now));
    let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    let mut driver = Driver {
        session: Session::new(state, peer, now),
        now,
        unsent: bytes,
        end_was_told: false,
        is_connected: false,
        is_pooled: false,
        answered: 0,
        says: Vec::new(),
        forwarded: None,
        seen: Observation::default(),
    };
    for _ in 0..STEPS + STEPS_A_BYTE * bytes.len() {
        if driver.step(&mut piece) {
            return driver.seen;
        }
    }
    panic!("the session does not end");
}

impl Driver<'_> {
    /// Does what the session says. Returns whether it is over.
    fn step(&mut self, piece: &mut impl FnMut(usize) -> usize) -> bool {
        match self.session.next(self.now) {
            Next::Transfer(wants) => {
                let moved = self.transfer(wants, piece);
                assert!(
                    moved,
                    "it waits for an answer to a request that the reader sees no end of"
                );
            }
            Next::Connect { pooled, .. } => {
                let reused = pooled.is_some() && self.is_pooled;
                if !reused {
                    self.seen.connections.push(Vec::new());
                    self.answered = 0;
                }
                (self.is_connected, self.is_pooled) = (true, false);
                self.session.connected(reused, self.now);
            }
            Next::Queue(_) => panic!("there is no bound to wait for"),
            Next::Release { keep } => {
                assert!(!keep || self.says.is_empty(), "it is kept within an answer");
                (self.is_connected, self.is_pooled) = (false, keep);
                self.says.clear();
            }
            Next::Report(record) => {
                let exchange = Exchange {
                    status: record.status,
                    outcome: record.outcome,
                    body_len: record.request_bytes,
                    forwarded: self.forwarded.take(),
                };
                self.seen.exchanges.push(exchange);
            }
            Next::Close { .. } => {
                assert!(!self.is_connected, "an upstream connection is left behind");
                return true;
            }
        }
        false
    }

    fn transfer(&mut self, wants: Wants, piece: &mut impl FnMut(usize) -> usize) -> bool {
        let mut moved = false;
        if wants.upstream_write {
            let output = self.session.output(Side::Upstream);
            let len = output.len();
            let connection = self.seen.connections.last_mut().expect("a connection");
            connection.extend_from_slice(output);
            self.session.sent(Side::Upstream, len, self.now);
            self.listen();
            moved = true;
        }
        if wants.upstream_read && !self.says.is_empty() {
            let space = self.session.space(Side::Upstream);
            let len = self.says.len().min(space.len());
            space[..len].copy_from_slice(&self.says[..len]);
            self.says.drain(..len);
            self.session.received(Side::Upstream, len, self.now);
            moved = true;
        }
        if wants.client_write {
            let output = self.session.output(Side::Client);
            let len = output.len();
            self.seen.client.extend_from_slice(output);
            self.session.sent(Side::Client, len, self.now);
            moved = true;
        }
        if wants.client_read && !self.end_was_told {
            let space = self.session.space(Side::Client);
            let len = match self.unsent.len().min(space.len()) {
                0 => 0,
                most => piece(most),
            };
            space[..len].copy_from_slice(&self.unsent[..len]);
            self.unsent = &self.unsent[len..];
            self.end_was_told = len == 0;
            self.session.received(Side::Client, len, self.now);
            moved = true;
        }
        for side in [Side::Client, Side::Upstream] {
            if self.session.wants_shutdown(side) {
                assert_eq!(side, Side::Client, "there is no tunnel");
                self.session.shut_down(side);
                moved = true;
            }
        }
        moved
    }

    /// The upstream looks at what it has got.
    fn listen(&mut self) {
        let connection = self.seen.connections.last().expect("a connection");
        match reader::request(&connection[self.answered..]) {
            Read::Whole(request) => {
                assert!(self.forwarded.is_none(), "two requests within one exchange");
                self.answered += request.len;
                assert_eq!(self.answered, connection.len(), "bytes behind a request");
                let has_no_body = request.method == b"HEAD";
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                let len = answer.len() - if has_no_body { 2 } else { 0 };
                self.says.extend_from_slice(&answer[..len]);
                self.forwarded = Some(request);
            }
            Read::Partial => (),
            Read::Refused(why) => panic!("the reader refuses what goes upstream: {why}"),
        }
    }
}
