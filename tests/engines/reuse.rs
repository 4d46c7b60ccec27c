//! Rules 39–41: pooled connections that die, and what is never sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    a_pooled_connection_that_was_closed_meanwhile_costs_nobody_anything,
    a_pooled_connection_that_dies_on_a_request_sends_an_idempotent_one_again,
    a_pooled_connection_that_dies_on_a_request_never_sends_another_one_again,
    a_request_that_is_sent_again_goes_to_the_same_upstream_first,
    a_body_too_large_to_hold_is_not_sent_again,
    a_body_still_arriving_is_not_sent_again_from_its_middle,
    nothing_is_sent_again_once_the_answer_began,
    an_answer_that_breaks_off_at_once_is_not_asked_for_again,
    nothing_is_sent_again_after_an_interim_answer,
    many_closed_connections_in_the_pool_cost_nobody_anything,
    an_upstream_that_talks_unasked_gets_a_connection_a_request,
    what_must_not_be_sent_twice_takes_no_connection_that_may_be_closed_soon,
    an_upstreams_keep_alive_is_believed,
    an_end_of_an_idle_connection_teaches_the_upstreams_limit,
    a_limit_that_was_learnt_lets_more_connections_be_used_again,
}

/// Lines of both kinds of requests.
fn either(number: usize) -> String {
    let target = format!("/{number}");
    if number.is_multiple_of(2) { get(&target) } else { post(&target, "hello") }
}

/// How often a request line came.
fn count(upstream: &Upstream, line: &str) -> usize {
    let log = upstream.log();
    log.requests.iter().filter(|(_, got)| got.first.starts_with(line)).count()
}

/// The next connection to any of them.
#[track_caller]
fn accept_any(listeners: &[Listener]) -> Conn {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(conn) = listeners.iter().find_map(Listener::try_accept) {
            return conn;
        }
        assert!(Instant::now() < deadline, "nobody connects");
        std::thread::sleep(Duration::from_millis(1));
    }
}

// Rule 39
fn a_pooled_connection_that_was_closed_meanwhile_costs_nobody_anything(engine: EngineKind) {
    for by_reset in [false, true] {
        let upstream = Upstream::new(move |peer| {
            if let Some(request) = peer.next_request() {
                peer.send(&echo_of(&request));
            }
            if by_reset {
                peer.close_by_reset();
            }
        });
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        for number in 1..=20 {
            let got = client.ask(&either(number));
            assert_eq!(got.status(), 200, "request {number}");
            assert!(!got.says_close(), "{got:?}");
            upstream.wait_until("it is closed", |log| log.closed == number);
        }
        assert_eq!(upstream.deliveries(), 20, "each once");
    }
}

/// The first connection answers once, then takes a request and ends; later ones answer all.
fn dying_when_reused(by_reset: bool) -> Upstream {
    Upstream::new(move |peer| {
        if peer.number > 0 {
            return peer.echo();
        }
        let first = peer.next_request().expect("a first request");
        peer.send(&echo_of(&first));
        peer.next_request();
        if by_reset {
            peer.close_by_reset();
        }
    })
}

// Rule 39
fn a_pooled_connection_that_dies_on_a_request_sends_an_idempotent_one_again(engine: EngineKind) {
    for by_reset in [false, true] {
        cases(["GET", "HEAD", "PUT", "DELETE", "OPTIONS"], |method| {
            let upstream = dying_when_reused(by_reset);
            let balancer = Balancer::start(engine, &[upstream.address()]);
            let mut client = balancer.client();
            client.ask(&get("/first"));
            client.send(&request(method, "/again", "Content-Length: 5\r\n", "hello"));
            let got = client.response_to(method);
            assert_eq!((got.status(), got.says_close()), (200, false));
            assert_eq!(count(&upstream, method), 2 + usize::from(*method == "GET"));
            assert_eq!(
                (upstream.connections(), upstream.last_request().body.as_str()),
                (2, "hello")
            );
        });
    }
}

// Rules 39 and 40
fn a_pooled_connection_that_dies_on_a_request_never_sends_another_one_again(engine: EngineKind) {
    for by_reset in [false, true] {
        cases(["POST", "PATCH", "get"], |method| {
            let upstream = dying_when_reused(by_reset);
            let balancer = Balancer::start(engine, &[upstream.address()]);
            let mut client = balancer.client();
            client.ask(&get("/first"));
            let got = client.ask(&request(method, "/again", "Content-Length: 5\r\n", "hello"));
            assert_eq!(got.status(), 502);
            assert_eq!(count(&upstream, method), 1, "deliveries");
            expect_kept_or_closed(&mut client, &got);
        });
    }
}

