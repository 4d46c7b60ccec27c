use super::*;

const LIMITS: HeadLimits = HeadLimits { line: 64, head: 512, fields: 5 };

/// What a head says, or the status that it is answered with; `None`: it is not whole.
type Verdict = Option<Result<(usize, Request), u16>>;

/// Reads `wire` as a session would, when it arrives cut at `cuts`.
fn arrives(wire: &[u8], cuts: impl IntoIterator<Item = usize>) -> Verdict {
    let (mut search, mut skipped) = (Search::default(), 0);
    for end in cuts.into_iter().chain([wire.len()]) {
        skipped += search.skip_empty_line(&wire[skipped..end]);
        let wire = &wire[skipped..end];
        match arriving_request(&mut search, wire, LIMITS) {
            Ok(Some(len)) => {
                let head = request(&wire[..len], &search);
                let read = head.map(|head| (skipped + len, head.request));
                return Some(read.map_err(|reject| reject.status));
            }
            Ok(None) => (),
            Err(reject) => return Some(Err(reject.status)),
        }
    }
    None
}

/// The verdict on `wire`, which must be the same however it arrives.
fn verdict(wire: &[u8]) -> Verdict {
    let whole = arrives(wire, []);
    for cut in 0..wire.len() {
        let shown = String::from_utf8_lossy(wire);
        assert_eq!(arrives(wire, [cut]), whole, "cut at {cut}: {shown:?}");
    }
    assert_eq!(arrives(wire, 1..wire.len()), whole, "byte by byte");
    whole
}

fn accepted(wire: &[u8]) -> Request {
    match verdict(wire) {
        Some(Ok((_, request))) => {
            agrees_with_httparse(wire);
            request
        }
        other => panic!("{other:?}: {:?}", String::from_utf8_lossy(wire)),
    }
}

fn refused(wire: &[u8]) -> u16 {
    match verdict(wire) {
        Some(Err(status)) => status,
        other => panic!("{other:?}: {:?}", String::from_utf8_lossy(wire)),
    }
}

/// Another parser finds the same end, method, target and fields.
fn agrees_with_httparse(wire: &[u8]) {
    let mut search = Search::default();
    let wire = &wire[search.skip_empty_line(wire)..];
    let len = search.end(wire, LIMITS).unwrap().unwrap();
    let line = search.first_line(wire).unwrap();
    if std::str::from_utf8(line).is_err() {
        return; // the other one keeps the target as text
    }
    let ours = request(&wire[..len], &search).unwrap_or_else(|r| panic!("{r:?}"));
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut theirs = httparse::Request::new(&mut fields);
    let shown = String::from_utf8_lossy(wire);
    let status = theirs.parse(wire).unwrap_or_else(|e| panic!("httparse: {e}: {shown:?}"));
    assert_eq!(status, httparse::Status::Complete(len), "{shown:?}");
    assert_eq!(theirs.method.unwrap().as_bytes(), ours.method);
    assert_eq!(theirs.version, Some(u8::from(ours.request.version == Version::Http11)));
    let target = line.split(|&b| b == b' ').nth(1).unwrap();
    assert_eq!(theirs.path.unwrap().as_bytes(), target);
    let ours: Vec<_> = ours.fields.iter().map(|f| (f.name_bytes, f.value)).collect();
    let theirs: Vec<_> =
        theirs.headers.iter().map(|h| (h.name.as_bytes(), fields::trim(h.value))).collect();
    assert_eq!(ours, theirs, "{shown:?}");
}

/// A head with Host and one more line.
fn with(line: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n").into_bytes()
}

const ACCEPTED: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    b"GET / HTTP/1.1\r\nhOST: \t a_b:8080 \t\r\n\r\nGET / ",
    b"GET / HTTP/1.0\r\n\r\n",
    b"PROPFIND /a/../%zz?b=c#d HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"!#$%&'*+-.^_`|~ / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a:80/b HTTP/1.1\r\nHost: other\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nA: \xff\x80 b\tc\r\nA:\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: , close,,x\r\n\r\n",
];

#[test]
fn good_request_heads_are_read_as_another_parser_reads_them() {
    for wire in ACCEPTED {
        accepted(wire);
    }
}

