//! The check of framing against two other readers; what holds stands in
//! `fuzz_targets/differential.rs`.
//!
//! A client's bytes go through a session, in two ways of cutting them. What it forwards, and when, is
//! compared with what two others read in the same bytes: hyper's server, and the simple reader of
//! `reader.rs`. Each request has a place in the order; one that the session answers itself has one,
//! too. Then both read what the session has written to its upstreams.
//!
//! | difference                                              | allowed because                     |
//! |---------------------------------------------------------|-------------------------------------|
//! | we refuse, they accept (a bare LF, equal lengths twice, a second empty line, `identity`, 17 fields of `Host` …) | refusing never makes two requests of one |
//! | we answer ourselves (405, 413, 417, `Max-Forwards: 0`)  | the request keeps its place, and what follows is compared |
//! | we close, they go on                                    | nothing behind is forwarded         |
//! | hyper refuses a target that `http::Uri` does not take, such as `/"` or one that is not UTF-8 | RFC 9112 §3.2 leaves them to the origin, and no byte of them ends a target; rule 2 forwards them byte for byte. The simple reader still has to agree |
//! | hyper refuses chunk extensions of more than 16 KiB in all | they end here, so no upstream sees them; a line has 256 bytes at most |
//! | a length that `usize`, or hyper, cannot hold            | such a request never becomes whole  |
//!
//! Not allowed: that the simple reader refuses, or sees no end of, what we forward as whole; that
//! either of them finds another method, another body, or another place for it.

use crate::Pieces;
use crate::hyper_reader;
use crate::in_memory::{Exchange, Observation, drive};
use crate::reader::{self, Read, Request};

/// Bytes of chunk extensions that hyper reads in one body.
const HYPER_EXTENSIONS: usize = 16 * 1024;

pub fn check(input: &[u8]) {
    let whole = drive(input, |most| most);
    let mut pieces = Pieces::of(input);
    let in_pieces = drive(input, |most| pieces.next(most));
    assert_eq!(told(&whole), told(&in_pieces), "pieces mean what the whole means");
    for seen in [&whole, &in_pieces] {
        check_answers(seen);
        check_output(seen);
    }
    check_place(input, &whole);
}

/// What of exchanges may not depend on how the bytes were cut.
fn told(seen: &Observation) -> Vec<(u16, Option<[&[u8]; 3]>)> {
    seen.exchanges
        .iter()
        .map(|exchange| {
            let forwarded = exchange.forwarded.as_ref();
            (exchange.status, forwarded.map(|r| [&r.method[..], &r.target, &r.body]))
        })
        .collect()
}

/// The client gets one final answer for each exchange, in order, and nothing else.
fn check_answers(seen: &Observation) {
    let mut rest = &seen.client[..];
    let last = seen.exchanges.len();
    for (place, exchange) in seen.exchanges.iter().enumerate() {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut fields);
        let head = match answer.parse(rest) {
            Ok(httparse::Status::Complete(head)) => head,
            // A client that left in the middle of its last request has no answer.
            _ if place + 1 == last && exchange.status == 499 && rest.is_empty() => return,
            other => panic!("answer {place} of {last}: {other:?}"),
        };
        assert_eq!(answer.code, Some(exchange.status), "answers are in order");
        let length = answer.headers.iter().find(|f| f.name.eq_ignore_ascii_case("content-length"));
        let length = length.map(|f| String::from_utf8_lossy(f.value).parse().expect("a length"));
        let is_head = exchange.forwarded.as_ref().is_some_and(|r| r.method == b"HEAD");
        let body: usize = if is_head { 0 } else { length.unwrap_or(0) };
        // Our own answer to a HEAD has no body; whether it was one can be seen only here.
        let is_cut = rest.len() < head + body || rest[head..].starts_with(b"HTTP/1.1 ");
        rest = &rest[if is_cut { head } else { head + body }..];
    }
    assert!(rest.is_empty(), "an answer too many");
}

/// What was forwarded stands at the same place in what the others read.
fn check_place(input: &[u8], seen: &Observation) {
    let (simple, simple_end) = reader::requests(input);
    let (hyper, hyper_end) = hyper_reader::requests(input);
    for (place, exchange) in seen.exchanges.iter().enumerate() {
        let Exchange { forwarded: Some(request), body_len, .. } = exchange else { continue };
        let Some(original) = simple.get(place) else {
            panic!("request {place} is forwarded, and the reader says {simple_end:?}");
        };
        assert_eq!(request.method, original.method, "method of request {place}");
        assert_eq!(request.target, forwarded_target(original), "target of request {place}");
        assert_eq!(request.body, original.body, "body of request {place}");
        assert_eq!(request.body.len() as u64, *body_len, "length of request {place}");
        match hyper.get(place) {
            Some(hyper) => {
                assert_eq!(request.method, hyper.method, "hyper: method of request {place}");
                assert_eq!(request.body, hyper.body, "hyper: body of request {place}");
            }
            None => {
                let reached = &simple[hyper.len()];
                let excused = hyper_end.is_err() && may_hyper_refuse(reached);
                assert!(excused, "hyper: {hyper_end:?} where request {place} is forwarded");
                return;
            }
        }
    }
}

/// See the table above.
fn may_hyper_refuse(request: &Request) -> bool {
    let is_text = std::str::from_utf8(&request.target).is_ok();
    let is_uri = is_text && http::Uri::try_from(&request.target[..]).is_ok();
    let framing = request.len - request.head_len - request.body.len();
    !is_uri || framing > HYPER_EXTENSIONS
}

/// The target as it has to go on (rule 2), found without the code that is tested.
fn forwarded_target(original: &Request) -> Vec<u8> {
    let target = String::from_utf8_lossy(&original.target).to_ascii_lowercase();
    let Some(authority) = ["http://", "https://"].iter().find_map(|s| target.strip_prefix(s))
    else {
        return original.target.clone();
    };
    let start = target.len() - authority.len();
    let path = original.target[start..].iter().position(|b| matches!(b, b'/' | b'?'));
    match path.map(|at| &original.target[start + at..]) {
        None if original.method == b"OPTIONS" => b"*".to_vec(),
        None => b"/".to_vec(),
        Some(path) if path[0] == b'/' => path.to_vec(),
        Some(query) => [b"/", query].concat(),
    }
}

/// Both readers find in what was written exactly what was meant.
fn check_output(seen: &Observation) {
    let mut meant = seen.exchanges.iter().filter_map(|exchange| exchange.forwarded.as_ref());
    for connection in &seen.connections {
        let (simple, end) = reader::requests(connection);
        assert_eq!(end, Read::Partial, "nothing that is no request goes upstream");
        let (hyper, hyper_end) = hyper_reader::requests(connection);
        for (place, request) in simple.iter().enumerate() {
            assert_eq!(Some(request), meant.next(), "a request that nobody meant");
            match hyper.get(place) {
                Some(hyper) => {
                    assert_eq!((&request.method, &request.body), (&hyper.method, &hyper.body));
                }
                None if place == hyper.len() && may_hyper_refuse(request) => (),
                None => {
                    let refused = simple[..place].iter().any(may_hyper_refuse);
                    assert!(refused, "hyper: {hyper_end:?} at request {place} that goes upstream");
                }
            }
        }
        assert!(hyper.len() <= simple.len(), "hyper sees a request that nobody meant");
    }
    assert_eq!(meant.next(), None, "every request that was meant went upstream");
}
