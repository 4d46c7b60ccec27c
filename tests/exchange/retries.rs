//! What is sent again, and what never is: each row of the table above `retry::decide`.

use std::time::Duration;

use crate::script::Source;
use balancebeam::session::Side;

use crate::script::{ABORTED, FINISHED, GET, OK, Script, forwarded, get, script, script_with};

const PUT_3: &str = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
const POST_3: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";

fn put_3() -> String {
    forwarded("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n") + "abc"
}

fn post_3() -> String {
    forwarded("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n") + "abc"
}

impl Script {
    fn gets_ok(self) -> Self {
        self.upstream_sends(OK).client_sees(OK).kept().reported(200, FINISHED)
    }

    fn gets_bad_gateway(self) -> Self {
        self.client_sees_answer(502).reported(502, FINISHED)
    }
}

#[test]
fn a_refused_connect_goes_to_another_upstream_whatever_the_method() {
    script_with(3, |_| ())
        .client_sends(POST_3)
        .connects(0, Source::Pooled)
        .refused()
        .connects(1, Source::Pooled)
        .refused()
        .live(1)
        .connects(2, Source::Pooled)
        .connected_fresh()
        .upstream_sees(post_3())
        .gets_ok()
        .replay();
}

#[test]
fn refused_connects_need_no_budget() {
    script_with(2, |config| (config.retry.budget_percent, config.retry.budget_floor) = (0, 0))
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .refused()
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(get())
        .gets_ok()
        .replay();
}

#[test]
fn with_nobody_left_it_is_502_and_with_nobody_to_try_503() {
    script()
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .refused()
        .live(0)
        .gets_bad_gateway()
        .client_sends(GET)
        .connects(0, Source::Pooled) // nobody is live, so whoever is there is tried
        .refused()
        .gets_bad_gateway()
        .replay();
    script_with(1, |config| config.retry.fail_open = false)
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .refused()
        .gets_bad_gateway()
        .client_sends(GET)
        .client_sees_answer_with(503, true, "\r\nRetry-After: 10")
        .reported(503, FINISHED)
        .replay();
}

#[test]
fn attempts_have_a_limit() {
    script_with(3, |config| config.retry.attempts = 2)
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .refused()
        .connects(1, Source::Pooled)
        .refused()
        .gets_bad_gateway()
        .live(1)
        .replay();
}

#[test]
fn our_own_shortage_that_passes_costs_only_time() {
    script_with(2, |_| ())
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .out_of_descriptors()
        .after_ms(50)
        .connects(0, Source::Pooled)
        .out_of_descriptors()
        .after_ms(100)
        .connects(0, Source::Pooled)
        .connected_reused()
        .upstream_sees(get())
        .live(2)
        .replay();
}

#[test]
fn our_own_shortage_that_lasts_is_503_and_ejects_nobody() {
    script_with(2, |config| config.timeouts.connect = Duration::from_millis(80))
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .out_of_descriptors()
        .after_ms(50)
        .connects(0, Source::Pooled)
        .out_of_descriptors()
        .after_ms(100)
        .connects(0, Source::Pooled)
        .out_of_descriptors()
        .client_sees_answer_with(503, true, "\r\nRetry-After: 1")
        .reported(503, FINISHED)
        .live(2)
        .replay();
}

#[test]
fn a_shortage_toward_one_upstream_sends_the_request_to_another() {
    script_with(2, |_| ())
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .out_of_ports()
        .connects(1, Source::Pooled)
        .out_of_ports()
        .after_ms(50)
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(get())
        .live(2)
        .replay();
}

#[test]
fn a_reused_connection_that_gave_nothing_is_replaced_by_a_fresh_one() {
    for resets in [false, true] {
        for (request, seen) in [(GET, get()), (PUT_3, put_3())] {
            script_with(2, |config| config.retry.budget_floor = 0)
                .client_sends(request)
                .connects(0, Source::Pooled)
                .connected_reused()
                .upstream_sees(&seen)
                .then(|s| if resets { s.upstream_resets() } else { s.upstream_ends() })
                .dropped()
                .connects(0, Source::Fresh)
                .connected_fresh()
                .upstream_sees(&seen)
                .gets_ok()
                .live(2)
                .replay();
        }
    }
}

#[test]
fn a_post_of_which_nothing_was_written_is_sent_on_a_fresh_connection() {
    script()
        .client_sends(POST_3)
        .connects(0, Source::Pooled)
        .connected_dead(true)
        .dropped()
        .connects(0, Source::Fresh)
        .connected_fresh()
        .upstream_sees(post_3())
        .gets_ok()
        .replay();
}

