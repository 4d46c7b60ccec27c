//! Rule 8: every limit is a named option, with a default.

use balancebeam::config::{Config, EngineKind};

use crate::support::*;

on_each_engine! {
    a_request_line_at_its_limit_passes_and_one_byte_more_is_414,
    a_head_at_its_limit_passes_and_one_byte_more_is_431,
    fields_at_their_limit_pass_and_one_more_is_431,
    limits_can_be_set,
    a_head_without_end_is_refused_before_it_ends,
    a_body_at_its_limit_passes,
    a_declared_body_over_its_limit_is_413_before_anything_is_forwarded,
    a_chunked_body_over_its_limit_is_413_and_never_looks_whole,
    a_responses_head_over_the_limits_is_502,
    a_responses_head_at_the_limits_passes,
}

/// A request whose line has `length` bytes.
fn with_line_of(length: usize) -> String {
    let rest = "GET / HTTP/1.1".len();
    get(&format!("/{}", "x".repeat(length - rest)))
}

/// A request whose head has `length` bytes.
fn with_head_of(length: usize) -> String {
    let half = |n| format!("X: {}\r\n", "x".repeat(n - 5));
    let left = length - get("/").len();
    request("GET", "/", &(half(left / 2) + &half(left - left / 2)), "")
}

/// A request with so many fields.
fn with_fields(count: usize) -> String {
    request("GET", "/", &"X: y\r\n".repeat(count - 1), "")
}

// Rule 8
fn a_request_line_at_its_limit_passes_and_one_byte_more_is_414(engine: EngineKind) {
    let got = forwarded(engine, &with_line_of(8 * 1024));
    assert_eq!(got.first.len(), 8 * 1024);
    refused(engine, &with_line_of(8 * 1024 + 1), &[414]);
    refused(engine, &with_line_of(15 * 1024), &[414]);
}

// Rule 8
fn a_head_at_its_limit_passes_and_one_byte_more_is_431(engine: EngineKind) {
    let got = forwarded(engine, &with_head_of(16 * 1024));
    assert_eq!(got.all("X").len(), 2);
    refused(engine, &with_head_of(16 * 1024 + 1), &[431]);
    refused(engine, &with_head_of(60 * 1024), &[431]);
}

// Rule 8
fn fields_at_their_limit_pass_and_one_more_is_431(engine: EngineKind) {
    let got = forwarded(engine, &with_fields(100));
    assert_eq!(got.all("X").len(), 99);
    refused(engine, &with_fields(101), &[431]);
    refused(engine, &with_fields(1000), &[431]);
}

fn small_head(c: &mut Config) {
    (c.limits.head, c.limits.request_line) = (1024, 1024);
}

// Rule 8
fn limits_can_be_set(engine: EngineKind) {
    type Set = fn(&mut Config);
    let rows: [(&str, Set, String, u16); 8] = [
        ("line 100", |c| c.limits.request_line = 100, with_line_of(100), 200),
        ("line 101", |c| c.limits.request_line = 100, with_line_of(101), 414),
        ("head 1024", small_head, with_head_of(1024), 200),
        ("head 1025", small_head, with_head_of(1025), 431),
        ("head 20000", |c| c.limits.head = 20_000, with_head_of(20_000), 200),
        ("5 fields", |c| c.limits.fields = 5, with_fields(5), 200),
        ("6 fields", |c| c.limits.fields = 5, with_fields(6), 431),
        ("200 fields", |c| c.limits.fields = 200, with_fields(200), 200),
    ];
    let upstream = Upstream::echo();
    cases(rows, |(_, set, wire, status)| {
        let balancer = Balancer::start_with(engine, &[upstream.address()], set);
        assert_eq!(balancer.ask(wire).status(), *status);
    });
}

// Rules 8 and 44
fn a_head_without_end_is_refused_before_it_ends(engine: EngineKind) {
    let long = "x".repeat(20 * 1024);
    let rows: [(&str, String, &[u16]); 5] = [
        ("a target", format!("GET /{long}"), &[414]),
        ("a method", long.clone(), &[400, 414]),
        ("a name", format!("GET / HTTP/1.1\r\nHost: a\r\n{long}"), &[431]),
        ("a value", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), &[431]),
        ("fields", format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(200)), &[431]),
    ];
    cases(rows, |(_, wire, statuses)| {
        refused(engine, wire, statuses);
    });
}

fn at_most_ten(c: &mut Config) {
    c.limits.body = Some(10);
}

// Rule 8
fn a_body_at_its_limit_passes(engine: EngineKind) {
    let chunked = "4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n";
    let rows =
        [post("/", "0123456789"), request("POST", "/", "Transfer-Encoding: chunked\r\n", chunked)];
    cases(rows, |wire| assert_eq!(forwarded_with(engine, wire, at_most_ten).body, "0123456789"));
}

// Rules 8 and 9
fn a_declared_body_over_its_limit_is_413_before_anything_is_forwarded(engine: EngineKind) {
    let rows = [
        request("POST", "/", "Content-Length: 11\r\n", ""),
        request("POST", "/", "Content-Length: 11\r\n", "0123456789X"),
        request("POST", "/", "Content-Length: 18446744073709551615\r\n", "0123456789X"),
        request("POST", "/", "Content-Length: 11\r\nExpect: 100-continue\r\n", ""),
    ];
    cases(rows, |wire| {
        let upstream = Upstream::echo();
        let balancer = Balancer::start_with(engine, &[upstream.address()], at_most_ten);
        let answer = balancer.ask(wire);
        assert_eq!(answer.status(), 413);
        assert_eq!(upstream.connections(), 0);
    });
}

// Rules 8 and 16
fn a_chunked_body_over_its_limit_is_413_and_never_looks_whole(engine: EngineKind) {
    let head = request("POST", "/", "Transfer-Encoding: chunked\r\n", "");
    cases(["b\r\n0123456789X\r\n0\r\n\r\n", "8\r\n01234567\r\n3\r\n89X\r\n0\r\n\r\n"], |body| {
        for at_once in [true, false] {
            let upstream = Upstream::echo();
            let balancer = Balancer::start_with(engine, &[upstream.address()], at_most_ten);
            let mut client = balancer.client();
            if at_once {
                client.send(&(head.clone() + body));
            } else {
                client.send(&head);
                client.send_byte_by_byte(body);
            }
            expect_refusal(&mut client, &[413]);
            balancer.stop();
            assert_eq!(upstream.deliveries(), 0, "whole requests");
        }
    });
}

// Rule 8
fn a_responses_head_over_the_limits_is_502(engine: EngineKind) {
    let long = format!("X: {}\r\n", "x".repeat(17 * 1024));
    let rows = [
        ("too long", response("200 OK", &long, "")),
        ("too many", response("200 OK", &"X: y\r\n".repeat(100), "")),
        ("a long reason", format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(17 * 1024))),
        ("without end", format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(17 * 1024))),
    ];
    cases(rows, |(_, response)| assert_eq!(relayed(engine, response).status(), 502));
}

// Rule 8
fn a_responses_head_at_the_limits_passes(engine: EngineKind) {
    let got = relayed(engine, &response("200 OK", &"X: y\r\n".repeat(99), "body"));
    assert_eq!((got.all("X").len(), got.body.as_str()), (99, "body"));
    let empty = response("200 OK", "X: \r\n", "").len();
    let long = format!("X: {}\r\n", "x".repeat(16 * 1024 - empty));
    let got = relayed(engine, &response("200 OK", &long, ""));
    assert_eq!(got.field("X").map(str::len), Some(16 * 1024 - empty));
}
