//! How a refused command line is worded: one line that names the input and the remedy.
//!
//! clap's own text is several lines with a usage block; what it knows is taken, how it says it is
//! not.

use std::error::Error;
use std::ffi::OsStr;

use balancebeam::config::masked;
use clap::error::{ContextKind, ContextValue, ErrorKind};

const SEE_HELP: &str = "`balancebeam --help` lists what there is";
const SEE_DEMO: &str = "`balancebeam demo --help` lists what it takes";

/// What is wrong, without a line end. `of_demo`: what was typed is for `demo`.
pub fn one_line(error: &clap::Error, of_demo: bool) -> String {
    let named = argument(error);
    // `--bind <ADDR>` is how clap names a flag that takes a value.
    let flag = named.split(' ').next().unwrap_or_default();
    let line = match error.kind() {
        ErrorKind::ValueValidation => match error.source() {
            Some(why) => format!("{flag} {why}"),
            None => first_line(error),
        },
        ErrorKind::InvalidValue => bad_word(error, &named, flag),
        ErrorKind::UnknownArgument if of_demo => {
            format!("`{flag}` is no flag of `demo`; {SEE_DEMO}")
        }
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => unknown(error),
        ErrorKind::ArgumentConflict if named.is_empty() => unknown(error),
        ErrorKind::ArgumentConflict if text(error, ContextKind::PriorArg) == named => {
            format!("{flag} is given more than once; give it once")
        }
        ErrorKind::TooManyValues => format!("{flag} takes no value; leave out what follows the ="),
        _ => first_line(error),
    };
    escaped(&line)
}

/// An argument that is no text.
pub fn not_utf8(raw: &OsStr) -> String {
    escaped(&format!("`{}` is not valid UTF-8; {SEE_HELP}", masked(&raw.to_string_lossy())))
}

/// The same on one line, whatever was typed.
pub fn escaped(line: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    line.chars().map(escape).collect()
}

/// A value that is missing, or not among those that a flag takes.
fn bad_word(error: &clap::Error, named: &str, flag: &str) -> String {
    let choice = list(error, ContextKind::ValidValue).join(", ");
    match (text(error, ContextKind::InvalidValue).as_str(), choice.as_str()) {
        ("", "") => format!("{flag} needs a value: {named}"),
        ("", choice) => format!("{flag} needs a value: one of {choice}"),
        (given, choice) => format!("{flag} `{given}`: give one of {choice}"),
    }
}

fn unknown(error: &clap::Error) -> String {
    let given = match text(error, ContextKind::InvalidSubcommand) {
        word if word.is_empty() => text(error, ContextKind::InvalidArg),
        word => word,
    };
    let near = list(error, ContextKind::SuggestedArg).join(", ");
    if given == "demo" {
        "`demo` must come first, and takes only flags of its own: balancebeam demo --bind <ADDR>"
            .into()
    } else if !given.starts_with('-') {
        format!("`{given}` is no flag; an upstream is --upstream host:port; {SEE_HELP}")
    } else if near.is_empty() {
        format!("`{given}` is no flag; {SEE_HELP}")
    } else {
        format!("`{given}` is no flag; did you mean {near}? {SEE_HELP}")
    }
}

fn argument(error: &clap::Error) -> String {
    text(error, ContextKind::InvalidArg)
}

fn text(error: &clap::Error, kind: ContextKind) -> String {
    list(error, kind).into_iter().next().unwrap_or_default()
}

fn list(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(one)) => vec![masked(one)],
        Some(ContextValue::Strings(all)) => all.iter().map(|one| masked(one)).collect(),
        _ => Vec::new(),
    }
}

/// For what is left over: clap's own first line.
fn first_line(error: &clap::Error) -> String {
    let all = error.to_string();
    let first = all.lines().next().unwrap_or_default();
    format!("{}; {SEE_HELP}", first.strip_prefix("error: ").unwrap_or(first))
}