#[test]
fn a_post_of_which_a_byte_was_written_is_never_sent_again() {
    for reused in [false, true] {
        script_with(2, |_| ())
            .client_sends(POST_3)
            .connects(0, Source::Pooled)
            .then(|s| if reused { s.connected_reused() } else { s.connected_fresh() })
            .upstream_sees(post_3())
            .upstream_ends()
            .dropped()
            .gets_bad_gateway()
            .replay();
    }
}

#[test]
fn a_fresh_connection_that_gave_nothing_sends_the_request_to_another_upstream() {
    script_with(2, |_| ())
        .client_sends(PUT_3)
        .goes_upstream(put_3())
        .upstream_resets()
        .dropped()
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(put_3())
        .gets_ok()
        .live(2) // one loss is not enough to eject
        .replay();
}

#[test]
fn a_post_of_which_nothing_was_written_goes_to_another_upstream_outside_the_budget() {
    script_with(2, |config| (config.retry.budget_percent, config.retry.budget_floor) = (0, 0))
        .client_sends(POST_3)
        .connects(0, Source::Pooled)
        .connected_dead(false)
        .dropped()
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(post_3())
        .gets_ok()
        .replay();
}

#[test]
fn with_the_budget_spent_a_lost_request_is_502() {
    script_with(2, |config| (config.retry.budget_percent, config.retry.budget_floor) = (0, 0))
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_ends()
        .dropped()
        .gets_bad_gateway()
        .replay();
}

#[test]
fn a_body_that_is_no_longer_held_is_not_sent_again() {
    let body = "b".repeat(100_000);
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n";
    script_with(2, |_| ())
        .client_sends(format!("{head}\r\n{body}"))
        .goes_upstream(forwarded(head) + &body)
        .upstream_ends()
        .dropped()
        .gets_bad_gateway()
        .replay();
}

#[test]
fn a_body_that_is_held_follows_the_request_to_another_upstream_while_it_still_arrives() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n";
    script_with(2, |_| ())
        .client_sends(format!("{head}\r\nabc"))
        .goes_upstream(forwarded(head) + "abc")
        .upstream_ends()
        .dropped()
        .connects(1, Source::Pooled)
        .client_sends("de")
        .connected_fresh()
        .upstream_sees(forwarded(head) + "abcde")
        .client_sends("f")
        .upstream_sees("f")
        .gets_ok()
        .replay();
}

#[test]
fn a_chunked_body_that_is_held_is_sent_again() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";
    let seen = forwarded(head);
    script_with(2, |_| ())
        .client_sends(format!("{head}\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n"))
        .connects(0, Source::Pooled)
        .connected_reused()
        .upstream_sees_chunks(&seen, "abc", "0\r\nA: b\r\n\r\n")
        .upstream_ends()
        .dropped()
        .connects(0, Source::Fresh)
        .connected_fresh()
        .upstream_sees_chunks(&seen, "abc", "0\r\nA: b\r\n\r\n")
        .gets_ok()
        .replay();
}

#[test]
fn a_response_that_has_begun_is_not_asked_for_again() {
    for (part, ends) in [("H", true), ("HTTP/1.1 200 OK\r\n", true), ("SSH-2.0\r\n\r\n", false)] {
        script_with(2, |_| ())
            .client_sends(GET)
            .connects(0, Source::Pooled)
            .connected_reused()
            .upstream_sees(get())
            .upstream_sends(part)
            .then(|s| if ends { s.upstream_ends() } else { s })
            .dropped()
            .gets_bad_gateway()
            .replay();
    }
}

#[test]
fn a_response_that_follows_an_interim_one_is_not_asked_for_again() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    script_with(2, |_| ())
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends(interim)
        .client_sees(interim)
        .upstream_ends()
        .dropped()
        .gets_bad_gateway()
        .replay();
}

#[test]
fn malformed_responses_are_502_and_drop_their_connection() {
    for response in [
        "HTTP/1.1 200OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 099 No\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        script_with(2, |_| ())
            .client_sends(GET)
            .goes_upstream(get())
            .upstream_sends(response)
            .dropped()
            .gets_bad_gateway()
            .replay();
    }
}

#[test]
fn a_chunked_body_that_breaks_its_framing_aborts_the_client() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends(format!("{head}3\r\nabc\r\n"))
        .client_sees_chunks(head, "abc", "")
        .upstream_sends("zz\r\n")
        .dropped()
        .reported(200, ABORTED)
        .aborted()
        .replay();
}

