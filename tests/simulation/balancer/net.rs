//! What everybody in the simulation shares: the connections, the time, what is to happen when, and
//! what was noticed. Not here: what happens then (`world.rs`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::links::{Dial, Link};
use super::scenario::{Mode, Ms, What};
use super::trace::{Counts, Finding, Trace};
use crate::draws::Draws;

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A client connects.
    Arrive(usize),
    /// The peer at the far end of a connection looks at it.
    Far(usize),
    /// A connect is answered.
    DialEnds(usize),
    /// A session gets a turn.
    Turn(usize),
    /// An idle connection has something to tell.
    Listen(usize),
    /// The end of a connection that its upstream has closed arrives.
    Farewell(usize),
    Happening(usize),
    Probes,
    ProbeEnds(usize),
    Sweep,
    DrainEnds,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A client, by its place among the clients of the scenario.
    Client(usize),
    /// An upstream.
    Upstream(usize),
}

/// What an upstream has said to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub id: usize,
    pub status: u16,
    pub size: usize,
    /// Whether all of it was sent; if not, nobody may think so.
    pub is_whole: bool,
}

pub struct Place {
    pub link: Link,
    pub owner: Owner,
    /// The session that uses it: a client's place.
    pub user: Option<usize>,
    pub idle_since: Option<Ms>,
    pub dialled_at: Ms,
    /// The address that was dialled takes no connections.
    pub refuses: bool,
    /// The earliest look of the far end that is to come.
    far_at: Option<Ms>,
}

pub struct Net {
    pub now: Ms,
    epoch: Instant,
    pub places: Vec<Place>,
    pub modes: Vec<Mode>,
    /// Exchanges that each of them may have.
    pub bound: Option<usize>,
    /// For each upstream the connects that were begun.
    pub dials: Vec<u64>,
    pub is_hostile: bool,
    pub steady: Vec<bool>,
    seed: u64,
    pub draws: Draws,
    queue: BinaryHeap<Reverse<(Ms, u64, Event)>>,
    queued: u64,
    turns_at: Vec<Option<Ms>>,
    pub ledger: Ledger,
    /// When each session moved a byte last, or asked for a connection.
    pub active: Vec<Ms>,
    /// How often each request was heard of by an upstream.
    pub heard: BTreeMap<usize, usize>,
    /// When each client sent a byte last, later by what the clock has jumped since.
    pub sent_at: Vec<Ms>,
    /// Requests that their clients have sent to the end.
    pub sent_whole: BTreeSet<usize>,
    pub answers: Vec<Answer>,
    pub finding: Option<Finding>,
    pub counts: Counts,
    pub trace: Trace,
}

impl Net {
    pub fn new(seed: u64, epoch: Instant, clients: usize, steady: Vec<bool>, trace: Trace) -> Net {
        Net {
            now: 0,
            epoch,
            places: Vec::new(),
            modes: vec![Mode::Up; steady.len()],
            bound: None,
            dials: vec![0; steady.len()],
            is_hostile: false,
            steady,
            seed,
            draws: Draws::new(seed ^ 0x5eed),
            queue: BinaryHeap::new(),
            queued: 0,
            turns_at: vec![None; clients],
            ledger: Ledger::default(),
            active: vec![0; clients],
            heard: BTreeMap::new(),
            sent_at: vec![0; clients],
            sent_whole: BTreeSet::new(),
            answers: Vec::new(),
            finding: None,
            counts: Counts::default(),
            trace,
        }
    }

