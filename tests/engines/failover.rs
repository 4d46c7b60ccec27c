//! Rules 38 and 42: upstreams that cannot be reached, and how often others are tried.

use std::time::{Duration, Instant};

use balancebeam::config::{EngineKind, Policy};

use crate::support::*;

on_each_engine! {
    an_upstream_that_refuses_is_left_for_another_at_once,
    an_upstream_that_never_connects_is_left_for_another,
    an_upstream_that_never_connects_alone_is_502,
    with_none_left_an_attempt_is_502,
    with_none_to_try_it_is_503_and_says_when_to_come_again,
    ejected_upstreams_are_tried_when_none_is_live,
    a_body_reaches_the_next_upstream_whole,
    a_fresh_connection_that_dies_sends_an_idempotent_request_on,
    a_fresh_connection_that_dies_never_sends_another_request_on,
    each_upstream_is_tried_once_an_exchange,
    attempts_are_bounded,
    the_retry_budget_bounds_what_follows_written_bytes,
    the_retry_budget_leaves_refused_connections_alone,
    a_loss_after_connecting_does_not_eject_at_once,
    round_robin_gives_each_upstream_its_share,
}

/// Reads a request on each connection and closes it without an answer.
fn dying(by_reset: bool) -> Upstream {
    Upstream::new(move |peer| {
        peer.next_request();
        if by_reset {
            peer.close_by_reset();
        }
    })
}

// Rule 38
fn an_upstream_that_refuses_is_left_for_another_at_once(engine: EngineKind) {
    let closed = [ClosedPort::new(), ClosedPort::new()];
    let upstream = Upstream::echo();
    let addresses = [closed[0].address(), upstream.address(), closed[1].address()];
    let balancer = Balancer::start(engine, &addresses);
    for _ in 0..6 {
        assert_eq!(balancer.ask(&get("/")).body, "GET /");
    }
    // By now both were tried and are ejected: they hear nothing although they would listen.
    let listeners = closed.map(ClosedPort::open);
    for _ in 0..6 {
        assert_eq!(balancer.ask(&post("/", "x")).body, "POST / x");
    }
    assert!(listeners.iter().all(|listener| listener.try_accept().is_none()), "not ejected");
    assert_eq!(upstream.deliveries(), 12);
}

// Rules 38 and 43
fn an_upstream_that_never_connects_is_left_for_another(engine: EngineKind) {
    let hole = BlackHole::new();
    let upstream = Upstream::echo();
    let addresses = [hole.address(), upstream.address()];
    let balancer = Balancer::start_with(engine, &addresses, |c| {
        c.timeouts.connect = Duration::from_millis(300);
    });
    let began = Instant::now();
    for _ in 0..2 {
        assert_eq!(balancer.ask(&post("/", "x")).status(), 200);
    }
    let waited = began.elapsed();
    assert!(waited > Duration::from_millis(250) && waited < Duration::from_secs(2), "{waited:?}");
    let began = Instant::now();
    for _ in 0..6 {
        assert_eq!(balancer.ask(&get("/")).status(), 200);
    }
    assert!(began.elapsed() < Duration::from_millis(250), "it is not ejected");
}

// Rules 38 and 43
fn an_upstream_that_never_connects_alone_is_502(engine: EngineKind) {
    let hole = BlackHole::new();
    let balancer = Balancer::start_with(engine, &[hole.address()], |c| {
        c.timeouts.connect = Duration::from_millis(200);
    });
    let mut client = balancer.client();
    let began = Instant::now();
    assert_eq!(client.ask(&get("/")).status(), 502);
    assert!(began.elapsed() > Duration::from_millis(150), "{:?}", began.elapsed());
}

// Rule 38
fn with_none_left_an_attempt_is_502(engine: EngineKind) {
    let closed = [ClosedPort::new(), ClosedPort::new(), ClosedPort::new()];
    let balancer = Balancer::start(engine, &closed.each_ref().map(ClosedPort::address));
    for _ in 0..3 {
        assert_eq!(balancer.ask(&get("/")).status(), 502);
    }
}

// Rule 38
fn with_none_to_try_it_is_503_and_says_when_to_come_again(engine: EngineKind) {
    let closed = [ClosedPort::new(), ClosedPort::new()];
    let addresses = closed.each_ref().map(ClosedPort::address);
    let balancer = Balancer::start_with(engine, &addresses, |c| c.retry.fail_open = false);
    let mut client = balancer.client();
    assert_eq!(client.ask(&get("/")).status(), 502);
    for wire in [get("/"), post("/", "hello")] {
        let got = client.ask(&wire);
        assert_eq!(got.status(), 503);
        let seconds = got.field("Retry-After").and_then(|s| s.parse::<u32>().ok());
        assert!(seconds.is_some_and(|s| s > 0), "{got:?}");
    }
}

// Rule 38
fn ejected_upstreams_are_tried_when_none_is_live(engine: EngineKind) {
    let closed = ClosedPort::new();
    let balancer = Balancer::start(engine, &[closed.address()]);
    assert_eq!(balancer.ask(&get("/")).status(), 502);
    let listener = closed.open();
    let mut client = balancer.client();
    client.send(&get("/"));
    let mut peer = listener.accept();
    peer.request();
    peer.send(&ok("back"));
    assert_eq!(client.response().body, "back");
}

