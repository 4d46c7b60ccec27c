//! Runs the unit test of `src/engine/threads/handover.rs` under loom, with the balancer's own seats.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(dead_code))]
#![cfg(test)]

#[path = "../../src/engine/threads/handover.rs"]
mod handover;
#[path = "../../src/engine/threads/key.rs"]
mod key;
#[path = "../../src/engine/threads/event_queue.rs"]
mod event_queue;
