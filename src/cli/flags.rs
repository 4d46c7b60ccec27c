//! The flags, their help, and what they mean together.
//!
//! Every default that is shown is taken from `Config::default()`: it is written once, in
//! `config.rs`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use balancebeam::config::{
    Authority, Config, DEFAULT_HEALTH_PATH, EngineKind, Forwarding, HealthConfig, Limits, Policy,
    Problem, RetryRules, StatusSet, Timeouts, WhenFull, validate,
};
use balancebeam::server::StartError;
use clap::{ArgAction, Args, Parser, Subcommand};

use super::values::{
    Seconds, Size, Trust, TrustList, Words, host, listen_address, name_of, path, percent, seconds,
    seconds_or_off, size, trust, upstream, whole, word,
};

const ENGINES: Words<EngineKind> =
    &[("threads", EngineKind::Threads), ("async", EngineKind::Async)];
const POLICIES: Words<Policy> = &[
    ("round-robin", Policy::RoundRobin),
    ("random", Policy::Random),
    ("least-requests", Policy::LeastRequests),
    ("two-choices", Policy::TwoChoices),
];
const WHEN_FULL: Words<WhenFull> = &[("wait", WhenFull::Wait), ("refuse", WhenFull::Refuse)];
const TRUE_OR_FALSE: Words<bool> = &[("true", true), ("false", false)];

/// 0 turns off what else is within `range`.
fn or_zero(range: RangeInclusive<u64>) -> RangeInclusive<u64> {
    0..=*range.end()
}

/// An HTTP/1.1 load balancer.
#[derive(Debug, Parser)]
#[command(
    name = "balancebeam",
    version,
    no_binary_name = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = "balancebeam --upstream <HOST:PORT>... [OPTIONS]\n       \
                      balancebeam demo [--bind <ADDR>]",
    after_help = "Times take a unit (500ms, 10s, 1.5m, 2h; a bare number is seconds), sizes are in bytes (K, M and G may \
                  follow).\n-h shows the flags that are needed most, --help shows all of them."
)]
pub struct Flags {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    listening: Listening,
    #[command(flatten)]
    upstreams: Upstreams,
    #[command(flatten)]
    health: Health,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    timeouts: TimeoutFlags,
    #[command(flatten)]
    forwarding: ForwardingFlags,
    #[command(flatten)]
    retries: RetryFlags,
    #[command(flatten)]
    pub logging: Logging,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start three small upstreams and a balancer in front of them, and say what to try
    Demo(Demo),
}

#[derive(Debug, Args)]
#[command(override_usage = "balancebeam demo [OPTIONS]")]
pub struct Demo {
    /// The address to listen on; port 0 lets the system choose one
    #[arg(short, long, value_name = "ADDR", value_parser = listen_address,
          default_value_t = SocketAddr::from(([127, 0, 0, 1], Config::default().bind.port())))]
    pub bind: SocketAddr,
    /// Log each exchange, too
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
struct Listening {
    /// The address to listen on; port 0 lets the system choose one
    #[arg(short, long, value_name = "ADDR", value_parser = listen_address,
          default_value_t = Config::default().bind)]
    bind: SocketAddr,
    /// How connections are driven
    #[arg(long, value_name = "ENGINE", value_parser = word(ENGINES),
          default_value = name_of(ENGINES, Config::default().engine))]
    engine: EngineKind,
    /// Worker threads [default: one a CPU]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(validate::THREADS))]
    threads: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Upstreams")]
struct Upstreams {
    /// A server to send requests to; once for each one, or several with commas between them
    #[arg(short, long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = upstream)]
    upstream: Vec<Authority>,
    /// How one of them is chosen
    #[arg(long, value_name = "POLICY", value_parser = word(POLICIES),
          default_value = name_of(POLICIES, Config::default().policy))]
    policy: Policy,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Health")]
