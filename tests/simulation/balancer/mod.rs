//! The whole balancer, played on virtual time from one seed: many clients at once, several
//! upstreams, one pool, probes, the rate limit, the retry budget, a drain in the middle.
//!
//! What is simulated, what is not, and what must hold: `docs/simulation.md`.

mod answers;
mod budget;
mod client;
pub mod generate;
mod hands;
mod health;
mod ledger;
mod limit;
mod links;
mod logs;
mod net;
mod oracle;
mod probes;
mod reader;
pub mod runs;
pub mod scenario;
pub mod shrink;
pub mod trace;
mod upstream;
mod words;
pub mod world;
