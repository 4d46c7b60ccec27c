//! Rule 9: what becomes of a connection after a refusal.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    nothing_behind_a_malformed_request_is_a_request,
    a_good_request_before_a_malformed_one_is_answered_first,
    the_answer_can_be_read_by_a_client_that_is_still_sending,
    lingering_ends,
    a_client_that_leaves_after_a_refusal_harms_nobody,
    a_well_framed_request_that_fails_keeps_its_connection_once_its_body_is_read,
    a_body_too_large_to_discard_ends_the_connection,
    the_body_of_a_refused_request_never_becomes_a_request,
    a_refusal_of_head_has_no_body,
}

const BAD: &str = "GET / HTTP/1.1\r\nHost: a.example\r\nBad : x\r\n\r\n";

// Rule 9
fn nothing_behind_a_malformed_request_is_a_request(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(&(BAD.to_string() + &get("/evil")));
    expect_refusal(&mut client, &[400]);

    let mut client = balancer.client();
    client.send(BAD);
    let answer = client.response();
    assert_eq!((answer.status(), answer.says_close()), (400, true));
    client.try_send(&get("/evil"));
    let (rest, _) = client.rest();
    assert_eq!(rest, "");
    balancer.stop();
    assert_eq!(upstream.connections(), 0);
}

// Rules 9 and 17
fn a_good_request_before_a_malformed_one_is_answered_first(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(&(get("/1") + &post("/2", "hello") + BAD + &get("/evil")));
    assert_eq!(client.response().body, "GET /1");
    assert_eq!(client.response().body, "POST /2 hello");
    expect_refusal(&mut client, &[400]);
    balancer.stop();
    assert_eq!(upstream.deliveries(), 2);
}

// Rule 9
fn the_answer_can_be_read_by_a_client_that_is_still_sending(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(&BAD.replace("\r\n\r\n", "\r\nContent-Length: 1000000\r\n\r\n"));
    client.send(&"x".repeat(500_000));
    thread::sleep(Duration::from_millis(100));
    client.try_send(&"x".repeat(500_000));
    expect_refusal(&mut client, &[400]);
    assert_eq!(upstream.connections(), 0);
}

// Rules 9 and 44
fn lingering_ends(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(BAD);
    expect_refusal(&mut client, &[400]);
    let began = Instant::now();
    while client.try_send("x") {
        assert!(began.elapsed() < Duration::from_secs(5), "it still takes bytes");
        thread::sleep(Duration::from_millis(20));
    }
}

// Rule 9
fn a_client_that_leaves_after_a_refusal_harms_nobody(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    for number in 0..20 {
        let mut client = balancer.client();
        client.send(BAD);
        if number % 2 == 0 {
            client.reset();
        }
    }
    assert_eq!(balancer.ask(&get("/")).status(), 200);
}

// Rules 9 and 38
fn a_well_framed_request_that_fails_keeps_its_connection_once_its_body_is_read(engine: EngineKind) {
    let closed = ClosedPort::new();
    let balancer = Balancer::start(engine, &[closed.address()]);
    let mut client = balancer.client();
    assert_eq!(client.ask(&get("/1")).status(), 502);
    assert_eq!(client.ask(&post("/2", "hello")).status(), 502);
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let wire = request("POST", "/3", "Transfer-Encoding: chunked\r\n", chunked);
    assert_eq!(client.ask(&wire).status(), 502);
    let listener = closed.open();
    client.send(&get("/4"));
    let mut peer = listener.accept();
    assert_eq!(peer.request().target(), "/4");
    peer.send(&ok("found"));
    assert_eq!(client.response().body, "found");
}

// Rule 9
fn a_body_too_large_to_discard_ends_the_connection(engine: EngineKind) {
    let closed = ClosedPort::new();
    let balancer = Balancer::start(engine, &[closed.address()]);
    let mut client = balancer.client();
    client.send(&request("POST", "/", "Content-Length: 10000000\r\n", "some"));
    let stream = client.stream();
    let sending = thread::spawn(move || {
        let piece = [b'x'; 16 * 1024];
        while (&*stream).write_all(&piece).is_ok() {}
    });
    let answer = client.response();
    assert_eq!((answer.status(), answer.says_close()), (502, true));
    let _ = client.rest();
    sending.join().expect("the sender");
}

// Rule 9
fn the_body_of_a_refused_request_never_becomes_a_request(engine: EngineKind) {
    let evil = get("/evil");
    let fields = format!("Content-Length: {}\r\n", evil.len());
    let expecting = fields.clone() + "Expect: something-else\r\n";
    let rows = [
        ("405", request("TRACE", "/", &fields, &evil)),
        ("417", request("POST", "/", &expecting, &evil)),
        ("400", request("POST", "/", &(fields.clone() + &fields), &evil)),
        ("CONNECT", request("CONNECT", "b.example:80", &fields, &evil)),
    ];
    cases(rows, |(_, wire)| {
        let upstream = Upstream::echo();
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        client.send(wire);
        let answer = client.response();
        assert!((400..500).contains(&answer.status()), "{answer:?}");
        expect_kept_or_closed(&mut client, &answer);
        balancer.stop();
        for (_, request) in &upstream.log().requests {
            assert_eq!(request.target(), "/next");
        }
    });
}

// Rules 9 and 25
fn a_refusal_of_head_has_no_body(engine: EngineKind) {
    let closed = ClosedPort::new();
    let balancer = Balancer::start(engine, &[closed.address()]);
    let mut client = balancer.client();
    for _ in 0..2 {
        client.send(&request("HEAD", "/", "", ""));
        assert_eq!(client.response_to("HEAD").status(), 502);
    }
}
