//! Rule 43: each phase has a deadline.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use balancebeam::config::{EngineKind, Timeouts};

use crate::support::*;

on_each_engine! {
    a_head_that_does_not_end_is_408,
    a_head_that_trickles_is_408_all_the_same,
    a_head_that_ends_in_time_is_served,
    the_deadline_of_a_head_holds_for_later_requests_too,
    an_empty_line_behind_a_body_is_no_request_that_is_late,
    an_idle_connection_is_closed_without_a_word,
    an_upstream_that_does_not_answer_is_504_and_asked_once,
    a_slow_answer_within_its_deadline_is_served_whatever_progress_says,
    a_client_that_stalls_in_its_body_is_408,
    a_client_that_stalls_in_chunks_is_408,
    a_body_that_trickles_is_no_stall,
    waiting_for_100_is_not_a_stall,
    an_upstream_that_does_not_read_is_504,
    an_answer_that_stalls_never_looks_whole,
    an_answer_that_trickles_is_no_stall,
    a_client_that_does_not_read_its_answer_is_cut_off,
    an_idle_upstream_connection_is_let_go,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn start(engine: EngineKind, listener: &Listener, set: impl FnOnce(&mut Timeouts)) -> Balancer {
    Balancer::start_with(engine, &[listener.address()], |c| set(&mut c.timeouts))
}

/// What happens takes at least `least`, and not much longer.
#[track_caller]
fn takes<T>(least: Duration, what: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let outcome = what();
    let took = began.elapsed();
    assert!(took >= least - ms(20), "too early, after {took:?} of {least:?}");
    assert!(took < least + ms(2500), "too late, after {took:?} instead of {least:?}");
    outcome
}

// Rule 43
fn a_head_that_does_not_end_is_408(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = start(engine, &listener, |t| t.head = ms(300));
    cases(
        ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n\r", "\r\nGET /"],
        |part| {
            let mut client = balancer.client();
            takes(ms(300), || {
                client.send(part);
                expect_refusal(&mut client, &[408])
            });
        },
    );
    assert!(listener.try_accept().is_none());
}

// Rules 43 and 44
fn a_head_that_trickles_is_408_all_the_same(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = start(engine, &listener, |t| t.head = ms(400));
    let mut client = balancer.client();
    takes(ms(400), || {
        client.send("GET /x HTTP/1.1\r\nHost: a.example\r\nX: ");
        for _ in 0..30 {
            client.try_send("x");
            thread::sleep(ms(20));
        }
        assert_eq!(client.response().status(), 408);
    });
}

// Rule 43
fn a_head_that_ends_in_time_is_served(engine: EngineKind) {
    let upstream = Upstream::echo();
    let addresses = [upstream.address()];
    let balancer = Balancer::start_with(engine, &addresses, |c| c.timeouts.head = ms(1500));
    let mut client = balancer.client();
    for number in 0..3 {
        let wire = get(&format!("/{number}"));
        for part in wire.as_bytes().chunks(wire.len() / 4) {
            client.send_bytes(part);
            thread::sleep(ms(120));
        }
        assert_eq!(client.response().body, format!("GET /{number}"));
    }
}

// Rule 43
fn the_deadline_of_a_head_holds_for_later_requests_too(engine: EngineKind) {
    let upstream = Upstream::echo();
    let addresses = [upstream.address()];
    let balancer = Balancer::start_with(engine, &addresses, |c| c.timeouts.head = ms(300));
    let mut client = balancer.client();
    assert_eq!(client.ask(&get("/1")).status(), 200);
    thread::sleep(ms(400));
    assert_eq!(client.ask(&get("/2")).status(), 200, "being idle is not being slow");
    client.send(&(get("/3") + "GET /4"));
    assert_eq!(client.response().body, "GET /3");
    expect_refusal(&mut client, &[408]);
    assert_eq!(upstream.deliveries(), 3);
}

// Rule 43
fn an_empty_line_behind_a_body_is_no_request_that_is_late(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
        c.timeouts.head = ms(100);
        c.timeouts.idle = ms(600);
    });
    let mut client = balancer.client();
    assert_eq!(client.ask(&(post("/1", "hello") + "\r\n")).body, "POST /1 hello");
    takes(ms(600), || client.expect_fin());
}

