//! The embeddable face: starts everything, tells its address, stops and drains.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//!
//! // An upstream that answers one request …
//! let upstream = TcpListener::bind("127.0.0.1:0")?;
//! let upstream_address = upstream.local_addr()?;
//! let answering = std::thread::spawn(move || -> std::io::Result<()> {
//!     let (mut stream, _) = upstream.accept()?;
//!     let _ = stream.read(&mut [0; 4096])?;
//!     stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
//! });
//!
//! // … and a balancer in front of it.
//! let server = balancebeam::Server::builder().upstream(upstream_address).start()?;
//!
//! let mut client = TcpStream::connect(server.address())?;
//! client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer)?;
//! assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"));
//!
//! assert_eq!(server.stop().cut, 0);
//! # answering.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not here: flags and signals (`main.rs`), what a request means (`session/`).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::background::health_check::HealthCheckThread;
use crate::background::rate_limit_sweep::RateLimitThread;
use crate::background::resolve::{ResolveThread, resolve};
use crate::background::{Background, Stop};
use crate::config::{Authority, BadValue, Config, EngineKind, Problem, Timeouts, validate};
use crate::engine::Engine;
use crate::engine::connection_limit::ConnectionLimit;
use crate::engine::listener::{Acceptor, listen};
use crate::engine::threads::Threads;
use crate::engine::tokio::Tasks;
use crate::state::{ProxyState, Stats};
use crate::upstream::{Upstream, Upstreams};

/// Descriptors that the program itself needs: listener, waiting room, probes and the like.
const OWN_DESCRIPTORS: usize = 32;
/// How often it is looked whether errors are to be told that were only counted.
const ERRORS_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whether an upstream that is waited for is live, or ejected.
const STATUS_LOOK: Duration = Duration::from_millis(5);
/// Descriptors that are counted on where the system sets no limit.
const UNLIMITED: u64 = 1 << 20;

/// A running balancer. Dropping it stops and drains it.
pub struct Server {
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    state: Arc<ProxyState>,
    acceptor: Acceptor,
    connection_limit: Arc<ConnectionLimit>,
    engine: Arc<dyn Engine>,
    // They stop when they are dropped.
    _health_check: HealthCheckThread,
    _rate_limit: RateLimitThread,
    _resolve: ResolveThread,
    _errors: Background,
}

/// Gathers what a `Server` needs. Other defaults than the program's: it binds `127.0.0.1:0`, and
/// when it is stopped, idle clients are let go at once (`Timeouts::drain_grace` is zero).
#[derive(Debug)]
pub struct Builder {
    config: Config,
    /// The first upstream that could not be read.
    bad_upstream: Option<BadValue>,
}

/// One upstream at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamStatus {
    /// `host:port`, as in log lines.
    pub name: String,
    /// Whether it is chosen for requests.
    pub live: bool,
    /// Why it was ejected the last time; `None` if it never was.
    pub why: Option<String>,
    /// Requests that it has now.
    pub in_flight: usize,
}

/// Why a balancer could not start.
#[derive(Debug)]
pub enum StartError {
    /// No upstream was given.
    NoUpstream,
    /// An upstream is not `host:port`.
    Upstream(BadValue),
    /// Values in the configuration that the program cannot work with; at least one.
    Config(Vec<Problem>),
    /// The address cannot be listened on.
    Bind(SocketAddr, io::Error),
    /// An upstream's name has no address.
    Resolve(Authority, io::Error),
    /// The system refused a thread, a descriptor or the like; the text says what for.
    System(&'static str, io::Error),
}

/// How a drain ended: the exchanges that were in flight when it began, or arrived in the meantime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// The client got a whole answer: an upstream's, whatever its status, or a refusal.
    pub finished: u64,
    /// The client got a 502, 503 or 504 of balancebeam's own.
    pub failed: u64,
    /// Cut off when the drain timeout had passed.
    pub cut: u64,
}

