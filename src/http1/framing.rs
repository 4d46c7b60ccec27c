//! Where a message's body ends: the one question that must never have two answers (RFC 9112 §6).
//!
//! Not here: reading the body (`body.rs`, `chunked.rs`).

use crate::message::fields::{self, Fields, Name, elements, is_token, number};
use crate::message::{BadResponse, Framing, Method, Reply, Version};

impl Framing {
    /// | Transfer-Encoding              | Content-Length | version  | framing or answer      |
    /// |--------------------------------|----------------|----------|------------------------|
    /// | –                              | –              | any      | Empty                  |
    /// | –                              | one number     | any      | Length                 |
    /// | –                              | anything else  | any      | 400                    |
    /// | `chunked`                      | –              | HTTP/1.1 | Chunked                |
    /// | well-formed, but another       | –              | HTTP/1.1 | 501                    |
    /// | several, malformed, misordered | –              | HTTP/1.1 | 400                    |
    /// | any                            | –              | HTTP/1.0 | 400                    |
    /// | any                            | any            | any      | 400                    |
    pub fn of_request(fields: &Fields<'_>, version: Version) -> Result<Framing, Reply> {
        match (fields.has(Name::TransferEncoding), fields.has(Name::ContentLength)) {
            (false, false) => Ok(Framing::Empty),
            (true, true) => Err(Reply::bad("both Transfer-Encoding and Content-Length are given")),
            (false, true) => {
                let mut lengths = fields.values(Name::ContentLength);
                match (lengths.next().and_then(number), lengths.next()) {
                    (Some(length), None) => Ok(Framing::Length(length)),
                    _ => Err(Reply::bad("Content-Length is not one number")),
                }
            }
            (true, false) if version == Version::Http10 => {
                Err(Reply::bad("HTTP/1.0 has no Transfer-Encoding"))
            }
            (true, false) => match Coding::read(fields) {
                Coding::Chunked => Ok(Framing::Chunked),
                Coding::Unknown => Err(Reply::closing(501, "only the coding `chunked` is known")),
                Coding::Malformed => Err(Reply::bad("Transfer-Encoding is not `chunked`")),
            },
        }
    }

    /// An answer to HEAD, a 1xx, 204 or 304 has no body whatever its fields say, even if they
    /// contradict each other (RFC 9112 §6.3). Any other has what they tell.
    pub fn of_response(
        told: Result<Framing, BadResponse>,
        status: u16,
        method: Method,
    ) -> Result<Framing, BadResponse> {
        let has_no_body = method == Method::Head || matches!(status, 100..=199 | 204 | 304);
        if has_no_body { Ok(Framing::Empty) } else { told }
    }

    /// What the fields of a response tell, whether it has a body or not.
    ///
    /// | Transfer-Encoding | Content-Length            | version  | framing or refusal |
    /// |-------------------|---------------------------|----------|--------------------|
    /// | –                 | –                         | any      | UntilClose         |
    /// | –                 | one number, or equal ones | any      | Length             |
    /// | –                 | anything else             | any      | 502                |
    /// | `chunked`         | –                         | HTTP/1.1 | Chunked            |
    /// | anything else     | –                         | HTTP/1.1 | 502                |
    /// | any               | –                         | HTTP/1.0 | 502                |
    /// | any               | any                       | any      | 502                |
    pub fn told(fields: &Fields<'_>, version: Version) -> Result<Framing, BadResponse> {
        match (fields.has(Name::TransferEncoding), fields.has(Name::ContentLength)) {
            (false, false) => Ok(Framing::UntilClose),
            (true, true) => Err(BadResponse("both Transfer-Encoding and Content-Length are given")),
            (false, true) => equal_lengths(fields).map(Framing::Length),
            (true, false) if version == Version::Http10 => {
                Err(BadResponse("HTTP/1.0 has no Transfer-Encoding"))
            }
            (true, false) => match Coding::read(fields) {
                Coding::Chunked => Ok(Framing::Chunked),
                Coding::Unknown | Coding::Malformed => {
                    Err(BadResponse("Transfer-Encoding is not `chunked`"))
                }
            },
        }
    }
}

/// Equal lengths, in one field or several, count as one (RFC 9110 §8.6).
fn equal_lengths(fields: &Fields<'_>) -> Result<u64, BadResponse> {
    const BAD: BadResponse = BadResponse("Content-Length is not one number");
    let mut all = fields.values(Name::ContentLength).flat_map(|v| v.split(|&b| b == b','));
    let length = all.next().and_then(|first| number(fields::trim(first))).ok_or(BAD)?;
    if all.all(|other| number(fields::trim(other)) == Some(length)) { Ok(length) } else { Err(BAD) }
}

/// What a `Transfer-Encoding` says.
enum Coding {
    Chunked,
    /// Well-formed, with `chunked` last or not there at all; somebody may know it.
    Unknown,
    Malformed,
}

impl Coding {
    fn read(fields: &Fields<'_>) -> Coding {
        let mut values = fields.values(Name::TransferEncoding);
        let (Some(value), None) = (values.next(), values.next()) else { return Coding::Malformed };
        if value.eq_ignore_ascii_case(b"chunked") {
            return Coding::Chunked;
        }
        let mut codings = elements(value).peekable();
        if codings.peek().is_none() {
            return Coding::Malformed;
        }
        let mut unknown = false;
        while let Some(coding) = codings.next() {
            let name = coding.split(|&b| b == b';').next().unwrap_or_default();
            let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
            let is_last = codings.peek().is_none();
            if !is_token(fields::trim(name)) || (is_chunked && !is_last) {
                return Coding::Malformed;
            }
            unknown |= !is_chunked;
        }
        if unknown { Coding::Unknown } else { Coding::Malformed }
    }
}