// Rules 38 and 39
fn a_request_that_is_sent_again_goes_to_the_same_upstream_first(engine: EngineKind) {
    let upstreams = [dying_when_reused(false), dying_when_reused(true)];
    let balancer = Balancer::start(engine, &upstreams.each_ref().map(Upstream::address));
    for number in 0..8 {
        assert_eq!(balancer.ask(&get(&format!("/{number}"))).status(), 200);
    }
    // Four each, and one sent twice.
    assert_eq!(upstreams.each_ref().map(Upstream::deliveries), [5, 5]);
    assert_eq!(upstreams.each_ref().map(Upstream::connections), [2, 2]);
}

// Rule 39
fn a_body_too_large_to_hold_is_not_sent_again(engine: EngineKind) {
    let upstream = dying_when_reused(false);
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.ask(&get("/first"));
    let body = "x".repeat(300_000);
    let fields = format!("Content-Length: {}\r\n", body.len());
    let got = client.ask(&request("PUT", "/large", &fields, &body));
    assert_eq!(got.status(), 502);
    assert_eq!(count(&upstream, "PUT"), 1, "deliveries");
}

// Rules 39 and 40
fn a_body_still_arriving_is_not_sent_again_from_its_middle(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&get("/first"));
    let mut peer = listener.accept();
    peer.request();
    peer.send(&ok(""));
    client.response();
    client.send(&request("POST", "/slow", "Content-Length: 10\r\n", "hello"));
    peer.request_head().expect("a head");
    peer.expect("hello");
    drop(peer);
    let got = client.response();
    assert_eq!((got.status(), got.says_close()), (502, true));
    client.try_send("world");
    assert_ne!(client.end(), End::Silence);
    assert!(listener.try_accept().is_none(), "it was sent again");
}

// Rules 28 and 41
fn nothing_is_sent_again_once_the_answer_began(engine: EngineKind) {
    let rows = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "5\r\nhello\r\n"),
    ];
    for by_reset in [false, true] {
        cases(rows, |&(answer, part)| {
            let listeners = [Listener::new(), Listener::new()];
            let balancer = Balancer::start(engine, &listeners.each_ref().map(Listener::address));
            let mut client = balancer.client();
            client.send(&get("/"));
            let mut peer = accept_any(&listeners);
            peer.request();
            peer.send(answer);
            assert_eq!(client.response_head().expect("a head").status(), 200);
            client.expect(part);
            if by_reset {
                peer.reset()
            } else {
                drop(peer)
            }
            assert_ne!(client.end(), End::Silence);
            let again = listeners.iter().find_map(Listener::try_accept);
            assert!(again.is_none(), "it was sent again");
        });
    }
}

// Rules 28 and 41: the client gets a part of the answer or none, but always one attempt.
fn an_answer_that_breaks_off_at_once_is_not_asked_for_again(engine: EngineKind) {
    let upstreams = [(); 2].map(|()| {
        Upstream::new(|peer| {
            peer.next_request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        })
    });
    let balancer = Balancer::start(engine, &upstreams.each_ref().map(Upstream::address));
    let mut client = balancer.client();
    client.send(&get("/"));
    match client.try_response_to("GET") {
        Ok(answer) => assert_eq!(answer.status(), 502),
        Err(broken) => assert_ne!(broken.end, End::Silence, "{broken:?}"),
    }
    assert_eq!(upstreams.iter().map(Upstream::deliveries).sum::<usize>(), 1, "deliveries");
}

// Rule 41
fn nothing_is_sent_again_after_an_interim_answer(engine: EngineKind) {
    let interim = || {
        Upstream::new(|peer| {
            peer.next_request();
            peer.send("HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n");
        })
    };
    let upstreams = [interim(), interim()];
    let balancer = Balancer::start(engine, &upstreams.each_ref().map(Upstream::address));
    let mut client = balancer.client();
    assert_eq!(client.ask(&post("/", "x")).status(), 103);
    if let Ok(last) = client.try_response_to("POST") {
        assert_eq!(last.status(), 502);
    }
    let sum: usize = upstreams.iter().map(Upstream::deliveries).sum();
    assert_eq!(sum, 1, "deliveries");
}

// Rule 39
fn many_closed_connections_in_the_pool_cost_nobody_anything(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut clients: Vec<Conn> = (0..20).map(|_| balancer.client()).collect();
    clients.iter_mut().for_each(|client| client.send(&get("/")));
    let mut peers: Vec<Conn> = (0..20).map(|_| listener.accept()).collect();
    for peer in &mut peers {
        peer.request();
        peer.send(&ok(""));
    }
    clients.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
    drop(peers);
    let mut kept: Option<Conn> = None;
    for number in 0..40 {
        let client = &mut clients[number % 20];
        client.send(&post(&format!("/{number}"), "x"));
        let peer = kept.get_or_insert_with(|| listener.accept());
        assert_eq!(peer.request().target(), format!("/{number}"));
        peer.send(&ok("fresh"));
        assert_eq!(client.response().body, "fresh");
    }
    assert!(listener.try_accept().is_none(), "one living connection is enough");
}

