//! The simulated engine's hands: what a turn of the balancer does to connections, done to links.
//!
//! The turn, the connection that sleeps and wakes, and the pool are the balancer's own. There are no
//! pipes, so every body is copied; bodies that go past a session are played one session at a time
//! (`tests/simulation/splice.rs`). Not here: who gets a turn, and when (`world.rs`).

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use balancebeam::engine_parts::{Dialer, Host, Io, Peeked, Pipe, Pool};
use balancebeam::state::ProxyState;
use balancebeam::upstream::UpstreamId;

use super::ledger::Fact;
use super::links::Dial;
use super::net::{Event, Net, Owner};
use super::scenario::{Mode, Ms};

/// Reads and writes of one turn; more of them lead nowhere.
const MOST_CALLS: usize = 1_000_000;
/// Too many open files.
const EMFILE: i32 = 24;

pub type Shared = Rc<RefCell<Net>>;

/// Clients whose sessions were woken by what others did.
pub type Woken = Arc<Mutex<Vec<usize>>>;

/// Wakes the session of one client.
struct Bell {
    woken: Woken,
    client: usize,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        log::trace!("session {} is woken", self.client);
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.client);
    }
}

/// The near end of a connection.
pub struct Wire {
    pub net: Shared,
    pub link: usize,
}

/// A connection to an upstream.
pub struct Line(pub Wire);

impl AsMut<Wire> for Line {
    fn as_mut(&mut self) -> &mut Wire {
        &mut self.0
    }
}

/// Dropping it closes it.
impl Drop for Wire {
    fn drop(&mut self) {
        let net = &mut *self.net.borrow_mut();
        let place = &mut net.places[self.link];
        place.link.near_close();
        if let Owner::Upstream(upstream) = place.owner {
            if place.link.dial == Dial::Pending {
                let after = net.now - place.dialled_at;
                net.ledger.facts.push(Fact::ConnectGivenUp { upstream, after });
            }
            net.ledger.end(self.link);
        }
        net.stir(self.link, 1);
    }
}

pub struct Hand<'a> {
    pub net: &'a Shared,
    pub pool: &'a Pool<Line>,
    pub state: &'a ProxyState,
    pub woken: &'a Woken,
    /// Whose turn it is.
    pub client: usize,
    pub calls: usize,
}

impl Hand<'_> {
    fn count_call(&mut self) {
        self.calls += 1;
        assert!(self.calls < MOST_CALLS, "a turn runs in circles");
    }

    fn is_active(&self, net: &mut Net) {
        net.active[self.client] = net.now;
    }

    /// Told in the log, where it has its place among what the balancer says.
    fn asks(&self, id: UpstreamId) {
        log::trace!("session {} asks {}", self.client, id.0);
    }

    fn attach(&self, link: usize, upstream: usize) {
        let net = &mut *self.net.borrow_mut();
        let before = net.places[link].link.back.read;
        net.ledger.begin(link, self.client, upstream, before, net.now);
        net.places[link].user = Some(self.client);
        net.check_bound(upstream);
    }
}

impl Io for Hand<'_> {
    type Wire = Wire;

    fn read(&mut self, wire: &mut Wire, into: &mut [u8]) -> io::Result<usize> {
        self.count_call();
        let net = &mut *self.net.borrow_mut();
        net.check("room to read into", !into.is_empty(), || format!("link {}", wire.link));
        let result = net.places[wire.link].link.near_read(into);
        match &result {
            Ok(0) => net.ledger.lost(wire.link),
            Ok(n) => {
                self.is_active(net);
                net.ledger.read(wire.link, *n);
                net.stir(wire.link, 1);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => (),
            Err(_) => net.ledger.lost(wire.link),
        }
        result
    }

    fn write(&mut self, wire: &mut Wire, bytes: &[u8], _is_last: bool) -> io::Result<usize> {
        self.count_call();
        let net = &mut *self.net.borrow_mut();
        net.check("something to write", !bytes.is_empty(), || format!("link {}", wire.link));
        let result = net.places[wire.link].link.near_write(bytes);
        match &result {
            Ok(n) => {
                self.is_active(net);
                net.ledger.wrote(wire.link, bytes, *n);
                net.stir(wire.link, 1);
                if net.places[wire.link].link.far_reset {
                    net.tell_near(wire.link);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => net.counts.one("full links"),
            Err(_) => net.ledger.lost(wire.link),
        }
        result
    }

    fn fill(&mut self, _: &mut Pipe, _: &mut Wire, _: usize) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }

    fn drain(&mut self, _: &mut Pipe, _: &mut Wire) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }

    fn peek(&mut self, _: &mut Wire) -> Peeked {
        Peeked::Nothing
    }

    fn acknowledge(&mut self, _: &mut Wire) {}

    fn shut_down(&mut self, wire: &mut Wire) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        let place = &mut net.places[wire.link];
        place.link.out.has_ended = true;
        let is_client = matches!(place.owner, Owner::Client(_));
        net.check("an upstream is never half-closed", is_client, || format!("link {}", wire.link));
        net.stir(wire.link, 1);
        Ok(())
    }

    fn reset_on_close(&mut self, wire: &mut Wire) {
        self.net.borrow_mut().places[wire.link].link.resets_on_close = true;
    }
}

