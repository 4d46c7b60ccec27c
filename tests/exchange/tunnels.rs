//! Upgrades: once both sides have agreed, bytes flow, whatever they mean.

use balancebeam::session::Side;

use crate::script::{ABORTED, FINISHED, GONE, OK, Script, forwarded, script};

const REQUEST: &str =
    "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";

fn seen() -> String {
    forwarded("GET / HTTP/1.1\r\nHost: h\r\n")
        .replace("X-Forwarded-For", "Upgrade: websocket\r\nConnection: upgrade\r\nX-Forwarded-For")
}

fn tunnel() -> Script {
    script().client_sends(REQUEST).goes_upstream(seen()).upstream_sends(SWITCH).client_sees(SWITCH)
}

#[test]
fn bytes_flow_both_ways_and_each_half_close_is_passed_on() {
    tunnel()
        .client_sends("\x00GET / HTTP/1.1\r\n")
        .upstream_sees("\x00GET / HTTP/1.1\r\n")
        .upstream_sends("HTTP/1.1 200 OK\r\n\r\n")
        .client_sees("HTTP/1.1 200 OK\r\n\r\n")
        .client_ends()
        .half_closed(Side::Upstream)
        .upstream_sends("more")
        .client_sees("more")
        .upstream_ends()
        .dropped()
        .reported(101, FINISHED)
        .closed()
        .replay();
}

#[test]
fn an_upstream_may_end_first() {
    tunnel()
        .upstream_sends("bye")
        .upstream_ends()
        .client_sees("bye")
        .half_closed(Side::Client)
        .client_sends("last words")
        .upstream_sees("last words")
        .client_ends()
        .dropped()
        .reported(101, FINISHED)
        .closed()
        .replay();
}

#[test]
fn what_was_buffered_flows_first() {
    script()
        .client_sends(format!("{REQUEST}early"))
        .goes_upstream(seen())
        .upstream_sends(format!("{SWITCH}also early"))
        .client_sees(format!("{SWITCH}also early"))
        .upstream_sees("early")
        .client_sends(" and late")
        .upstream_sees(" and late")
        .upstream_resets()
        .dropped()
        .reported(101, ABORTED)
        .aborted()
        .replay();
}

#[test]
fn a_half_close_waits_for_the_bytes_before_it() {
    tunnel()
        .stops_taking(Side::Upstream)
        .client_sends("slowly")
        .client_ends()
        .takes_again(Side::Upstream)
        .upstream_sees("slowly")
        .half_closed(Side::Upstream)
        .stops_taking(Side::Client)
        .upstream_sends("slowly too")
        .upstream_ends()
        .takes_again(Side::Client)
        .client_sees("slowly too")
        .half_closed(Side::Client)
        .dropped()
        .reported(101, FINISHED)
        .closed()
        .replay();
}

#[test]
fn a_side_that_breaks_takes_the_other_with_it() {
    tunnel().client_resets().dropped().reported(101, GONE).aborted().replay();
    tunnel().upstream_resets().dropped().reported(101, ABORTED).aborted().replay();
    tunnel()
        .upstream_is_deaf()
        .client_sends("x")
        .dropped()
        .reported(101, ABORTED)
        .aborted()
        .replay();
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_exchange() {
    script()
        .client_sends(REQUEST)
        .goes_upstream(seen())
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .one_good_exchange()
        .replay();
}

#[test]
fn an_upgrade_to_http_2_in_clear_text_is_not_asked_for() {
    script()
        .client_sends(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n",
        )
        .goes_upstream(crate::script::get())
        .upstream_sends("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n")
        .dropped()
        .client_sees_answer(502)
        .reported(502, FINISHED)
        .replay();
}

#[test]
fn an_upgrade_behind_a_whole_body_is_an_upgrade() {
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n";
    script()
        .client_sends(format!("{head}Connection: upgrade\r\nUpgrade: websocket\r\n\r\nabc"))
        .goes_upstream(
            forwarded(head).replace(
                "X-Forwarded-For",
                "Upgrade: websocket\r\nConnection: upgrade\r\nX-Forwarded-For",
            ) + "abc",
        )
        .upstream_sends(SWITCH)
        .client_sees(SWITCH)
        .upstream_ends()
        .half_closed(Side::Client)
        .client_ends()
        .dropped()
        .reported(101, FINISHED)
        .closed()
        .replay();
}
