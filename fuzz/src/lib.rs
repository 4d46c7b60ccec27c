//! What must hold for any input: one check a target, each a plain function of bytes that panics if
//! something does not hold.
//!
//! The fuzz targets call these functions, and so does `tests/corpora.rs` with the committed files,
//! on the stable toolchain and without libFuzzer. Not here: what a rule says
//! (`docs/protocol.md`), and whether a good message is served (`tests/` of balancebeam).
#![forbid(unsafe_code)]

pub mod chunked;
pub mod differential;
pub mod flags;
pub mod head;
mod hyper_reader;
mod in_memory;
mod others;
mod reader;
pub mod session;
mod world;

/// One check of one input.
pub type Check = fn(&[u8]);

/// Every target by its name, which is that of its folder in `corpus/` and in `seeds/`.
pub const TARGETS: [(&str, Check); 5] = [
    ("head", head::check),
    ("chunked", chunked::check),
    ("session", session::check),
    ("flags", flags::check),
    ("differential", differential::check),
];

/// What a target's binary does without libFuzzer: it checks the files that it is given.
pub fn replay(check: Check) {
    for path in std::env::args_os().skip(1) {
        match std::fs::read(&path) {
            Ok(input) => check(&input),
            Err(error) => panic!("{}: {error}", path.display()),
        }
        println!("{}: nothing found", path.display());
    }
}

/// Lengths of pieces into which an input is cut: arbitrary, and the same for the same input, so that
/// no byte of the input has to be spent on them.
pub struct Pieces(u64);

impl Pieces {
    pub fn of(input: &[u8]) -> Pieces {
        // FNV-1a, then xorshift64: not 0.
        let sum = input.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, &byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Pieces(sum | 1)
    }

    /// The next piece of at most `most` bytes; at least one, often a few, sometimes all.
    pub fn next(&mut self, most: usize) -> usize {
        for shift in [13, -7, 17] {
            self.0 ^= if shift > 0 { self.0 << shift } else { self.0 >> -shift };
        }
        let draw = (self.0 >> 8) as usize;
        let longest = match self.0 % 4 {
            0 => 1,
            1 => 4,
            2 => 64,
            _ => most,
        };
        1 + draw % longest.clamp(1, most.max(1))
    }
}
