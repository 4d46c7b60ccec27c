//! Rules 34, 36 and 37: both directions at once, nothing held back, and sides that leave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    the_first_byte_of_an_answer_goes_on_before_the_rest_is_sent,
    the_first_byte_of_a_request_goes_on_before_the_rest_is_sent,
    an_answer_may_run_while_its_request_is_still_being_sent,
    an_early_answer_is_relayed_whole_and_ends_the_connection,
    an_early_answer_survives_an_upstream_that_closes_on_the_unread_body,
    large_bodies_arrive_whole_in_both_directions_at_once,
    a_client_that_does_not_read_holds_the_upstream_back,
    an_upstream_that_does_not_read_holds_the_client_back,
    a_client_that_resets_while_waiting_costs_the_upstream_connection,
    a_client_that_resets_behind_unread_bytes_costs_the_upstream_connection,
    a_client_that_resets_while_being_answered_costs_the_upstream_connection,
    a_client_that_leaves_in_its_body_never_looks_whole_to_the_upstream,
    a_client_that_only_ends_its_direction_gets_its_answer,
    a_client_that_leaves_in_its_head_is_forgotten,
}

// Rule 36
fn the_first_byte_of_an_answer_goes_on_before_the_rest_is_sent(engine: EngineKind) {
    let rows = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "a", "a", "b", "b"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "1\r\na\r\n",
            "1\r\na\r\n",
            "1\r\nb\r\n0\r\n\r\n",
            "1\r\nb\r\n0\r\n\r\n",
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", "a", "1\r\na\r\n", "b", "1\r\nb\r\n0\r\n\r\n"),
    ];
    cases(rows, |(head, first, first_seen, last, last_seen)| {
        let listener = Listener::new();
        let balancer = Balancer::start(engine, &[listener.address()]);
        let mut client = balancer.client();
        client.send(&get("/"));
        let mut peer = listener.accept();
        peer.request();
        peer.send(head);
        assert_eq!(client.response_head().expect("a head").status(), 200);
        peer.send(first);
        client.expect(first_seen);
        peer.send(last);
        drop(peer);
        client.expect(last_seen);
    });
}

// Rule 36
fn the_first_byte_of_a_request_goes_on_before_the_rest_is_sent(engine: EngineKind) {
    let rows = [
        ("Content-Length: 2\r\n", "a", "b"),
        ("Transfer-Encoding: chunked\r\n", "1\r\na\r\n", "1\r\nb\r\n0\r\n\r\n"),
        ("Content-Length: 2\r\nExpect: 100-continue\r\n", "a", "b"),
    ];
    cases(rows, |(fields, first, last)| {
        let listener = Listener::new();
        let balancer = Balancer::start(engine, &[listener.address()]);
        let mut client = balancer.client();
        client.send(&request("POST", "/", fields, ""));
        let mut peer = listener.accept();
        peer.request_head().expect("a head");
        client.send(first);
        peer.expect(first);
        client.send(last);
        peer.expect(last);
        peer.send(&ok("done"));
        assert_eq!(client.response().body, "done");
    });
}

// Rule 34
fn an_answer_may_run_while_its_request_is_still_being_sent(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&request("POST", "/", "Transfer-Encoding: chunked\r\n", ""));
    let mut peer = listener.accept();
    peer.request_head().expect("a head");
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.response_head().expect("a head").status(), 200);
    for number in 0..50 {
        let (question, answer) =
            (chunk(&format!("question {number}")), chunk(&format!("{number}")));
        client.send(&question);
        peer.expect(&question);
        peer.send(&answer);
        client.expect(&answer);
    }
    client.send("0\r\n\r\n");
    peer.expect("0\r\n\r\n");
    peer.send("0\r\n\r\n");
    client.expect("0\r\n\r\n");

    client.send(&get("/next"));
    assert_eq!(peer.request().target(), "/next", "on the same connections");
    peer.send(&ok("kept"));
    assert_eq!(client.response().body, "kept");
}

