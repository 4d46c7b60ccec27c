//! Clients, sessions and connections, moved by one seed.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use balancebeam::Config;
use balancebeam::buffer;
use balancebeam::session::{ConnectFailure, Direction, Next, Session, Side, Wants};
use balancebeam::state::ProxyState;
use balancebeam::upstream::Upstreams;

use crate::draws::Draws;
use crate::messages::{Asked, request};
use crate::oracle::{self, Findings};
use crate::splice::{Habit, Pipe};
use crate::upstream::{Answer, Conn};

/// The most that a session may hold: its four buffers, and the upstream's name in a held head.
const MOST_BUFFERED: usize = 4 * buffer::SIZE + 256;

/// Calls of `next` that may follow each other without a byte moved.
const MOST_IDLE_STEPS: usize = 200;

/// Deadlines that one session may still meet once everybody does all they can.
const MOST_DEADLINES: usize = 100;

pub struct Client {
    pub session: Session,
    pub habit: Habit,
    pub pipe: Pipe,
    pub asked: Vec<Asked>,
    /// Where each request ends in what is sent.
    ends: Vec<usize>,
    pub to_send: Vec<u8>,
    pub sent: usize,
    is_pipelining: bool,
    /// Sends no more than that, then ends.
    ends_at: Option<usize>,
    resets: bool,
    end_was_told: bool,
    /// It has reset, or ended within a request.
    pub has_left: bool,
    pub received: Vec<u8>,
    pub conn: Option<Conn>,
    conn_end_was_told: bool,
    conn_was_written: bool,
    connecting: Option<(usize, bool)>,
    /// The last connect was prevented by a shortage.
    was_short: bool,
    /// Connections asked for, and written to, by exchange.
    connects: Vec<usize>,
    written: Vec<usize>,
    reports: usize,
    /// How the session was closed: by an abort or not.
    pub closed: Option<bool>,
}

pub struct Simulation {
    pub is_calm: bool,
    pub answers: Vec<Answer>,
    pub clients: Vec<Client>,
    pub findings: Findings,
    pub draws: Draws,
    state: Arc<ProxyState>,
    pub now: Instant,
    /// Idle connections by upstream.
    idle: Vec<Vec<Conn>>,
    is_fair: bool,
}

/// Plays one seed to its end, and looks at what everybody got.
pub fn play(seed: u64) -> Findings {
    let mut simulation = Simulation::new(seed);
    for _ in 0..100 + simulation.draws.below(500) {
        simulation.step();
    }
    simulation.finish();
    oracle::check(&mut simulation);
    simulation.findings
}

fn client(
    id: usize,
    state: &Arc<ProxyState>,
    now: Instant,
    calm: bool,
    draws: &mut Draws,
) -> Client {
    let count = 1 + draws.below(5);
    let asked: Vec<Asked> =
        (0..count).map(|i| request(id * 100 + i, i + 1 == count, calm, draws)).collect();
    let to_send: Vec<u8> = asked.iter().flat_map(|asked| asked.wire.clone()).collect();
    let mut end = 0;
    let ends = asked.iter().map(|asked| {
        end += asked.wire.len();
        end
    });
    let ends_at = match draws.below(10) {
        0..=3 => Some(to_send.len()),
        4 if !calm => Some(draws.below(to_send.len())),
        _ => None,
    };
    let peer = IpAddr::from(Ipv4Addr::new(192, 0, 2, id as u8));
    Client {
        session: Session::new(state.clone(), peer, now),
        habit: Habit::draw(draws),
        pipe: Pipe::default(),
        ends: ends.collect(),
        is_pipelining: draws.percent(50),
        ends_at,
        resets: !calm && draws.percent(8),
        end_was_told: false,
        has_left: false,
        received: Vec::new(),
        conn: None,
        conn_end_was_told: false,
        conn_was_written: false,
        connecting: None,
        was_short: false,
        connects: vec![0; count + 1],
        written: vec![0; count + 1],
        reports: 0,
        closed: None,
        sent: 0,
        to_send,
        asked,
    }
}

impl Client {
    /// Bytes that it has ready to send now.
    pub fn ready(&self) -> usize {
        let gate = match self.is_pipelining {
            true => self.to_send.len(),
            false => self.ends[self.reports.min(self.ends.len() - 1)],
        };
        self.ends_at.unwrap_or(usize::MAX).min(gate).saturating_sub(self.sent)
    }

