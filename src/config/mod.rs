//! What the operator decided, as plain typed values with the defaults that the command line shows.
//!
//! Every limit and every deadline of the program is a field here, with its unit. Not here: reading
//! flags (`cli/`), opening sockets, resolving names (`server.rs`).

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::http1::head::HeadLimits;

mod authority;
mod size;
pub mod validate;

pub use authority::{Authority, masked};
pub use size::Size;
pub use validate::{Problem, validate};

/// Everything a balancer needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on; port 0 lets the system choose one.
    pub bind: SocketAddr,
    /// The upstreams, in the order in which they were given. At least one to start.
    pub upstreams: Vec<Authority>,
    /// How connections are driven.
    pub engine: EngineKind,
    /// Worker threads; `None` is one a CPU.
    pub threads: Option<usize>,
    /// How an upstream is chosen among the live ones.
    pub policy: Policy,
    /// What peers may send, and how much is kept for them.
    pub limits: Limits,
    /// How long each phase may last.
    pub timeouts: Timeouts,
    /// What is told to the other side about the way a message took.
    pub forwarding: Forwarding,
    /// When and how often a request is sent again.
    pub retry: RetryRules,
    /// When an upstream may be chosen, and how it is probed.
    pub health: HealthConfig,
}

/// How connections are driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// A CPU-sized pool of worker threads that wait together.
    #[default]
    Threads,
    /// A tokio task for each connection.
    Async,
}

/// How an upstream is chosen among the live ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// One after the other, from a random start.
    #[default]
    RoundRobin,
    /// Any, with equal chance.
    Random,
    /// The one with the fewest exchanges in flight.
    LeastRequests,
    /// The better of two drawn at random.
    TwoChoices,
}

/// What happens to a new connection when `Limits::connections` are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits in the listen queue until another one ends.
    #[default]
    Wait,
    /// It is answered 503 and closed.
    Refuse,
}

/// What peers may send, and how much is kept for them. What follows when it is more: rules 8, 15,
/// 45, 46 and 47 of `docs/protocol.md`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request line, without its line end; more is answered 414.
    pub request_line: usize,
    /// Bytes of a head (first line, fields, empty line); more is answered 431. The same for a
    /// trailer section, which is a part of a body: more is answered 400.
    pub head: usize,
    /// Fields in a head; more is answered 431. The same for a trailer section: more is answered
    /// 400.
    pub fields: usize,
    /// Bytes of a request body; more is answered 413. `None` is unlimited.
    pub body: Option<u64>,
    /// Client connections open at a time; `None` is four fifths of the descriptor limit less 32.
    pub connections: Option<usize>,
    /// What happens to one more.
    pub when_full: WhenFull,
    /// Exchanges that one upstream has at a time; `None` is unlimited. More wait.
    pub in_flight: Option<usize>,
    /// Requests that wait for an upstream to have room; one more is answered 503, or another one
    /// is.
    pub queue: usize,
    /// Idle upstream connections kept for reuse, in all.
    pub pool: usize,
    /// Requests a client may make within any minute; 0 is unlimited.
    pub requests_per_minute: u32,
    /// Clients that the rate limit remembers; one more evicts the one seen longest ago.
    pub rate_limit_clients: usize,
}

/// How long each phase may last.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// A request head, from its first byte.
    pub head: Duration,
    /// A client connection without a request.
    pub idle: Duration,
    /// Waiting for an upstream to have room.
    pub queue: Duration,
    /// Making one connection to an upstream.
    pub connect: Duration,
    /// From the end of the request to the head of the response.
    pub response: Duration,
    /// A body without a byte moved.
    pub progress: Duration,
    /// An upgraded connection without a byte moved.
    pub tunnel: Duration,
    /// Reading what a client still sends after our last answer to it.
    pub linger: Duration,
    /// An idle upstream connection in the pool.
    pub pool: Duration,
    /// Finishing what is in flight once told to stop.
    pub drain: Duration,
    /// How long an idle client may still begin a request once told to stop: one that was on its way.
    /// May be zero: then only what has arrived by then is served.
    pub drain_grace: Duration,
}

/// What is told to the other side about the way a message took.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// Peers whose `X-Forwarded-*` and `Forwarded` fields are believed.
    pub trusted: Vec<IpNet>,
    /// Append `Via` to requests (RFC 9110 §7.6.3).
    pub via_request: bool,
    /// Append `Via` to responses.
    pub via_response: bool,
    /// Send the upstream's own name as `Host` instead of the client's.
    pub upstream_host: bool,
}

/// When and how often a request is sent again.
#[derive(Clone, Debug)]
pub struct RetryRules {
    /// Attempts that one request may make, the first one included. At least 1.
    pub attempts: usize,
    /// Retries after bytes were written to a fresh connection: percent of all requests …
    pub budget_percent: u32,
    /// … and that many a second beside it.
    pub budget_floor: u32,
    /// Try ejected upstreams when no live one is left.
    pub fail_open: bool,
}

