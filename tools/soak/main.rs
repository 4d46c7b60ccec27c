//! Plays the whole balancer from as many seeds as one likes, and makes what it finds small.
//!
//! Exit status: 0 when every rule held, 1 when one did not, 2 when the command line is wrong. What
//! is played is in `tests/simulation/balancer/`, and told in `docs/simulation.md`.
#![forbid(unsafe_code)]

#[path = "../../tests/simulation/balancer/mod.rs"]
mod balancer;
#[path = "../../tests/simulation/draws.rs"]
mod draws;

use std::panic;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use balancer::shrink::{self, Cut};
use balancer::{play, runs};

#[derive(Parser)]
#[command(
    name = "soak",
    about = "Plays the whole balancer from many seeds, and shrinks what it finds"
)]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this one, with its trace
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// What is taken out of it: what a shrunk finding says
    #[arg(long, requires = "seed", value_delimiter = ',')]
    cut: Vec<Cut>,
    /// Threads
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            // Whoever closed stdout does not want the text.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.to_string();
            let lines: Vec<_> = text.lines().map(str::trim).take_while(|l| !l.is_empty()).collect();
            eprintln!("soak: {}", lines.join(" ").trim_start_matches("error: "));
            return ExitCode::from(2);
        }
    };
    // A panic is a finding, and told as one.
    panic::set_hook(Box::new(|_| ()));
    match arguments.seed {
        Some(seed) => replay(seed, &arguments.cut),
        None => soak(&arguments),
    }
}

fn soak(arguments: &Arguments) -> ExitCode {
    let begin = Instant::now();
    let runs = runs::play(arguments.from, arguments.seeds, usize::from(arguments.threads));
    for (what, count) in runs.counts.iter() {
        println!("{count:>10} {what}");
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{} seeds in {seconds:.1} s, {:.0} a second",
        runs.played,
        runs.played as f64 / seconds
    );
    let Some((seed, finding)) = runs.finding else { return ExitCode::SUCCESS };
    println!("\n{}", shrink::report(seed, &finding));
    ExitCode::FAILURE
}

fn replay(seed: u64, cuts: &[Cut]) -> ExitCode {
    let scenario = shrink::scenario(seed, cuts);
    println!("{scenario}");
    let played = play::play(&scenario, true);
    for line in &played.lines {
        println!("{line}");
    }
    println!("trace {:016x}", played.hash);
    let Some(finding) = played.finding else { return ExitCode::SUCCESS };
    println!("seed {seed}: {finding}");
    ExitCode::FAILURE
}
