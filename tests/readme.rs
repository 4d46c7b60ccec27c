//! README.md tells the flags as `--help` does: each one, its group, its value and its default. And the
//! documents name what exists: files, tests, and places in each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What is told of a flag, by the way it is written, such as `-b, --bind <ADDR>`.
type Flags = BTreeMap<String, Told>;

#[derive(Debug, PartialEq)]
struct Told {
    group: String,
    /// Empty if there is none.
    default: String,
}

fn help(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_balancebeam"));
    let output = command.args(arguments).output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("help is UTF-8")
}

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(path).expect("README.md can be read")
}

/// The flags in the text of `--help`, where a group is a line of its own that ends with a colon.
fn flags_of_help(help: &str) -> Flags {
    let mut flags: Vec<(String, String, String)> = Vec::new();
    let mut group = String::new();
    for line in help.lines() {
        let text = line.trim();
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            group = name.to_string();
        } else if text.starts_with('-') && line.starts_with("  ") {
            flags.push((text.to_string(), group.clone(), String::new()));
        } else if let Some((_, _, words)) = flags.last_mut() {
            words.push_str(text);
            words.push(' ');
        }
    }
    let told = |(flag, group, words): (String, String, String)| {
        let default = words.split_once("[default: ").and_then(|(_, rest)| rest.split_once(']'));
        let default = default.map_or(String::new(), |(default, _)| default.to_string());
        (flag, Told { group, default })
    };
    flags.into_iter().map(told).collect()
}

/// The flags in the tables of README.md: rows whose first cell begins with a dash, under a heading of
/// the third level, which only groups of flags have.
fn flags_of_readme(readme: &str) -> Flags {
    let mut flags = Flags::new();
    let mut group = None;
    for line in readme.lines() {
        if line.starts_with('#') {
            group = line.strip_prefix("### ");
        }
        let (Some(group), Some(row)) = (group, line.strip_prefix("| `-")) else { continue };
        let mut cells = row.split('|').map(|cell| cell.trim().replace('`', ""));
        let (flag, default) = (cells.next(), cells.next());
        let default = default.filter(|default| default != "–").unwrap_or_default();
        let told = Told { group: group.to_string(), default };
        let flag = format!("-{}", flag.unwrap_or_default());
        assert!(flags.insert(flag.clone(), told).is_none(), "README.md tells {flag} twice");
    }
    flags
}

/// Every word of `text` that looks like a long flag.
fn long_flags(text: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text.split(|c: char| !is_part(c));
    words
        .filter(|word| word.strip_prefix("--").is_some_and(|w| w.starts_with(char::is_alphabetic)))
        .collect()
}

#[test]
fn the_readme_tells_every_flag_as_help_does() {
    let (help, readme) = (flags_of_help(&help(&["--help"])), flags_of_readme(&readme()));
    assert!(help.len() > 30, "the help is understood: {help:?}");
    for (flag, told) in &help {
        assert_eq!(
            readme.get(flag),
            Some(told),
            "{flag}: README.md on the left, --help on the right"
        );
    }
    for flag in readme.keys() {
        assert!(help.contains_key(flag), "{flag} stands in README.md and not in --help");
    }
}

#[test]
fn the_readme_and_the_rules_name_no_flag_that_does_not_exist() {
    /// Flags of other programs.
    const OTHERS: [&str; 6] =
        ["--release", "--example", "--retry", "--retry-delay", "--retry-connrefused", "--against"];
    let (help, demo) = (help(&["--help"]), help(&["demo", "--help"]));
    let known = [long_flags(&help), long_flags(&demo)].concat();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/protocol.md"] {
        let text = fs::read_to_string(root.join(file)).expect(file);
        for flag in long_flags(&text) {
            assert!(known.contains(&flag) || OTHERS.contains(&flag), "{file} names {flag}");
        }
    }
    for flag in long_flags(&demo) {
        assert!(readme().contains(flag), "README.md lacks {flag} of the demo");
    }
}

#[test]
fn both_texts_are_understood() {
    let help = "Usage: x\n\nOptions:\n  -h, --help\n          Print\n\nLimits:\n      --most <N>\n          \
                Of it [default: 4\n          K]\n\n      --no-more\n          None\n\nEnd.\n";
    let readme = "# x\n### Options\n| flag |\n|---|\n| `-h, --help` | – | Print |\n### Limits\n\
                  | `--most <N>` | `4 K` | Of it |\n| `--no-more` | – | None |\n\
                  ## Log\n| `--no` |\n";
    let told = flags_of_help(help);
    let most = Told { group: "Limits".to_string(), default: "4 K".to_string() };
    assert_eq!((told.len(), told.get("--most <N>")), (3, Some(&most)));
    assert_eq!(flags_of_readme(readme), told);
    assert_eq!(long_flags("a --bc-d=1 `--e` -- --- x--y"), ["--bc-d", "--e"]);
}

/// The words in `backticks` of a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Every Rust file below `folder`, as a path from the root of the project.
fn rust_files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in fs::read_dir(root.join(folder)).expect("a folder can be read") {
        let entry = entry.expect("an entry can be read");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            found.extend(rust_files(&path));
        } else if path.ends_with(".rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_map_has_every_file_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("it can be read");
    let (map, _) = text.split_once("\n## The life of a session").expect("the section behind it");
    for file in rust_files("src") {
        assert!(quoted(map).any(|word| word == file), "ARCHITECTURE.md's map lacks {file}");
    }
    for path in
        quoted(&text).filter(|word| ["src/", "tests/", "docs/"].iter().any(|f| word.starts_with(f)))
    {
        assert!(root.join(path).exists(), "ARCHITECTURE.md names {path}");
    }
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("it can be read");
    let (_, invariants) = text.split_once("\n## Invariants").expect("the section");
    let (invariants, _) = invariants.split_once("\n## ").expect("the section behind it");
    let files = [rust_files("src"), rust_files("tests")].concat();
    let read = |file: &String| fs::read_to_string(root.join(file)).expect("a source can be read");
    let code: String = files.iter().map(read).collect();
    let is_name = |word: &&str| {
        word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    for row in invariants.lines().filter(|line| line.starts_with("| ")).skip(1) {
        for name in quoted(row).filter(is_name).filter(|name| name.contains('_')) {
            assert!(code.contains(&format!("fn {name}(")), "no test `{name}`: {row}");
        }
    }
}

/// The documents, as paths from the root of the project.
fn documents() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["", "docs/", "docs/robustness/", "docs/benchmarks/"] {
        for entry in fs::read_dir(root.join(folder)).expect("a folder can be read") {
            let name = entry.expect("an entry can be read").file_name();
            found.push(format!("{folder}{}", name.to_string_lossy()));
        }
    }
    found.retain(|path| path.ends_with(".md"));
    found
}

/// How the headings of a text are named in links.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let name = |line: &str| -> String {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(name).collect()
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut followed = 0;
    for document in documents() {
        let here = root.join(&document);
        let text = fs::read_to_string(&here).expect("a document can be read");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { here.clone() } else { here.with_file_name("").join(path) };
            assert!(target.exists(), "{document} links to {link}, which is not there");
            if !anchor.is_empty() {
                let text = fs::read_to_string(target).expect("a document can be read");
                assert!(anchors(&text).iter().any(|name| name == anchor), "{document}: {link}");
            }
            followed += 1;
        }
    }
    assert!(followed > 20, "{followed} links were found");
}
