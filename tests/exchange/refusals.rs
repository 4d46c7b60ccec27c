//! Requests that are answered here: with which status, and what becomes of the connection.

use crate::script::Source;
use balancebeam::session::Side;

use crate::script::{FINISHED, GET, Script, forwarded, get, script, script_with};

const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\n";
const DISCARDED: usize = 64 * 1024;

impl Script {
    /// The head is malformed: nothing after it is read as a request.
    fn refuses_for_good(self, request: impl AsRef<[u8]>, status: u16) {
        self.client_sends(request)
            .client_sees_last_answer(status)
            .reported(status, FINISHED)
            .half_closed(Side::Client)
            .client_sends(GET)
            .client_ends()
            .closed()
            .replay();
    }
}

/// The limiter is spent, so that every further request is refused although it is well-formed.
fn limited() -> Script {
    script_with(1, |config| config.limits.requests_per_minute = 1).one_good_exchange()
}

#[test]
fn malformed_heads_are_refused_and_end_the_connection() {
    for (head, status) in [
        ("GET\r\n", 400),
        ("GET  / HTTP/1.1\r\n", 400),
        ("get / http/1.1\r\n", 400),
        ("GET / HTTP/1.1\n", 400),
        ("GET / HTTP/1.1\r\r\n", 400),
        ("\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\n", 505),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ] {
        script().refuses_for_good(head, status);
    }
}

#[test]
fn two_faults_in_one_head_get_one_answer_however_they_arrive() {
    for (head, status) in [
        ("GET / HTTP/2.0\r\nHost: a\n", 505),
        ("GET / HTTP/3.0\r\nA\rB\r\n", 505),
        ("G(T / HTTP/1.1\r\nHost: a\n\r\n", 400),
    ] {
        script().refuses_for_good(head, status);
    }
    let most = "a".repeat(16 * 1024);
    script().refuses_for_good(format!("GET / HTTP/1.1\r\nA: {most}\nB\r\n\r\n"), 431);
    script().refuses_for_good(format!("GET /{} HTTP/2.0\r\n\n", &most[..9000]), 414);
}

#[test]
fn limits_of_a_head_are_enforced_while_it_arrives() {
    script().refuses_for_good(format!("GET /{} HTTP/1.1\r\n", "a".repeat(8192)), 414);
    script().refuses_for_good(format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(16 * 1024)), 431);
    script().refuses_for_good(format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(101)), 431);
}

#[test]
fn methods_that_are_not_served_keep_the_connection_but_for_connect() {
    script()
        .client_sends("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n")
        .client_sees_answer_with(405, true, "\r\nAllow: GET, HEAD, POST")
        .reported(405, FINISHED)
        .one_good_exchange()
        .replay();
    script()
        .client_sends("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n")
        .client_sees_last_answer(405)
        .reported(405, FINISHED)
        .closed()
        .replay();
}

#[test]
fn options_that_may_go_no_further_is_answered_here() {
    script()
        .client_sends("OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n")
        .client_sees_answer_with(200, true, "\r\nAllow: ")
        .reported(200, FINISHED)
        .client_sends("OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 2\r\n\r\n")
        .goes_upstream(forwarded("OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 1\r\n"))
        .upstream_sends("HTTP/1.1 204 No Content\r\n\r\n")
        .client_sees("HTTP/1.1 204 No Content\r\n\r\n")
        .kept()
        .reported(204, FINISHED)
        .replay();
}

#[test]
fn a_refused_head_request_is_answered_without_a_body() {
    limited()
        .client_sends("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        .client_sees(
            "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: 64\r\nRetry-After: 60\r\n\r\n",
        )
        .reported(429, FINISHED)
        .replay();
}

#[test]
fn a_refused_client_may_ask_again_once_its_minute_is_over() {
    limited()
        .client_sends(GET)
        .client_sees_answer_with(429, true, "\r\nRetry-After: ")
        .reported(429, FINISHED)
        .after_ms(59_000)
        .client_sends(GET)
        .client_sees_answer_with(429, true, "\r\nRetry-After: 2")
        .reported(429, FINISHED)
        .after_ms(1_100)
        .one_good_exchange()
        .replay();
}

#[test]
fn a_refused_body_of_64_kib_is_dropped_and_the_connection_kept() {
    let head = format!("{POST}Content-Length: {DISCARDED}\r\n\r\n");
    limited()
        .client_sends(head)
        .client_sees_answer(429)
        .client_sends("b".repeat(DISCARDED))
        .reported(429, FINISHED)
        .client_sends("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n")
        .client_sees_answer(429) // it counts like any other
        .reported(429, FINISHED)
        .replay();
}

