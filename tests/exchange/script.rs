//! The words of which scripts are made.

use std::io::ErrorKind;
use std::time::Duration;

use balancebeam::Config;
use balancebeam::session::{ConnectFailure, ExchangeOutcome, Side};

use crate::world::Event;

pub const FINISHED: ExchangeOutcome = ExchangeOutcome::Finished;
pub const ABORTED: ExchangeOutcome = ExchangeOutcome::Aborted;
pub const GONE: ExchangeOutcome = ExchangeOutcome::ClientGone;

/// Which connection to an upstream is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// One from the pool will do.
    Pooled,
    /// It has to be a new one.
    Fresh,
}

/// What the upstreams of every script are called.
pub const NAMES: [&str; 3] = ["one.test:8001", "number-two.test:8002", "3.test:83"];

/// A request, what an upstream sees of it, and an answer that goes through as it is.
pub const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What an upstream sees of a request for host `h`, given without its empty line.
pub fn forwarded(head: &str) -> String {
    let provenance = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\
                      X-Forwarded-Host: h\r\nVia: 1.1 balancebeam\r\n\r\n";
    format!("{head}{provenance}")
}

/// What an upstream sees of `GET`.
pub fn get() -> String {
    forwarded("GET / HTTP/1.1\r\nHost: h\r\n")
}

/// One thing that somebody does, or that everybody must see by then.
#[derive(Clone, Debug)]
pub enum Step {
    Send {
        from: Side,
        bytes: Vec<u8>,
        at_once: bool,
    },
    Ends(Side),
    Resets(Side),
    IsDeaf(Side),
    IsFull {
        side: Side,
        is_full: bool,
    },
    Connected {
        reused: bool,
    },
    /// The connection is there, but has ended already, and takes nothing.
    ConnectedDead {
        reused: bool,
    },
    /// The connection is there, and says something before it hears anything.
    ConnectedSpeaking {
        reused: bool,
        says: &'static str,
    },
    ConnectFailed(ConnectFailure),
    After(Duration),
    Drain,
    Sees {
        side: Side,
        bytes: Vec<u8>,
    },
    SeesChunks {
        side: Side,
        head: Vec<u8>,
        content: Vec<u8>,
        last: Vec<u8>,
    },
    SeesAnswer {
        status: u16,
        persists: bool,
        field: &'static str,
    },
    Event(Event),
    HoldsAtMost(usize),
    HeadAlone(bool),
    Why(&'static str),
    Live(usize),
    Others(usize),
    AnotherWaits,
}

/// A story that every replay must tell.
#[derive(Clone)]
pub struct Script {
    pub config: Config,
    pub steps: Vec<Step>,
}

/// A story with one upstream.
pub fn script() -> Script {
    script_with(1, |_| ())
}

/// A story with so many upstreams, and other decisions of the operator.
pub fn script_with(upstreams: usize, change: impl FnOnce(&mut Config)) -> Script {
    let upstreams = NAMES[..upstreams].iter().map(|n| n.parse().expect("host:port")).collect();
    let mut config = Config { upstreams, ..Config::default() };
    change(&mut config);
    Script { config, steps: Vec::new() }
}

impl Script {
    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    fn event(self, event: Event) -> Self {
        self.step(Step::Event(event))
    }

    /// What another story tells, in its place.
    pub fn then(self, more: impl FnOnce(Self) -> Self) -> Self {
        more(self)
    }

    pub fn client_sends(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        self.step(Step::Send { from: Side::Client, bytes, at_once: false })
    }

    /// For what rightly depends on how much arrives together: no replay cuts it.
    pub fn client_sends_at_once(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        self.step(Step::Send { from: Side::Client, bytes, at_once: true })
    }

    pub fn upstream_sends(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        self.step(Step::Send { from: Side::Upstream, bytes, at_once: false })
    }

    /// For what rightly depends on how much arrives together: no replay cuts it.
    pub fn upstream_sends_at_once(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        self.step(Step::Send { from: Side::Upstream, bytes, at_once: true })
    }

    pub fn client_ends(self) -> Self {
        self.step(Step::Ends(Side::Client))
    }

    pub fn upstream_ends(self) -> Self {
        self.step(Step::Ends(Side::Upstream))
    }

    pub fn client_resets(self) -> Self {
        self.step(Step::Resets(Side::Client))
    }

    pub fn upstream_resets(self) -> Self {
        self.step(Step::Resets(Side::Upstream))
    }

    /// Its receiving direction is gone: writing fails.
    pub fn client_is_deaf(self) -> Self {
        self.step(Step::IsDeaf(Side::Client))
    }

    /// Its receiving direction is gone: writing fails. It may still speak.
    pub fn upstream_is_deaf(self) -> Self {
        self.step(Step::IsDeaf(Side::Upstream))
    }

    /// It takes nothing for now.
    pub fn stops_taking(self, side: Side) -> Self {
        self.step(Step::IsFull { side, is_full: true })
    }

    pub fn takes_again(self, side: Side) -> Self {
        self.step(Step::IsFull { side, is_full: false })
    }

    /// The session must have asked for a connection.
    pub fn connects(self, upstream: usize, source: Source) -> Self {
        self.event(Event::Connect { upstream, source })
    }

    pub fn connected_fresh(self) -> Self {
        self.step(Step::Connected { reused: false })
    }

