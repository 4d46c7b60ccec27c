//! Bodies on their way: taken out of one framing, put into another.
//!
//! What leaves is what was understood, framed anew. Each byte is copied once, from the buffer of
//! the side that sends into the buffer of the side that receives. Not here: who the sides are
//! (`session/`).

use super::chunked;
use super::chunked::Chunked;
use super::piece::Piece;
use super::rewrite::TrailerRules;
use crate::buffer::Buffer;
use crate::message::{BadBody, Framing};

/// Reads a body out of its framing. Counts bytes, copies none.
#[derive(Clone, Copy, Debug)]
pub enum Decoder {
    /// So many bytes are to come.
    Length(u64),
    /// See `chunked.rs`.
    Chunked(Chunked),
    /// Everything; the end of the connection is the end of the body.
    UntilClose,
}

impl Decoder {
    /// A body of which nothing has been read. A trailer section may have so many bytes and fields.
    pub fn new(framing: Framing, trailer_bytes: usize, trailer_fields: usize) -> Self {
        match framing {
            Framing::Empty => Decoder::Length(0),
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Chunked::new(trailer_bytes, trailer_fields)),
            Framing::UntilClose => Decoder::UntilClose,
        }
    }

    /// The body of a response, in which upstreams may deviate a little (see `Chunked::of_response`).
    pub fn of_response(self) -> Self {
        match self {
            Decoder::Chunked(chunked) => Decoder::Chunked(chunked.of_response()),
            other => other,
        }
    }

    /// The next piece at the front of `wire`. A `Data` piece counts as read; see `unread`.
    pub fn next(&mut self, wire: &[u8]) -> Result<Piece, BadBody> {
        Ok(match self {
            Decoder::Chunked(chunked) => return chunked.next(wire),
            Decoder::Length(0) => Piece::End { skip: 0 },
            _ if wire.is_empty() => Piece::More { skip: 0 },
            Decoder::Length(left) => {
                let len = (*left).min(wire.len() as u64) as usize;
                *left -= len as u64;
                Piece::Data { skip: 0, len }
            }
            Decoder::UntilClose => Piece::Data { skip: 0, len: wire.len() },
        })
    }

    /// Says that `len` bytes of the last `Data` piece were left where they are.
    fn unread(&mut self, len: usize) {
        match self {
            Decoder::Length(left) => *left += len as u64,
            Decoder::Chunked(chunked) => chunked.unread(len),
            Decoder::UntilClose => (),
        }
    }

    /// Whether the body has a known number of bytes to come, and how many.
    pub fn left(&self) -> Option<u64> {
        if let Decoder::Length(left) = self { Some(*left) } else { None }
    }

    /// How many of the next bytes on the wire certainly belong to the body.
    pub fn left_for_certain(&self) -> u64 {
        match self {
            Decoder::Length(left) => *left,
            Decoder::Chunked(chunked) => chunked.left_of_chunk(),
            Decoder::UntilClose => u64::MAX,
        }
    }
}

/// Puts a body into the framing in which it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoder {
    /// As it is: its length was told, or its end will be the end of the connection.
    Plain,
    /// In chunks; `in_trailers` once the last one was written.
    Chunked {
        /// Whether the last chunk was written.
        in_trailers: bool,
    },
    /// Not at all: it is read and dropped.
    Nowhere,
}

impl Encoder {
    /// In chunks.
    pub const CHUNKED: Encoder = Encoder::Chunked { in_trailers: false };

    /// Room that must be there before a piece is written.
    fn overhead(self) -> usize {
        if let Encoder::Chunked { .. } = self { chunked::OVERHEAD } else { 0 }
    }

    fn data(self, data: &[u8], to: &mut Buffer) {
        match self {
            Encoder::Nowhere => (),
            Encoder::Plain => to.push(data),
            Encoder::Chunked { .. } => {
                to.push(chunked::size_line(data.len(), &mut [0; 18]));
                to.push(data);
                to.push(b"\r\n");
            }
        }
    }

    fn trailer(&mut self, line: &[u8], rules: &TrailerRules, to: &mut Buffer) {
        if let Encoder::Chunked { in_trailers } = self
            && rules.is_forwarded(line)
        {
            if !std::mem::replace(in_trailers, true) {
                to.push(b"0\r\n");
            }
            to.push(line);
            to.push(b"\r\n");
        }
    }

    fn end(self, to: &mut Buffer) {
        match self {
            Encoder::Chunked { in_trailers: false } => to.push(b"0\r\n\r\n"),
            Encoder::Chunked { in_trailers: true } => to.push(b"\r\n"),
            Encoder::Plain | Encoder::Nowhere => (),
        }
    }
}

/// How far a `Transfer` came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Everything that has arrived went over; more is to come.
    Starved,
    /// There is no room left where it goes.
    Full,
    /// The body is over, its end written.
    Ended,
}

/// A body on its way from one framing into another.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// How it comes.
    pub decoder: Decoder,
    /// How it leaves.
    pub encoder: Encoder,
    /// Bytes of content so far.
    pub bytes: u64,
}

impl Transfer {
    /// A body of which nothing has been moved.
    pub fn new(decoder: Decoder, encoder: Encoder) -> Self {
        Transfer { decoder, encoder, bytes: 0 }
    }

    /// Bytes that are to come and leave as they come; `None` if their framing changes, or if they
    /// do not leave at all. Without a known length it is the most there can be.
    pub fn left_as_it_comes(&self) -> Option<u64> {
        match (self.decoder, self.encoder) {
            (Decoder::Length(left), Encoder::Plain) => Some(left),
            (Decoder::UntilClose, Encoder::Plain) => Some(u64::MAX),
            _ => None,
        }
    }

    /// `n` of them have gone past.
    pub fn went_past(&mut self, n: usize) {
        if let Decoder::Length(left) = &mut self.decoder {
            *left = left.saturating_sub(n as u64);
        }
        self.bytes += n as u64;
    }

    /// Moves what has arrived and has room; of trailers those that `trailers` lets pass.
    pub fn run(
        &mut self,
        from: &mut Buffer,
        to: &mut Buffer,
        trailers: &TrailerRules,
    ) -> Result<Flow, BadBody> {
        loop {
            let room = match self.encoder {
                Encoder::Nowhere => usize::MAX,
                encoder => to.room().saturating_sub(encoder.overhead()),
            };
            let before = self.decoder;
            match self.decoder.next(from.unread())? {
                Piece::More { skip } => {
                    from.consume(skip);
                    return Ok(Flow::Starved);
                }
                Piece::Data { skip, len } => {
                    let fits = len.min(room);
                    self.decoder.unread(len - fits);
                    if fits > 0 {
                        self.encoder.data(&from.unread()[skip..skip + fits], to);
                    }
                    from.consume(skip + fits);
                    self.bytes += fits as u64;
                    if fits < len {
                        return Ok(Flow::Full);
                    }
                }
                Piece::Trailer { skip, len } => {
                    if len > room && !to.is_empty() {
                        self.decoder = before;
                        return Ok(Flow::Full);
                    }
                    self.encoder.trailer(&from.unread()[skip..skip + len], trailers, to);
                    from.consume(skip + len + 2);
                }
                Piece::End { skip } => {
                    from.consume(skip);
                    self.encoder.end(to);
                    return Ok(Flow::Ended);
                }
            }
        }
    }

    /// The sender's connection has ended in order. Returns whether that is the end of the body.
    pub fn sender_closed(&mut self, to: &mut Buffer) -> bool {
        let ended = matches!(self.decoder, Decoder::UntilClose | Decoder::Length(0));
        if ended {
            self.encoder.end(to);
        }
        ended
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
