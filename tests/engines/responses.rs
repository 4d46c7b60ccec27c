//! Rules 25–29 and 32: where a response ends, and what an upstream's mistakes may cost.

use std::time::{Duration, Instant};

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    responses_without_a_body_have_none_whatever_their_fields_say,
    an_answer_to_head_has_one_framing_at_most,
    bytes_behind_a_response_without_a_body_are_nobodys_answer,
    malformed_responses_are_502_and_their_connection_is_dropped,
    a_status_line_without_a_reason_leaves_with_its_space,
    white_space_behind_the_size_of_an_upstreams_chunk_is_dropped,
    an_answer_that_is_too_large_is_502_and_names_the_flag,
    equal_lengths_are_collapsed_into_one,
    a_length_leaves_as_the_number_it_is,
    a_list_of_equal_lengths_is_collapsed_or_refused,
    a_response_may_come_in_any_pieces,
    a_close_delimited_answer_becomes_chunked_and_the_connection_lives,
    a_close_delimited_answer_that_is_reset_never_looks_whole,
    an_upstream_that_ends_before_its_answer_began_is_502,
    an_answer_that_ends_too_soon_never_looks_whole,
    an_answer_with_broken_chunks_never_looks_whole,
    garbage_behind_an_answer_is_nobodys_answer,
    garbage_on_an_idle_connection_is_nobodys_answer,
    upstream_connections_are_reused,
    an_upstream_that_says_close_is_not_asked_again,
    a_client_that_says_close_is_told_and_closed,
    an_upstream_that_writes_head_and_body_apart_is_not_made_to_wait,
    bytes_behind_a_request_that_says_close_do_not_cost_its_answer,
    nothing_behind_a_request_that_says_close_is_a_request,
}

