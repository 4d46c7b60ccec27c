//! The check of heads; what holds stands in `fuzz_targets/head.rs`.

use std::net::{IpAddr, Ipv4Addr};

use balancebeam::buffer::Buffer;
use balancebeam::http1::head;
use balancebeam::http1::head::{HeadLimits, RequestHead, ResponseHead, Search};
use balancebeam::http1::rewrite;
use balancebeam::http1::rewrite::{RequestRules, ResponseRules};
use balancebeam::message::{Framing, Method, Version};

use crate::Pieces;

/// As they are by default, and small ones.
const LIMITS: [HeadLimits; 2] = [
    HeadLimits { line: 8 * 1024, head: 16 * 1024, fields: 100 },
    HeadLimits { line: 64, head: 256, fields: 5 },
];

/// An upstream's name, where the request has none or must not keep its own.
const UPSTREAM: &[u8] = b"upstream.test:8080";

/// Fields that are about one hop, and those that carry a secret of one.
const HOP_BY_HOP: [&str; 5] =
    ["keep-alive", "proxy-connection", "http2-settings", "te", "transfer-encoding"];

type Field = (String, Vec<u8>);

pub fn check(input: &[u8]) {
    for limits in LIMITS {
        for reading in [Reading::Request, Reading::Response] {
            let verdict = read_arriving(input, reading, limits, |rest| rest);
            let mut pieces = Pieces::of(input);
            let by_pieces = read_arriving(input, reading, limits, |rest| pieces.next(rest));
            assert_eq!(verdict, by_pieces, "pieces mean what the whole means");
            let by_bytes = read_arriving(input, reading, limits, |_| 1);
            assert_eq!(verdict, by_bytes, "bytes mean what the whole means");
            if let Verdict::Accepted(len) = verdict {
                assert!(len <= input.len() && len <= limits.head + 2, "a head within its limit");
                check_written(&input[..len], reading, limits);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Request,
    Response,
}

/// What becomes of a head. Why it is refused may depend on how it arrives; the answer must not.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Awaited,
    Accepted(usize),
    Refused(u16),
}

/// Reads a head of which `piece` says how many bytes of the rest arrive next.
fn read_arriving(
    input: &[u8],
    reading: Reading,
    limits: HeadLimits,
    mut piece: impl FnMut(usize) -> usize,
) -> Verdict {
    let (mut search, mut arrived, mut skipped) = (Search::default(), 0, 0);
    loop {
        if arrived < input.len() {
            arrived += piece(input.len() - arrived);
        }
        let verdict = match reading {
            Reading::Request => {
                skipped += search.skip_empty_line(&input[skipped..arrived]);
                match read_request(&mut search, &input[skipped..arrived], limits) {
                    Verdict::Accepted(len) => Verdict::Accepted(skipped + len),
                    verdict => verdict,
                }
            }
            Reading::Response => read_response(&mut search, &input[..arrived], limits),
        };
        if verdict != Verdict::Awaited || arrived == input.len() {
            return verdict;
        }
    }
}

/// As a session reads it.
fn read_request(search: &mut Search, wire: &[u8], limits: HeadLimits) -> Verdict {
    match head::arriving_request(search, wire, limits) {
        Ok(Some(len)) => match head::request(&wire[..len], search) {
            Ok(_) => Verdict::Accepted(len),
            Err(reject) => Verdict::Refused(reject.status),
        },
        Ok(None) => Verdict::Awaited,
        Err(reject) => Verdict::Refused(reject.status),
    }
}

fn read_response(search: &mut Search, wire: &[u8], limits: HeadLimits) -> Verdict {
    match search.end(wire, limits) {
        Ok(Some(len)) => match head::response(&wire[..len], search, Method::Get) {
            Ok(_) => Verdict::Accepted(len),
            Err(_) => Verdict::Refused(502),
        },
        Ok(None) => Verdict::Awaited,
        Err(_) => Verdict::Refused(502),
    }
}

fn check_written(bytes: &[u8], reading: Reading, limits: HeadLimits) {
    let mut search = Search::default();
    let skipped = if reading == Reading::Request { search.skip_empty_line(bytes) } else { 0 };
    let bytes = &bytes[skipped..];
    let found = search.end(bytes, limits);
    assert_eq!(found, Ok(Some(bytes.len())), "a head ends where it ends");
    if reading == Reading::Request {
        match head::request(bytes, &search) {
            // One that is refused is not forwarded.
            Ok(head) if head.refusal.is_some() => (),
            Ok(head) => check_request(bytes, &head),
            Err(reject) => panic!("accepted before, and now {reject:?}"),
        }
        return;
    }
    for method in [Method::Get, Method::Head, Method::Connect] {
        if let Ok(head) = head::response(bytes, &search, method) {
            check_response(bytes, &head, method);
        }
    }
}

fn check_request(bytes: &[u8], head: &RequestHead<'_>) {
    let came = fields_of(bytes);
    for bits in 0..4 {
        let rules = RequestRules {
            peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
            trusted: bits & 1 == 1,
            via: bits & 1 == 0,
            upstream_host: bits & 2 == 2,
        };
        let mut out = Buffer::default();
        out.retain();
        if let Some(slot) = rewrite::request(head, &rules, &mut out) {
            out.replace(slot.at, slot.len, UPSTREAM);
        }
        let written = out.unread();
        check_lines(written);
        let (method, target, left) = parts_of(written);
        assert_eq!(method, head.method, "one method");
        let (before, path) = head.target.forwarded(head.request.method);
        assert_eq!(target, [before, path].concat(), "one target");
        check_framing(&left, head.request.framing);
        assert_eq!(count(&left, "host"), 1, "one host");
        let expects = usize::from(head.request.expects_continue);
        assert!(count(&left, "expect").min(1) <= expects, "nobody expects anything");
        check_hops(&came, &left, head.request.upgrade);
        assert_eq!(count(&left, "proxy-authorization"), 0, "a secret of one hop");
        check_kept(&came, &left, !rules.trusted);
        if !rules.trusted {
            let told = |name: &str| name.replace('_', "-").starts_with("x-forwarded-");
            let others = left.iter().filter(|(name, _)| told(name));
            let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
            assert!(others.map(|(name, _)| name.as_str()).all(|name| ours.contains(&name)));
        }
        check_read_again(written, head);
    }
}

/// Our own reader takes what was written for what it was.
fn check_read_again(written: &[u8], head: &RequestHead<'_>) {
    let limits = HeadLimits { line: 1 << 15, head: 1 << 15, fields: 256 };
    if written.len() > limits.head {
        return;
    }
    let mut search = Search::default();
    assert_eq!(search.end(written, limits), Ok(Some(written.len())), "one head");
    let again = head::request(written, &search);
    let again = again.unwrap_or_else(|reject| panic!("{reject:?}")).request;
    assert_eq!(again.framing, head.request.framing, "one framing");
    assert_eq!(again.method, head.request.method, "one method");
    assert_eq!(again.upgrade, head.request.upgrade, "an upgrade is one");
    assert!(again.keep_alive, "the hop to the upstream persists");
}

fn check_response(bytes: &[u8], head: &ResponseHead<'_>, method: Method) {
    let came = fields_of(bytes);
    for (version, persists, via) in [
        (Version::Http11, true, false),
        (Version::Http11, false, true),
        (Version::Http10, true, true),
    ] {
        // As a session does, see `leaves_as`.
        let framing = match (head.response.framing, version) {
            (framing @ (Framing::Empty | Framing::Length(_)), _) => framing,
            (_, Version::Http11) => Framing::Chunked,
            (_, Version::Http10) => Framing::UntilClose,
        };
        let rules = ResponseRules { framing, method, version, persists, via };
        let mut out = Buffer::default();
        rewrite::response(head, &rules, &mut out);
        check_lines(out.unread());
        let mut fields = [httparse::EMPTY_HEADER; 512];
        let mut read = httparse::Response::new(&mut fields);
        let status = read.parse(out.unread()).expect("httparse reads what was written");
        assert_eq!(status, httparse::Status::Complete(out.len()), "one head");
        assert_eq!(read.code, Some(head.response.status), "one status");
        let left = owned(read.headers);
        let is_about_body = method == Method::Head || head.response.status == 304;
        if matches!(head.response.status, 100..=199 | 204) {
            assert_eq!(count(&left, "content-length") + count(&left, "transfer-encoding"), 0);
        } else if is_about_body {
            // They tell what a body would have; together they would say two things.
            assert!(count(&left, "content-length") + count(&left, "transfer-encoding") <= 1);
        } else {
            check_framing(&left, framing);
        }
        if version == Version::Http10 {
            assert_eq!(count(&left, "transfer-encoding"), 0, "HTTP/1.0 knows no chunks");
        }
        let is_upgrade = matches!(head.response.status, 101 | 426);
        check_hops(&came, &left, is_upgrade);
        assert_eq!(count(&left, "proxy-authenticate"), 0, "a challenge of one hop");
        check_kept(&came, &left, false);
    }
}

/// Every line ends with CRLF, and no other control byte than a tab stands in one.
fn check_lines(written: &[u8]) {
    let text = written.strip_suffix(b"\r\n\r\n").expect("an empty line at the end");
    for line in text.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.is_empty(), "one empty line, at the end");
        assert!(line.iter().all(|b| *b >= b' ' && *b != 0x7f || *b == b'\t'), "{line:?}");
    }
    let is_end = |at: usize| written.get(at + 1) == Some(&b'\n');
    assert!(written.iter().enumerate().all(|(at, b)| *b != b'\r' || is_end(at)));
}

