//! Told to stop: what is in flight is finished, nothing new is begun, and the client is told.

use crate::script::Source;
use crate::script::{FINISHED, GET, OK, get, script, script_with};

const LAST_OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

#[test]
fn an_exchange_before_its_answer_is_finished_and_says_that_it_is_the_last() {
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .drain()
        .after_ms(5_000)
        .upstream_sends(OK)
        .client_sees(LAST_OK)
        .kept()
        .reported(200, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn an_exchange_within_its_answer_is_finished_then_the_client_is_let_go() {
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no";
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends(part)
        .client_sees(part)
        .drain()
        .after_ms(5_000)
        .upstream_sends("k")
        .client_sees("k")
        .kept()
        .reported(200, FINISHED)
        .after_ms(299)
        .after_ms(1)
        .closed()
        .replay();
}

#[test]
fn a_head_on_its_way_is_served() {
    script()
        .client_sends("GET / HTTP/1.1\r\n")
        .drain()
        .after_ms(2_000)
        .client_sends("Host: h\r\n\r\n")
        .goes_upstream(get())
        .upstream_sends(OK)
        .client_sees(LAST_OK)
        .kept()
        .reported(200, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_refused_connect_still_goes_to_another_upstream() {
    script_with(2, |_| ())
        .drain()
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .refused()
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(get())
        .upstream_sends(OK)
        .client_sees(LAST_OK)
        .kept()
        .reported(200, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn our_own_answer_is_the_last_too() {
    script()
        .drain()
        .client_sends("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n")
        .client_sees_last_answer(405)
        .reported(405, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn pipelined_requests_behind_the_last_answer_are_not_served() {
    script()
        .client_sends(GET.repeat(2))
        .goes_upstream(get())
        .drain()
        .upstream_sends(OK)
        .client_sees(LAST_OK)
        .kept()
        .reported(200, FINISHED)
        .lingers_then_closes()
        .replay();
}
