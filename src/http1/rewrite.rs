//! What goes on: the head as it leaves, written straight into the output.
//!
//! Every field is passed on as it came, in its order, unless the tables below say otherwise (RFC
//! 9110 §7.6). Framing fields are written anew from what was understood. Not here: what is refused
//! (`head.rs`), where it goes (`session/`).

use std::net::IpAddr;

use super::head::{RequestHead, ResponseHead, is_h2c};
use crate::buffer::Buffer;
use crate::message::Reply;
use crate::message::fields::{ConnectionOptions, Field, Fields, Name, compare_names, elements};
use crate::message::{Framing, Method, Version, fields, status};

/// What a request is told about the way it took.
#[derive(Clone, Copy, Debug)]
pub struct RequestRules {
    /// The address of the peer that sent it.
    pub peer: IpAddr,
    /// Whether what that peer says about the hop before it is believed.
    pub trusted: bool,
    /// Append `Via`.
    pub via: bool,
    /// `Host` is the upstream's own name.
    pub upstream_host: bool,
}

/// Where the upstream's own name belongs in a head that was written, in bytes from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSlot {
    /// Where it begins.
    pub at: usize,
    /// Its length now; 0 until an upstream is chosen.
    pub len: usize,
}

/// Writes the head of a request to an upstream, always HTTP/1.1. `out` is empty. Returns the place
/// for the upstream's name if the request has no host of its own to go by.
///
/// | field                                            | goes on                                          |
/// |--------------------------------------------------|--------------------------------------------------|
/// | `Host`                                           | the target's authority, else as it came, else the upstream's name |
/// | `Content-Length`, `Transfer-Encoding`            | anew, in its place                               |
/// | `Connection`, what it names, `Keep-Alive`, `Proxy-Connection`, `Proxy-Authorization`, `HTTP2-Settings` | no |
/// | `TE`                                             | `trailers` alone, then with `Connection: TE`     |
/// | `Upgrade`                                        | if an upgrade is asked for, without `h2c`        |
/// | `Expect`                                         | from HTTP/1.1                                    |
/// | `X-Forwarded-For`                                | with the peer's address appended                 |
/// | `X-Forwarded-Proto`, `X-Forwarded-Host`          | if the peer is trusted, else they are set        |
/// | `Forwarded`, every other `X-Forwarded-*`         | if the peer is trusted                           |
/// | `Max-Forwards` of OPTIONS                        | less one                                         |
pub fn request(head: &RequestHead<'_>, rules: &RequestRules, out: &mut Buffer) -> Option<HostSlot> {
    let fields = &head.fields;
    let (before, target) = head.target.forwarded(head.request.method);
    for part in [head.method, b" ", before, target, b" HTTP/1.1\r\n"] {
        out.push(part);
    }
    let mut host_slot = None;
    let mut host = |name: &[u8], out: &mut Buffer| {
        out.push(name);
        out.push(b": ");
        match head.authority.filter(|_| !rules.upstream_host) {
            Some(authority) => out.push(authority),
            None => host_slot = Some(HostSlot { at: out.len(), len: 0 }),
        }
        out.push(b"\r\n");
    };
    if !fields.has(Name::Host) {
        host(b"Host", out);
    }
    let last_forwarded_for = fields.last(Name::XForwardedFor);
    for (index, field) in fields.iter().enumerate() {
        if field.is_hop_by_hop {
            continue;
        }
        match field.name {
            Name::Other | Name::Via | Name::Trailer => line(field.line, out),
            Name::Host => host(field.name_bytes, out),
            Name::ContentLength => length(field, head.request.framing, out),
            Name::TransferEncoding => named(field, b"chunked", out),
            Name::Expect if head.request.expects_continue => line(field.line, out),
            Name::XForwardedFor if Some(index) == last_forwarded_for => {
                out.push(field.line);
                forwarded_for(field.value, rules.peer, out);
            }
            Name::XForwardedFor => line(field.line, out),
            Name::XForwardedProto
            | Name::XForwardedHost
            | Name::XForwardedOther
            | Name::Forwarded
                if rules.trusted =>
            {
                line(field.line, out);
            }
            Name::MaxForwards => max_forwards(field, head.request.method, out),
            _ => (),
        }
    }
    request_connection(head, out);
    request_provenance(head, rules, out);
    out.push(b"\r\n");
    host_slot
}

fn request_connection(head: &RequestHead<'_>, out: &mut Buffer) {
    let fields = &head.fields;
    let takes_trailers = fields
        .values(Name::Te)
        .flat_map(elements)
        .any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    if head.request.upgrade {
        upgrade(fields, out);
    }
    if takes_trailers {
        out.push(b"TE: trailers\r\n");
    }
    match (head.request.upgrade, takes_trailers) {
        (true, true) => out.push(b"Connection: upgrade, TE\r\n"),
        (true, false) => out.push(b"Connection: upgrade\r\n"),
        (false, true) => out.push(b"Connection: TE\r\n"),
        (false, false) => (),
    }
}

