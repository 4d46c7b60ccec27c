//! The chunked transfer coding (RFC 9112 §7.1), read strictly and written anew.
//!
//! A chunk's line is looked at only when it is whole, so there is no half-read number to get wrong.
//! Not here: which trailer fields may go on (`rewrite.rs`).

use memchr::memchr;

use super::piece::Piece;
use crate::message::BadBody;
use crate::message::fields::{field_line, is_value_byte};
use crate::message::look_at;

/// Bytes of a chunk's first line, with extensions and line end.
const LINE: usize = 256;

/// The most that `frame` adds to data: 16 digits and two line ends.
pub const OVERHEAD: usize = 20;

/// Reads a chunked body piece by piece.
#[derive(Clone, Copy, Debug)]
pub struct Chunked {
    state: State,
    /// Bytes and fields that the trailer section may still have.
    trailer_bytes: usize,
    trailer_fields: usize,
    /// Bytes of a trailer field that has not ended yet, in which no line end was found.
    scanned: usize,
    /// Whether white space may stand behind a size.
    is_response: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// At the line that tells a chunk's size.
    Size,
    /// Within a chunk, with so many bytes to come.
    Data(u64),
    /// At the line end behind a chunk's data.
    DataEnd,
    /// Behind the last chunk.
    Trailers,
}

impl Chunked {
    /// A body of which nothing has been read. The trailer section may have so many bytes and
    /// fields.
    pub fn new(trailer_bytes: usize, trailer_fields: usize) -> Self {
        Chunked {
            state: State::Size,
            trailer_bytes,
            trailer_fields,
            scanned: 0,
            is_response: false,
        }
    }

    /// The body of a response: white space may stand behind a size, as some upstreams pad it. It has
    /// one reading alone, and leaves without it.
    pub fn of_response(self) -> Self {
        Chunked { is_response: true, ..self }
    }

    /// The next piece at the front of `wire`; `skip` counts the framing before it.
    pub fn next(&mut self, wire: &[u8]) -> Result<Piece, BadBody> {
        let mut skip = 0;
        loop {
            let rest = &wire[skip..];
            match self.state {
                State::Data(left) if !rest.is_empty() => {
                    let len = left.min(rest.len() as u64) as usize;
                    self.took(left - len as u64);
                    return Ok(Piece::Data { skip, len });
                }
                State::Data(_) => return Ok(Piece::More { skip }),
                State::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        skip += 2;
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Piece::More { skip }),
                    _ => return Err(BadBody("a chunk's data is not followed by a line end")),
                },
                State::Size => match line(rest, 0, LINE)? {
                    None => return Ok(Piece::More { skip }),
                    Some(line) => {
                        skip += line.len() + 2;
                        self.state = match size(line, self.is_response)? {
                            0 => State::Trailers,
                            size => State::Data(size),
                        };
                    }
                },
                State::Trailers => return self.trailer(rest, skip),
            }
        }
    }

    /// Says that less of the last `Data` piece was used than it offered.
    pub fn unread(&mut self, len: usize) {
        if len > 0 {
            self.state = State::Data(self.left_of_chunk() + len as u64);
        }
    }

    /// Bytes of data that are left of the present chunk; 0 between two chunks.
    pub fn left_of_chunk(&self) -> u64 {
        if let State::Data(left) = self.state { left } else { 0 }
    }

    fn took(&mut self, left: u64) {
        self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
    }

    fn trailer(&mut self, rest: &[u8], skip: usize) -> Result<Piece, BadBody> {
        const TOO_LONG: BadBody = BadBody("the trailer section is too long");
        let found = line(rest, self.scanned, self.trailer_bytes).map_err(|_| TOO_LONG)?;
        let Some(line) = found else {
            self.scanned = rest.len();
            return Ok(Piece::More { skip });
        };
        self.scanned = 0;
        if line.is_empty() {
            return Ok(Piece::End { skip: skip + 2 });
        }
        field_line(line).map_err(BadBody)?;
        self.trailer_bytes -= line.len() + 2;
        self.trailer_fields = self.trailer_fields.checked_sub(1).ok_or(TOO_LONG)?;
        Ok(Piece::Trailer { skip, len: line.len() })
    }
}

/// The line at the front of `wire` without its CRLF, once it is whole; `most` bytes with it. The
/// first `scanned` bytes are known to have no line end.
fn line(wire: &[u8], scanned: usize, most: usize) -> Result<Option<&[u8]>, BadBody> {
    let within = &wire[..wire.len().min(most)];
    let new = within.get(scanned..).unwrap_or_default();
    look_at(new);
    match memchr(b'\n', new).map(|at| scanned + at) {
        Some(0) => Err(BadBody("a line ends without a carriage return")),
        Some(at) if within[at - 1] != b'\r' => {
            Err(BadBody("a line ends without a carriage return"))
        }
        Some(at) => Ok(Some(&within[..at - 1])),
        None if wire.len() >= most => Err(BadBody("a chunk's line is too long")),
        None => Ok(None),
    }
}

/// The size that a chunk's line tells: 1 to 16 hexadecimal digits, then nothing or extensions; before
/// those white space, if it is allowed.
fn size(line: &[u8], allows_blanks: bool) -> Result<u64, BadBody> {
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extensions) = line.split_at(digits);
    if !(1..=16).contains(&digits.len()) {
        return Err(BadBody("a chunk size is not 1 to 16 hexadecimal digits"));
    }
    let blanks = extensions.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let extensions = &extensions[if allows_blanks { blanks } else { 0 }..];
    if !matches!(extensions.first(), None | Some(b';')) {
        return Err(BadBody("a chunk size is followed by something else than an extension"));
    }
    if !extensions.iter().all(|&b| is_value_byte(b)) {
        return Err(BadBody("a chunk extension has a control character"));
    }
    Ok(digits.iter().fold(0, |size, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => (digit | 0x20) - b'a' + 10,
        };
        size << 4 | u64::from(value)
    }))
}

