//! Random traffic from one seed: clients and upstreams that behave well and badly, bytes that arrive
//! and leave in any pieces, a clock that jumps. What must hold, holds for every seed.
//!
//! `SIMULATION_SEED=n` replays one seed, `SIMULATION_SEEDS=n` runs more of them.

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

/// Seeds that every run plays: a few seconds' worth.
const SEEDS: u64 = 2_500;

fn number_of(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn play(seed: u64) -> oracle::Findings {
    let played = catch_unwind(AssertUnwindSafe(|| traffic::play(seed)));
    played.unwrap_or_else(|panic| {
        eprintln!("replay it with SIMULATION_SEED={seed}");
        resume_unwind(panic)
    })
}

#[test]
fn whatever_happens_nobody_gets_what_is_not_theirs() {
    if let Some(seed) = number_of("SIMULATION_SEED") {
        println!("{:?}", play(seed));
        return;
    }
    let seeds = number_of("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut all = oracle::Findings::default();
    for seed in 0..seeds {
        all.add(&play(seed));
    }
    println!("{all:?}");
    // A simulation in which something never happens proves nothing about it.
    for (what, count) in all.named() {
        assert!(count >= seeds / 100, "only {count} {what} in {seeds} seeds");
    }
}

#[test]
fn the_whole_balancer_keeps_its_rules() {
    let seeds = number_of("SIMULATION_SEEDS").unwrap_or(500);
    let mut counts = balancer::trace::Counts::default();
    let from = number_of("SIMULATION_SEED");
    let range = from.map_or(0..seeds, |seed| seed..seed + 1);
    for seed in range {
        let scenario = balancer::generate::scenario(seed);
        let played = balancer::world::play(&scenario, from.is_some());
        counts.add(&played.counts);
        for line in &played.lines {
            println!("{line}");
        }
        if let Some(finding) = played.finding {
            panic!("seed {seed}: {finding}");
        }
    }
    for (what, count) in counts.iter() {
        println!("{count:>8} {what}");
    }
}
