//! Holds the floors: imports point down only, and sockets, threads and clocks live on floor 3.
//!
//! Reads the sources as text, without comments, strings and test modules. The table is the map: a
//! new file needs a line in it.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module at the root of `src/`, a file or a folder, and its floor.
const FLOORS: &[(&str, u8)] = &[
    ("message", 0),
    ("http1", 0),
    ("buffer", 0),
    ("free_list", 0),
    ("lock", 0),
    ("log_throttle", 0),
    ("config", 1),
    ("state", 1),
    ("telemetry", 1),
    ("upstream", 1),
    ("rate_limit", 1),
    ("client_addr", 1),
    ("exchange", 2),
    ("session", 2),
    ("engine", 3),
    ("background", 3),
    ("shortage", 3),
    ("server", 3),
    ("demo", 3),
    ("lib", 4),
    ("main", 4),
    ("cli", 4),
    ("logging", 4),
];

/// Where the world begins: sockets, threads, clocks, the terminal.
const WORLD: u8 = 3;

/// Not below `WORLD`, as words of the code: `Instant::now` is three of them.
const BANNED: &[(&[&str], &str)] = &[
    (&["TcpStream"], "sockets are the engine's"),
    (&["TcpListener"], "sockets are the engine's"),
    (&["UdpSocket"], "sockets are the engine's"),
    (&["thread"], "threads are the engine's"),
    (&["tokio"], "how to wait is the engine's choice"),
    (&["Instant", "::", "now"], "take `now` as an argument"),
    (&["SystemTime", "::", "now"], "take the time as an argument"),
    (&["thread_rng"], "take a seed as an argument"),
    (&["rand", "::", "rng"], "take a seed as an argument"),
    (&["from_os_rng"], "take a seed as an argument"),
    (&["println"], "return it or log it"),
    (&["eprintln"], "return it or log it"),
];

#[test]
fn floors_hold() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut complaints = Vec::new();
    for file in rust_files(&src) {
        let shown = file.strip_prefix(&src).expect("found under src").to_path_buf();
        let text = fs::read_to_string(&file).expect("a source can be read");
        for complaint in complaints_about(&module_of(&shown), &text) {
            complaints.push(format!("src/{}:{complaint}", shown.display()));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// What is wrong with a file of `module`, each with its line.
fn complaints_about(module: &str, text: &str) -> Vec<String> {
    let Some(floor) = floor_of(module) else {
        return vec![format!("1: `{module}` is on no floor: add it to FLOORS in tests/floors.rs")];
    };
    let words = words(&without_tests(&without_comments(text)));
    let mut complaints = Vec::new();
    for (at, (line, _)) in words.iter().enumerate() {
        for (banned, instead) in BANNED.iter().filter(|_| floor < WORLD) {
            if banned.iter().enumerate().all(|(i, w)| word(&words, at + i) == *w) {
                let banned = banned.concat();
                complaints.push(format!("{line}: `{banned}` below floor {WORLD}: {instead}"));
            }
        }
        for name in imported(&words, at) {
            match floor_of(name) {
                Some(above) if above > floor => complaints.push(format!(
                    "{line}: `{module}` is on floor {floor}, `{name}` above it on floor {above}"
                )),
                None if word(&words, at) == "crate" && floor < WORLD => {
                    complaints.push(format!("{line}: name the module that `{name}` is in"));
                }
                _ => {}
            }
        }
    }
    complaints
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// `config.rs` → `config`, `upstream/health.rs` → `upstream`.
fn module_of(path: &Path) -> String {
    let first = path.iter().next().map(Path::new).unwrap_or(path);
    first.with_extension("").to_string_lossy().into_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("an entry can be read").path();
        let is_test = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name == "tests.rs" || name.ends_with("_tests.rs"));
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") && !is_test {
            found.push(path);
        }
    }
    found
}

