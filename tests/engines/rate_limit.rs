//! Rule 46: how often a client may ask.

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    one_request_too_many_is_429_and_nothing_of_it_is_forwarded,
    the_limit_holds_across_connections,
    a_full_burst_is_allowed,
    by_default_there_is_no_limit,
    a_refused_body_is_discarded_and_never_a_request,
    a_refused_body_too_large_to_discard_ends_the_connection,
    a_refused_client_that_waits_for_100_is_told_at_once,
    behind_a_trusted_peer_each_client_has_its_own_limit,
    an_untrusted_peer_cannot_name_another_client,
    the_last_entry_that_is_not_trusted_is_the_client,
    addresses_of_one_ipv6_network_are_one_client,
    a_full_table_forgets_the_client_that_was_seen_longest_ago,
}

fn limited(engine: EngineKind, upstream: &Upstream, per_minute: u32) -> Balancer {
    Balancer::start_with(engine, &[upstream.address()], |c| {
        c.limits.requests_per_minute = per_minute;
    })
}

#[track_caller]
fn expect_429(got: &Message) {
    assert_eq!(got.status(), 429);
    let seconds = got.field("Retry-After").and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(seconds.is_some_and(|s| (1..=60).contains(&s)), "{got:?}");
}

/// A request as a trusted peer passes it on for this client.
fn of(client: &str) -> String {
    request("GET", "/", &format!("X-Forwarded-For: {client}\r\n"), "")
}

// Rule 46
fn one_request_too_many_is_429_and_nothing_of_it_is_forwarded(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = limited(engine, &upstream, 3);
    let mut client = balancer.client();
    for _ in 0..3 {
        assert_eq!(client.ask(&get("/")).status(), 200);
    }
    for _ in 0..3 {
        let got = client.ask(&get("/refused"));
        expect_429(&got);
        assert!(!got.says_close(), "the connection stays usable: {got:?}");
    }
    client.send(&request("HEAD", "/refused", "", ""));
    expect_429(&client.response_to("HEAD"));
    client.send(&(get("/refused") + &get("/refused")));
    expect_429(&client.response());
    expect_429(&client.response());
    assert_eq!(upstream.deliveries(), 3);
}

// Rule 46
fn the_limit_holds_across_connections(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = limited(engine, &upstream, 5);
    for _ in 0..5 {
        assert_eq!(balancer.ask(&get("/")).status(), 200);
    }
    expect_429(&balancer.ask(&get("/")));
    expect_429(&balancer.ask("GET / HTTP/1.0\r\n\r\n"));
    assert_eq!(upstream.deliveries(), 5);
}

// Rule 46
fn a_full_burst_is_allowed(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = limited(engine, &upstream, 50);
    let mut client = balancer.client();
    client.send(&get("/").repeat(60));
    let statuses: Vec<u16> = (0..60).map(|_| client.response().status()).collect();
    assert!(statuses[..50].iter().all(|&s| s == 200), "{statuses:?}");
    assert!(statuses[50..].iter().all(|&s| s == 429), "{statuses:?}");
    assert_eq!(upstream.deliveries(), 50);
}

// Rule 46
fn by_default_there_is_no_limit(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for _ in 0..300 {
        assert_eq!(client.ask(&get("/")).status(), 200);
    }
}

// Rules 9 and 46
fn a_refused_body_is_discarded_and_never_a_request(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = limited(engine, &upstream, 1);
    let mut client = balancer.client();
    assert_eq!(client.ask(&get("/")).status(), 200);
    let evil = get("/evil");
    let chunked = format!("{}0\r\nX: y\r\n\r\n", chunk(&evil));
    let rows = [
        post("/", &evil),
        request("POST", "/", "Transfer-Encoding: chunked\r\n", &chunked),
        post("/", &"x".repeat(60_000)),
    ];
    for wire in rows {
        let got = client.ask(&wire);
        expect_429(&got);
        assert!(!got.says_close(), "the body was read: {got:?}");
    }
    client.send(&(post("/", &evil) + &post("/", &evil)));
    expect_429(&client.response());
    expect_429(&client.response());
    assert_eq!(upstream.deliveries(), 1);
}

