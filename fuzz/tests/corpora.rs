//! Every committed file once more, without libFuzzer and on the stable toolchain.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use balancebeam_fuzz::TARGETS;
use balancebeam_fuzz::session::{Reached, play};

/// What may be committed of one target, and in all.
const MOST_FILES: usize = 300;
const MOST_BYTES: u64 = 1 << 20;

/// The files of a folder, in order; none if it is not there.
fn files(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn nothing_is_found_in_what_is_committed() {
    let mut found = Vec::new();
    for (target, check) in TARGETS {
        let seeds = files("seeds", target);
        assert!(!seeds.is_empty(), "{target} has seeds");
        for path in seeds.into_iter().chain(files("corpus", target)) {
            let input = fs::read(&path).expect("a file can be read");
            if catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
                found.push(path.display().to_string());
            }
        }
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn corpora_are_small() {
    let mut bytes = 0;
    for (target, _) in TARGETS {
        for folder in ["seeds", "corpus"] {
            let files = files(folder, target);
            assert!(files.len() <= MOST_FILES, "{folder}/{target}: {} files", files.len());
            bytes += files.iter().map(|f| f.metadata().expect("a file").len()).sum::<u64>();
        }
    }
    assert!(bytes <= MOST_BYTES, "{bytes} bytes are committed");
}

/// A session in which nothing happens proves nothing.
#[test]
fn the_seeds_of_sessions_reach_what_sessions_do() {
    let mut all = Reached::default();
    for path in files("seeds", "session") {
        let reached = play(&fs::read(&path).expect("a file can be read"));
        all.statuses.extend(reached.statuses);
        all.tunnels += reached.tunnels;
        all.fresh += reached.fresh;
        all.reused += reached.reused;
        all.kept += reached.kept;
        all.retried += reached.retried;
        all.aborted += reached.aborted;
        all.lingered += reached.lingered;
        all.spliced_up += reached.spliced_up;
        all.spliced_down += reached.spliced_down;
        all.queued += reached.queued;
        all.served_in_turn += reached.served_in_turn;
    }
    println!("{all:?}");
    let missing: Vec<u16> = [200, 204, 101, 400, 405, 408, 413, 414, 429, 499, 502, 503, 504]
        .into_iter()
        .filter(|status| !all.statuses.contains(status))
        .collect();
    assert!(missing.is_empty(), "no seed ends with {missing:?}");
    let Reached { statuses: _, tunnels, fresh, reused, kept, retried, aborted, lingered, .. } = all;
    for (what, count) in [
        ("tunnels", tunnels),
        ("fresh connections", fresh),
        ("reused connections", reused),
        ("kept connections", kept),
        ("retries", retried),
        ("aborts", aborted),
        ("clients that are told of the end", lingered),
        ("bodies spliced to an upstream", all.spliced_up),
        ("bodies spliced to a client", all.spliced_down),
        ("waits for room", all.queued),
        ("waits that end with room", all.served_in_turn),
    ] {
        assert!(count > 0, "no {what} in any seed");
    }
}