impl Server {
    /// Starts to gather.
    pub fn builder() -> Builder {
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        let timeouts = Timeouts { drain_grace: Duration::ZERO, ..Timeouts::default() };
        Builder { config: Config { bind, timeouts, ..Config::default() }, bad_upstream: None }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what has already connected, stops accepting, and finishes what is in flight for up to
    /// the drain timeout.
    pub fn stop(mut self) -> Drained {
        self.end(None)
    }

    /// Stops at once: what is in flight is cut.
    pub fn stop_now(mut self) -> Drained {
        self.end(Some(Duration::ZERO))
    }

    /// Every upstream, in the order in which they were given.
    pub fn upstreams(&self) -> Vec<UpstreamStatus> {
        let status = |upstream: &Arc<Upstream>| UpstreamStatus {
            name: upstream.name().to_string(),
            live: upstream.is_up(),
            why: upstream.ejected_for().map(|seen| seen.to_string()),
            in_flight: upstream.in_flight(),
        };
        self.all_upstreams().iter().map(status).collect()
    }

    /// What was counted since the start. A request counts once its answer is out.
    pub fn stats(&self) -> Stats {
        self.running.as_ref().map(Running::stats).unwrap_or_default()
    }

    /// Waits until the upstream `name` (`host:port`) is live. Returns whether it is: `false` after
    /// `timeout`, or if there is no such upstream.
    pub fn wait_until_live(&self, name: &str, timeout: Duration) -> bool {
        self.wait_until(name, timeout, true)
    }

    /// Waits until the upstream `name` (`host:port`) is ejected. Returns whether it is: `false` after
    /// `timeout`, or if there is no such upstream.
    pub fn wait_until_ejected(&self, name: &str, timeout: Duration) -> bool {
        self.wait_until(name, timeout, false)
    }

    fn wait_until(&self, name: &str, timeout: Duration, live: bool) -> bool {
        let named = || self.all_upstreams().iter().filter(|upstream| upstream.name() == name);
        if named().next().is_none() {
            return false;
        }
        let begin = Instant::now();
        loop {
            if named().all(|upstream| upstream.is_up() == live) {
                return true;
            }
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(STATUS_LOOK));
        }
    }

    fn all_upstreams(&self) -> &[Arc<Upstream>] {
        self.running.as_ref().map_or(&[], |running| running.state.upstreams.all())
    }

