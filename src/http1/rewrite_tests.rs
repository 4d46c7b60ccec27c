use super::*;
use crate::http1::head;
use crate::http1::head::{HeadLimits, Search};
use crate::message::Method;

const LIMITS: HeadLimits = HeadLimits { line: 4096, head: 4096, fields: 50 };
const PLAIN: RequestRules = RequestRules {
    peer: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    trusted: false,
    via: false,
    upstream_host: false,
};

/// What goes on of the field lines `fields` in a request that begins with `line`.
fn forwarded(line: &str, fields: &str, rules: &RequestRules) -> (String, Option<HostSlot>) {
    let wire = format!("{line}\r\n{fields}\r\n");
    let mut search = Search::default();
    search.end(wire.as_bytes(), LIMITS).unwrap();
    let head = head::request(wire.as_bytes(), &search).unwrap_or_else(|r| panic!("{r:?}"));
    let mut out = Buffer::default();
    let slot = request(&head, rules, &mut out);
    (String::from_utf8_lossy(out.unread()).into_owned(), slot)
}

/// The fields that go on of `fields`, beside `Host` and what is told of the way.
fn fields_forwarded(method: &str, fields: &str, trusted: bool) -> String {
    let rules = RequestRules { trusted, ..PLAIN };
    let line = format!("{method} / HTTP/1.1");
    let (head, _) = forwarded(&line, &format!("Host: h\r\n{fields}"), &rules);
    let own = ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: h"];
    let lines = head.split("\r\n").skip(2).filter(|line| !own.contains(line));
    lines.filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect()
}

/// Each row of the table above `request`.
#[test]
fn fields_of_requests() {
    for (fields, goes_on) in [
        ("A: b\r\na: \tc \r\nA:\r\n", "A: b\r\na: \tc\r\nA:\r\n"),
        ("Cookie: \u{e4}\r\n", "Cookie: \u{e4}\r\n"),
        ("content-length:  007\r\n", "content-length: 7\r\n"),
        ("Transfer-encoding: CHUNKED\r\nA: b\r\n", "Transfer-encoding: chunked\r\nA: b\r\n"),
        ("Connection: close\r\n", ""),
        ("Connection: a, B\r\nA: 1\r\nb: 2\r\nC: 3\r\na: 4\r\n", "C: 3\r\n"),
        ("Connection: close\r\nClose: 1\r\nCloser: 2\r\n", "Closer: 2\r\n"),
        ("A: 1\r\nConnection: x\r\nConnection: a\r\n", ""),
        ("Connection: keep-alive\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n", ""),
        ("Proxy-Authorization: x\r\nHTTP2-Settings: x\r\n", ""),
        ("TE: gzip\r\n", ""),
        ("TE: gzip\r\nTE: Trailers;q=1, trailers\r\n", "TE: trailers\r\nConnection: TE\r\n"),
        ("Upgrade: x\r\n", ""),
        ("Connection: upgrade\r\nUpgrade: h2c\r\n", ""),
        (
            "Connection: upgrade\r\nUpgrade: x/1, h2c\r\nUpgrade: y\r\n",
            "Upgrade: x/1, y\r\nConnection: upgrade\r\n",
        ),
        (
            "Connection: upgrade, te\r\nUpgrade: x\r\nTE: trailers\r\n",
            "Upgrade: x\r\nTE: trailers\r\nConnection: upgrade, TE\r\n",
        ),
        ("Expect: 100-Continue\r\n", "Expect: 100-Continue\r\n"),
        ("Trailer: a\r\nVia: 1.1 x\r\n", "Trailer: a\r\nVia: 1.1 x\r\n"),
        ("Max-Forwards: 5\r\n", "Max-Forwards: 5\r\n"),
        ("X-Forwarded-Proto: https\r\nForwarded: a\r\nX-Forwarded-Host: x\r\n", ""),
        ("X-Forwarded-For: 1.2.3.4\r\n", "X-Forwarded-For: 1.2.3.4, 127.0.0.1\r\n"),
        ("X-Forwarded-For:\r\n", "X-Forwarded-For: 127.0.0.1\r\n"),
    ] {
        let expected = if fields == "X-Forwarded-For:\r\n" { "" } else { goes_on };
        assert_eq!(fields_forwarded("POST", fields, false), expected, "{fields:?}");
    }
    assert_eq!(fields_forwarded("OPTIONS", "Max-Forwards: 5\r\n", false), "Max-Forwards: 4\r\n");
    let told = "X-Forwarded-Proto: https\r\nForwarded: a\r\nX-Forwarded-Host: x\r\n";
    assert_eq!(fields_forwarded("GET", told, true), told, "from a trusted peer");
}

