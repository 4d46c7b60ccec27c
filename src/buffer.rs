//! Byte buffers (being written).

/// Bytes of a buffer.
pub const SIZE: usize = 32 * 1024;
