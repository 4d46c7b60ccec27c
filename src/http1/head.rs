//! Heads: where one ends, and what it says.
//!
//! Everything here refuses and nothing repairs: a head that two programs could read in two ways is
//! not forwarded at all. Not here: single field lines (`fields.rs`), body framing (`framing.rs`),
//! what is written instead (`rewrite.rs`).

use memchr::memchr_iter;

use crate::message::Fault;
use crate::message::fields;
use crate::message::fields::{Fields, Name};
use crate::message::look_at;
use crate::message::target;
use crate::message::target::Target;
use crate::message::{BadResponse, Framing, Method, Reply, Request, Response, Version};

pub use crate::message::fields::MAX_FIELDS;

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the first line without its line end.
    pub line: usize,
    /// Bytes in all.
    pub head: usize,
    /// Field lines.
    pub fields: usize,
}

/// Looks for the end of a head while it arrives, each byte once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Bytes looked at.
    scanned: usize,
    /// Where the line begins that is not whole yet.
    line: usize,
    /// Where the first line ends, once it is whole.
    first: usize,
    /// Field lines so far.
    fields: usize,
    /// Whether an empty line was skipped.
    has_skipped: bool,
    /// Whether the first line was read as a request line.
    is_line_read: bool,
}

impl Search {
    /// The length of the one empty line before a request that is skipped (RFC 9112 §2.2), once it is
    /// whole, else 0. It begins no head: what follows it is searched as if it had not come.
    pub fn skip_empty_line(&mut self, wire: &[u8]) -> usize {
        if self.has_skipped || !wire.starts_with(b"\r\n") {
            return 0;
        }
        *self = Search { has_skipped: true, ..Search::default() };
        2
    }

    /// Returns the length of the head once it is whole. `wire` must begin with the same bytes each
    /// time. Of several faults the first one counts, however the bytes arrive.
    pub fn end(&mut self, wire: &[u8], limits: HeadLimits) -> Result<Option<usize>, Fault> {
        let wire = &wire[..wire.len().min(limits.head)];
        let seen = self.scanned.saturating_sub(1);
        look_at(wire.get(seen..).unwrap_or_default());
        let (until, fault) = match self.lines(wire, limits) {
            Ok(Some(len)) => return Ok(Some(len)),
            Ok(None) => (wire.len(), (wire.len() == limits.head).then_some(Fault::HeadTooLong)),
            Err((until, fault)) => (until, Some(fault)),
        };
        if has_bare_return(&wire[seen..until]) {
            return Err(Fault::Syntax("a carriage return is not followed by a line feed"));
        }
        self.scanned = wire.len();
        fault.map_or(Ok(None), Err)
    }

    /// Goes through the lines that are whole. A fault comes with the bytes that are enough to see
    /// it.
    fn lines(&mut self, wire: &[u8], limits: HeadLimits) -> Result<Option<usize>, (usize, Fault)> {
        let longest = limits.line + 1;
        for line_feed in memchr_iter(b'\n', &wire[self.scanned..]).map(|at| self.scanned + at) {
            let syntax = |why| Err((line_feed + 1, Fault::Syntax(why)));
            let is_first = self.first == 0;
            if is_first && line_feed - self.line > longest {
                break;
            }
            if line_feed == self.line || wire[line_feed - 1] != b'\r' {
                return syntax("a line ends without a carriage return");
            }
            let end = line_feed - 1;
            if end == self.line && !is_first {
                return Ok(Some(line_feed + 1));
            }
            self.fields += usize::from(!is_first);
            if self.fields > limits.fields {
                return Err((line_feed + 1, Fault::TooManyFields));
            }
            if is_first && end == 0 {
                return syntax("an empty line stands before the first line");
            }
            if is_first {
                self.first = end;
            }
            self.line = line_feed + 1;
        }
        if self.first == 0 && wire.len() - self.line > longest {
            return Err((self.line + longest + 1, Fault::LineTooLong));
        }
        Ok(None)
    }

