//! What a session means, told as scripts: who sends what, and what everybody then sees.
//!
//! No socket, no thread and no real clock. Each script is replayed whole, one byte at a time, cut at
//! every position, and with peers that take one byte at a time; every replay must tell the same story.

#[path = "exchange/replay.rs"]
mod replay;
#[path = "exchange/script.rs"]
mod script;
#[path = "exchange/world.rs"]
mod world;

#[path = "exchange/bodies.rs"]
mod bodies;
#[path = "exchange/connections.rs"]
mod connections;
#[path = "exchange/deadlines.rs"]
mod deadlines;
#[path = "exchange/drain.rs"]
mod drain;
#[path = "exchange/forwarding.rs"]
mod forwarding;
#[path = "exchange/interim.rs"]
mod interim;
#[path = "exchange/memory.rs"]
mod memory;
#[path = "exchange/queue.rs"]
mod queue;
#[path = "exchange/refusals.rs"]
mod refusals;
#[path = "exchange/retries.rs"]
mod retries;
#[path = "exchange/settle.rs"]
mod settle;
#[path = "exchange/splice.rs"]
mod splice;
#[path = "exchange/tunnels.rs"]
mod tunnels;