// Rule 43
fn an_idle_connection_is_closed_without_a_word(engine: EngineKind) {
    let upstream = Upstream::echo();
    let addresses = [upstream.address()];
    let balancer = Balancer::start_with(engine, &addresses, |c| c.timeouts.idle = ms(300));
    let mut fresh = balancer.client();
    takes(ms(300), || fresh.expect_fin());
    let mut used = balancer.client();
    for _ in 0..3 {
        assert_eq!(used.ask(&get("/")).status(), 200);
        thread::sleep(ms(150));
    }
    used.ask(&get("/"));
    takes(ms(300), || used.expect_fin());
}

// Rules 42 and 43
fn an_upstream_that_does_not_answer_is_504_and_asked_once(engine: EngineKind) {
    let rows = [get("/"), post("/", "hello"), request("PUT", "/", "Content-Length: 1\r\n", "x")];
    for beginning in ["", "HTTP/1.1 200 OK\r\nContent-"] {
        cases(&rows, |wire| {
            let silent = || {
                Upstream::new(move |peer| {
                    peer.next_request();
                    peer.send(beginning);
                    peer.hold();
                })
            };
            let upstreams = [silent(), silent()];
            let addresses = upstreams.each_ref().map(Upstream::address);
            let balancer =
                Balancer::start_with(engine, &addresses, |c| c.timeouts.response = ms(300));
            let mut client = balancer.client();
            let got = takes(ms(300), || client.ask(wire));
            assert_eq!(got.status(), 504);
            let sum: usize = upstreams.iter().map(Upstream::deliveries).sum();
            assert_eq!(sum, 1, "deliveries");
            let asked = upstreams.iter().find(|u| u.deliveries() == 1).expect("one");
            asked.wait_until("its connection is dropped", |log| log.closed == 1);
        });
    }
}

// Rule 43
fn a_slow_answer_within_its_deadline_is_served_whatever_progress_says(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = start(engine, &listener, |t| {
        (t.progress, t.idle, t.head, t.response) = (ms(200), ms(200), ms(200), ms(3000));
    });
    for wire in [get("/"), post("/", "hello")] {
        let mut client = balancer.client();
        client.send(&wire);
        let mut peer = listener.accept();
        peer.request();
        thread::sleep(ms(600));
        peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nslow");
        assert_eq!(client.response().body, "slow");
    }
}

// Rule 43
fn a_client_that_stalls_in_its_body_is_408(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = start(engine, &listener, |t| t.progress = ms(300));
    for part in ["", "hello"] {
        let mut client = balancer.client();
        takes(ms(300), || {
            client.send(&request("POST", "/", "Content-Length: 10\r\n", part));
            expect_refusal(&mut client, &[408])
        });
        // Whether an upstream was chosen before the body began to come is free.
        if let Some(mut peer) = listener.try_accept() {
            peer.request_head().expect("a head");
            peer.expect(part);
            assert_ne!(peer.end(), End::Silence, "the upstream still waits for the body");
        }
    }
}

// Rules 16 and 43
fn a_client_that_stalls_in_chunks_is_408(engine: EngineKind) {
    for part in ["5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n3"] {
        let listener = Listener::new();
        let balancer = start(engine, &listener, |t| t.progress = ms(300));
        let mut client = balancer.client();
        client.send(&request("POST", "/", "Transfer-Encoding: chunked\r\n", part));
        expect_refusal(&mut client, &[408]);
        if let Some(mut peer) = listener.try_accept() {
            peer.request_head().expect("a head");
            let (rest, end) = peer.rest();
            assert!(!rest.contains("0\r\n"), "it looks whole: {rest:?}");
            assert_ne!(end, End::Silence);
        }
    }
}

// Rules 43 and 44
fn a_body_that_trickles_is_no_stall(engine: EngineKind) {
    let upstream = Upstream::echo();
    let addresses = [upstream.address()];
    let balancer = Balancer::start_with(engine, &addresses, |c| {
        (c.timeouts.progress, c.timeouts.response, c.timeouts.head) = (ms(400), ms(400), ms(400));
    });
    let mut client = balancer.client();
    client.send(&request("POST", "/", "Content-Length: 10\r\n", ""));
    for _ in 0..10 {
        thread::sleep(ms(100));
        client.send("x");
    }
    assert_eq!(client.response().body, "POST / xxxxxxxxxx");
}

