//! The command line: flags as typed, turned into a `Config` as meant.
//!
//! Whatever is wrong with it becomes one line that names the input and the remedy. Not here: what a
//! value may look like (`values.rs`), the flags and their help (`flags.rs`), the wording of a
//! refusal (`errors.rs`), anything that happens afterwards (`main.rs`).

mod errors;
mod flags;
mod values;

use std::ffi::OsString;
use std::net::SocketAddr;

use balancebeam::Config;
use balancebeam::config::masked;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use flags::{Command, Flags};

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Balance as configured. `verbosity` counts the `-v`.
    Balance { config: Box<Config>, verbosity: u8 },
    /// Show what a balancer does, listening there.
    Demo { bind: SocketAddr, verbosity: u8 },
    /// Print the help or the version.
    Tell(clap::Error),
}

/// Reads the arguments that follow the program's name. The error is one line, without an end.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, String> {
    let mut known = Vec::new();
    for arg in args {
        known.push(arg.into_string().map_err(|raw| errors::not_utf8(&raw))?);
    }
    if known.first().is_some_and(|first| first == "help") {
        known = help_of(&known[1..])?;
    }
    let of_demo = known.first().is_some_and(|first| first == "demo");
    let flags = match read(known) {
        Ok(flags) => flags,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Invocation::Tell(e));
        }
        Err(error) => return Err(errors::one_line(&error, of_demo)),
    };
    match flags.command {
        Some(Command::Demo(demo)) => {
            Ok(Invocation::Demo { bind: demo.bind, verbosity: demo.verbose })
        }
        None => {
            let verbosity = flags.logging.verbose;
            let config = Box::new(flags.into_config().map_err(|line| errors::escaped(&line))?);
            Ok(Invocation::Balance { config, verbosity })
        }
    }
}

/// What `help`, followed by `rest`, asks for, as flags.
fn help_of(rest: &[String]) -> Result<Vec<String>, String> {
    let flags: &[&str] = match rest {
        [] => &["--help"],
        [command] if command == "demo" => &["demo", "--help"],
        [other, ..] => {
            return Err(errors::escaped(&format!(
                "`{}` has no help of its own; balancebeam help tells of all flags, \
                 balancebeam help demo of the demo",
                masked(other)
            )));
        }
    };
    Ok(flags.iter().map(ToString::to_string).collect())
}

