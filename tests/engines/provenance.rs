//! Rules 20 and 21: what is told about the way a message took.

use balancebeam::config::{Config, EngineKind};

use crate::support::*;

on_each_engine! {
    the_peers_address_is_appended_to_x_forwarded_for,
    an_untrusted_peer_cannot_say_which_scheme_or_host_was_asked,
    a_trusted_peer_can_say_which_scheme_and_host_were_asked,
    scheme_and_host_are_told_for_an_untrusted_peer_that_is_silent,
    an_untrusted_peer_cannot_say_anything_else_in_the_name_of_a_proxy,
    a_trusted_peer_can_say_anything_else_in_the_name_of_a_proxy,
    forwarded_is_believed_from_trusted_peers_only,
    only_the_nets_that_are_named_are_trusted,
    requests_carry_via_unless_it_is_switched_off,
    responses_carry_via_only_when_it_is_switched_on,
    max_forwards_of_options_counts_down_and_ends_here,
    max_forwards_of_other_methods_is_left_alone,
}

fn trust_nobody(c: &mut Config) {
    c.forwarding.trusted = Vec::new();
}

// Rule 20
fn the_peers_address_is_appended_to_x_forwarded_for(engine: EngineKind) {
    let rows: [(&str, &[&str]); 5] = [
        ("", &["127.0.0.1"]),
        ("X-Forwarded-For: 192.0.2.1\r\n", &["192.0.2.1", "127.0.0.1"]),
        ("x-forwarded-for: 192.0.2.1, 192.0.2.2\r\n", &["192.0.2.1", "192.0.2.2", "127.0.0.1"]),
        (
            "X-Forwarded-For: 192.0.2.1\r\nX: y\r\nX-Forwarded-For: 192.0.2.2\r\n",
            &["192.0.2.1", "192.0.2.2", "127.0.0.1"],
        ),
        ("X-Forwarded-For: unknown\r\n", &["unknown", "127.0.0.1"]),
    ];
    cases(rows, |&(fields, wanted)| {
        for change in [trust_nobody, |_: &mut Config| {}] {
            let got = forwarded_with(engine, &request("GET", "/", fields, ""), change);
            assert_eq!(got.list("X-Forwarded-For"), wanted);
        }
    });
}

const CLAIMS: &str = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: public.example\r\n\
    x-forwarded-proto: wss\r\nForwarded: for=192.0.2.1;proto=https\r\n";

// Rule 20
fn an_untrusted_peer_cannot_say_which_scheme_or_host_was_asked(engine: EngineKind) {
    let got = forwarded_with(engine, &request("GET", "/", CLAIMS, ""), trust_nobody);
    assert_eq!(got.all("X-Forwarded-Proto"), ["http"]);
    assert_eq!(got.all("X-Forwarded-Host"), ["a.example"]);
}

// Rule 20
fn a_trusted_peer_can_say_which_scheme_and_host_were_asked(engine: EngineKind) {
    let fields = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: public.example\r\n";
    let got = forwarded(engine, &request("GET", "/", fields, ""));
    assert_eq!(got.all("X-Forwarded-Proto"), ["https"]);
    assert_eq!(got.all("X-Forwarded-Host"), ["public.example"]);
}

// Rules 2 and 20
fn scheme_and_host_are_told_for_an_untrusted_peer_that_is_silent(engine: EngineKind) {
    let got = forwarded_with(engine, &get("/"), trust_nobody);
    assert_eq!(got.all("X-Forwarded-Proto"), ["http"]);
    assert_eq!(got.all("X-Forwarded-Host"), ["a.example"]);
    let got = forwarded_with(engine, &get("http://b.example:81/"), trust_nobody);
    assert_eq!(got.all("X-Forwarded-Host"), ["b.example:81"]);
}

/// What proxies tell, in the fields that are known and in their spellings with `_`, which some
/// servers take for `-`.
const TOLD: [&str; 14] = [
    "X-Forwarded-Ssl",
    "x-forwarded-scheme",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-FORWARDED-SERVER",
    "X-Forwarded-Protocol",
    "X-Forwarded-Anything-Else",
    "X_Forwarded_Proto",
    "X-Forwarded_Host",
    "X_FORWARDED-Ssl",
    "x_forwarded_for",
    "X-Forwarded_For",
    "X-Forwarded-For_",
    "X-Forwarded-",
];

/// Names that only look like them.
const KEPT: [&str; 5] =
    ["X-Real-IP", "X-Forwarded", "X-ForwardedFor", "AX-Forwarded-Ssl", "X-Original-Forwarded-For"];

/// A request with all of them in the head and behind the body.
fn telling() -> String {
    let lines: String = TOLD.iter().chain(&KEPT).map(|name| format!("{name}: told\r\n")).collect();
    let fields = format!("{lines}Transfer-Encoding: chunked\r\n");
    request("POST", "/", &fields, &format!("5\r\nhello\r\n0\r\n{lines}\r\n"))
}

/// The names of the fields that carry what was told.
fn told(fields: &[(String, String)]) -> Vec<&str> {
    let told = fields.iter().filter(|(_, value)| value.contains("told"));
    told.map(|(name, _)| name.as_str()).collect()
}