/// One client asks, gets what it should, and asks again on the same connection; whatever the first
/// answer was, the second must be the right one.
fn then_a_right_one(
    engine: EngineKind,
    method: &str,
    first: &str,
    check: impl Fn(Message),
) -> usize {
    let first = first.to_string();
    let upstream = Upstream::new(move |peer| {
        if peer.number == 0 {
            peer.next_request();
            peer.send(&first);
        }
        peer.echo();
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(&request(method, "/1", "", ""));
    let answer = client.response_to(method);
    let closes = answer.says_close();
    check(answer);
    if closes {
        client.expect_fin();
        client = balancer.client();
    }
    assert_eq!(client.ask(&get("/2")).body, "GET /2", "the next answer");
    upstream.connections()
}

// Rule 25
fn responses_without_a_body_have_none_whatever_their_fields_say(engine: EngineKind) {
    let rows = [
        ("HEAD", 200, "Content-Length: 100\r\n"),
        ("HEAD", 200, "Transfer-Encoding: chunked\r\n"),
        ("HEAD", 404, "Content-Length: 100\r\n"),
        ("HEAD", 200, ""),
        ("GET", 304, "Content-Length: 100\r\n"),
        ("GET", 304, "Transfer-Encoding: chunked\r\n"),
        ("GET", 304, "ETag: \"x\"\r\n"),
        ("GET", 204, "Content-Length: 5\r\n"),
        ("GET", 204, "Content-Length: 0\r\n"),
        ("GET", 204, "Transfer-Encoding: chunked\r\n"),
        ("GET", 204, ""),
        ("HEAD", 204, "Content-Length: 5\r\n"),
        ("HEAD", 200, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("HEAD", 200, "Transfer-Encoding: identity\r\n"),
        ("HEAD", 200, "Transfer-Encoding: gzip, chunked\r\n"),
        ("HEAD", 200, "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("HEAD", 200, "Content-Length: x\r\n"),
        ("GET", 304, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("GET", 304, "Transfer-Encoding: identity\r\n"),
        ("GET", 304, "Content-Length: -5\r\n"),
        ("GET", 204, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("GET", 204, "Transfer-Encoding: identity\r\n"),
    ];
    cases(rows, |&(method, status, fields)| {
        let first = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
        let connections = then_a_right_one(engine, method, &first, |answer| {
            assert_eq!(answer.status(), status);
            if method == "HEAD" && fields == "Content-Length: 100\r\n" {
                assert_eq!(answer.field("Content-Length"), Some("100"));
            }
        });
        assert_eq!(connections, 1, "the connection was whole and is worth keeping");
    });
}

// Rule 25
fn an_answer_to_head_has_one_framing_at_most(engine: EngineKind) {
    let (length, chunked) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    let rows = [
        (length.to_string(), vec!["5"], vec![]),
        (chunked.to_string(), vec![], vec!["chunked"]),
        (format!("{length}{chunked}"), vec![], vec![]),
        (format!("{chunked}{length}"), vec![], vec![]),
        (format!("{length}{length}"), vec!["5"], vec![]),
        (format!("{length}Content-Length: 6\r\n"), vec![], vec![]),
        ("Content-Length: x\r\n".to_string(), vec![], vec![]),
        ("Content-Length: 5, 05\r\n".to_string(), vec!["5"], vec![]),
        ("Transfer-Encoding: identity\r\n".to_string(), vec![], vec![]),
    ];
    cases(rows, |(fields, lengths, codings)| {
        let upstream = Upstream::answering(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        for _ in 0..2 {
            client.send(&request("HEAD", "/", "", ""));
            let got = client.response_to("HEAD");
            assert_eq!(got.status(), 200);
            assert_eq!(got.all("Content-Length"), *lengths);
            assert_eq!(got.all("Transfer-Encoding"), *codings);
        }
    });
}

// Rules 25 and 29
fn bytes_behind_a_response_without_a_body_are_nobodys_answer(engine: EngineKind) {
    let evil = ok("evil");
    let rows = [
        ("HEAD", response("200 OK", "", "hello")),
        ("HEAD", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}")),
        ("GET", "HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\nhello".to_string()),
        ("GET", format!("HTTP/1.1 304 X\r\nContent-Length: {}\r\n\r\n{evil}", evil.len())),
        ("GET", format!("HTTP/1.1 204 X\r\n\r\n{evil}")),
    ];
    cases(rows, |(method, first)| {
        assert_eq!(then_a_right_one(engine, method, first, |_| {}), 2, "connections");
    });
}

// Rules 6 and 26
fn malformed_responses_are_502_and_their_connection_is_dropped(engine: EngineKind) {
    let framed = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\nhello");
    let lined = |line: &str| format!("{line}\r\nContent-Length: 5\r\n\r\nhello");
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let rows = [
        // framing
        framed("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        framed("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        framed("Content-Length: 5\r\nContent-Length: 6\r\n"),
        framed("Content-Length: 5\r\nX: y\r\ncontent-length: 0\r\n"),
        framed("Content-Length: 5, 6\r\n"),
        framed("Content-Length: +5\r\n"),
        framed("Content-Length: -5\r\n"),
        framed("Content-Length: 0x5\r\n"),
        framed("Content-Length: 5 5\r\n"),
        framed("Content-Length:\r\n"),
        framed("Content-Length: a\r\n"),
        framed("Content-Length: 18446744073709551616\r\n"),
        framed("Transfer-Encoding: xchunked\r\n"),
        framed("Transfer-Encoding: identity\r\n"),
        framed("Transfer-Encoding: chunked, chunked\r\n"),
        framed("Transfer-Encoding: chunked, gzip\r\n"),
        framed("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        framed("Transfer-Encoding:\r\n"),
        format!("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
        // status lines
        lined("HTTP/1.1 abc OK"),
        lined("HTTP/1.1 20 OK"),
        lined("HTTP/1.1 2000 OK"),
        lined("HTTP/1.1 +20 OK"),
        lined("HTTP/1.1 200\tOK"),
        lined("HTTP/1.1  200 OK"),
        lined("HTTP/1.1200 OK"),
        lined("HTTP/2.0 200 OK"),
        lined("HTTP/0.9 200 OK"),
        lined("http/1.1 200 OK"),
        lined("HTP/1.1 200 OK"),
        lined("200 OK"),
        lined(" HTTP/1.1 200 OK"),
        lined("HTTP/1.1 200 O\0K"),
        lined("HTTP/1.1 200 O\rK"),
        lined("SSH-2.0-OpenSSH_9.6"),
        "garbage".repeat(10) + "\r\n\r\n",
        // fields
        framed("NoColon\r\nContent-Length: 5\r\n"),
        framed("Name : x\r\nContent-Length: 5\r\n"),
        framed(": x\r\nContent-Length: 5\r\n"),
        framed("Na me: x\r\nContent-Length: 5\r\n"),
        framed("X: a\0b\r\nContent-Length: 5\r\n"),
        framed("X: a\rb\r\nContent-Length: 5\r\n"),
        framed("X: a\nContent-Length: 5\r\n"),
        framed("Content-Length : 5\r\n"),
        framed(" X: y\r\nContent-Length: 5\r\n"),
        framed("X: a\r\n b\r\nContent-Length: 5\r\n"),
        // line ends
        "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello".to_string(),
        "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello".to_string(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\nhello".to_string(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello".to_string(),
    ];
    cases(rows, |first| {
        let connections = then_a_right_one(engine, "GET", first, |answer| {
            assert_eq!(answer.status(), 502);
            assert!(!answer.body.contains("hello"), "{answer:?}");
        });
        assert_eq!(connections, 2, "a retry, or a connection that was used again");
    });
}

// Rule 26
fn a_status_line_without_a_reason_leaves_with_its_space(engine: EngineKind) {
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let got = relayed(engine, &format!("{version} 200\r\nContent-Length: 5\r\n\r\nhello"));
        assert_eq!((got.first.as_str(), got.body.as_str()), ("HTTP/1.1 200 ", "hello"));
    }
}

// Rules 14 and 26
fn white_space_behind_the_size_of_an_upstreams_chunk_is_dropped(engine: EngineKind) {
    let bodies = [
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t  \r\nhello\r\n0    \r\n\r\n",
        "5 ;a=b\r\nhello\r\n0\t;c\r\nX-Sum: 1\r\n\r\n",
    ];
    cases(bodies, |body| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let upstream = Upstream::answering(&format!("{head}{body}"));
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        for _ in 0..2 {
            client.send(&get("/"));
            assert_eq!(client.response_head().expect("a head").status(), 200);
            client.expect("5\r\nhello\r\n0\r\n");
            client.expect(if body.contains("X-Sum") { "X-Sum: 1\r\n\r\n" } else { "\r\n" });
        }
        assert_eq!(upstream.connections(), 1);
    });
}

// Rules 8 and 26
fn an_answer_that_is_too_large_is_502_and_names_the_flag(engine: EngineKind) {
    let long = "x".repeat(17 * 1024);
    let rows = [
        (format!("HTTP/1.1 200 {long}\r\nContent-Length: 0\r\n\r\n"), "--max-head"),
        (response("200 OK", &format!("X: {long}\r\n"), ""), "--max-head"),
        (response("200 OK", &"X: y\r\n".repeat(101), ""), "--max-fields"),
    ];
    cases(rows, |(wire, flag)| {
        let got = relayed(engine, wire);
        assert!(got.status() == 502 && got.body.contains(flag), "{got:?}");
    });
}

// Rule 26
fn a_length_leaves_as_the_number_it_is(engine: EngineKind) {
    let zeros = format!("{}10", "0".repeat(2_000));
    for length in ["10", "0010", "010, 10", zeros.as_str()] {
        let wire = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n0123456789");
        let got = relayed(engine, &wire);
        assert_eq!((got.all("Content-Length"), got.body.as_str()), (vec!["10"], "0123456789"));
    }
}

// Rule 26
fn equal_lengths_are_collapsed_into_one(engine: EngineKind) {
    let wire = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\ncontent-length: 5\r\n\r\nhello";
    let got = relayed(engine, wire);
    assert_eq!((got.status(), got.body.as_str()), (200, "hello"));
    assert_eq!(got.field("Content-Length"), Some("5"));
}

// Rule 26
fn a_list_of_equal_lengths_is_collapsed_or_refused(engine: EngineKind) {
    let got = relayed(engine, "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello");
    let is_collapsed = got.status() == 200 && got.field("Content-Length") == Some("5");
    assert!(got.status() == 502 || is_collapsed, "{got:?}");
}

// Rule 36
fn a_response_may_come_in_any_pieces(engine: EngineKind) {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x\r\nhello\r\n2\r\n, \r\n5\r\nthere\r\n0\r\nX-Sum: 1\r\n\r\n";
    cases([ok("hello, there").as_str(), chunked], |wire| {
        let listener = Listener::new();
        let balancer = Balancer::start(engine, &[listener.address()]);
        let mut client = balancer.client();
        client.send(&get("/"));
        let mut peer = listener.accept();
        peer.request();
        peer.send_byte_by_byte(wire);
        assert_eq!(client.response().body, "hello, there");
        for cut in 1..wire.len() {
            client.send(&get("/"));
            peer.request();
            peer.send(&wire[..cut]);
            std::thread::yield_now();
            peer.send(&wire[cut..]);
            assert_eq!(client.response().body, "hello, there", "cut at {cut}");
        }
    });
}

// Rule 27
fn a_close_delimited_answer_becomes_chunked_and_the_connection_lives(engine: EngineKind) {
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        for body in ["hello", "", "0\r\n\r\n"] {
            let answer = format!("{version} 200 OK\r\nX: y\r\n\r\n{body}");
            let upstream = Upstream::new(move |peer| {
                peer.next_request();
                peer.send(&answer);
            });
            let balancer = Balancer::start(engine, &[upstream.address()]);
            let mut client = balancer.client();
            for number in 1..=3 {
                let got = client.ask(&get("/"));
                assert_eq!((got.framing, got.body.as_str()), (Framing::Chunked, body));
                assert!(!got.says_close(), "{got:?}");
                assert_eq!(upstream.connections(), number);
            }
        }
    }
}

// Rule 27
fn a_close_delimited_answer_that_is_reset_never_looks_whole(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let wires = [get("/"), "GET / HTTP/1.0\r\n\r\n".to_string()];
    for wire in wires {
        let mut client = balancer.client();
        client.send(&wire);
        let mut peer = listener.accept();
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\nhello");
        assert_eq!(client.response_head().expect("a head").status(), 200);
        if wire.contains("HTTP/1.1") {
            client.expect_chunk("hello");
        } else {
            client.expect("hello");
        }
        peer.reset();
        let (rest, end) = client.rest();
        assert_eq!(rest, "");
        if wire.contains("HTTP/1.1") {
            assert_ne!(end, End::Silence);
        } else {
            assert_eq!(end, End::Reset, "an orderly end would be that of a whole answer");
        }
    }
}

// Rule 28
fn an_upstream_that_ends_before_its_answer_began_is_502(engine: EngineKind) {
    let beginnings = ["", "H", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"];
    for by_reset in [false, true] {
        cases(beginnings, |&beginning| {
            let upstream = Upstream::new(move |peer| {
                peer.next_request();
                peer.send(beginning);
                if by_reset {
                    peer.close_by_reset();
                }
            });
            let balancer = Balancer::start(engine, &[upstream.address()]);
            assert_eq!(balancer.ask(&post("/", "hello")).status(), 502);
            assert_eq!(balancer.ask(&get("/")).status(), 502);
            let log = upstream.log();
            let posts =
                log.requests.iter().filter(|(_, got)| got.first.starts_with("POST")).count();
            assert_eq!(posts, 1, "deliveries of a POST");
        });
    }
}

// Rule 28
fn an_answer_that_ends_too_soon_never_looks_whole(engine: EngineKind) {
    let rows = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
    ];
    cases(rows, |answer| expect_never_whole(engine, answer));
}

// Rules 14, 15 and 28
fn an_answer_with_broken_chunks_never_looks_whole(engine: EngineKind) {
    let bodies = [
        "x\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 0\r\nhello\r\n0\r\n\r\n",
        "5 x\r\nhello\r\n0\r\n\r\n",
        "5\u{b}\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\r\n-0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nBad : x\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\nb\r\n\r\n",
        "5\r\nhello\r\n00000000000000000\r\n\r\n",
    ];
    cases(bodies, |body| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        expect_never_whole(engine, &format!("{head}{body}"));
    });
}

/// With this answer and then nothing more, clients of both versions get a 502, or a part of it and an
/// end that is not that of a whole answer.
#[track_caller]
fn expect_never_whole(engine: EngineKind, answer: &str) {
    let answer = answer.to_string();
    let upstream = Upstream::new(move |peer| {
        peer.next_request();
        peer.send(&answer);
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut client = balancer.client();
        client.send(&format!("POST / {version}\r\nHost: a.example\r\n\r\n"));
        match client.try_response_to("POST") {
            Ok(got) => assert_eq!(got.status(), 502, "to {version}: {got:?}"),
            Err(broken) => assert_ne!(broken.end, End::Silence, "to {version}: {broken:?}"),
        }
    }
    assert_eq!(upstream.deliveries(), 2);
}

// Rule 29
fn garbage_behind_an_answer_is_nobodys_answer(engine: EngineKind) {
    let evil = ok("evil");
    let rows = [
        ok("hello") + &evil,
        ok("hello") + "x",
        ok("hello") + "\r\n",
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{evil}"
        ),
    ];
    cases(rows, |first| {
        let connections =
            then_a_right_one(engine, "GET", first, |answer| assert_eq!(answer.body, "hello"));
        assert_eq!(connections, 2, "connections");
    });
}

// Rule 29
fn garbage_on_an_idle_connection_is_nobodys_answer(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    // They stay open: only the bytes that wait there speak against them.
    let mut peers = Vec::new();
    for number in 0..5 {
        client.send(&get("/"));
        let mut peer = listener.accept();
        peer.request();
        peer.send(&ok(&number.to_string()));
        assert_eq!(client.response().body, number.to_string());
        peer.try_send(&ok("evil"));
        peers.push(peer);
    }
}

// Rule 39, where it begins
fn upstream_connections_are_reused(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for number in 0..10 {
        assert_eq!(client.ask(&post("/kept", "x")).status(), 200);
        assert_eq!(balancer.ask(&get("/new")).status(), 200);
        assert_eq!(upstream.deliveries(), 2 * number + 2);
    }
    assert_eq!(upstream.connections(), 1);
}

// Rule 32
fn an_upstream_that_says_close_is_not_asked_again(engine: EngineKind) {
    for value in ["close", "Close", "keep-alive, close", "x, CLOSE"] {
        let answer = response("200 OK", &format!("Connection: {value}\r\n"), "hello");
        let upstream = Upstream::answering(&answer);
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        for number in 1..=3 {
            let got = client.ask(&get("/"));
            assert_eq!((got.body.as_str(), got.says_close()), ("hello", false));
            assert_eq!(upstream.connections(), number, "after {value:?}");
        }
    }
}

// Rule 32
fn a_client_that_says_close_is_told_and_closed(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    for value in ["close", "CLOSE", "keep-alive, close", "x , close"] {
        let mut client = balancer.client();
        let got = client.ask(&request("GET", "/", &format!("Connection: {value}\r\n"), ""));
        assert_eq!((got.status(), got.says_close()), (200, true), "after {value:?}");
        client.expect_fin();
    }
    assert_eq!(upstream.connections(), 1, "the upstream's connection outlives its clients");
}

// The system puts off an acknowledgement for 40 ms, and an upstream that has not turned Nagle's
// algorithm off waits for it: 25 answers would take a second.
fn an_upstream_that_writes_head_and_body_apart_is_not_made_to_wait(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        peer.stream().set_nodelay(false).expect("Nagle's algorithm");
        while peer.next_request().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
            peer.send("hello");
        }
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    let begin = Instant::now();
    for _ in 0..25 {
        assert_eq!(client.ask(&get("/")).body, "hello");
    }
    let took = begin.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_eq!(upstream.connections(), 1);
}

// Some clients send a line end behind a body, and nobody reads it here.
fn bytes_behind_a_request_that_says_close_do_not_cost_its_answer(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&request("POST", "/", "Connection: close\r\nContent-Length: 5\r\n", "hello"));
    let mut peer = listener.accept();
    peer.request();
    client.send("\r\n");
    peer.send(&ok("an answer"));
    assert_eq!(client.response().body, "an answer");
}

// Rules 17 and 32
fn nothing_behind_a_request_that_says_close_is_a_request(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(&(request("GET", "/last", "Connection: close\r\n", "") + &get("/evil")));
    assert_eq!(client.response().body, "GET /last");
    client.expect_fin();
    balancer.stop();
    assert_eq!(upstream.only_request().target(), "/last");
}
