//! Requests and answers as bytes; each carries the number of its exchange in every part. Not here:
//! how they are read back (`reader.rs`).

use super::scenario::{AnswerPlan, Framing, RequestPlan};

/// Bytes of a chunk.
const CHUNK: usize = 3_000;

/// Content that can be told from any other's: `name` over and over.
pub fn content(name: &str, len: usize) -> Vec<u8> {
    let mut content = name.repeat(len / name.len() + 1).into_bytes();
    content.truncate(len);
    content
}

/// Whether these are the first bytes of that content.
pub fn is_content(name: &str, bytes: &[u8]) -> bool {
    bytes.chunks(name.len()).all(|piece| name.as_bytes().starts_with(piece))
}

/// The request, and where its head ends.
pub fn request(plan: &RequestPlan) -> (Vec<u8>, usize) {
    let version = if plan.is_old { "1.0" } else { "1.1" };
    let mut wire = format!("{} /{} HTTP/{version}\r\nHost: h\r\n", plan.method, plan.id);
    if plan.closes {
        wire.push_str("Connection: close\r\n");
    } else if plan.is_old {
        wire.push_str("Connection: keep-alive\r\n");
    }
    if plan.expects {
        wire.push_str("Expect: 100-continue\r\n");
    }
    wire.push_str(plan.fault.unwrap_or_default());
    let mut wire = wire.into_bytes();
    let head = frame(&mut wire, &content(&format!("q{};", plan.id), plan.size), plan.framing);
    (wire, head)
}

/// The head and the body of an answer with this serial number, and where its head ends; `is_head`
/// leaves the body out.
pub fn answer(plan: &AnswerPlan, serial: usize, is_head: bool) -> (Vec<u8>, usize) {
    let mut wire = Vec::new();
    for _ in 0..plan.interim {
        wire.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\n\r\n");
    }
    let head = format!("HTTP/1.1 {} Said\r\nX-Answer: {serial}\r\n", plan.status);
    wire.extend_from_slice(head.as_bytes());
    if plan.closes {
        wire.extend_from_slice(b"Connection: close\r\n");
    }
    let framing = if plan.has_no_body() { Framing::Nothing } else { plan.framing };
    let body = content(&format!("a{serial};"), plan.size);
    let head = frame(&mut wire, if plan.has_no_body() { b"" } else { &body }, framing);
    if is_head {
        wire.truncate(head);
    }
    (wire, head)
}

impl AnswerPlan {
    pub fn has_no_body(&self) -> bool {
        self.status == 204
    }

    /// Whether the end of its connection is the end of it.
    pub fn ends_by_close(&self, is_head: bool) -> bool {
        self.framing == Framing::UntilClose && !self.has_no_body() && !is_head
    }
}

/// Writes framing fields, the end of the head, and the body. Returns where the head ends.
fn frame(wire: &mut Vec<u8>, body: &[u8], framing: Framing) -> usize {
    match framing {
        Framing::Length => {
            wire.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        // What `Connection` names is about one hop, in the head and behind the body.
        Framing::Chunked => {
            wire.extend_from_slice(b"Connection: hop\r\nHop: 1\r\nTransfer-Encoding: chunked\r\n")
        }
        Framing::Nothing | Framing::UntilClose => (),
    }
    wire.extend_from_slice(b"\r\n");
    let head = wire.len();
    if framing != Framing::Chunked {
        wire.extend_from_slice(body);
        return head;
    }
    for chunk in body.chunks(CHUNK) {
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\nChecksum: 1\r\nHop: 1\r\n\r\n");
    head
}