#[test]
fn first_line_and_host_of_requests() {
    for (line, fields, begins) in [
        ("GET /a?b HTTP/1.1", "Host: h:1\r\n", "GET /a?b HTTP/1.1\r\nHost: h:1\r\n"),
        ("GET /a HTTP/1.0", "A: b\r\nhOST: h\r\n", "GET /a HTTP/1.1\r\nA: b\r\nhOST: h\r\n"),
        ("GET http://x:1/a HTTP/1.1", "Host: h\r\n", "GET /a HTTP/1.1\r\nHost: x:1\r\n"),
        ("GET http://x?q HTTP/1.0", "", "GET /?q HTTP/1.1\r\nHost: x\r\n"),
        ("OPTIONS http://x HTTP/1.1", "Host:\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n"),
        ("OPTIONS * HTTP/1.1", "Host:\r\n", "OPTIONS * HTTP/1.1\r\nHost: \r\n"),
    ] {
        let (head, slot) = forwarded(line, fields, &PLAIN);
        assert!(head.starts_with(begins), "{line:?} became {head:?}");
        assert!(head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1, "{head:?}");
        assert_eq!(slot, None);
    }
}

#[test]
fn the_place_for_the_upstreams_name() {
    let upstream_host = RequestRules { upstream_host: true, ..PLAIN };
    for (line, fields, rules) in [
        ("GET / HTTP/1.0", "", &PLAIN),
        ("GET / HTTP/1.0", "A: b\r\n", &PLAIN),
        ("GET / HTTP/1.1", "A: b\r\nHost: h\r\n", &upstream_host),
        ("GET http://x/ HTTP/1.1", "Host: h\r\nC: d\r\n", &upstream_host),
    ] {
        let (mut head, slot) = forwarded(line, fields, rules);
        let slot = slot.expect(line);
        assert_eq!(slot.len, 0);
        head.insert_str(slot.at, "name:80");
        assert!(head.contains("\r\nHost: name:80\r\n"), "{head:?}");
    }
}

#[test]
fn what_a_request_is_told_about_its_way() {
    let peer: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
    let rules = RequestRules { peer, via: true, ..PLAIN };
    let (head, _) = forwarded("GET / HTTP/1.0", "", &rules);
    assert!(
        head.ends_with(
            "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nVia: 1.0 balancebeam\r\n\r\n"
        ),
        "{head:?}"
    );
    let longest: IpAddr = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
    let (head, _) =
        forwarded("GET / HTTP/1.1", "Host:\r\n", &RequestRules { peer: longest, ..rules });
    assert!(head.contains(&format!("X-Forwarded-For: {longest}\r\n")), "{head:?}");
    assert!(!head.contains("X-Forwarded-Host"), "there is none to tell: {head:?}");
}

const TO_NEW: ResponseRules = ResponseRules {
    framing: Framing::Empty,
    method: Method::Get,
    version: Version::Http11,
    persists: true,
    via: false,
};

