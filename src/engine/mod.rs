//! Moving bytes between sockets and sessions, and waiting for both.
//!
//! An engine decides how to wait and nothing else: what a request means is written in `session/`.
//!
//! ```text
//! listener.rs          the accept loop, one for every engine
//! connection_limit.rs  how many connections may be open
//! eviction.rs          which of them is closed for another one
//! connection.rs        a client connection, idle or active
//! turn.rs              one turn of an active one
//! io.rs                what a turn needs of an engine
//! connect.rs           opening a connection to an upstream
//! pool.rs              idle upstream connections
//! socket.rs            a non-blocking socket
//! pipe.rs              from socket to socket, not copied
//! slab.rs              slots that threads share by number
//! threads/             the threads engine
//! tokio/               the async engine
//! ```

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::state::ProxyState;
use crate::upstream::{Upstream, UpstreamId};
use connection_limit::Permit;
use socket::Peeked;

pub(crate) mod connect;
mod connection;
pub mod connection_limit;
mod eviction;
mod io;
pub mod listener;
mod pipe;
mod pool;
mod slab;
pub(crate) mod socket;
pub mod threads;
pub mod tokio;
mod turn;

/// What an engine that is only simulated is made of, the same as the others: `tests/simulation/`.
pub mod parts {
    pub use super::connection::{Connection, SessionPool};
    pub use super::eviction::Activity;
    pub use super::io::{Dialer, Host, Io};
    pub use super::pipe::Pipe;
    pub use super::pool::Pool;
    pub use super::socket::Peeked;
    pub use super::turn::{ActiveConnection, Attached, TurnEnd};
}

/// A way to drive sessions.
pub trait Engine: Send + Sync {
    /// Takes a connection that was accepted; it is non-blocking. It counts as open while `permit`
    /// lives. `turn_away`: it is only to be told that there are too many.
    fn admit(&self, stream: TcpStream, peer: SocketAddr, permit: Permit, turn_away: bool);
    /// Closes a connection that has sent no request for too long, because another client is there and
    /// as many are open as may be. It may take a moment, and fail if a request comes just now. Returns
    /// false if there is none.
    fn evict(&self, now: Instant) -> bool;
    /// Makes every session look at the state.
    fn wake_all(&self);
    /// Ends everything that is still open. Returns the number of exchanges that were under way.
    fn end(&self) -> usize;
}

/// When an end was looked for that has been found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// When an event told of it.
    Once,
    /// Later: before the connection was used or closed.
    SomeTime,
}

/// An idle connection to an upstream was looked at, after it was idle for so long.
fn observe_idle(upstream: &Upstream, peeked: Peeked, (idle, at): (Duration, At), now: Instant) {
    match peeked {
        Peeked::Nothing => upstream.idle_limit.lived(idle),
        Peeked::End => upstream.idle_limit.ended(idle, at == At::Once),
        Peeked::Bytes => upstream.disable_reuse(now),
    }
}

/// The longest that an idle connection to an upstream is kept.
fn most_kept(state: &ProxyState, id: UpstreamId) -> Duration {
    let upstream = state.upstreams.all().get(id.0);
    upstream.map_or(Duration::MAX, |upstream| upstream.idle_limit.most_kept())
}

/// Says that the system refuses what a connection to an upstream needs.
fn complain_of_shortage(state: &ProxyState, id: UpstreamId, error: &Error) {
    let name = state.upstreams.all().get(id.0).map_or("?", |upstream| upstream.name());
    let remedy = if error.kind() == ErrorKind::AddrNotAvailable {
        "this machine has no address or no free port to reach it from"
    } else {
        "raise the limit on open files, or lower --max-connections"
    };
    log::warn!("no connection to upstream {name}: {error}; {remedy}");
}
