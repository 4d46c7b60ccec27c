//! Moving bytes between sockets and sessions, and waiting for both.
//!
//! An engine decides how to wait and nothing else: what a request means is written in `session/`.
//!
//! ```text
//! accept.rs        the accept loop, one for every engine      gate.rs   how many connections may be open
//! threads.rs       the workers of the threads engine          drive.rs  one turn of one connection
//! waiting_room.rs  where sessions that cannot move are        wheel.rs  their deadlines
//! wire.rs          a non-blocking socket                      pool.rs   idle upstream connections
//! slab.rs          places that threads share by number
//! ```

pub mod accept;
mod drive;
pub mod gate;
mod pool;
mod slab;
pub mod threads;
pub mod waiting_room;
mod wheel;
mod wire;
