//! The queue of those that wait for room: what one more costs, by how many wait already.
//!
//! Whoever floods the balancer decides how many wait and from how many addresses; one more must cost
//! hardly more than the first. Not here: who comes first (`src/upstream/wait_queue.rs`).

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Instant;

use balancebeam::upstream::health::Observation;
use balancebeam::upstream::{TicketStatus, Waiting};
use balancebeam::upstream::{UpstreamId, Upstreams};
use criterion::Criterion;

use crate::in_memory::upstreams;

/// The first is what the others are measured by.
const NUMBERS: [usize; 3] = [10, 1_000, 100_000];

pub fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    for number in NUMBERS {
        for (who, clients) in [("of one client", 1), ("of one client each", number)] {
            let (_, upstreams) = upstreams(1, |config| {
                (config.limits.in_flight, config.limits.queue) = (Some(1), number);
            });
            let mut room = upstreams.pick(&[], Instant::now()).ok();
            let mut numbers = 0..;
            let mut join = || ask(&upstreams, numbers.next().unwrap_or(0) % clients);
            let mut waiting: VecDeque<_> = (0..number).map(|_| join()).collect();
            group.bench_function(format!("one joins {number} {who}, which are full"), |bencher| {
                bencher.iter(|| {
                    waiting.push_back(join());
                    waiting.pop_front()
                });
            });
            let mut newcomers = number..;
            group.bench_function(format!("one is served before {number} {who}"), |bencher| {
                bencher.iter(|| {
                    // Its client has not had a turn, so it is the first.
                    let newest = ask(&upstreams, newcomers.next().unwrap_or(0));
                    drop(room.take());
                    let TicketStatus::Chosen(choice) = newest.status() else {
                        panic!("the room was for the newest");
                    };
                    room = Some(choice);
                });
            });
        }
    }
    for number in NUMBERS {
        let (_, upstreams) = upstreams(2, |config| {
            (config.limits.in_flight, config.limits.queue) = (Some(1), number);
        });
        let now = Instant::now();
        let _room = upstreams.pick(&[UpstreamId(1)], now).expect("there is room for one");
        upstreams.observe(UpstreamId(1), Observation::NoConnection, now);
        // One that has been at another upstream, as after a connection that broke.
        let _again = upstreams.wait_for_capacity(Ipv4Addr::BROADCAST.into(), &[UpstreamId(1)]);
        let mut clients = 0..;
        let mut join = || ask(&upstreams, clients.next().unwrap_or(0));
        let mut waiting: VecDeque<_> = (0..number).map(|_| join()).collect();
        group.bench_function(
            format!("one joins {number}, beside an ejected upstream"),
            |bencher| {
                bencher.iter(|| {
                    waiting.push_back(join());
                    waiting.pop_front()
                });
            },
        );
    }
    group.finish();
}

fn ask(upstreams: &Upstreams, client: usize) -> Waiting {
    let client = Ipv4Addr::from(client as u32).into();
    upstreams.wait_for_capacity(client, &[]).expect("somebody else gives way")
}