// Rules 9 and 46
fn a_refused_body_too_large_to_discard_ends_the_connection(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = limited(engine, &upstream, 1);
    let mut client = balancer.client();
    assert_eq!(client.ask(&get("/")).status(), 200);
    client.send(&request("POST", "/", "Content-Length: 10000000\r\n", "some"));
    let got = client.response();
    expect_429(&got);
    assert!(got.says_close(), "{got:?}");
    client.expect_fin();
    assert_eq!(upstream.deliveries(), 1);
}

// Rules 9, 33 and 46
fn a_refused_client_that_waits_for_100_is_told_at_once(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = limited(engine, &upstream, 1);
    let mut client = balancer.client();
    assert_eq!(client.ask(&get("/")).status(), 200);
    client.send(&request("POST", "/", "Content-Length: 5\r\nExpect: 100-continue\r\n", ""));
    let got = client.response();
    expect_429(&got);
    assert!(got.says_close(), "{got:?}");
    client.expect_fin();
}

// Rules 20 and 46
fn behind_a_trusted_peer_each_client_has_its_own_limit(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = limited(engine, &upstream, 2);
    let mut client = balancer.client();
    for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        assert_eq!(client.ask(&of(address)).status(), 200);
        assert_eq!(client.ask(&of(address)).status(), 200);
        expect_429(&client.ask(&of(address)));
    }
    expect_429(&client.ask(&of("::ffff:192.0.2.1")));
    assert_eq!(client.ask(&get("/")).status(), 200, "the peer itself");
}

// Rules 20 and 46
fn an_untrusted_peer_cannot_name_another_client(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
        c.limits.requests_per_minute = 2;
        c.forwarding.trusted = Vec::new();
    });
    let mut client = balancer.client();
    assert_eq!(client.ask(&of("192.0.2.1")).status(), 200);
    assert_eq!(client.ask(&of("192.0.2.2")).status(), 200);
    expect_429(&client.ask(&of("192.0.2.3")));
}

// Rules 20 and 46
fn the_last_entry_that_is_not_trusted_is_the_client(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = limited(engine, &upstream, 1);
    let mut client = balancer.client();
    assert_eq!(client.ask(&of("198.51.100.7, 192.0.2.1")).status(), 200);
    expect_429(&client.ask(&of("198.51.100.8, 192.0.2.1, 127.0.0.9")));
    expect_429(&client.ask(&of("198.51.100.9\r\nX-Forwarded-For: 192.0.2.1")));
    assert_eq!(client.ask(&of("192.0.2.1, 198.51.100.7")).status(), 200);
}

// Rule 46
fn addresses_of_one_ipv6_network_are_one_client(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = limited(engine, &upstream, 1);
    let mut client = balancer.client();
    assert_eq!(client.ask(&of("2001:db8::1")).status(), 200);
    expect_429(&client.ask(&of("2001:db8::ffff:2")));
    assert_eq!(client.ask(&of("2001:db8:0:1::1")).status(), 200);
}

// Rule 46
fn a_full_table_forgets_the_client_that_was_seen_longest_ago(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
        c.limits.requests_per_minute = 1;
        c.limits.rate_limit_clients = 2;
    });
    let mut client = balancer.client();
    let (a, b, c) = (of("192.0.2.1"), of("192.0.2.2"), of("192.0.2.3"));
    assert_eq!(client.ask(&a).status(), 200);
    expect_429(&client.ask(&a));
    assert_eq!(client.ask(&b).status(), 200);
    assert_eq!(client.ask(&c).status(), 200);
    assert_eq!(client.ask(&a).status(), 200, "forgotten for the third");
    expect_429(&client.ask(&c));
}
