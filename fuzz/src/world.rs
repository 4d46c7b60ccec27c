//! One session, its two peers and its driver, of whom each does what an input says.
//!
//! What the driver of a session owes it (`Session` of balancebeam) is kept, whatever the input says;
//! what peers and the system may do at any time is not hindered. Not here: what an input looks like
//! (`session.rs`), peers that behave well (`in_memory.rs`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use balancebeam::Config;
use balancebeam::buffer;
use balancebeam::session::{ConnectFailure, Direction, Idle, Next, Session, Side, Splice, Wants};
use balancebeam::state::ProxyState;
use balancebeam::upstream::health::Observation;
use balancebeam::upstream::{UpstreamId, Upstreams};

use crate::others::Others;

/// Answers of `next` that may follow each other with nothing reported between them: each attempt may
/// ask for a connection, and give one up.
const MOST_ANSWERS: usize = 100;

/// Deadlines that a session meets that is left alone, until it is over. With a bound on what upstreams
/// have in flight, a body that does not come is looked at four times a second.
const MOST_DEADLINES: usize = 1_000;

/// Where the session stands with its upstream connection, as the driver sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    None,
    Connecting { pooled: bool },
    Connected,
}

/// What has happened in a world: if something never happens, nothing is proved about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub statuses: BTreeSet<u16>,
    pub tunnels: usize,
    pub fresh: usize,
    pub reused: usize,
    pub kept: usize,
    pub retried: usize,
    pub aborted: usize,
    pub lingered: usize,
    pub spliced_up: usize,
    pub spliced_down: usize,
    /// Waits for room, and those that ended with some.
    pub queued: usize,
    pub served_in_turn: usize,
}

pub struct World {
    pub reached: Reached,
    pub session: Session,
    pub state: Arc<ProxyState>,
    pub now: Instant,
    pub others: Others,
    link: Link,
    /// It was told that it waits for room, and of no connection since.
    is_queued: bool,
    wants: Wants,
    /// Bytes in the pipe, and to whom they go; none if it is empty.
    piped: Option<(Side, usize)>,
    closed: Option<bool>,
    /// An end or an error of reading was told, of the client and of the present upstream.
    has_ended: [bool; 2],
    /// Writing has failed.
    is_deaf: [bool; 2],
    /// The most that its buffers may hold.
    most_buffered: usize,
}

fn addresses(config: &Config) -> Vec<Vec<SocketAddr>> {
    let of = |upstream: &balancebeam::Authority| upstream.address().into_iter().collect();
    config.upstreams.iter().map(of).collect()
}

