//! The only validator of a configuration: ranges, and what values mean together.
//!
//! Flags take their ranges from here, and the library checks what its user filled in.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::{BadValue, Config, Limits, Size, masked};
use crate::message::target;

const MILLION: u64 = 1_000_000;

/// Worker threads.
pub const THREADS: RangeInclusive<u64> = 1..=1024;
/// Bytes of a request line.
pub const REQUEST_LINE: RangeInclusive<u64> = 64..=Limits::MAX_HEAD as u64;
/// Bytes of a head.
pub const HEAD: RangeInclusive<u64> = 1024..=Limits::MAX_HEAD as u64;
/// Fields of a head.
pub const FIELDS: RangeInclusive<u64> = 1..=Limits::MAX_FIELDS as u64;
/// Client connections open at a time.
pub const CONNECTIONS: RangeInclusive<u64> = 1..=MILLION;
/// Exchanges that one upstream has at a time.
pub const IN_FLIGHT: RangeInclusive<u64> = 1..=MILLION;
/// Requests that wait for capacity.
pub const QUEUE: RangeInclusive<u64> = 0..=MILLION;
/// Idle upstream connections.
pub const POOL: RangeInclusive<u64> = 0..=MILLION;
/// Clients that the rate limit remembers.
pub const RATE_LIMIT_CLIENTS: RangeInclusive<u64> = 1..=10 * MILLION;
/// Attempts of one request.
pub const ATTEMPTS: RangeInclusive<u64> = 1..=1000;
/// Retries in percent of all requests.
pub const BUDGET_PERCENT: RangeInclusive<u64> = 0..=1000;
/// Retries a second beside those.
pub const BUDGET_FLOOR: RangeInclusive<u64> = 0..=MILLION;
/// Observations in a row that eject or restore.
pub const IN_A_ROW: RangeInclusive<u64> = 1..=MILLION;
/// The longest time: past a year, "off" was meant.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

const _: () = assert!(Limits::MAX_HEAD < crate::buffer::SIZE);

/// One value that the program cannot work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The value's place in [`Config`], such as `limits.head`.
    pub path: &'static str,
    /// The value as it was given.
    pub value: String,
    /// What to give instead. Other values are named by their paths, in backticks.
    pub remedy: Cow<'static, str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`: {}", self.path, self.value, self.remedy)
    }
}

/// Everything in `config` that the program cannot work with.
pub fn validate(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    numbers(config, &mut problems);
    durations(config, &mut problems);
    let Config { limits, health, .. } = config;
    if limits.request_line > limits.head {
        let head = Size::from(limits.head);
        let remedy = format!(
            "a request line is part of a head; give at most `limits.head`, which is {head}"
        );
        let value = Size::from(limits.request_line).to_string();
        problems.push(Problem { path: "limits.request_line", value, remedy: remedy.into() });
    }
    let mut add = |path, checked: Result<(), BadValue>| {
        let problem = |BadValue { value, remedy }| Problem { path, value, remedy };
        problems.extend(checked.err().map(problem));
    };
    add("health.path", check_probe_path(&health.path));
    add("health.host", health.host.as_deref().map_or(Ok(()), check_probe_host));
    config.forwarding.trusted.iter().for_each(|net| add("forwarding.trusted", check_net(net)));
    problems
}

fn numbers(config: &Config, problems: &mut Vec<Problem>) {
    let Config { limits, retry, health, .. } = config;
    let optional = |number: Option<usize>| number.map(|number| number as u64);
    for (path, number, range) in [
        ("threads", optional(config.threads), THREADS),
        ("limits.request_line", Some(limits.request_line as u64), REQUEST_LINE),
        ("limits.head", Some(limits.head as u64), HEAD),
        ("limits.fields", Some(limits.fields as u64), FIELDS),
        ("limits.connections", optional(limits.connections), CONNECTIONS),
        ("limits.in_flight", optional(limits.in_flight), IN_FLIGHT),
        ("limits.queue", Some(limits.queue as u64), QUEUE),
        ("limits.pool", Some(limits.pool as u64), POOL),
        ("limits.rate_limit_clients", Some(limits.rate_limit_clients as u64), RATE_LIMIT_CLIENTS),
        ("retry.attempts", Some(retry.attempts as u64), ATTEMPTS),
        ("retry.budget_percent", Some(retry.budget_percent.into()), BUDGET_PERCENT),
        ("retry.budget_floor", Some(retry.budget_floor.into()), BUDGET_FLOOR),
        ("health.fall", Some(health.fall.into()), IN_A_ROW),
        ("health.rise", Some(health.rise.into()), IN_A_ROW),
        ("health.eject_after", health.eject_after.map(u64::from), IN_A_ROW),
    ] {
        if let Some(number) = number.filter(|number| !range.contains(number)) {
            let remedy = format!("give a number from {} to {}", range.start(), range.end()).into();
            problems.push(Problem { path, value: number.to_string(), remedy });
        }
    }
}

fn durations(config: &Config, problems: &mut Vec<Problem>) {
    let Config { timeouts, health, .. } = config;
    for (path, duration, may_be_zero) in [
        ("timeouts.head", Some(timeouts.head), false),
        ("timeouts.idle", Some(timeouts.idle), false),
        ("timeouts.queue", Some(timeouts.queue), false),
        ("timeouts.connect", Some(timeouts.connect), false),
        ("timeouts.response", Some(timeouts.response), false),
        ("timeouts.progress", Some(timeouts.progress), false),
        ("timeouts.tunnel", Some(timeouts.tunnel), false),
        ("timeouts.linger", Some(timeouts.linger), false),
        ("timeouts.pool", Some(timeouts.pool), false),
        ("timeouts.drain", Some(timeouts.drain), false),
        ("timeouts.drain_grace", Some(timeouts.drain_grace), true),
        ("health.interval", health.interval, false),
        ("health.timeout", health.timeout, false),
    ] {
        let Some(duration) = duration else { continue };
        if duration > LONGEST || duration.is_zero() && !may_be_zero {
            let remedy = if may_be_zero {
                "give a year at most"
            } else {
                "give more than nothing, and a year at most"
            };
            problems.push(Problem { path, value: format!("{duration:?}"), remedy: remedy.into() });
        }
    }
}

/// Whether probes can ask for `path`.
pub fn check_probe_path(path: &str) -> Result<(), BadValue> {
    if path.contains('#') {
        let remedy = "a fragment is not sent; leave out the # and what follows it";
        return Err(BadValue::new(path, remedy));
    }
    if path.starts_with('/') && !path.chars().any(|c| c == ' ' || c.is_control()) {
        return Ok(());
    }
    let remedy =
        "give a path that begins with / and has no space or control character, such as /health";
    Err(BadValue::new(path, remedy))
}

/// Whether probes can ask for `host`.
pub fn check_probe_host(host: &str) -> Result<(), BadValue> {
    if !host.is_empty() && target::is_host(host.as_bytes()) {
        return Ok(());
    }
    let remedy = "give a host or host:port, such as app.example or app.example:8080";
    Err(BadValue::new(&masked(host), remedy))
}

/// Whether `net` can be trusted: `10.0.0.1/8` may be meant as all of `10.0.0.0/8`, or as one address.
pub fn check_net(net: &IpNet) -> Result<(), BadValue> {
    let whole = net.trunc();
    if *net == whole {
        return Ok(());
    }
    let one = IpNet::from(net.addr());
    let remedy = format!("host bits are set; give {whole}, or {one} for the one address");
    Err(BadValue::new(&net.to_string(), remedy))
}
