//! Rules 19 and 22–24: which fields go on, in which order, byte for byte.

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    fields_that_connection_names_are_not_sent_upstream,
    fields_that_connection_names_are_not_sent_back,
    connection_may_name_32_unknown_fields_and_no_more,
    connection_must_not_name_what_framing_and_routing_depend_on,
    a_response_cannot_remove_its_own_framing,
    hop_by_hop_fields_are_not_sent_upstream,
    hop_by_hop_fields_are_not_sent_back,
    of_te_only_trailers_survives,
    an_offer_of_h2c_never_goes_upstream,
    an_upgrade_that_connection_does_not_name_is_none,
    requests_keep_their_fields_in_order_and_byte_for_byte,
    responses_keep_their_fields_in_order_and_byte_for_byte,
    statuses_and_reasons_come_back_as_they_are,
    bodies_are_never_changed,
}

// Rule 19
fn fields_that_connection_names_are_not_sent_upstream(engine: EngineKind) {
    let rows = [
        "Connection: X-Secret\r\n",
        "Connection: x-secret\r\n",
        "Connection: close, X-SECRET\r\n",
        "Connection: X-Secret,keep-alive\r\n",
        "Connection: , ,X-Secret ,\r\n",
        "Connection: keep-alive\r\nConnection: X-Secret\r\n",
        "Connection: X-Secret, X-Other\r\nX-Other: 1\r\n",
    ];
    cases(rows, |fields| {
        for fields in [format!("{fields}X-Secret: s\r\n"), format!("X-Secret: s\r\n{fields}")] {
            let got = forwarded(engine, &request("GET", "/", &(fields + "X-Kept: k\r\n"), ""));
            assert!(!got.has("X-Secret") && !got.has("X-Other"), "{got:?}");
            assert!(!got.list("Connection").iter().any(|o| o.starts_with("x-")), "{got:?}");
            assert!(!got.says_close(), "the client's close went upstream: {got:?}");
            assert_eq!(got.field("X-Kept"), Some("k"));
        }
    });
}

// Rule 19
fn fields_that_connection_names_are_not_sent_back(engine: EngineKind) {
    let rows = ["X-Secret", "x-secret", "keep-alive, X-SECRET", "X-Secret, X-Other", ",X-Secret,"];
    cases(rows, |names| {
        let fields = format!(
            "X-Secret: s\r\nX-Other: keep\r\nConnection: {names}\r\nx-secret: t\r\nX-Kept: k\r\n"
        );
        let got = relayed(engine, &response("200 OK", &fields, "body"));
        assert!(!got.has("X-Secret"), "{got:?}");
        assert_eq!(got.has("X-Other"), !names.contains("X-Other"), "{got:?}");
        assert_eq!((got.field("X-Kept"), got.body.as_str()), (Some("k"), "body"));
    });
}

/// `Connection` with so many options that are no known names beside some that are, and the fields
/// that the last of them names and that none names.
fn options(count: usize) -> String {
    let options: Vec<String> = (1..=count).map(|n| format!("X-Option-{n}")).collect();
    let known = "keep-alive, close, TE, ".repeat(20);
    format!("Connection: {known}{}\r\nx-option-{count}: s\r\nX-Kept: k\r\n", options.join(","))
}

// Rule 19
fn connection_may_name_32_unknown_fields_and_no_more(engine: EngineKind) {
    let got = forwarded(engine, &request("GET", "/", &options(32), ""));
    assert!(!got.has("X-Option-32") && got.has("X-Kept"), "{got:?}");
    let got = relayed(engine, &response("200 OK", &options(32), "body"));
    assert!(!got.has("X-Option-32") && got.has("X-Kept"), "{got:?}");

    let same = format!("Connection: {}\r\n", "Z,".repeat(33));
    let apart = "Connection: Z, z\r\n".repeat(17);
    cases([options(33), same, apart], |fields| {
        refused(engine, &request("GET", "/", fields, ""), &[400]);
        assert_eq!(relayed(engine, &response("200 OK", fields, "body")).status(), 502);
    });
}