// Rule 34
fn an_early_answer_is_relayed_whole_and_ends_the_connection(engine: EngineKind) {
    for fields in ["Content-Length: 1000000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let listener = Listener::new();
        let balancer = Balancer::start(engine, &[listener.address()]);
        let mut client = balancer.client();
        client.send(&request("POST", "/", fields, "5\r\nfirst\r\n"));
        let mut peer = listener.accept();
        peer.request_head().expect("a head");
        peer.expect_chunk("first");
        peer.send(&response("403 Forbidden", "", "not for you"));
        let got = client.response();
        assert_eq!((got.status(), got.body.as_str()), (403, "not for you"));
        client.expect_fin();
        let (rest, end) = peer.rest();
        assert_eq!(rest, "");
        assert_ne!(end, End::Silence, "the upstream's connection is no longer of use");

        client = balancer.client();
        client.send(&get("/next"));
        let mut peer = listener.accept();
        assert_eq!(peer.request().target(), "/next");
    }
}

/// Writes until it is no longer possible, in a thread of its own; the end tells how much.
fn write_on(conn: &Conn, piece: Vec<u8>) -> thread::JoinHandle<usize> {
    let stream = conn.stream();
    thread::spawn(move || {
        let mut written = 0;
        while let Ok(n @ 1..) = (&*stream).write(&piece) {
            written += n;
        }
        written
    })
}

// Rules 34 and 9
fn an_early_answer_survives_an_upstream_that_closes_on_the_unread_body(engine: EngineKind) {
    let body = "x".repeat(10_000);
    let answer = response("413 Content Too Large", "", &body);
    let upstream = Upstream::new(move |peer| {
        peer.request_head().expect("a head");
        peer.send(&answer);
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    for _ in 0..10 {
        let mut client = balancer.client();
        client.send(&request("POST", "/", "Content-Length: 50000000\r\n", ""));
        let sending = write_on(&client, vec![b'x'; 64 * 1024]);
        let got = client.response();
        assert_eq!((got.status(), got.body.len()), (413, 10_000));
        let _ = client.rest();
        sending.join().expect("the sender");
    }
}

const LARGE: usize = 8 * 1024 * 1024;

/// Bytes that do not repeat themselves where pieces are cut.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Sends the bytes back as they come, that many of them.
fn send_back(stream: &TcpStream, mut left: usize) {
    let (mut from, mut to) = (stream, stream);
    let mut piece = [0; 64 * 1024];
    while left > 0 {
        let n = from.read(&mut piece).expect("a body");
        assert_ne!(n, 0, "the body ended {left} bytes too soon");
        to.write_all(&piece[..n]).expect("somebody who reads");
        left -= n;
    }
}

// Rules 34 and 36
fn large_bodies_arrive_whole_in_both_directions_at_once(engine: EngineKind) {
    let noise = noise(LARGE);
    let mut wire = Vec::new();
    for piece in noise.chunks(100_003) {
        wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    let rows = [
        ("length", format!("Content-Length: {LARGE}\r\n"), noise.clone()),
        ("chunked", "Transfer-Encoding: chunked\r\n".to_string(), wire),
    ];
    for (name, fields, wire) in rows {
        let upstream = Upstream::new(|peer| {
            let head = peer.request_head().expect("a head");
            peer.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
            if head.has("Content-Length") {
                let first = peer.take_buffered();
                peer.send_bytes(&first);
                send_back(&peer.stream(), LARGE - first.len());
            } else {
                let body = peer.chunked_body();
                peer.send_bytes(&body);
            }
        });
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        client.send(&request("POST", "/", &fields, ""));
        let stream = client.stream();
        let sending = thread::spawn(move || (&*stream).write_all(&wire).expect("a reader"));
        let got = client.response();
        assert!(raw::bytes(&got.body) == noise, "{name}: {} bytes differ", got.body.len());
        sending.join().expect("the sender");
    }
}

/// More than the kernel's buffers of two connections can be, and less than a proxy may gather.
const TOO_MUCH: usize = 64 * 1024 * 1024;

/// Writes until it is blocked for a while; how much that was.
fn write_until_blocked(stream: &TcpStream) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(400))).expect("a timeout");
    let piece = [b'x'; 64 * 1024];
    let mut written = 0;
    while written < TOO_MUCH {
        match (&*stream).write(&piece) {
            Ok(n) => written += n,
            Err(_) => break,
        }
    }
    written
}

