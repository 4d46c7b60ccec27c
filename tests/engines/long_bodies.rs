//! Rules 28, 34, 36 and 37 for bodies that may go from socket to socket, past the session: nothing
//! of them is lost, held back or mixed up, whoever is slow and whoever leaves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    a_long_answer_reaches_a_slow_reader_whole_and_its_connection_is_used_again,
    a_long_request_reaches_a_slow_reader_whole_and_the_next_one_is_not_taken_for_it,
    a_long_answer_that_breaks_off_never_looks_whole,
    a_client_that_leaves_a_long_answer_costs_the_upstream_connection,
    more_slow_readers_than_there_are_pipes_get_their_own_answers,
    a_head_does_not_wait_for_a_long_body_that_is_late,
}

/// More than the system holds on the way, as long as somebody does not read.
const LONG: usize = 10 * 1024 * 1024;
/// More readers than there are pipes.
const READERS: usize = 72;

/// How far apart two bodies begin in what all of them are cut from.
const STRIDE: usize = 4096;

/// So many bytes, of which no four repeat themselves, and which no other name has there.
fn content(name: usize, len: usize) -> &'static [u8] {
    static ALL: OnceLock<Vec<u8>> = OnceLock::new();
    let numbers = 0..((LONG + READERS * STRIDE) / 4) as u32;
    let all = ALL.get_or_init(|| numbers.flat_map(u32::to_be_bytes).collect());
    &all[name * STRIDE..name * STRIDE + len]
}

fn head(len: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n")
}

/// Takes little at a time, and lets little arrive before it does.
fn make_slow(conn: &Conn) {
    let stream = conn.stream();
    let socket = socket2::SockRef::from(&*stream);
    socket.set_recv_buffer_size(32 * 1024).expect("SO_RCVBUF");
    stream.set_read_timeout(Some(raw::PATIENCE)).expect("a read timeout");
}

/// Reads a body in small pieces, and looks at each. `got` bytes of it were read before.
fn read_slowly(stream: &TcpStream, body: &[u8], mut got: usize, until: usize) {
    let mut piece = [0; 5_000];
    while got < until {
        let most = piece.len().min(until - got);
        let n = { stream }.read(&mut piece[..most]).expect("more of a body");
        assert_ne!(n, 0, "the body ended after {got} bytes");
        assert!(piece[..n] == body[got..got + n], "it differs behind {got} bytes");
        got += n;
    }
}

/// What was read of a body together with the head before it.
fn first_of(conn: &mut Conn, body: &[u8]) -> usize {
    let first = conn.take_buffered();
    assert!(body.starts_with(&first), "it differs from its beginning");
    first.len()
}