// Rule 19
fn connection_must_not_name_what_framing_and_routing_depend_on(engine: EngineKind) {
    let rows = [
        request("POST", "/", "Connection: Content-Length\r\nContent-Length: 5\r\n", "hello"),
        request("POST", "/", "Content-Length: 5\r\nConnection: close, content-length\r\n", "hello"),
        request(
            "POST",
            "/",
            "Connection: TRANSFER-ENCODING\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        request("GET", "/", "Connection: Host\r\n", ""),
        request("GET", "/", "Connection: keep-alive\r\nConnection: x, hOST\r\n", ""),
        request("GET", "/", "Connection: Transfer-Encoding\r\n", ""),
        request("GET", "/", "Connection: Content-Length\r\n", ""),
    ];
    cases(rows, |wire| {
        refused(engine, wire, &[400]);
    });
}

// Rules 19 and 26
fn a_response_cannot_remove_its_own_framing(engine: EngineKind) {
    let rows = [
        response("200 OK", "Connection: Content-Length\r\n", "hello"),
        "HTTP/1.1 200 OK\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            .to_string(),
    ];
    cases(rows, |wire| {
        let got = relayed(engine, wire);
        let is_whole =
            got.status() == 200 && got.body == "hello" && got.framing != Framing::UntilClose;
        assert!(is_whole || got.status() == 502, "{got:?}");
    });
}

// Rule 19
fn hop_by_hop_fields_are_not_sent_upstream(engine: EngineKind) {
    let fields = "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
        Proxy-Authorization: Basic c2VjcmV0\r\nTE: gzip\r\nUpgrade: foo\r\nAuthorization: kept\r\n";
    let got = forwarded(engine, &request("GET", "/", fields, ""));
    for name in ["Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "TE", "Upgrade"] {
        assert!(!got.has(name), "{name} went upstream: {got:?}");
    }
    assert_eq!(got.field("Authorization"), Some("kept"));
}

// Rule 19
fn hop_by_hop_fields_are_not_sent_back(engine: EngineKind) {
    let fields = "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
        Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nWWW-Authenticate: kept\r\n";
    let got = relayed(engine, &response("200 OK", fields, "body"));
    for name in ["Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Upgrade"] {
        assert!(!got.has(name), "{name} came back: {got:?}");
    }
    assert_eq!(got.field("WWW-Authenticate"), Some("kept"));
}

// Rule 19
fn of_te_only_trailers_survives(engine: EngineKind) {
    for te in ["trailers", "Trailers", "gzip;q=0.5, trailers", "trailers, deflate"] {
        let fields = format!("TE: {te}\r\nConnection: TE\r\n");
        let got = forwarded(engine, &request("GET", "/", &fields, ""));
        assert_eq!(got.list("TE"), ["trailers"], "of {te:?}");
        assert!(got.list("Connection").contains(&"te".to_string()), "{got:?}");
    }
    for te in ["gzip", "", "trailersx", "deflate;q=0"] {
        let fields = format!("TE: {te}\r\nConnection: TE\r\n");
        let got = forwarded(engine, &request("GET", "/", &fields, ""));
        assert!(!got.has("TE"), "{te:?} went upstream: {got:?}");
        assert!(!got.list("Connection").contains(&"te".to_string()), "{got:?}");
    }
}

// Rules 19 and 35
fn an_offer_of_h2c_never_goes_upstream(engine: EngineKind) {
    let rows = [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: Upgrade\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
        "HTTP2-Settings: AAMAAABk\r\n",
    ];
    cases(rows, |fields| {
        let got = forwarded(engine, &request("GET", "/", fields, ""));
        assert!(!got.has("Upgrade") && !got.has("HTTP2-Settings"), "{got:?}");
        assert!(!got.list("Connection").iter().any(|o| o == "upgrade"), "{got:?}");
    });
}

// Rules 19 and 35
fn an_upgrade_that_connection_does_not_name_is_none(engine: EngineKind) {
    let got = forwarded(engine, &request("GET", "/", "Upgrade: websocket\r\n", ""));
    assert!(!got.has("Upgrade"), "{got:?}");
    let got = forwarded(engine, &request("GET", "/", "Connection: upgrade\r\n", ""));
    assert!(!got.list("Connection").iter().any(|o| o == "upgrade"), "{got:?}");
}

/// Names and values as pairs of owned texts.
fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn lines(fields: &[(&str, &str)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

// Rules 22–24
fn requests_keep_their_fields_in_order_and_byte_for_byte(engine: EngineKind) {
    let fields = [
        ("Host", "A.example:8080"),
        ("x-UPPER-lower", "V  v"),
        ("Cookie", "a=1"),
        ("Accept", "*/*"),
        ("Cookie", "b=2"),
        ("X-Bytes", "\u{80}\u{c3}\u{a9}\u{ff}"),
        ("X-Empty", ""),
        ("cookie", "c=3"),
        ("X-Tab", "a\tb"),
        ("Content-Type", "text/plain; charset=\"utf-8\""),
        ("Content-Length", "5"),
        ("Cookie", "a=1"),
    ];
    let got = forwarded(engine, &format!("PUT /x HTTP/1.1\r\n{}\r\nhello", lines(&fields)));
    let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "connection"];
    let is_ours = |name: &str| ours.contains(&name.to_ascii_lowercase().as_str());
    let (added, kept): (Vec<_>, Vec<_>) =
        got.fields.into_iter().partition(|(name, _)| is_ours(name));
    // Where `Host` and the framing stand is free; all others keep their places.
    let is_free = |name: &str| matches!(name, "Host" | "Content-Length");
    let strict = |all: &[(String, String)]| -> Vec<(String, String)> {
        all.iter().filter(|(name, _)| !is_free(name)).cloned().collect()
    };
    assert_eq!(strict(&kept), strict(&pairs(&fields)));
    assert_eq!(kept.len(), fields.len(), "{kept:?}");
    assert!(added.len() <= 5, "{added:?}");
}

// Rules 23 and 24
fn responses_keep_their_fields_in_order_and_byte_for_byte(engine: EngineKind) {
    let fields = [
        ("Set-Cookie", "a=1; Path=/"),
        ("x-UPPER-lower", "V  v"),
        ("Set-Cookie", "b=2"),
        ("Server", "theirs/1.0"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("set-cookie", "c=3"),
        ("X-Bytes", "\u{80}\u{c3}\u{a9}\u{ff}"),
        ("X-Empty", ""),
        ("Set-Cookie", "a=1; Path=/"),
        ("X-Tab", "a\tb"),
    ];
    let got = relayed(engine, &response("200 OK", &lines(&fields), "hello"));
    let kept: Vec<_> = got
        .fields
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "Content-Length" | "Connection"))
        .cloned()
        .collect();
    assert_eq!(kept, pairs(&fields));
    assert_eq!(got.body, "hello");
}

// Rule 24
fn statuses_and_reasons_come_back_as_they_are(engine: EngineKind) {
    let lines = [
        "200 OK",
        "200 ",
        "200 Sehr g\u{fc}t",
        "299 Own  words: yes",
        "418 I'm a teapot",
        "404 ",
        "500 x",
        "302 Found",
        "511 Network Authentication Required",
        "599 \u{ff}",
    ];
    cases(lines, |line| {
        let got = relayed(engine, &response(line, "", "body"));
        assert_eq!((got.first, got.body.as_str()), (format!("HTTP/1.1 {line}"), "body"));
    });
}

// Rule 24
fn bodies_are_never_changed(engine: EngineKind) {
    let all: String = (0..=255).map(char::from).collect();
    assert_eq!(forwarded(engine, &post("/", &all)).body, all);
    assert_eq!(relayed(engine, &ok(&all)).body, all);
    let chunked = format!("{}{}0\r\n\r\n", chunk(&all), chunk("0\r\n\r\n"));
    let wire = request("POST", "/", "Transfer-Encoding: chunked\r\n", &chunked);
    assert_eq!(forwarded(engine, &wire).body, format!("{all}0\r\n\r\n"));
    let wire = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
    assert_eq!(relayed(engine, &wire).body, format!("{all}0\r\n\r\n"));
}
