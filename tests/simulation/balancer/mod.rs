//! The whole balancer, played on virtual time from one seed: many clients at once, several
//! upstreams, one pool, probes, the rate limit, the retry budget, a drain in the middle.
//!
//! What is simulated, what is not, and what must hold: `docs/simulation.md`.

mod answers;
mod budget;
mod client;
mod generate;
mod happenings;
mod health;
mod host;
mod ledger;
mod limit;
mod links;
mod logs;
mod net;
mod oracle;
pub mod play;
mod probes;
mod reader;
mod room;
pub mod runs;
mod scenario;
mod setup;
pub mod shrink;
mod task;
pub mod trace;
mod trials;
mod turns;
mod upstream;
mod words;
mod world;
