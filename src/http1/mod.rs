//! HTTP/1.1 on the wire: heads, bodies and their framing, read and written (RFC 9112).
//!
//! The codec rejects and never repairs; it copies nothing but what it writes. Not here: what a field
//! or a target means (`message/`).

pub mod body;
pub mod chunked;
pub mod framing;
pub mod head;
pub mod piece;
pub mod rewrite;
#[cfg(test)]
mod work_tests;
