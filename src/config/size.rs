//! Numbers of bytes as they are written: `16K`.

use std::fmt;

/// A number of bytes, typed and shown with a suffix where one fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size(
    /// Bytes.
    pub u64,
);

const SUFFIXES: [(&str, u32); 3] = [("G", 30), ("M", 20), ("K", 10)];

impl From<usize> for Size {
    fn from(bytes: usize) -> Self {
        Size(bytes as u64)
    }
}

impl Size {
    /// The same size in memory; a size that no memory has is the largest that could be.
    pub fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Reads digits with a suffix, such as `16K` or `16KiB`.
    pub fn parse(text: &str) -> Option<Size> {
        let upper = text.to_ascii_uppercase();
        let short = upper.strip_suffix("IB").unwrap_or(&upper);
        let (digits, shift) = SUFFIXES
            .iter()
            .find_map(|(suffix, shift)| Some((short.strip_suffix(suffix)?, *shift)))
            .unwrap_or((&upper, 0));
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None; // `str::parse` would take a plus sign
        }
        digits.parse::<u64>().ok()?.checked_mul(1 << shift).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match SUFFIXES.iter().find(|(_, shift)| fits(*shift)) {
            Some((suffix, shift)) => write!(f, "{}{suffix}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}
