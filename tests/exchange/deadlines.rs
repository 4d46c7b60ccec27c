//! Each phase has a deadline: each row of the table in `session/deadline.rs`, to the millisecond.

use crate::script::Source;
use balancebeam::session::Side;

use crate::script::{
    ABORTED, FINISHED, GET, GONE, OK, Script, forwarded, get, script, script_with,
};

const POST_5: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";

fn post_5() -> String {
    forwarded("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n")
}

#[test]
fn an_idle_client_is_closed_silently() {
    script().after_ms(59_999).after_ms(1).closed().replay();
    // Idle since the last exchange, not since the connection was made.
    script().after_ms(50_000).one_good_exchange().after_ms(59_999).after_ms(1).closed().replay();
}

#[test]
fn an_empty_line_behind_a_body_begins_no_head() {
    let exchange = |script: Script, behind: &str| {
        script
            .client_sends(format!("{POST_5}abcde{behind}"))
            .goes_upstream(post_5() + "abcde")
            .upstream_sends(OK)
            .client_sees(OK)
            .kept()
            .reported(200, FINISHED)
    };
    // The client is idle, in no memory, for as long as any other.
    exchange(script(), "\r\n").holds_at_most(0).after_ms(59_999).after_ms(1).closed().replay();
    exchange(script(), "").client_sends("\r\n").after_ms(60_000).closed().replay();
    exchange(script(), "\r\n").client_ends().closed().replay();
    // What follows has its time from its own first byte, and a second empty line is none.
    exchange(script(), "\r\n")
        .after_ms(50_000)
        .client_sends("GET /")
        .after_ms(9_999)
        .after_ms(1)
        .client_sees_last_answer(408)
        .reported(408, FINISHED)
        .lingers_then_closes()
        .replay();
    exchange(script(), "\r\n")
        .after_ms(50_000)
        .client_sends("\r\n")
        .client_sees_last_answer(400)
        .reported(400, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_head_has_ten_seconds_from_its_first_byte_however_it_drips() {
    script()
        .after_ms(30_000)
        .client_sends("GET / HTTP/1.1\r\n")
        .after_ms(9_000)
        .client_sends("Host: h\r\n")
        .after_ms(999)
        .client_sends("A: b")
        .after_ms(1)
        .client_sees_last_answer(408)
        .reported(408, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_pipelined_head_has_its_time_from_the_end_of_the_exchange_before() {
    script()
        .client_sends(GET.to_string() + "GET /")
        .goes_upstream(get())
        .after_ms(20_000)
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .after_ms(9_999)
        .after_ms(1)
        .client_sees_last_answer(408)
        .reported(408, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_connect_has_two_seconds_then_the_next_upstream_is_tried() {
    script_with(2, |_| ())
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .after_ms(1_999)
        .after_ms(1)
        .dropped()
        .live(1)
        .connects(1, Source::Pooled)
        .after_ms(1_999)
        .connected_fresh()
        .upstream_sees(get())
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_connect_too_late_with_nobody_left_is_502() {
    script()
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .after_ms(2_000)
        .dropped()
        .client_sees_answer(502)
        .reported(502, FINISHED)
        .replay();
}

#[test]
fn a_response_has_sixty_seconds_from_the_end_of_the_request() {
    script_with(2, |_| ())
        .client_sends(POST_5)
        .goes_upstream(post_5())
        .after_ms(50_000)
        .client_sends("abcde")
        .upstream_sees("abcde")
        .after_ms(59_999)
        .upstream_sends("HTTP/1.1 200 OK\r\nA") // a drip does not help
        .after_ms(1)
        .dropped()
        .client_sees_answer(504)
        .reported(504, FINISHED)
        .replay();
}

#[test]
fn interim_responses_that_tell_of_progress_extend_the_wait_for_the_final_one() {
    for interim in ["HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let told =
            |story: Script, ms| story.after_ms(ms).upstream_sends(interim).client_sees(interim);
        let late = |story: Script| {
            story.after_ms(1).dropped().client_sees_answer(504).reported(504, FINISHED)
        };
        script()
            .client_sends(GET)
            .goes_upstream(get())
            .then(|story| told(story, 40_000))
            .after_ms(59_999)
            .then(late)
            .replay();
        // Not for ever: ten minutes in all.
        let mut story = script().client_sends(GET).goes_upstream(get());
        for _ in 0..11 {
            story = told(story, 50_000);
        }
        story.after_ms(49_999).then(late).replay();
    }
    // A 100 only lets the client go on.
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .after_ms(40_000)
        .upstream_sends(interim)
        .client_sees(interim)
        .after_ms(19_999)
        .after_ms(1)
        .dropped()
        .client_sees_answer(504)
        .reported(504, FINISHED)
        .replay();
}

#[test]
fn while_a_client_waits_for_100_only_the_response_deadline_runs() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
    script_with(1, |config| config.timeouts.progress = std::time::Duration::from_secs(5))
        .client_sends(head.to_string() + "\r\n")
        .goes_upstream(forwarded(head))
        .after_ms(59_999)
        .after_ms(1)
        .dropped()
        .client_sees_last_answer(504)
        .reported(504, FINISHED)
        .lingers_then_closes()
        .replay();
}

/// With `--eject-after 1`.
fn watchful() -> Script {
    script_with(2, |config| config.health.eject_after = Some(1))
}

#[test]
fn an_upstream_that_is_late_is_at_fault_but_not_for_what_the_client_keeps_from_it() {
    watchful()
        .client_sends(GET)
        .goes_upstream(get())
        .after_ms(60_000)
        .dropped()
        .client_sees_answer(504)
        .reported(504, FINISHED)
        .live(1)
        .replay();
    watchful()
        .client_sends(POST_5)
        .goes_upstream(post_5())
        .stops_taking(Side::Upstream)
        .client_sends("ab")
        .after_ms(60_000)
        .dropped()
        .client_sees_last_answer(504)
        .reported(504, FINISHED)
        .live(1)
        .lingers_then_closes()
        .replay();
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
    watchful()
        .client_sends(head.to_string() + "\r\n")
        .goes_upstream(forwarded(head))
        .after_ms(60_000)
        .dropped()
        .client_sees_last_answer(504)
        .reported(504, FINISHED)
        .live(2)
        .lingers_then_closes()
        .replay();
    watchful()
        .client_sends(GET)
        .goes_upstream(get())
        .stops_taking(Side::Client)
        .upstream_sends("HTTP/1.1 103 Early Hints\r\n\r\n")
        .upstream_sends(OK)
        .after_ms(60_000)
        .dropped()
        .live(2)
        .client_resets()
        .reported(504, GONE)
        .aborted()
        .replay();
}

#[test]
fn a_request_body_that_stops_arriving_is_408() {
    script()
        .client_sends(POST_5)
        .goes_upstream(post_5())
        .after_ms(59_000)
        .client_sends("a")
        .upstream_sees("a")
        .after_ms(59_999)
        .after_ms(1)
        .dropped()
        .client_sees_last_answer(408)
        .reported(408, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_request_body_that_the_upstream_does_not_read_is_504() {
    script()
        .client_sends(POST_5)
        .goes_upstream(post_5())
        .stops_taking(Side::Upstream)
        .client_sends("ab")
        .after_ms(59_999)
        .after_ms(1)
        .dropped()
        .client_sees_last_answer(504)
        .reported(504, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_response_body_that_stops_arriving_is_an_abort() {
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab";
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends(part)
        .client_sees(part)
        .after_ms(59_000)
        .upstream_sends("c")
        .client_sees("c")
        .after_ms(59_999)
        .after_ms(1)
        .dropped()
        .reported(200, ABORTED)
        .aborted()
        .replay();
}

#[test]
fn a_client_that_reads_nothing_is_aborted() {
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .stops_taking(Side::Client)
        .upstream_sends(OK)
        .kept()
        .after_ms(59_999)
        .after_ms(1)
        .reported(200, ABORTED)
        .aborted()
        .replay();
}

#[test]
fn a_client_that_does_not_read_our_last_answer_is_aborted() {
    script()
        .stops_taking(Side::Client)
        .client_sends("GET\r\n")
        .after_ms(59_999)
        .after_ms(1)
        .reported(400, ABORTED)
        .aborted()
        .replay();
}

#[test]
fn a_dropped_body_that_stops_arriving_ends_the_connection() {
    script_with(1, |config| config.limits.requests_per_minute = 1)
        .one_good_exchange()
        .client_sends(POST_5.to_string() + "ab")
        .client_sees_answer_with(429, true, "Retry-After")
        .after_ms(59_999)
        .after_ms(1)
        .reported(429, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn lingering_has_two_seconds_whatever_the_client_still_sends() {
    script()
        .client_sends("GET\r\n")
        .client_sees_last_answer(400)
        .reported(400, FINISHED)
        .half_closed(Side::Client)
        .after_ms(1_999)
        .client_sends("more and more")
        .after_ms(1)
        .closed()
        .replay();
}

#[test]
fn a_tunnel_without_a_byte_for_an_hour_is_closed() {
    let head = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let seen = forwarded("GET / HTTP/1.1\r\nHost: h\r\n")
        .replace("X-Forwarded-For", "Upgrade: x\r\nConnection: upgrade\r\nX-Forwarded-For");
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    script()
        .client_sends(head)
        .goes_upstream(seen)
        .upstream_sends(switch)
        .client_sees(switch)
        .after_ms(3_599_999)
        .upstream_sends("a")
        .client_sees("a")
        .after_ms(3_599_999)
        .client_sends("b")
        .upstream_sees("b")
        .after_ms(3_599_999)
        .after_ms(1)
        .dropped()
        .reported(101, FINISHED)
        .closed()
        .replay();
}

#[test]
fn a_client_on_its_way_has_a_moment_once_a_drain_has_begun() {
    script().drain().after_ms(299).after_ms(1).closed().replay();
    script()
        .drain()
        .after_ms(299)
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends(OK)
        .client_sees("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        .kept()
        .reported(200, FINISHED)
        .lingers_then_closes()
        .replay();
}
