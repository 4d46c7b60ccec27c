//! The socket suite: what an HTTP/1.1 intermediary must do, held against a running balancer with raw
//! bytes at both of its ends, once for each engine.
//!
//! The comments name the rules of `docs/protocol.md` that a test holds: 1–9 request heads and
//! refusals, 10–18 framing of requests, 19–24 what is forwarded, 25–32 responses, 33–37
//! conversations, 38–42 failing over, 43–47 time and size.

#[path = "engines/support/mod.rs"]
mod support;

#[path = "engines/chunked.rs"]
mod chunked;
#[path = "engines/crowds.rs"]
mod crowds;
#[path = "engines/deadlines.rs"]
mod deadlines;
#[path = "engines/eviction.rs"]
mod eviction;
#[path = "engines/expect.rs"]
mod expect;
#[path = "engines/failover.rs"]
mod failover;
#[path = "engines/forwarding.rs"]
mod forwarding;
#[path = "engines/framing.rs"]
mod framing;
#[path = "engines/limits.rs"]
mod limits;
#[path = "engines/long_bodies.rs"]
mod long_bodies;
#[path = "engines/overload.rs"]
mod overload;
#[path = "engines/ports.rs"]
mod ports;
#[path = "engines/provenance.rs"]
mod provenance;
#[path = "engines/rate_limit.rs"]
mod rate_limit;
#[path = "engines/refusals.rs"]
mod refusals;
#[path = "engines/request_fields.rs"]
mod request_fields;
#[path = "engines/request_line.rs"]
mod request_line;
#[path = "engines/responses.rs"]
mod responses;
#[path = "engines/reuse.rs"]
mod reuse;
#[path = "engines/stalls.rs"]
mod stalls;
#[path = "engines/streaming.rs"]
mod streaming;
#[path = "engines/upgrade.rs"]
mod upgrade;
#[path = "engines/versions.rs"]
mod versions;
