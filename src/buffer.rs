//! A byte buffer between a socket and the codec, and the free list that its memory comes from.
//!
//! An empty buffer that was released holds no memory, so an idle session costs none. Each thread
//! keeps a short list of released memory, and beside it all threads keep one together: a session
//! that takes its memory on one thread and gives it back on another would otherwise empty one list
//! and fill the other, for ever. So after warm-up nothing is allocated. Not here: what the bytes
//! mean.

use std::cell::RefCell;

use crate::lock::Lock;

/// Bytes of one buffer. A head must fit into it, and one read moves at most that much.
pub const SIZE: usize = 32 * 1024;

/// Room below which held bytes are given up: less is of no use to a chunk.
const LEAST_ROOM: usize = 64;

/// Released buffers that a thread keeps for reuse: 512 KiB.
const KEPT_PER_THREAD: usize = 16;
/// Released buffers that all threads keep together beside those: 4 MiB.
const KEPT_TOGETHER: usize = 128;
/// How many go from one list to the other at a time, so that the lock is taken seldom.
const HANDED_OVER: usize = KEPT_PER_THREAD / 2;

/// A buffer takes a box as it is.
type Kept = Vec<Box<Memory>>;

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Vec::new()) };
}

static TOGETHER: Lock<Kept> = Lock::new(Vec::new());

/// Memory for one buffer: what this thread has kept, or another one, or new.
fn take_memory() -> Box<Memory> {
    let kept = KEPT.with_borrow_mut(|kept| {
        if kept.is_empty() {
            let mut together = TOGETHER.lock();
            let rest = together.len().saturating_sub(HANDED_OVER);
            kept.extend(together.drain(rest..));
        }
        kept.pop()
    });
    kept.unwrap_or_else(Memory::new)
}

/// Keeps memory for `take_memory` if there is room for it.
fn keep_memory(memory: Box<Memory>) {
    KEPT.with_borrow_mut(|kept| {
        if kept.len() >= KEPT_PER_THREAD {
            let mut together = TOGETHER.lock();
            let room = KEPT_TOGETHER.saturating_sub(together.len());
            together.extend(kept.drain(..HANDED_OVER).take(room));
        }
        kept.push(memory);
    });
}

/// Bytes go in at the end (`space`, `filled`, `push`) and out at the front (`unread`, `consume`).
///
/// While it *holds*, consumed bytes stay, so that `rewind` can offer them again: that is how a
/// request is sent twice. Running out of room ends the hold, because the room is needed.
///
/// One that has no memory is one word: there are four in a session, and seldom have all some.
#[derive(Default)]
pub struct Buffer(Option<Box<Memory>>);

/// The memory of a buffer that has some.
struct Memory {
    store: Vec<u8>,
    start: usize,
    end: usize,
    holds: bool,
}

impl Buffer {
    /// The bytes that were put in and not yet consumed.
    pub fn unread(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |memory| &memory.store[memory.start..memory.end])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.unread().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.unread().is_empty()
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        self.0.as_ref().map_or(0, |memory| memory.store.len())
    }

    /// Room behind the bytes; allocates, and moves the bytes to the front if that is the only way.
    /// Empty if the buffer is full.
    pub fn space(&mut self) -> &mut [u8] {
        let memory = self.with_room();
        &mut memory.store[memory.end..]
    }

    /// How many bytes `space` would offer.
    pub fn room(&self) -> usize {
        let Some(memory) = &self.0 else { return SIZE };
        let used = if memory.must_move() { self.len() } else { memory.end };
        memory.store.len() - used
    }

    /// Says that the first `n` bytes of `space` have been written.
    pub fn filled(&mut self, n: usize) {
        if let Some(memory) = &mut self.0 {
            memory.end = (memory.end + n).min(memory.store.len());
        }
    }

    /// Appends `bytes`; grows if there is no room. For heads, whose size the caller has bounded.
    pub fn push(&mut self, bytes: &[u8]) {
        let memory = self.with_room();
        let end = memory.end + bytes.len();
        if end > memory.store.len() {
            memory.store.resize(end, 0);
        }
        memory.store[memory.end..end].copy_from_slice(bytes);
        memory.end = end;
    }

    /// Takes `n` bytes from the front.
    pub fn consume(&mut self, n: usize) {
        let Some(memory) = &mut self.0 else { return };
        memory.start = (memory.start + n).min(memory.end);
        if memory.start == memory.end && !memory.holds {
            (memory.start, memory.end) = (0, 0);
        }
    }

    /// Keeps what is consumed from now on. The bytes before are gone.
    pub fn hold(&mut self) {
        let memory = self.0.get_or_insert_with(take_memory);
        memory.move_to_front();
        memory.holds = true;
    }

    /// Whether everything since `hold` is still there.
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_some_and(|memory| memory.holds)
    }

    /// Whether it holds and can go on doing so.
    pub fn can_hold_more(&self) -> bool {
        self.0.as_ref().is_some_and(|memory| memory.holds && !memory.must_move())
    }

    /// Ends the hold.
    pub fn let_go(&mut self) {
        if let Some(memory) = &mut self.0 {
            memory.holds = false;
        }
        self.consume(0);
    }

    /// Offers everything since `hold` again; only while it `holds`.
    pub fn rewind(&mut self) {
        if let Some(memory) = &mut self.0
            && memory.holds
        {
            memory.start = 0;
        }
    }

    /// Everything since `hold`, consumed or not; only while it `holds`.
    pub fn held(&self) -> &[u8] {
        match &self.0 {
            Some(memory) if memory.holds => &memory.store[..memory.end],
            _ => &[],
        }
    }

    /// Replaces `len` bytes at `at`, counted from where the hold began, before any was consumed.
    pub fn replace(&mut self, at: usize, len: usize, with: &[u8]) {
        if let Some(memory) = &mut self.0
            && at + len <= memory.end
            && memory.start == 0
        {
            memory.store.splice(at..at + len, with.iter().copied());
            memory.end = memory.end - len + with.len();
            // Memory of another size would not be kept.
            memory.store.resize(memory.end.max(SIZE), 0);
        }
    }

    /// Drops all bytes and any hold, and gives the memory back.
    pub fn clear(&mut self) {
        if let Some(mut memory) = self.0.take()
            && memory.store.len() == SIZE
        {
            (memory.start, memory.end, memory.holds) = (0, 0, false);
            keep_memory(memory);
        }
    }

    /// Gives the memory back if there is nothing in it.
    pub fn release(&mut self) {
        if self.is_empty() && !self.holds() {
            self.clear();
        }
    }

    fn with_room(&mut self) -> &mut Memory {
        let memory = self.0.get_or_insert_with(take_memory);
        if memory.must_move() {
            memory.move_to_front();
            memory.holds = false;
        }
        memory
    }
}

