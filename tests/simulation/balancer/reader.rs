//! Messages read back, as far as they have come, by code of the simulation's own, which shares
//! nothing with what is tested. Not here: what they ought to say (`answers.rs`, `upstream.rs`).

use super::scenario::Framing;

#[derive(Debug)]
pub struct Message {
    pub first_line: String,
    fields: String,
    pub framing: Framing,
    pub content: Vec<u8>,
    /// Whether all of it has come. What ends with its connection is whole when that has ended.
    pub is_whole: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Head,
    Length(usize),
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
    Trailer,
    UntilClose,
}

/// Reads one connection's messages.
#[derive(Debug)]
pub struct Reader {
    is_responses: bool,
    /// Which requests were made with HEAD, in order.
    heads: Vec<bool>,
    /// Final responses begun, or requests.
    begun: usize,
    unread: Vec<u8>,
    at: usize,
    stage: Stage,
    pub messages: Vec<Message>,
    /// Why what came cannot be read.
    pub fault: Option<String>,
}

impl Message {
    pub fn field(&self, name: &str) -> Option<&str> {
        let at = self.fields.find(&format!("\r\n{name}: "))? + name.len() + 4;
        self.fields[at..].split("\r\n").next()
    }

    pub fn status(&self) -> u16 {
        self.first_line.get(9..12).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub fn is_interim(&self) -> bool {
        self.status() / 100 == 1
    }
}

impl Reader {
    pub fn of_requests() -> Reader {
        Reader::new(false, Vec::new())
    }

    pub fn of_responses(heads: Vec<bool>) -> Reader {
        Reader::new(true, heads)
    }

    fn new(is_responses: bool, heads: Vec<bool>) -> Reader {
        Reader {
            is_responses,
            heads,
            begun: 0,
            unread: Vec::new(),
            at: 0,
            stage: Stage::Head,
            messages: Vec::new(),
            fault: None,
        }
    }

    /// Whether nothing has come that belongs to no whole message.
    pub fn is_between(&self) -> bool {
        matches!(self.stage, Stage::Head) && self.left().is_empty()
    }

    /// What came behind the last message, and is no head.
    pub fn left(&self) -> &[u8] {
        &self.unread[self.at..]
    }

    /// Final responses that are whole.
    pub fn finals(&self) -> usize {
        self.messages.iter().filter(|m| m.is_whole && !m.is_interim()).count()
    }

    pub fn hear(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        while self.fault.is_none() && self.step() {}
        self.unread.drain(..self.at);
        self.at = 0;
    }

    /// The connection has ended in order.
    pub fn end(&mut self) {
        if let (Stage::UntilClose, Some(message)) = (self.stage, self.messages.last_mut()) {
            message.is_whole = true;
            self.stage = Stage::Head;
        }
    }

    /// Takes one step if one can be taken.
    fn step(&mut self) -> bool {
        match self.stage {
            Stage::Head => self.read_head(),
            Stage::Length(left) => self.read_content(left, |left| match left {
                0 => None,
                left => Some(Stage::Length(left)),
            }),
            Stage::Chunk(left) => self.read_content(left, |left| match left {
                0 => Some(Stage::ChunkEnd),
                left => Some(Stage::Chunk(left)),
            }),
            Stage::UntilClose => self.read_content(usize::MAX, |_| Some(Stage::UntilClose)),
            Stage::ChunkSize | Stage::ChunkEnd | Stage::Trailer => self.read_line(),
        }
    }

    fn read_head(&mut self) -> bool {
        let rest = self.left();
        let Some(head) = rest.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
        let text = String::from_utf8_lossy(&rest[..head]).into_owned();
        self.at += head + 4;
        let (first_line, fields) = text.split_once("\r\n").unwrap_or((&text, ""));
        let mut message = Message {
            first_line: first_line.to_string(),
            fields: format!("\r\n{fields}\r\n"),
            framing: Framing::Nothing,
            content: Vec::new(),
            is_whole: false,
        };
        let length = message.field("Content-Length").map(|n| n.parse::<usize>().ok());
        let is_chunked = message.field("Transfer-Encoding").is_some();
        let is_interim = self.is_responses && message.is_interim();
        let is_head = self.heads.get(self.begun) == Some(&true);
        let has_no_body = is_interim || (self.is_responses && (is_head || message.status() == 204));
        self.begun += usize::from(!is_interim);
        match (length, is_chunked) {
            (Some(_), true) => self.fault = Some(format!("two framings in {text:?}")),
            (Some(None), _) => self.fault = Some(format!("no length in {text:?}")),
            _ if message.field("Hop").is_some() => {
                self.fault = Some(format!("a field of another hop in {text:?}"));
            }
            _ => (),
        }
        let stage = match (length, is_chunked) {
            _ if has_no_body => None,
            (_, true) => Some((Framing::Chunked, Stage::ChunkSize)),
            (Some(Some(0)), _) => Some((Framing::Length, Stage::Head)),
            (Some(length), _) => Some((Framing::Length, Stage::Length(length.unwrap_or(0)))),
            (None, _) if self.is_responses => Some((Framing::UntilClose, Stage::UntilClose)),
            (None, _) => None,
        };
        (message.framing, self.stage) = stage.unwrap_or((Framing::Nothing, Stage::Head));
        message.is_whole = matches!(self.stage, Stage::Head);
        self.messages.push(message);
        true
    }

    fn read_content(&mut self, left: usize, then: impl Fn(usize) -> Option<Stage>) -> bool {
        let there = left.min(self.left().len());
        let Some(message) = self.messages.last_mut() else { return false };
        message.content.extend_from_slice(&self.unread[self.at..self.at + there]);
        self.at += there;
        match then(left - there) {
            Some(stage) => self.stage = stage,
            None => {
                message.is_whole = true;
                self.stage = Stage::Head;
            }
        }
        there > 0
    }

    fn read_line(&mut self) -> bool {
        let rest = self.left();
        let Some(len) = rest.windows(2).position(|w| w == b"\r\n") else { return false };
        let line = String::from_utf8_lossy(&rest[..len]).into_owned();
        self.at += len + 2;
        self.stage = match self.stage {
            Stage::ChunkSize => match usize::from_str_radix(&line, 16) {
                Ok(0) => Stage::Trailer,
                Ok(size) => Stage::Chunk(size),
                Err(_) => {
                    self.fault = Some(format!("no chunk size: {line:?}"));
                    return false;
                }
            },
            Stage::ChunkEnd if !line.is_empty() => {
                self.fault = Some(format!("behind a chunk: {line:?}"));
                return false;
            }
            Stage::ChunkEnd => Stage::ChunkSize,
            Stage::Trailer if line.starts_with("Hop:") => {
                self.fault = Some("a trailer of another hop".to_string());
                return false;
            }
            Stage::Trailer if line.is_empty() => {
                if let Some(message) = self.messages.last_mut() {
                    message.is_whole = true;
                }
                Stage::Head
            }
            stage => stage,
        };
        true
    }
}
