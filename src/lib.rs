//! balancebeam: an HTTP/1.1 load balancer that can be run from a shell or put into a test suite.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod background;
pub mod buffer;
pub mod client_addr;
pub mod config;
pub mod demo;
mod engine;
mod exchange;
mod free_list;
pub mod http1;
pub mod lock;
pub mod log_throttle;
pub mod message;
pub mod rate_limit;
pub mod server;
pub mod session;
pub mod shortage;
pub mod state;
pub mod telemetry;
pub mod upstream;

pub use config::{
    Authority, BadValue, Config, EngineKind, Forwarding, HealthConfig, Limits, Policy, Problem,
    RetryRules, StatusSet, Timeouts, WhenFull,
};
/// For the simulator among the tests, which has no sockets: nothing here is promised to anybody.
#[doc(hidden)]
pub use engine::parts as engine_parts;
pub use server::{Builder, Drained, Server, StartError, UpstreamStatus};
pub use state::Stats;