impl World {
    pub fn new(config: Config, is_turned_away: bool) -> World {
        let now = Instant::now();
        let upstreams = Upstreams::new(&config, addresses(&config), 1);
        // A rewritten head may grow its buffer: the host may be told twice, and the way it took.
        let most_buffered = 4 * buffer::SIZE + 2 * config.limits.head + 1024;
        let state = Arc::new(ProxyState::new(config, upstreams, now));
        let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        let mut session = Session::new(state.clone(), peer, now);
        if is_turned_away {
            session.turn_away();
        }
        let mut world = World {
            reached: Reached::default(),
            session,
            state,
            now,
            others: Others::default(),
            link: Link::None,
            is_queued: false,
            wants: Wants::default(),
            piped: None,
            closed: None,
            has_ended: [false; 2],
            is_deaf: [false; 2],
            most_buffered,
        };
        world.rest();
        world
    }

    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Calls `next` until there is nothing to do but to move bytes, and looks at what must hold then.
    pub fn rest(&mut self) {
        for _ in 0..MOST_ANSWERS {
            match self.session.next(self.now) {
                Next::Transfer(wants) => {
                    assert_eq!(self.closed, None, "it was closed for good");
                    self.wants = wants;
                    return self.check_rest();
                }
                Next::Connect { pooled, .. } => {
                    assert!(self.link == Link::None, "there is a connection already");
                    self.link = Link::Connecting { pooled: pooled.is_some() };
                    self.reached.served_in_turn += usize::from(self.is_queued);
                    self.is_queued = false;
                    self.forget_upstream();
                }
                Next::Queue(ticket) => {
                    assert!(self.link == Link::None, "room is asked for, and there is some");
                    self.reached.queued += 1;
                    self.is_queued = true;
                    ticket.wake_by(std::task::Waker::noop().clone());
                }
                Next::Release { keep } => {
                    // One that has failed, or was never asked for, may be withdrawn all the same.
                    let is_good = self.link == Link::Connected && !self.has_ended[1];
                    assert!(!keep || is_good && !self.is_deaf[1], "it cannot be used again");
                    let is_in_pipe = self.piped.is_some_and(|(to, _)| to == Side::Upstream);
                    assert!(!keep || !is_in_pipe, "a part of the request is on its way");
                    self.reached.kept += usize::from(keep);
                    self.link = Link::None;
                    self.forget_upstream();
                }
                Next::Report(record) => {
                    self.is_queued = false;
                    self.reached.statuses.insert(record.status);
                    self.reached.retried += record.attempts.saturating_sub(1);
                    assert!(record.attempts <= self.state.config.retry.attempts);
                    assert!(matches!(record.status, 100..=999), "{}", record.status);
                }
                Next::Close { abort } => {
                    assert!(self.link == Link::None, "the upstream connection is left behind");
                    assert!(self.closed.is_none_or(|closed| closed == abort), "told for good");
                    assert_eq!(self.session.deadline(), None, "nothing is waited for");
                    self.reached.aborted += usize::from(abort && self.closed.is_none());
                    self.closed = Some(abort);
                    self.wants = Wants::default();
                    return;
                }
            }
        }
        panic!("the session runs in circles");
    }

    fn forget_upstream(&mut self) {
        (self.has_ended[1], self.is_deaf[1]) = (false, false);
        // What was taken for it is thrown away with its connection.
        self.piped = self.piped.filter(|(to, _)| *to == Side::Client);
    }

    fn check_rest(&mut self) {
        match self.session.next(self.now) {
            Next::Transfer(again) => assert_eq!(self.wants, again, "a call changes nothing"),
            _ => panic!("a call changes nothing"),
        }
        let deadline = self.session.deadline().expect("every live session has a deadline");
        assert!(deadline > self.now, "a deadline that is due has fired");
        self.check_room();
        let held = self.session.buffered();
        assert!(held <= self.most_buffered, "{held} bytes are held");
        let Wants { upstream_read, upstream_write, splice, .. } = self.wants;
        let is_connected = self.link == Link::Connected;
        assert!(is_connected || !(upstream_read || upstream_write), "there is no connection");
        assert!(is_connected || splice.is_none_or(|splice| splice.to == Side::Client));
        if let Some((to, _)) = self.piped
            && !self.is_deaf[to as usize]
        {
            let asked = splice.map(|splice| splice.to);
            assert_eq!(asked, Some(to), "what is in the pipe comes first");
        }
        for side in [Side::Client, Side::Upstream] {
            let is_wanted =
                if side == Side::Client { self.wants.client_read } else { upstream_read };
            assert!(!is_wanted || !self.has_ended[side as usize], "an end was told");
            assert!(!is_wanted || !self.session.space(side).is_empty(), "there is room");
            let is_wanted =
                if side == Side::Client { self.wants.client_write } else { upstream_write };
            assert!(!is_wanted || !self.session.output(side).is_empty(), "there are bytes");
        }
    }