/// Rule 46: what is answered here is a request, too, and a flood of them is a flood.
#[test]
fn well_formed_requests_count_whoever_answers_them() {
    for (request, status, persists) in [
        ("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", 405, true),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n", 200, true),
        ("GET / HTTP/1.1\r\nHost: h\r\nExpect: more\r\n\r\n", 417, true),
    ] {
        script_with(1, |config| config.limits.requests_per_minute = 1)
            .client_sends(request)
            .client_sees_answer_with(status, persists, "")
            .reported(status, FINISHED)
            .client_sends(GET)
            .client_sees_answer_with(429, true, "Retry-After: 60")
            .reported(429, FINISHED)
            .replay();
    }
    script_with(1, |c| (c.limits.requests_per_minute, c.limits.body) = (1, Some(3)))
        .client_sends(format!("{POST}Content-Length: 4\r\n\r\n"))
        .client_sees_last_answer(413)
        .reported(413, FINISHED)
        .lingers_then_closes()
        .replay();
    let limiter = |story: Script| story.client_sees_answer(429).reported(429, FINISHED);
    limited().client_sends("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n").then(limiter).replay();
}

#[test]
fn a_refused_body_of_more_than_64_kib_ends_the_connection() {
    limited().refuses_for_good(format!("{POST}Content-Length: {}\r\n\r\n", DISCARDED + 1), 429);
}

#[test]
fn a_refused_chunked_body_is_dropped_up_to_64_kib() {
    let head = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("10000\r\n{}\r\n", "b".repeat(DISCARDED));
    limited()
        .client_sends(&head)
        .client_sees_answer(429)
        .client_sends(format!("{chunk}0\r\nA: b\r\n\r\n"))
        .reported(429, FINISHED)
        .client_ends()
        .closed()
        .replay();
    limited()
        .client_sends(&head)
        .client_sees_answer(429)
        .client_sends(format!("{chunk}1\r\nb\r\n0\r\n\r\n{GET}"))
        .reported(429, FINISHED)
        .half_closed(Side::Client)
        .client_ends()
        .closed()
        .replay();
    limited()
        .client_sends(&head)
        .client_sees_answer(429)
        .client_sends("zz\r\n")
        .reported(429, FINISHED)
        .half_closed(Side::Client)
        .client_ends()
        .closed()
        .replay();
}

#[test]
fn a_refused_request_that_waits_for_100_ends_the_connection() {
    limited()
        .refuses_for_good(format!("{POST}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"), 429);
}

#[test]
fn a_body_that_is_malformed_from_the_beginning_reaches_no_upstream() {
    // Cut behind the head it would: what has not arrived cannot be known.
    let request = format!("{POST}Transfer-Encoding: chunked\r\n\r\nzz\r\n");
    let mut world = crate::world::World::new(
        &script().config,
        crate::world::Steps { read: usize::MAX, write: usize::MAX },
    );
    world.client.pending.extend_from_slice(request.as_bytes());
    world.drive();
    assert!(world.client.seen.starts_with(b"HTTP/1.1 400 "));
    assert!(!world.events.iter().any(|e| matches!(e, crate::world::Event::Connect { .. })));
}

#[test]
fn a_body_that_breaks_its_framing_under_way_is_400_and_its_upstream_is_dropped() {
    let head = format!("{POST}Transfer-Encoding: chunked\r\n");
    script()
        .client_sends(format!("{head}\r\n1\r\na\r\n"))
        .connects(0, Source::Pooled)
        .connected_fresh()
        .upstream_sees_chunks(&forwarded(&head), "a", "")
        .client_sends("-1\r\n")
        .dropped()
        .client_sees_last_answer(400)
        .reported(400, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_body_over_the_limit_is_413() {
    let small = || script_with(1, |config| config.limits.body = Some(3));
    small().refuses_for_good(format!("{POST}Content-Length: 4\r\n\r\n"), 413);
    let head = format!("{POST}Transfer-Encoding: chunked\r\n");
    small()
        .client_sends(format!("{head}\r\n3\r\nabc\r\n"))
        .connects(0, Source::Pooled)
        .connected_fresh()
        .upstream_sees_chunks(&forwarded(&head), "abc", "")
        .client_sends("1\r\nd\r\n")
        .dropped()
        .client_sees_last_answer(413)
        .reported(413, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn one_empty_line_before_a_request_is_skipped() {
    script()
        .client_sends(format!("\r\n{GET}"))
        .goes_upstream(get())
        .upstream_sends("HTTP/1.1 204 No\r\n\r\n")
        .client_sees("HTTP/1.1 204 No\r\n\r\n")
        .kept()
        .reported(204, FINISHED)
        .replay();
}
