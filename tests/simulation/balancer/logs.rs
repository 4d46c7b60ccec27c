//! What the balancer says while it is played: what was seen of upstreams, what followed, and each
//! exchange. It is taken from the log, where operators read it too. Not here: whether it is right
//! (`health.rs`, `limit.rs`).

use std::cell::RefCell;
use std::sync::Once;

use super::scenario::Ms;

thread_local! {
    /// Lines that nobody has looked at, while this thread plays.
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

struct Listener;

impl log::Log for Listener {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                lines.push(record.args().to_string());
            }
        });
    }

    fn flush(&self) {}
}

/// Listens to what is said on this thread, until it is dropped.
pub struct Listening(());

impl Listening {
    pub fn begin() -> Listening {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            log::set_logger(&Listener).expect("nobody else listens");
            log::set_max_level(log::LevelFilter::Trace);
        });
        LINES.set(Some(Vec::new()));
        Listening(())
    }

    /// What was said since it was asked last.
    pub fn heard(&self) -> Vec<String> {
        LINES.with_borrow_mut(|lines| lines.as_mut().map(std::mem::take).unwrap_or_default())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        LINES.set(None);
    }
}

/// A line that means something here.
#[derive(Clone, Debug)]
pub enum Said {
    /// Something was seen of an upstream.
    Observation(usize, String),
    Ejected(usize),
    Restored(usize),
    Exchange(Record),
    /// A client's exchange asks an upstream for a connection, waits for room, or is woken.
    Asks(usize, usize),
    Waits(usize),
    Woken(usize),
    /// Nothing that is judged.
    Other,
}

/// What is told of an exchange that is over.
#[derive(Clone, Debug)]
pub struct Record {
    pub client: String,
    pub status: u16,
    pub attempts: usize,
    pub took: Ms,
    /// Why it ended as it did, if there is something to say.
    pub why: String,
    /// The client has not got all of the answer.
    pub is_cut: bool,
}

impl Said {
    pub fn read(line: &str) -> Said {
        let read = match line.split_once(' ') {
            Some(("upstream", _)) => upstream(line),
            Some(("session", rest)) => session(rest),
            _ => record(line),
        };
        read.unwrap_or(Said::Other)
    }
}

/// The name of upstream `id`; a connect to it goes to its addresses.
pub fn name(id: usize) -> String {
    format!("10.0.0.{id}:80")
}

fn upstream(line: &str) -> Option<Said> {
    let (name, rest) = line.strip_prefix("upstream 10.0.0.")?.split_once(' ')?;
    let id = name.strip_suffix(":80")?.parse().ok()?;
    if let Some(seen) = rest.strip_prefix("seen: ") {
        return Some(Said::Observation(id, seen.to_string()));
    }
    if rest.starts_with("ejected: ") {
        return Some(Said::Ejected(id));
    }
    rest.starts_with("restored: ").then_some(Said::Restored(id))
}

fn session(line: &str) -> Option<Said> {
    let (client, rest) = line.split_once(' ')?;
    let client = client.parse().ok()?;
    match rest {
        "waits" => Some(Said::Waits(client)),
        "is woken" => Some(Said::Woken(client)),
        _ => Some(Said::Asks(client, rest.strip_prefix("asks ")?.parse().ok()?)),
    }
}

fn record(line: &str) -> Option<Said> {
    let (facts, why) = line.split_once(": ").unwrap_or((line, ""));
    let mut words = facts.split(' ');
    let client = words.next()?.to_string();
    let status = words.next()?.parse().ok()?;
    let number = |name: &str| {
        let word = facts.split(' ').find_map(|word| word.strip_prefix(name))?;
        word.parse::<u64>().ok()
    };
    Some(Said::Exchange(Record {
        client,
        status,
        attempts: number("attempts=")? as usize,
        took: number("ms=")?,
        why: why.to_string(),
        is_cut: facts.ends_with(" unfinished") || facts.ends_with(" aborted"),
    }))
}
