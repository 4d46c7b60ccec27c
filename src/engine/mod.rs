//! Moving bytes between sockets and sessions, and waiting for both.
//!
//! An engine decides how to wait and nothing else: what a request means is written in `session/`.
//!
//! ```text
//! accept.rs        the accept loop, one for every engine
//! gate.rs          how many connections may be open
//! life.rs          a connection, asleep or awake
//! drive.rs         one turn of one that is awake
//! pool.rs          idle upstream connections
//! pipe.rs          from socket to socket, not copied
//! tasks.rs         the async engine: its tasks
//! threads.rs       the threads engine: its workers
//!   waiting_room.rs  where sessions that cannot move are
//!   wheel.rs         their deadlines
//!   woken.rs         those that others woke
//!   wire.rs          a non-blocking socket
//!   line.rs          a connection to an upstream, and who uses it
//!   handover.rs      the word that says who uses it
//!   slab.rs          places that threads share by number
//! ```

use std::io;
use std::net::{SocketAddr, TcpStream};

use crate::state::ProxyState;
use crate::upstream::UpstreamId;
use gate::Pass;

pub mod accept;
mod drive;
pub mod gate;
mod handover;
mod life;
mod line;
mod pipe;
mod pool;
mod slab;
pub mod tasks;
pub mod threads;
pub mod waiting_room;
mod wheel;
mod wire;
mod woken;

/// What an engine that is only simulated is made of, the same as the others: `tests/simulation/`.
pub mod parts {
    pub use super::drive::{Attached, Awake, Hands, Turn};
    pub use super::life::{Connection, Spares};
    pub use super::pipe::Pipe;
    pub use super::pool::Pool;
    pub use super::wire::Heard;
}

/// A way to drive sessions.
pub trait Engine: Send + Sync {
    /// Takes a connection that was accepted; it is non-blocking. It counts as open while `pass`
    /// lives. `turn_away`: it is only to be told that there are too many.
    fn admit(&self, stream: TcpStream, peer: SocketAddr, pass: Pass, turn_away: bool);
    /// Makes every session look at the state.
    fn wake_all(&self);
    /// Ends everything that is still open. Returns the number of exchanges that were under way.
    fn end(&self) -> usize;
}

/// Says that the system refuses what a connection to an upstream needs.
fn complain_of_shortage(state: &ProxyState, id: UpstreamId, error: &io::Error) {
    let name = state.upstreams.all().get(id.0).map_or("?", |upstream| upstream.name());
    let remedy = if error.kind() == io::ErrorKind::AddrNotAvailable {
        "this machine has no address or no free port to reach it from"
    } else {
        "raise the limit on open files, or lower --max-connections"
    };
    log::warn!("no connection to upstream {name}: {error}; {remedy}");
}
