//! Rules 10–13, 17 and 18: where a request ends, so that no client's bytes become another's request.

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    both_framings_at_once_are_refused,
    several_lengths_are_refused_even_equal_ones,
    lengths_that_are_not_digits_are_refused,
    any_digits_that_fit_are_a_length,
    codings_other_than_one_chunked_are_refused,
    chunked_is_known_in_any_case,
    chunked_in_http_1_0_is_refused,
    a_length_stays_a_length_and_chunked_stays_chunked,
    a_request_without_framing_has_no_body,
    a_body_of_get_or_head_is_forwarded_and_never_a_request,
    a_body_in_http_1_0_is_forwarded,
    ten_requests_in_one_write_are_answered_in_order,
    pipelined_requests_wait_for_a_slow_answer,
    a_request_cut_in_two_by_the_pipeline_is_whole_again,
}

/// Refused whole, with a request behind it that must never be seen.
fn smuggle(engine: EngineKind, fields: &str, body: &str, statuses: &[u16]) {
    refused(engine, &(request("POST", "/", fields, body) + &get("/evil")), statuses);
}

// Rule 10
fn both_framings_at_once_are_refused(engine: EngineKind) {
    let rows = [
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "content-length: 5\r\nX: y\r\ntransfer-encoding: CHUNKED\r\n",
    ];
    cases(rows, |fields| smuggle(engine, fields, "0\r\n\r\n", &[400]));
    cases(["xchunked", "identity", "", "chunked, chunked"], |coding| {
        let fields = format!("Transfer-Encoding: {coding}\r\nContent-Length: 5\r\n");
        smuggle(engine, &fields, "0\r\n\r\n", &[400, 501]);
    });
}

// Rule 11
fn several_lengths_are_refused_even_equal_ones(engine: EngineKind) {
    let rows = [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\nX: y\r\ncontent-length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5,6\r\n",
        "Content-Length: 5,\r\n",
        "Content-Length: ,5\r\n",
        "Content-Length: 5\r\nContent-Length:\r\n",
    ];
    cases(rows, |fields| smuggle(engine, fields, "hello", &[400]));
}

// Rule 12
fn lengths_that_are_not_digits_are_refused(engine: EngineKind) {
    let lengths = [
        "",
        " ",
        "+5",
        "-5",
        "+0",
        "-0",
        "0x5",
        "5 5",
        "5;",
        "5.0",
        "5e0",
        "a",
        "5a",
        "\"5\"",
        "5\u{b}",
        "5\u{a0}",
        "\u{b2}",
        "_5",
        "1_0",
        "5\t5",
        "18446744073709551616",
        "99999999999999999999999999",
        "18446744073709551621",
    ];
    cases(lengths, |length| {
        smuggle(engine, &format!("Content-Length: {length}\r\n"), "hello", &[400]);
    });
}

// Rule 12
fn any_digits_that_fit_are_a_length(engine: EngineKind) {
    let rows = [("5", "hello"), ("0", ""), ("005", "hello"), ("\t5 \t", "hello")];
    cases(rows, |&(length, body)| {
        let fields = format!("Content-Length: {length}\r\n");
        let got = forwarded(engine, &request("POST", "/", &fields, body));
        assert_eq!((got.body.as_str(), got.framing), (body, Framing::Length));
    });

    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&request("POST", "/", "Content-Length: 18446744073709551615\r\n", "some"));
    let mut peer = listener.accept();
    let head = peer.request_head().expect("a head");
    assert_eq!(head.field("Content-Length"), Some("18446744073709551615"));
    peer.expect("some");
    client.send(" more");
    peer.expect(" more");
}

// Rule 13
fn codings_other_than_one_chunked_are_refused(engine: EngineKind) {
    let rows: [(&str, &[u16]); 27] = [
        ("xchunked", &[501]),
        ("gzip", &[501]),
        ("identity", &[501]),
        ("chunkedx", &[501]),
        ("chunke", &[501]),
        ("gzip, chunked", &[400, 501]),
        ("chunked, gzip", &[400, 501]),
        ("chunked, identity", &[400, 501]),
        ("identity, chunked", &[400, 501]),
        ("chunked, chunked", &[400]),
        ("chunked,chunked", &[400]),
        ("chunked,", &[400]),
        (",chunked", &[400]),
        (", chunked", &[400]),
        ("chunked;q=1", &[400, 501]),
        ("chunked;", &[400, 501]),
        ("\"chunked\"", &[400]),
        ("'chunked'", &[400, 501]),
        ("chunked chunked", &[400]),
        ("chun ked", &[400]),
        ("", &[400]),
        (",", &[400]),
        ("chunked\u{b}", &[400]),
        ("\u{b}chunked", &[400]),
        ("\u{1}chunked", &[400]),
        ("chunked\u{a0}", &[400]),
        ("chunked\u{7f}", &[400]),
    ];
    cases(rows, |&(coding, statuses)| {
        let fields = format!("Transfer-Encoding: {coding}\r\n");
        smuggle(engine, &fields, "0\r\n\r\n", statuses);
    });
    let twice =
        [("chunked", "chunked"), ("chunked", "identity"), ("identity", "chunked"), ("", "chunked")];
    cases(twice, |(one, two)| {
        let fields = format!("Transfer-Encoding: {one}\r\nX: y\r\ntransfer-encoding: {two}\r\n");
        smuggle(engine, &fields, "0\r\n\r\n", &[400, 501]);
    });
}

