//! balancebeam: an HTTP/1.1 load balancer that can be run from a shell or put into a test suite.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod budget;
pub mod buffer;
pub mod config;
pub mod demo;
pub mod limit;
pub mod lock;
pub mod server;
pub mod state;
pub mod upstream;

pub use config::{Authority, Config};
pub use server::{Builder, Drained, Server, StartError};
