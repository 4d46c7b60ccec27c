//! Many seeds, on a few threads. Not here: one of them (`play.rs`).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::generate;
use super::play;
use super::trace::{Counts, Finding};

/// Of so many seeds one is played twice, to see whether it comes to the same.
const ONE_PLAYED_TWICE_OF: u64 = 20;

/// What came of many seeds.
#[derive(Default)]
pub struct Runs {
    pub played: u64,
    pub counts: Counts,
    /// The lowest seed in which something was found.
    pub finding: Option<(u64, Finding)>,
}

/// Plays the seeds from `from` on, until one finds something.
pub fn play(from: u64, count: u64, threads: usize) -> Runs {
    let next = AtomicU64::new(from);
    let runs = Mutex::new(Runs::default());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| play_some(&next, from + count, &runs));
        }
    });
    runs.into_inner().expect("nobody panicked")
}

fn play_some(next: &AtomicU64, end: u64, runs: &Mutex<Runs>) {
    let mut mine = Runs::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            break;
        }
        let scenario = generate::scenario(seed);
        let played = play::play(&scenario, false);
        let mut finding = played.finding;
        mine.played += 1;
        mine.counts.add(&played.counts);
        if seed.is_multiple_of(ONE_PLAYED_TWICE_OF) && finding.is_none() {
            let again = play::play(&scenario, false).hash;
            mine.counts.one("seeds played twice");
            finding = (again != played.hash).then(|| Finding {
                oracle: "the same seed gives the same trace",
                at: 0,
                detail: format!("{:x} and {again:x}", played.hash),
            });
        }
        if let Some(finding) = finding {
            mine.finding = Some((seed, finding));
            // Lower ones are being played, and are played to their end.
            next.store(end, Ordering::Relaxed);
            break;
        }
    }
    let mut all = runs.lock().expect("nobody panicked");
    all.played += mine.played;
    all.counts.add(&mine.counts);
    let found = [all.finding.take(), mine.finding].into_iter().flatten();
    all.finding = found.min_by_key(|(seed, _)| *seed);
}
