//! The check of command lines and values; what holds stands in `fuzz_targets/flags.rs`.
//!
//! An input is a list of arguments with a NUL behind each but the last, as the system passes them.
//! The command line is a part of the program and not of the library, so its sources are included
//! here as they are.

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use balancebeam::config::{Authority, Config, StatusSet};
use balancebeam::state::ProxyState;
use balancebeam::upstream::Upstreams;

use cli::Invocation;

#[path = "../../src/cli/mod.rs"]
mod cli;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The most upstreams with which a state is made here.
const MOST_UPSTREAMS: usize = 64;

pub fn check(input: &[u8]) {
    let arguments: Vec<OsString> =
        input.split(|b| *b == 0).map(|argument| OsString::from_vec(argument.to_vec())).collect();
    for argument in arguments.iter().filter_map(|argument| argument.to_str()) {
        check_shown::<Authority>(argument);
        check_shown::<StatusSet>(argument);
    }
    match cli::parse(arguments) {
        Err(line) => {
            assert!(!line.trim().is_empty(), "a refusal says why");
            assert!(!line.chars().any(char::is_control), "a refusal is one line: {line:?}");
        }
        Ok(Invocation::Tell(text)) => {
            assert!(!text.to_string().is_empty(), "there is a text to show")
        }
        Ok(Invocation::Demo { bind, verbosity }) => {
            assert_eq!(bind.to_string().parse(), Ok(bind), "an address");
            assert!(usize::from(verbosity) <= input.len(), "each -v was typed");
        }
        Ok(Invocation::Balance { config, verbosity }) => {
            assert!(usize::from(verbosity) <= input.len(), "each -v was typed");
            check_config(*config);
        }
    }
}

/// What a value is shown as is the same value, on one line.
fn check_shown<T>(text: &str)
where
    T: FromStr + Display + PartialEq,
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(value) => {
            let shown = value.to_string();
            assert!(shown.parse::<T>().is_ok_and(|again| again == value), "{shown}");
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
        Err(why) => assert!(!why.to_string().is_empty(), "a refusal says why"),
    }
}

/// The ranges that the README and `--help` tell.
fn check_config(config: Config) {
    let problems = balancebeam::config::validate(&config);
    assert!(problems.is_empty(), "the flags let {problems:?} pass");
    let limits = &config.limits;
    let within = [
        ("threads", config.threads.unwrap_or(1), 1..=1024),
        ("max-request-line", limits.request_line, 64..=32 * 1024),
        ("max-head", limits.head, 1024..=32 * 1024),
        ("max-fields", limits.fields, 1..=256),
        ("max-connections", limits.connections.unwrap_or(1), 1..=1_000_000),
        ("pool-size", limits.pool, 0..=1_000_000),
        ("rate-limit-clients", limits.rate_limit_clients, 1..=10_000_000),
        ("max-attempts", config.retry.attempts, 1..=1000),
        ("retry-budget", config.retry.budget_percent as usize, 0..=1000),
        ("retry-floor", config.retry.budget_floor as usize, 0..=1_000_000),
        ("health-fall", config.health.fall as usize, 1..=1_000_000),
        ("health-rise", config.health.rise as usize, 1..=1_000_000),
        ("eject-after", config.health.eject_after.unwrap_or(1) as usize, 1..=1_000_000),
        ("max-in-flight", limits.in_flight.unwrap_or(1), 1..=1_000_000),
        ("max-queue", limits.queue, 0..=1_000_000),
    ];
    for (flag, value, range) in within {
        assert!(range.contains(&value), "--{flag} {value}");
    }
    assert!(limits.request_line <= limits.head, "a line is a part of a head");
    assert_ne!(limits.body, Some(0), "0 is unlimited");
    let timeouts = &config.timeouts;
    let deadlines = [
        timeouts.head,
        timeouts.idle,
        timeouts.queue,
        timeouts.connect,
        timeouts.response,
        timeouts.progress,
        timeouts.tunnel,
        timeouts.linger,
        timeouts.pool,
        timeouts.drain,
        config.health.probe_timeout(),
    ];
    assert!(deadlines.iter().all(|time| !time.is_zero() && *time <= YEAR), "{deadlines:?}");
    assert!(config.health.interval.is_none_or(|time| !time.is_zero() && time <= YEAR));
    assert!(!config.upstreams.is_empty(), "somebody to send to");
    assert!(config.upstreams.iter().all(|upstream| upstream.port() > 0));
    let path = &config.health.path;
    assert!(path.starts_with('/') && !path.bytes().any(|b| b <= b' ' || b == 0x7f), "{path:?}");
    check_state(config);
}

/// A state can be made of it, and somebody chosen.
fn check_state(config: Config) {
    if config.upstreams.len() > MOST_UPSTREAMS {
        return;
    }
    let now = Instant::now();
    let addresses = config.upstreams.iter().map(|_| vec![([127, 0, 0, 1], 1).into()]).collect();
    let upstreams = Upstreams::new(&config, addresses, 1);
    let state = ProxyState::new(config, upstreams, now);
    assert!(state.upstreams.pick(&[], now).is_ok(), "all are live at first");
}
