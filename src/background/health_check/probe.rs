//! What a probe says, what it reads, and what its end means for the upstream's health.
//!
//! Pure: no socket, no clock. Not here: connecting and waiting (`probe_conn.rs`), when to probe
//! (`mod.rs`).

use std::io;

use crate::config::StatusSet;
use crate::http1::body::Decoder;
use crate::http1::head;
use crate::http1::head::{HeadLimits, Search};
use crate::http1::piece::Piece;
use crate::message::{BadBody, BadResponse, Method};
use crate::upstream::health::Observation;

/// The most that is read of an answer in all, interim responses included, in bytes. It is more than
/// a head may have (`Limits::MAX_HEAD`).
const MAX_ANSWER: usize = 128 * 1024;

/// The request that probes `path` of an upstream, which is asked for as `host`.
pub fn request(host: &str, path: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\n\
         User-Agent: balancebeam/{version} (health check)\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// How a probe ended.
#[derive(Debug)]
pub enum ProbeOutcome {
    /// The upstream answered with this status.
    Status(u16),
    /// It took the connection, and then gave no answer in time.
    Late,
    /// It took the connection, and closed it before its answer had come.
    Closed,
    /// It gave an answer that a request could not use either.
    Malformed(&'static str),
    /// It could not be connected to.
    NoConnection,
    /// No connection came about in time.
    ConnectTimedOut,
    /// It was not asked: this machine is short of something.
    OwnShortage(io::Error),
}

impl ProbeOutcome {
    /// What was seen of the upstream; `None` is nothing.
    pub fn seen(&self, passing: &StatusSet) -> Option<Observation> {
        match *self {
            ProbeOutcome::Status(status) if passing.contains(status) => {
                Some(Observation::ProbePassed)
            }
            ProbeOutcome::Status(status) => Some(Observation::BadStatus(status)),
            ProbeOutcome::Late => Some(Observation::ProbeUnanswered),
            ProbeOutcome::Closed => Some(Observation::ProbeClosed),
            ProbeOutcome::Malformed(why) => Some(Observation::ProbeMalformed(why)),
            ProbeOutcome::NoConnection => Some(Observation::NoConnection),
            ProbeOutcome::ConnectTimedOut => Some(Observation::ConnectTimedOut),
            ProbeOutcome::OwnShortage(_) => None,
        }
    }
}

/// What is known of an answer so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Not enough yet.
    More,
    /// The final status.
    Status(u16),
    /// A request could not use it either, for this reason.
    Malformed(&'static str),
}

/// Reads an answer up to its final head, in whatever pieces it comes, the way a session reads one.
/// What has come of the body with the head is read, too; the rest is not waited for.
pub struct Answer {
    limits: HeadLimits,
    /// What has come, without interim responses that are over.
    wire: Vec<u8>,
    search: Search,
    /// Bytes in all.
    taken: usize,
}

impl Answer {
    /// An answer of which nothing has come; its heads may be so large.
    pub fn new(limits: HeadLimits) -> Self {
        Answer { limits, wire: Vec::new(), search: Search::default(), taken: 0 }
    }

    /// Takes what came. Not to be called again after anything but `More`.
    pub fn take(&mut self, bytes: &[u8]) -> Answered {
        self.taken += bytes.len();
        self.wire.extend_from_slice(bytes);
        self.read().unwrap_or_else(|BadResponse(why)| Answered::Malformed(why))
    }

    fn read(&mut self) -> Result<Answered, BadResponse> {
        loop {
            let len = match self.search.end(&self.wire, self.limits) {
                Ok(Some(len)) => len,
                Ok(None) | Err(_) if head::is_tls(&self.wire) => return Err(BadResponse::IN_TLS),
                Ok(None) if self.taken >= MAX_ANSWER => {
                    return Err(BadResponse("there are too many interim responses"));
                }
                Ok(None) => return Ok(Answered::More),
                Err(fault) => return Err(fault.into()),
            };
            let (head, body) = self.wire.split_at(len);
            let head = head::response(head, &self.search, Method::Get)?;
            match head.response.status {
                101 => return Err(BadResponse::SWITCHED),
                100..=199 => {
                    drop(head);
                    self.wire.drain(..len);
                    self.search = Search::default();
                }
                status => {
                    let HeadLimits { head: bytes, fields, .. } = self.limits;
                    let decoder = Decoder::new(head.response.framing, bytes, fields).of_response();
                    let is_sound = read_body(decoder, body);
                    return is_sound.map(|()| Answered::Status(status));
                }
            }
        }
    }
}

/// Reads what has come of a body.
fn read_body(mut decoder: Decoder, mut wire: &[u8]) -> Result<(), BadResponse> {
    loop {
        let read = match decoder.next(wire).map_err(|BadBody(why)| BadResponse(why))? {
            Piece::Data { skip, len } => skip + len,
            Piece::Trailer { skip, len } => skip + len + b"\r\n".len(),
            Piece::More { .. } | Piece::End { .. } => return Ok(()),
        };
        wire = &wire[read..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    /// Reads `bytes` in pieces of `size`.
    fn read(bytes: &[u8], size: usize) -> Answered {
        let mut answer = Answer::new(Limits::default().of_response_head());
        for piece in bytes.chunks(size) {
            let answered = answer.take(piece);
            if answered != Answered::More {
                return answered;
            }
        }
        Answered::More
    }

    #[test]
    fn an_answer_is_its_final_status_however_it_is_cut() {
        use Answered::{More, Status};
        for (bytes, expected) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], Status(200)),
            (b"HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\n", Status(404)),
            (b"HTTP/1.1 204 \r\n\r\n", Status(204)),
            (b"HTTP/1.1 999 ?\r\n\r\n", Status(999)),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Status(200)),
            (
                b"HTTP/1.1 103 \r\nLink: </a>\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 503 \r\n\r\n",
                Status(503),
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Status(200)),
            (
                b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
                Status(200),
            ),
            (b"", More),
            (b"HTTP/1.1 200 OK", More),
            (b"HTTP/1.1 200 OK\r\n", More),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n\r", More),
            (b"HTTP/1.1 100 Continue\r\n\r\n", More),
        ] {
            for size in 1..=bytes.len().max(1) {
                assert_eq!(read(bytes, size), expected, "{} by {size}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn an_answer_that_a_request_cannot_use_fails_however_it_is_cut() {
        for bytes in [
            &b"HTTP/1.1 200 OK\n\r\n"[..],
            b"HTTP/1.1 200\rOK\r\n\r\n",
            b"HTTP/1.1 100 \r\n\r\nwhat\r\n\r\n",
            b"HTTP/1.1  200 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 \r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"http/1.1 200 OK\r\n\r\n",
            b"\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        ] {
            for size in 1..=bytes.len() {
                let answered = read(bytes, size);
                let is_malformed = matches!(answered, Answered::Malformed(_));
                assert!(is_malformed, "{} by {size}: {answered:?}", bytes.escape_ascii());
            }
        }
        let bad_chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabX\r\n";
        let answered = read(bad_chunk, bad_chunk.len());
        assert!(matches!(answered, Answered::Malformed(_)), "{answered:?}");
    }

    #[test]
    fn tls_is_told_from_its_first_bytes() {
        for bytes in [&b"\x15\x03\x01\x00\x02\x02\x46"[..], b"\x16\x03\x03\x00\x7a\n"] {
            assert_eq!(read(bytes, bytes.len()), Answered::Malformed(BadResponse::IN_TLS.0));
        }
    }

    #[test]
    fn what_is_read_is_bounded() {
        let Limits { head, fields, .. } = Limits::default();
        let start = b"HTTP/1.1 200 OK\r\nA: ";
        let with_head = |len: usize| {
            let mut answer = start.to_vec();
            answer.resize(len - 4, b'x');
            [&answer[..], b"\r\n\r\n"].concat()
        };
        assert_eq!(read(&with_head(head), 100), Answered::Status(200));
        assert!(matches!(read(&with_head(head + 1), 100), Answered::Malformed(_)));
        let with_fields = |count: usize| {
            [b"HTTP/1.1 200 OK\r\n", &b"A: b\r\n".repeat(count)[..], b"\r\n"].concat()
        };
        assert_eq!(read(&with_fields(fields), 100), Answered::Status(200));
        assert!(matches!(read(&with_fields(fields + 1), 100), Answered::Malformed(_)));
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_ANSWER / 25 + 1);
        assert!(matches!(read(&interim, 1024), Answered::Malformed(_)));
    }

    #[test]
    fn the_end_of_a_probe_is_an_observation_unless_we_are_to_blame() {
        let passing: StatusSet = "200-299,404".parse().unwrap();
        for (outcome, expected) in [
            (ProbeOutcome::Status(204), Some(Observation::ProbePassed)),
            (ProbeOutcome::Status(404), Some(Observation::ProbePassed)),
            (ProbeOutcome::Status(500), Some(Observation::BadStatus(500))),
            (ProbeOutcome::Late, Some(Observation::ProbeUnanswered)),
            (ProbeOutcome::Closed, Some(Observation::ProbeClosed)),
            (ProbeOutcome::Malformed("x"), Some(Observation::ProbeMalformed("x"))),
            (ProbeOutcome::NoConnection, Some(Observation::NoConnection)),
            (ProbeOutcome::OwnShortage(io::Error::from_raw_os_error(24)), None),
        ] {
            assert_eq!(outcome.seen(&passing), expected, "{outcome:?}");
        }
    }

    #[test]
    fn the_request_says_who_asks_and_wants_no_second_one() {
        let expected = format!(
            "GET /healthz?deep=1 HTTP/1.1\r\nHost: app.example:8080\r\n\
             User-Agent: balancebeam/{} (health check)\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        let request = request("app.example:8080", "/healthz?deep=1");
        assert_eq!(String::from_utf8(request).unwrap(), expected);
    }
}
