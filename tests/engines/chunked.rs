//! Rules 14–16: chunked bodies, their trailers, and errors in them.

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    sizes_and_extensions_that_are_valid_pass_and_extensions_end_here,
    chunks_that_are_malformed_are_refused_before_an_upstream_hears_of_them,
    an_overlong_chunk_line_is_refused_even_without_its_end,
    malformed_trailers_are_refused,
    trailers_over_the_limits_are_refused,
    trailers_go_upstream_without_those_that_steer,
    trailers_come_back_without_those_that_steer,
    trailers_that_connection_names_do_not_go_upstream,
    trailers_that_connection_names_do_not_come_back,
    a_request_that_is_sent_again_still_drops_trailers_that_connection_names,
    a_chunked_body_may_come_in_any_pieces,
    an_error_later_in_a_body_is_400_and_its_connection_is_dropped,
    an_error_in_a_body_already_being_answered_ends_both_sides,
    sizes_whose_sum_overflows_harm_nobody,
}

const HEAD: &str = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";

// Rule 14
fn sizes_and_extensions_that_are_valid_pass_and_extensions_end_here(engine: EngineKind) {
    let long = format!("5;a={}\r\nhello\r\n0\r\n\r\n", "x".repeat(200));
    let rows = [
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("00000005\r\nhello\r\n00000000\r\n\r\n", "hello"),
        ("0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", "hello"),
        ("5;a\r\nhello\r\n0;b\r\n\r\n", "hello"),
        ("5;a=b;c=d\r\nhello\r\n0;e=f\r\n\r\n", "hello"),
        ("5;a=\"q;\\\" r\"\r\nhello\r\n0\r\n\r\n", "hello"),
        ("1\r\n\r\r\n1\r\n\n\r\n2\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
        (long.as_str(), "hello"),
    ];
    cases(rows, |&(wire, body)| {
        let got = forwarded(engine, &(HEAD.to_string() + wire));
        assert_eq!((got.body.as_str(), got.framing), (body, Framing::Chunked));
    });
}

// Rules 14 and 16
fn chunks_that_are_malformed_are_refused_before_an_upstream_hears_of_them(engine: EngineKind) {
    let bodies = [
        // sizes
        "\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "0X0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "5g\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5,\r\nhello\r\n0\r\n\r\n",
        "\u{b5}\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        // line ends
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\n\n",
        // data
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        // extensions
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\n\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b\nc\"\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0;a\nb\r\n\r\n",
    ];
    cases(bodies, |body| {
        refused(engine, &(HEAD.to_string() + body + &get("/evil")), &[400]);
    });
}

// Rule 14
fn an_overlong_chunk_line_is_refused_even_without_its_end(engine: EngineKind) {
    let long = "x".repeat(300);
    let rows = [
        format!("5;a={long}\r\nhello\r\n0\r\n\r\n"),
        format!("5;a={long}"),
        format!("5\r\nhello\r\n0;{long}\r\n\r\n"),
        "0".repeat(300),
    ];
    cases(rows, |body| {
        refused(engine, &(HEAD.to_string() + body), &[400]);
    });
}

// Rules 15 and 16
fn malformed_trailers_are_refused(engine: EngineKind) {
    let trailers = [
        "NoColon\r\n",
        ": x\r\n",
        "Na me: x\r\n",
        "Name : x\r\n",
        "X: a\0b\r\n",
        "X: a\rb\r\n",
        "X: a\nb\r\n",
        "X: a\n",
        " X: y\r\n",
        "X: y\r\n z\r\n",
        "X: y\r\n\tz\r\n",
        "GET /evil HTTP/1.1\r\n",
    ];
    cases(trailers, |trailers| {
        refused(engine, &format!("{HEAD}5\r\nhello\r\n0\r\n{trailers}\r\n"), &[400]);
    });
}

// Rules 8 and 15
fn trailers_over_the_limits_are_refused(engine: EngineKind) {
    let rows = [
        ("too many", "X: y\r\n".repeat(101) + "\r\n"),
        ("too long", format!("X: {}\r\n\r\n", "x".repeat(17 * 1024))),
        ("too long, without end", format!("X: {}", "x".repeat(17 * 1024))),
    ];
    cases(rows, |(_, trailers)| {
        let upstream = Upstream::echo();
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        client.send(&format!("{HEAD}0\r\n{trailers}"));
        expect_refusal(&mut client, &[400, 431]);
        balancer.stop();
        assert_eq!(upstream.deliveries(), 0, "whole requests");
    });
}

/// Names that mean something to whoever reads the message next, and so may not come late.
const STEERING: &str = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: b.example\r\n\
    Connection: close\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nTE: trailers\r\n\
    Upgrade: websocket\r\n";

fn expect_trailers(got: &Message) {
    let wanted = [("X-Sum", "1 2"), ("x-sum", "\u{ff}"), ("Empty", "")];
    let wanted = wanted.map(|(name, value)| (name.to_string(), value.to_string()));
    assert_eq!(got.trailers, wanted);
}

// Rule 15
fn trailers_go_upstream_without_those_that_steer(engine: EngineKind) {
    let body =
        format!("5\r\nhello\r\n0\r\nX-Sum: 1 2\r\n{STEERING}x-sum: \u{ff}\r\nEmpty:\r\n\r\n");
    let got = forwarded(engine, &(HEAD.to_string() + &body));
    assert_eq!(got.body, "hello");
    expect_trailers(&got);
}

// Rule 15
fn trailers_come_back_without_those_that_steer(engine: EngineKind) {
    let body =
        format!("5\r\nhello\r\n0\r\nX-Sum: 1 2\r\n{STEERING}x-sum: \u{ff}\r\nEmpty:\r\n\r\n");
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let upstream = Upstream::answering(&(head.to_string() + &body));
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for _ in 0..2 {
        let got = client.ask(&request("GET", "/", "TE: trailers\r\nConnection: TE\r\n", ""));
        assert_eq!(got.body, "hello");
        expect_trailers(&got);
    }
    assert_eq!(upstream.connections(), 1);
}

/// A chunked message whose head names some fields of one hop, and which has them as trailers.
const NAMING: &str = "Connection: x-hop, keep-alive\r\nConnection: X-HOP-2\r\n\
    Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\
    X-Hop: 1\r\nX-Sum: 1 2\r\nx-hop-2: 2\r\nX-HOP: 3\r\nx-sum: \u{ff}\r\nX-Hop-3:\r\n\r\n";

fn expect_trailers_of_naming(got: &Message) {
    let names: Vec<_> = got.trailers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((got.body.contains("hello"), names), (true, vec!["X-Sum", "x-sum", "X-Hop-3"]));
}

// Rules 15 and 19
fn trailers_that_connection_names_do_not_go_upstream(engine: EngineKind) {
    expect_trailers_of_naming(&forwarded(
        engine,
        &format!("POST / HTTP/1.1\r\nHost: a.example\r\n{NAMING}"),
    ));
    // What one request has named means nothing for the next one.
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.ask(&format!("POST / HTTP/1.1\r\nHost: a.example\r\n{NAMING}"));
    client.ask(&format!("{HEAD}0\r\nX-Hop: 1\r\n\r\n"));
    assert_eq!(upstream.last_request().trailers, [("X-Hop".to_string(), "1".to_string())]);
}

// Rules 15 and 19
fn trailers_that_connection_names_do_not_come_back(engine: EngineKind) {
    let upstream = Upstream::answering(&format!("HTTP/1.1 200 OK\r\n{NAMING}"));
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for _ in 0..2 {
        expect_trailers_of_naming(&client.ask(&get("/")));
    }
}

// Rules 15, 19 and 39
fn a_request_that_is_sent_again_still_drops_trailers_that_connection_names(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&get("/first"));
    let mut kept = listener.accept();
    kept.request();
    kept.send(&ok("first"));
    client.response();
    let wire = format!("PUT / HTTP/1.1\r\nHost: a.example\r\n{NAMING}");
    let body = wire.find("hello").expect("a body");
    client.send(&wire[..body]);
    kept.request_head().expect("a head");
    drop(kept);
    let mut fresh = listener.accept();
    client.send(&wire[body..]);
    expect_trailers_of_naming(&fresh.request());
    fresh.send(&ok("done"));
    assert_eq!(client.response().body, "done");
}