    /// The first line, once it is whole.
    pub fn first_line<'a>(&self, wire: &'a [u8]) -> Option<&'a [u8]> {
        (self.first > 0).then(|| &wire[..self.first])
    }

    /// Where the field lines begin.
    fn fields_start(&self) -> usize {
        self.first + 2
    }
}

/// Whether a carriage return stands before something else than a line feed, which may still come.
fn has_bare_return(wire: &[u8]) -> bool {
    memchr_iter(b'\r', wire).any(|at| wire.get(at + 1).is_some_and(|&b| b != b'\n'))
}

/// Looks for the end of a request's head while it arrives, as `Search::end` does. What is wrong with
/// the first line counts before what is wrong behind it. That line is read when it is whole, and not
/// again for what follows it.
pub fn arriving_request(
    search: &mut Search,
    wire: &[u8],
    limits: HeadLimits,
) -> Result<Option<usize>, Reply> {
    let found = search.end(wire, limits);
    if let (Ok(None) | Err(_), false, Some(line)) =
        (found, search.is_line_read, search.first_line(wire))
    {
        request_line(line)?;
        search.is_line_read = true;
    }
    Ok(found?)
}

/// A request's head, borrowed from where it was read.
pub struct RequestHead<'a> {
    /// What is kept of it.
    pub request: Request,
    /// Its method as it came.
    pub method: &'a [u8],
    /// What it asks for.
    pub target: Target<'a>,
    /// `Host` or, if the target has one, the target's authority; `None` in HTTP/1.0 without `Host`.
    pub authority: Option<&'a [u8]>,
    /// Its fields.
    pub fields: Fields<'a>,
    /// Why it is not served, although its framing can be trusted.
    pub refusal: Option<Reply>,
}

/// Reads the head that `search` has found to be whole.
pub fn request<'a>(head: &'a [u8], search: &Search) -> Result<RequestHead<'a>, Reply> {
    let line = search.first_line(head).unwrap_or_default();
    let (method_bytes, method, target, version) = request_line(line)?;
    let fields = Fields::read(head, search.fields_start(), search.fields)?;
    let authority = authority(&target, &fields, version)?;
    let options = fields.options();
    let framing = Framing::of_request(&fields, version)?;
    let expects_continue = expectation(&fields, version);
    let refusal = match (method, expects_continue) {
        (Method::Connect, _) => Some(Reply::keeping(405, "CONNECT is not served").with_allow()),
        (Method::Trace, _) => Some(Reply::keeping(405, "TRACE is not served").with_allow()),
        (_, Err(reject)) => Some(reject),
        _ => None,
    };
    let request = Request {
        method,
        version,
        framing,
        // Whoever asked for a tunnel may already be talking through it.
        keep_alive: options.keep_alive(version) && method != Method::Connect,
        expects_continue: expects_continue != Ok(false),
        upgrade: version == Version::Http11
            && options.name(Name::Upgrade)
            && fields.values(Name::Upgrade).flat_map(fields::elements).any(|p| !is_h2c(p)),
    };
    Ok(RequestHead { request, method: method_bytes, target, authority, fields, refusal })
}

/// Reads a request line without its line end (RFC 9112 §3).
pub fn request_line(line: &[u8]) -> Result<(&[u8], Method, Target<'_>, Version), Reply> {
    look_at(line);
    const SHAPE: Reply = Reply::bad("the request line is not `method target version`");
    let mut parts = line.splitn(3, |&b| b == b' ');
    let (Some(method_bytes), Some(target), Some(version)) =
        (parts.next(), parts.next(), parts.next())
    else {
        return Err(SHAPE);
    };
    let method = Method::of(method_bytes).ok_or(Reply::bad("the method is not a token"))?;
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            // A line with a bare carriage return is malformed whatever else it says.
            let is_line = memchr::memchr(b'\r', line).is_none();
            let reject = Reply::closing(505, "only HTTP/1.1 and HTTP/1.0 are served");
            return Err(if is_line { reject } else { SHAPE });
        }
        _ => return Err(SHAPE),
    };
    let target = target::read(target, method)?;
    Ok((method_bytes, method, target, version))
}