#[test]
fn malformed_request_heads_are_refused() {
    for (wire, status) in [
        (&b"GET\r\n"[..], 400),
        (b"GET /\r\n", 400),
        (b"GET / \r\n", 400),
        (b" GET / HTTP/1.1\r\n", 400),
        (b"GET  / HTTP/1.1\r\n", 400),
        (b"GET /  HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1 \r\n", 400),
        (b"GET / x HTTP/1.1\r\n", 400),
        (b"GET\t/\tHTTP/1.1\r\n", 400),
        (b"G\xc3T / HTTP/1.1\r\n", 400),
        (b"G(T / HTTP/1.1\r\n", 400),
        (b"GET x HTTP/1.1\r\n", 400),
        (b"GET * HTTP/1.1\r\n", 400),
        (b"GET /\x7f HTTP/1.1\r\n", 400),
        (b"GET / http/1.1\r\n", 400),
        (b"GET / HTTP/1\r\n", 400),
        (b"GET / HTTP/1.10\r\n", 400),
        (b"GET / HTTP/1,1\r\n", 400),
        (b"GET / HTTP/1.2\r\n", 505),
        (b"GET / HTTP/0.9\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\n", 400),
        (b"\n", 400),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\rx", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ] {
        assert_eq!(refused(wire), status, "{:?}", String::from_utf8_lossy(wire));
    }
}

#[test]
fn malformed_request_fields_are_refused() {
    for (line, status) in [
        ("A", 400),
        (": b", 400),
        ("A : b", 400),
        ("A\t: b", 400),
        ("A: b\r\n c", 400),
        ("A: b\r\n\tc", 400),
        ("A: b\0", 400),
        ("A: b\x01", 400),
        ("A: b\x7f", 400),
        ("A: b\rc: d", 400),
        ("A: b\nc: d", 400),
        ("A(: b", 400),
        ("\u{e4}: b", 400),
        ("Connection: content-length", 400),
        ("Connection: close, Transfer-Encoding", 400),
        ("Connection: host", 400),
        ("Connection: a b", 400),
    ] {
        assert_eq!(refused(&with(line)), status, "{line:?}");
    }
}

#[test]
fn requests_that_are_not_served_are_told_apart_from_malformed_ones() {
    for (wire, status) in [
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", 417),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect:\r\n\r\n", 417),
    ] {
        let mut search = Search::default();
        search.end(wire.as_bytes(), LIMITS).unwrap();
        let head = request(wire.as_bytes(), &search).unwrap_or_else(|r| panic!("{r:?}"));
        assert_eq!(head.refusal.map(|r| r.status), Some(status), "{wire:?}");
    }
}

#[test]
fn what_is_kept_of_a_request() {
    for (line, keep_alive, expects, upgrade) in [
        ("A: b", true, false, false),
        ("Connection: close", false, false, false),
        ("Connection: keep-alive, CLOSE", false, false, false),
        ("Connection: x\r\nConnection: close", false, false, false),
        ("Expect: 100-Continue", true, true, false),
        ("Connection: upgrade", true, false, false),
        ("Upgrade: x", true, false, false),
        ("Connection: Upgrade\r\nUpgrade: x", true, false, true),
        ("Connection: Upgrade\r\nUpgrade: h2c", true, false, false),
        ("Connection: Upgrade\r\nUpgrade: H2C, x", true, false, true),
    ] {
        let request = accepted(&with(line));
        let kept = (request.keep_alive, request.expects_continue, request.upgrade);
        assert_eq!(kept, (keep_alive, expects, upgrade), "{line:?}");
    }
    for (line, keep_alive) in [
        ("A: b", false),
        ("Connection: Keep-Alive", true),
        ("Connection: keep-alive, close", false),
        ("Connection: keep-alive, upgrade\r\nUpgrade: x\r\nExpect: 100-continue", true),
    ] {
        let old = String::from_utf8(with(line)).unwrap().replace("HTTP/1.1", "HTTP/1.0");
        let request = accepted(old.as_bytes());
        assert_eq!(request.keep_alive, keep_alive, "{line:?}");
        assert!(!request.expects_continue && !request.upgrade, "HTTP/1.0 has neither: {line:?}");
    }
}