// Rules 33 and 36
fn a_long_answer_reaches_a_slow_reader_whole_and_its_connection_is_used_again(engine: EngineKind) {
    let body = content(1, LONG);
    let upstream = Upstream::new(move |peer| {
        while peer.next_request().is_some() {
            peer.send(&head(LONG));
            peer.send_bytes(body);
        }
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    make_slow(&client);
    for _ in 0..2 {
        client.send(&get("/"));
        assert_eq!(client.response_head().expect("a head").status(), 200);
        let got = first_of(&mut client, body);
        read_slowly(&client.stream(), body, got, LONG);
    }
    assert_eq!(upstream.connections(), 1);
}

// Rules 17, 34 and 36
fn a_long_request_reaches_a_slow_reader_whole_and_the_next_one_is_not_taken_for_it(
    engine: EngineKind,
) {
    let body = content(2, LONG);
    let upstream = Upstream::new(move |peer| {
        make_slow(peer);
        peer.request_head().expect("a head");
        let got = first_of(peer, body);
        read_slowly(&peer.stream(), body, got, LONG);
        peer.send(&ok("whole"));
        peer.echo();
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(&request("POST", "/", &format!("Content-Length: {LONG}\r\n"), ""));
    let stream = client.stream();
    let sending = thread::spawn(move || {
        { &*stream }.write_all(body).expect("a reader");
        { &*stream }.write_all(get("/next").as_bytes()).expect("a reader");
    });
    assert_eq!(client.response().body, "whole");
    assert_eq!(client.response().body, "GET /next");
    sending.join().expect("the sender");
    assert_eq!(upstream.connections(), 1);
}

// Rules 28 and 42
fn a_long_answer_that_breaks_off_never_looks_whole(engine: EngineKind) {
    let old = "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n".to_string();
    let rows = [
        (get("/"), head(LONG), false),
        (get("/"), head(LONG), true),
        (old, "HTTP/1.1 200 OK\r\n\r\n".to_string(), true),
    ];
    cases(rows, |(request, head, by_reset)| {
        let listener = Listener::new();
        let balancer = Balancer::start(engine, &[listener.address()]);
        let mut client = balancer.client();
        client.send(request);
        let mut peer = listener.accept();
        peer.request();
        peer.send(head);
        assert_eq!(client.response_head().expect("a head").status(), 200);
        let (body, by_reset) = (content(3, LONG / 2), *by_reset);
        let (tell, told) = mpsc::channel();
        let sending = thread::spawn(move || {
            peer.send_bytes(&body[..LONG / 4]);
            told.recv().expect("a reader");
            peer.send_bytes(&body[LONG / 4..]);
            if by_reset {
                peer.reset();
            }
        });
        make_slow(&client);
        let got = first_of(&mut client, body);
        read_slowly(&client.stream(), body, got, LONG / 4);
        tell.send(()).expect("an upstream");
        let (rest, end) = client.rest();
        assert!(body[LONG / 4..].starts_with(&raw::bytes(&rest)), "it differs from what was sent");
        assert_eq!(end, End::Reset);
        sending.join().expect("the upstream");
    });
}

// Rule 37
fn a_client_that_leaves_a_long_answer_costs_the_upstream_connection(engine: EngineKind) {
    let body = content(4, LONG);
    let upstream = Upstream::new(move |peer| {
        while peer.next_request().is_some() {
            peer.send(&head(LONG));
            let stream = peer.stream();
            if { &*stream }.write_all(body).is_err() {
                return;
            }
        }
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    for number in 1..=100 {
        let mut client = balancer.client();
        client.send(&get("/"));
        assert_eq!(client.response_head().expect("a head").status(), 200);
        if number % 2 == 0 {
            client.reset();
        } else {
            drop(client);
        }
        upstream.wait_until("it is closed", |log| log.closed == number);
    }
    let mut client = balancer.client();
    client.send(&get("/"));
    assert_eq!(client.response_head().expect("a head").status(), 200);
    let got = first_of(&mut client, body);
    make_slow(&client);
    read_slowly(&client.stream(), body, got, LONG);
}

// Rules 17, 36 and 44
fn more_slow_readers_than_there_are_pipes_get_their_own_answers(engine: EngineKind) {
    const LEN: usize = LONG / 2;
    let upstream = Upstream::new(move |peer| {
        while let Some(request) = peer.next_request() {
            let name = request.target()[1..].parse().expect("a number");
            peer.send(&head(LEN));
            peer.send_bytes(content(name, LEN));
        }
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut clients: Vec<(Conn, usize)> = (0..READERS)
        .map(|name| {
            let mut client = balancer.client();
            make_slow(&client);
            client.send(&get(&format!("/{name}")));
            (client, 0)
        })
        .collect();
    for (name, (client, got)) in clients.iter_mut().enumerate() {
        assert_eq!(client.response_head().expect("a head").status(), 200);
        *got = first_of(client, content(name, LEN));
    }
    // All of them are on their way, and all of them go on together.
    let mut until = 0;
    while until < LEN {
        until = (until + 512 * 1024).min(LEN);
        for (name, (client, got)) in clients.iter_mut().enumerate() {
            read_slowly(&client.stream(), content(name, LEN), *got, until);
            *got = until.max(*got);
        }
    }
}

// Rule 36
fn a_head_does_not_wait_for_a_long_body_that_is_late(engine: EngineKind) {
    let body = content(5, LONG);
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    let mut first = None;
    for _ in 0..5 {
        client.send(&get("/"));
        let peer = first.get_or_insert_with(|| listener.accept());
        peer.request();
        peer.send(&head(LONG));
        // Not a byte of the body is sent before the client has the head.
        assert_eq!(client.response_head().expect("a head").status(), 200);
        let stream = peer.stream();
        let sending = thread::spawn(move || { &*stream }.write_all(body).expect("a reader"));
        let stream = client.stream();
        stream.set_read_timeout(Some(raw::PATIENCE)).expect("a read timeout");
        read_slowly(&stream, body, 0, LONG);
        sending.join().expect("the upstream");
    }
    assert!(listener.try_accept().is_none(), "one connection is enough");
}
