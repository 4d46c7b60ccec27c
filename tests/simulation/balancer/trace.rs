//! What has happened, as lines and as one number that stands for all of them; what was found wrong;
//! and how often each thing came up. Not here: what is wrong (`oracle.rs` and its neighbours).

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::scenario::Ms;

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub oracle: &'static str,
    pub at: Ms,
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` does not hold at {} ms: {}", self.oracle, self.at, self.detail)
    }
}

/// How often something happened, by its name.
#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub fn one(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Counts) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, count)| (*what, *count))
    }
}

/// Every line goes into the hash; lines are kept only if somebody wants to read them.
pub struct Trace {
    pub hash: u64,
    pub lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(keeps_lines: bool) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, lines: keeps_lines.then(Vec::new) }
    }

    pub fn note(&mut self, now: Ms, line: fmt::Arguments<'_>) {
        let _ = writeln!(self, "{now} {line}");
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{now:>8} {line}"));
        }
    }
}

/// FNV-1a.
impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}
