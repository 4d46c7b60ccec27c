//! The rate limit, asked by several threads at once.
//!
//! The time is that of one request in each thread: where threads do not hinder each other, and there
//! is a CPU for each, it stays the same however many they are. Not here: whom it admits
//! (`src/rate_limit/mod.rs`).

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use balancebeam::rate_limit::Limiter;
use criterion::Criterion;

/// Clients that each thread asks for in turn, where they differ.
const CLIENTS: u32 = 1_000;

/// More than are asked for in a minute, so that nobody is refused.
const PER_MINUTE: u32 = u32::MAX;

pub fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limit");
    for threads in [1, 2, 4] {
        for (who, clients) in [("the same client", 1), ("different clients", CLIENTS)] {
            let limiter = Limiter::new(PER_MINUTE, 100_000, Instant::now());
            group.bench_function(format!("{threads} at once, {who}"), |bencher| {
                bencher.iter_custom(|times| ask(&limiter, threads, clients, times));
            });
        }
    }
    group.finish();
}

/// Lets each thread ask so many times. Returns the mean of the times that they took.
fn ask(limiter: &Limiter, threads: u32, clients: u32, times: u64) -> Duration {
    let barrier = Barrier::new(threads as usize);
    let asking = |thread: u32| {
        let first = if clients == 1 { 0 } else { thread * clients };
        barrier.wait();
        let start = Instant::now();
        for i in 0..times {
            let who = IpAddr::V4(Ipv4Addr::from(first + (i % u64::from(clients)) as u32));
            let _ = black_box(limiter.admit(who, start));
        }
        start.elapsed()
    };
    let took: Duration = thread::scope(|scope| {
        let asking = &asking;
        let threads: Vec<_> = (0..threads).map(|i| scope.spawn(move || asking(i))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    });
    took / threads
}
