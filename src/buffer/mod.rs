//! A byte buffer between a socket and the codec.
//!
//! An empty buffer that rests holds no memory, so an idle session costs none; one with bytes in it, a
//! request that is held until its answer comes, holds the smallest size that they fit. So whoever has
//! a turn works in memory that was used a moment ago. Not here: what the bytes mean, and where memory
//! comes from (`store`, `kept`).

mod pool;
mod store;

use std::time::Instant;

use store::Store;

/// Bytes of a buffer at work: a body of 64 KiB fits, and its head. One read moves at most so much.
pub const SIZE: usize = SIZES[SIZES.len() - 1];
/// Bytes of the smallest buffer at rest.
pub const SMALL: usize = SIZES[0];
/// Bytes of a buffer at rest: the smallest of these sizes that fits.
pub const SIZES: [usize; 5] = [4 * 1024, 8 * 1024, 16 * 1024, 32 * 1024, 68 * 1024];
/// `SIZE` among `SIZES`.
const AT_WORK: usize = SIZES.len() - 1;

/// Returns memory to the system that stayed unused for a while, of what this thread and all threads
/// together keep for reuse. The result says whether anything is still kept; then call again later.
pub fn give_back_unused(now: Instant) -> bool {
    pool::give_back_unused(now)
}

/// Room below which held bytes are given up: less is of no use to a chunk.
const LEAST_ROOM: usize = 64;

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
    /// `SIZE` bytes, or more if a head has grown it; one of `SIZES` while it rests.
    store: Store,
    start: usize,
    end: usize,
    retains: bool,
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
        memory.size() - used
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
            memory.store.grow(end);
        }
        memory.store[memory.end..end].copy_from_slice(bytes);
        memory.end = end;
    }

    /// Takes `n` bytes from the front.
    pub fn consume(&mut self, n: usize) {
        let Some(memory) = &mut self.0 else { return };
        memory.start = (memory.start + n).min(memory.end);
        if memory.start == memory.end && !memory.retains {
            (memory.start, memory.end) = (0, 0);
        }
    }

    /// Keeps what is consumed from now on. The bytes before are gone.
    pub fn retain(&mut self) {
        let memory = self.0.get_or_insert_with(|| pool::take(AT_WORK));
        memory.move_to_front();
        memory.retains = true;
    }

    /// Whether everything since `hold` is still there.
    pub fn retains(&self) -> bool {
        self.0.as_ref().is_some_and(|memory| memory.retains)
    }

    /// Whether it holds and can go on doing so.
    pub fn can_retain_more(&self) -> bool {
        self.0.as_ref().is_some_and(|memory| memory.retains && !memory.must_move())
    }

    /// Ends the hold.
    pub fn end_retain(&mut self) {
        if let Some(memory) = &mut self.0 {
            memory.retains = false;
        }
        self.consume(0);
    }

    /// Offers everything since `hold` again; only while it `holds`.
    pub fn rewind(&mut self) {
        if let Some(memory) = &mut self.0
            && memory.retains
        {
            memory.start = 0;
        }
    }

    /// Everything since `hold`, consumed or not; only while it `holds`.
    pub fn retained(&self) -> &[u8] {
        match &self.0 {
            Some(memory) if memory.retains => &memory.store[..memory.end],
            _ => &[],
        }
    }

    /// Replaces `len` bytes at `at`, counted from where the hold began, before any was consumed.
    pub fn replace(&mut self, at: usize, len: usize, with: &[u8]) {
        if let Some(memory) = &mut self.0
            && at + len <= memory.end
            && memory.start == 0
        {
            memory.move_into(AT_WORK);
            let end = memory.end - len + with.len();
            if end > memory.store.len() {
                memory.store.grow(end);
            }
            memory.store.copy_within(at + len..memory.end, at + with.len());
            memory.store[at..at + with.len()].copy_from_slice(with);
            memory.end = end;
        }
    }

    /// Drops all bytes and any hold, and gives the memory back.
    pub fn clear(&mut self) {
        if let Some(memory) = self.0.take() {
            pool::keep(memory);
        }
    }

    /// Nothing will go in or out for a while: keeps no more memory than its bytes need.
    pub fn release_memory(&mut self) {
        let Some(memory) = &mut self.0 else { return };
        if memory.is_empty() && !memory.retains {
            self.clear();
        } else if let Some(number) = SIZES.iter().position(|size| *size >= memory.used())
            && SIZES[number] < memory.store.len()
        {
            if !memory.retains {
                memory.move_to_front();
            }
            memory.move_into(number);
        }
    }

    fn with_room(&mut self) -> &mut Memory {
        let memory = self.0.get_or_insert_with(|| pool::take(AT_WORK));
        memory.move_into(AT_WORK);
        if memory.must_move() {
            memory.move_to_front();
            memory.retains = false;
        }
        memory
    }
}

