//! The choice of an upstream, by policy and number of upstreams.
//!
//! A request with many upstreams must cost hardly more than one with two. Not here: whether the
//! choices are even (`src/upstream/balance.rs`).

use std::time::Instant;

use balancebeam::config::Policy;
use balancebeam::upstream::health::Observation;
use balancebeam::upstream::{UpstreamId, Upstreams};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

use crate::in_memory::upstreams;

const POLICIES: [(&str, Policy); 4] = [
    ("round robin", Policy::RoundRobin),
    ("random", Policy::Random),
    ("least requests", Policy::LeastRequests),
    ("two choices", Policy::TwoChoices),
];

/// The first is what the others are measured by.
const NUMBERS: [usize; 4] = [2, 10, 1_000, 10_000];

pub fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choice");
    let now = Instant::now();
    for (name, policy) in POLICIES {
        for number in NUMBERS {
            let (_, upstreams) = upstreams(number, |config| config.policy = policy);
            measure(&mut group, &format!("{name}, {number}"), &upstreams, &[], now);
            let tried = [UpstreamId(number / 2)];
            measure(&mut group, &format!("{name}, {number}, one tried"), &upstreams, &tried, now);
        }
    }
    for number in NUMBERS {
        let (_, upstreams) = upstreams(number, |config| config.policy = Policy::LeastRequests);
        let busy: Vec<_> = (0..2 * number).filter_map(|_| upstreams.pick(&[], now).ok()).collect();
        measure(&mut group, &format!("least requests, {number}, all busy"), &upstreams, &[], now);
        drop(busy);
    }
    for number in NUMBERS {
        let (_, upstreams) = upstreams(number, |config| config.health.interval = None);
        upstreams.observe(UpstreamId(number / 2), Observation::NoConnection, now);
        measure(&mut group, &format!("round robin, {number}, one ejected"), &upstreams, &[], now);
    }
    group.finish();
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    upstreams: &Upstreams,
    tried: &[UpstreamId],
    now: Instant,
) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| upstreams.pick(tried, now).expect("somebody is left"));
    });
}
