//! Connections without sockets: what was written to one end and has not been read at the other, in
//! any pieces, with ends and resets. The near end is the balancer's.
//!
//! Not here: when anything moves (`net.rs`), what is said (`client.rs`, `upstream.rs`).

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use crate::draws::Draws;

/// One direction.
pub struct Way {
    /// Written, and not yet read.
    pub bytes: VecDeque<u8>,
    /// How many that may be.
    room: usize,
    /// Nothing comes behind them.
    pub has_ended: bool,
    /// Bytes that were read so far.
    pub read: u64,
}

impl Way {
    fn new(room: usize) -> Way {
        Way { bytes: VecDeque::new(), room, has_ended: false, read: 0 }
    }

    fn has_room(&self) -> usize {
        self.room.saturating_sub(self.bytes.len())
    }

    fn take(&mut self, into: &mut [u8]) {
        let len = into.len();
        for (to, from) in into.iter_mut().zip(self.bytes.drain(..len)) {
            *to = from;
        }
        self.read += into.len() as u64;
    }
}

/// How a connect stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    Pending,
    Made,
    Failed(ErrorKind),
}

pub struct Link {
    pub dial: Dial,
    /// From the balancer.
    pub out: Way,
    /// To the balancer.
    pub back: Way,
    /// Closed by the balancer; by a reset or not.
    pub near_closed: Option<bool>,
    /// The balancer wants closing to be a reset.
    pub resets_on_close: bool,
    /// Closed by the peer, which reads no more.
    pub far_closed: bool,
    /// The peer has reset it.
    pub far_reset: bool,
    pub draws: Draws,
}

/// What the far end finds when it reads.
pub enum Found {
    Bytes(Vec<u8>),
    Nothing,
    End,
    Reset,
}

impl Link {
    pub fn new(dial: Dial, mut draws: Draws) -> Link {
        let mut room = || draws.one_of(&[200, 4_000, 60_000, 60_000]);
        let (out, back) = (Way::new(room()), Way::new(room()));
        Link {
            dial,
            out,
            back,
            near_closed: None,
            resets_on_close: false,
            far_closed: false,
            far_reset: false,
            draws,
        }
    }

    /// Whether there is something to be read at the near end, or an end, or an error.
    pub fn is_quiet(&self) -> bool {
        self.back.bytes.is_empty() && !self.back.has_ended && !self.far_reset
    }

    pub fn near_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.far_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if self.back.bytes.is_empty() {
            return if self.back.has_ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let n = self.draws.piece(into.len().min(self.back.bytes.len()));
        self.back.take(&mut into[..n]);
        Ok(n)
    }

    pub fn near_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.far_reset {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if self.far_closed {
            // What is written is lost, and the answer to it is a reset, which may overtake bytes.
            self.far_reset = true;
            return Ok(bytes.len());
        }
        let room = self.out.has_room().min(bytes.len());
        if room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = self.draws.piece(room);
        self.out.bytes.extend(&bytes[..n]);
        Ok(n)
    }

    /// What nobody has read makes it a reset.
    pub fn near_close(&mut self) {
        self.near_closed.get_or_insert(self.resets_on_close || !self.back.bytes.is_empty());
        self.out.has_ended = true;
    }

    pub fn far_read(&mut self, most: usize) -> Found {
        if self.near_closed == Some(true) || self.far_reset {
            return Found::Reset;
        }
        if self.out.bytes.is_empty() {
            return if self.out.has_ended { Found::End } else { Found::Nothing };
        }
        let n = self.draws.piece(most.min(self.out.bytes.len()));
        let mut bytes = vec![0; n];
        self.out.take(&mut bytes);
        Found::Bytes(bytes)
    }

    /// Takes some of the bytes. Nobody reads them if the balancer has closed.
    pub fn far_write(&mut self, bytes: &[u8]) -> usize {
        if self.near_closed.is_some() {
            return bytes.len();
        }
        let room = self.back.has_room().min(bytes.len());
        let n = if room == 0 { 0 } else { self.draws.piece(room) };
        self.back.bytes.extend(&bytes[..n]);
        n
    }

    /// Ends the sending direction.
    pub fn far_end(&mut self) {
        self.back.has_ended = true;
    }

    /// Closes it in order: what was sent will arrive, and nothing more is read.
    pub fn far_close(&mut self) {
        (self.back.has_ended, self.far_closed) = (true, true);
    }

    /// Resets it. What was sent arrives no more.
    pub fn far_resets(&mut self) {
        (self.far_reset, self.far_closed) = (true, true);
    }
}