fn request_provenance(head: &RequestHead<'_>, rules: &RequestRules, out: &mut Buffer) {
    let fields = &head.fields;
    // A field that the client's own `Connection` named was not passed on, so it is set here.
    let passed_on = |name: Name| fields.has_end_to_end(name);
    if !passed_on(Name::XForwardedFor) {
        out.push(b"X-Forwarded-For:");
        forwarded_for(b"", rules.peer, out);
    }
    if !(rules.trusted && passed_on(Name::XForwardedProto)) {
        out.push(b"X-Forwarded-Proto: http\r\n");
    }
    if !(rules.trusted && passed_on(Name::XForwardedHost))
        && let Some(authority) = head.authority.filter(|authority| !authority.is_empty())
    {
        out.push(b"X-Forwarded-Host: ");
        line(authority, out);
    }
    if rules.via {
        out.push(match head.request.version {
            Version::Http11 => b"Via: 1.1 balancebeam\r\n",
            Version::Http10 => b"Via: 1.0 balancebeam\r\n",
        });
    }
}

/// Ends a line of which the field name, and `before` as value, have been written.
fn forwarded_for(before: &[u8], peer: IpAddr, out: &mut Buffer) {
    let mut text = [0; 48];
    let mut rest = &mut text[..];
    // The longest address has 39 characters, so this cannot fail.
    let _ = std::io::Write::write_fmt(&mut rest, format_args!("{}", peer.to_canonical()));
    let len = 48 - rest.len();
    out.push(if before.is_empty() { b" " } else { b", " });
    line(&text[..len], out);
}

/// RFC 9110 §7.6.2: each hop takes one off. 0 was answered here and did not come so far.
fn max_forwards(field: Field<'_>, method: Method, out: &mut Buffer) {
    match fields::number(field.value) {
        Some(hops) if method == Method::Options => {
            named(field, decimal(hops.saturating_sub(1), &mut [0; 20]), out);
        }
        _ => line(field.line, out),
    }
}

/// What a response is told about the way it took, and about the client's connection.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRules {
    /// The framing in which the body leaves.
    pub framing: Framing,
    /// The method of the request.
    pub method: Method,
    /// The client's version.
    pub version: Version,
    /// Whether the client's connection will be used again.
    pub persists: bool,
    /// Append `Via`.
    pub via: bool,
}

/// Writes the head of a response to a client, always HTTP/1.1.
///
/// | field                                            | goes on                                           |
/// |--------------------------------------------------|---------------------------------------------------|
/// | `Content-Length`                                 | anew, once, unless the status has no framing or the fields contradict each other |
/// | `Transfer-Encoding`                              | anew, if the body leaves in chunks or would have (HEAD) |
/// | `Connection`, what it names, `Keep-Alive`, `Proxy-Connection`, `Proxy-Authenticate`, `TE` | no |
/// | `Upgrade`                                        | with 101 and 426, then with `Connection: upgrade` |
pub fn response(head: &ResponseHead<'_>, rules: &ResponseRules, out: &mut Buffer) {
    let fields = &head.fields;
    let status = head.response.status;
    out.push(b"HTTP/1.1 ");
    out.push(head.status_and_reason);
    out.push(if head.status_and_reason.len() == 3 { b" \r\n" } else { b"\r\n" });
    let is_upgrade = matches!(status, 101 | 426);
    let has_no_framing = matches!(status, 100..=199 | 204);
    let mut length = match head.told {
        Some(Framing::Length(length)) if !has_no_framing => Some(length),
        _ => None,
    };
    for field in fields.iter() {
        if field.is_hop_by_hop {
            continue;
        }
        match field.name {
            Name::ContentLength => {
                if let Some(length) = length.take() {
                    named(field, decimal(length, &mut [0; 20]), out);
                }
            }
            Name::Connection | Name::KeepAlive | Name::ProxyConnection => (),
            Name::TransferEncoding | Name::Upgrade => (),
            Name::ProxyAuthenticate | Name::Te | Name::Http2Settings => (),
            _ => line(field.line, out),
        }
    }
    let would_be_chunked = rules.method == Method::Head
        && head.told == Some(Framing::Chunked)
        && rules.version == Version::Http11
        && !has_no_framing;
    if rules.framing == Framing::Chunked || would_be_chunked {
        out.push(b"Transfer-Encoding: chunked\r\n");
    }
    if is_upgrade {
        upgrade(fields, out);
    }
    if rules.via {
        out.push(match head.response.version {
            Version::Http11 => b"Via: 1.1 balancebeam\r\n",
            Version::Http10 => b"Via: 1.0 balancebeam\r\n",
        });
    }
    let is_interim = matches!(status, 100..=199);
    match (rules.persists, rules.version) {
        _ if is_upgrade && fields.has(Name::Upgrade) => {
            let close = !rules.persists && !is_interim;
            out.push(if close {
                b"Connection: upgrade, close\r\n"
            } else {
                b"Connection: upgrade\r\n"
            });
        }
        _ if is_interim => (),
        (true, Version::Http11) => (),
        (true, Version::Http10) => out.push(b"Connection: keep-alive\r\n"),
        (false, _) => out.push(b"Connection: close\r\n"),
    }
    out.push(b"\r\n");
}