/// Writes the line that tells a chunk's size; `len` is not 0. Returns the bytes that hold it.
pub fn size_line(len: usize, line: &mut [u8; 18]) -> &[u8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut at = 16;
    let mut rest = len;
    while rest > 0 {
        at -= 1;
        line[at] = DIGITS[rest & 15];
        rest >>= 4;
    }
    line[16..].copy_from_slice(b"\r\n");
    &line[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body says: its data, its trailers, and the bytes left behind its end.
    type Said = (Vec<u8>, Vec<Vec<u8>>, usize);

    /// Reads `wire` as it would arrive when cut at `cut`. `Ok(None)`: it is not whole.
    fn read(wire: &[u8], cut: usize) -> Result<Option<Said>, BadBody> {
        read_by(Chunked::new(64, 3), wire, cut)
    }

    fn read_by(mut chunked: Chunked, wire: &[u8], cut: usize) -> Result<Option<Said>, BadBody> {
        let (mut data, mut trailers) = (Vec::new(), Vec::new());
        let mut at = 0;
        for end in [cut, wire.len()] {
            loop {
                let rest = &wire[at..end];
                match chunked.next(rest)? {
                    Piece::More { skip } => {
                        at += skip;
                        break;
                    }
                    Piece::Data { skip, len } => {
                        data.extend_from_slice(&rest[skip..skip + len]);
                        at += skip + len;
                    }
                    Piece::Trailer { skip, len } => {
                        trailers.push(rest[skip..skip + len].to_vec());
                        at += skip + len + 2;
                    }
                    Piece::End { skip } => {
                        return Ok(Some((data, trailers, wire.len() - at - skip)));
                    }
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn bodies_are_read_the_same_however_they_are_cut() {
        for (wire, data, trailers, left) in [
            (&b"0\r\n\r\n"[..], &b""[..], 0, 0),
            (b"3\r\nabc\r\n0\r\n\r\nGET", b"abc", 0, 3),
            (b"3\r\nabc\r\n0a;x=\"y\";z\r\n0123456789\r\n000\r\n\r\n", b"abc0123456789", 0, 0),
            (b"1\r\nx\r\n0\r\nA: b\r\nC:d\r\n\r\n", b"x", 2, 0),
            (b"0000000000000001\r\nx\r\n0\r\n\r\n", b"x", 0, 0),
        ] {
            for cut in 0..=wire.len() {
                let said = read(wire, cut).unwrap().unwrap();
                assert_eq!((&said.0[..], said.1.len(), said.2), (data, trailers, left), "{cut}");
            }
            let whole = wire.len() - left;
            for short in 0..whole {
                assert_eq!(read(&wire[..short], 0), Ok(None), "{short} of {wire:?}");
            }
        }
    }

    #[test]
    fn malformed_bodies_are_refused_however_they_are_cut() {
        let long_line = [b"1;", &[b'x'; 260][..]].concat();
        let long_trailer = [b"0\r\nA:", &[b'x'; 64][..]].concat();
        for wire in [
            &b"\r\n"[..],
            b"g\r\n",
            b"+1\r\nx",
            b"-1\r\nx",
            b"0x1\r\nx",
            b" 1\r\nx",
            b"1 \r\nx",
            b"1\nx",
            b"1\r\nx\n0\r\n\r\n",
            b"1\r\nxy\r\n",
            b"1\r\nx\ry",
            b"1;a\nb\r\n",
            b"1;\x00\r\n",
            b"1;a\rb\r\n",
            b"1 ;a\r\nx",
            b"11111111111111111\r\n",
            b"0\r\n A: b\r\n\r\n",
            b"0\r\nA b\r\n\r\n",
            b"0\r\n\n",
            b"0\r\nA:1\r\nB:2\r\nC:3\r\nD:4\r\n\r\n",
            &long_line,
            &long_trailer,
        ] {
            for cut in 0..=wire.len() {
                assert!(
                    read(wire, cut).is_err(),
                    "{:?} cut at {cut}",
                    String::from_utf8_lossy(wire)
                );
            }
        }
    }

    #[test]
    fn white_space_may_stand_behind_a_size_of_a_response_and_nowhere_else() {
        let of_response = || Chunked::new(64, 3).of_response();
        for wire in [
            &b"3 \r\nabc\r\n0\r\n\r\n"[..],
            b"3\t \r\nabc\r\n0  \r\n\r\n",
            b"3 ;a\r\nabc\r\n0\t;b\r\n\r\n",
        ] {
            for cut in 0..=wire.len() {
                assert!(read(wire, cut).is_err(), "a request");
                let said = read_by(of_response(), wire, cut).unwrap().unwrap();
                assert_eq!((&said.0[..], said.2), (&b"abc"[..], 0), "{cut}");
            }
        }
        let padded = [b"0", &[b' '; 254][..]].concat();
        for wire in
            [&b" 3\r\n"[..], b"3 x\r\n", b"3 3\r\n", b"3\x0b\r\n", b" \r\n", b"3 \n", &padded]
        {
            for cut in 0..=wire.len() {
                let wire = &[wire, b"\r\n\r\n"].concat();
                assert!(read_by(of_response(), wire, cut).is_err(), "{}", wire.escape_ascii());
            }
        }
    }

    #[test]
    fn sizes_are_written_in_hexadecimal() {
        for (len, text) in
            [(1, "1\r\n"), (10, "a\r\n"), (4096, "1000\r\n"), (usize::MAX, "ffffffffffffffff\r\n")]
        {
            assert_eq!(size_line(len, &mut [0; 18]), text.as_bytes());
        }
    }
}