impl Dialer for Hand<'_> {
    type Conn = Line;

    fn take_idle(&mut self, id: UpstreamId, most: Duration, now: Instant) -> Option<Line> {
        self.asks(id);
        loop {
            let (line, idle) = self.pool.take(id, most, now, |_| ())?;
            let link = line.0.link;
            let mut net = self.net.borrow_mut();
            net.check_age(link, self.state.config.timeouts.pool);
            net.places[link].idle_since = None;
            if net.places[link].link.is_quiet() {
                net.counts.one("reused connections");
                drop(net);
                self.attach(link, id.0);
                self.net.borrow_mut().ledger.was_idle(link, idle.as_millis() as Ms);
                return Some(line);
            }
            net.counts.one("idle connections found ended");
            if !net.places[link].link.back.bytes.is_empty() {
                net.counts.one("idle connections that spoke");
                self.state.upstreams.all()[id.0].disable_reuse(now);
            }
            drop(net);
        }
    }

    fn dial(&mut self, id: UpstreamId, address: SocketAddr) -> io::Result<(Line, bool)> {
        self.asks(id);
        let mut net = self.net.borrow_mut();
        self.is_active(&mut net);
        let is_steady = net.steady[id.0];
        let second = address.port() != 80;
        if net.is_hostile && net.draws.percent(1) {
            net.counts.one("shortages of our own");
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        let is_refused =
            net.modes[id.0] == Mode::Refuses || (second && !is_steady && net.draws.percent(30));
        let is_at_once = net.draws.percent(25) && net.modes[id.0] != Mode::Hangs;
        if is_refused && is_at_once {
            net.counts.one("connects refused");
            net.ledger.facts.push(Fact::ConnectFailed { upstream: id.0 });
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let dial = if is_at_once { Dial::Made } else { Dial::Pending };
        let link = net.connect(Owner::Upstream(id.0), self.client, dial);
        net.places[link].refuses = is_refused;
        net.check_bound(id.0);
        if !is_at_once {
            let most = if is_steady || !net.is_hostile { 5 } else { 40 };
            let after = 1 + net.draws.below(most) as Ms;
            let at = net.now + after;
            net.schedule(at, Event::DialEnds(link));
        }
        drop(net);
        if is_at_once {
            self.attach(link, id.0);
        }
        Ok((Line(Wire { net: self.net.clone(), link }), is_at_once))
    }

    fn poll_connected(&mut self, line: &mut Line) -> Option<io::Result<()>> {
        let link = line.0.link;
        let mut net = self.net.borrow_mut();
        let place = &net.places[link];
        let Owner::Upstream(upstream) = place.owner else { return None };
        match place.link.dial {
            Dial::Pending => None,
            Dial::Made => {
                drop(net);
                self.attach(link, upstream);
                Some(Ok(()))
            }
            Dial::Failed(kind) => {
                net.counts.one("connects refused");
                net.ledger.facts.push(Fact::ConnectFailed { upstream });
                Some(Err(kind.into()))
            }
        }
    }

    fn keep(&mut self, line: Line, now: Instant) {
        let link = line.0.link;
        {
            let net = &mut *self.net.borrow_mut();
            let Owner::Upstream(_) = net.places[link].owner else { return };
            net.ledger.end(link);
            net.check_kept(link);
            let idle_since = Some(net.now);
            let place = &mut net.places[link];
            (place.user, place.idle_since) = (None, idle_since);
            if !place.link.is_quiet() {
                net.tell_near(link);
            }
        }
        let Owner::Upstream(id) = self.net.borrow().places[link].owner else { return };
        let too_many = self.pool.put(UpstreamId(id), now, line, |_| ());
        if let Some(line) = too_many {
            self.net.borrow_mut().places[line.0.link].idle_since = None;
        }
    }
}

impl Host for Hand<'_> {
    fn waker(&mut self) -> Waker {
        log::trace!("session {} waits", self.client);
        Waker::from(Arc::new(Bell { woken: self.woken.clone(), client: self.client }))
    }

    fn pipe(&mut self) -> Option<Pipe> {
        None
    }

    fn complain_of_shortage(&mut self, _: UpstreamId, _: &io::Error, _: Instant) {}
}