struct Health {
    /// Time between two probes of an upstream; 0 turns active checks off
    #[arg(long, value_name = "TIME", value_parser = seconds_or_off,
          default_value_t = Seconds(HealthConfig::default().interval.unwrap_or_default()))]
    active_health_check_interval: Seconds,
    /// The path that a probe asks for; it reads the head, then resets the connection: choose a small answer
    #[arg(long, value_name = "PATH", value_parser = path,
          default_value_t = HealthConfig::default().path)]
    active_health_check_path: String,
    /// The Host that a probe asks for [default: the upstream's own name]
    #[arg(long, value_name = "HOST", hide_short_help = true, value_parser = host)]
    active_health_check_host: Option<String>,
    #[arg(long, value_name = "LIST", hide_short_help = true, help = format!(
        "The statuses that pass, such as 200-399,404 [default: {}, or {} with another path than /]",
        StatusSet::any_answer(), StatusSet::success()))]
    active_health_check_status: Option<StatusSet>,
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds, help = format!(
        "How long a probe may take [default: the interval, {} at most]",
        Seconds(HealthConfig { interval: None, ..Default::default() }.probe_timeout())))]
    active_health_check_timeout: Option<Seconds>,
    /// Failures in a row that eject an upstream (a refused connection does at once)
    #[arg(long, value_name = "N", hide_short_help = true,
          value_parser = whole::<u32>(validate::IN_A_ROW),
          default_value_t = HealthConfig::default().fall)]
    health_fall: u32,
    /// Passed probes in a row that restore it
    #[arg(long, value_name = "N", hide_short_help = true,
          value_parser = whole::<u32>(validate::IN_A_ROW),
          default_value_t = HealthConfig::default().rise)]
    health_rise: u32,
    /// Requests in a row answered with 5xx (but 501, 505), too late or malformed, that eject; 0 is
    /// never
    #[arg(long, value_name = "N", value_parser = whole::<u32>(or_zero(validate::IN_A_ROW)),
          default_value_t = HealthConfig::default().eject_after.unwrap_or(0))]
    eject_after: u32,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct LimitFlags {
    /// Requests that a client address may make within any minute; 0 is unlimited
    #[arg(long, value_name = "N", value_parser = whole::<u32>(0..=u32::MAX.into()),
          default_value_t = Limits::default().requests_per_minute)]
    max_requests_per_minute: u32,
    /// Client addresses that the rate limit remembers
    #[arg(long, value_name = "N", hide_short_help = true,
          value_parser = whole::<usize>(validate::RATE_LIMIT_CLIENTS),
          default_value_t = Limits::default().rate_limit_clients)]
    rate_limit_clients: usize,
    #[arg(long, value_name = "SIZE", hide_short_help = true,
          value_parser = size(validate::REQUEST_LINE), help = format!(
        "Bytes of a request line; more is answered 414 [default: {}, --max-head at most]",
        Size::from(Limits::default().request_line)))]
    max_request_line: Option<Size>,
    /// Bytes of a head; more is answered 431
    #[arg(long, value_name = "SIZE", hide_short_help = true,
          value_parser = size(validate::HEAD),
          default_value_t = Size::from(Limits::default().head))]
    max_head: Size,
    /// Fields in a head; more are answered 431
    #[arg(long, value_name = "N", hide_short_help = true,
          value_parser = whole::<usize>(validate::FIELDS),
          default_value_t = Limits::default().fields)]
    max_fields: usize,
    /// Bytes of a request body; more is answered 413; 0 is unlimited
    #[arg(long, value_name = "SIZE", hide_short_help = true, value_parser = size(0..=u64::MAX),
          default_value_t = Size(Limits::default().body.unwrap_or(0)))]
    max_body: Size,
    /// Client connections open at a time [default: four fifths of the descriptor limit, less 32]
    #[arg(long, value_name = "N", hide_short_help = true,
          value_parser = whole::<usize>(validate::CONNECTIONS))]
    max_connections: Option<usize>,
    /// What happens to one more if no silent connection can be closed for it: it waits in the listen
    /// queue, or is answered 503
    #[arg(long, value_name = "CHOICE", hide_short_help = true, value_parser = word(WHEN_FULL),
          default_value = name_of(WHEN_FULL, Limits::default().when_full))]
    when_full: WhenFull,
    /// Requests that one upstream has at a time; more wait; 0 is unlimited
    #[arg(long, value_name = "N", value_parser = whole::<usize>(or_zero(validate::IN_FLIGHT)),
          default_value_t = Limits::default().in_flight.unwrap_or(0))]
    max_in_flight: usize,
    #[arg(long, value_name = "N", hide_short_help = true,
          value_parser = whole::<usize>(validate::QUEUE), help = format!(
        "Requests that wait for room at an upstream (--max-in-flight); with more, some are answered 503; \
         0 lets none wait [default: {}]", Limits::default().queue))]
    max_queue: Option<usize>,
    /// Idle upstream connections kept for reuse, in all
    #[arg(long, value_name = "N", hide_short_help = true,
          value_parser = whole::<usize>(validate::POOL), default_value_t = Limits::default().pool)]
    pool_size: usize,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Timeouts")]
