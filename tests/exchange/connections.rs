//! Which connections are used again: keep-alive and pipelining, HTTP/1.0 on either side.

use std::io::ErrorKind;

use balancebeam::session::ConnectFailure;

use crate::script::Source;
use crate::script::{FINISHED, GET, OK, Script, forwarded, get, script, script_with};
use crate::world::{Steps, World};

/// What an upstream sees of a GET of HTTP/1.0 for host `h`.
fn get_10() -> String {
    get().replace("Via: 1.1", "Via: 1.0")
}

impl Script {
    fn again_on_the_kept_connection(self, seen: &str) -> Self {
        self.connects(0, Source::Pooled).connected_reused().upstream_sees(seen)
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_one_at_a_time() {
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let seen = |path: &str| get().replacen(" / ", &format!(" {path} "), 1);
    script()
        .client_sends(request("/1") + &request("/2") + "\r\n" + &request("/3"))
        .goes_upstream(seen("/1"))
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .again_on_the_kept_connection(&seen("/2"))
        .upstream_sends("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        .client_sees("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        .kept()
        .reported(404, FINISHED)
        .again_on_the_kept_connection(&seen("/3"))
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn what_follows_a_body_is_the_next_request() {
    let request = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";
    script()
        .client_sends(format!("{request}{chunked}\r\n3\r\nabc\r\n0\r\n\r\n{GET}"))
        .goes_upstream(forwarded("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n") + "abc")
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .connects(0, Source::Pooled)
        .connected_reused()
        .upstream_sees_chunks(&forwarded(chunked), "abc", "0\r\n\r\n")
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .again_on_the_kept_connection(&get())
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn pipelined_requests_before_an_end_are_all_answered() {
    script()
        .client_sends(GET.repeat(2))
        .client_ends()
        .goes_upstream(get())
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .again_on_the_kept_connection(&get())
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn a_client_that_asks_for_close_is_told_and_closed() {
    script()
        .client_sends("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .goes_upstream(get())
        .upstream_sends(OK)
        .client_sees("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn what_follows_a_request_that_asked_for_close_is_not_read_as_one() {
    script()
        .client_sends("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .goes_upstream(get())
        .upstream_sends("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        .client_sees("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\no")
        .client_sends(GET)
        .upstream_sends("k")
        .client_sees("k")
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn an_upstream_that_says_close_loses_its_own_connection_only() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        script()
            .client_sends(GET)
            .goes_upstream(get())
            .upstream_sends(answer)
            .client_sees(OK)
            .dropped()
            .reported(200, FINISHED)
            .one_good_exchange()
            .replay();
    }
}

#[test]
fn an_old_upstream_that_keeps_its_connection_is_used_again() {
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\nok")
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn an_upstream_that_has_ended_behind_its_answer_is_not_used_again() {
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends("HTTP/1.1 200 OK\r\n\r\n")
        .client_sees("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .upstream_ends()
        .client_sees("0\r\n\r\n")
        .dropped()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn an_old_client_is_closed_unless_it_asked_to_be_kept_and_then_told_so() {
    let closing = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let keeping = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok";
    script()
        .client_sends("GET / HTTP/1.0\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n")
        .goes_upstream(get_10())
        .upstream_sends(OK)
        .client_sees(keeping)
        .kept()
        .reported(200, FINISHED)
        .client_sends("GET / HTTP/1.0\r\nHost: h\r\n\r\n")
        .again_on_the_kept_connection(&get_10())
        .upstream_sends(OK)
        .client_sees(closing)
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn a_request_that_was_answered_before_it_was_taken_drops_the_upstream_only() {
    use balancebeam::session::Side;
    script()
        .client_sends("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
        .goes_upstream(forwarded("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n"))
        .stops_taking(Side::Upstream)
        .client_sends("abc")
        .upstream_sends(OK)
        .client_sees(OK)
        .dropped()
        .reported(200, FINISHED)
        .one_good_exchange()
        .replay();
}

/// A driver that hears late of a connection reports it after the next one was chosen, of which it
/// was not told yet.
#[test]
fn a_connection_that_was_not_asked_for_is_none() {
    let steps = Steps { read: usize::MAX, write: usize::MAX };
    let mut world = World::new(&script_with(2, |_| ()).config, steps);
    world.client.pending.extend_from_slice(GET.as_bytes());
    world.drive();
    assert!(std::mem::take(&mut world.is_connecting));
    let refused = ConnectFailure::Remote(ErrorKind::ConnectionRefused);
    world.session.connect_failed(refused, world.now);
    world.session.connected(false, world.now);
    world.session.connect_failed(refused, world.now);
    world.drive();
    assert!(world.is_connecting, "the next upstream is asked for");
    world.connected(false);
    world.drive();
    assert_eq!(world.upstream.seen, get().as_bytes());
}
