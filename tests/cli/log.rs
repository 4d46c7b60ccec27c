//! The log: its reader may stall, and nothing else does; what was logged is not lost.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::client::{Connection, get_head};
use super::support::binary::{Balancer, PATIENCE};
use super::support::echo::Echo;
use super::support::until;

each_engine!(beside_others:
    a_reader_of_the_log_that_stalls_stops_neither_requests_nor_the_drain,
    a_reader_of_the_log_that_comes_back_gets_every_line,
    a_second_signal_ends_a_balancer_whose_log_is_not_read,
    one_line_at_the_start_says_what_runs,
    errors_that_clients_see_are_told_for_each_upstream_with_a_count,
    an_answer_that_is_cut_is_told_with_its_upstream,
    answers_of_an_upstream_are_counted_by_their_class,
);

/// More than the pipe to the reader holds.
const REQUESTS: usize = 2_000;

/// A balancer that logs each exchange, and a log that is not read.
fn unread(engine: &str, echo: &Echo) -> Balancer {
    let balancer = Balancer::start(engine, &[echo], &["-v"]);
    balancer.stop_reading();
    let mut connection = Connection::open(balancer.address()).unwrap();
    for i in 0..REQUESTS {
        let answer = connection.get("/").unwrap_or_else(|lost| panic!("request {i}: {lost:?}"));
        assert_eq!(answer.status, 200, "request {i}");
    }
    balancer
}

fn exchanges(balancer: &Balancer) -> usize {
    balancer.log().iter().filter(|line| line.contains(" 200 upstream=")).count()
}

fn a_reader_of_the_log_that_stalls_stops_neither_requests_nor_the_drain(engine: &str) {
    let echo = Echo::start();
    let mut balancer = unread(engine, &echo);
    assert_eq!(echo.requests(), REQUESTS);
    let begin = Instant::now();
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
}

fn a_reader_of_the_log_that_comes_back_gets_every_line(engine: &str) {
    let echo = Echo::start();
    let mut balancer = unread(engine, &echo);
    balancer.read_again();
    until(PATIENCE, "every exchange is told", || exchanges(&balancer) == REQUESTS);
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
    let last = balancer.log().pop().unwrap_or_default();
    assert!(last.contains("stopped: "), "the last line is {last:?}");
}

fn a_second_signal_ends_a_balancer_whose_log_is_not_read(engine: &str) {
    let echo = Echo::start();
    let mut balancer = unread(engine, &echo);
    let address = balancer.address();
    let mut slow = Connection::open(address).unwrap();
    slow.send(&get_head("/slow/20000")).unwrap();
    until(PATIENCE, "the request is in flight", || echo.waiting() == 1);
    balancer.signal(Signal::TERM);
    until(PATIENCE, "the drain has begun", || Connection::open(address).is_err());
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.wait(PATIENCE).code(), Some(128 + 15));
}

/// An upstream that reads each request, answers this, and closes.
fn upstream_that_says(answer: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(answer.as_bytes()));
        }
    });
    address
}

fn balancer_before(engine: &str, upstream: SocketAddr, more: &[&str]) -> Balancer {
    let upstream = upstream.to_string();
    let flags = ["--bind", "127.0.0.1:0", "--engine", engine, "--upstream", &upstream];
    Balancer::run(&[&flags[..], more].concat())
}

const NO_PROBES: [&str; 2] = ["--active-health-check-interval", "0"];

fn one_line_at_the_start_says_what_runs(engine: &str) {
    let echo = Echo::start();
    let flags = ["--threads", "3", "--max-in-flight", "7", "--max-connections", "50"];
    let balancer = balancer_before(engine, echo.address(), &flags);
    let version = concat!("balancebeam ", env!("CARGO_PKG_VERSION"));
    let facts = [&format!("engine={engine}"), "workers=3", "max_connections=50", "max_head=16384"];
    let listen = format!("listen={}", balancer.address());
    let upstreams = format!("upstreams=1: {}", echo.address());
    let more =
        ["max_in_flight=7", "max_requests_per_minute=none", "first_probe_in=10s", &upstreams];
    balancer.expect_logged(&[&["INFO", version, &listen], &facts[..], &more].concat(), 1);
    let localhost = format!("localhost:{}", echo.address().port());
    let named = ["--upstream", &localhost];
    let balancer = balancer_before(engine, echo.address(), &[&named[..], &NO_PROBES].concat());
    let resolved = format!("{localhost} (127.0.0.1:{}", echo.address().port());
    let log = balancer.log().join("\n");
    let has_address = log.contains(&resolved) || log.contains(&format!("{localhost} ([::1]:"));
    assert!(has_address && log.contains("probes=off"), "{log}");
}

fn errors_that_clients_see_are_told_for_each_upstream_with_a_count(engine: &str) {
    let upstream = upstream_that_says(String::new());
    let balancer = balancer_before(engine, upstream, &NO_PROBES);
    let statuses = [(); 5].map(|()| super::client::post(&balancer.url("/"), "x").0);
    assert_eq!(statuses, [502; 5]);
    let told = format!("upstream={upstream} status=502 count=");
    balancer.expect_logged(&["WARN", &told, "count=1: the upstream broke off"], 1);
    balancer.expect_logged(&[&told], 1);
    end(balancer, &[&format!("{told}4: the upstream broke off"), "2xx=0", "own_502=5"]);
}

fn an_answer_that_is_cut_is_told_with_its_upstream(engine: &str) {
    // So much that the client has some of it before the end comes, and it cannot become a 502.
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n";
    let upstream = upstream_that_says(head.to_string() + &"part".repeat(500_000));
    let balancer = balancer_before(engine, upstream, &NO_PROBES);
    assert!(Connection::open(balancer.address()).unwrap().get("/").is_err());
    let told = format!("upstream={upstream} status=200 count=1 aborted: the upstream broke off");
    balancer.expect_logged(&["WARN", &told], 1);
    end(balancer, &["aborted=1", "own_502=0", "2xx=0"]);
}

fn answers_of_an_upstream_are_counted_by_their_class(engine: &str) {
    let echo = Echo::start();
    let balancer = balancer_before(engine, echo.address(), &NO_PROBES);
    let get = || super::client::get(&balancer.url("/")).0;
    assert_eq!([get(), get()], [200; 2]);
    echo.fail(true);
    assert_eq!(get(), 500);
    let mut connection = Connection::open(balancer.address()).unwrap();
    connection.send("GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(connection.answer().unwrap().status, 400);
    end(balancer, &["2xx=2", "5xx=1", "refused=1", "own_502=0", "aborted=0"]);
}

/// Ends it, and looks for each of `words` in its log.
fn end(mut balancer: Balancer, words: &[&str]) {
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
    let log = balancer.log().join("\n");
    for word in words {
        assert!(log.contains(word), "`{word}` is missing in:\n{log}");
    }
}
