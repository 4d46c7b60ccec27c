//! Random traffic from one seed: clients and upstreams that behave well and badly, bytes that arrive
//! and leave in any pieces, a clock that jumps. What must hold, holds for every seed.
//!
//! One session at a time, with bodies that go past it, and the whole balancer: `docs/simulation.md`
//! tells what is played. `SIMULATION_SEED=n` replays one seed, `SIMULATION_SEEDS=n` runs as many.

#[path = "simulation/balancer/mod.rs"]
mod balancer;
#[path = "simulation/draws.rs"]
mod draws;
#[path = "simulation/messages.rs"]
mod messages;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/splice.rs"]
mod splice;
#[path = "simulation/traffic.rs"]
mod traffic;
#[path = "simulation/upstream.rs"]
mod upstream;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use balancer::{play, runs, shrink};

/// Seeds that every run plays of one session: a few seconds' worth.
const SEEDS: u64 = 2_500;
/// Seeds that every run plays of the whole balancer: about a minute's worth on two CPUs.
const SEEDS_OF_ALL: u64 = 9_000;
const THREADS: usize = 2;

/// What has to happen in one of so many seeds of the whole balancer, or it proves nothing about it.
const OFTEN: u64 = 200;
const HAPPENS: &[&str] = &[
    "answers 408",
    "answers 429",
    "answers 502",
    "answers 503",
    "answers 504",
    "answers of upstreams",
    "answers that were cut",
    "clients that had to be served",
    "clients that half-closed",
    "clients that left the queue",
    "clients that reset",
    "clients turned away",
    "clock jumps",
    "connects refused",
    "connects that timed out",
    "deadlines",
    "drains",
    "ejections",
    "ejections for errors",
    "errors held against upstreams",
    "upstreams spared, because too few are left",
    "exchanges cut by a drain",
    "full links",
    "idle connections closed at once",
    "idle connections found ended",
    "idle connections grown old",
    "idle connections that spoke",
    "late answers held against upstreams",
    "losses held against upstreams",
    "probes",
    "refused answers held against upstreams",
    "requests for which the queue had no room",
    "requests over the limit",
    "requests that tried an ejected upstream",
    "restores",
    "restores by trials",
    "retries after a dead connection of the pool",
    "retries within the budget",
    "reused connections",
    "seeds played twice",
    "shortages of our own",
    "trials that failed",
    "turns among several clients",
    "turns for which newcomers and others wait",
    "turns that ended asleep",
    "turns that leave an upstream full",
    "turns that leave the pool full",
    "waits to be sent again",
    "turns that were cut short",
    "upstreams that broke off a request",
    "upstreams that cut an answer",
    "upstreams that gave up on a request",
    "upstreams that said garbage",
    "upstreams that said more than an answer",
    "waits that ended with room",
    "waits that were too long",
];

fn number_of(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn play_session(seed: u64) -> oracle::Findings {
    let played = catch_unwind(AssertUnwindSafe(|| traffic::play(seed)));
    played.unwrap_or_else(|panic| {
        eprintln!("replay it with SIMULATION_SEED={seed}");
        resume_unwind(panic)
    })
}

#[test]
fn whatever_happens_nobody_gets_what_is_not_theirs() {
    if let Some(seed) = number_of("SIMULATION_SEED") {
        println!("{:?}", play_session(seed));
        return;
    }
    let seeds = number_of("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut all = oracle::Findings::default();
    for seed in 0..seeds {
        all.add(&play_session(seed));
    }
    println!("{all:?}");
    // A simulation in which something never happens proves nothing about it.
    for (what, count) in all.named() {
        assert!(count >= seeds / 100, "only {count} {what} in {seeds} seeds");
    }
}

#[test]
fn the_whole_balancer_keeps_its_rules() {
    if let Some(seed) = number_of("SIMULATION_SEED") {
        let played = play::play(&shrink::scenario(seed, &[]), true);
        played.lines.iter().for_each(|line| println!("{line}"));
        assert_eq!(played.finding, None, "seed {seed}");
        return;
    }
    let seeds = number_of("SIMULATION_SEEDS").unwrap_or(SEEDS_OF_ALL);
    let runs = runs::play(0, seeds, THREADS);
    if let Some((seed, finding)) = runs.finding {
        panic!("{}", shrink::report(seed, &finding));
    }
    for (what, count) in runs.counts.iter() {
        println!("{count:>10} {what}");
    }
    for what in HAPPENS {
        let count = runs.counts.iter().find(|(name, _)| name == what).map_or(0, |(_, n)| n);
        assert!(count >= seeds / OFTEN, "only {count} {what} in {seeds} seeds");
    }
}