struct TimeoutFlags {
    /// A request head, from its first byte; then 408
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds,
          default_value_t = Seconds(Timeouts::default().head))]
    head_timeout: Seconds,
    /// A client connection without a request; then it is closed
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds,
          default_value_t = Seconds(Timeouts::default().idle))]
    idle_timeout: Seconds,
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds, help = format!(
        "A request's wait for room at an upstream (--max-in-flight); then 503 [default: {}]",
        Seconds(Timeouts::default().queue)))]
    queue_timeout: Option<Seconds>,
    /// Making a connection to an upstream; then another upstream is tried
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds,
          default_value_t = Seconds(Timeouts::default().connect))]
    connect_timeout: Seconds,
    /// The head of a response, once the request is sent; then 504
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds,
          default_value_t = Seconds(Timeouts::default().response))]
    response_timeout: Seconds,
    /// A body of which no byte moves; then 408 or 504, or a reset if an answer has begun
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds,
          default_value_t = Seconds(Timeouts::default().progress))]
    progress_timeout: Seconds,
    /// An upgraded connection, such as a WebSocket, on which no byte moves; then it is closed
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds,
          default_value_t = Seconds(Timeouts::default().tunnel))]
    tunnel_timeout: Seconds,
    /// Reading what a client still sends after the last answer to it
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds,
          default_value_t = Seconds(Timeouts::default().linger))]
    linger_timeout: Seconds,
    /// An idle upstream connection kept for reuse
    #[arg(long, value_name = "TIME", hide_short_help = true, value_parser = seconds,
          default_value_t = Seconds(Timeouts::default().pool))]
    pool_timeout: Seconds,
    /// Finishing what is in flight once told to stop; then it is cut
    #[arg(long, value_name = "TIME", value_parser = seconds,
          default_value_t = Seconds(Timeouts::default().drain))]
    drain_timeout: Seconds,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Forwarding")]
struct ForwardingFlags {
    /// Peers whose X-Forwarded-* and Forwarded fields are believed: networks or addresses with
    /// commas or spaces between them, or none
    #[arg(long, value_name = "CIDR", hide_short_help = true, value_parser = trust,
          default_values_t = [TrustList::from(Forwarding::default().trusted)])]
    trust_forwarded: Vec<TrustList>,
    /// Do not append Via to requests
    #[arg(long, hide_short_help = true)]
    no_via: bool,
    /// Append Via to responses, too
    #[arg(long, hide_short_help = true)]
    via_response: bool,
    /// Send the upstream's own name as Host instead of the client's
    #[arg(long, hide_short_help = true)]
    upstream_host: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Retries")]
