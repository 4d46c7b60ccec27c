//! Rules 4–7: the lines of a request's head, and `Host`.

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    lines_that_are_no_field_are_refused_wherever_they_stand,
    values_with_nul_cr_or_lf_are_refused,
    folded_lines_are_refused_and_so_is_a_first_line_that_begins_with_space,
    a_line_end_without_cr_is_refused_at_once,
    a_head_may_come_in_any_pieces,
    odd_but_valid_fields_pass,
    a_request_of_http_1_1_without_exactly_one_host_is_refused,
    hosts_that_are_no_host_and_port_are_refused,
    valid_hosts_go_upstream_as_they_came,
    a_request_of_http_1_0_without_host_gets_the_upstreams_own,
    the_upstreams_own_host_can_be_asked_for,
}

/// The line as the first one, and as the last.
fn at_both_places(line: &str) -> [String; 2] {
    [
        format!("GET / HTTP/1.1\r\n{line}\r\nHost: a.example\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: a.example\r\n{line}\r\n\r\n"),
    ]
}

// Rule 4
fn lines_that_are_no_field_are_refused_wherever_they_stand(engine: EngineKind) {
    let lines = [
        "NoColon",
        ": empty",
        ":",
        "Na me: x",
        "Name : x",
        "Name\t: x",
        "Na\0me: x",
        "Na\u{e9}me: x",
        "N(a): x",
        "N@: x",
        "N/a: x",
        "\"N\": x",
        "[N]: x",
        "N,a: x",
        "N;a: x",
        "N=a: x",
        "N\u{7f}: x",
        "N\u{1}: x",
        "{N}: x",
        "N\\: x",
        "Content-Length : 5",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\u{b}: chunked",
        "Host : b.example",
    ];
    cases(lines, |line| {
        for wire in at_both_places(line) {
            refused(engine, &wire, &[400]);
        }
    });
}

// Rule 5
fn values_with_nul_cr_or_lf_are_refused(engine: EngineKind) {
    let lines = [
        "X: a\0b",
        "X: \0",
        "X:\0",
        "X: a\rb",
        "X: \r",
        "X:\r",
        "X: a\r",
        "X: a\nb",
        "X: a\nY: b",
        "X: a\n",
        "X: a\n\r",
        "X: a\r\r",
        "X: a\rTransfer-Encoding: chunked",
        "X: a\n\nGET /evil HTTP/1.1",
    ];
    cases(lines, |line| {
        for wire in at_both_places(line) {
            refused(engine, &wire, &[400]);
        }
    });
}

// Rule 5
fn folded_lines_are_refused_and_so_is_a_first_line_that_begins_with_space(engine: EngineKind) {
    let heads = [
        " X: a\r\nHost: a.example",
        "\tX: a\r\nHost: a.example",
        " Host: a.example",
        " \r\nHost: a.example",
        "Host: a.example\r\nX: a\r\n b",
        "Host: a.example\r\nX: a\r\n\tb",
        "Host: a.example\r\nX: a\r\n ",
        "Host: a.example\r\nX:\r\n b",
        "Host:\r\n a.example",
        "Host: a.example\r\n Transfer-Encoding: chunked",
        "Host: a.example\r\nTransfer-Encoding:\r\n chunked",
        "Host: a.example\r\nContent-Length: 1\r\n 0",
    ];
    cases(heads, |head| {
        refused(engine, &format!("GET / HTTP/1.1\r\n{head}\r\n\r\n"), &[400]);
    });
}

// Rule 6. Nothing that looks like the end of a head may be waited for.
fn a_line_end_without_cr_is_refused_at_once(engine: EngineKind) {
    let heads = [
        "GET / HTTP/1.1\nHost: a.example\n\n",
        "GET / HTTP/1.1\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\n",
        "GET / HTTP/1.1\r\nHost: a.example\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\n\n",
        "GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\r\n",
        "GET / HTTP/1.1\rHost: a.example\r\r",
        "GET / HTTP/1.1\n\r\n",
    ];
    cases(heads, |head| {
        refused(engine, head, &[400]);
    });
}

// Rules 4–6, the other way round: how the bytes are cut means nothing.
fn a_head_may_come_in_any_pieces(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    let wire = post("/slow", "hello");
    client.send_byte_by_byte(&wire);
    assert_eq!(client.response().body, "POST /slow hello");
    for cut in 1..wire.len() {
        client.send(&wire[..cut]);
        std::thread::yield_now();
        client.send(&wire[cut..]);
        assert_eq!(client.response().body, "POST /slow hello", "cut at {cut}");
    }
}