/// When an upstream may be chosen, and how it is probed.
#[derive(Clone, Debug)]
pub struct HealthConfig {
    /// Time between two probes of an upstream; `None` turns active checks off.
    pub interval: Option<Duration>,
    /// The path that a probe asks for.
    pub path: String,
    /// The `Host` of a probe, a host or `host:port`; `None` is the upstream's own name.
    pub host: Option<String>,
    /// What a probe may be answered.
    pub status: StatusSet,
    /// How long one probe may take; `None` is the interval, 5 s at most.
    pub timeout: Option<Duration>,
    /// Bad observations in a row that eject. At least 1.
    pub fall: u32,
    /// Good probes in a row that restore. At least 1.
    pub rise: u32,
    /// Real requests in a row that are answered with an error of the server's own, or not in time,
    /// that eject. At least 1; `None` turns that off.
    pub eject_after: Option<u32>,
}

/// The path that is probed unless another one is given.
pub const DEFAULT_HEALTH_PATH: &str = "/";

impl Default for Config {
    fn default() -> Self {
        Config {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 1100),
            upstreams: Vec::new(),
            engine: EngineKind::default(),
            threads: None,
            policy: Policy::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            forwarding: Forwarding::default(),
            retry: RetryRules::default(),
            health: HealthConfig::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_line: 8 * 1024,
            head: 16 * 1024,
            fields: 100,
            body: None,
            connections: None,
            when_full: WhenFull::default(),
            in_flight: None,
            queue: 1024,
            pool: 1024,
            requests_per_minute: 0,
            rate_limit_clients: 100_000,
        }
    }
}

impl Limits {
    /// The largest `head` that can be asked for, in bytes: it must fit into one buffer
    /// (`buffer::SIZE`).
    pub const MAX_HEAD: usize = 32 * 1024;
    /// The largest `fields` that can be asked for.
    pub const MAX_FIELDS: usize = crate::http1::head::MAX_FIELDS;

    /// How large the head of a response may be: its first line has no limit of its own.
    pub fn of_response_head(&self) -> HeadLimits {
        HeadLimits { line: self.head, head: self.head, fields: self.fields }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            queue: Duration::from_secs(1),
            connect: Duration::from_secs(2),
            response: Duration::from_secs(60),
            progress: Duration::from_secs(60),
            tunnel: Duration::from_secs(3600),
            linger: Duration::from_secs(2),
            pool: Duration::from_secs(50),
            drain: Duration::from_secs(30),
            drain_grace: Duration::from_millis(300),
        }
    }
}

impl Default for Forwarding {
    fn default() -> Self {
        Forwarding {
            trusted: loopback(),
            via_request: true,
            via_response: false,
            upstream_host: false,
        }
    }
}

/// The peers that are trusted unless others are named: this machine itself.
pub fn loopback() -> Vec<IpNet> {
    ["127.0.0.0/8", "::1/128"].iter().filter_map(|net| net.parse().ok()).collect()
}

impl Default for RetryRules {
    fn default() -> Self {
        RetryRules { attempts: 16, budget_percent: 20, budget_floor: 10, fail_open: true }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        HealthConfig {
            interval: Some(Duration::from_secs(10)),
            path: DEFAULT_HEALTH_PATH.to_string(),
            host: None,
            status: StatusSet::any_answer(),
            timeout: None,
            fall: 2,
            rise: 1,
            eject_after: None,
        }
    }
}

impl HealthConfig {
    /// How long one probe may take.
    pub fn probe_timeout(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(5);
        self.timeout.unwrap_or_else(|| self.interval.unwrap_or(LONGEST).min(LONGEST))
    }
}

/// The statuses that a probe may be answered, such as `200-399,404`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(Vec<RangeInclusive<u16>>);

impl StatusSet {
    /// 200–499: the upstream answers, whatever it thinks of the default path.
    pub fn any_answer() -> Self {
        StatusSet(vec![200..=499])
    }

    /// 200–299: what is asked of a path that was chosen for the purpose.
    pub fn success() -> Self {
        StatusSet(vec![200..=299])
    }

    /// Whether `status` passes.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl FromStr for StatusSet {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = || BadValue::new(text, "give statuses from 100 to 599, such as 200-399,404");
        let number = |n: &str| match n.parse::<u16>() {
            Ok(status) if (100..=599).contains(&status) && n.len() == 3 => Ok(status),
            _ => Err(bad()),
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (number(low.trim())?, number(high.trim())?);
            if low > high {
                let remedy = format!("the range {low}-{high} is reversed; give {high}-{low}");
                return Err(BadValue::new(text, remedy));
            }
            ranges.push(low..=high);
        }
        Ok(StatusSet(ranges))
    }
}

impl fmt::Display for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

/// A value that cannot be used, and what to give instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    value: String,
    remedy: Cow<'static, str>,
}

impl BadValue {
    /// `value` as it was given; `remedy` tells what would be accepted.
    pub fn new(value: &str, remedy: impl Into<Cow<'static, str>>) -> Self {
        BadValue { value: value.to_string(), remedy: remedy.into() }
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.value, self.remedy)
    }
}

impl std::error::Error for BadValue {}

impl From<Infallible> for BadValue {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests;