    pub fn connected_reused(self) -> Self {
        self.step(Step::Connected { reused: true })
    }

    /// The connection is there, but it ends before a byte of the request is taken.
    pub fn connected_dead(self, reused: bool) -> Self {
        self.step(Step::ConnectedDead { reused })
    }

    /// The connection is there, and says something before it hears anything.
    pub fn connected_speaking(self, reused: bool, says: &'static str) -> Self {
        self.step(Step::ConnectedSpeaking { reused, says })
    }

    pub fn refused(self) -> Self {
        let failure = ConnectFailure::Remote(ErrorKind::ConnectionRefused);
        self.step(Step::ConnectFailed(failure))
    }

    pub fn out_of_descriptors(self) -> Self {
        self.step(Step::ConnectFailed(ConnectFailure::Local(ErrorKind::Other)))
    }

    pub fn out_of_ports(self) -> Self {
        self.step(Step::ConnectFailed(ConnectFailure::Local(ErrorKind::AddrNotAvailable)))
    }

    pub fn after(self, time: Duration) -> Self {
        self.step(Step::After(time))
    }

    pub fn after_ms(self, ms: u64) -> Self {
        self.after(Duration::from_millis(ms))
    }

    /// The balancer is told to stop.
    pub fn drain(self) -> Self {
        self.step(Step::Drain)
    }

    /// By now exactly this has reached it, since the last look.
    pub fn client_sees(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Sees { side: Side::Client, bytes: bytes.as_ref().to_vec() })
    }

    pub fn upstream_sees(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Sees { side: Side::Upstream, bytes: bytes.as_ref().to_vec() })
    }

    /// `head`, then chunks of any size that hold `content`, then exactly `last`.
    pub fn client_sees_chunks(self, head: &str, content: &str, last: &str) -> Self {
        self.sees_chunks(Side::Client, head, content, last)
    }

    pub fn upstream_sees_chunks(self, head: &str, content: &str, last: &str) -> Self {
        self.sees_chunks(Side::Upstream, head, content, last)
    }

    fn sees_chunks(self, side: Side, head: &str, content: &str, last: &str) -> Self {
        let [head, content, last] = [head, content, last].map(|text| text.as_bytes().to_vec());
        self.step(Step::SeesChunks { side, head, content, last })
    }

    /// An answer of our own, whole; the connection survives it, as it says.
    pub fn client_sees_answer(self, status: u16) -> Self {
        self.step(Step::SeesAnswer { status, persists: true, field: "" })
    }

    /// An answer of our own, whole; it says that the connection will be closed.
    pub fn client_sees_last_answer(self, status: u16) -> Self {
        self.step(Step::SeesAnswer { status, persists: false, field: "" })
    }

    /// The answer seen last had `field` in it.
    pub fn client_sees_answer_with(self, status: u16, persists: bool, field: &'static str) -> Self {
        self.step(Step::SeesAnswer { status, persists, field })
    }

    pub fn kept(self) -> Self {
        self.event(Event::Released { keep: true })
    }

    pub fn dropped(self) -> Self {
        self.event(Event::Released { keep: false })
    }

    pub fn reported(self, status: u16, outcome: ExchangeOutcome) -> Self {
        self.event(Event::Reported { status, outcome })
    }

    /// Why the exchange that was reported last ended as it did.
    pub fn because(self, why: &'static str) -> Self {
        self.step(Step::Why(why))
    }

    pub fn half_closed(self, side: Side) -> Self {
        self.event(Event::HalfClosed(side))
    }

    pub fn closed(self) -> Self {
        self.event(Event::Closed { abort: false })
    }

    pub fn aborted(self) -> Self {
        self.event(Event::Closed { abort: true })
    }

    /// The last answer is out: the client reads its end, ends too, and only then it is over.
    pub fn lingers_then_closes(self) -> Self {
        self.half_closed(Side::Client).client_sends("noise").client_ends().closed()
    }

    pub fn holds_at_most(self, bytes: usize) -> Self {
        self.step(Step::HoldsAtMost(bytes))
    }

    /// Whether the body of what waits for the client may be worth waiting for.
    pub fn head_is_alone(self, is_alone: bool) -> Self {
        self.step(Step::HeadAlone(is_alone))
    }

    /// So many upstreams are on the live list.
    pub fn live(self, count: usize) -> Self {
        self.step(Step::Live(count))
    }

    /// Other sessions have so many exchanges from now on.
    pub fn others_have(self, exchanges: usize) -> Self {
        self.step(Step::Others(exchanges))
    }

    /// A request of another session waits for room from now on.
    pub fn another_waits(self) -> Self {
        self.step(Step::AnotherWaits)
    }

    /// The session must have asked to be woken when an upstream has room.
    pub fn waits_for_room(self) -> Self {
        self.event(Event::Queued)
    }

    /// A connection to the first upstream, which sees `request`.
    pub fn goes_upstream(self, request: impl AsRef<[u8]>) -> Self {
        self.connects(0, Source::Pooled).connected_fresh().upstream_sees(request)
    }

    /// One exchange as it should be; both connections survive it.
    pub fn one_good_exchange(self) -> Self {
        self.client_sends(GET)
            .goes_upstream(get())
            .upstream_sends(OK)
            .client_sees(OK)
            .kept()
            .reported(200, FINISHED)
    }
}
