//! Requests and answers that carry the number of their exchange in every part, and how they are read
//! back: by code of the test's own, which shares nothing with what is tested.

use crate::draws::Draws;

/// Content that can be told from any other's: `name` over and over.
pub fn content(name: &str, len: usize) -> Vec<u8> {
    let mut content = name.repeat(len / name.len() + 1).into_bytes();
    content.truncate(len);
    content
}

/// Mostly small, often enough to go past a session, now and then larger than all buffers.
pub fn size(draws: &mut Draws) -> usize {
    match draws.below(20) {
        0 | 5 => draws.below(320_000),
        6..=11 => 75_000 + draws.below(120_000),
        1..=3 => draws.below(5_000),
        4 => 0,
        _ => draws.below(200),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Nothing,
    Length,
    Chunked,
    UntilClose,
}

/// One request that a client sends.
#[derive(Debug)]
pub struct Asked {
    pub id: usize,
    pub method: &'static str,
    pub is_old: bool,
    /// Its head is; a body that breaks later may already have been answered.
    pub is_malformed: bool,
    pub wire: Vec<u8>,
}

impl Asked {
    pub fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }
}

/// Request `id`; `is_last` allows what ends a connection, `is_calm` forbids what breaks it.
pub fn request(id: usize, is_last: bool, is_calm: bool, draws: &mut Draws) -> Asked {
    let method = draws.one_of(&["GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE"]);
    let is_old = is_last && draws.percent(20);
    let framing = match (method, is_old) {
        ("GET" | "HEAD", _) if draws.percent(90) => Framing::Nothing,
        (_, true) => Framing::Length,
        _ => draws.one_of(&[Framing::Length, Framing::Chunked]),
    };
    let version = if is_old { "1.0" } else { "1.1" };
    let mut wire = format!("{method} /{id} HTTP/{version}\r\n").into_bytes();
    if !is_old || draws.percent(50) {
        wire.extend_from_slice(b"Host: h\r\n");
    }
    if is_last && draws.percent(30) {
        wire.extend_from_slice(b"Connection: close\r\n");
    } else if is_old && draws.percent(50) {
        wire.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    if framing != Framing::Nothing && draws.percent(15) {
        wire.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    let is_malformed = !is_calm && draws.percent(4);
    if is_malformed {
        let fault = draws.one_of(&["A : b\r\n", "Host: h\r\nHost: h\r\n", "A: b\n", " x\r\n"]);
        wire.extend_from_slice(fault.as_bytes());
    }
    let len = size(draws);
    let body = content(&format!("q{id};"), if framing == Framing::Nothing { 0 } else { len });
    let bad_chunk = !is_calm && draws.percent(4);
    wire.extend_from_slice(&framed(&body, framing, bad_chunk, draws));
    Asked { id, method, is_old, is_malformed, wire }
}

/// Framing fields, the end of the head, and the body in that framing.
pub fn framed(body: &[u8], framing: Framing, breaks: bool, draws: &mut Draws) -> Vec<u8> {
    let mut wire = Vec::new();
    match framing {
        Framing::Nothing => wire.extend_from_slice(b"\r\n"),
        Framing::UntilClose => {
            wire.extend_from_slice(b"\r\n");
            wire.extend_from_slice(body);
        }
        Framing::Length => {
            wire.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            wire.extend_from_slice(body);
        }
        Framing::Chunked => {
            // What is named here is about one hop, in the head and behind the body.
            wire.extend_from_slice(b"Connection: hop\r\nHop: 1\r\n");
            wire.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            let mut rest = body;
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(draws.piece(rest.len()));
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
                rest = after;
            }
            let end = if breaks { "0x\r\n" } else { "0\r\n" };
            wire.extend_from_slice(end.as_bytes());
            if draws.percent(30) {
                wire.extend_from_slice(b"Checksum: 1\r\nHOP: 1\r\n");
            }
            wire.extend_from_slice(b"\r\n");
        }
    }
    wire
}

/// One message at the front of `wire`, as far as it is there.
#[derive(Debug)]
pub struct Message {
    pub first_line: String,
    fields: String,
    pub framing: Framing,
    pub content: Vec<u8>,
    /// Bytes of it, once it is whole. Without a framing of its own it never is.
    pub len: Option<usize>,
}

impl Message {
    /// `None` while the head is not whole. Panics on what nobody may send.
    pub fn read(wire: &[u8], is_response: bool, has_no_body: bool) -> Option<Message> {
        let head = wire.windows(4).position(|w| w == b"\r\n\r\n")?;
        let text = str::from_utf8(&wire[..head]).expect("a head is text");
        let (first_line, fields) = text.split_once("\r\n").unwrap_or((text, ""));
        let mut message = Message {
            first_line: first_line.to_string(),
            fields: format!("\r\n{fields}\r\n"),
            framing: Framing::Nothing,
            content: Vec::new(),
            len: None,
        };
        assert_eq!(message.field("Hop"), None, "a field of another hop: {text:?}");
        let body = &wire[head + 4..];
        let length = message.field("Content-Length").map(|n| n.parse().expect("a length"));
        let is_chunked = message.field("Transfer-Encoding").is_some();
        assert!(!(length.is_some() && is_chunked), "two framings: {text:?}");
        let len = match length {
            _ if has_no_body => Some(0),
            Some(length) => {
                message.framing = Framing::Length;
                message.content = body[..body.len().min(length)].to_vec();
                (body.len() >= length).then_some(length)
            }
            None if is_chunked => {
                message.framing = Framing::Chunked;
                message.read_chunks(body)
            }
            None if is_response => {
                message.framing = Framing::UntilClose;
                message.content = body.to_vec();
                None
            }
            None => Some(0),
        };
        message.len = len.map(|len| head + 4 + len);
        Some(message)
    }

    fn read_chunks(&mut self, body: &[u8]) -> Option<usize> {
        let line_at = |at: usize| body[at..].windows(2).position(|w| w == b"\r\n");
        let mut at = 0;
        loop {
            let line = line_at(at)?;
            let size = str::from_utf8(&body[at..at + line]).expect("a chunk size is text");
            let size = usize::from_str_radix(size, 16).expect("a chunk size");
            at += line + 2;
            if size == 0 {
                break;
            }
            let there = size.min(body.len() - at);
            self.content.extend_from_slice(&body[at..at + there]);
            if body.len() < at + size + 2 {
                return None;
            }
            assert_eq!(&body[at + size..at + size + 2], b"\r\n", "behind a chunk");
            at += size + 2;
        }
        loop {
            let line = line_at(at)?;
            assert!(!body[at..].starts_with(b"HOP"), "a trailer of another hop");
            at += line + 2;
            if line == 0 {
                return Some(at);
            }
        }
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let at = self.fields.find(&format!("\r\n{name}: "))? + name.len() + 4;
        self.fields[at..].split("\r\n").next()
    }

    /// The number of the exchange, in a request's target.
    pub fn id(&self) -> usize {
        let target = self.first_line.split(' ').nth(1).expect("a target");
        target[1..].parse().expect("the number of an exchange")
    }

    pub fn status(&self) -> u16 {
        self.first_line[9..12].parse().expect("a status")
    }
}