    /// Nobody has more than the bound, and nobody waits beyond it, or where there is room.
    fn check_room(&self) {
        let Some(most) = self.state.config.limits.in_flight else { return };
        let waiting = self.state.upstreams.waiting();
        assert!(waiting <= self.state.config.limits.queue, "{waiting} wait");
        for upstream in self.state.upstreams.all().iter() {
            assert!(upstream.in_flight() <= most, "{} has too many", upstream.name());
            // Others have not been anywhere yet; the session may have been at one of two.
            let is_idle = upstream.is_up() && upstream.in_flight() < most;
            let may_wait = usize::from(self.state.upstreams.all().len() > 1);
            assert!(!is_idle || waiting <= may_wait, "{waiting} wait, and there is room");
        }
    }

    /// Whether the pipe is what bytes `to` that side go through.
    fn goes_past(&self, to: Side) -> bool {
        self.piped.is_some_and(|(into, _)| into == to)
    }

    fn may_read(&self, from: Side) -> bool {
        let is_wanted = match from {
            Side::Client => self.wants.client_read,
            Side::Upstream => self.wants.upstream_read && self.link == Link::Connected,
        };
        is_wanted && !self.has_ended[from as usize] && !self.goes_past(from.other())
    }

    /// As much arrives as there is room for.
    pub fn says(&mut self, from: Side, bytes: &[u8]) {
        if !self.may_read(from) {
            return;
        }
        let space = self.session.space(from);
        let len = bytes.len().min(space.len());
        if len > 0 {
            space[..len].copy_from_slice(&bytes[..len]);
            self.session.received(from, len, self.now);
        }
    }

    pub fn ends(&mut self, from: Side) {
        if self.may_read(from) {
            self.has_ended[from as usize] = true;
            self.session.received(from, 0, self.now);
        }
    }

    /// Errors come unasked.
    pub fn fails(&mut self, side: Side, direction: Direction) {
        if self.closed.is_some() || side == Side::Upstream && self.link != Link::Connected {
            return;
        }
        match direction {
            Direction::Read => self.has_ended[side as usize] = true,
            Direction::Write => self.is_deaf[side as usize] = true,
        }
        self.session.failed(side, direction);
    }

    pub fn takes(&mut self, to: Side, most: usize) {
        let is_wanted = match to {
            Side::Client => self.wants.client_write,
            Side::Upstream => self.wants.upstream_write && self.link == Link::Connected,
        };
        if !is_wanted || self.is_deaf[to as usize] || self.goes_past(to) {
            return;
        }
        let there = self.session.output(to).len();
        let len = if most == 0 { there } else { most.min(there) };
        self.session.sent(to, len, self.now);
    }

    pub fn connected(&mut self, reused: bool) {
        if let Link::Connecting { pooled } = self.link {
            let reused = reused && pooled;
            *(if reused { &mut self.reached.reused } else { &mut self.reached.fresh }) += 1;
            self.session.connected(reused, self.now);
            self.link = Link::Connected;
        }
    }

    pub fn connect_failed(&mut self, why: ConnectFailure) {
        if let Link::Connecting { .. } = self.link {
            self.link = Link::None;
            self.session.connect_failed(why, self.now);
        }
    }

    pub fn meet_deadline(&mut self) {
        if let Some(at) = self.session.deadline() {
            self.now = self.now.max(at);
        }
    }

    /// What a driver may report although there is nothing to report.
    pub fn call_too_often(&mut self) {
        if !matches!(self.link, Link::Connecting { .. }) {
            self.session.connected(true, self.now);
            let why = ConnectFailure::Local(std::io::ErrorKind::Other);
            self.session.connect_failed(why, self.now);
        }
        self.session.sent(Side::Client, 0, self.now);
        self.session.sent(Side::Upstream, 0, self.now);
        self.session.release_memory();
    }

    fn splice(&self) -> Option<Splice> {
        let splice = self.wants.splice.filter(|_| self.closed.is_none())?;
        let is_free = self.piped.is_none_or(|(to, _)| to == splice.to);
        let is_deaf = self.is_deaf[splice.to as usize];
        (is_free && !is_deaf && self.link_serves(splice.to)).then_some(splice)
    }

