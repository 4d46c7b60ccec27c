//! One exchange after the other through a session in memory: all of a request but the sockets.
//!
//! Not here: what it allocates, which is nothing (`tests/allocation.rs`).

use criterion::{Criterion, Throughput};

use crate::in_memory::{Connection, answer, get, post};

pub fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exchange");
    for (name, request, answer) in [
        ("GET, an answer of 1 KiB", get(), answer(1024)),
        ("GET, an answer of 100 KiB", get(), answer(100 * 1024)),
        ("POST of 64 KiB", post(64 * 1024), answer(2)),
    ] {
        group.throughput(Throughput::Bytes((request.len() + answer.len()) as u64));
        let mut connection = Connection::new(request, answer);
        group.bench_function(name, |bencher| bencher.iter(|| connection.exchange()));
    }
    group.finish();
}
