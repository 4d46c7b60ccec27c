use super::*;
use crate::buffer::SIZE;

/// Bytes behind a body, which belong to the next message.
const NEXT: &[u8] = b"GET ";

/// A body in one framing: its bytes, its content, and its trailer fields that may go on.
struct Body {
    framing: Framing,
    wire: &'static [u8],
    content: &'static [u8],
    trailers: &'static [u8],
}

const BODIES: &[Body] = &[
    Body { framing: Framing::Empty, wire: b"", content: b"", trailers: b"" },
    Body { framing: Framing::Length(0), wire: b"", content: b"", trailers: b"" },
    Body {
        framing: Framing::Length(40),
        wire: b"0123456789012345678901234567890123456789",
        content: b"0123456789012345678901234567890123456789",
        trailers: b"",
    },
    Body { framing: Framing::Chunked, wire: b"0\r\n\r\n", content: b"", trailers: b"" },
    Body {
        framing: Framing::Chunked,
        wire: b"3;x=y\r\nabc\r\n1e\r\n012345678901234567890123456789\r\n01\r\nd\r\n000;z\r\n\r\n",
        content: b"abc012345678901234567890123456789d",
        trailers: b"",
    },
    Body {
        framing: Framing::Chunked,
        wire: b"3\r\nabc\r\n0\r\nOne: first trailer\r\nHost: evil\r\nTwo: second\r\n\r\n",
        content: b"abc",
        trailers: b"One: first trailer\r\nTwo: second\r\n",
    },
    Body {
        framing: Framing::UntilClose,
        wire: b"0123456789\r\n0\r\n\r\n",
        content: b"0123456789\r\n0\r\n\r\n",
        trailers: b"",
    },
];

/// A transfer into a buffer with little room, which is emptied whenever it is full.
struct Run {
    transfer: Transfer,
    from: Buffer,
    to: Buffer,
    /// Bytes that stand in `to` before anything is moved.
    filler: usize,
    left: Vec<u8>,
}

impl Run {
    fn new(body: &Body, encoder: Encoder, room: usize) -> Run {
        let transfer = Transfer::new(Decoder::new(body.framing, 4096, 100), encoder);
        let (from, left) = (Buffer::default(), Vec::new());
        let mut run = Run { transfer, from, to: Buffer::default(), filler: SIZE - room, left };
        run.fill();
        run
    }

    fn fill(&mut self) {
        self.to.push(&vec![b'.'; self.filler]);
    }

    /// Takes what has been written, and leaves as little room as before.
    fn empty(&mut self) {
        assert!(self.to.memory() <= SIZE + 5, "only the end of a body may exceed a buffer");
        self.left.extend_from_slice(&self.to.unread()[self.filler..]);
        self.to.clear();
        self.fill();
    }

    /// Moves what has arrived. Returns whether the body is over.
    fn arrives(&mut self, bytes: &[u8]) -> bool {
        self.from.push(bytes);
        for _ in 0..2 * self.from.len() + 8 {
            match self.transfer.run(&mut self.from, &mut self.to, &TrailerRules::default()).unwrap()
            {
                Flow::Starved => return false,
                Flow::Ended => return true,
                Flow::Full if self.to.len() == self.filler => {
                    // Not even one piece fits: all room is needed, as when the peer has taken all.
                    self.to.clear();
                    let flow = self
                        .transfer
                        .run(&mut self.from, &mut self.to, &TrailerRules::default())
                        .unwrap();
                    self.left.extend_from_slice(self.to.unread());
                    self.to.clear();
                    self.fill();
                    match flow {
                        Flow::Ended => return true,
                        Flow::Starved => return false,
                        Flow::Full => (),
                    }
                }
                Flow::Full => self.empty(),
            }
        }
        panic!("it does not come to an end");
    }
}

/// The content and the rest behind it of what was written in chunks.
fn read_chunks(mut wire: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut content = Vec::new();
    loop {
        let line = wire.windows(2).position(|w| w == b"\r\n").expect("a chunk's line");
        let size = std::str::from_utf8(&wire[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        wire = &wire[line + 2..];
        if size == 0 {
            return (content, wire.to_vec());
        }
        content.extend_from_slice(&wire[..size]);
        assert_eq!(&wire[size..size + 2], b"\r\n");
        wire = &wire[size + 2..];
    }
}

/// Plays a body into an encoder, cut at `cut`, with so much room.
fn play(body: &Body, encoder: Encoder, cut: usize, room: usize) {
    let ends_itself = body.framing != Framing::UntilClose;
    let wire = if ends_itself { [body.wire, NEXT].concat() } else { body.wire.to_vec() };
    let mut run = Run::new(body, encoder, room);
    let mut ended = run.arrives(&wire[..cut]);
    if ended {
        run.from.push(&wire[cut..]);
    } else {
        ended = run.arrives(&wire[cut..]);
    }
    if !ends_itself {
        assert!(!ended);
        assert!(run.transfer.sender_closed(&mut run.to), "the close is the end");
    } else {
        assert!(ended, "it has ended");
        assert_eq!(run.from.unread(), NEXT, "the next message is left");
    }
    run.empty();
    assert_eq!(run.transfer.bytes, body.content.len() as u64);
    match encoder {
        Encoder::Nowhere => assert_eq!(run.left, b""),
        Encoder::Plain => assert_eq!(run.left, body.content),
        Encoder::Chunked { .. } => {
            let (content, rest) = read_chunks(&run.left);
            assert_eq!(content, body.content);
            assert_eq!(rest, [body.trailers, b"\r\n"].concat());
        }
    }
}

#[test]
fn every_framing_goes_into_every_other_however_it_is_cut_and_however_little_room_there_is() {
    for body in BODIES {
        for encoder in [Encoder::Plain, Encoder::CHUNKED, Encoder::Nowhere] {
            for cut in 0..=body.wire.len() {
                for room in [0, 1, 2, 19, 20, 21, 22, 25, 40, SIZE] {
                    play(body, encoder, cut, room);
                }
            }
        }
    }
}

#[test]
fn only_a_body_that_the_close_ends_is_ended_by_it() {
    for body in BODIES {
        for cut in 0..body.wire.len() {
            let mut run = Run::new(body, Encoder::CHUNKED, SIZE);
            assert!(!run.arrives(&body.wire[..cut]));
            let before = run.to.len();
            let ended = run.transfer.sender_closed(&mut run.to);
            assert_eq!(ended, body.framing == Framing::UntilClose);
            assert_eq!(run.to.len() > before, ended, "no last chunk without an end");
        }
    }
}

#[test]
fn what_is_moved_stays_replayable_while_it_is_held() {
    for room in [70, 100, SIZE] {
        let body = &BODIES[4];
        let mut to = Buffer::default();
        to.push(&vec![b'.'; SIZE - room]);
        to.retain();
        to.consume(SIZE - room);
        let mut from = Buffer::default();
        let mut transfer = Transfer::new(Decoder::new(body.framing, 64, 3), Encoder::CHUNKED);
        let mut sent = Vec::new();
        for byte in body.wire {
            from.push(&[*byte]);
            transfer.run(&mut from, &mut to, &TrailerRules::default()).unwrap();
            sent.extend_from_slice(to.unread());
            to.consume(to.len());
        }
        assert_eq!(read_chunks(&sent).0, body.content);
        if to.retains() {
            to.rewind();
            assert_eq!(&to.unread()[SIZE - room..], sent);
        }
        assert_eq!(to.retains(), room == SIZE, "only with room for all of it");
    }
}
