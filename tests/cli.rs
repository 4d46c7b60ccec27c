//! The binary as a user runs it: flags, signals and exit statuses, between real clients and servers.
//!
//! None of the peers shares code with the balancer: ureq, curl, tungstenite and plain sockets send,
//! hyper and tungstenite answer. Every test runs once for each engine.

mod support;

/// Instantiates tests for every engine; the list of engines is here and nowhere else.
///
/// `beside_others` tests run in parallel; an `alone` test waits until it has the machine for itself.
macro_rules! each_engine {
    ($turn:ident: $($test:ident),+ $(,)?) => {
        each_engine!(@with threads, $turn: $($test),+);
        each_engine!(@with r#async, $turn: $($test),+);
    };
    (@with $engine:ident, $turn:ident: $($test:ident),+) => {
        mod $engine {
            $(
                #[test]
                fn $test() {
                    let _turn = crate::support::binary::$turn();
                    super::$test(stringify!($engine).trim_start_matches("r#"));
                }
            )+
        }
    };
}

#[path = "cli/balancing.rs"]
mod balancing;
#[path = "cli/client.rs"]
mod client;
#[path = "cli/crowd.rs"]
mod crowd;
#[path = "cli/curl.rs"]
mod curl;
#[path = "cli/health.rs"]
mod health;
#[path = "cli/large_bodies.rs"]
mod large_bodies;
#[path = "cli/log.rs"]
mod log;
#[path = "cli/memory.rs"]
mod memory;
#[path = "cli/rate_limit.rs"]
mod rate_limit;
#[path = "cli/shutdown.rs"]
mod shutdown;
#[path = "cli/upstreams.rs"]
mod upstreams;
#[path = "cli/usage.rs"]
mod usage;
#[path = "cli/websocket.rs"]
mod websocket;
