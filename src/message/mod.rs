//! What a message says, in any version of HTTP (RFC 9110).
//!
//! A message that breaks the rules is rejected, never repaired. Where a comment says "rule" and a
//! number, here and everywhere, it means a rule of `docs/protocol.md`. Not here: how a message is
//! framed on the wire (`http1/`), sockets, clocks, upstreams, or what to do with a message
//! (`session/`).

mod fault;
pub mod fields;
mod reply;
pub mod status;
pub mod target;

pub use fault::Fault;
pub use reply::Reply;

#[cfg(test)]
thread_local! {
    /// Bytes that this thread has looked at.
    pub(crate) static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts `bytes` as looked at, so that tests can compare heads by work instead of time.
#[inline(always)]
pub(crate) fn look_at(bytes: &[u8]) {
    #[cfg(test)]
    LOOKED_AT.set(LOOKED_AT.get() + bytes.len());
    let _ = bytes;
}

/// A response that cannot be trusted; the client gets 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadResponse(pub &'static str);

impl BadResponse {
    /// There were bytes before the request was sent.
    pub const SPOKE_FIRST: BadResponse = BadResponse("the upstream spoke before it was asked");
    /// A 101 to a request that asked for no upgrade, or was not whole.
    pub const SWITCHED: BadResponse =
        BadResponse("the upstream switched protocols without being asked");
    /// The bytes are a TLS record.
    pub const IN_TLS: BadResponse =
        BadResponse("it answers in TLS; give the address of a port that speaks HTTP without TLS");
}

/// A body that breaks its framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBody(pub &'static str);

/// The two versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// The methods that make a difference here (RFC 9110 §9); every other token is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Safe.
    Get,
    /// Safe; its answer has no body.
    Head,
    /// Safe; may end here (`Max-Forwards`).
    Options,
    /// Refused.
    Trace,
    /// Refused: this is no forward proxy.
    Connect,
    /// PUT, DELETE and the safe methods of WebDAV: sent twice, they do what they do once.
    OtherIdempotent,
    /// POST, PATCH and whatever is not known.
    Other,
}

impl Method {
    /// Reads a method; `None` if it is not a token (RFC 9110 §9.1). Methods are case-sensitive.
    pub fn of(bytes: &[u8]) -> Option<Method> {
        Some(match bytes {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"CONNECT" => Method::Connect,
            b"PUT" | b"DELETE" | b"PROPFIND" | b"REPORT" | b"SEARCH" => Method::OtherIdempotent,
            _ if fields::is_token(bytes) => Method::Other,
            _ => return None,
        })
    }

    /// Whether sending it twice has the effect of sending it once (RFC 9110 §9.2.2).
    pub fn is_idempotent(self) -> bool {
        !matches!(self, Method::Other | Method::Connect)
    }
}

/// How the end of a message's body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks, then an empty one and trailers.
    Chunked,
    /// Everything until the connection ends; responses only.
    UntilClose,
}

/// What is kept of a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// The version it came in.
    pub version: Version,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the client wants to use its connection again (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Whether it waits for a 100 before it sends its body (RFC 9110 §10.1.1).
    pub expects_continue: bool,
    /// Whether it asks for another protocol (RFC 9110 §7.8).
    pub upgrade: bool,
}

/// What is kept of a response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Three digits.
    pub status: u16,
    /// The version it came in.
    pub version: Version,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the upstream will take another request on its connection.
    pub keep_alive: bool,
}
