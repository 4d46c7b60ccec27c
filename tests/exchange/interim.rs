//! 100-continue and other interim responses.

use crate::script::Source;
use crate::script::{FINISHED, GET, OK, forwarded, get, script, script_with};

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const HEAD: &str = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";

#[test]
fn the_upstreams_100_comes_back_and_the_body_follows() {
    script()
        .client_sends(format!("{HEAD}\r\n"))
        .goes_upstream(forwarded(HEAD))
        .upstream_sends(CONTINUE)
        .client_sees(CONTINUE)
        .client_sends("abcde")
        .upstream_sees("abcde")
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_client_that_does_not_wait_for_the_100_is_not_held_up() {
    script()
        .client_sends(format!("{HEAD}\r\nabcde"))
        .goes_upstream(forwarded(HEAD) + "abcde")
        .upstream_sends(format!("{CONTINUE}{OK}"))
        .client_sees(format!("{CONTINUE}{OK}"))
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_final_answer_instead_of_the_100_ends_the_connection() {
    script()
        .client_sends(format!("{HEAD}\r\n"))
        .goes_upstream(forwarded(HEAD))
        .upstream_sends_at_once("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        .client_sees("HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .dropped()
        .reported(403, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn an_expectation_is_kept_through_a_retry() {
    script_with(2, |_| ())
        .client_sends(format!("{HEAD}\r\n"))
        .goes_upstream(forwarded(HEAD))
        .upstream_ends()
        .dropped()
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(forwarded(HEAD))
        .upstream_sends(CONTINUE)
        .client_sees(CONTINUE)
        .client_sends("abcde")
        .upstream_sees("abcde")
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn another_expectation_is_417_and_one_with_a_body_ends_the_connection() {
    script()
        .client_sends("GET / HTTP/1.1\r\nHost: h\r\nExpect: more\r\n\r\n")
        .client_sees_answer(417)
        .reported(417, FINISHED)
        .one_good_exchange()
        .client_sends(HEAD.replace("100-continue", "100-continue, more") + "\r\n")
        .client_sees_last_answer(417)
        .reported(417, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn an_old_client_has_no_expectations() {
    script()
        .client_sends(
            "PUT / HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        )
        .goes_upstream(
            forwarded("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n")
                .replace("Via: 1.1", "Via: 1.0"),
        )
        .upstream_sends(CONTINUE)
        .client_sends("ab")
        .upstream_sees("ab")
        .upstream_sends(OK)
        .client_sees("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn interim_responses_are_dropped_for_an_old_client_and_forwarded_without_framing_otherwise() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 7\r\n\r\n";
    script()
        .client_sends("GET / HTTP/1.0\r\nHost: h\r\n\r\n")
        .goes_upstream(get().replace("Via: 1.1", "Via: 1.0"))
        .upstream_sends(format!("{interim}{interim}{OK}"))
        .client_sees("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
    let shown = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends(format!("{interim}{interim}{OK}"))
        .client_sees(format!("{shown}{shown}{OK}"))
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_client_that_has_begun_its_body_waits_for_no_100_any_more() {
    script_with(1, |config| config.timeouts.progress = std::time::Duration::from_secs(5))
        .client_sends(format!("{HEAD}\r\n"))
        .goes_upstream(forwarded(HEAD))
        .after_ms(30_000)
        .client_sends("ab")
        .upstream_sees("ab")
        .after_ms(4_999)
        .after_ms(1)
        .dropped()
        .client_sees_last_answer(408)
        .reported(408, FINISHED)
        .lingers_then_closes()
        .replay();
}
