//! The bytes of a buffer: small sizes from the heap, large ones in an anonymous memory map.
//!
//! Dropping a map returns its pages to the system. The heap keeps most of what is freed, because
//! other allocations lie between. Not here: when memory is dropped and when it is reused (`pool.rs`).

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// The smallest size in bytes that gets a memory map. Smaller ones are not worth the system calls.
const LEAST_MAPPED: usize = 8 * 1024;

/// Bytes of a fixed size, zeros at first.
pub(super) enum Store {
    Heap(Vec<u8>),
    Mapped(MmapMut),
}

impl Store {
    /// Makes a store of `len` bytes. If the system refuses a map, the heap serves all sizes.
    pub fn new(len: usize) -> Self {
        if len >= LEAST_MAPPED
            && let Ok(map) = MmapMut::map_anon(len)
        {
            return Store::Mapped(map);
        }
        Store::Heap(vec![0; len])
    }

    /// Makes the store larger, on the heap: for a head that has outgrown its buffer, which is rare and
    /// not kept for reuse.
    pub fn grow(&mut self, len: usize) {
        if let Store::Mapped(map) = self {
            let mut grown = Vec::with_capacity(len.max(map.len() * 5 / 4));
            grown.extend_from_slice(map);
            *self = Store::Heap(grown);
        }
        if let Store::Heap(bytes) = self {
            bytes.resize(len.max(bytes.len()), 0);
        }
    }
}

impl Deref for Store {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Store::Heap(bytes) => bytes,
            Store::Mapped(map) => map,
        }
    }
}

impl DerefMut for Store {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Store::Heap(bytes) => bytes,
            Store::Mapped(map) => map,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_keeps_its_bytes_wherever_they_are() {
        for len in [8, LEAST_MAPPED] {
            let mut store = Store::new(len);
            assert_eq!(matches!(store, Store::Mapped(_)), len >= LEAST_MAPPED);
            assert!(store.iter().all(|&byte| byte == 0));
            store.fill(7);
            store.grow(len + 3);
            assert_eq!(store.len(), len + 3);
            assert!(store[..len].iter().all(|&byte| byte == 7));
            assert_eq!(store[len..], [0; 3]);
        }
    }
}
