//! The check of chunked bodies; what holds stands in `fuzz_targets/chunked.rs`.

use balancebeam::buffer::Buffer;
use balancebeam::http1::body::{Decoder, Encoder, Flow, Transfer};
use balancebeam::http1::chunked::Chunked;
use balancebeam::http1::piece::Piece;
use balancebeam::http1::rewrite::TrailerRules;

use crate::Pieces;
use crate::reader::{self, Read};

/// What a trailer section may have: as by default, and little.
const LIMITS: [(usize, usize); 2] = [(16 * 1024, 100), (64, 3)];

/// Bytes of a line that tells a size, with its end (`docs/protocol.md`, rule 14).
const LONGEST_LINE: usize = 256;

/// What a decoder made of a body.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    content: Vec<u8>,
    trailers: Vec<Vec<u8>>,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The body has ended, after so many bytes.
    At(usize),
    /// More is to come.
    Open,
    Bad,
}

pub fn check(input: &[u8]) {
    for (limits, is_response) in LIMITS.into_iter().flat_map(|l| [(l, false), (l, true)]) {
        let decoder = || {
            let chunked = Chunked::new(limits.0, limits.1);
            if is_response { chunked.of_response() } else { chunked }
        };
        let whole = decode(input, decoder(), |rest| rest);
        let mut pieces = Pieces::of(input);
        let in_pieces = decode(input, decoder(), |rest| pieces.next(rest));
        assert_eq!(whole, in_pieces, "pieces mean what the whole means");
        assert_eq!(whole, decode(input, decoder(), |_| 1), "bytes mean what the whole means");
        check_against_reader(input, &whole, limits);
        check_reframed(input, &whole, Decoder::Chunked(decoder()));
    }
}

/// Decodes `wire`, of which `piece` says how many bytes of the rest arrive next.
fn decode(wire: &[u8], mut chunked: Chunked, mut piece: impl FnMut(usize) -> usize) -> Said {
    let mut said = Said { content: Vec::new(), trailers: Vec::new(), end: End::Open };
    let (mut at, mut arrived) = (0, 0);
    loop {
        let rest = &wire[at..arrived];
        let Ok(next) = chunked.next(rest) else {
            said.end = End::Bad;
            return said;
        };
        match next {
            Piece::More { skip } => {
                assert!(skip <= rest.len(), "more is skipped than there is");
                at += skip;
                if arrived == wire.len() {
                    return said;
                }
                arrived += piece(wire.len() - arrived);
            }
            Piece::Data { skip, len } => {
                assert!(len > 0 && skip + len <= rest.len(), "more is taken than there is");
                said.content.extend_from_slice(&rest[skip..skip + len]);
                at += skip + len;
            }
            Piece::Trailer { skip, len } => {
                assert!(skip + len + 2 <= rest.len(), "more is taken than there is");
                assert_eq!(&rest[skip + len..skip + len + 2], b"\r\n", "a line has its end");
                said.trailers.push(rest[skip..skip + len].to_vec());
                at += skip + len + 2;
            }
            Piece::End { skip } => {
                assert!(skip <= rest.len(), "more is skipped than there is");
                said.end = End::At(at + skip);
                return said;
            }
        }
    }
}

fn check_against_reader(input: &[u8], said: &Said, limits: (usize, usize)) {
    let read = reader::chunked(input);
    match (&said.end, read) {
        (End::At(len), Read::Whole(read)) => {
            assert_eq!(*len, read.len, "one end");
            assert_eq!(said.content, read.content, "one content");
            assert_eq!(said.trailers.len(), read.trailers.len(), "as many trailers");
            for (line, (name, value)) in said.trailers.iter().zip(&read.trailers) {
                let colon = line.iter().position(|b| *b == b':').expect("a colon");
                assert_eq!(&line[..colon], name.as_bytes());
                assert_eq!(line[colon + 1..].trim_ascii(), value.trim_ascii());
            }
            assert!(read.longest_line <= LONGEST_LINE, "a line within its limit");
            assert!(read.trailer_len <= limits.0 + 2, "trailers within their limit");
            assert!(read.trailers.len() <= limits.1, "trailers within their number");
        }
        (End::At(_), read) => panic!("accepted, and the reader says {read:?}"),
        (End::Open, Read::Whole(read)) => panic!("waits for more, and the reader says {read:?}"),
        // A line is looked at when it is whole, so what the reader refuses may be waited for.
        (End::Open, Read::Partial | Read::Refused(_)) | (End::Bad, _) => (),
    }
}

/// What leaves in chunks again says the same, and is cut where it was cut.
fn check_reframed(input: &[u8], said: &Said, decoder: Decoder) {
    let (mut from, mut to) = (Buffer::default(), Buffer::default());
    let mut pieces = Pieces::of(input);
    let mut transfer = Transfer::new(decoder, Encoder::CHUNKED);
    let (mut at, mut out, mut flow) = (0, Vec::new(), Ok(Flow::Starved));
    while let Ok(Flow::Starved | Flow::Full) = flow {
        if flow == Ok(Flow::Starved) {
            if at == input.len() {
                break;
            }
            let len = pieces.next(input.len() - at).min(from.room());
            assert!(len > 0, "there is room for what is waited for");
            from.push(&input[at..at + len]);
            at += len;
        }
        flow = transfer.run(&mut from, &mut to, &TrailerRules::default());
        let taken = if to.is_empty() { 0 } else { pieces.next(to.len()) };
        out.extend_from_slice(&to.unread()[..taken]);
        to.consume(taken);
    }
    out.extend_from_slice(to.unread());
    assert_eq!(transfer.bytes as usize, said.content.len(), "bytes are counted");
    match (reader::chunked(&out), &said.end) {
        (Read::Whole(read), End::At(_)) => {
            assert_eq!(read.content, said.content, "it leaves as it came");
            assert_eq!(read.len, out.len(), "nothing is behind its end");
        }
        (Read::Partial, End::Open | End::Bad) => (),
        (read, end) => panic!("it came as {end:?} and leaves as {read:?}"),
    }
}