    fn link_serves(&self, to: Side) -> bool {
        to == Side::Client || self.link == Link::Connected
    }

    /// The output goes into the pipe, ahead of what is taken.
    pub fn pour(&mut self) {
        let Some(Splice { to, .. }) = self.splice() else { return };
        let len = self.session.output(to).len();
        if self.piped.is_none() && len > 0 {
            self.session.staged(to, len);
            self.piped = Some((to, len));
        }
    }

    pub fn take_past(&mut self, len: usize) {
        let Some(Splice { to, most }) = self.splice() else { return };
        let len = len.min(usize::try_from(most).unwrap_or(usize::MAX));
        // What is in the output goes ahead.
        let is_first = self.piped.is_some() || self.session.output(to).is_empty();
        if len > 0 && is_first && !self.has_ended[to.other() as usize] {
            let there = self.piped.map_or(0, |(_, len)| len);
            self.session.spliced_in(to.other(), len, self.now);
            let is_up = to == Side::Upstream;
            *(if is_up { &mut self.reached.spliced_up } else { &mut self.reached.spliced_down }) +=
                1;
            self.piped = Some((to, there + len));
            // So much may be taken at a time; then it is asked for again.
            self.wants.splice = None;
        }
    }

    pub fn end_past(&mut self) {
        let Some(Splice { to, most }) = self.splice() else { return };
        if most > 0 && !self.has_ended[to.other() as usize] {
            self.has_ended[to.other() as usize] = true;
            self.session.spliced_in(to.other(), 0, self.now);
        }
    }

    pub fn pass(&mut self, len: usize) {
        let Some((to, there)) = self.piped else { return };
        let len = len.clamp(1, there);
        if self.closed.is_none() && !self.is_deaf[to as usize] && self.link_serves(to) {
            self.session.spliced_out(to, len, self.now);
            self.piped = (len < there).then_some((to, there - len));
        }
    }

    pub fn probe(&mut self, which: usize, seen: Observation) {
        let id = UpstreamId(which % self.state.upstreams.all().len());
        self.state.upstreams.observe(id, seen, self.now);
    }

    pub fn begin_again(&mut self) {
        if let Some(idle) = self.session.idle() {
            assert!(idle.since <= self.now && self.link == Link::None);
            assert_eq!(self.session.buffered(), 0, "it is like a new one");
            let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 8));
            self.session.begin_again(peer, Idle::new(self.now));
        }
    }

    pub fn shut_down(&mut self) {
        for side in [Side::Client, Side::Upstream] {
            if self.closed.is_none() && self.link_serves(side) && self.session.wants_shutdown(side)
            {
                self.session.shut_down(side);
                // Toward an upstream this is done in tunnels only.
                self.reached.tunnels += usize::from(side == Side::Upstream);
                self.reached.lingered += usize::from(side == Side::Client);
            }
        }
    }

    /// Nobody does anything any more: it ends all the same, and then nothing moves it.
    pub fn finish(mut self) -> Reached {
        for _ in 0..MOST_DEADLINES {
            self.rest();
            if let Some(abort) = self.closed {
                self.check_closed(abort);
                return self.reached;
            }
            self.meet_deadline();
        }
        panic!("a session that is left alone does not end");
    }

    fn check_closed(&mut self, abort: bool) {
        self.call_too_often();
        self.session.received(Side::Client, 0, self.now);
        self.session.failed(Side::Client, Direction::Write);
        self.session.failed(Side::Upstream, Direction::Read);
        self.state.stop();
        self.others = Others::default();
        assert_eq!(self.state.upstreams.waiting(), 0, "nobody waits any more");
        for upstream in self.state.upstreams.all().iter() {
            assert_eq!(upstream.in_flight(), 0, "room is lost for good");
        }
        for _ in 0..3 {
            match self.session.next(self.now) {
                Next::Close { abort: again } => assert_eq!(again, abort, "closed for good"),
                _ => panic!("closed for good"),
            }
        }
    }
}