impl Memory {
    fn new() -> Box<Self> {
        Box::new(Memory { store: vec![0; SIZE], start: 0, end: 0, holds: false })
    }

    /// Moving is worth it when the room behind is used up, or small beside what has to be moved.
    fn must_move(&self) -> bool {
        let behind = self.store.len() - self.end;
        self.start > 0 && behind < if self.holds { LEAST_ROOM } else { SIZE / 4 }
    }

    fn move_to_front(&mut self) {
        self.store.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.push(bytes);
        buffer
    }

    #[test]
    fn bytes_come_out_in_order() {
        let mut buffer = with(b"abc");
        buffer.consume(1);
        buffer.push(b"def");
        assert_eq!(buffer.unread(), b"bcdef");
        buffer.consume(99);
        assert!(buffer.is_empty());
    }

    #[test]
    fn room_is_never_less_than_promised() {
        let mut buffer = with(&[7; SIZE - 10]);
        buffer.consume(SIZE - 30);
        let room = buffer.room();
        assert_eq!(room, buffer.space().len());
        assert_eq!(room, SIZE - 20);
        assert_eq!(buffer.unread(), [7; 20]);
    }

    #[test]
    fn held_bytes_can_be_read_again_until_the_room_is_needed() {
        let mut buffer = with(b"request");
        buffer.hold();
        buffer.consume(7);
        buffer.push(b" body");
        buffer.rewind();
        assert_eq!(buffer.unread(), b"request body");
        buffer.consume(12);
        let rest = buffer.room();
        buffer.push(&vec![1; rest]);
        assert!(buffer.holds());
        assert_eq!(buffer.space().len(), 12, "the room of what was consumed");
        assert!(!buffer.holds());
    }

    #[test]
    fn a_part_of_a_held_head_can_be_replaced() {
        let mut buffer = with(b"Host: a\r\n\r\nbody");
        buffer.hold();
        buffer.replace(6, 1, b"longer");
        assert_eq!(buffer.unread(), b"Host: longer\r\n\r\nbody");
        buffer.replace(6, 6, b"");
        assert_eq!(buffer.unread(), b"Host: \r\n\r\nbody");
    }

    #[test]
    fn released_memory_is_used_again_and_an_empty_buffer_has_none() {
        let mut buffer = with(b"x");
        buffer.release();
        assert_eq!(buffer.memory(), SIZE, "it is not empty");
        buffer.consume(1);
        buffer.release();
        assert_eq!(buffer.memory(), 0);
        assert_eq!(buffer.room(), SIZE);
    }

    #[test]
    fn a_large_head_grows_the_buffer_and_is_not_kept() {
        let mut buffer = with(&[1; SIZE]);
        buffer.push(&[2; SIZE]);
        assert_eq!(buffer.len(), 2 * SIZE);
        buffer.clear();
        assert_eq!(buffer.space().len(), SIZE);
    }
}