struct RetryFlags {
    /// Attempts that one request may make, the first one included
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = whole::<usize>(validate::ATTEMPTS),
          default_value_t = RetryRules::default().attempts)]
    max_attempts: usize,
    /// Retries of requests already sent: percent of all requests ...
    #[arg(long, value_name = "PERCENT", hide_short_help = true,
          value_parser = percent(validate::BUDGET_PERCENT),
          default_value_t = RetryRules::default().budget_percent)]
    retry_budget: u32,
    /// ... and that many a second beside it
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = whole::<u32>(validate::BUDGET_FLOOR),
          default_value_t = RetryRules::default().budget_floor)]
    retry_floor: u32,
    /// Try ejected upstreams when no live one is left
    #[arg(long, value_name = "BOOL", hide_short_help = true, action = ArgAction::Set,
          value_parser = word(TRUE_OR_FALSE),
          default_value = name_of(TRUE_OR_FALSE, RetryRules::default().fail_open))]
    fail_open: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub struct Logging {
    /// Log each exchange, too; RUST_LOG has the last word
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

impl Flags {
    /// What was typed, as one configuration. The error is one line.
    pub fn into_config(self) -> Result<Config, String> {
        if self.upstreams.upstream.is_empty() {
            return Err(format!("{} with --upstream host:port", StartError::NoUpstream));
        }
        let is_bounded = self.limits.max_in_flight > 0;
        for (flag, is_given) in [
            ("--max-queue", self.limits.max_queue.is_some()),
            ("--queue-timeout", self.timeouts.queue_timeout.is_some()),
        ] {
            if is_given && !is_bounded {
                return Err(format!(
                    "{flag}: nothing waits without --max-in-flight; give that, too, or leave out {flag}"
                ));
            }
        }
        let config = Config {
            bind: self.listening.bind,
            upstreams: self.upstreams.upstream,
            engine: self.listening.engine,
            threads: self.listening.threads,
            policy: self.upstreams.policy,
            limits: self.limits.into_config(),
            timeouts: self.timeouts.into_config(),
            forwarding: self.forwarding.into_config()?,
            retry: RetryRules {
                attempts: self.retries.max_attempts,
                budget_percent: self.retries.retry_budget,
                budget_floor: self.retries.retry_floor,
                fail_open: self.retries.fail_open,
            },
            health: self.health.into_config(),
        };
        match &validate::validate(&config)[..] {
            [] => Ok(config),
            [problem, ..] => Err(as_flags(problem)),
        }
    }
}

/// A problem in the words of the command line. Each flag has checked its own value already.
fn as_flags(problem: &Problem) -> String {
    const FLAGS: [(&str, &str); 2] =
        [("limits.request_line", "--max-request-line"), ("limits.head", "--max-head")];
    let Problem { path, value, remedy } = problem;
    let flag = FLAGS.iter().find(|(known, _)| known == path).map_or(*path, |(_, flag)| flag);
    let named =
        |text: String, (path, flag): &(&str, &str)| text.replace(&format!("`{path}`"), flag);
    let remedy = FLAGS.iter().fold(remedy.to_string(), named);
    format!("{flag} `{value}`: {remedy}")
}

impl Health {
    fn into_config(self) -> HealthConfig {
        let interval = self.active_health_check_interval.0;
        let path = self.active_health_check_path;
        let status = self.active_health_check_status.unwrap_or_else(|| {
            let chosen = path != DEFAULT_HEALTH_PATH;
            if chosen { StatusSet::success() } else { StatusSet::any_answer() }
        });
        HealthConfig {
            interval: (!interval.is_zero()).then_some(interval),
            path,
            host: self.active_health_check_host,
            status,
            timeout: self.active_health_check_timeout.map(|timeout| timeout.0),
            fall: self.health_fall,
            rise: self.health_rise,
            eject_after: (self.eject_after > 0).then_some(self.eject_after),
        }
    }
}

impl LimitFlags {
    fn into_config(self) -> Limits {
        let head = self.max_head.in_memory();
        let request_line = self.max_request_line.map(Size::in_memory);
        Limits {
            request_line: request_line.unwrap_or(Limits::default().request_line.min(head)),
            head,
            fields: self.max_fields,
            body: (self.max_body.0 > 0).then_some(self.max_body.0),
            connections: self.max_connections,
            when_full: self.when_full,
            in_flight: (self.max_in_flight > 0).then_some(self.max_in_flight),
            queue: self.max_queue.unwrap_or(Limits::default().queue),
            pool: self.pool_size,
            requests_per_minute: self.max_requests_per_minute,
            rate_limit_clients: self.rate_limit_clients,
        }
    }
}

impl TimeoutFlags {
    fn into_config(self) -> Timeouts {
        Timeouts {
            head: self.head_timeout.0,
            idle: self.idle_timeout.0,
            queue: self.queue_timeout.map_or(Timeouts::default().queue, |timeout| timeout.0),
            connect: self.connect_timeout.0,
            response: self.response_timeout.0,
            progress: self.progress_timeout.0,
            tunnel: self.tunnel_timeout.0,
            linger: self.linger_timeout.0,
            pool: self.pool_timeout.0,
            drain: self.drain_timeout.0,
            drain_grace: Timeouts::default().drain_grace,
        }
    }
}

impl ForwardingFlags {
    fn into_config(self) -> Result<Forwarding, String> {
        let mut trusted = Vec::new();
        let all = || self.trust_forwarded.iter().flat_map(|list| &list.0);
        for trust in all() {
            match trust {
                Trust::Net(net) => trusted.push(*net),
                Trust::Nobody if all().count() == 1 => {}
                Trust::Nobody => {
                    return Err("--trust-forwarded `none`: it stands alone; leave out either it \
                                or the networks beside it"
                        .to_string());
                }
            }
        }
        Ok(Forwarding {
            trusted,
            via_request: !self.no_via,
            via_response: self.via_response,
            upstream_host: self.upstream_host,
        })
    }
}