// Rules 4, 5 and 24
fn odd_but_valid_fields_pass(engine: EngineKind) {
    let rows = [
        ("!#$%&'*+-.^_`|~09aZ: x", "!#$%&'*+-.^_`|~09aZ", "x"),
        ("X-Empty:", "X-Empty", ""),
        ("X-Spaces: \t ", "X-Spaces", ""),
        ("X-Tight:x", "X-Tight", "x"),
        ("X-Around: \t x \t", "X-Around", "x"),
        ("X-Inside: a \t b", "X-Inside", "a \t b"),
        ("X-Colons: a:b::c", "X-Colons", "a:b::c"),
        ("X-Bytes: \u{80}\u{ff}\u{a0}", "X-Bytes", "\u{80}\u{ff}\u{a0}"),
        ("X_Under: x", "X_Under", "x"),
        ("1: x", "1", "x"),
    ];
    cases(rows, |&(line, name, value)| {
        for wire in at_both_places(line) {
            let got = forwarded(engine, &wire);
            assert!(got.fields.contains(&(name.to_string(), value.to_string())), "{got:?}");
        }
    });
}

// Rule 7
fn a_request_of_http_1_1_without_exactly_one_host_is_refused(engine: EngineKind) {
    let fields = [
        "",
        "X: y\r\n",
        "Host: a.example\r\nHost: a.example\r\n",
        "Host: a.example\r\nHost: b.example\r\n",
        "Host: a.example\r\nX: y\r\nhOST: b.example\r\n",
        "Host:\r\nHost: a.example\r\n",
    ];
    cases(fields, |fields| {
        refused(engine, &format!("GET / HTTP/1.1\r\n{fields}\r\n"), &[400]);
    });
    let two = "GET / HTTP/1.0\r\nHost: a.example\r\nHost: b.example\r\n\r\n";
    refused(engine, two, &[400]);
}

// Rule 7
fn hosts_that_are_no_host_and_port_are_refused(engine: EngineKind) {
    let hosts = [
        "a b",
        "a,b",
        "a.example, b.example",
        "a/b",
        "a.example/",
        "http://a.example",
        "user@a.example",
        "a?b",
        "a#b",
        "a:b",
        "a:80:80",
        "a:-80",
        "a:+80",
        "a:80x",
        "a: 80",
        "a\\b",
        "[::1",
        "::1]",
        "::1",
        "[::1]x",
        "[::1]:x",
        "[]",
        "[a b]",
        "a\tb",
        "\"a\"",
        "<a>",
        "a\u{7f}",
        "a^b",
        "a|b",
        "a{b}",
    ];
    cases(hosts, |host| {
        refused(engine, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), &[400]);
    });
}

// Rules 7 and 22
fn valid_hosts_go_upstream_as_they_came(engine: EngineKind) {
    let hosts = [
        "a",
        "a:80",
        "a:0080",
        "A.Example",
        "a_b.example",
        "a-b.example.",
        "127.0.0.1:1",
        "[::1]",
        "[::1]:8080",
        "[2001:DB8::1]:80",
        "xn--bcher-kva.example",
        "%41.example",
        "",
    ];
    cases(hosts, |&host| {
        let wire = format!("GET / HTTP/1.1\r\nX: y\r\nhOsT: {host}\r\n\r\n");
        assert_eq!(forwarded(engine, &wire).field("Host"), Some(host));
    });
}

// Rule 7
fn a_request_of_http_1_0_without_host_gets_the_upstreams_own(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    assert_eq!(balancer.ask("GET /old HTTP/1.0\r\n\r\n").body, "GET /old");
    let own = upstream.address().to_string();
    assert_eq!(upstream.only_request().field("Host"), Some(own.as_str()));

    let named = forwarded(engine, "GET /old HTTP/1.0\r\nHost: a.example\r\n\r\n");
    assert_eq!(named.field("Host"), Some("a.example"));
}

// Rule 22
fn the_upstreams_own_host_can_be_asked_for(engine: EngineKind) {
    let upstream = Upstream::echo();
    let addresses = [upstream.address()];
    let balancer = Balancer::start_with(engine, &addresses, |c| c.forwarding.upstream_host = true);
    balancer.ask(&get("/"));
    let own = upstream.address().to_string();
    assert_eq!(upstream.only_request().field("Host"), Some(own.as_str()));
}
