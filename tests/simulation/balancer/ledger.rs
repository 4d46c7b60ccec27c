//! Who wrote what to which upstream connection: one line for each use of one by an exchange. Not
//! here: what must hold of it (`oracle.rs`).

use std::collections::BTreeSet;

use super::scenario::Ms;

/// One upstream connection in the hands of one exchange.
#[derive(Clone, Debug)]
pub struct Use {
    /// The client's place.
    pub client: usize,
    pub upstream: usize,
    pub link: usize,
    /// It came from the pool.
    pub is_reused: bool,
    /// For how long it had been idle then.
    pub idle: Ms,
    pub since: Ms,
    /// The request that was written to it, as soon as a byte was.
    pub request: Option<usize>,
    pub wrote: u64,
    /// Bytes that were read from it, and those that had been before.
    pub read: u64,
    before: u64,
    /// Its end was seen, or an error.
    pub is_lost: bool,
    /// A loss of it was held against the upstream.
    pub was_blamed: bool,
    pub is_over: bool,
}

/// What was noticed during a turn that may speak for or against an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    ConnectFailed {
        upstream: usize,
    },
    /// A connect was given up after so many milliseconds.
    ConnectGivenUp {
        upstream: usize,
        after: Ms,
    },
}

#[derive(Default)]
pub struct Ledger {
    pub uses: Vec<Use>,
    /// The use that each connection is in, or was in last.
    current: Vec<Option<usize>>,
    /// Where in what an upstream connection says final heads end, and with which status.
    heads: Vec<Vec<(u64, u16)>>,
    /// Where in it answers end that a connection may survive.
    ends: Vec<Vec<u64>>,
    /// Connections over which something came that is no answer.
    garbled: BTreeSet<usize>,
    /// Of this turn.
    pub facts: Vec<Fact>,
    /// The first use that this turn touched.
    touched: Vec<usize>,
}

impl Ledger {
    pub fn begin_turn(&mut self) {
        self.facts.clear();
        self.touched.clear();
    }

    pub fn begin(&mut self, link: usize, client: usize, upstream: usize, before: u64, now: Ms) {
        self.make_room(link);
        let is_reused = self.current[link].is_some();
        self.current[link] = Some(self.uses.len());
        self.uses.push(Use {
            client,
            upstream,
            link,
            is_reused,
            idle: 0,
            since: now,
            request: None,
            wrote: 0,
            read: 0,
            before,
            is_lost: false,
            was_blamed: false,
            is_over: false,
        });
    }

    /// The connection whose use has begun had been idle for so long.
    pub fn was_idle(&mut self, link: usize, idle: Ms) {
        if let Some(used) = self.of(link) {
            used.idle = idle;
        }
    }

    fn make_room(&mut self, link: usize) {
        let len = self.current.len().max(link + 1);
        self.current.resize(len, None);
        self.heads.resize(len, Vec::new());
        self.ends.resize(len, Vec::new());
    }

    fn of(&mut self, link: usize) -> Option<&mut Use> {
        let at = (*self.current.get(link)?)?;
        self.touched.push(at);
        Some(&mut self.uses[at])
    }

    /// `taken` of the bytes that were `offered` were written.
    pub fn wrote(&mut self, link: usize, offered: &[u8], taken: usize) {
        let Some(used) = self.of(link) else { return };
        if used.wrote == 0 && taken > 0 {
            used.request = id_of(offered);
        }
        used.wrote += taken as u64;
    }

    pub fn read(&mut self, link: usize, n: usize) {
        if let Some(used) = self.of(link) {
            used.read += n as u64;
        }
    }

    pub fn lost(&mut self, link: usize) {
        if let Some(used) = self.of(link) {
            used.is_lost = true;
        }
    }

    pub fn end(&mut self, link: usize) {
        if let Some(used) = self.of(link) {
            used.is_over = true;
        }
    }

    /// A final head is on its way, and ends behind so many bytes of the connection.
    pub fn head_ends(&mut self, link: usize, at: u64, status: u16) {
        self.make_room(link);
        self.heads[link].push((at, status));
    }

    pub fn answer_ends(&mut self, link: usize, at: u64) {
        self.make_room(link);
        self.ends[link].push(at);
    }

    /// The upstream connection that an exchange of `client` uses now.
    pub fn in_use_by(&self, client: usize) -> Option<&Use> {
        self.uses.iter().rev().find(|used| used.client == client).filter(|used| !used.is_over)
    }

    /// The request that is being written to a connection.
    pub fn request_of(&self, link: usize) -> Option<usize> {
        let at = (*self.current.get(link)?)?;
        self.uses[at].request
    }

    /// Whether what was read of a connection is whole answers and nothing else.
    pub fn is_between(&self, link: usize) -> bool {
        let Some(Some(at)) = self.current.get(link) else { return false };
        let used = &self.uses[*at];
        !used.is_lost && self.ends[link].contains(&(used.before + used.read))
    }

    /// The upstream says something that is no answer.
    pub fn says_garbage(&mut self, link: usize) {
        self.garbled.insert(link);
    }

    /// Whether `client` has in this turn given up an answer of `upstream` that was none.
    pub fn has_garbage(&self, client: usize, upstream: usize) -> bool {
        self.touched.iter().map(|&at| &self.uses[at]).any(|used| {
            let is_its = used.client == client && used.upstream == upstream;
            is_its && used.read > 0 && self.garbled.contains(&used.link)
        })
    }

    /// Whether `client` has had a final head of `upstream` with such a status.
    pub fn has_head(&self, client: usize, upstream: usize, is_such: impl Fn(u16) -> bool) -> bool {
        self.uses.iter().rev().filter(|u| u.client == client && u.upstream == upstream).any(
            |used| {
                let heads = &self.heads[used.link];
                heads.iter().any(|&(at, status)| {
                    at > used.before && at <= used.before + used.read && is_such(status)
                })
            },
        )
    }

    /// Whether `client` has given up an answer of `upstream` in this turn, after so long.
    pub fn has_waited(&self, client: usize, upstream: usize, least: Ms, now: Ms) -> bool {
        self.touched.iter().map(|&at| &self.uses[at]).any(|used| {
            let mut heads = self.heads[used.link].iter();
            let has_head = heads.any(|&(at, _)| at > used.before && at <= used.before + used.read);
            let is_its = used.client == client && used.upstream == upstream && used.is_over;
            is_its && now - used.since >= least && !has_head
        })
    }

    /// Takes a fresh connection of `client` to `upstream` that this turn has lost before its answer
    /// was whole, and marks it.
    pub fn blame(&mut self, client: usize, upstream: usize) -> Option<&Use> {
        let ends = &self.ends;
        let at = *self.touched.iter().find(|&&at| {
            let used = &self.uses[at];
            used.client == client
                && used.upstream == upstream
                && !used.is_reused
                && used.is_lost
                && !used.was_blamed
                && !ends[used.link].contains(&(used.before + used.read))
        })?;
        self.uses[at].was_blamed = true;
        Some(&self.uses[at])
    }
}

/// The number of the exchange in the head that these bytes begin with.
fn id_of(head: &[u8]) -> Option<usize> {
    let line = head.split(|&b| b == b'\r').next()?;
    let target = line.split(|&b| b == b' ').nth(1)?;
    str::from_utf8(target.strip_prefix(b"/")?).ok()?.parse().ok()
}