/// Each row of the table in `framing.rs`, and the smuggler's variants of it.
#[test]
fn framing_of_requests() {
    use Framing::{Chunked, Empty, Length};
    for (fields, framing) in [
        ("A: b", Ok(Empty)),
        ("Content-Length: 0", Ok(Length(0))),
        ("Content-Length:\t007 ", Ok(Length(7))),
        ("content-length: 18446744073709551615", Ok(Length(u64::MAX))),
        ("Content-Length: 18446744073709551616", Err(400)),
        ("Content-Length:", Err(400)),
        ("Content-Length: +5", Err(400)),
        ("Content-Length: -5", Err(400)),
        ("Content-Length: 0x5", Err(400)),
        ("Content-Length: 5 5", Err(400)),
        ("Content-Length: 5,5", Err(400)),
        ("Content-Length: 5\r\nContent-Length: 5", Err(400)),
        ("Content-Length: \u{ff15}", Err(400)),
        ("Transfer-Encoding: chunked", Ok(Chunked)),
        ("Transfer-Encoding: \tCHUNKED\t", Ok(Chunked)),
        ("Transfer-Encoding: gzip", Err(501)),
        ("Transfer-Encoding: gzip, chunked", Err(501)),
        ("Transfer-Encoding: identity", Err(501)),
        ("Transfer-Encoding: xchunked", Err(501)),
        ("Transfer-Encoding: chunked;a=b", Err(501)),
        ("Transfer-Encoding:", Err(400)),
        ("Transfer-Encoding: ,", Err(400)),
        ("Transfer-Encoding: chunked, gzip", Err(400)),
        ("Transfer-Encoding: chunked, chunked", Err(400)),
        ("Transfer-Encoding: chunked,", Err(400)),
        ("Transfer-Encoding: ch unked", Err(400)),
        ("Transfer-Encoding: \"chunked\"", Err(400)),
        ("Transfer-Encoding: \x0bchunked", Err(400)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Err(400)),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", Err(400)),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", Err(400)),
        ("Content-Length: 5\r\nTransfer-Encoding: gzip", Err(400)),
    ] {
        let read = match verdict(&with(fields)) {
            Some(Ok((_, request))) => Ok(request.framing),
            Some(Err(status)) => Err(status),
            None => panic!("{fields:?} is not whole"),
        };
        assert_eq!(read, framing, "{fields:?}");
    }
    for fields in ["Transfer-Encoding: chunked", "Transfer-Encoding: gzip"] {
        let old = String::from_utf8(with(fields)).unwrap().replace("HTTP/1.1", "HTTP/1.0");
        assert_eq!(refused(old.as_bytes()), 400, "{fields:?}");
    }
}

/// Reads a response's head as it would arrive when cut at `cuts`; it must be whole.
fn response_cut(
    wire: &[u8],
    method: Method,
    cuts: impl IntoIterator<Item = usize>,
) -> Option<(Response, String)> {
    let limits = HeadLimits { line: LIMITS.head, ..LIMITS };
    let mut search = Search::default();
    for end in cuts.into_iter().chain([wire.len()]) {
        match search.end(&wire[..end], limits) {
            Ok(Some(len)) => {
                let head = response(&wire[..len], &search, method).ok()?;
                let reason = String::from_utf8_lossy(head.status_and_reason).into_owned();
                return Some((head.response, reason));
            }
            Ok(None) => (),
            Err(_) => return None,
        }
    }
    panic!("not whole: {:?}", String::from_utf8_lossy(wire));
}

/// What a response says, however it is cut; `None`: it is refused.
fn answered(wire: &str, method: Method) -> Option<(Response, String)> {
    let wire = wire.as_bytes();
    let whole = response_cut(wire, method, []);
    for cut in 0..wire.len() {
        assert_eq!(response_cut(wire, method, [cut]), whole, "cut at {cut}");
    }
    assert_eq!(response_cut(wire, method, 1..wire.len()), whole, "byte by byte");
    if let Some((response, _)) = &whole {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut theirs = httparse::Response::new(&mut fields);
        assert!(theirs.parse(wire).is_ok_and(|status| status.is_complete()), "httparse");
        assert_eq!(theirs.code, Some(response.status));
    }
    whole
}

