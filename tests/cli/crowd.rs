//! Far more connections than workers: whoever waits costs nobody else anything.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::client::{Connection, get_head};
use super::support::binary::{Balancer, PATIENCE};
use super::support::echo::Echo;
use super::support::until;

each_engine!(alone:
    two_workers_serve_ten_thousand_idle_clients_and_a_crowd_of_slow_ones,
    silent_clients_keep_no_descriptors_from_others,
);

const IDLE: usize = 10_000;
const FEWEST_IDLE: usize = 1_000;
const SLOW: usize = 1_000;
const HALF_SENT: usize = 200;
const QUICK: Duration = Duration::from_millis(500);

/// Raises this process's own limit of descriptors as far as it may; returns how far that was.
pub fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised to the hard one");
    limit.maximum.map_or(usize::MAX, |most| most as usize)
}

/// How many idle clients fit beside the others. The balancer takes clients for four fifths of its
/// descriptors; this process holds the upstream's end of the slow requests too.
fn idle_clients() -> usize {
    let descriptors = raise_descriptor_limit();
    let for_clients = descriptors / 5 * 4;
    let idle = for_clients.saturating_sub(SLOW + HALF_SENT + 100).min(IDLE);
    let idle = idle.min(descriptors.saturating_sub(2 * SLOW + HALF_SENT + 500));
    assert!(idle >= FEWEST_IDLE, "{descriptors} descriptors leave room for {idle} idle clients");
    if idle < IDLE {
        eprintln!("{idle} idle clients instead of {IDLE}: {descriptors} descriptors are allowed");
    }
    idle
}

/// A request on a connection of its own must be answered at once.
fn quick_request(balancer: &Balancer, when: &str) {
    let start = Instant::now();
    let mut connection = Connection::open(balancer.address()).unwrap();
    assert_eq!(connection.get("/quick").unwrap().status, 200, "{when}");
    let took = start.elapsed();
    assert!(took < QUICK, "a quick request {when} took {took:?}");
}

fn two_workers_serve_ten_thousand_idle_clients_and_a_crowd_of_slow_ones(engine: &str) {
    let idle = idle_clients();
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &["--threads", "2"]);
    let open = || Connection::open(balancer.address()).unwrap();
    let mut idle: Vec<Connection> = (0..idle)
        .map(|_| {
            let mut connection = open();
            assert_eq!(connection.get("/first").unwrap().status, 200);
            connection
        })
        .collect();
    quick_request(&balancer, "beside the idle clients");
    let mut expected = idle.len() + 1;

    let half = get_head("/half-sent");
    let (half, rest) = half.split_at(half.len() - 2);
    let mut half_sent: Vec<Connection> = (0..HALF_SENT).map(|_| open()).collect();
    half_sent.iter_mut().for_each(|connection| connection.send(half).unwrap());
    let mut slow = Vec::with_capacity(SLOW);
    for i in 0..SLOW {
        let mut connection = open();
        connection.send(&get_head("/slow/1000")).unwrap();
        slow.push(connection);
        if i % 100 == 99 {
            quick_request(&balancer, &format!("beside {i} slow ones"));
        }
    }
    expected += SLOW + SLOW / 100;
    let has_arrived = || echo.requests() >= expected;
    until(PATIENCE, "every slow request reaches the upstream", has_arrived);
    quick_request(&balancer, "beside the whole crowd");

    for connection in &mut half_sent {
        connection.send(rest).unwrap();
        assert_eq!(connection.answer().unwrap().status, 200, "a head may come in two pieces");
    }
    for connection in &mut slow {
        assert_eq!(connection.answer().unwrap().status, 200);
    }
    assert!(idle.iter().all(Connection::is_open_and_quiet), "no idle client was sent away");
    let again = idle.iter_mut().step_by(10);
    expected += 1 + HALF_SENT + again.len();
    for connection in again {
        assert_eq!(connection.get("/second").unwrap().status, 200);
    }
    assert_eq!(echo.requests(), expected);
}

fn silent_clients_keep_no_descriptors_from_others(engine: &str) {
    let echo = Echo::start();
    let flags = ["--max-connections", "1000", "--threads", "2"];
    let balancer = Balancer::start_with_descriptors(64, engine, &echo, &flags);
    let connect = |_| TcpStream::connect(balancer.address()).ok();
    let silent: Vec<_> = (0..100).map_while(connect).collect();
    assert_eq!(silent.len(), 100, "some of them wait in the listen queue");
    for _ in 0..5 {
        let mut client = Connection::open(balancer.address()).expect("it listens");
        assert_eq!(client.get("/").expect("it is served").status, 200);
    }
}
