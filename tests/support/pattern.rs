//! Bytes that tell their own place, so that a body of any size is checked without keeping it.
//!
//! The period is a prime: a piece that is lost, doubled or moved by any buffer size cannot fit again.

use std::io::Read;
use std::sync::LazyLock;

use hyper::body::Bytes;

/// Bytes after which the pattern begins again.
const PERIOD: usize = 65_521;

/// Two periods, so that any piece of up to one period is one slice.
static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let period: Vec<u8> = (0..PERIOD)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    period.repeat(2).into()
});

/// The pattern from byte `position` on: `len` bytes, or one period if that is less.
pub fn at(position: u64, len: u64) -> Bytes {
    let start = (position % PERIOD as u64) as usize;
    PATTERN.slice(start..start + len.min(PERIOD as u64) as usize)
}

/// The first `len` bytes of the pattern as something to read from.
pub struct Source {
    position: u64,
    len: u64,
}

impl Source {
    pub fn new(len: u64) -> Self {
        Source { position: 0, len }
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let piece = at(self.position, (self.len - self.position).min(into.len() as u64));
        into[..piece.len()].copy_from_slice(&piece);
        self.position += piece.len() as u64;
        Ok(piece.len())
    }
}

/// Takes bytes and says whether they were the pattern from its beginning.
#[derive(Default)]
pub struct Check {
    taken: u64,
    wrong_near: Option<u64>,
}

impl Check {
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = at(self.taken, bytes.len() as u64);
            let (piece, rest) = bytes.split_at(expected.len());
            if piece != expected && self.wrong_near.is_none() {
                self.wrong_near = Some(self.taken);
            }
            self.taken += piece.len() as u64;
            bytes = rest;
        }
    }

    /// Reads to the end and returns the verdict.
    pub fn drain(mut self, mut from: impl Read) -> std::io::Result<String> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(self.verdict()),
                n => self.take(&buffer[..n]),
            }
        }
    }

    /// `N bytes, all right` or `N bytes, wrong near byte M`.
    pub fn verdict(&self) -> String {
        match self.wrong_near {
            None => all_right(self.taken),
            Some(place) => format!("{} bytes, wrong near byte {place}", self.taken),
        }
    }
}

/// The verdict over `len` bytes that arrived as they were sent.
pub fn all_right(len: u64) -> String {
    format!("{len} bytes, all right")
}
