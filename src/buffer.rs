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

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

static TOGETHER: Lock<Vec<Vec<u8>>> = Lock::new(Vec::new());

/// Memory for one buffer: what this thread has kept, or another one, or new.
fn take_memory() -> Vec<u8> {
    let kept = KEPT.with_borrow_mut(|kept| {
        if kept.is_empty() {
            let mut together = TOGETHER.lock();
            let rest = together.len().saturating_sub(HANDED_OVER);
            kept.extend(together.drain(rest..));
        }
        kept.pop()
    });
    kept.unwrap_or_else(|| vec![0; SIZE])
}

/// Keeps memory for `take_memory` if there is room for it.
fn keep_memory(memory: Vec<u8>) {
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
/// request
/// is sent twice. Running out of room ends the hold, because the room is needed.
#[derive(Default)]
pub struct Buffer {
    store: Vec<u8>,
    start: usize,
    end: usize,
    holds: bool,
}

impl Buffer {
    /// The bytes that were put in and not yet consumed.
    pub fn unread(&self) -> &[u8] {
        &self.store[self.start..self.end]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        self.store.len()
    }

    /// Room behind the bytes; allocates, and moves the bytes to the front if that is the only way.
    /// Empty if the buffer is full.
    pub fn space(&mut self) -> &mut [u8] {
        self.make_room();
        &mut self.store[self.end..]
    }

    /// How many bytes `space` would offer.
    pub fn room(&self) -> usize {
        if self.store.is_empty() {
            SIZE
        } else if self.must_move() {
            self.store.len() - self.len()
        } else {
            self.store.len() - self.end
        }
    }

    /// Says that the first `n` bytes of `space` have been written.
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.store.len());
    }

    /// Appends `bytes`; grows if there is no room. For heads, whose size the caller has bounded.
    pub fn push(&mut self, bytes: &[u8]) {
        self.make_room();
        let end = self.end + bytes.len();
        if end > self.store.len() {
            self.store.resize(end, 0);
        }
        self.store[self.end..end].copy_from_slice(bytes);
        self.end = end;
    }

    /// Takes `n` bytes from the front.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end && !self.holds {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Keeps what is consumed from now on. The bytes before are gone.
    pub fn hold(&mut self) {
        let unread = self.start..self.end;
        self.end = unread.len();
        self.store.copy_within(unread, 0);
        self.start = 0;
        self.holds = true;
    }

    /// Whether everything since `hold` is still there.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Whether it holds and can go on doing so.
    pub fn can_hold_more(&self) -> bool {
        self.holds && !self.must_move()
    }

    /// Ends the hold.
    pub fn let_go(&mut self) {
        self.holds = false;
        self.consume(0);
    }

    /// Offers everything since `hold` again; only while it `holds`.
    pub fn rewind(&mut self) {
        if self.holds {
            self.start = 0;
        }
    }

    /// Everything since `hold`, consumed or not; only while it `holds`.
    pub fn held(&self) -> &[u8] {
        if self.holds { &self.store[..self.end] } else { &[] }
    }

    /// Replaces `len` bytes at `at`, counted from where the hold began, before any was consumed.
    pub fn replace(&mut self, at: usize, len: usize, with: &[u8]) {
        if at + len <= self.end && self.start == 0 {
            self.store.splice(at..at + len, with.iter().copied());
            self.end = self.end - len + with.len();
        }
    }

    /// Drops all bytes and any hold, and gives the memory back.
    pub fn clear(&mut self) {
        (self.start, self.end, self.holds) = (0, 0, false);
        self.release();
    }

    /// Gives the memory back if there is nothing in it.
    pub fn release(&mut self) {
        if !self.is_empty() || self.holds || self.store.is_empty() {
            return;
        }
        let store = std::mem::take(&mut self.store);
        (self.start, self.end) = (0, 0);
        if store.len() == SIZE {
            keep_memory(store);
        }
    }

    fn make_room(&mut self) {
        if self.store.is_empty() {
            self.store = take_memory();
        } else if self.must_move() {
            self.store.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            self.holds = false;
        }
    }

    /// Moving is worth it when the room behind is used up, or small beside what has to be moved.
    fn must_move(&self) -> bool {
        let behind = self.store.len() - self.end;
        self.start > 0 && behind < if self.holds { LEAST_ROOM } else { SIZE / 4 }
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
        assert!(!buffer.store.is_empty(), "it is not empty");
        buffer.consume(1);
        buffer.release();
        assert!(buffer.store.is_empty());
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