// Rules 38 and 39
fn a_body_reaches_the_next_upstream_whole(engine: EngineKind) {
    let chunked = request("POST", "/", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n");
    let large = "x".repeat(200_000);
    for (wire, body) in
        [(post("/", "hello"), "hello"), (chunked, "hello"), (post("/", &large), &large)]
    {
        let closed = ClosedPort::new();
        let upstream = Upstream::echo();
        let balancer = Balancer::start(engine, &[closed.address(), upstream.address()]);
        for _ in 0..2 {
            assert_eq!(balancer.ask(&wire).body, format!("POST / {body}"));
        }
        assert_eq!(upstream.deliveries(), 2);
    }
}

// Rules 38, 39 and 42
fn a_fresh_connection_that_dies_sends_an_idempotent_request_on(engine: EngineKind) {
    for by_reset in [false, true] {
        cases(["GET", "PUT", "DELETE", "OPTIONS", "HEAD"], |method| {
            let (dying, living) = (dying(by_reset), Upstream::echo());
            let balancer = Balancer::start(engine, &[dying.address(), living.address()]);
            for _ in 0..2 {
                let mut client = balancer.client();
                client.send(&request(method, "/", "Content-Length: 5\r\n", "hello"));
                assert_eq!(client.response_to(method).status(), 200);
            }
            assert_eq!((dying.deliveries(), living.deliveries()), (1, 2));
            assert!(living.log().requests.iter().all(|(_, got)| got.body == "hello"));
        });
    }
}

// Rule 40
fn a_fresh_connection_that_dies_never_sends_another_request_on(engine: EngineKind) {
    for by_reset in [false, true] {
        cases(["POST", "PATCH", "PROPPATCH", "put"], |method| {
            let (dying, living) = (dying(by_reset), Upstream::echo());
            let balancer = Balancer::start(engine, &[dying.address(), living.address()]);
            let mut statuses = [0, 0].map(|_| {
                let wire = request(method, "/", "Content-Length: 5\r\n", "hello");
                balancer.ask(&wire).status()
            });
            statuses.sort_unstable();
            assert_eq!(statuses, [200, 502]);
            assert_eq!((dying.deliveries(), living.deliveries()), (1, 1));
        });
    }
}

// Rules 38 and 42
fn each_upstream_is_tried_once_an_exchange(engine: EngineKind) {
    let upstreams = [dying(false), dying(true), dying(false)];
    let addresses = upstreams.each_ref().map(Upstream::address);
    let balancer = Balancer::start_with(engine, &addresses, |c| c.health.fall = 100);
    assert_eq!(balancer.ask(&get("/")).status(), 502);
    assert_eq!(upstreams.each_ref().map(Upstream::deliveries), [1, 1, 1]);
}

// Rule 42
fn attempts_are_bounded(engine: EngineKind) {
    for attempts in 1..=3 {
        let upstreams = [dying(false), dying(false), dying(false), dying(false)];
        let addresses = upstreams.each_ref().map(Upstream::address);
        let balancer = Balancer::start_with(engine, &addresses, |c| c.retry.attempts = attempts);
        assert_eq!(balancer.ask(&get("/")).status(), 502);
        let tried: usize = upstreams.iter().map(Upstream::deliveries).sum();
        assert_eq!(tried, attempts);
    }
}

// Rule 42
fn the_retry_budget_bounds_what_follows_written_bytes(engine: EngineKind) {
    let upstreams = [dying(false), dying(false), dying(false)];
    let addresses = upstreams.each_ref().map(Upstream::address);
    let balancer = Balancer::start_with(engine, &addresses, |c| {
        (c.retry.budget_percent, c.retry.budget_floor) = (0, 0);
        c.health.fall = 1000;
    });
    for _ in 0..10 {
        assert_eq!(balancer.ask(&get("/")).status(), 502);
    }
    let sum: usize = upstreams.iter().map(Upstream::deliveries).sum();
    assert_eq!(sum, 10, "each request was sent once");
}

// Rule 42
fn the_retry_budget_leaves_refused_connections_alone(engine: EngineKind) {
    let closed = [ClosedPort::new(), ClosedPort::new()];
    let upstream = Upstream::echo();
    let addresses = [closed[0].address(), closed[1].address(), upstream.address()];
    let balancer = Balancer::start_with(engine, &addresses, |c| {
        (c.retry.budget_percent, c.retry.budget_floor) = (0, 0);
    });
    for _ in 0..5 {
        assert_eq!(balancer.ask(&post("/", "x")).status(), 200);
    }
}

// Rule 38
fn a_loss_after_connecting_does_not_eject_at_once(engine: EngineKind) {
    let (dying, living) = (dying(false), Upstream::echo());
    let balancer = Balancer::start_with(engine, &[dying.address(), living.address()], |c| {
        c.health.fall = 3;
        c.policy = Policy::RoundRobin;
    });
    let ask = |client: usize| {
        let fields = format!("X-Forwarded-For: 198.51.100.{client}\r\n");
        assert_eq!(balancer.ask(&request("GET", "/", &fields, "")).status(), 200);
    };
    (0..8).for_each(|_| ask(1));
    assert_eq!(dying.deliveries(), 4, "one client alone does not eject, whatever it asks for");
    (2..14).for_each(ask);
    assert_eq!(dying.deliveries(), 6, "three clients in a row eject");
}

// Beside the rules: even shares
fn round_robin_gives_each_upstream_its_share(engine: EngineKind) {
    let upstreams = [Upstream::echo(), Upstream::echo(), Upstream::echo()];
    let balancer = Balancer::start(engine, &upstreams.each_ref().map(Upstream::address));
    for _ in 0..90 {
        assert_eq!(balancer.ask(&get("/")).status(), 200);
    }
    assert_eq!(upstreams.each_ref().map(Upstream::deliveries), [30, 30, 30]);
}