fn parts_of(written: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<Field>) {
    let line = written.split(|b| *b == b'\r').next().unwrap_or_default();
    let parts: Vec<_> = line.split(|b| *b == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts[..] else { panic!("three parts: {line:?}") };
    // The target is compared as it is; httparse would want it to be UTF-8.
    let fields = fields_of(written);
    (method.to_vec(), target.to_vec(), fields)
}

/// The fields of a head as httparse reads them.
fn fields_of(head: &[u8]) -> Vec<Field> {
    let start = head.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(0);
    let line = head[start..].iter().position(|b| *b == b'\n').expect("a first line");
    let mut fields = [httparse::EMPTY_HEADER; 512];
    match httparse::parse_headers(&head[start + line + 1..], &mut fields) {
        Ok(httparse::Status::Complete((len, fields))) => {
            assert_eq!(start + line + 1 + len, head.len(), "one end");
            owned(fields)
        }
        other => panic!("httparse refuses fields that are accepted: {other:?}"),
    }
}

fn owned(fields: &[httparse::Header<'_>]) -> Vec<Field> {
    fields.iter().map(|f| (f.name.to_ascii_lowercase(), f.value.trim_ascii().to_vec())).collect()
}

fn count(fields: &[Field], name: &str) -> usize {
    fields.iter().filter(|(n, _)| n == name).count()
}

fn check_framing(fields: &[Field], framing: Framing) {
    let values = |name: &str| -> Vec<String> {
        let of_name = fields.iter().filter(|(n, _)| n == name);
        of_name.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match framing {
        Framing::Empty | Framing::UntilClose => assert!(lengths.is_empty() && codings.is_empty()),
        Framing::Length(length) => {
            assert_eq!(lengths, [length.to_string()], "the length that was understood");
            assert!(codings.is_empty());
        }
        Framing::Chunked => {
            assert!(lengths.is_empty());
            assert_eq!(codings, ["chunked"]);
        }
    }
}

/// No field of one hop is left, but for what is said anew about the next one.
fn check_hops(came: &[Field], left: &[Field], may_upgrade: bool) {
    let options: Vec<_> = of(left, "connection").collect();
    assert!(options.len() <= 1, "one Connection field");
    for (name, value) in left {
        let value = String::from_utf8_lossy(value);
        match name.as_str() {
            "te" => assert_eq!(value, "trailers"),
            "connection" => {
                let known =
                    ["close", "keep-alive", "upgrade", "TE", "upgrade, TE", "upgrade, close"];
                assert!(known.contains(&&*value), "{value}");
            }
            "upgrade" => {
                assert!(may_upgrade, "nobody asked for an upgrade");
                let mut protocols = value.split(',').map(str::trim);
                assert!(protocols.all(|p| !p.eq_ignore_ascii_case("h2c")), "{value}");
            }
            "transfer-encoding" => assert_eq!(value, "chunked"),
            name => assert!(!HOP_BY_HOP.contains(&name), "{name} is about one hop"),
        }
    }
    // What we say ourselves may have the name of something that the sender took back.
    let ours = |name: &str| {
        let known = ["via", "connection", "te", "upgrade"];
        known.contains(&name) || name.starts_with("x-forwarded-")
    };
    for (_, value) in came.iter().filter(|(name, _)| name == "connection") {
        for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            let option = String::from_utf8_lossy(option).to_ascii_lowercase();
            assert!(option.is_empty() || ours(&option) || count(left, &option) == 0, "{option}");
        }
    }
}

fn of<'a>(fields: &'a [Field], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |(n, _)| n == name).map(|(_, value)| &value[..])
}

/// Fields that mean nothing to us are the same, in the same order.
/// `drops`: those of a proxy that is not trusted are not.
fn check_kept(came: &[Field], left: &[Field], drops: bool) {
    const KNOWN: [&str; 19] = [
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "max-forwards",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ];
    let named: Vec<String> = of(came, "connection")
        .flat_map(|value| value.split(|b| *b == b','))
        .map(|option| String::from_utf8_lossy(option.trim_ascii()).to_ascii_lowercase())
        .collect();
    let is_forwarded = |name: &str| name.replace('_', "-").starts_with("x-forwarded-");
    let unknown = |(name, _): &&Field| {
        !(KNOWN.contains(&name.as_str()) || named.contains(name) || drops && is_forwarded(name))
    };
    let came: Vec<_> = came.iter().filter(unknown).collect();
    let left: Vec<_> = left.iter().filter(unknown).collect();
    assert_eq!(came, left, "what is not known passes as it came");
}
