//! Rules 1–3 and 6: method, target, version, and what may stand before them.

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    every_method_that_is_a_token_goes_upstream,
    a_method_that_is_no_token_is_refused,
    connect_is_never_a_tunnel,
    trace_is_refused_and_the_connection_lives,
    paths_and_queries_go_upstream_byte_for_byte,
    an_absolute_target_becomes_a_path_and_its_authority_the_host,
    an_absolute_target_without_a_usable_authority_is_refused,
    an_absolute_target_does_not_excuse_a_missing_or_second_host,
    an_asterisk_is_for_options_alone,
    targets_of_no_form_are_refused,
    both_minor_versions_are_served,
    versions_that_are_not_exactly_ours_are_refused,
    a_preface_of_http_2_is_refused,
    one_empty_line_before_a_request_is_skipped,
    more_than_one_empty_line_before_a_request_is_refused,
}

// Rule 1
fn every_method_that_is_a_token_goes_upstream(engine: EngineKind) {
    let methods = [
        "GET",
        "POST",
        "PUT",
        "DELETE",
        "PATCH",
        "OPTIONS",
        "PROPFIND",
        "VERSION-CONTROL",
        "get",
        "X",
        "!#$%&'*+-.^_`|~09aZ",
        "CONNECTED",
        "GETGETGETGETGETGETGETGETGETGETGETGET",
    ];
    cases(methods, |method| {
        let got = forwarded(engine, &request(method, "/m", "", ""));
        assert_eq!(got.first, format!("{method} /m HTTP/1.1"));
    });
}

// Rule 1
fn a_method_that_is_no_token_is_refused(engine: EngineKind) {
    let methods = [
        "", "G@T", "G(T", "G:T", "G/T", "G,T", "\"GET\"", "[GET]", "G{T", "G\\T", "G\0T", "G\tT",
        "\tGET", "GET\t", "G\u{7f}T", "G\u{e9}T", "G\rT", "GE\u{1}",
    ];
    cases(methods, |method| {
        refused(engine, &request(method, "/", "", ""), &[400]);
    });
}

// Rule 1
fn connect_is_never_a_tunnel(engine: EngineKind) {
    let targets = ["a.example:443", "a.example", "/", "*", "http://a.example/"];
    cases(targets, |target| {
        let upstream = Upstream::echo();
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        client.send(&request("CONNECT", target, "", ""));
        let answer = client.response();
        assert_eq!(answer.status(), 405);
        assert!(answer.has("Allow"), "{answer:?}");
        assert!(!answer.list("Allow").contains(&"connect".to_string()), "{answer:?}");
        assert_eq!(upstream.connections(), 0);
    });
}

// Rules 1, 9 and 21
fn trace_is_refused_and_the_connection_lives(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for fields in ["", "Max-Forwards: 0\r\n", "Max-Forwards: 5\r\n"] {
        let answer = client.ask(&request("TRACE", "/", fields, ""));
        assert_eq!(answer.status(), 405);
        assert!(answer.has("Allow"), "{answer:?}");
    }
    assert_eq!(client.ask(&get("/after")).body, "GET /after");
    assert_eq!(upstream.deliveries(), 1);
}

// Rule 2
fn paths_and_queries_go_upstream_byte_for_byte(engine: EngineKind) {
    let targets = [
        "/",
        "/?",
        "//",
        "//a//b",
        "/a/../b/./c",
        "/..;/x",
        "/%2e%2E/%2F%2f",
        "/%00%zz%",
        "/a?b?c=/../",
        "/a;b=c,d",
        "/\u{80}\u{c3}\u{a9}\u{ff}",
        "/?q=\u{ff}",
        "/~!$&'()*+,;=:@-._",
        "/a|b^c`d{e}[f]\"<g>\\h",
    ];
    cases(targets, |target| {
        let got = forwarded(engine, &get(target));
        assert_eq!(got.first, format!("GET {target} HTTP/1.1"));
    });
}

// Rule 2
fn an_absolute_target_becomes_a_path_and_its_authority_the_host(engine: EngineKind) {
    let rows = [
        ("GET", "http://b.example:8080/p?q", "/p?q", "b.example:8080"),
        ("GET", "http://b.example/", "/", "b.example"),
        ("GET", "http://b.example", "/", "b.example"),
        ("GET", "http://b.example?q=1", "/?q=1", "b.example"),
        ("GET", "HTTP://B.Example/P", "/P", "B.Example"),
        ("POST", "http://[::1]:80//x", "//x", "[::1]:80"),
        ("OPTIONS", "http://b.example/", "/", "b.example"),
        ("OPTIONS", "http://b.example", "*", "b.example"), // RFC 9112 §3.2.4
    ];
    cases(rows, |&(method, target, path, host)| {
        let got = forwarded(engine, &request(method, target, "", ""));
        assert_eq!((got.target(), got.field("Host")), (path, Some(host)));
        let old = format!("{method} {target} HTTP/1.0\r\n\r\n");
        let got = forwarded(engine, &old);
        assert_eq!((got.target(), got.field("Host")), (path, Some(host)), "from HTTP/1.0");
    });
}

