//! Bodies in every framing, both ways, to clients and upstreams of both versions.

use balancebeam::buffer::SIZE;

use crate::script::{ABORTED, FINISHED, GET, OK, forwarded, get, script};

const GET_10: &str = "GET / HTTP/1.0\r\nHost: h\r\n\r\n";

fn get_10() -> String {
    get().replace("Via: 1.1", "Via: 1.0")
}

#[test]
fn a_body_with_a_length_goes_on_with_it() {
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n";
    script()
        .client_sends(format!("{head}\r\na"))
        .goes_upstream(forwarded(head) + "a")
        .client_sends("bc")
        .upstream_sees("bc")
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_chunked_request_goes_on_in_chunks_with_its_trailers() {
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";
    script()
        .client_sends(format!("{head}\r\n"))
        .goes_upstream(forwarded(head))
        .client_sends("3;ext=\"x\"\r\nabc\r\n")
        .upstream_sees_chunks("", "abc", "")
        .client_sends("00A\r\n0123456789\r\n")
        .upstream_sees_chunks("", "0123456789", "")
        .client_sends("0;last\r\nTrailing: yes\r\nContent-Length: 7\r\nHost: evil\r\n\r\n")
        .upstream_sees("0\r\nTrailing: yes\r\n\r\n")
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_chunked_response_goes_on_in_chunks_with_its_trailers() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends(format!("{head}3\r\nabc\r\n"))
        .client_sees_chunks(head, "abc", "")
        .upstream_sends("0\r\nA: b\r\nTransfer-Encoding: x\r\nC: d\r\n\r\n")
        .client_sees("0\r\nA: b\r\nC: d\r\n\r\n")
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_chunked_response_reaches_an_old_client_without_chunks_and_without_trailers() {
    script()
        .client_sends(GET_10)
        .goes_upstream(get_10())
        .upstream_sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .client_sees("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
        .upstream_sends("2\r\nde\r\n0\r\nA: b\r\n\r\n")
        .client_sees("de")
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn an_old_client_that_keeps_its_connection_loses_it_to_a_body_without_a_length() {
    script()
        .client_sends("GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
        .goes_upstream(get_10())
        .upstream_sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .client_sees("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
        .upstream_sends("0\r\n\r\n")
        .kept()
        .reported(200, FINISHED)
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_chunked_response_broken_off_aborts_an_old_client() {
    script()
        .client_sends(GET_10)
        .goes_upstream(get_10())
        .upstream_sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .client_sees("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
        .upstream_ends()
        .dropped()
        .reported(200, ABORTED)
        .aborted()
        .replay();
}

#[test]
fn a_body_that_ends_with_its_connection_leaves_in_chunks() {
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        script()
            .client_sends(GET)
            .goes_upstream(get())
            .upstream_sends(format!("{version} 200 OK\r\nA: b\r\n\r\nabc"))
            .client_sees_chunks(
                "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n",
                "abc",
                "",
            )
            .upstream_ends()
            .client_sees("0\r\n\r\n")
            .dropped()
            .reported(200, FINISHED)
            .one_good_exchange()
            .replay();
    }
}

#[test]
fn a_body_that_ends_with_its_connection_reaches_an_old_client_as_it_is() {
    script()
        .client_sends(GET_10)
        .goes_upstream(get_10())
        .upstream_sends("HTTP/1.1 200 OK\r\n\r\nabc")
        .client_sees("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
        .upstream_ends()
        .dropped()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn a_body_that_should_end_with_its_connection_and_is_reset_has_no_clean_end() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    script()
        .client_sends(GET)
        .goes_upstream(get())
        .upstream_sends("HTTP/1.1 200 OK\r\n\r\nabc")
        .client_sees_chunks(head, "abc", "")
        .upstream_resets()
        .dropped()
        .reported(200, ABORTED)
        .aborted()
        .replay();
    script()
        .client_sends(GET_10)
        .goes_upstream(get_10())
        .upstream_sends("HTTP/1.1 200 OK\r\n\r\nabc")
        .client_sees("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
        .upstream_resets()
        .dropped()
        .reported(200, ABORTED)
        .aborted()
        .replay();
}

#[test]
fn responses_that_have_no_body_end_with_their_head() {
    for (request, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
    ] {
        script()
            .client_sends(format!("{request} / HTTP/1.1\r\nHost: h\r\n\r\n"))
            .goes_upstream(get().replacen("GET", request, 1))
            .upstream_sends(answer)
            .client_sees(answer)
            .kept()
            .reported(answer[9..12].parse().unwrap(), FINISHED)
            .one_good_exchange()
            .replay();
    }
}

#[test]
fn a_get_with_a_body_is_framed_like_any_other() {
    let head = "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 27\r\n";
    let body = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(body.len(), 28);
    script()
        .client_sends(format!("{head}\r\n{}", &body[..27]))
        .goes_upstream(forwarded(head) + &body[..27])
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_body_of_many_buffers_goes_both_ways() {
    let body: String = (0..SIZE).map(|i| format!("{i:5}")).collect(); // five of them
    let head = format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n", body.len());
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    script()
        .client_sends(format!("{head}\r\n{body}"))
        .goes_upstream(forwarded(&head) + &body)
        .upstream_sends(&answer)
        .client_sees(&answer)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn an_empty_body_in_any_framing_is_a_body() {
    for (fields, body) in
        [("Content-Length: 0\r\n", ""), ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n")]
    {
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}");
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
        script()
            .client_sends(format!("{head}\r\n{body}"))
            .goes_upstream(forwarded(&head) + body)
            .upstream_sends(&answer)
            .client_sees(&answer)
            .kept()
            .reported(200, FINISHED)
            .replay();
    }
}