#[test]
fn framing_of_responses() {
    use Framing::{Chunked, Empty, Length, UntilClose};
    for (status, fields, framing) in [
        ("200", "", Some(UntilClose)),
        ("200", "Content-Length: 5\r\n", Some(Length(5))),
        ("200", "Content-Length: 5\r\nContent-Length: 5\r\n", Some(Length(5))),
        ("200", "Content-Length: 5, 5\r\n", Some(Length(5))),
        ("200", "Content-Length: 5, 6\r\n", None),
        ("200", "Content-Length: 5,\r\n", None),
        ("200", "Content-Length: 5\r\nContent-Length: 05, 6\r\n", None),
        ("200", "Content-Length: -5\r\n", None),
        ("200", "Content-Length:\r\n", None),
        ("200", "Transfer-Encoding: chunked\r\n", Some(Chunked)),
        ("200", "Transfer-Encoding: gzip, chunked\r\n", None),
        ("200", "Transfer-Encoding: identity\r\n", None),
        ("200", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", None),
        ("204", "Content-Length: 5\r\n", Some(Empty)),
        ("304", "Transfer-Encoding: chunked\r\n", Some(Empty)),
        ("304", "Content-Length: 5\r\nContent-Length: 6\r\n", Some(Empty)),
        ("204", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Some(Empty)),
        ("103", "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n", Some(Empty)),
        ("100", "", Some(Empty)),
        ("101", "Content-Length: 5\r\n", Some(Empty)),
        ("205", "", Some(UntilClose)),
    ] {
        let wire = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
        let read = answered(&wire, Method::Get).map(|(response, _)| response.framing);
        assert_eq!(read, framing, "{wire:?}");
        let read = answered(&wire, Method::Head).map(|(response, _)| response.framing);
        assert_eq!(read, Some(Empty), "to HEAD: {wire:?}");
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(answered(old, Method::Get), None);
}

#[test]
fn response_heads() {
    for (wire, status, reason, keep_alive) in [
        ("HTTP/1.1 200 OK\r\n\r\n", 200, "200 OK", true),
        ("HTTP/1.1 200 \r\n\r\n", 200, "200 ", true),
        ("HTTP/1.1 200\r\n\r\n", 200, "200", true),
        ("HTTP/1.0 404\r\n\r\n", 404, "404", false),
        ("HTTP/1.1 999 \u{e4} b\tc\r\n\r\n", 999, "999 \u{e4} b\tc", true),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 200, "200 OK", false),
        ("HTTP/1.0 404 No\r\n\r\n", 404, "404 No", false),
        ("HTTP/1.0 404 No\r\nConnection: keep-alive\r\n\r\n", 404, "404 No", true),
    ] {
        let (response, said) = answered(wire, Method::Get).expect(wire);
        let read = (response.status, said.as_str(), response.keep_alive);
        assert_eq!(read, (status, reason, keep_alive), "{wire:?}");
    }
    for wire in [
        "HTTP/1.1 200\t\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: content-length\r\n\r\n",
    ] {
        assert_eq!(answered(wire, Method::Get), None, "{wire:?}");
    }
}

#[test]
fn limits_are_exact() {
    // A line of so many bytes.
    let line = |len: usize| {
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(len - "GET / HTTP/1.1".len()))
    };
    accepted(line(LIMITS.line - 1).as_bytes());
    accepted(line(LIMITS.line).as_bytes());
    assert_eq!(refused(line(LIMITS.line + 1).as_bytes()), 414);
    assert_eq!(refused(&line(LIMITS.line + 1).as_bytes()[..LIMITS.line + 2]), 414);
    // A head of so many bytes.
    let head = |len: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: a\r\nA: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "a".repeat(len - rest))
    };
    accepted(head(LIMITS.head - 1).as_bytes());
    accepted(head(LIMITS.head).as_bytes());
    assert_eq!(refused(head(LIMITS.head + 1).as_bytes()), 431);
    // So many fields.
    let fields =
        |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(count - 1));
    accepted(fields(LIMITS.fields - 1).as_bytes());
    accepted(fields(LIMITS.fields).as_bytes());
    assert_eq!(refused(fields(LIMITS.fields + 1).as_bytes()), 431);
}

#[test]
fn the_most_that_can_be_allowed_fits() {
    let limits = HeadLimits { line: 32 * 1024, head: 32 * 1024, fields: MAX_FIELDS };
    let mut wire = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "A: b\r\n".repeat(MAX_FIELDS - 2));
    wire += &format!("B: {}\r\n\r\n", "c".repeat(limits.head - wire.len() - 7));
    assert_eq!(wire.len(), limits.head);
    let mut search = Search::default();
    assert_eq!(search.end(wire.as_bytes(), limits), Ok(Some(wire.len())));
    let head = request(wire.as_bytes(), &search).unwrap_or_else(|r| panic!("{r:?}"));
    assert_eq!(head.fields.iter().count(), MAX_FIELDS);
    assert_eq!(head.fields.iter().next_back().unwrap().value.last(), Some(&b'c'));
}

#[test]
fn mangled_heads_have_one_verdict_however_they_arrive() {
    const NASTY: &[u8] = b"\r\n\r\n\0 \t:,;/*AH1.0\x7f\xff";
    let mut state = 1_u64;
    let mut draw = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % below as u64) as usize
    };
    for _ in 0..4_000 {
        let mut wire = ACCEPTED[draw(ACCEPTED.len())].to_vec();
        for _ in 0..1 + draw(3) {
            let (at, byte) = (draw(wire.len()), NASTY[draw(NASTY.len())]);
            match draw(4) {
                0 => wire.insert(at, byte),
                1 => drop(wire.remove(at)),
                2 => wire[at] = byte,
                _ => wire.splice(at..at, std::iter::repeat_n(byte, 70)).for_each(drop),
            }
        }
        if let Some(Ok(_)) = verdict(&wire) {
            agrees_with_httparse(&wire);
        }
    }
}
