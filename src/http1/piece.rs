//! What a decoder finds at the front of a body.

/// What stands at the front of the bytes that have arrived. `skip` counts framing bytes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Only a part of something; more bytes are needed.
    More {
        /// Framing bytes that can be dropped.
        skip: usize,
    },
    /// `len` bytes of content.
    Data {
        /// Framing bytes before it.
        skip: usize,
        /// Bytes of content.
        len: usize,
    },
    /// A trailer field of `len` bytes and, behind them, its line end.
    Trailer {
        /// Framing bytes before it.
        skip: usize,
        /// Bytes of the field line without its line end.
        len: usize,
    },
    /// The body has ended.
    End {
        /// Framing bytes before what follows.
        skip: usize,
    },
}