#[test]
fn an_attempt_after_a_lost_one_counts_its_own_written_bytes() {
    // The fresh connection that replaces the dead one is refused: still nothing of the POST is out.
    script_with(2, |_| ())
        .client_sends(POST_3)
        .connects(0, Source::Pooled)
        .connected_dead(true)
        .dropped()
        .connects(0, Source::Fresh)
        .refused()
        .connects(1, Source::Pooled)
        .connected_fresh()
        .stops_taking(Side::Client)
        .upstream_sees(post_3())
        .takes_again(Side::Client)
        .gets_ok()
        .replay();
}

#[test]
fn a_connection_that_took_nothing_costs_no_budget_whatever_the_one_before_took() {
    script_with(2, |config| (config.retry.budget_percent, config.retry.budget_floor) = (0, 0))
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .connected_reused()
        .upstream_sees(get())
        .upstream_ends()
        .dropped()
        .connects(0, Source::Fresh)
        .connected_dead(false)
        .dropped()
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(get())
        .gets_ok()
        .replay();
}

/// What many servers say to an idle connection before they close it.
const FAREWELL: &str = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";

#[test]
fn what_an_idle_connection_said_before_it_was_asked_is_nobodys_answer() {
    for (request, seen, source) in
        [(GET, get(), Source::Pooled), (POST_3, post_3(), Source::Pooled)]
    {
        script()
            .client_sends(request)
            .connects(0, source)
            .connected_speaking(true, FAREWELL)
            .dropped()
            .connects(0, Source::Fresh)
            .connected_fresh()
            .upstream_sees(seen)
            .upstream_sends(OK)
            .client_sees(OK)
            .dropped() // none of its connections is used again for a while
            .reported(200, FINISHED)
            .replay();
    }
}

/// Rule 29: such bytes may come while the request is on its way. They answer no request, and
/// what follows on other connections is not to be trusted either.
#[test]
fn stray_bytes_behind_a_request_that_was_written_end_the_reuse_of_connections() {
    for stray in ["0\r\n\r\n", "\0\0", "what\r\n"] {
        script()
            .one_good_exchange()
            .client_sends(GET)
            .connects(0, Source::Pooled)
            .connected_reused()
            .upstream_sees(get())
            .upstream_sends(stray)
            .upstream_ends()
            .dropped()
            .then(|story| story.client_sees_answer(502).reported(502, FINISHED))
            .client_sends(GET)
            .connects(0, Source::Fresh)
            .connected_fresh()
            .upstream_sees(get())
            .upstream_sends(OK)
            .client_sees(OK)
            .dropped()
            .reported(200, FINISHED)
            .replay();
    }
}

/// The upstream has a read timeout of its own, as most have.
fn stalled_put() -> Script {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n";
    script_with(2, |config| config.health.fall = 1)
        .client_sends(head.to_string() + "\r\na")
        .goes_upstream(forwarded(head) + "a")
}

/// Rule 43: an upstream that gives up on a body that does not come is not to blame, and no other one
/// is asked.
#[test]
fn a_client_that_stalls_is_408_and_no_upstream_is_blamed() {
    for ending in [Script::upstream_ends, Script::upstream_resets] {
        stalled_put()
            .after_ms(250)
            .then(ending)
            .dropped()
            .client_sees_last_answer(408)
            .reported(408, FINISHED)
            .because("the request body stopped arriving")
            .live(2)
            .lingers_then_closes()
            .replay();
    }
}

/// A pause within a body that is on its way is no stall: the request is sent again.
#[test]
fn a_client_that_pauses_loses_nothing_when_its_upstream_dies() {
    stalled_put()
        .after_ms(249)
        .upstream_ends()
        .dropped()
        .live(2)
        .connects(1, Source::Pooled)
        .connected_fresh()
        .client_sends("bcde")
        .upstream_sees(forwarded("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n") + "abcde")
        .gets_ok()
        .replay();
}

/// One bad URL must not empty the group: lost connections of one client are one loss.
#[test]
fn one_client_alone_ejects_nobody_however_many_connections_it_loses() {
    let lost = |story: Script, upstream| {
        story
            .client_sends(POST_3)
            .connects(upstream, Source::Pooled)
            .connected_fresh()
            .upstream_sees(post_3())
            .upstream_ends()
            .dropped()
            .gets_bad_gateway()
            .live(2)
    };
    [0, 1, 0, 1].into_iter().fold(script_with(2, |_| ()), lost).replay();
}

#[test]
fn an_upstream_that_speaks_before_it_is_asked_is_502() {
    script_with(2, |_| ())
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .connected_speaking(false, FAREWELL)
        .dropped()
        .gets_bad_gateway()
        .replay();
}
