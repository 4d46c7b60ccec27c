//! Runs the unit test of `src/engine/handover.rs` under loom, with the balancer's own seats.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(dead_code))]
#![cfg(test)]

#[path = "../../src/engine/handover.rs"]
mod handover;
#[path = "../../src/engine/key.rs"]
mod key;
#[path = "../../src/engine/waiting_room.rs"]
mod waiting_room;
