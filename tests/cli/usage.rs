//! What a user meets before any traffic: help, mistakes, and the demo.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};

use rustix::process::Signal;

use super::support::binary::{Balancer, PATIENCE, beside_others, run_to_end};
use super::support::echo::Echo;

/// The exit status and the one line on standard error.
fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = run_to_end(arguments);
    let said = String::from_utf8_lossy(&stderr).into_owned();
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{arguments:?} is refused in one line, not:\n{said}");
    assert!(stdout.is_empty(), "{arguments:?} prints nothing to standard output");
    (status.code(), lines[0].to_string())
}

#[test]
fn without_an_upstream_one_line_names_the_flag_to_give() {
    let _turn = beside_others();
    for arguments in [&[][..], &["--bind", "127.0.0.1:0"]] {
        let (status, line) = refusal(arguments);
        assert_eq!(status, Some(2), "{line}");
        assert!(line.contains("--upstream"), "{line}");
    }
}

#[test]
fn an_address_that_cannot_be_used_is_a_usage_error_in_one_line() {
    let _turn = beside_others();
    for (bind, upstream, named) in [
        ("nonsense", "127.0.0.1:8080", "nonsense"),
        ("127.0.0.1:65536", "127.0.0.1:8080", "127.0.0.1:65536"),
        ("127.0.0.1:0", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:0", "http://127.0.0.1:8080/app", "http://127.0.0.1:8080/app"),
        ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:0", "", "--upstream"),
    ] {
        let (status, line) = refusal(&["--bind", bind, "--upstream", upstream]);
        assert_eq!(status, Some(2), "{line}");
        assert!(line.contains(named), "{line}");
    }
}

#[test]
fn an_unknown_flag_or_value_is_a_usage_error() {
    let _turn = beside_others();
    for flags in [&["--no-such-flag"][..], &["--policy", "best"], &["--threads", "many"]] {
        let mut arguments = vec!["--upstream", "127.0.0.1:8080"];
        arguments.extend(flags);
        let output = run_to_end(&arguments);
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(flags[0]), "{flags:?}");
    }
}

#[test]
fn a_port_in_use_is_a_run_time_error_in_one_line() {
    let _turn = beside_others();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, line) = refusal(&["--bind", &address, "--upstream", "127.0.0.1:8080"]);
    assert_eq!(status, Some(1), "{line}");
    assert!(line.contains(&address), "{line}");
}

#[test]
fn help_and_version_are_printed() {
    let _turn = beside_others();
    let help = run_to_end(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for flag in [
        "--bind",
        "--upstream",
        "--active-health-check-interval",
        "--active-health-check-path",
        "--max-requests-per-minute",
        "--engine",
        "--threads",
        "--policy",
        "--drain-timeout",
        "demo",
    ] {
        assert!(help.contains(flag), "--help tells of {flag}:\n{help}");
    }
    assert_eq!(run_to_end(&["help"]).stdout, run_to_end(&["--help"]).stdout);
    assert_eq!(run_to_end(&["help", "demo"]).stdout, run_to_end(&["demo", "--help"]).stdout);
    let version = run_to_end(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    assert_eq!(version.trim(), concat!("balancebeam ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn more_connections_than_the_descriptors_allow_are_one_warning_at_the_start() {
    let _turn = beside_others();
    let echo = Echo::start();
    for (most, warnings) in [("1000", 1), ("100", 0)] {
        let flags = ["--max-connections", most];
        let balancer = Balancer::start_with_descriptors(256, "threads", &echo, &flags);
        assert_eq!(super::client::get(&balancer.url("/")).0, 200);
        let words = ["WARN", "max_connections=1000", "descriptor_limit=256", "ulimit -n"];
        balancer.expect_logged(&words, warnings);
    }
}

#[test]
fn an_ipv6_address_can_be_bound() {
    let _turn = beside_others();
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("nothing shown: this machine has no IPv6");
        return;
    }
    let echo = Echo::start();
    let upstream = echo.address().to_string();
    let balancer = Balancer::run(&["--bind", "[::1]:0", "--upstream", &upstream]);
    assert!(balancer.address().is_ipv6());
    assert_eq!(super::client::get(&balancer.url("/")).0, 200);
    assert_eq!(echo.requests(), 1);
}

#[test]
fn the_demo_serves_every_request() {
    let _turn = beside_others();
    let mut balancer = Balancer::run(&["demo", "--bind", "127.0.0.1:0"]);
    let url = balancer.url("/");
    for i in 0..30 {
        let output = Command::new("curl")
            .args(["--silent", "--noproxy", "*", "--max-time", "20", "--output", "/dev/null"])
            .args(["--write-out", "%{http_code}", &url])
            .output()
            .expect("curl is installed");
        let status = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && status == "200", "request {i}: {output:?}");
    }
    let told = balancer.printed() + &balancer.log().join("\n");
    assert!(told.contains(&format!("http://{}", balancer.address())), "what to try:\n{told}");
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
}
