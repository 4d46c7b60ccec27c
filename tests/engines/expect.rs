//! Rule 33: `Expect: 100-continue`.

use std::time::Duration;

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    the_upstream_itself_says_whether_to_go_on,
    a_final_answer_instead_of_100_ends_the_connection,
    a_client_that_does_not_wait_is_served_too,
    another_expectation_is_417_and_goes_nowhere,
    an_expectation_of_http_1_0_is_ignored_and_removed,
    an_answer_of_ours_before_the_body_ends_the_connection,
    a_client_that_expects_can_go_on_afterwards,
}

const EXPECTING: &str = "Content-Length: 5\r\nExpect: 100-continue\r\n";

// Rule 33
fn the_upstream_itself_says_whether_to_go_on(engine: EngineKind) {
    for expectation in ["100-continue", "100-Continue"] {
        let fields = format!("Content-Length: 5\r\nExpect: {expectation}\r\n");
        let listener = Listener::new();
        let balancer = Balancer::start(engine, &[listener.address()]);
        let mut client = balancer.client();
        client.send(&request("POST", "/", &fields, ""));
        let mut peer = listener.accept();
        let head = peer.request_head().expect("a head");
        assert_eq!(head.list("Expect"), ["100-continue"]);
        client.expect_quiet(Duration::from_millis(50));
        peer.expect_quiet(Duration::from_millis(50));
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(client.response().status(), 100);
        client.send("hello");
        peer.expect("hello");
        peer.send(&ok("thanks"));
        assert_eq!(client.response().body, "thanks");
    }
}

// Rules 33 and 34
fn a_final_answer_instead_of_100_ends_the_connection(engine: EngineKind) {
    for status in ["413 Content Too Large", "401 Unauthorized", "200 OK"] {
        let listener = Listener::new();
        let balancer = Balancer::start(engine, &[listener.address()]);
        let mut client = balancer.client();
        client.send(&request("POST", "/", EXPECTING, ""));
        let mut peer = listener.accept();
        peer.request_head().expect("a head");
        peer.send(&response(status, "", "no need"));
        let got = client.response();
        assert_eq!(got.first, format!("HTTP/1.1 {status}"));
        assert_eq!(got.body, "no need");
        assert!(got.says_close(), "the body that may still come would be a request: {got:?}");
        client.try_send(&get("/evil"));
        let (rest, end) = client.rest();
        assert_eq!(rest, "");
        assert_ne!(end, End::Silence);
        let (rest, end) = peer.rest();
        assert!(!rest.contains("HTTP/1.1"), "{rest:?}");
        assert_ne!(end, End::Silence, "the upstream still waits for the body");
    }
}

// Rule 33
fn a_client_that_does_not_wait_is_served_too(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        while peer.request_head().is_ok() {
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            peer.expect("hello");
            peer.send(&ok("thanks"));
        }
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for _ in 0..3 {
        client.send(&request("POST", "/", EXPECTING, "hello"));
        let mut got = client.response();
        if got.status() == 100 {
            got = client.response();
        }
        assert_eq!(got.body, "thanks");
    }
}

// Rules 33 and 9
fn another_expectation_is_417_and_goes_nowhere(engine: EngineKind) {
    let expectations =
        ["something", "100-continue, something", "100-continued", "100", "100-continue;q=1"];
    cases(expectations, |expectation| {
        let upstream = Upstream::echo();
        let balancer = Balancer::start(engine, &[upstream.address()]);
        for fields in [
            format!("Content-Length: 5\r\nExpect: {expectation}\r\n"),
            format!("Expect: {expectation}\r\n"),
        ] {
            let mut client = balancer.client();
            client.send(&request("POST", "/", &fields, ""));
            assert_eq!(client.response().status(), 417);
        }
        assert_eq!(upstream.connections(), 0);
    });
}

// Rule 33
fn an_expectation_of_http_1_0_is_ignored_and_removed(engine: EngineKind) {
    for expectation in ["100-continue", "something"] {
        // One each: a connection that ends behind its answer may be the next request's.
        let upstream = Upstream::new(|peer| {
            if peer.next_request().is_some() {
                peer.send(&("HTTP/1.1 100 Continue\r\n\r\n".to_string() + &ok("done")));
            }
        });
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let head = format!("POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: {expectation}\r\n\r\n");
        assert_eq!(balancer.ask(&(head + "hello")).body, "done");
        let got = upstream.last_request();
        assert!(!got.has("Expect") && got.body == "hello", "{got:?}");
    }
}

// Rules 9 and 33
fn an_answer_of_ours_before_the_body_ends_the_connection(engine: EngineKind) {
    let closed = ClosedPort::new();
    let balancer = Balancer::start(engine, &[closed.address()]);
    let mut client = balancer.client();
    client.send(&request("POST", "/", EXPECTING, ""));
    expect_refusal(&mut client, &[502]);
}

// Rule 33
fn a_client_that_expects_can_go_on_afterwards(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&request("POST", "/", EXPECTING, ""));
    let mut peer = listener.accept();
    peer.request_head().expect("a head");
    peer.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.response().status(), 100);
    client.send(&("hello".to_string() + &get("/next")));
    peer.expect("hello");
    peer.send(&ok("thanks"));
    let got = client.response();
    assert_eq!((got.body.as_str(), got.says_close()), ("thanks", false));
    assert_eq!(peer.request().target(), "/next");
    peer.send(&ok("kept"));
    assert_eq!(client.response().body, "kept");
}