/// An answer of the balancer's own, as it leaves.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// What is said.
    pub reply: Reply,
    /// Whether the answer's body is left out because HEAD was asked.
    pub is_head: bool,
    /// Whether the connection will be used again.
    pub persists: bool,
    /// The client's version.
    pub version: Version,
}

/// The methods that are served, for `Allow`.
const ALLOW: &[u8] = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n";

/// Writes a whole answer of the balancer's own.
pub fn answer(answer: &Answer, out: &mut Buffer) {
    let Reply { status, why, .. } = answer.reply;
    let reason = status::reason(status);
    let body_len = if why.is_empty() { 0 } else { "balancebeam: \n".len() + why.len() };
    out.push(format!("HTTP/1.1 {status} {reason}\r\n").as_bytes());
    if body_len > 0 {
        out.push(b"Content-Type: text/plain; charset=utf-8\r\n");
    }
    out.push(format!("Content-Length: {body_len}\r\n").as_bytes());
    if let Some(seconds) = answer.reply.retry_after {
        out.push(format!("Retry-After: {seconds}\r\n").as_bytes());
    }
    if answer.reply.allow {
        out.push(ALLOW);
    }
    match (answer.persists, answer.version) {
        (true, Version::Http11) => (),
        (true, Version::Http10) => out.push(b"Connection: keep-alive\r\n"),
        (false, _) => out.push(b"Connection: close\r\n"),
    }
    out.push(b"\r\n");
    if body_len > 0 && !answer.is_head {
        for part in ["balancebeam: ", why, "\n"] {
            out.push(part.as_bytes());
        }
    }
}

/// Which trailer fields go on. The head is gone when they come, so what it said of them is kept.
#[derive(Debug, Default)]
pub struct TrailerRules {
    /// Unknown names that the `Connection` fields of the head list, in the order of `compare_names`;
    /// at most `MAX_UNKNOWN_OPTIONS`.
    named: Box<[Box<[u8]>]>,
    options: ConnectionOptions,
    /// Whether every `X-Forwarded-*` ends here: an untrusted peer sent it.
    drops_forwarded: bool,
}

impl TrailerRules {
    /// For the trailers behind a head with `fields`. Without chunks there are none.
    /// `drops_forwarded`: it came from a peer that is not trusted.
    pub fn new(fields: &Fields<'_>, framing: Framing, drops_forwarded: bool) -> Self {
        if framing != Framing::Chunked {
            return TrailerRules::default();
        }
        let mut named: Box<[Box<[u8]>]> = fields.unknown_options().map(Box::from).collect();
        named.sort_unstable_by(|a, b| compare_names(a, b));
        TrailerRules { named, options: fields.options(), drops_forwarded }
    }

    /// Whether a trailer field may go on: not if it is about framing, routing or one hop, or if the
    /// head's `Connection` names it (RFC 9110 §7.6.1).
    pub fn is_forwarded(&self, line: &[u8]) -> bool {
        let Ok((colon, _)) = fields::field_line(line) else { return false };
        let name = &line[..colon];
        let may_pass = match Name::of(name) {
            Name::Other => true,
            Name::XForwardedOther => !self.drops_forwarded,
            _ => false,
        };
        may_pass
            && !self.options.closes(name)
            && self.named.binary_search_by(|named| compare_names(named, name)).is_err()
    }
}

/// `Upgrade` with every protocol but h2c; nothing if that leaves none.
fn upgrade(fields: &Fields<'_>, out: &mut Buffer) {
    let mut separator: &[u8] = b"Upgrade: ";
    let protocols = fields.values(Name::Upgrade).flat_map(elements);
    for protocol in protocols.filter(|protocol| !is_h2c(protocol)) {
        out.push(separator);
        out.push(protocol);
        separator = b", ";
    }
    if separator == b", " {
        out.push(b"\r\n");
    }
}

fn length(field: Field<'_>, framing: Framing, out: &mut Buffer) {
    if let Framing::Length(length) = framing {
        named(field, decimal(length, &mut [0; 20]), out);
    }
}

/// Writes a number into `text`, and returns the part that holds it.
fn decimal(mut number: u64, text: &mut [u8; 20]) -> &[u8] {
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &text[at..];
        }
    }
}

fn named(field: Field<'_>, value: &[u8], out: &mut Buffer) {
    out.push(field.name_bytes);
    out.push(b": ");
    line(value, out);
}

fn line(bytes: &[u8], out: &mut Buffer) {
    out.push(bytes);
    out.push(b"\r\n");
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