/// What goes on of a response's head.
fn answered(wire: &str, rules: &ResponseRules) -> String {
    let mut search = Search::default();
    search.end(wire.as_bytes(), LIMITS).unwrap();
    let head = head::response(wire.as_bytes(), &search, rules.method)
        .unwrap_or_else(|r| panic!("{r:?}: {wire:?}"));
    let mut out = Buffer::default();
    response(&head, rules, &mut out);
    String::from_utf8_lossy(out.unread()).into_owned()
}

/// Each row of the table above `response`.
#[test]
fn fields_of_responses() {
    use Framing::{Chunked, Empty, Length, UntilClose};
    for (status, fields, framing, goes_on) in [
        ("200 OK", "A: b\r\nSet-Cookie: 1\r\nset-cookie: 2\r\n", Empty, None),
        ("200 OK", "content-length: 005\r\n", Length(5), Some("content-length: 5\r\n")),
        (
            "200 ",
            "Content-Length: 5, 5\r\nContent-Length: 5\r\n",
            Length(5),
            Some("Content-Length: 5\r\n"),
        ),
        (
            "200 OK",
            "Transfer-Encoding: chunked\r\n",
            Chunked,
            Some("Transfer-Encoding: chunked\r\n"),
        ),
        ("200 OK", "A: b\r\n", Chunked, Some("A: b\r\nTransfer-Encoding: chunked\r\n")),
        ("200 OK", "Transfer-Encoding: chunked\r\n", UntilClose, Some("")),
        ("204 No", "Content-Length: 5\r\n", Empty, Some("")),
        ("103 Hint", "Content-Length: 5\r\nA: b\r\n", Empty, Some("A: b\r\n")),
        ("304 Same", "Content-Length: 5\r\n", Empty, None),
        ("304 Same", "Transfer-Encoding: chunked\r\n", Empty, Some("")),
        ("200 OK", "Connection: a, close\r\nA: b\r\nC: d\r\n", Empty, Some("C: d\r\n")),
        ("200 OK", "Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: x\r\n", Empty, Some("")),
        (
            "407 Who",
            "Proxy-Authenticate: x\r\nWWW-Authenticate: y\r\n",
            Empty,
            Some("WWW-Authenticate: y\r\n"),
        ),
        ("200 OK", "Upgrade: x\r\n", Empty, Some("")),
        ("426 Up", "Upgrade: x\r\n", Empty, Some("Upgrade: x\r\nConnection: upgrade\r\n")),
        (
            "101 Switch",
            "Upgrade: x, h2c\r\nConnection: upgrade\r\n",
            Empty,
            Some("Upgrade: x\r\nConnection: upgrade\r\n"),
        ),
    ] {
        let wire = format!("HTTP/1.1 {status}\r\n{fields}\r\n");
        let expected = format!("HTTP/1.1 {status}\r\n{}\r\n", goes_on.unwrap_or(fields));
        assert_eq!(answered(&wire, &ResponseRules { framing, ..TO_NEW }), expected, "{wire:?}");
    }
}

#[test]
fn the_answer_to_head_tells_the_framing_that_get_would_have_had() {
    let to_head = ResponseRules { method: Method::Head, ..TO_NEW };
    for (fields, version, goes_on) in [
        ("Content-Length: 5\r\n", Version::Http11, "Content-Length: 5\r\n"),
        ("Transfer-Encoding: chunked\r\n", Version::Http11, "Transfer-Encoding: chunked\r\n"),
        ("Transfer-Encoding: chunked\r\n", Version::Http10, "Connection: keep-alive\r\n"),
        ("", Version::Http11, ""),
        ("Content-Length: 0005, 5\r\n", Version::Http11, "Content-Length: 5\r\n"),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Version::Http11, ""),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Version::Http11, ""),
        ("Transfer-Encoding: identity\r\n", Version::Http11, ""),
    ] {
        let wire = format!("HTTP/1.1 200\r\n{fields}\r\n");
        let expected = format!("HTTP/1.1 200 \r\n{goes_on}\r\n");
        assert_eq!(answered(&wire, &ResponseRules { version, ..to_head }), expected, "{fields:?}");
    }
}

