//! The rules that join the two legs: each row of the table above `settle`.

use crate::script::Source;
use balancebeam::session::Side;

use crate::script::{ABORTED, FINISHED, GET, GONE, OK, forwarded, get, script, script_with};

const POST_5: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";

fn post_5() -> String {
    forwarded("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n")
}

#[test]
fn a_client_that_ends_without_a_byte_is_let_go_silently() {
    script().client_ends().closed().replay();
    script().one_good_exchange().client_ends().closed().replay();
}

#[test]
fn a_client_that_ends_within_a_head_is_answered_400() {
    script()
        .client_sends("GET / HTTP/1.1\r\nHost")
        .client_ends()
        .client_sees_last_answer(400)
        .reported(400, FINISHED)
        .closed()
        .replay();
}

#[test]
fn a_whole_exchange_leaves_both_connections_usable() {
    script().one_good_exchange().one_good_exchange().one_good_exchange().replay();
}

#[test]
fn an_interim_response_is_forwarded_and_the_final_one_follows() {
    for interim in ["HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "HTTP/1.1 102 \r\n\r\n"] {
        script()
            .client_sends(GET)
            .goes_upstream(get())
            .upstream_sends(interim)
            .client_sees(interim)
            .upstream_sends(interim)
            .client_sees(interim)
            .upstream_sends(OK)
            .client_sees(OK)
            .kept()
            .reported(200, FINISHED)
            .replay();
    }
}

#[test]
fn switching_protocols_without_being_asked_is_502() {
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
        .dropped()
        .client_sees_answer(502)
        .reported(502, FINISHED)
        .replay();
}

#[test]
fn switching_protocols_before_the_request_is_whole_is_502() {
    script()
        .client_sends(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\
             Connection: upgrade\r\nUpgrade: x\r\n\r\nab",
        )
        .goes_upstream(
            forwarded("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n")
                .replace("X-Forwarded-For", "Upgrade: x\r\nConnection: upgrade\r\nX-Forwarded-For")
                + "ab",
        )
        .upstream_sends("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
        .dropped()
        .client_sees_last_answer(502)
        .reported(502, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_response_that_starts_early_goes_on_beside_the_request() {
    script()
        .client_sends(POST_5.to_string() + "ab")
        .goes_upstream(post_5() + "ab")
        .upstream_sends("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        .client_sees("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        .client_sends("c")
        .upstream_sees("c")
        .upstream_sends("1")
        .client_sees("1")
        .client_sends("de")
        .upstream_sees("de")
        .upstream_sends("234")
        .client_sees("234")
        .kept()
        .reported(200, FINISHED)
        .one_good_exchange_on_a_kept_connection()
        .replay();
}

impl crate::script::Script {
    fn one_good_exchange_on_a_kept_connection(self) -> Self {
        self.client_sends(GET)
            .connects(0, Source::Pooled)
            .connected_reused()
            .upstream_sees(get())
            .upstream_sends(OK)
            .client_sees(OK)
            .kept()
            .reported(200, FINISHED)
    }
}

#[test]
fn an_answer_to_a_request_that_nobody_reads_any_more_still_reaches_the_client() {
    // The upstream has shut its door on a long upload, and says why.
    script()
        .client_sends(POST_5)
        .goes_upstream(post_5())
        .upstream_is_deaf()
        .client_sends("ab")
        .upstream_sends("HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n")
        .dropped()
        .client_sees("HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .reported(413, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_request_that_nobody_reads_and_nobody_answers_is_502() {
    script()
        .client_sends(POST_5)
        .goes_upstream(post_5())
        .upstream_is_deaf()
        .client_sends("ab")
        .upstream_ends()
        .dropped()
        .client_sees_last_answer(502)
        .reported(502, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn an_upstream_that_breaks_off_its_answer_aborts_the_client() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    ] {
        for resets in [false, true] {
            script()
                .client_sends(GET)
                .goes_upstream(get())
                .upstream_sends(answer)
                .client_sees(answer)
                .then(|s| if resets { s.upstream_resets() } else { s.upstream_ends() })
                .dropped()
                .reported(200, ABORTED)
                .aborted()
                .replay();
        }
    }
}

#[test]
fn an_answer_broken_off_before_the_client_has_seen_of_it_is_taken_back() {
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .stops_taking(Side::Client)
        .upstream_sends("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        .upstream_ends()
        .dropped()
        .takes_again(Side::Client)
        .client_sees_answer(502)
        .reported(502, FINISHED)
        .replay();
}

#[test]
fn an_early_answer_that_comes_piece_by_piece_ends_the_connection() {
    script()
        .client_sends(POST_5.to_string() + "ab")
        .goes_upstream(post_5() + "ab")
        .upstream_sends("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n")
        .client_sees("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n")
        .upstream_sends("no")
        .dropped()
        .client_sees("no")
        .reported(403, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn an_early_answer_that_comes_whole_says_that_it_ends_the_connection() {
    script()
        .client_sends(POST_5.to_string() + "ab")
        .goes_upstream(post_5() + "ab")
        .upstream_sends_at_once("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        .dropped()
        .client_sees("HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        .reported(403, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_short_body_of_a_refused_request_is_read_and_dropped() {
    let refused = script_with(1, |config| config.limits.requests_per_minute = 1)
        .one_good_exchange()
        .client_sends(POST_5.to_string() + "ab")
        .client_sees_answer_with(429, true, "\r\nRetry-After: 60")
        .client_sends("cde")
        .reported(429, FINISHED);
    refused.clone().client_ends().closed().replay();
    refused.client_sends(GET).client_sees_answer(429).reported(429, FINISHED).replay();
}

#[test]
fn a_client_that_ends_within_its_body_is_gone() {
    script()
        .client_sends(POST_5.to_string() + "ab")
        .goes_upstream(post_5() + "ab")
        .client_ends()
        .dropped()
        .reported(499, GONE)
        .aborted()
        .replay();
}

#[test]
fn a_client_that_ends_within_its_body_during_the_answer_is_gone() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
    script()
        .client_sends(POST_5.to_string() + "ab")
        .goes_upstream(post_5() + "ab")
        .upstream_sends(head)
        .client_sees(head)
        .client_ends()
        .dropped()
        .reported(200, GONE)
        .aborted()
        .replay();
}

#[test]
fn a_client_that_fails_takes_its_upstream_connection_with_it() {
    script().client_resets().aborted().replay();
    script().client_sends("GET /").client_resets().aborted().replay();
    script()
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .client_resets()
        .dropped()
        .reported(499, GONE)
        .aborted()
        .replay();
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .client_resets()
        .dropped()
        .reported(499, GONE)
        .aborted()
        .replay();
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab";
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends(part)
        .client_sees(part)
        .client_is_deaf()
        .upstream_sends("c")
        .dropped()
        .reported(200, GONE)
        .aborted()
        .replay();
}

#[test]
fn a_client_that_ends_after_a_whole_request_has_only_half_closed() {
    script()
        .client_sends(GET)
        .client_ends()
        .goes_upstream(get())
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn a_failure_while_lingering_ends_it_at_once() {
    script()
        .client_sends("GET\r\n")
        .client_sees_last_answer(400)
        .reported(400, FINISHED)
        .half_closed(Side::Client)
        .client_resets()
        .aborted()
        .replay();
}

#[test]
fn what_an_upstream_says_after_its_answer_keeps_it_from_being_used_again() {
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends_at_once(OK.to_string() + "HTTP/1.1 200 OK\r\n")
        .client_sees(OK)
        .dropped()
        .reported(200, FINISHED)
        .replay();
}
