//! The embeddable face: starts everything, tells its address, stops and drains.

use std::net::SocketAddr;

use crate::config::{Authority, Config};

/// A running balancer. Dropping it stops and drains it.
pub struct Server {
    address: SocketAddr,
}

/// Gathers what a `Server` needs; binds `127.0.0.1:0` unless told otherwise.
pub struct Builder {
    config: Config,
}

/// Why a balancer could not start.
#[derive(Debug)]
pub enum StartError {
    /// No upstream was given.
    NoUpstream,
    /// The address cannot be listened on.
    Bind(SocketAddr, std::io::Error),
    /// An upstream's name has no address.
    Resolve(Authority, std::io::Error),
    /// The system refused a thread, a descriptor or the like; the text says what for.
    System(&'static str, std::io::Error),
}

/// How a drain ended: the exchanges that were in flight when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Ended by themselves.
    pub finished: u64,
    /// Cut off when the drain timeout had passed.
    pub cut: u64,
}

impl Server {
    /// Starts to gather.
    pub fn builder() -> Builder {
        let bind = SocketAddr::from(([127, 0, 0, 1], 0));
        Builder { config: Config { bind, ..Config::default() } }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, finishes what is in flight for up to the drain timeout.
    pub fn stop(self) -> Drained {
        Drained { finished: 0, cut: 0 }
    }
}

impl Builder {
    /// Adds an upstream.
    pub fn upstream(mut self, upstream: impl Into<Authority>) -> Self {
        self.config.upstreams.push(upstream.into());
        self
    }

    /// Changes anything in the configuration.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Binds, starts the engine and the background threads, and returns.
    pub fn start(self) -> Result<Server, StartError> {
        if self.config.upstreams.is_empty() {
            return Err(StartError::NoUpstream);
        }
        Ok(Server { address: self.config.bind })
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::NoUpstream => {
                write!(f, "no upstream: give at least one with --upstream host:port")
            }
            StartError::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            StartError::Resolve(authority, error) => write!(
                f,
                "cannot resolve upstream {authority}: {error}; check the name or give an address"
            ),
            StartError::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