// Rules 15 and 20
fn an_untrusted_peer_cannot_say_anything_else_in_the_name_of_a_proxy(engine: EngineKind) {
    let got = forwarded_with(engine, &telling(), trust_nobody);
    assert_eq!(told(&got.fields), KEPT);
    assert_eq!(told(&got.trailers), KEPT);
    assert_eq!(got.all("X-Forwarded-For"), ["127.0.0.1"]);
}

// Rules 15 and 20
fn a_trusted_peer_can_say_anything_else_in_the_name_of_a_proxy(engine: EngineKind) {
    let got = forwarded(engine, &telling());
    let all: Vec<_> = TOLD.iter().chain(&KEPT).copied().collect();
    assert_eq!(told(&got.fields), all);
    assert_eq!(told(&got.trailers), all);
    let named = request("GET", "/", "Connection: X-Forwarded-Ssl\r\nX-Forwarded-Ssl: on\r\n", "");
    assert!(!forwarded(engine, &named).has("X-Forwarded-Ssl"), "its own Connection names it");
}

// Rule 20
fn forwarded_is_believed_from_trusted_peers_only(engine: EngineKind) {
    let got = forwarded_with(engine, &request("GET", "/", CLAIMS, ""), trust_nobody);
    assert!(!got.has("Forwarded"), "{got:?}");
    let got = forwarded(engine, &request("GET", "/", "Forwarded: for=192.0.2.1\r\n", ""));
    assert!(got.all("Forwarded").join(",").starts_with("for=192.0.2.1"), "{got:?}");
}

// Rule 20
fn only_the_nets_that_are_named_are_trusted(engine: EngineKind) {
    for (net, proto) in
        [("127.0.0.0/8", "https"), ("127.0.0.1/32", "https"), ("10.0.0.0/8", "http")]
    {
        let fields = "X-Forwarded-Proto: https\r\n";
        let got = forwarded_with(engine, &request("GET", "/", fields, ""), |c| {
            c.forwarding.trusted = vec![net.parse().expect("a net")];
        });
        assert_eq!(got.field("X-Forwarded-Proto"), Some(proto), "trusting {net}");
    }
}

// Rule 21
fn requests_carry_via_unless_it_is_switched_off(engine: EngineKind) {
    let got = forwarded(engine, &get("/"));
    assert_eq!(got.all("Via"), ["1.1 balancebeam"]);
    let got = forwarded(engine, "GET / HTTP/1.0\r\n\r\n");
    assert_eq!(got.all("Via"), ["1.0 balancebeam"]);
    let wire = request("GET", "/", "Via: 1.0 fred, 1.1 p.example\r\nVia: 2 q\r\n", "");
    let got = forwarded(engine, &wire);
    assert_eq!(got.list("Via"), ["1.0 fred", "1.1 p.example", "2 q", "1.1 balancebeam"]);
    let got = forwarded_with(engine, &wire, |c| c.forwarding.via_request = false);
    assert_eq!(got.list("Via"), ["1.0 fred", "1.1 p.example", "2 q"]);
}

// Rule 21
fn responses_carry_via_only_when_it_is_switched_on(engine: EngineKind) {
    let rows = [
        (false, "HTTP/1.1", "", vec![]),
        (false, "HTTP/1.1", "Via: 1.1 fred\r\n", vec!["1.1 fred"]),
        (true, "HTTP/1.1", "", vec!["1.1 balancebeam"]),
        (true, "HTTP/1.0", "", vec!["1.0 balancebeam"]),
        (true, "HTTP/1.1", "Via: 1.1 fred\r\n", vec!["1.1 fred", "1.1 balancebeam"]),
    ];
    cases(rows, |(is_on, version, fields, wanted)| {
        let upstream =
            Upstream::answering(&format!("{version} 200 OK\r\n{fields}Content-Length: 0\r\n\r\n"));
        let addresses = [upstream.address()];
        let balancer =
            Balancer::start_with(engine, &addresses, |c| c.forwarding.via_response = *is_on);
        assert_eq!(balancer.ask(&get("/")).list("Via"), *wanted);
    });
}

// Rule 21
fn max_forwards_of_options_counts_down_and_ends_here(engine: EngineKind) {
    for target in ["*", "/x"] {
        let upstream = Upstream::echo();
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        let answer = client.ask(&request("OPTIONS", target, "Max-Forwards: 0\r\n", ""));
        assert!((200..300).contains(&answer.status()), "{answer:?}");
        assert_eq!(upstream.connections(), 0);
        for (came, went) in [("5", "4"), ("1", "0")] {
            let fields = format!("Max-Forwards: {came}\r\n");
            assert_eq!(client.ask(&request("OPTIONS", target, &fields, "")).status(), 200);
            assert_eq!(upstream.last_request().all("Max-Forwards"), [went]);
        }
    }
}

// Rule 21
fn max_forwards_of_other_methods_is_left_alone(engine: EngineKind) {
    for value in ["0", "5", "x"] {
        let fields = format!("Max-Forwards: {value}\r\n");
        let got = forwarded(engine, &request("GET", "/", &fields, ""));
        assert_eq!(got.all("Max-Forwards"), [value]);
    }
}
