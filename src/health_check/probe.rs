//! What a probe says, what it reads, and what its end means for the upstream's health.
//!
//! Pure: no socket, no clock. Not here: connecting and waiting (`flight.rs`), when to probe
//! (`mod.rs`).

use std::io;

use crate::config::StatusSet;
use crate::upstream::health::Seen;

/// The longest status line that is read, in bytes.
const MAX_STATUS_LINE: usize = 1024;
/// The most that is read in all, interim responses included, in bytes.
const MAX_ANSWER: usize = 16 * 1024;

/// The request that probes `path` of the upstream called `name`.
pub fn request(name: &str, path: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "GET {path} HTTP/1.1\r\nHost: {name}\r\n\
         User-Agent: balancebeam/{version} (health check)\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// How a probe ended.
#[derive(Debug)]
pub enum Outcome {
    /// The upstream answered with this status.
    Status(u16),
    /// It took the connection, and then gave no answer in time, or none that is HTTP.
    Broken,
    /// It could not be connected to.
    NoConnection,
    /// It was not asked: this machine is short of something.
    OwnShortage(io::Error),
}

impl Outcome {
    /// What was seen of the upstream; `None` is nothing.
    pub fn seen(&self, passing: &StatusSet) -> Option<Seen> {
        match *self {
            Outcome::Status(status) if passing.contains(status) => Some(Seen::ProbePassed),
            Outcome::Status(status) => Some(Seen::BadStatus(status)),
            Outcome::Broken => Some(Seen::ProbeUnanswered),
            Outcome::NoConnection => Some(Seen::NoConnection),
            Outcome::OwnShortage(_) => None,
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
    /// It is not HTTP/1, or too long.
    Garbage,
}

/// Reads an answer up to its final status line, in whatever pieces it comes.
#[derive(Default)]
pub struct Answer {
    /// The line being read, without its line end once that is there.
    line: Vec<u8>,
    taken: usize,
    /// Within the head of a 1xx response, behind its status line.
    in_interim: bool,
}

impl Answer {
    /// Takes what came. Not to be called again after anything but `More`.
    pub fn take(&mut self, bytes: &[u8]) -> Answered {
        for &byte in bytes {
            self.taken += 1;
            self.line.push(byte);
            if self.line.ends_with(b"\r\n") {
                let answered = self.end_line();
                if answered != Answered::More {
                    return answered;
                }
                self.line.clear();
            }
            let line_is_too_long = !self.in_interim && self.line.len() > MAX_STATUS_LINE;
            if line_is_too_long || self.taken >= MAX_ANSWER {
                return Answered::Garbage;
            }
        }
        Answered::More
    }

    fn end_line(&mut self) -> Answered {
        if self.in_interim {
            self.in_interim = self.line != b"\r\n";
            return Answered::More;
        }
        match status_of(&self.line) {
            Some(100..=199) => {
                self.in_interim = true;
                Answered::More
            }
            Some(status) => Answered::Status(status),
            None => Answered::Garbage,
        }
    }
}

/// The status in `HTTP/1.x NNN reason CRLF`; the reason may be missing (RFC 9112 §4).
fn status_of(line: &[u8]) -> Option<u16> {
    let line = line.strip_suffix(b"\r\n")?;
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, reason) = rest.split_at_checked(3)?;
    let is_sound = digits.iter().all(u8::is_ascii_digit)
        && digits[0] != b'0'
        && matches!(reason.first(), None | Some(b' '))
        && !reason.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    is_sound.then(|| digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `bytes` in pieces of `size`.
    fn read(bytes: &[u8], size: usize) -> Answered {
        let mut answer = Answer::default();
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
        use Answered::{Garbage, More, Status};
        for (bytes, expected) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], Status(200)),
            (b"HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\n", Status(404)),
            (b"HTTP/1.1 204\r\n", Status(204)),
            (b"HTTP/1.1 204 \r\n", Status(204)),
            (b"HTTP/1.1 999 ?\r\n", Status(999)),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", Status(200)),
            (
                b"HTTP/1.1 103 \r\nLink: </a>\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 503 \r\n",
                Status(503),
            ),
            (b"", More),
            (b"HTTP/1.1 200 OK", More),
            (b"HTTP/1.1 200 OK\r", More),
            (b"HTTP/1.1 100 Continue\r\nHTTP/1.1 200 OK\r\n", More), // a field, by its place
            (b"HTTP/1.1 200 OK\n\r\n", Garbage),
            (b"HTTP/1.1 200\rOK\r\n", Garbage),
            (b"HTTP/1.1 100 \r\n\r\nwhat\r\n", Garbage),
            (b"HTTP/1.1  200 OK\r\n", Garbage),
            (b"HTTP/1.1 20 OK\r\n", Garbage),
            (b"HTTP/1.1 2000 OK\r\n", Garbage),
            (b"HTTP/1.1 +20 OK\r\n", Garbage),
            (b"HTTP/1.1 020 OK\r\n", Garbage),
            (b"HTTP/1.1 \r\n", Garbage),
            (b"HTTP/2 200 OK\r\n", Garbage),
            (b"HTTP/1.2 200 OK\r\n", Garbage),
            (b"http/1.1 200 OK\r\n", Garbage),
            (b"\r\n", Garbage),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Garbage),
        ] {
            for size in 1..=bytes.len().max(1) {
                assert_eq!(read(bytes, size), expected, "{} by {size}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_read_is_bounded() {
        let status_line = |len: usize| {
            let mut line = b"HTTP/1.1 200 ".to_vec();
            line.resize(len - 2, b'x');
            line.extend(b"\r\n");
            line
        };
        assert_eq!(read(&status_line(MAX_STATUS_LINE), 100), Answered::Status(200));
        assert_eq!(read(&status_line(MAX_STATUS_LINE + 2), 100), Answered::Garbage);
        assert_eq!(read(&vec![b'x'; MAX_STATUS_LINE + 1], 100), Answered::Garbage);
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_ANSWER / 25 + 1);
        assert_eq!(read(&interim, 1024), Answered::Garbage);
        let mut endless = b"HTTP/1.1 100 Continue\r\nA: ".to_vec();
        endless.resize(MAX_ANSWER - 1, b'x');
        assert_eq!(read(&endless, 1024), Answered::More);
        endless.push(b'x');
        assert_eq!(read(&endless, 1024), Answered::Garbage);
    }

    #[test]
    fn the_end_of_a_probe_is_an_observation_unless_we_are_to_blame() {
        let passing: StatusSet = "200-299,404".parse().unwrap();
        for (outcome, expected) in [
            (Outcome::Status(204), Some(Seen::ProbePassed)),
            (Outcome::Status(404), Some(Seen::ProbePassed)),
            (Outcome::Status(500), Some(Seen::BadStatus(500))),
            (Outcome::Broken, Some(Seen::ProbeUnanswered)),
            (Outcome::NoConnection, Some(Seen::NoConnection)),
            (Outcome::OwnShortage(io::Error::from_raw_os_error(24)), None),
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