// Rule 36
fn a_client_that_does_not_read_holds_the_upstream_back(engine: EngineKind) {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |peer| {
        peer.next_request();
        peer.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 4 * TOO_MUCH));
        let _ = tell.send(write_until_blocked(&peer.stream()));
        peer.hold();
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(&get("/"));
    let written = told.recv_timeout(raw::PATIENCE).expect("it blocks");
    assert!(written < TOO_MUCH, "{written} bytes were taken for a client that reads nothing");
}

// Rule 36
fn an_upstream_that_does_not_read_holds_the_client_back(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&request("POST", "/", &format!("Content-Length: {}\r\n", 4 * TOO_MUCH), ""));
    let _peer = listener.accept();
    let written = write_until_blocked(&client.stream());
    assert!(written < TOO_MUCH, "{written} bytes were taken for an upstream that reads nothing");
}

// Rule 37
fn a_client_that_resets_while_waiting_costs_the_upstream_connection(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    for wire in [get("/"), post("/", "hello")] {
        let mut client = balancer.client();
        client.send(&wire);
        let mut peer = listener.accept();
        peer.request();
        client.reset();
        assert_ne!(peer.end(), End::Silence);
    }
}

// Rule 37
fn a_client_that_resets_behind_unread_bytes_costs_the_upstream_connection(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    for half_closes in [false, true] {
        let mut client = balancer.client();
        client.send(&get("/"));
        let mut peer = listener.accept();
        peer.request();
        // Neither is read before the answer is there.
        if half_closes {
            client.finish();
        } else {
            client.send(&get("/next"));
        }
        peer.expect_quiet(Duration::from_millis(100));
        client.reset();
        assert_ne!(peer.end(), End::Silence, "after a half-close: {half_closes}");
    }
}

// Rule 37
fn a_client_that_resets_while_being_answered_costs_the_upstream_connection(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&get("/"));
    let mut peer = listener.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nfirst");
    client.response_head().expect("a head");
    client.expect("first");
    client.reset();
    assert_ne!(peer.end(), End::Silence);
}

// Rules 16, 28 and 37
fn a_client_that_leaves_in_its_body_never_looks_whole_to_the_upstream(engine: EngineKind) {
    let rows =
        [("Content-Length: 10\r\n", "first"), ("Transfer-Encoding: chunked\r\n", "5\r\nfirst\r\n")];
    for by_reset in [false, true] {
        cases(rows, |(fields, first)| {
            let listener = Listener::new();
            let balancer = Balancer::start(engine, &[listener.address()]);
            let mut client = balancer.client();
            client.send(&request("POST", "/", fields, first));
            let mut peer = listener.accept();
            peer.request_head().expect("a head");
            peer.expect(first);
            if by_reset {
                client.reset();
            } else {
                drop(client);
            }
            let (rest, end) = peer.rest();
            assert_eq!(rest, "", "after the client was gone");
            assert_ne!(end, End::Silence);
        });
    }
}

// Rule 37
fn a_client_that_only_ends_its_direction_gets_its_answer(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    for wire in [get("/"), post("/", "hello"), "GET / HTTP/1.0\r\n\r\n".to_string()] {
        let mut client = balancer.client();
        client.send(&wire);
        client.finish();
        let mut peer = listener.accept();
        peer.request();
        peer.expect_quiet(Duration::from_millis(100));
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhello");
        thread::sleep(Duration::from_millis(20));
        peer.send("world");
        assert_eq!(client.response().body, "helloworld");
        client.expect_fin();
    }
}

// Rule 37
fn a_client_that_leaves_in_its_head_is_forgotten(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    for part in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\n"] {
        let mut client = balancer.client();
        client.send(part);
        client.finish();
        let (rest, end) = client.rest();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400 "), "{rest:?}");
        assert_ne!(end, End::Silence);
    }
    let mut client = balancer.client();
    client.finish();
    client.expect_fin();
    balancer.stop();
    assert_eq!(upstream.connections(), 0);
}