// Rule 13
fn chunked_is_known_in_any_case(engine: EngineKind) {
    let rows = ["chunked", "CHUNKED", "ChUnKeD", "\tchunked \t"];
    cases(rows, |coding| {
        let fields = format!("tRaNsFeR-eNcOdInG: {coding}\r\n");
        let got = forwarded(engine, &request("POST", "/", &fields, "5\r\nhello\r\n0\r\n\r\n"));
        assert_eq!((got.body.as_str(), got.framing), ("hello", Framing::Chunked));
    });
}

// Rule 13
fn chunked_in_http_1_0_is_refused(engine: EngineKind) {
    for more in ["", "Connection: keep-alive\r\n", "Content-Length: 5\r\n"] {
        let head =
            format!("POST / HTTP/1.0\r\nHost: a\r\n{more}Transfer-Encoding: chunked\r\n\r\n");
        refused(engine, &(head + "0\r\n\r\n" + &get("/evil")), &[400]);
    }
}

// Rules 13 and 14
fn a_length_stays_a_length_and_chunked_stays_chunked(engine: EngineKind) {
    let got = forwarded(engine, &post("/", "hello"));
    assert_eq!((got.framing, got.field("Content-Length")), (Framing::Length, Some("5")));
    let wire = request("POST", "/", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n");
    let got = forwarded(engine, &wire);
    assert_eq!((got.framing, got.body.as_str()), (Framing::Chunked, ""));
}

// Rule 17
fn a_request_without_framing_has_no_body(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(&(request("POST", "/1", "", "") + &get("/2")));
    assert_eq!(client.response().body, "POST /1");
    assert_eq!(client.response().body, "GET /2");
}

// Rule 18
fn a_body_of_get_or_head_is_forwarded_and_never_a_request(engine: EngineKind) {
    let evil = get("/evil");
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let length = format!("Content-Length: {}\r\n", evil.len());
        let chunked = format!("{}0\r\n\r\n", chunk(&evil));
        let rows = [
            request(method, "/1", &length, &evil),
            request(method, "/1", "Transfer-Encoding: chunked\r\n", &chunked),
        ];
        cases(rows, |wire| {
            let upstream = Upstream::echo();
            let balancer = Balancer::start(engine, &[upstream.address()]);
            let mut client = balancer.client();
            client.send(&(wire.clone() + &get("/2")));
            assert_eq!(client.response_to(method).status(), 200);
            assert_eq!(client.response().body, "GET /2");
            let log = upstream.log();
            let bodies: Vec<_> = log.requests.iter().map(|(_, got)| got.body.as_str()).collect();
            assert_eq!(bodies, [evil.as_str(), ""]);
        });
    }
}

// Rules 17 and 31
fn a_body_in_http_1_0_is_forwarded(engine: EngineKind) {
    let wire = "POST / HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(forwarded(engine, wire).body, "hello");
}

// Rule 17
fn ten_requests_in_one_write_are_answered_in_order(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    let wires: Vec<String> = (0..10)
        .map(|n| match n % 4 {
            0 => get(&format!("/{n}")),
            1 => post(&format!("/{n}"), "a body"),
            2 => request("HEAD", &format!("/{n}"), "", ""),
            _ => {
                let body = "3\r\na b\r\n3\r\nody\r\n0\r\nX: y\r\n\r\n";
                request("PUT", &format!("/{n}"), "Transfer-Encoding: chunked\r\n", body)
            }
        })
        .collect();
    client.send(&wires.concat());
    for n in 0..10 {
        let (method, body) = match n % 4 {
            0 => ("GET", format!("GET /{n}")),
            1 => ("POST", format!("POST /{n} a body")),
            2 => ("HEAD", String::new()),
            _ => ("PUT", format!("PUT /{n} a body")),
        };
        let answer = client.response_to(method);
        assert_eq!((answer.status(), answer.body), (200, body));
    }
    assert_eq!(upstream.deliveries(), 10);
}

// Rule 17
fn pipelined_requests_wait_for_a_slow_answer(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&(get("/1") + &get("/2") + &get("/3")));
    let mut peer = listener.accept();
    for n in 1..=3 {
        assert_eq!(peer.request().target(), format!("/{n}"));
        client.expect_quiet(std::time::Duration::from_millis(30));
        peer.send(&ok(&n.to_string()));
        assert_eq!(client.response().body, n.to_string());
    }
}

// Rule 17
fn a_request_cut_in_two_by_the_pipeline_is_whole_again(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    let (one, two) = (post("/1", "hello"), post("/2", "world"));
    for cut in 0..=two.len() {
        client.send(&(one.clone() + &two[..cut]));
        assert_eq!(client.response().body, "POST /1 hello", "cut at {cut}");
        client.send(&two[cut..]);
        assert_eq!(client.response().body, "POST /2 world", "cut at {cut}");
    }
}