// Rule 29: what is too much in one answer must never become the next one, whenever it comes
fn an_upstream_that_talks_unasked_gets_a_connection_a_request(engine: EngineKind) {
    for late in [false, true] {
        let strays = Arc::new(AtomicUsize::new(0));
        let sent = strays.clone();
        let upstream = Upstream::new(move |peer| {
            while let Some(request) = peer.next_request() {
                let (answer, stray) = (echo_of(&request), ok("stray"));
                if late {
                    peer.send(&answer);
                    std::thread::sleep(Duration::from_millis(20));
                    peer.try_send(&stray);
                } else {
                    peer.send(&(answer + &stray));
                }
                sent.fetch_add(1, Ordering::SeqCst);
            }
        });
        let balancer = Balancer::start(engine, &[upstream.address()]);
        for number in 0..4 {
            let target = format!("/{number}");
            assert_eq!(balancer.ask(&get(&target)).body, format!("GET {target}"), "late: {late}");
            let begin = Instant::now();
            while strays.load(Ordering::SeqCst) <= number {
                assert!(begin.elapsed() < raw::PATIENCE, "it talks");
                std::thread::yield_now();
            }
        }
        assert_eq!((upstream.connections(), upstream.deliveries()), (4, 4));
    }
}

/// Lets connections be idle that long, which nobody is told.
const PATIENCE_OF_UPSTREAM: Duration = Duration::from_millis(1_200);

// Rule 39
fn what_must_not_be_sent_twice_takes_no_connection_that_may_be_closed_soon(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        let mut idle_since = None::<Instant>;
        while let Some(request) = peer.next_request() {
            // It has just decided to close, and the request comes too late.
            if idle_since.is_some_and(|since| since.elapsed() > PATIENCE_OF_UPSTREAM) {
                return peer.close_by_reset();
            }
            peer.send(&echo_of(&request));
            idle_since = Some(Instant::now());
        }
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for number in 1..=3 {
        assert_eq!(client.ask(&post("/", "x")).status(), 200, "request {number}");
        std::thread::sleep(PATIENCE_OF_UPSTREAM + Duration::from_millis(100));
    }
    assert_eq!(upstream.connections(), 3);
    assert_eq!(upstream.deliveries(), 3, "each once");
}

// Rule 39
fn an_upstreams_keep_alive_is_believed(engine: EngineKind) {
    let upstream = Upstream::answering(&response("200 OK", "Keep-Alive: max=9, timeout=3\r\n", ""));
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    assert_eq!(client.ask(&get("/")).status(), 200);
    std::thread::sleep(Duration::from_millis(1_300));
    assert_eq!(client.ask(&post("/", "x")).status(), 200);
    assert_eq!(upstream.connections(), 1, "it is not closed for two seconds");
    std::thread::sleep(Duration::from_millis(2_200));
    assert_eq!(client.ask(&get("/")).status(), 200);
    assert_eq!(upstream.connections(), 2, "it may be closed at any moment");
    upstream.wait_until("the old one is closed", |log| log.closed == 1);
}

// Rule 39
fn an_end_of_an_idle_connection_teaches_the_upstreams_limit(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        if peer.number > 0 {
            return peer.echo();
        }
        let request = peer.next_request().expect("a request");
        peer.send(&echo_of(&request));
        std::thread::sleep(Duration::from_millis(1_100));
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    assert_eq!(client.ask(&get("/1")).status(), 200);
    upstream.wait_until("it is closed", |log| log.closed == 1);
    assert_eq!(client.ask(&get("/2")).status(), 200);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(client.ask(&get("/3")).status(), 200);
    assert_eq!(upstream.connections(), 2, "a request that can be sent again takes any");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(client.ask(&post("/4", "x")).status(), 200);
    assert_eq!(upstream.connections(), 3);
}

// Rule 39
fn a_limit_that_was_learnt_lets_more_connections_be_used_again(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        if peer.number > 0 {
            return peer.echo();
        }
        let request = peer.next_request().expect("a request");
        peer.send(&echo_of(&request));
        std::thread::sleep(Duration::from_millis(3_600)); // the idle timeout of the upstream
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    assert_eq!(client.ask(&get("/1")).status(), 200);
    upstream.wait_until("it is closed", |log| log.closed == 1);
    std::thread::sleep(Duration::from_millis(1_200)); // longer than between two sweeps
    assert_eq!(client.ask(&get("/2")).status(), 200);
    std::thread::sleep(Duration::from_millis(1_300));
    assert_eq!(client.ask(&post("/3", "x")).status(), 200);
    assert_eq!(upstream.connections(), 2, "1.3 s are well within the limit");
}