    fn end(&mut self, drain: Option<Duration>) -> Drained {
        let Some(running) = self.running.take() else {
            return Drained { finished: 0, failed: 0, cut: 0 };
        };
        let drain = drain.unwrap_or(running.state.config.timeouts.drain);
        running.stop(drain)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("upstreams", &self.upstreams())
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl Running {
    fn stop(mut self, drain: Duration) -> Drained {
        let before = self.stats();
        let until = Instant::now() + drain;
        self.state.stop();
        // Twice: those that are idle go first, so that there is room for those that have connected,
        // which are then told as well.
        self.engine.wake_all();
        self.acceptor.stop(until);
        self.engine.wake_all();
        self.connection_limit.wait_until_empty(until.saturating_duration_since(Instant::now()));
        let cut = self.engine.end() as u64;
        self.state.errors.tell_pending(true, Instant::now());
        let stats = self.stats();
        log::info!("requests since the start: {stats}");
        Drained {
            finished: stats.finished() - before.finished(),
            failed: stats.failed() - before.failed(),
            cut,
        }
    }

    fn stats(&self) -> Stats {
        self.state.counters.stats(self.state.upstreams.failed_open())
    }
}

impl Builder {
    /// Adds an upstream: a `SocketAddr`, or a text such as `"app.example:8080"`. A text that cannot be
    /// read is the error of `start`.
    pub fn upstream<U>(mut self, upstream: U) -> Self
    where
        U: TryInto<Authority>,
        U::Error: Into<BadValue>,
    {
        match upstream.try_into() {
            Ok(upstream) => self.config.upstreams.push(upstream),
            Err(error) => _ = self.bad_upstream.get_or_insert(error.into()),
        }
        self
    }

    /// Changes anything in the configuration.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Binds, starts the engine and the background threads, and returns.
    pub fn start(self) -> Result<Server, StartError> {
        if let Some(error) = self.bad_upstream {
            return Err(StartError::Upstream(error));
        }
        let mut config = self.config;
        if config.upstreams.is_empty() {
            return Err(StartError::NoUpstream);
        }
        let problems = validate(&config);
        if !problems.is_empty() {
            return Err(StartError::Config(problems));
        }
        let addresses = config.upstreams.iter().map(|authority| {
            resolve(authority).map_err(|error| StartError::Resolve(authority.clone(), error))
        });
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let bind = |error| StartError::Bind(config.bind, error);
        let listener = listen(config.bind).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;

        if config.health.eject_after.is_some() && config.upstreams.len() == 1 {
            log::warn!(
                "--eject-after ejects no more than half of all upstreams, which is none of one"
            );
        }
        let descriptors = raise_descriptor_limit();
        let most = most_connections(config.limits.connections, descriptors);
        config.limits.connections = Some(most);
        let connection_limit = ConnectionLimit::new(most);
        let places = ConnectionLimit::places(most);
        let workers = config.threads.unwrap_or_else(num_cpus::get).max(1);
        let engine_kind = config.engine;

        let now = Instant::now();
        let upstreams = Upstreams::new(&config, addresses, rand::random());
        let state = Arc::new(ProxyState::new(config, upstreams, now));
        let system = |what| move |error| StartError::System(what, error);
        let engine: Arc<dyn Engine> = match engine_kind {
            EngineKind::Threads => Arc::new(
                Threads::start(state.clone(), workers, places, descriptors, now)
                    .map_err(system("make a waiting room"))?,
            ),
            EngineKind::Async => Arc::new(
                Tasks::start(state.clone(), workers, places, descriptors)
                    .map_err(system("start the async runtime"))?,
            ),
        };
        log::info!("{}", told_at_start(&state, address, workers));
        let acceptor =
            Acceptor::start(listener, connection_limit.clone(), state.clone(), engine.clone());
        let running = Running {
            acceptor: acceptor.map_err(system("start the accept thread"))?,
            connection_limit,
            engine,
            _health_check: HealthCheckThread::start(state.clone())
                .map_err(system("start the health-check thread"))?,
            _rate_limit: RateLimitThread::start(state.clone())
                .map_err(system("start the rate-limit thread"))?,
            _resolve: ResolveThread::start(state.clone())
                .map_err(system("start the thread that resolves names"))?,
            _errors: Background::start("error-log", tell_errors(state.clone()))
                .map_err(system("start the thread that tells of errors"))?,
            state,
        };
        Ok(Server { address, running: Some(running) })
    }
}

/// Client connections that may be open: as many as were `asked` for, or as `descriptors` carry.
fn most_connections(asked: Option<usize>, descriptors: usize) -> usize {
    let carried = (descriptors.saturating_sub(OWN_DESCRIPTORS) / 5 * 4).max(1);
    let most = asked.unwrap_or(carried).max(1);
    if most > carried {
        log::warn!(
            "max_connections={most} descriptor_limit={descriptors}: the limit carries {carried} \
             connections; raise it (ulimit -n) or lower --max-connections"
        );
    }
    most
}

/// Work for a thread: to tell of errors that were only counted, once it is time.
fn tell_errors(state: Arc<ProxyState>) -> impl Fn(&Stop) + Send + 'static {
    move |stop| {
        while !stop.wait(Instant::now() + ERRORS_INTERVAL) {
            state.errors.tell_pending(false, Instant::now());
        }
    }
}

/// What runs, in one line: version, engine, limits in force, upstreams, and when they are probed.
fn told_at_start(state: &ProxyState, address: SocketAddr, workers: usize) -> String {
    let Config { engine, limits, timeouts, health, .. } = &state.config;
    let engine = match engine {
        EngineKind::Threads => "threads",
        EngineKind::Async => "async",
    };
    let or_none = |limit: Option<u64>| limit.map_or("none".to_string(), |most| most.to_string());
    let in_flight = or_none(limits.in_flight.map(|most| most as u64));
    let per_minute = limits.requests_per_minute;
    let rate = or_none((per_minute > 0).then_some(per_minute.into()));
    let probe = match health.interval {
        Some(interval) => format!(
            "first_probe_in={interval:?} probe_path={} probe_host={}",
            health.path,
            health.host.as_deref().unwrap_or("upstream's")
        ),
        None => "probes=off".to_string(),
    };
    let upstreams = state.upstreams.all().iter().map(|upstream| {
        let addresses = upstream.addresses();
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        match upstream.authority().address() {
            Some(_) => upstream.name().to_string(),
            None => format!("{} ({})", upstream.name(), addresses.join(", ")),
        }
    });
    format!(
        "balancebeam {} engine={engine} workers={workers} listen={address} max_connections={} \
         max_head={} max_fields={} max_body={} max_in_flight={in_flight} \
         max_requests_per_minute={rate} pool_size={} drain_timeout={:?} eject_after={} {probe} \
         upstreams={}: {}",
        env!("CARGO_PKG_VERSION"),
        or_none(limits.connections.map(|most| most as u64)),
        limits.head,
        limits.fields,
        or_none(limits.body),
        limits.pool,
        timeouts.drain,
        or_none(health.eject_after.map(u64::from)),
        state.upstreams.all().len(),
        upstreams.collect::<Vec<_>>().join(", "),
    )
}

/// Raises the soft limit on open files to the hard one, and returns it. Each client connection is
/// one descriptor, each upstream connection another.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    now.unwrap_or(UNLIMITED).min(UNLIMITED) as usize
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NoUpstream => write!(f, "no upstream: give at least one"),
            StartError::Upstream(error) => write!(f, "upstream {error}"),
            StartError::Config(problems) => {
                let problems: Vec<_> = problems.iter().map(Problem::to_string).collect();
                write!(f, "the configuration has {}", problems.join("; "))
            }
            StartError::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            StartError::Resolve(authority, error) => write!(
                f,
                "cannot resolve upstream {authority}: {error}; check the name or give an address"
            ),
            StartError::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