// Rules 33 and 43
fn waiting_for_100_is_not_a_stall(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = start(engine, &listener, |t| {
        (t.progress, t.response) = (ms(200), ms(1500));
    });
    let fields = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    let mut client = balancer.client();
    client.send(&request("POST", "/", fields, ""));
    let mut peer = listener.accept();
    peer.request_head().expect("a head");
    thread::sleep(ms(600));
    peer.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.response().status(), 100);
    client.send("hello");
    peer.expect("hello");
    peer.send(&ok("done"));
    assert_eq!(client.response().body, "done");

    let mut client = balancer.client();
    client.send(&request("POST", "/", fields, ""));
    takes(ms(1500), || expect_refusal(&mut client, &[504]));
}

// Rule 43
fn an_upstream_that_does_not_read_is_504(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = start(engine, &listener, |t| t.progress = ms(500));
    let mut client = balancer.client();
    client.send(&request("POST", "/", "Content-Length: 500000000\r\n", ""));
    let stream = client.stream();
    let sending = thread::spawn(move || {
        let piece = [b'x'; 64 * 1024];
        while std::io::Write::write_all(&mut &*stream, &piece).is_ok() {}
    });
    let _peer = listener.accept();
    let got = client.response();
    assert_eq!((got.status(), got.says_close()), (504, true));
    let _ = client.rest();
    sending.join().expect("the sender");
}

// Rules 28 and 43
fn an_answer_that_stalls_never_looks_whole(engine: EngineKind) {
    let rows = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
    ];
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        cases(rows, |answer| {
            let listener = Listener::new();
            let balancer = start(engine, &listener, |t| t.progress = ms(300));
            let mut client = balancer.client();
            client.send(&format!("GET / {version}\r\nHost: a.example\r\n\r\n"));
            let mut peer = listener.accept();
            peer.request();
            peer.send(answer);
            let broken = client.try_response_to("GET").expect_err("only a part");
            assert!(broken.wire.contains("hello"), "{broken:?}");
            assert_ne!(broken.end, End::Silence);
            assert_ne!(peer.end(), End::Silence, "the upstream's connection stays open");
        });
    }
}

// Rules 43 and 44
fn an_answer_that_trickles_is_no_stall(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = start(engine, &listener, |t| (t.progress, t.response) = (ms(400), ms(400)));
    let mut client = balancer.client();
    client.send(&get("/"));
    let mut peer = listener.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
    for _ in 0..10 {
        thread::sleep(ms(100));
        peer.send("x");
    }
    assert_eq!(client.response().body, "xxxxxxxxxx");
}

// Rules 43 and 44
fn a_client_that_does_not_read_its_answer_is_cut_off(engine: EngineKind) {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |peer| {
        peer.next_request();
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        let piece = "x".repeat(64 * 1024);
        while peer.try_send(&piece) {}
        let _ = tell.send(());
    });
    let addresses = [upstream.address()];
    let balancer = Balancer::start_with(engine, &addresses, |c| c.timeouts.progress = ms(500));
    let mut client = balancer.client();
    let began = Instant::now();
    client.send(&get("/"));
    told.recv_timeout(raw::PATIENCE).expect("the upstream is let go");
    assert!(began.elapsed() < ms(4500), "only its own deadline ended it");
    let (rest, end) = client.rest();
    assert!(!rest.ends_with("0\r\n\r\n"), "it looks whole");
    assert_ne!(end, End::Silence);
}

// Rule 43
fn an_idle_upstream_connection_is_let_go(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = start(engine, &listener, |t| t.pool = ms(400));
    let mut client = balancer.client();
    client.send(&get("/"));
    let mut peer = listener.accept();
    peer.request();
    peer.send(&ok(""));
    assert_eq!(client.response().status(), 200);
    takes(ms(400), || assert_ne!(peer.end(), End::Silence));
    // The client's connection is another matter.
    client.send(&get("/"));
    let mut peer = listener.accept();
    peer.request();
}