// Rule 2
fn an_absolute_target_without_a_usable_authority_is_refused(engine: EngineKind) {
    let targets = [
        "http://",
        "http:///p",
        "http://?q",
        "http:/p",
        "http:b.example/p",
        "://b.example/",
        "http://b.example:x/",
        "http://b c/",
        "http://user@b.example/",
        "http://b.example:80:80/",
        "http://[::1/",
        "http://b\u{7f}.example/",
    ];
    cases(targets, |target| {
        refused(engine, &get(target), &[400]);
    });
}

// Rules 2 and 7
fn an_absolute_target_does_not_excuse_a_missing_or_second_host(engine: EngineKind) {
    let fields = ["", "Host: b.example\r\nHost: b.example\r\n", "Host: b.example/\r\n"];
    cases(fields, |fields| {
        let wire = format!("GET http://b.example/ HTTP/1.1\r\n{fields}\r\n");
        refused(engine, &wire, &[400]);
    });
}

// Rule 2
fn an_asterisk_is_for_options_alone(engine: EngineKind) {
    assert_eq!(forwarded(engine, &request("OPTIONS", "*", "", "")).first, "OPTIONS * HTTP/1.1");
    cases(["GET *", "POST *", "options *", "OPTIONS **", "OPTIONS */", "OPTIONS *?q"], |line| {
        refused(engine, &format!("{line} HTTP/1.1\r\nHost: a.example\r\n\r\n"), &[400]);
    });
}

// Rule 2
fn targets_of_no_form_are_refused(engine: EngineKind) {
    let targets = [
        "",
        " /",
        "/ ",
        "/a b",
        "/\tb",
        "\t/",
        "/a\0b",
        "/a\u{1}b",
        "/a\u{b}b",
        "/a\u{c}b",
        "/a\u{1f}b",
        "/a\u{7f}b",
        "/a\rb",
        "path",
        "a.example:80",
        "?q",
        "\u{ff}",
        "\\path",
        "../a",
    ];
    cases(targets, |target| {
        refused(engine, &get(target), &[400]);
    });
}

// Rules 3 and 31
fn both_minor_versions_are_served(engine: EngineKind) {
    cases(["HTTP/1.1", "HTTP/1.0"], |version| {
        let got = forwarded(engine, &format!("GET /v {version}\r\nHost: a.example\r\n\r\n"));
        assert_eq!(got.first, "GET /v HTTP/1.1");
    });
}

// Rule 3
fn versions_that_are_not_exactly_ours_are_refused(engine: EngineKind) {
    let rows: [(&str, &[u16]); 25] = [
        ("GET /", &[400]),
        ("GET / ", &[400]),
        ("GET", &[400]),
        ("GET / http/1.1", &[400]),
        ("GET / Http/1.1", &[400]),
        ("GET / HTTp/1.1", &[400]),
        ("GET / HTTP/2.0", &[505]),
        ("GET / HTTP/3.0", &[505]),
        ("GET / HTTP/9.9", &[505]),
        ("GET / HTTP/0.9", &[400, 505]),
        ("GET / HTTP/1.2", &[400, 505]),
        ("GET / HTTP/1.9", &[400, 505]),
        ("GET / HTTP/2", &[400, 505]),
        ("GET / HTTP/1", &[400]),
        ("GET / HTTP/1.", &[400]),
        ("GET / HTTP/.1", &[400]),
        ("GET / HTTP/1.10", &[400, 505]),
        ("GET / HTTP/01.1", &[400, 505]),
        ("GET / HTTP/+1.1", &[400]),
        ("GET / HTTP/1,1", &[400]),
        ("GET / HTTP/1.1x", &[400]),
        ("GET / HTTP/1.1 ", &[400]),
        ("GET / HTTP/ 1.1", &[400]),
        ("GET / HTTP1.1", &[400]),
        ("GET / ICAP/1.1", &[400]),
    ];
    cases(rows, |&(line, statuses)| {
        refused(engine, &format!("{line}\r\nHost: a.example\r\n\r\n"), statuses);
    });
}

// Rule 3
fn a_preface_of_http_2_is_refused(engine: EngineKind) {
    refused(engine, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 505]);
}

// Rule 6
fn one_empty_line_before_a_request_is_skipped(engine: EngineKind) {
    assert_eq!(forwarded(engine, &format!("\r\n{}", get("/first"))).target(), "/first");

    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    assert_eq!(client.ask(&(post("/1", "hello") + "\r\n")).body, "POST /1 hello");
    assert_eq!(client.ask(&get("/2")).body, "GET /2", "on a connection that was kept");
    client.send("\r");
    client.send("\n");
    assert_eq!(client.ask(&get("/3")).body, "GET /3", "when it comes in parts");
}

// Rule 6
fn more_than_one_empty_line_before_a_request_is_refused(engine: EngineKind) {
    cases(
        ["\r\n\r\n", "\r\n\r\n\r\n\r\n", "\n", "\n\n", "\r\n\n", "\r", " \r\n", "\0"],
        |before| {
            refused(engine, &format!("{before}{}", get("/")), &[400]);
        },
    );
}