// Rules 14 and 36
fn a_chunked_body_may_come_in_any_pieces(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    let body = "5;a=b\r\nhello\r\nc\r\n, you there!\r\n0;c\r\nX-Sum: 1\r\n\r\n";
    let wire = HEAD.to_string() + body;
    client.send_byte_by_byte(&wire);
    assert_eq!(client.response().body, "POST / hello, you there!");
    for cut in HEAD.len()..wire.len() {
        client.send(&wire[..cut]);
        std::thread::yield_now();
        client.send(&wire[cut..]);
        assert_eq!(client.response().body, "POST / hello, you there!", "cut at {cut}");
    }
    let log = upstream.log();
    assert!(log.requests.iter().all(|(_, got)| got.trailers.len() == 1), "{:?}", log.requests);
}

// Rules 14 and 16
fn an_error_later_in_a_body_is_400_and_its_connection_is_dropped(engine: EngineKind) {
    let errors = [
        "x\r\n",
        "+5\r\nhello\r\n",
        "5\nhello\r\n",
        "5\r\nhello!\r\n",
        "0\r\nBad : x\r\n\r\n",
        "0\r\n\n",
    ];
    cases(errors, |error| {
        let listener = Listener::new();
        let balancer = Balancer::start(engine, &[listener.address()]);
        let mut client = balancer.client();
        client.send(&format!("{HEAD}5\r\nfirst\r\n"));
        let mut peer = listener.accept();
        peer.request_head().expect("a head");
        peer.expect_chunk("first");
        client.send(&(error.to_string() + &get("/evil")));
        expect_refusal(&mut client, &[400]);
        let (rest, end) = peer.rest();
        assert!(!rest.contains("0\r\n") && !rest.contains("evil"), "a clean end after {rest:?}");
        assert_ne!(end, End::Silence, "the upstream's connection stays open");

        let mut client = balancer.client();
        client.send(&get("/next"));
        let mut peer = listener.accept();
        assert_eq!(peer.request().target(), "/next");
        peer.send(&ok("fresh"));
        assert_eq!(client.response().body, "fresh");
    });
}

// Rules 16 and 34
fn an_error_in_a_body_already_being_answered_ends_both_sides(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&format!("{HEAD}5\r\nfirst\r\n"));
    let mut peer = listener.accept();
    peer.request_head().expect("a head");
    peer.expect_chunk("first");
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n");
    assert_eq!(client.response_head().expect("a head").status(), 200);
    client.expect_chunk("early");
    client.send(&("x\r\n".to_string() + &get("/evil")));
    let (rest, end) = client.rest();
    assert!(!rest.contains("0\r\n"), "a clean end after {rest:?}");
    assert_ne!(end, End::Silence, "the client's connection stays open");
    let (rest, end) = peer.rest();
    assert_eq!(rest, "");
    assert_ne!(end, End::Silence, "the upstream's connection stays open");
}

// Rule 14
fn sizes_whose_sum_overflows_harm_nobody(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(&format!("{HEAD}5\r\nhello\r\nFFFFFFFFFFFFFFFF\r\nhello"));
    assert_eq!(balancer.ask(&get("/")).status(), 200);
    drop(client);
    assert_eq!(balancer.ask(&get("/")).status(), 200);
}
