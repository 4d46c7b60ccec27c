//! What the test suites share: real upstreams, and the binary as a child process.
#![allow(dead_code, reason = "every test suite uses a part of it")]

pub mod binary;
pub mod echo;
pub mod pattern;

use std::time::{Duration, Instant};

/// Looks again and again until `seen` is true; fails with `what` when that takes longer than `limit`.
pub fn until(limit: Duration, what: &str, mut seen: impl FnMut() -> bool) {
    let start = Instant::now();
    while !seen() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
