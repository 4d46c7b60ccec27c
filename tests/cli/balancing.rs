//! Requests get through, and are shared out.

use super::client::{Connection, agent, get, post};
use super::support::binary::Balancer;
use super::support::echo::Echo;

each_engine!(beside_others:
    a_single_upstream_gets_each_request_once,
    one_connection_carries_many_requests,
    many_connections_at_once_get_their_own_answers,
    round_robin_shares_requests_within_a_tenth,
    every_policy_serves_every_request_once,
    an_upstream_is_found_by_name,
);

fn a_single_upstream_gets_each_request_once(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    assert_eq!(get(&balancer.url("/a/b?c=d&e=%20")), (200, "GET /a/b?c=d&e=%20".into()));
    assert_eq!(post(&balancer.url("/"), "some body"), (200, "some body".into()));
    let head = agent(false).head(balancer.url("/pattern/12345")).call().unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-length"], "12345");
    assert_eq!(head.headers()["seen-method"], "HEAD");
    let deleted = agent(false).delete(balancer.url("/x")).call().unwrap();
    assert_eq!(deleted.headers()["seen-method"], "DELETE");
    assert_eq!(echo.requests(), 4);
}

fn one_connection_carries_many_requests(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    let mut connection = Connection::open(balancer.address()).unwrap();
    for i in 0..50 {
        assert_eq!(connection.get(&format!("/{i}")).unwrap().text(), format!("GET /{i}"));
        let body = "x".repeat(i * 100 + 1);
        assert_eq!(connection.post("/", &body).unwrap().text(), body);
    }
    assert!(connection.is_open_and_quiet());
    assert_eq!(echo.requests(), 100);
    assert_eq!(echo.connections(), 1, "the upstream's connection is kept as well");
}

fn many_connections_at_once_get_their_own_answers(engine: &str) {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 25;
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let balancer = &balancer;
            scope.spawn(move || {
                let agent = agent(true);
                for i in 0..REQUESTS {
                    let body = format!("client {client}, request {i}").repeat(1 + i * 20);
                    let mut response = agent.post(balancer.url("/")).send(&body).unwrap();
                    assert_eq!(response.status(), 200);
                    assert_eq!(response.body_mut().read_to_string().unwrap(), body);
                }
            });
        }
    });
    assert_eq!(echo.requests(), CLIENTS * REQUESTS);
}

fn round_robin_shares_requests_within_a_tenth(engine: &str) {
    let upstreams = [Echo::start(), Echo::start(), Echo::start()];
    let balancer = Balancer::start(engine, &upstreams.each_ref(), &[]);
    for _ in 0..90 {
        assert_eq!(get(&balancer.url("/")).0, 200);
    }
    let shares = upstreams.each_ref().map(Echo::requests);
    assert!(shares.iter().all(|share| (27..=33).contains(share)), "{shares:?}");
    assert_eq!(shares.iter().sum::<usize>(), 90);
}

fn every_policy_serves_every_request_once(engine: &str) {
    for policy in ["random", "round-robin", "least-requests", "two-choices"] {
        let upstreams = [Echo::start(), Echo::start(), Echo::start()];
        let balancer = Balancer::start(engine, &upstreams.each_ref(), &["--policy", policy]);
        for _ in 0..60 {
            assert_eq!(get(&balancer.url("/")).0, 200, "{policy}");
        }
        let shares = upstreams.each_ref().map(Echo::requests);
        assert_eq!(shares.iter().sum::<usize>(), 60, "{policy}: {shares:?}");
    }
}

fn an_upstream_is_found_by_name(engine: &str) {
    let echo = Echo::start();
    let name = format!("localhost:{}", echo.address().port());
    let balancer = Balancer::start(engine, &[], &["--upstream", &name]);
    for _ in 0..10 {
        assert_eq!(get(&balancer.url("/")).0, 200);
    }
    assert_eq!(echo.requests(), 10);
}