/// The names after `crate::` or `super::` at word `at`: one, or all of a group in braces.
fn imported(words: &[(usize, String)], at: usize) -> Vec<&str> {
    if !matches!(word(words, at), "crate" | "super") || word(words, at + 1) != "::" {
        return Vec::new();
    }
    if word(words, at + 2) != "{" {
        return vec![word(words, at + 2)];
    }
    let (mut depth, mut names) = (0, Vec::new());
    for i in at + 2..words.len() {
        match word(words, i) {
            "{" => depth += 1,
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            name if depth == 1 && matches!(word(words, i - 1), "{" | ",") => names.push(name),
            _ => {}
        }
    }
    names
}

fn word(words: &[(usize, String)], at: usize) -> &str {
    words.get(at).map_or("", |(_, word)| word)
}

/// Identifiers, `::`, and single other characters, each with its line.
fn words(code: &str) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match name {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                name => name,
            };
            words.push((number + 1, rest[..length].to_string()));
            rest = rest[length..].trim_start();
        }
    }
    words
}

/// Comments, strings and character literals become blanks; line ends stay.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = blank(rest, code.chars().next_back());
        let skipped = &rest[..length.unwrap_or(first.len_utf8())];
        match length {
            None => code.push(first),
            Some(_) => code.extend(skipped.chars().map(|c| if c == '\n' { c } else { ' ' })),
        }
        rest = &rest[skipped.len()..];
    }
    code
}

/// Bytes at the front of `rest` that are no code, if it begins with such.
fn blank(rest: &str, before: Option<char>) -> Option<usize> {
    let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(rest.find("*/").map_or(rest.len(), |end| end + 2));
    }
    if !in_name && let Some(raw) = rest.strip_prefix('r').or_else(|| rest.strip_prefix("br")) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = rest.len() - raw.len() + hashes + 1;
            return Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()));
        }
    }
    if rest.starts_with('"') {
        return Some(quoted(rest, '"'));
    }
    // `'a` is a lifetime unless a quote follows the one character.
    let is_char = rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'');
    (rest.starts_with('\'') && is_char).then(|| quoted(rest, '\''))
}

/// The length of a literal up to its closing `quote`.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// Leaves out each item behind `#[cfg(test)]`; line ends stay.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = item_end(item);
        kept.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    kept + rest
}

/// An item ends with a `;` before any brace, or with the brace that closes its first.
fn item_end(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    item.len()
}

/// Each row: a module, a source, and what the complaint says; nothing where it is clean.
#[test]
fn the_floors_are_seen() {
    for (module, source, complaint) in [
        ("session", "use crate::engine::Wire;", "`engine` above it"),
        ("session", "fn f() { crate::server::g() }", "`server` above it"),
        ("config", "use crate::{lock::{self, Lock}, session::Session};", "`session` above it"),
        ("config", "use super::session::Session;", "`session` above it"),
        ("config", "use crate::Server;", "name the module that `Server` is in"),
        ("rate_limit", "\n\nlet t = std::time::Instant :: now();", "3: `Instant::now`"),
        ("session", "use std::{net::TcpStream, io};", "`TcpStream`"),
        ("lock", "use std::{thread, io};", "`thread`"),
        ("nowhere", "", "add it to FLOORS"),
        ("session", "use crate::{http1::head::Head, config::Config};", ""),
        ("session", "// a thread\n/* tokio */ /// Instant::now\nfn f() {}", ""),
        ("session", "let s = \"\\\" tokio\"; let r = r#\"tokio \" x\"#; let c = '\"';", ""),
        (
            "session",
            "fn f<'a>(x: &'a str) {}\n#[cfg(test)]\nmod t { fn g() { Instant::now() } }",
            "",
        ),
        ("session", "#[cfg(test)]\nmod tests;\nfn f() { tokio::spawn() }", "3: `tokio`"),
        ("engine", "use std::thread; use crate::session::Session;", ""),
    ] {
        let found = complaints_about(module, source).join("\n");
        assert_eq!(found.is_empty(), complaint.is_empty(), "{module}: {source:?} gave {found:?}");
        assert!(found.contains(complaint), "{module}: {source:?} gave {found:?}");
    }
}
