//! What an upstream is told about the way a request took, and the host that it is asked for.

use crate::script::Source;
use crate::script::{FINISHED, NAMES, OK, Script, get, script, script_with};
use crate::world::PEER;

fn trusting() -> Script {
    script_with(1, |config| config.forwarding.trusted = vec!["192.0.2.0/24".parse().unwrap()])
}

impl Script {
    fn forwards(self, request: &str, seen: &str) {
        self.client_sends(request)
            .goes_upstream(seen)
            .upstream_sends(OK)
            .client_sees(OK)
            .kept()
            .reported(200, FINISHED)
            .replay();
    }
}

#[test]
fn an_old_request_without_a_host_gets_the_name_of_whichever_upstream_it_goes_to() {
    let seen = |name: &str| {
        format!(
            "GET /x HTTP/1.1\r\nHost: {name}\r\nA: b\r\nX-Forwarded-For: {PEER}\r\n\
             X-Forwarded-Proto: http\r\nVia: 1.0 balancebeam\r\n\r\n"
        )
    };
    script_with(3, |_| ())
        .client_sends("GET /x HTTP/1.0\r\nA: b\r\n\r\n")
        .connects(0, Source::Pooled)
        .connected_reused()
        .upstream_sees(seen(NAMES[0]))
        .upstream_ends()
        .dropped()
        .connects(0, Source::Fresh)
        .connected_fresh()
        .upstream_sees(seen(NAMES[0]))
        .upstream_ends()
        .dropped()
        .connects(1, Source::Pooled)
        .refused()
        .connects(2, Source::Pooled)
        .connected_fresh()
        .upstream_sees(seen(NAMES[2]))
        .upstream_sends(OK)
        .client_sees("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn the_upstreams_own_name_is_sent_if_the_operator_says_so_with_the_body_behind_it() {
    let request = "PUT / HTTP/1.1\r\nA: b\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    let seen = |name: &str| {
        format!(
            "PUT / HTTP/1.1\r\nA: b\r\nHost: {name}\r\nContent-Length: 3\r\n\
             X-Forwarded-For: {PEER}\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\n\
             Via: 1.1 balancebeam\r\n\r\nabc"
        )
    };
    script_with(2, |config| config.forwarding.upstream_host = true)
        .client_sends(request)
        .goes_upstream(seen(NAMES[0]))
        .upstream_ends()
        .dropped()
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(seen(NAMES[1]))
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_peer_that_is_not_trusted_cannot_say_where_it_comes_from() {
    script().forwards(
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil\r\nForwarded: for=10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.1\r\n\
         X-Forwarded-For: 10.0.0.2, 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: h\r\nVia: 1.1 balancebeam\r\n\r\n",
    );
}

#[test]
fn a_trusted_peer_is_believed() {
    trusting().forwards(
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: outer\r\nForwarded: for=10.0.0.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.1, 192.0.2.7\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: outer\r\nForwarded: for=10.0.0.1\r\n\
         Via: 1.1 balancebeam\r\n\r\n",
    );
    trusting().forwards(crate::script::GET, &get());
}

#[test]
fn fields_that_the_connection_field_names_are_set_anew() {
    trusting().forwards(
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
         Connection: x-forwarded-for, X-Forwarded-Proto, x-secret\r\nX-Secret: s\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\
         X-Forwarded-Host: h\r\nVia: 1.1 balancebeam\r\n\r\n",
    );
}

#[test]
fn an_absolute_target_goes_on_as_a_path_and_its_authority_wins() {
    script().forwards(
        "GET http://h/a?b=%zz HTTP/1.1\r\nHost: other\r\n\r\n",
        "GET /a?b=%zz HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.7\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nVia: 1.1 balancebeam\r\n\r\n",
    );
}

#[test]
fn via_can_be_left_out_of_requests_and_put_into_responses() {
    script_with(1, |config| {
        config.forwarding.via_request = false;
        config.forwarding.via_response = true;
    })
    .client_sends(crate::script::GET)
    .goes_upstream(get().replace("Via: 1.1 balancebeam\r\n", ""))
    .upstream_sends("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
    .client_sees("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nVia: 1.0 balancebeam\r\n\r\n")
    .dropped()
    .reported(200, FINISHED)
    .replay();
}
