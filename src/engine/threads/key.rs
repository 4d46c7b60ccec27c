//! Names a slot that many occupants have one after the other.

/// Generations fit into 30 bits, so that a key and its kind fit into an event.
pub const GENERATIONS: u32 = 1 << 30;

/// Names a place and its occupant: late news for an occupant that has left are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The place.
    pub index: u32,
    /// Its occupant, from 1.
    pub generation: u32,
}

impl Key {
    /// As a number, never 0.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// From a number.
    pub fn from_number(number: u64) -> Self {
        Key { index: number as u32, generation: (number >> 32) as u32 & (GENERATIONS - 1) }
    }

    /// The next occupant of the same place.
    pub fn next_generation(generation: u32) -> u32 {
        (generation + 1) % GENERATIONS
    }
}