/// Who is asked (RFC 9112 §3.2): the target's authority wins over `Host`, which must be there all
/// the same.
fn authority<'a>(
    target: &Target<'a>,
    fields: &Fields<'a>,
    version: Version,
) -> Result<Option<&'a [u8]>, Reply> {
    let mut hosts = fields.values(Name::Host);
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Reply::bad("there are several Host fields"));
    }
    match host {
        None if version == Version::Http11 => return Err(Reply::bad("there is no Host field")),
        Some(host) if !target::is_host(host) => {
            return Err(Reply::bad("the Host field is not host or host:port"));
        }
        _ => (),
    }
    Ok(target.authority().or(host))
}

/// Whether the client waits for a 100 (RFC 9110 §10.1.1). HTTP/1.0 has no expectations.
fn expectation(fields: &Fields<'_>, version: Version) -> Result<bool, Reply> {
    if version == Version::Http10 || !fields.has_end_to_end(Name::Expect) {
        return Ok(false);
    }
    if fields.values(Name::Expect).all(|value| value.eq_ignore_ascii_case(b"100-continue")) {
        Ok(true)
    } else {
        Err(Reply::keeping(417, "only the expectation 100-continue is met"))
    }
}

/// Whether an answer begins like a TLS record: an alert or a handshake, of any version (RFC 8446
/// §5.1).
pub fn is_tls(wire: &[u8]) -> bool {
    matches!(wire, [0x15 | 0x16, 0x03, ..])
}

/// A response's head, borrowed from where it was read.
pub struct ResponseHead<'a> {
    /// What is kept of it.
    pub response: Response,
    /// The status as it came, and behind a space the reason phrase, which may be empty. Without a
    /// reason the space may be missing.
    pub status_and_reason: &'a [u8],
    /// What its fields tell of a body, if they tell one thing: one that has no body may have them.
    pub told: Option<Framing>,
    /// Its fields.
    pub fields: Fields<'a>,
}

/// Reads the head that `search` has found to be whole, as the answer to a request with `method`.
pub fn response<'a>(
    head: &'a [u8],
    search: &Search,
    method: Method,
) -> Result<ResponseHead<'a>, BadResponse> {
    let line = search.first_line(head).unwrap_or_default();
    let (version, status, status_and_reason) = status_line(line)?;
    let fields = Fields::read(head, search.fields_start(), search.fields)?;
    let told = Framing::told(&fields, version);
    let framing = Framing::of_response(told, status, method)?;
    let keep_alive = fields.options().keep_alive(version);
    let response = Response { status, version, framing, keep_alive };
    Ok(ResponseHead { response, status_and_reason, told: told.ok(), fields })
}

/// Reads a status line without its line end (RFC 9112 §4): version, status, and both with the
/// reason. A common deviation has one reading alone: no reason, and no space before it.
pub fn status_line(line: &[u8]) -> Result<(Version, u16, &[u8]), BadResponse> {
    const SHAPE: BadResponse = BadResponse("the status line is not `version status reason`");
    let (version, rest) = match line.split_at_checked(9) {
        Some((b"HTTP/1.1 ", rest)) => (Version::Http11, rest),
        Some((b"HTTP/1.0 ", rest)) => (Version::Http10, rest),
        _ => return Err(SHAPE),
    };
    match rest {
        [a @ b'1'..=b'9', b, c, reason @ ..]
            if b.is_ascii_digit()
                && c.is_ascii_digit()
                && matches!(reason.first(), None | Some(b' '))
                && reason.iter().all(|&b| fields::is_value_byte(b)) =>
        {
            let digit = |d: u8| u16::from(d - b'0');
            Ok((version, digit(*a) * 100 + digit(*b) * 10 + digit(*c), rest))
        }
        _ => Err(SHAPE),
    }
}

/// HTTP/2 in clear text is a matter of one hop, and not spoken here.
pub fn is_h2c(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"h2c")
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