#[test]
fn what_a_response_says_about_the_clients_connection() {
    for (status, persists, version, said) in [
        ("200 OK", true, Version::Http11, ""),
        ("200 OK", false, Version::Http11, "Connection: close\r\n"),
        ("200 OK", true, Version::Http10, "Connection: keep-alive\r\n"),
        ("200 OK", false, Version::Http10, "Connection: close\r\n"),
        ("103 Hint", false, Version::Http11, ""),
    ] {
        let wire = format!("HTTP/1.0 {status}\r\n\r\n");
        let expected = format!("HTTP/1.1 {status}\r\n{said}\r\n");
        assert_eq!(answered(&wire, &ResponseRules { persists, version, ..TO_NEW }), expected);
    }
    let closing = ResponseRules { persists: false, via: true, ..TO_NEW };
    assert_eq!(
        answered("HTTP/1.0 426 Up\r\nUpgrade: x\r\n\r\n", &closing),
        "HTTP/1.1 426 Up\r\nUpgrade: x\r\nVia: 1.0 balancebeam\r\nConnection: upgrade, close\r\n\r\n"
    );
}

#[test]
fn trailers_about_framing_routing_or_one_hop_do_not_go_on() {
    let rules = TrailerRules::default();
    for line in ["A: b", "Content-MD5: x", "x-forwarded: a"] {
        assert!(rules.is_forwarded(line.as_bytes()), "{line:?}");
    }
    for name in [
        "Connection",
        "content-length",
        "Expect",
        "Forwarded",
        "HOST",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Via",
        "X-Forwarded-For",
        "Max-Forwards",
        "Proxy-Authorization",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
    ] {
        assert!(!rules.is_forwarded(format!("{name}: x").as_bytes()), "{name}");
    }
    assert!(!rules.is_forwarded(b"no field line"));
}

#[test]
fn trailers_that_connection_names_do_not_go_on() {
    let wire = b"HTTP/1.1 200 OK\r\nConnection: close, b, Aa\r\nConnection: cC, aa\r\n\r\n";
    let mut search = Search::default();
    search.end(wire, LIMITS).unwrap();
    let head = head::response(wire, &search, Method::Get).unwrap_or_else(|r| panic!("{r:?}"));
    let rules = TrailerRules::new(&head.fields, Framing::Chunked, false);
    for line in ["A: 1", "aaa: 1", "D: 1", "closed: 1"] {
        assert!(rules.is_forwarded(line.as_bytes()), "{line:?}");
    }
    for line in ["AA: 1", "B:", "cc: 1", "CC: 1", "Close: 1"] {
        assert!(!rules.is_forwarded(line.as_bytes()), "{line:?}");
    }
}

#[test]
fn our_own_answers() {
    let answer_of = |answer: Answer| {
        let mut out = Buffer::default();
        super::answer(&answer, &mut out);
        String::from_utf8_lossy(out.unread()).into_owned()
    };
    let plain = Answer {
        reply: Reply::keeping(503, "no").with_retry_after(7),
        is_head: false,
        persists: true,
        version: Version::Http11,
    };
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
                Content-Length: 16\r\nRetry-After: 7\r\n";
    assert_eq!(answer_of(plain), format!("{head}\r\nbalancebeam: no\n"));
    assert_eq!(answer_of(Answer { is_head: true, ..plain }), format!("{head}\r\n"));
    let old = Answer { version: Version::Http10, is_head: true, ..plain };
    assert_eq!(answer_of(old), format!("{head}Connection: keep-alive\r\n\r\n"));
    let last = Answer { persists: false, ..old };
    assert_eq!(answer_of(last), format!("{head}Connection: close\r\n\r\n"));
    let empty = Answer { reply: Reply::options(), ..plain };
    let allowed = "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
    assert_eq!(
        answer_of(empty),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{allowed}\r\n\r\n")
    );
}