fn read(args: Vec<String>) -> Result<Flags, clap::Error> {
    // `--threads -5` is a bad value of --threads, not an unknown flag.
    let command = Flags::command().mut_args(|arg| {
        let takes_value = arg.get_action().takes_values();
        arg.allow_negative_numbers(takes_value)
    });
    Flags::from_arg_matches(&command.try_get_matches_from(args)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use balancebeam::StartError;
    use balancebeam::config::{HealthConfig, Limits, Policy, WhenFull};

    fn invocation(line: &str) -> Result<Invocation, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn config(line: &str) -> Config {
        match invocation(&format!("-u a:80 {line}")) {
            Ok(Invocation::Balance { config, .. }) => *config,
            other => panic!("`{line}` gave {other:?}"),
        }
    }

    #[test]
    fn the_flags_are_sound() {
        Flags::command().debug_assert();
    }

    /// A flag nobody typed changes nothing: help, parser and library agree on every default.
    #[test]
    fn no_flags_mean_the_default_configuration() {
        let plain = Config { upstreams: vec!["a:80".parse().unwrap()], ..Config::default() };
        assert_eq!(format!("{:?}", config("")), format!("{plain:?}"));
    }

    #[test]
    fn flags_mean_what_they_say() {
        type Fact = fn(&Config) -> bool;
        let secs = Duration::from_secs;
        assert_eq!(config("--tunnel-timeout 31536000").timeouts.tunnel, secs(31_536_000));
        let facts: &[(&str, Fact)] = &[
            ("-b 127.0.0.1:0", |c| c.bind.to_string() == "127.0.0.1:0"),
            ("--bind [::1]:1100", |c| c.bind.to_string() == "[::1]:1100"),
            ("--bind=[::]:80", |c| c.bind.is_ipv6()),
            ("-u b:81 --upstream [::1]:82", |c| c.upstreams.len() == 3),
            ("-u b:81", |c| c.upstreams[1].to_string() == "b:81"),
            ("-u b:81,[::1]:82,http://c:83/", |c| {
                let shown: Vec<_> = c.upstreams.iter().map(|u| u.to_string()).collect();
                shown == ["a:80", "b:81", "[::1]:82", "c:83"]
            }),
            ("-u HTTP://b:81", |c| c.upstreams[1].to_string() == "b:81"),
            ("--policy two-choices", |c| c.policy == Policy::TwoChoices),
            ("--policy least-requests", |c| c.policy == Policy::LeastRequests),
            ("--engine threads --threads 3", |c| c.threads == Some(3)),
            ("--max-request-line 2K", |c| c.limits.request_line == 2048),
            ("--max-head 4K", |c| (c.limits.head, c.limits.request_line) == (4096, 4096)),
            ("--max-head 32k", |c| c.limits.head == Limits::MAX_HEAD),
            ("--max-fields 7", |c| c.limits.fields == 7),
            ("--max-body 3GiB", |c| c.limits.body == Some(3 << 30)),
            ("--max-body 0", |c| c.limits.body.is_none()),
            ("--max-connections 9", |c| c.limits.connections == Some(9)),
            ("--when-full refuse", |c| c.limits.when_full == WhenFull::Refuse),
            ("--max-in-flight 7", |c| c.limits.in_flight == Some(7)),
            ("--max-in-flight 0", |c| c.limits.in_flight.is_none()),
            ("--max-in-flight 1 --max-queue 0", |c| c.limits.queue == 0),
            ("--max-in-flight 1 --queue-timeout 0.2", |c| c.timeouts.queue.as_millis() == 200),
            ("--pool-size 0", |c| c.limits.pool == 0),
            ("--max-requests-per-minute 5", |c| c.limits.requests_per_minute == 5),
            ("--rate-limit-clients 6", |c| c.limits.rate_limit_clients == 6),
            ("--head-timeout 0.5", |c| c.timeouts.head == Duration::from_millis(500)),
            ("--idle-timeout 2", |c| c.timeouts.idle.as_secs() == 2),
            ("--connect-timeout .25", |c| c.timeouts.connect.as_millis() == 250),
            ("--response-timeout 3", |c| c.timeouts.response.as_secs() == 3),
            ("--progress-timeout 4", |c| c.timeouts.progress.as_secs() == 4),
            ("--linger-timeout 5", |c| c.timeouts.linger.as_secs() == 5),
            ("--pool-timeout 6", |c| c.timeouts.pool.as_secs() == 6),
            ("--drain-timeout 7", |c| c.timeouts.drain.as_secs() == 7),
            ("--drain-timeout 10s", |c| c.timeouts.drain.as_secs() == 10),
            ("--drain-timeout 500ms", |c| c.timeouts.drain.as_millis() == 500),
            ("--drain-timeout 1.5m", |c| c.timeouts.drain.as_secs() == 90),
            ("--tunnel-timeout 2h", |c| c.timeouts.tunnel.as_secs() == 7200),
            ("--active-health-check-interval 0s", |c| c.health.interval.is_none()),
            ("--trust-forwarded none", |c| c.forwarding.trusted.is_empty()),
            ("--trust-forwarded 10.0.0.0/8,::1", |c| c.forwarding.trusted.len() == 2),
            ("--trust-forwarded 10.0.0.0/8 --trust-forwarded ::ffff:1.2.3.4", |c| {
                let shown: Vec<_> = c.forwarding.trusted.iter().map(|n| n.to_string()).collect();
                shown == ["10.0.0.0/8", "1.2.3.4/32"]
            }),
            ("--no-via", |c| !c.forwarding.via_request && !c.forwarding.via_response),
            ("--via-response", |c| c.forwarding.via_request && c.forwarding.via_response),
            ("--upstream-host", |c| c.forwarding.upstream_host),
            ("--max-attempts 1", |c| c.retry.attempts == 1),
            ("--retry-budget 0 --retry-floor 0", |c| {
                (c.retry.budget_percent, c.retry.budget_floor) == (0, 0)
            }),
            ("--fail-open false", |c| !c.retry.fail_open),
            ("--active-health-check-interval 0", |c| c.health.interval.is_none()),
            ("--active-health-check-interval 1", |c| {
                c.health.interval == Some(Duration::from_secs(1))
            }),
            ("--active-health-check-timeout 8", |c| c.health.probe_timeout().as_secs() == 8),
            ("--active-health-check-host a.example:8", |c| {
                c.health.host.as_deref() == Some("a.example:8")
            }),
            ("--eject-after 5", |c| c.health.eject_after == Some(5)),
            ("--eject-after 0", |c| c.health.eject_after.is_none()),
            ("--health-fall 4 --health-rise 3", |c| (c.health.fall, c.health.rise) == (4, 3)),
        ];
        for (line, holds) in facts {
            let config = config(line);
            assert!(holds(&config), "`{line}` gave {config:?}");
        }
    }

    #[test]
    fn a_chosen_path_must_succeed_the_default_one_need_only_answer() {
        let passes = |line: &str| {
            let HealthConfig { status, .. } = config(line).health;
            [204, 302, 404, 500].map(|code| status.contains(code))
        };
        assert_eq!(passes(""), [true, true, true, false]);
        assert_eq!(passes("--active-health-check-path /up"), [true, false, false, false]);
        assert_eq!(
            passes("--active-health-check-path /up --active-health-check-status 404,500-599"),
            [false, false, true, true]
        );
    }

    #[test]
    fn the_demo_has_its_own_address() {
        for (line, address, v) in [
            ("demo", "127.0.0.1:1100", 0),
            ("demo -v --bind 127.0.0.1:0", "127.0.0.1:0", 1),
            ("demo -b [::1]:7 -vv", "[::1]:7", 2),
        ] {
            match invocation(line) {
                Ok(Invocation::Demo { bind, verbosity }) => {
                    assert_eq!((bind.to_string().as_str(), verbosity), (address, v), "{line}");
                }
                other => panic!("`{line}` gave {other:?}"),
            }
        }
    }

    /// The default that the help shows, pasted behind the flag, changes nothing.
    #[test]
    fn each_default_can_be_given_as_it_is_shown() {
        let plain = format!("{:?}", config(""));
        let mut given = 0;
        for arg in Flags::command().get_arguments() {
            let Some(flag) = arg.get_long().filter(|_| arg.get_action().takes_values()) else {
                continue;
            };
            let values: Vec<_> =
                arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            for shown in [values.join(" "), values.join(",")].iter().filter(|v| !v.is_empty()) {
                let line = ["-u", "a:80", &format!("--{flag}"), shown].map(OsString::from);
                match parse(line) {
                    Ok(Invocation::Balance { config, .. }) => {
                        assert_eq!(format!("{config:?}"), plain, "--{flag} {shown}");
                    }
                    other => panic!("--{flag} {shown}: {other:?}"),
                }
                given += 1;
            }
        }
        assert!(given > 20, "{given} defaults are shown");
        let spaced = ["-u", "a:80", "--trust-forwarded", "127.0.0.0/8 ::1/128"];
        assert!(matches!(parse(spaced.map(OsString::from)), Ok(Invocation::Balance { .. })));
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for line in [
            "-h",
            "--help",
            "--version",
            "-V",
            "-u a:80 --help",
            "demo --help",
            "help",
            "help demo",
        ] {
            assert!(matches!(invocation(line), Ok(Invocation::Tell(_))), "{line}");
        }
    }

    /// Each row: what is typed, and what the one line must name.
    #[test]
    fn a_refusal_is_one_line_that_names_the_input_and_the_remedy() {
        for (line, named, remedy) in [
            ("", "upstream", "--upstream host:port"),
            ("-b 1100", "--bind `1100`", "0.0.0.0:1100"),
            ("-b localhost:1100", "`localhost:1100`", "0.0.0.0:1100"),
            ("-b", "--bind <ADDR>", "needs a value"),
            ("-b 1.1.1.1:1 -b 1.1.1.1:2", "--bind", "once"),
            ("-u host", "--upstream `host`", "add a port"),
            ("-u https://a:80", "`https://a:80`", "TLS"),
            ("-u http://a", "`http://a`", "add a port"),
            ("-u ftp://a:80", "`ftp://a:80`", "http://"),
            ("-u http://a:80/app", "`http://a:80/app`", "path"),
            ("-u http://a:80//", "`http://a:80//`", "path"),
            ("-u http://a:80?x=1", "`http://a:80?x=1`", "query"),
            ("-u a:80/", "`a:80/`", "path"),
            ("-u me:secret@a:80", "--upstream `***@a:80`", "user"),
            ("-u http://me@a:80/", "`http://***@a:80/`", "user"),
            ("-u a:80,weight=2", "--upstream `weight=2`", "configuration file"),
            ("-u a:80,backup", "--upstream `backup`", "configuration file"),
            ("-u a:80,", "--upstream ``", "an entry is empty"),
            ("-u a:80,,b:80", "--upstream ``", "an entry is empty"),
            ("-u [::1]", "--upstream `[::1]`", "add a port"),
            ("-u http://[::1]/", "`http://[::1]/`", "add a port"),
            ("-u unix:/tmp/x", "--upstream `unix:/tmp/x`", "Unix sockets are not supported"),
            ("-u unix:///tmp/x", "`unix:///tmp/x`", "not supported; give host:port"),
            ("-u unix:x.sock", "`unix:x.sock`", "Unix sockets are not supported"),
            ("help nothing", "`nothing`", "balancebeam help demo"),
            ("-u a:80 --polizy random", "`--polizy`", "--policy"),
            ("-u a:80 --policy ring", "--policy `ring`", "round-robin, random"),
            ("-u a:80 --policy", "--policy", "round-robin, random"),
            ("-u a:80 --engine tokio", "`tokio`", "threads"),
            ("-u a:80 -x", "`-x`", "--help"),
            ("-u a:80 --threads 0", "--threads `0`", "from 1 to 1024"),
            ("-u a:80 --threads -5", "--threads `-5`", "from 1 to 1024"),
            ("-u a:80 --threads +5", "`+5`", "from 1 to 1024"),
            ("-u a:80 --threads 99999999999999999999999", "`99999999999999999999999`", "1024"),
            ("-u a:80 --head-timeout 0", "--head-timeout `0`", "seconds"),
            ("-u a:80 --head-timeout -1", "--head-timeout `-1`", "seconds"),
            ("-u a:80 --head-timeout 1e9", "`1e9`", "8760h"),
            ("-u a:80 --head-timeout NaN", "`NaN`", "seconds"),
            ("-u a:80 --head-timeout inf", "`inf`", "seconds"),
            ("-u a:80 --idle-timeout 31536000.1", "`31536000.1`", "8760h"),
            ("-u a:80 --idle-timeout 0.0000000001", "`0.0000000001`", "seconds"),
            ("-u a:80 --idle-timeout .", "`.`", "seconds"),
            ("-u a:80 --drain-timeout 10d", "`10d`", "500ms"),
            ("-u a:80 --drain-timeout s", "`s`", "500ms"),
            ("-u a:80 --drain-timeout 8761h", "`8761h`", "8760h"),
            ("-u a:80 --drain-timeout 1m30s", "`1m30s`", "500ms"),
            ("-u a:80 --active-health-check-interval x", "interval `x`", "0 turns"),
            ("-u a:80 --active-health-check-path up", "path `up`", "/health"),
            ("-u a:80 --active-health-check-host a/b", "host `a/b`", "app.example:8080"),
            ("-u a:80 --active-health-check-status 2xx", "status `2xx`", "200-399,404"),
            ("-u a:80 --active-health-check-status 200,300-200", "`200,300-200`", "reversed"),
            ("-u a:80 --active-health-check-path /a#b", "path `/a#b`", "leave out the #"),
            ("-u a:80 --max-head 64K", "--max-head `64K`", "from 1K to 32K"),
            ("-u a:80 --max-head 1000", "`1000`", "from 1K to 32K"),
            ("-u a:80 --max-body 99999999999G", "`99999999999G`", "from 0"),
            ("-u a:80 --max-body K", "`K`", "from 0"),
            ("-u a:80 --max-request-line 63", "`63`", "from 64 to 32K"),
            ("-u a:80 --max-request-line 17K", "--max-request-line `17K`", "--max-head"),
            ("-u a:80 --max-fields 257", "`257`", "from 1 to 256"),
            ("-u a:80 --max-attempts 0", "`0`", "from 1"),
            ("-u a:80 --retry-budget 1001", "`1001`", "from 0 to 1000"),
            ("-u a:80 --retry-budget 20%", "--retry-budget `20%`", "leave out the %"),
            ("-u a:80 --fail-open perhaps", "`perhaps`", "true, false"),
            ("-u a:80 --health-fall 0", "`0`", "from 1"),
            ("-u a:80 --pool-size 1000001", "`1000001`", "from 0 to 1000000"),
            ("-u a:80 --trust-forwarded 10.0.0.0/33", "`10.0.0.0/33`", "10.0.0.0/8"),
            ("-u a:80 --trust-forwarded 10.0.0.1/8", "`10.0.0.1/8`", "give 10.0.0.0/8"),
            ("-u a:80 --trust-forwarded 10.0.0.1/8", "`10.0.0.1/8`", "10.0.0.1/32 for the one"),
            ("-u a:80 --trust-forwarded ::ffff:10.0.0.1/104", "/104`", "::ffff:10.0.0.0/104"),
            ("-u a:80 --trust-forwarded none,10.0.0.1", "`none`", "alone"),
            ("-u a:80 --trust-forwarded ::1,,10.0.0.1", "--trust-forwarded ``", "10.0.0.0/8"),
            ("-u a:80 --no-via=1", "--no-via", "no value"),
            ("-u a:80 --max-queue 5", "--max-queue", "--max-in-flight"),
            ("-u a:80 --queue-timeout 5 --max-in-flight 0", "--queue-timeout", "leave out"),
            ("a:80", "`a:80`", "--upstream"),
            ("-u a:80 demo", "`demo`", "first"),
            ("demo -u a:80", "`-u` is no flag of `demo`", "demo --help"),
            ("demo --engine async", "`--engine` is no flag of `demo`", "demo --help"),
        ] {
            let refusal = invocation(line).expect_err(line);
            assert!(refusal.contains(named), "`{line}`: {refusal:?} does not name {named}");
            assert!(refusal.contains(remedy), "`{line}`: {refusal:?} lacks the remedy {remedy}");
            assert!(!refusal.contains('\n'), "`{line}`: {refusal:?}");
        }
    }

    #[test]
    fn spaces_may_stand_round_a_comma_and_nowhere_else() {
        match parse(["-u", " a:80,\tb:81 , [::1]:82 "].map(OsString::from)) {
            Ok(Invocation::Balance { config, .. }) => {
                let shown: Vec<_> = config.upstreams.iter().map(ToString::to_string).collect();
                assert_eq!(shown, ["a:80", "b:81", "[::1]:82"]);
            }
            other => panic!("{other:?}"),
        }
        for (name_of, named, remedy) in [
            ("a:80 b:80", "--upstream `a:80 b:80`: a host has no spaces", "a comma between them"),
            ("https://a:80 https://b:80", "`https://a:80 https://b:80`", "a comma between them"),
            ("a:80, ", "--upstream ``", "an entry is empty"),
            ("", "--upstream ``", "an entry is empty"),
        ] {
            let refusal = parse(["-u", name_of].map(OsString::from)).expect_err(name_of);
            assert!(refusal.contains(named) && refusal.contains(remedy), "{name_of}: {refusal}");
        }
    }

    #[test]
    fn no_refusal_shows_a_password() {
        for line in [
            "-u me:secret@a:80",
            "-u=me:secret@a:80",
            "-ume:secret@a",
            "-u b:80,http://me:secret@a:80/x,c:80",
            "-u HTTPS://me:secret@a:80",
            "-u ftp://me:secret@a:80",
            "-u me:x@secret@a:80",
            "-u me:x://secret@a:80",
            "-u unix:secret@a:80",
            "-u b:80 me:secret@a:80",
            "me:secret@a:80",
            "http://me:secret@a:80",
            "-u b:80 --upstrem me:secret@a:80",
            "-u b:80 --upstrem=me:secret@a:80",
            "-u b:80 --no-via=me:secret@a:80",
            "-u b:80 --active-health-check-host me:secret@a:80",
            "-b me:secret@a:80",
            "-u b:80 --policy me:secret@a:80",
            "demo me:secret@a:80",
            "demo -u me:secret@a:80",
            "demo -b me:secret@a:80",
            "help me:secret@a:80",
        ] {
            let refusal = invocation(line).expect_err(line);
            assert!(!refusal.contains("secret"), "`{line}`: {refusal}");
        }
        for first in ["-u", "demo"] {
            let two = parse([first, "me:secret@a:80 me:secret@b:80"].map(OsString::from));
            assert!(two.expect_err(first).contains("`***@b:80`"), "{first}");
        }
    }

    #[test]
    fn what_the_library_says_names_no_flag() {
        let said = StartError::NoUpstream.to_string();
        assert!(said.contains("give at least one") && !said.contains("--"), "{said}");
    }

    #[test]
    fn odd_bytes_stay_on_one_line() {
        for args in [["-b", "a\nb"], ["-u", "a\r\nb:80"], ["-u", ""], ["--x\ny", "z"]] {
            let refusal = parse(args.map(OsString::from)).expect_err("must be refused");
            assert!(!refusal.chars().any(char::is_control), "{refusal:?}");
        }
        let path = ["-u", "a:80", "--active-health-check-path", "/a b"].map(OsString::from);
        assert!(parse(path).expect_err("a space").contains("`/a b`"));
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStringExt;
            let refusal = parse([OsString::from_vec(vec![b'-', 0xff])]).expect_err("not UTF-8");
            assert!(refusal.contains("UTF-8"), "{refusal:?}");
        }
    }
}