    /// Whether there is an end where it was asked for more.
    pub fn tells_its_end(&mut self) -> bool {
        let ends = self.ends_at.is_some_and(|at| self.sent >= at);
        assert!(!self.end_was_told, "an end was read already");
        self.end_was_told = ends;
        self.has_left |= ends && self.sent < self.to_send.len();
        ends
    }
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut draws = Draws::new(seed);
        let is_calm = draws.percent(20);
        let count = 1 + draws.below(3);
        let addresses: Vec<SocketAddr> =
            (0..count).map(|i| SocketAddr::from(([127, 0, 0, 1], 8000 + i as u16))).collect();
        let mut config = Config {
            upstreams: addresses.iter().map(|&address| address.into()).collect(),
            ..Config::default()
        };
        config.retry.attempts = 1 + draws.below(5);
        config.retry.budget_floor = draws.one_of(&[0, 10]);
        config.retry.fail_open = draws.percent(70);
        if draws.percent(30) {
            config.health.interval = None;
        }
        let now = Instant::now();
        let addresses = addresses.into_iter().map(|address| vec![address]).collect();
        let upstreams = Upstreams::new(&config, addresses, seed);
        let state = Arc::new(ProxyState::new(config, upstreams, now));
        let clients = (1..=1 + draws.below(4))
            .map(|id| client(id, &state, now, is_calm, &mut draws))
            .collect();
        Simulation {
            is_calm,
            answers: Vec::new(),
            clients,
            findings: Findings::default(),
            draws,
            state,
            now,
            idle: (0..count).map(|_| Vec::new()).collect(),
            is_fair: false,
        }
    }

    fn step(&mut self) {
        let longest_ms = match self.draws.below(400) {
            _ if self.is_calm => 5,
            0 => 70_000,
            1..=4 => 3_000,
            _ => 20,
        };
        match self.draws.below(100) {
            0..=9 => self.now += Duration::from_millis(self.draws.below(longest_ms) as u64),
            10 if !self.is_calm && self.draws.percent(2) => self.state.stop(),
            11 if !self.is_calm => self.lose_idle(),
            _ => {
                let at = self.draws.below(self.clients.len());
                self.turn(at);
            }
        }
    }

    /// An idle connection ends, and the pool has heard of it.
    fn lose_idle(&mut self) {
        let upstream = self.draws.below(self.idle.len());
        self.idle[upstream].pop();
    }

    /// Everybody does all that they can, until every session is over.
    fn finish(&mut self) {
        self.is_fair = true;
        for _ in 0..MOST_DEADLINES * self.clients.len() {
            for at in 0..self.clients.len() {
                self.turn(at);
            }
            let open = self.clients.iter().filter(|client| client.closed.is_none());
            match open.map(|client| client.session.deadline().expect("a deadline")).min() {
                Some(at) => self.now = at,
                None => return,
            }
        }
        panic!("a session does not end");
    }

    /// Drives one session for a while.
    fn turn(&mut self, at: usize) {
        if self.clients[at].closed.is_some() {
            return;
        }
        self.resolve_connect(at);
        let mut idle_steps = 0;
        while idle_steps < MOST_IDLE_STEPS {
            idle_steps += 1;
            let client = &mut self.clients[at];
            match client.session.next(self.now) {
                Next::Transfer(wants) => {
                    let deadline = client.session.deadline().expect("a deadline");
                    assert!(deadline > self.now, "it is due, and has not fired");
                    match self.transfer(at, wants) {
                        None => return,
                        Some(0) => (),
                        Some(_) => idle_steps = 0,
                    }
                    if !self.is_fair && self.draws.percent(15) {
                        return;
                    }
                }
                Next::Connect { to, pooled } => {
                    let exchange = client.reports;
                    // A connect that our own shortage has prevented is not made.
                    if !std::mem::take(&mut client.was_short) {
                        client.connects[exchange] += 1;
                    }
                    let most = self.state.config.retry.attempts;
                    // Each upstream may cost two: a dead idle connection is followed by a fresh one.
                    assert!(client.connects[exchange] <= 2 * most, "too many attempts");
                    assert!(client.conn.is_none(), "there is a connection already");
                    self.connect(at, to.id().0, pooled.is_some());
                }
                Next::Queue(_) => panic!("there is no bound to wait for"),
                Next::Release { keep } => self.release(at, keep),
                Next::Report(record) => {
                    client.reports += 1;
                    assert!(record.attempts <= self.state.config.retry.attempts);
                    self.findings.retries += record.attempts.saturating_sub(1) as u64;
                    self.findings.reports += 1;
                }
                Next::Close { abort } => {
                    assert!(client.conn.is_none(), "a connection is left behind");
                    assert_eq!(client.session.deadline(), None);
                    client.closed = Some(abort);
                    return;
                }
            }
        }
        panic!("a session runs in circles");
    }

    fn connect(&mut self, at: usize, upstream: usize, pooled: bool) {
        if pooled && let Some(mut conn) = self.idle[upstream].pop() {
            conn.is_reused = true;
            if !self.is_calm && self.draws.percent(15) {
                // It ends now: before the look, or between the look and the first byte.
                if self.draws.percent(70) {
                    return self.connect(at, upstream, pooled);
                }
                conn.has_ended = true;
            }
            return self.attach(at, conn);
        }
        let fate = if self.is_calm { 9 } else { self.draws.below(14) };
        let client = &mut self.clients[at];
        match fate {
            0 => client.connecting = Some((upstream, false)),
            1 | 2 => {
                let failure = ConnectFailure::Remote(ErrorKind::ConnectionRefused);
                client.session.connect_failed(failure, self.now);
            }
            3 if self.draws.percent(30) => {
                client.session.connect_failed(ConnectFailure::Local(ErrorKind::Other), self.now);
                client.was_short = true;
            }
            4..=6 => client.connecting = Some((upstream, true)),
            _ => {
                let conn = Conn::new(upstream, self.is_calm, &mut self.draws);
                self.attach(at, conn);
            }
        }
    }

    fn resolve_connect(&mut self, at: usize) {
        if let Some((upstream, true)) = self.clients[at].connecting
            && (self.is_fair || self.draws.percent(50))
        {
            let conn = Conn::new(upstream, self.is_calm, &mut self.draws);
            self.attach(at, conn);
        }
    }

    fn attach(&mut self, at: usize, conn: Conn) {
        let client = &mut self.clients[at];
        client.connecting = None;
        client.session.connected(conn.is_reused, self.now);
        self.findings.reused += u64::from(conn.is_reused);
        client.conn = Some(conn);
        (client.conn_end_was_told, client.conn_was_written) = (false, false);
    }

    fn release(&mut self, at: usize, keep: bool) {
        let client = &mut self.clients[at];
        client.connecting = None;
        if client.pipe.to == Side::Upstream {
            assert!(!keep || client.pipe.bytes.is_empty(), "bytes of its request are on their way");
            client.pipe.empty();
        }
        let conn = client.conn.take();
        if !keep {
            return;
        }
        let conn = conn.expect("a connection to keep");
        assert!(!client.conn_end_was_told, "a connection that has ended is kept");
        let is_dead = conn.has_ended || conn.is_broken;
        assert!(conn.is_at_rest() || is_dead, "it is kept in the middle of an exchange");
        assert!(!conn.has_lost_stray_bytes(), "it is kept although it said too much");
        if conn.is_quiet() {
            self.idle[conn.upstream].push(conn);
        }
    }

    /// Moves some of what is wanted. `None` if nothing can happen now.
    fn transfer(&mut self, at: usize, mut wants: Wants) -> Option<usize> {
        let mut moved = None;
        let mut count = |n: Option<usize>| {
            if let Some(n) = n {
                moved = Some(moved.unwrap_or(0) + n);
            }
        };
        if let Some(splice) = self.splice_of(at, wants) {
            count(self.splice(at, splice));
            match splice.to {
                Side::Client => (wants.upstream_read, wants.client_write) = (false, false),
                Side::Upstream => (wants.client_read, wants.upstream_write) = (false, false),
            }
        }
        if wants.upstream_read && self.may() {
            count(self.read_upstream(at));
        }
        if wants.upstream_write && self.may() {
            count(self.write_upstream(at));
        }
        let is_patient = wants.is_head_alone && !self.is_fair && self.draws.percent(50);
        if wants.client_write && !is_patient && self.may() {
            count(self.write_client(at));
        }
        if wants.client_read && self.may() {
            count(self.read_client(at));
        }
        let client = &mut self.clients[at];
        if client.resets && self.draws.percent(1) {
            (client.has_left, client.resets) = (true, false);
            client.session.failed(Side::Client, Direction::Read);
            count(Some(0));
        }
        for side in [Side::Client, Side::Upstream] {
            if client.session.wants_shutdown(side) {
                client.session.shut_down(side);
                count(Some(0));
            }
        }
        assert!(client.session.buffered() <= MOST_BUFFERED, "memory is bounded");
        moved
    }

    pub fn may(&mut self) -> bool {
        self.is_fair || self.draws.percent(70)
    }

    fn read_client(&mut self, at: usize) -> Option<usize> {
        let client = &mut self.clients[at];
        let ready = client.ready();
        if ready == 0 {
            return client.tells_its_end().then(|| {
                client.session.received(Side::Client, 0, self.now);
                0
            });
        }
        let space = client.session.space(Side::Client);
        let len = self.draws.piece(ready.min(space.len()));
        space[..len].copy_from_slice(&client.to_send[client.sent..client.sent + len]);
        client.session.received(Side::Client, len, self.now);
        client.sent += len;
        Some(len)
    }

    fn write_client(&mut self, at: usize) -> Option<usize> {
        let client = &mut self.clients[at];
        let output = client.session.output(Side::Client);
        let len = self.draws.piece(output.len());
        client.received.extend_from_slice(&output[..len]);
        client.session.sent(Side::Client, len, self.now);
        Some(len)
    }

    fn read_upstream(&mut self, at: usize) -> Option<usize> {
        let client = &mut self.clients[at];
        let conn = client.conn.as_mut().expect("a connection to read from");
        if conn.is_broken && self.draws.percent(30) {
            conn.says.clear(); // a reset overtakes what was said
        }
        if !conn.says.is_empty() {
            let space = client.session.space(Side::Upstream);
            let len = self.draws.piece(conn.says.len().min(space.len()));
            space[..len].copy_from_slice(&conn.says[..len]);
            conn.says.drain(..len);
            client.session.received(Side::Upstream, len, self.now);
            return Some(len);
        }
        self.end_of_upstream(at, false)
    }

    /// The end of an upstream that has no more to say, if it is there.
    pub fn end_of_upstream(&mut self, at: usize, is_spliced: bool) -> Option<usize> {
        let client = &mut self.clients[at];
        let conn = client.conn.as_mut().expect("a connection to read from");
        if !(conn.has_ended || conn.is_broken) {
            return None;
        }
        assert!(!std::mem::replace(&mut client.conn_end_was_told, true), "an end was read already");
        if conn.is_broken {
            client.session.failed(Side::Upstream, Direction::Read);
        } else if is_spliced {
            client.session.spliced_in(Side::Upstream, 0, self.now);
        } else {
            client.session.received(Side::Upstream, 0, self.now);
        }
        Some(0)
    }

    fn write_upstream(&mut self, at: usize) -> Option<usize> {
        if self.upstream_is_deaf(at) {
            return Some(0);
        }
        let client = &mut self.clients[at];
        let output = client.session.output(Side::Upstream);
        let len = self.draws.piece(output.len());
        let bytes = output[..len].to_vec();
        self.tell_upstream(at, &bytes);
        self.clients[at].session.sent(Side::Upstream, len, self.now);
        Some(len)
    }

    /// Whether writing to the upstream fails.
    pub fn upstream_is_deaf(&mut self, at: usize) -> bool {
        let client = &mut self.clients[at];
        let conn = client.conn.as_mut().expect("a connection to write to");
        conn.was_deaf |= conn.is_broken || (conn.has_ended && self.draws.percent(50));
        if conn.was_deaf {
            client.session.failed(Side::Upstream, Direction::Write);
        }
        conn.was_deaf
    }

    pub fn tell_upstream(&mut self, at: usize, bytes: &[u8]) {
        let client = &mut self.clients[at];
        let conn = client.conn.as_mut().expect("a connection to write to");
        let exchange = client.reports;
        let asked = &client.asked[exchange];
        if !std::mem::replace(&mut client.conn_was_written, true) {
            client.written[exchange] += 1;
            let is_first = client.written[exchange] == 1;
            assert!(is_first || asked.is_idempotent(), "a POST was sent twice");
        }
        conn.hear(bytes, asked.id, &mut self.answers, &mut self.draws);
    }
}
