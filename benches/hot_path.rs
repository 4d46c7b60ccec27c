//! What the parts of a request cost, each by itself and without sockets: `cargo bench`.
//!
//! One program, so that it is linked once; `cargo bench -- choice` runs a part of it. Not here: what
//! a request costs in all, beside other balancers (`bench/compare`).

#[path = "hot_path/choice.rs"]
mod choice;
#[path = "hot_path/codec.rs"]
mod codec;
#[path = "hot_path/exchange.rs"]
mod exchange;
#[path = "hot_path/limit.rs"]
mod limit;
#[path = "hot_path/queue.rs"]
mod queue;

#[path = "../tests/support/in_memory.rs"]
mod in_memory;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    // There are many cases, and each is steady: a short look at each is enough.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20)
        .configure_from_args();
    codec::all(&mut criterion);
    exchange::all(&mut criterion);
    choice::all(&mut criterion);
    limit::all(&mut criterion);
    queue::all(&mut criterion);
    criterion.final_summary();
}
