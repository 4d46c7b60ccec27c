//! Every committed file once more, without libFuzzer and on the stable toolchain.

use std::fs::{self, File};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use balancebeam_fuzz::TARGETS;
use balancebeam_fuzz::session::{Reached, play};

/// What may be committed of one target, and in all.
const MOST_FILES: usize = 300;
const MOST_BYTES: usize = 1 << 20;

/// A committed input, by its path.
type Input = (PathBuf, Vec<u8>);

/// The seeds of a target: hand-made, one file each.
fn seeds(target: &str) -> Vec<Input> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let entries = fs::read_dir(folder).expect("every target has seeds");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("a file can be read");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// What fuzzing has left behind for a target, in `corpus.tar`.
fn corpus(target: &str) -> Vec<Input> {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus.tar");
    let mut archive = tar::Archive::new(File::open(archive).expect("the archive is there"));
    let folder = Path::new("corpus").join(target);
    let mut inputs = Vec::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a name").into_owned();
        if path.parent() == Some(&folder) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("an entry can be read");
            inputs.push((path, bytes));
        }
    }
    inputs
}

#[test]
fn nothing_is_found_in_what_is_committed() {
    let mut found = Vec::new();
    for (target, check) in TARGETS {
        let (seeds, corpus) = (seeds(target), corpus(target));
        assert!(!seeds.is_empty() && !corpus.is_empty(), "{target} has seeds and a corpus");
        for (path, input) in seeds.into_iter().chain(corpus) {
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
        for (kind, inputs) in [("seeds", seeds(target)), ("corpus", corpus(target))] {
            assert!(inputs.len() <= MOST_FILES, "{kind} of {target}: {} files", inputs.len());
            bytes += inputs.iter().map(|(_, input)| input.len()).sum::<usize>();
        }
    }
    assert!(bytes <= MOST_BYTES, "{bytes} bytes are committed");
}

/// A session in which nothing happens proves nothing.
#[test]
fn the_seeds_of_sessions_reach_what_sessions_do() {
    let mut all = Reached::default();
    for (_, input) in seeds("session") {
        let reached = play(&input);
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
