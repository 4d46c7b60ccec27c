//! What a session holds: nothing while it is idle, a constant whatever goes through it.

use crate::script::Source;
use balancebeam::buffer::{SIZE, SMALL};
use balancebeam::session::Side;

use crate::script::{FINISHED, GET, GONE, OK, forwarded, get, script, script_with};
use crate::world::{MOST_BUFFERED, Steps, World};

#[test]
fn an_idle_session_holds_no_buffer() {
    script().holds_at_most(0).one_good_exchange().holds_at_most(0).replay();
    script()
        .client_sends("GET\r\n")
        .client_sees_last_answer(400)
        .reported(400, FINISHED)
        .half_closed(Side::Client)
        .holds_at_most(0)
        .client_sends("noise")
        .holds_at_most(0)
        .client_ends()
        .closed()
        .replay();
}

#[test]
fn a_session_that_waits_for_a_slow_upstream_holds_the_request_alone() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n";
    script()
        .client_sends(format!("{head}\r\nabc"))
        .connects(0, Source::Pooled)
        .holds_at_most(SMALL)
        .connected_fresh()
        .upstream_sees(forwarded(head) + "abc")
        .holds_at_most(SMALL)
        .upstream_sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        .client_sees("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        .holds_at_most(0)
        .upstream_sends("ok")
        .client_sees("ok")
        .kept()
        .reported(200, FINISHED)
        .holds_at_most(0)
        .replay();
}

#[test]
fn a_session_that_retries_holds_no_more_than_before() {
    script_with(2, |_| ())
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_ends()
        .dropped()
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(get())
        .holds_at_most(SMALL)
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .holds_at_most(0)
        .replay();
}

/// A world in which `request` has reached an upstream.
fn asked(request: &str) -> World {
    let mut world = World::new(&script().config, Steps { read: usize::MAX, write: usize::MAX });
    world.client.pending.extend_from_slice(request.as_bytes());
    world.drive();
    world.connected(false);
    world.drive();
    assert!(!world.upstream.seen.is_empty());
    world.upstream.seen.clear();
    world
}

#[test]
fn bodies_without_end_go_both_ways_in_constant_memory() {
    let chunk = format!("1fff\r\n{}\r\n", "b".repeat(0x1fff));
    let mut world = asked("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    world.upstream.pending.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
    for _ in 0..1_000 {
        world.client.pending.extend_from_slice(chunk.as_bytes());
        world.upstream.pending.extend_from_slice(chunk.as_bytes());
        world.drive();
        assert!(world.client.pending.is_empty() && world.upstream.pending.is_empty());
        assert!(world.client.seen.len() >= chunk.len() && world.upstream.seen.len() >= 0x1fff);
        world.client.seen.clear();
        world.upstream.seen.clear();
    }
    assert!(world.most_buffered <= MOST_BUFFERED, "{} bytes", world.most_buffered);
    assert_eq!(world.session.buffered(), 0, "everything went on");
}

#[test]
fn what_a_side_does_not_take_is_not_read_from_the_other() {
    let mut world = asked("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    (world.client.is_full, world.upstream.is_full) = (true, true);
    world.upstream.pending.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
    world.upstream.pending.extend_from_slice(&vec![b'x'; 1 << 20]);
    world.client.pending.extend_from_slice(b"100000\r\n");
    world.client.pending.extend_from_slice(&vec![b'y'; 1 << 20]);
    world.drive();
    for wire in [&world.client, &world.upstream] {
        assert!(wire.left() >= (1 << 20) - SIZE, "one buffer was read at most");
    }
    assert!(world.most_buffered <= MOST_BUFFERED);
    world.session.release_memory();
    assert!(world.session.buffered() <= 2 * (SIZE + SMALL), "one buffer holds it, each way");
    (world.client.is_full, world.upstream.is_full) = (false, false);
    world.drive();
    assert_eq!(world.client.left() + world.upstream.left(), 0);
    assert!(world.client.seen.len() > 1 << 20 && world.upstream.seen.len() > 1 << 20);
}

#[test]
fn of_a_request_that_waits_no_more_is_read_than_can_be_sent_twice() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n";
    script_with(1, |config| config.limits.in_flight = Some(1))
        .others_have(1)
        .client_sends(head)
        .client_sends("x".repeat(200_000))
        .waits_for_room()
        .holds_at_most(SIZE + SMALL)
        .client_resets()
        .reported(499, GONE)
        .aborted()
        .replay();
}

#[test]
fn pipelined_requests_without_end_are_not_read_before_their_turn() {
    let mut world = asked(GET);
    world.client.pending.extend_from_slice(GET.repeat(10_000).as_bytes());
    world.drive();
    assert_eq!(world.client.left(), GET.len() * 10_000);
    assert!(world.session.buffered() <= SMALL);
}

#[test]
fn during_an_exchange_no_more_than_a_head_is_held_of_what_comes_behind_the_request() {
    let head = script().config.limits.head;
    let cookie = "c".repeat(6 * 1024);
    let first = |fields: &str, body: &str| {
        format!("PUT / HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n{fields}\r\n{body}")
    };
    for (case, request) in [
        ("no body", first("", "")),
        ("a body of a known length", first("Content-Length: 1\r\n", "x")),
        ("chunks", first("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\n\r\n")),
    ] {
        let pipelined = "GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n".repeat(60 * 1024 / 34);
        let mut world = asked(&(request.clone() + &pipelined));
        let held = pipelined.len() - world.client.left();
        assert!(held <= head, "{case}: {held} bytes are read of the next requests");
        world.session.release_memory();
        let memory = world.session.buffered();
        assert!(memory <= 24 * 1024, "{case}: {memory} bytes are held");
        // And every one of them has its turn.
        world.upstream.pending.extend_from_slice(OK.as_bytes());
        world.drive();
        assert!(world.client.seen.starts_with(b"HTTP/1.1 200 OK\r\n"), "{case}");
    }
}

#[test]
fn head_and_body_are_read_at_once_if_the_last_request_had_a_long_body() {
    const BODY: usize = 60 * 1024;
    let head = script().config.limits.head;
    let post = || {
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY}\r\n\r\n");
        head + &"b".repeat(BODY)
    };
    let mut world = World::new(&script().config, Steps { read: usize::MAX, write: usize::MAX });
    let mut first_read = |request: &str| {
        world.client.pending.extend_from_slice(request.as_bytes());
        let first = world.session.space(Side::Client).len();
        world.drive();
        world.connected(false);
        world.drive();
        world.upstream.pending.extend_from_slice(OK.as_bytes());
        world.drive();
        first
    };
    assert_eq!(first_read(&post()), head, "nothing is known about it");
    assert_eq!(first_read(&post()), SIZE, "as the one before");
    assert_eq!(first_read(GET), SIZE, "as the one before");
    assert_eq!(first_read(&post()), head, "a GET has no body");
    assert_eq!(first_read(&post()), SIZE, "as the one before");
    // What such a client pipelines is read this once, and no more until it has had its turn.
    let short = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\n\r\n";
    let pipelined = GET.repeat(40 * 1024 / GET.len());
    first_read(&(short.to_owned() + &"b".repeat(20_000) + &pipelined));
    assert!(world.session.buffered() <= SIZE + SMALL);
    assert_eq!(world.session.space(Side::Client).len(), 0, "the next ones wait for their turn");
}
