//! The log: its reader may stall, and nothing else does; what was logged is not lost.

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
);

/// More than the pipe to the reader holds.
const REQUESTS: usize = 2_000;

/// A balancer that logs each exchange, and nobody reads it.
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