    pub fn instant(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now)
    }

    /// When something that is due at this time is found to be.
    pub fn ms_of(&self, instant: Instant) -> Ms {
        let since = instant.saturating_duration_since(self.epoch);
        since.as_micros().div_ceil(1_000) as Ms
    }

    pub fn schedule(&mut self, at: Ms, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse((at.max(self.now), self.queued, event)));
    }

    pub fn next_at(&self) -> Option<Ms> {
        self.queue.peek().map(|Reverse((at, _, _))| *at)
    }

    /// What is due.
    pub fn pop(&mut self) -> Option<Event> {
        let Reverse((at, _, event)) = self.queue.pop()?;
        match event {
            Event::Turn(client) if self.turns_at[client] == Some(at) => {
                self.turns_at[client] = None;
            }
            Event::Turn(_) => return None,
            Event::Far(link) => {
                self.places[link].far_at.take_if(|earliest| *earliest <= at);
            }
            _ => (),
        }
        Some(event)
    }

    /// A session is to get a turn after so many milliseconds, or sooner.
    pub fn wake(&mut self, client: usize, after: Ms) {
        let at = self.now + after;
        if self.turns_at[client].is_none_or(|then| at < then) {
            self.turns_at[client] = Some(at);
            self.schedule(at, Event::Turn(client));
        }
    }

    /// The far end of a connection is to look at it after so many milliseconds.
    pub fn stir(&mut self, link: usize, after: Ms) {
        let at = self.now + after;
        if self.places[link].far_at != Some(at) {
            let earliest = self.places[link].far_at.map_or(at, |then| then.min(at));
            self.places[link].far_at = Some(earliest);
            self.schedule(at, Event::Far(link));
        }
    }

    /// The near end of a connection has something to look at.
    pub fn tell_near(&mut self, link: usize) {
        let after = self.draws.below(3) as Ms;
        match (self.places[link].owner, self.places[link].user) {
            (_, Some(client)) => self.wake(client, after),
            (Owner::Upstream(_), None) => self.schedule(self.now + after, Event::Listen(link)),
            (Owner::Client(_), None) => (),
        }
    }

    /// A connection of `owner`; what happens on it at random follows from who makes it, and how
    /// often it has made one.
    pub fn connect(&mut self, owner: Owner, user: usize, dial: Dial) -> usize {
        let number = match owner {
            Owner::Client(place) => place as u64 + 1_000,
            Owner::Upstream(id) => {
                self.dials[id] += 1;
                (id as u64 + 1) * 1_000_000 + self.dials[id]
            }
        };
        let draws = Draws::new(self.seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let link = Link::new(dial, draws);
        self.places.push(Place {
            link,
            owner,
            user: Some(user),
            idle_since: None,
            dialled_at: self.now,
            refuses: false,
            far_at: None,
        });
        self.places.len() - 1
    }

    pub fn accuse(&mut self, oracle: &'static str, detail: impl FnOnce() -> String) {
        if self.finding.is_none() {
            let finding = Finding { oracle, at: self.now, detail: detail() };
            self.note(format_args!("{finding}"));
            self.finding = Some(finding);
        }
    }

    /// Accuses unless `holds`.
    pub fn check(&mut self, oracle: &'static str, holds: bool, detail: impl FnOnce() -> String) {
        if !holds {
            self.accuse(oracle, detail);
        }
    }

    pub fn note(&mut self, line: fmt::Arguments<'_>) {
        self.trace.note(self.now, line);
    }

    /// Clients whose exchange has a connection to an upstream, or makes one.
    fn users_of(&self, id: usize) -> usize {
        let uses =
            |place: &&Place| place.owner == Owner::Upstream(id) && place.link.near_closed.is_none();
        let mut users: Vec<_> = self.places.iter().filter(uses).filter_map(|p| p.user).collect();
        users.sort_unstable();
        users.dedup();
        users.len()
    }

    /// A connection to an upstream is begun, or used again.
    pub fn check_bound(&mut self, id: usize) {
        let Some(bound) = self.bound else { return };
        let users = self.users_of(id);
        self.check("no upstream has more than the bound", users <= bound, || {
            format!("{users} of {bound} use upstream {id}")
        });
    }

    /// A connection was taken from the pool.
    pub fn check_age(&mut self, link: usize, oldest: Duration) {
        let since = self.places[link].idle_since.unwrap_or(self.now);
        let age = Duration::from_millis(self.now - since);
        self.check("no connection of the pool is too old", age <= oldest, || format!("{age:?}"));
    }

    /// A connection is given to the pool. Whatever is left on it would be somebody else's.
    pub fn check_kept(&mut self, link: usize) {
        let is_between = self.ledger.is_between(link);
        self.check("what is kept is between two answers", is_between, || format!("link {link}"));
        let place = &self.places[link];
        let is_open = place.link.near_closed.is_none() && !place.link.out.has_ended;
        self.check("what is kept is open", is_open, || format!("link {link}"));
    }

    /// What befalls an upstream's connections.
    pub fn befall(&mut self, what: What) {
        let (What::Turns(id, _) | What::ClosesIdle(id) | What::Breaks(id)) = what else { return };
        if let What::Turns(_, mode) = what {
            self.modes[id] = mode;
        }
        for link in 0..self.places.len() {
            let place = &mut self.places[link];
            if place.owner != Owner::Upstream(id) || place.link.near_closed.is_some() {
                continue;
            }
            match what {
                What::ClosesIdle(_) if place.idle_since.is_some() => {
                    // Its end is on its way for a while, and may meet a request.
                    place.link.far_closed = true;
                    let at = self.now + place.link.draws.below(30) as Ms;
                    self.schedule(at, Event::Farewell(link));
                    continue;
                }
                // An orderly end within an answer that ends with its connection would be its end.
                What::Breaks(_) if place.idle_since.is_some() => place.link.far_close(),
                What::Breaks(_) => place.link.far_resets(),
                What::Turns(..) => {
                    self.stir(link, 0);
                    continue;
                }
                _ => continue,
            }
            self.tell_near(link);
        }
    }
}