impl Memory {
    fn new(size: usize) -> Box<Self> {
        Box::new(Memory { store: Store::new(size), start: 0, end: 0, retains: false })
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes that must be kept.
    fn used(&self) -> usize {
        if self.retains { self.end } else { self.end - self.start }
    }

    /// Bytes it has room for once it is at work.
    fn size(&self) -> usize {
        self.store.len().max(SIZE)
    }

    /// Puts the same bytes into memory of another one of `SIZES`, which they must fit. Memory that is
    /// larger than `SIZE` already is left as it is if that is asked for.
    fn move_into(self: &mut Box<Self>, number: usize) {
        let size = SIZES[number];
        if self.store.len() == size || (size == SIZE && self.store.len() > SIZE) {
            return;
        }
        let mut other = pool::take(number);
        other.store[..self.end].copy_from_slice(&self.store[..self.end]);
        (other.start, other.end, other.retains) = (self.start, self.end, self.retains);
        pool::keep(std::mem::replace(self, other));
    }

    /// Moving is worth it when the room behind is used up, or small beside what has to be moved.
    fn must_move(&self) -> bool {
        let behind = self.size() - self.end;
        self.start > 0 && behind < if self.retains { LEAST_ROOM } else { SIZE / 4 }
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
        buffer.retain();
        buffer.consume(7);
        buffer.push(b" body");
        buffer.rewind();
        assert_eq!(buffer.unread(), b"request body");
        buffer.consume(12);
        let rest = buffer.room();
        buffer.push(&vec![1; rest]);
        assert!(buffer.retains());
        assert_eq!(buffer.space().len(), 12, "the room of what was consumed");
        assert!(!buffer.retains());
    }

    #[test]
    fn a_part_of_a_held_head_can_be_replaced() {
        let mut buffer = with(b"Host: a\r\n\r\nbody");
        buffer.retain();
        buffer.replace(6, 1, b"longer");
        assert_eq!(buffer.unread(), b"Host: longer\r\n\r\nbody");
        buffer.replace(6, 6, b"");
        assert_eq!(buffer.unread(), b"Host: \r\n\r\nbody");
    }

    #[test]
    fn memory_that_is_given_back_is_used_again_and_an_empty_buffer_has_none() {
        let mut buffer = with(b"x");
        buffer.release_memory();
        assert_eq!(buffer.memory(), SMALL, "it is not empty");
        buffer.consume(1);
        buffer.release_memory();
        assert_eq!(buffer.memory(), 0);
        assert_eq!(buffer.room(), SIZE);
    }

    #[test]
    fn what_rests_goes_on_as_if_it_had_not() {
        let mut buffer = with(b"gone");
        buffer.consume(4);
        buffer.push(b"request");
        buffer.retain();
        buffer.consume(3);
        for retains in [true, false] {
            buffer.release_memory();
            assert_eq!(buffer.memory(), SMALL);
            let room = buffer.room();
            assert_eq!((buffer.unread(), buffer.retains()), (&b"uest"[..], retains));
            assert_eq!(buffer.space().len(), room);
            assert_eq!((buffer.unread(), buffer.retains()), (&b"uest"[..], retains));
            buffer.end_retain();
        }
    }

    #[test]
    fn one_that_rests_has_the_smallest_size_that_its_bytes_fit() {
        let less = [0, SIZES[0], SIZES[1], SIZES[2], SIZES[3]];
        for (size, less) in SIZES.into_iter().zip(less) {
            for len in [less + 1, size] {
                let gone = 10.min(SIZE - len);
                let mut buffer = with(&vec![1; len + gone]);
                buffer.consume(gone);
                buffer.release_memory();
                assert_eq!((buffer.memory(), buffer.len()), (size, len), "of what is left");
                buffer.consume(len);
                buffer.release_memory();
                assert_eq!(buffer.memory(), 0);
                buffer.retain();
                buffer.push(&vec![1; len]);
                buffer.consume(len);
                buffer.release_memory();
                assert_eq!(buffer.memory(), size, "what is held counts");
                buffer.rewind();
                assert_eq!(buffer.unread(), vec![1; len]);
            }
        }
    }

    #[test]
    fn a_held_head_that_rests_can_be_changed() {
        let mut buffer = with(b"Host: a");
        buffer.retain();
        buffer.release_memory();
        buffer.replace(6, 1, &[b'b'; SMALL]);
        assert_eq!(buffer.len(), 6 + SMALL);
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
