//! `--max-requests-per-minute`: the burst is admitted, the rest is refused, and nothing of it leaks.

use std::net::{IpAddr, Ipv4Addr};

use super::client::{Connection, get};
use super::support::binary::Balancer;
use super::support::echo::Echo;

each_engine!(beside_others:
    the_request_after_the_last_allowed_one_is_429_and_the_connection_goes_on,
    the_limit_is_per_client_and_not_per_connection,
    probes_do_not_count_against_the_limit,
);

const LIMITED: [&str; 2] = ["--max-requests-per-minute", "5"];

fn the_request_after_the_last_allowed_one_is_429_and_the_connection_goes_on(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &LIMITED);
    let mut connection = Connection::open(balancer.address()).unwrap();
    for _ in 0..5 {
        assert_eq!(connection.get("/").unwrap().status, 200);
    }
    for refused in [connection.get("/").unwrap(), connection.post("/", "a small body").unwrap()] {
        assert_eq!(refused.status, 429);
        let after: u64 = refused.field("Retry-After").expect("Retry-After").parse().unwrap();
        assert!((1..=60).contains(&after), "Retry-After: {after}");
        assert!(!refused.closes(), "{refused:?}");
    }
    assert_eq!(connection.get("/").unwrap().status, 429, "it is still read and answered");
    assert!(connection.is_open_and_quiet());
    assert_eq!(echo.requests(), 5);
}

fn the_limit_is_per_client_and_not_per_connection(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &LIMITED);
    let statuses: Vec<u16> = (0..8).map(|_| get(&balancer.url("/")).0).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let mut other = Connection::open_from(other, balancer.address()).unwrap();
    let statuses: Vec<u16> = (0..6).map(|_| other.get("/").unwrap().status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
    assert_eq!(echo.requests(), 10);
}

fn probes_do_not_count_against_the_limit(engine: &str) {
    let echo = Echo::start();
    let mut flags = vec!["--active-health-check-interval", "1"];
    flags.extend(["--active-health-check-path", super::support::echo::HEALTH]);
    flags.extend(["--max-requests-per-minute", "1"]);
    let balancer = Balancer::start(engine, &[&echo], &flags);
    let patience = super::support::binary::PATIENCE;
    super::support::until(patience, "probes go on", || echo.probes() >= 3);
    assert_eq!([0; 2].map(|_| get(&balancer.url("/")).0), [200, 429]);
    assert_eq!(echo.requests(), 1);
}
