//! One connection as a session sees it: two buffers, and what has ended.

use crate::buffer::Buffer;

/// The client's connection, or one to an upstream.
#[derive(Default)]
pub(crate) struct ConnState {
    pub input: Buffer,
    pub output: Buffer,
    /// Bytes that are on their way out past the buffers; they come before those in `output`.
    pub in_pipe: usize,
    /// Nothing more will come, in order.
    pub ended: bool,
    /// Nothing more will come, by an error.
    pub failed: bool,
    /// Nothing more is taken.
    pub write_closed: bool,
    pub shutdown: Shutdown,
}

/// The end of the sending direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shutdown {
    #[default]
    No,
    /// Once the output is out.
    Wanted,
    Done,
}

impl ConnState {
    pub fn clear(&mut self) {
        self.input.clear();
        self.output.clear();
        self.forget_connection();
    }

    /// Prepares for the next connection; the buffers keep their bytes.
    pub fn forget_connection(&mut self) {
        (self.ended, self.failed, self.write_closed, self.in_pipe) = (false, false, false, 0);
        self.shutdown = Shutdown::No;
    }

    pub fn can_read(&self) -> bool {
        !self.ended && !self.failed && self.input.room() > 0
    }

    /// Backpressure: how many bytes may be read for this side, if `read` wait for it already. What
    /// goes out waits in one buffer and not in two: the rest can as well wait in the system.
    pub fn read_budget(&self, read: usize) -> usize {
        if self.output.is_empty() { usize::MAX } else { self.output.room().saturating_sub(read) }
    }

    pub fn can_write(&self) -> bool {
        !self.write_closed && !self.output.is_empty() && self.in_pipe == 0
    }

    /// Whether the connection is as it was at first.
    pub fn is_blank(&self) -> bool {
        self.memory() == 0
            && self.in_pipe == 0
            && !(self.ended || self.failed || self.write_closed)
            && self.shutdown == Shutdown::No
    }

    /// Whether everything that was to go out has.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.in_pipe == 0
    }

    pub fn half_close(&mut self) {
        if self.shutdown == Shutdown::No {
            self.shutdown = Shutdown::Wanted;
        }
    }

    /// Bytes of memory that the buffers hold.
    pub fn memory(&self) -> usize {
        self.input.memory() + self.output.memory()
    }

    /// Gives back memory that is not needed while nothing moves.
    pub fn release_memory(&mut self) {
        self.input.release_memory();
        self.output.release_memory();
    }
}
