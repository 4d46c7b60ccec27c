//! No message costs much more work than a plain one of its size: the bytes that are looked at are
//! counted, which says the same on every machine.

use std::net::{IpAddr, Ipv4Addr};

use super::body::{Decoder, Encoder, Flow, Transfer};
use super::head;
use super::head::{HeadLimits, Search};
use super::rewrite;
use super::rewrite::{RequestRules, ResponseRules, TrailerRules};
use crate::buffer::Buffer;
use crate::message::{Framing, LOOKED_AT, Method, Version};

/// As by default.
const LIMITS: HeadLimits = HeadLimits { line: 8 * 1024, head: 16 * 1024, fields: 100 };

/// How often a byte may be looked at, compared with a byte of a plain message.
const MOST: usize = 8;

/// Bytes that `run` looks at.
fn work(run: impl FnOnce()) -> usize {
    let before = LOOKED_AT.get();
    run();
    LOOKED_AT.get() - before
}

/// Reads a request that arrives in pieces of `piece` bytes, and writes what goes on of it.
fn forward_request(wire: &[u8], piece: usize) {
    let mut search = Search::default();
    for end in (piece..wire.len()).step_by(piece).chain([wire.len()]) {
        let whole = (end == wire.len()).then_some(end);
        assert_eq!(head::arriving_request(&mut search, &wire[..end], LIMITS), Ok(whole));
    }
    let rules = RequestRules {
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        trusted: false,
        via: true,
        upstream_host: false,
    };
    if let Ok(head) = head::request(wire, &search) {
        rewrite::request(&head, &rules, &mut Buffer::default());
    }
}

fn forward_response(wire: &[u8]) {
    let mut search = Search::default();
    let limits = HeadLimits { line: LIMITS.head, ..LIMITS };
    assert_eq!(search.end(wire, limits), Ok(Some(wire.len())));
    let rules = ResponseRules {
        framing: Framing::Empty,
        method: Method::Head,
        version: Version::Http11,
        persists: true,
        via: true,
    };
    if let Ok(head) = head::response(wire, &search, Method::Head) {
        rewrite::response(&head, &rules, &mut Buffer::default());
    }
}

/// A head of the largest size that begins with `begin`: `part` over and over, at most so often, and
/// as a last field what is left.
fn head(begin: &str, part: &str, most: usize) -> Vec<u8> {
    let end = "\r\nCookie: \r\n\r\n";
    let room = LIMITS.head - begin.len() - end.len();
    let mut wire = begin.to_string() + &part.repeat((room / part.len()).min(most));
    wire += "\r\nCookie: ";
    wire += &"c".repeat(LIMITS.head - wire.len() - 4);
    (wire + "\r\n\r\n").into_bytes()
}

/// Fields that a sender may choose so that each byte of them is dear.
fn crafted(first: &str) -> Vec<(String, Vec<u8>)> {
    let short = "A:\r\n".repeat(95);
    let long = |last: usize| format!("{}{last:02}", "a".repeat(120));
    let names: String = (0..60).map(|last| long(last) + ":\r\n").collect();
    let options: Vec<_> = (68..100).map(long).collect();
    let mut all = vec![
        ("32 options and many names".to_string(), {
            let begin = format!("{first}\r\n{names}Connection: {}", options.join(","));
            head(&begin, "-", 0)
        }),
        ("many fields".to_string(), head(first, "\r\nA: b", 95)),
    ];
    for (name, element) in [
        ("Connection", "Z,"),
        ("Connection", "close,"),
        ("Connection", ","),
        ("Connection: upgrade\r\nUpgrade", "h2c,"),
        ("Connection: upgrade\r\nUpgrade", "x,"),
        ("TE", "t,"),
        ("X-Forwarded-For", "10.0.0.1,"),
        ("Via", "1.1 a,"),
        ("Expect", "100-continue,"),
        ("Content-Length", "7,"),
        ("Content-Length", "0"),
        ("Transfer-Encoding", "x,"),
    ] {
        let begin = format!("{first}\r\n{short}{name}: ");
        all.push((format!("{name}: {element}"), head(&begin, element, usize::MAX)));
    }
    for field in ["Connection: a", "TE: a", "Expect: 100-continue", "X-Forwarded-For: 10.0.0.1"] {
        all.push((field.to_string(), head(first, &format!("\r\n{field}"), 95)));
    }
    all
}

#[test]
fn no_request_head_costs_much_more_work_than_a_cookie_of_its_size() {
    let first = "GET / HTTP/1.1\r\nHost: a";
    let plain = work(|| forward_request(&head(first, "-", 0), LIMITS.head));
    for (name, wire) in crafted(first) {
        assert_eq!(wire.len(), LIMITS.head);
        let crafted = work(|| forward_request(&wire, LIMITS.head));
        assert!(crafted <= MOST * plain, "{name}: {crafted} bytes, and {plain} for a cookie");
    }
}

#[test]
fn no_response_head_costs_much_more_work_than_a_cookie_of_its_size() {
    let first = "HTTP/1.1 200 OK\r\nA: b";
    let plain = work(|| forward_response(&head(first, "-", 0)));
    for (name, wire) in crafted(first) {
        let crafted = work(|| forward_response(&wire));
        assert!(crafted <= MOST * plain, "{name}: {crafted} bytes, and {plain} for a cookie");
    }
}

#[test]
fn a_head_that_arrives_byte_by_byte_costs_no_more_work_for_a_long_first_line() {
    let first = |len| format!("GET /{} HTTP/1.1\r\nHost: a", "a".repeat(len));
    let [plain, long] = [0, LIMITS.line - 15].map(|len| {
        let wire = head(&first(len), "-", 0);
        work(|| forward_request(&wire, 1))
    });
    assert!(long <= MOST * plain, "{long} bytes, and {plain} with a short one");
}

#[test]
fn a_trailer_that_arrives_byte_by_byte_is_not_searched_again_for_each() {
    let mut transfer =
        Transfer::new(Decoder::new(Framing::Chunked, LIMITS.head, LIMITS.fields), Encoder::CHUNKED);
    let (mut from, mut to) = (Buffer::default(), Buffer::default());
    let wire = format!("0\r\nA: {}\r\n\r\n", "b".repeat(LIMITS.head - 7));
    let looked_at = work(|| {
        for (at, byte) in wire.bytes().enumerate() {
            from.push(&[byte]);
            let flow = transfer.run(&mut from, &mut to, &TrailerRules::default());
            let is_last = at + 1 == wire.len();
            assert_eq!(flow, Ok(if is_last { Flow::Ended } else { Flow::Starved }));
        }
    });
    assert!(looked_at <= MOST * wire.len(), "{looked_at} bytes of {}", wire.len());
}
