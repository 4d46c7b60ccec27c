//! The peers that `bench/compare` and `bench/chaos` need beside wrk and nginx: an upstream with many
//! ports, a load that does not wait for answers, clients that sit idle, and clients that are slow.
//!
//! Exit status: 0 when done, 1 when the work could not be done, 2 when the command line is wrong; the
//! reason is one line on stderr. `upstream`, `idle` and `slow` end when their stdin does, so they never
//! outlive who started them. Not here: the balancer, or any of its code; a peer must not share it.
#![forbid(unsafe_code)]

mod client;
mod idle;
mod load;
mod slow;
mod upstream;

use std::io::{self, Read};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[derive(Parser)]
#[command(name = "bench-peer", about = "The peers of bench/compare and bench/chaos")]
#[command(arg_required_else_help = false)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Answer every request with as many bytes, once its body has come; prints the ports in one line, ends with its stdin
    Upstream(upstream::Options),
    /// Send GETs at a fixed rate, whether answers come or not; prints one line of JSON
    Load(load::Options),
    /// Make one request on each of many connections, then hold them; ends with its stdin
    Idle(idle::Options),
    /// Send heads and read answers as slowly as can be; ends with its stdin, and prints one line of JSON
    Slow(slow::Options),
}

/// Why the work could not be done, in one line.
type Failure = String;

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
            eprintln!("bench-peer: {}", lines.join(" ").trim_start_matches("error: "));
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|error| format!("no runtime: {error}")).and_then(|runtime| {
        let tasks = tokio::task::LocalSet::new();
        match arguments.task {
            Task::Upstream(options) => tasks.block_on(&runtime, upstream::run(options)),
            Task::Load(options) => tasks.block_on(&runtime, load::run(options)),
            Task::Idle(options) => tasks.block_on(&runtime, idle::run(options)),
            Task::Slow(options) => tasks.block_on(&runtime, slow::run(options)),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bench-peer: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Raises the soft limit on descriptors to the hard one, and says so if that is not enough.
fn allow_descriptors(needed: usize) -> Result<(), Failure> {
    /// Those that a process has anyway: standard streams, epoll, timers.
    const BESIDE: u64 = 32;
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })
        .map_err(|error| format!("the limit on descriptors cannot be raised: {error}"))?;
    let needed = needed as u64 + BESIDE;
    match hard {
        Some(hard) if hard < needed => Err(format!(
            "{needed} descriptors are needed, the hard limit is {hard}: raise it with `ulimit -Hn`"
        )),
        _ => Ok(()),
    }
}

/// Returns once stdin is closed, or cannot be read.
async fn stdin_to_end() {
    let reader = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    let _ = reader.await;
}
