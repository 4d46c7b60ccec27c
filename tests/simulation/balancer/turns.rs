//! Whose turn it is among those that wait for room: a second reading of the table at the top of
//! `src/upstream/wait_queue.rs`, as plain lists.
//!
//! Clients take turns, whatever each of them asks for. Those that have had none while others waited
//! are newcomers, of which the one that came last comes first. Newcomers and the others alternate
//! while both wait. Of one client the newest request goes first. If too many wait, a longest line
//! loses its oldest: one of whichever of both are more, of as many newcomers one of these. What
//! has become of one that was woken shows only in its own turn, so what happens is written down and
//! judged as soon as it is known. Not here: whether there is room (`room.rs`).

use std::collections::VecDeque;

use super::net::Net;
use super::room::may_go;

/// What has become of one that was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Goes(usize),
    Refused,
    /// It left before it told.
    Unknown,
}

#[derive(Clone, Debug)]
enum Event {
    Joins(Waiter, u8),
    Leaves(usize),
    /// Who, while which upstreams were live, and what for.
    Woken(usize, Vec<usize>, Option<Outcome>),
    /// One of this address has passed through the queue without waiting; or it was a trial.
    Passes(u8, bool),
}

#[derive(Clone, Debug)]
struct Waiter {
    client: usize,
    tried: Vec<usize>,
}

/// The requests of one address; the newest is the last.
#[derive(Clone, Debug)]
struct Line {
    address: u8,
    /// When it had its last turn; 0 if it had none.
    had_turn: usize,
    waiters: Vec<Waiter>,
}

pub struct Turns {
    most: usize,
    events: VecDeque<Event>,
    lines: VecDeque<Line>,
    /// The addresses that have had a turn since somebody began to wait, the last one at the end.
    turns: Vec<u8>,
    /// Whether the last one had had none before.
    newcomer_was_last: bool,
    /// Something is not known, so nothing is judged until nobody waits.
    is_lost: bool,
}

impl Turns {
    pub fn new(most: usize) -> Turns {
        Turns {
            most,
            events: VecDeque::new(),
            lines: VecDeque::new(),
            turns: Vec::new(),
            newcomer_was_last: false,
            is_lost: false,
        }
    }

    pub fn joins(&mut self, client: usize, address: u8, tried: Vec<usize>, net: &mut Net) {
        self.events.push_back(Event::Joins(Waiter { client, tried }, address));
        self.judge(net);
    }

    pub fn leaves(&mut self, client: usize) {
        self.events.push_back(Event::Leaves(client));
    }

    pub fn passes(&mut self, address: u8, may_be_trial: bool) {
        self.events.push_back(Event::Passes(address, may_be_trial));
    }

    pub fn wakes(&mut self, client: usize, live: Vec<usize>, net: &mut Net) {
        self.events.push_back(Event::Woken(client, live, None));
        self.judge(net);
    }

    /// What one that was woken has been woken for.
    pub fn settle(&mut self, client: usize, outcome: Outcome, net: &mut Net) {
        for event in &mut self.events {
            if let Event::Woken(of, _, unknown @ None) = event
                && *of == client
            {
                *unknown = Some(outcome);
                break;
            }
        }
        self.judge(net);
    }

    /// Goes through what has happened, as far as it is known.
    fn judge(&mut self, net: &mut Net) {
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Woken(_, _, None) => return self.events.push_front(event),
                Event::Woken(client, live, Some(outcome)) => {
                    self.woken(client, &live, outcome, net);
                }
                Event::Joins(waiter, address) => self.join(waiter, address),
                Event::Leaves(client) => self.remove(client),
                Event::Passes(address, may_be_trial) => self.pass(address, may_be_trial),
            }
            self.is_lost &= !self.lines.is_empty();
        }
    }

    fn len(&self) -> usize {
        self.lines.iter().map(|line| line.waiters.len()).sum()
    }

    fn join(&mut self, waiter: Waiter, address: u8) {
        if self.lines.is_empty() {
            self.turns.clear();
            self.newcomer_was_last = false;
        }
        if let Some(line) = self.lines.iter_mut().find(|line| line.address == address) {
            return line.waiters.push(waiter);
        }
        let had_turn = self.had_turn(address);
        let before = |line: &Line| had_turn > 0 && line.had_turn < had_turn;
        let at = self.lines.iter().take_while(|line| before(line)).count();
        self.lines.insert(at, Line { address, had_turn, waiters: vec![waiter] });
    }

    fn had_turn(&self, address: u8) -> usize {
        self.turns.iter().rposition(|of| *of == address).map_or(0, |at| at + 1)
    }

    /// All others come before it now.
    fn has_turn(&mut self, address: u8) {
        let waits = self.lines.iter().find(|line| line.address == address);
        let had_turn = waits.map_or_else(|| self.had_turn(address), |line| line.had_turn);
        self.newcomer_was_last = had_turn == 0;
        self.turns.push(address);
        if let Some(at) = self.lines.iter().position(|line| line.address == address)
            && let Some(line) = self.lines.remove(at)
        {
            self.lines.push_back(Line { had_turn: self.turns.len(), ..line });
        }
    }

    fn remove(&mut self, client: usize) {
        for line in &mut self.lines {
            line.waiters.retain(|waiter| waiter.client != client);
        }
        self.lines.retain(|line| !line.waiters.is_empty());
    }

    fn pass(&mut self, address: u8, may_be_trial: bool) {
        self.is_lost |= may_be_trial;
        self.has_turn(address);
    }

    fn woken(&mut self, client: usize, live: &[usize], outcome: Outcome, net: &mut Net) {
        if !self.is_lost {
            match outcome {
                Outcome::Goes(id) => self.clients_take_turns(client, id, live, net),
                Outcome::Refused => self.the_longest_line_loses_its_oldest(client, net),
                Outcome::Unknown => self.is_lost = true,
            }
        }
        let is_its = |line: &&Line| line.waiters.iter().any(|waiter| waiter.client == client);
        let address = self.lines.iter().find(is_its).map(|line| line.address);
        if let (Some(address), Outcome::Goes(_)) = (address, outcome) {
            self.has_turn(address);
        }
        self.remove(client);
    }

    /// A client that asks for fifty times its share waits for itself; and the newest request is the
    /// one that somebody still waits for.
    fn clients_take_turns(&self, client: usize, id: usize, live: &[usize], net: &mut Net) {
        net.counts.one("turns of those that wait");
        let may_go = |waiter: &&Waiter| may_go(&waiter.tried, id, live);
        let next_of = |newcomers: bool| {
            let mut lines = self.lines.iter().filter(|line| (line.had_turn == 0) == newcomers);
            lines.find_map(|line| line.waiters.iter().rev().find(may_go))
        };
        let [newcomer, other] = [next_of(true), next_of(false)];
        let next = if self.newcomer_was_last { other.or(newcomer) } else { newcomer.or(other) };
        if newcomer.is_some() && other.is_some() {
            net.counts.one("turns for which newcomers and others wait");
        }
        if !live.contains(&id) && !live.is_empty() {
            net.counts.one("waits for those that are left, though ejected");
        }
        net.check(
            "room goes to the clients in turn",
            next.is_some_and(|w| w.client == client),
            || {
                format!(
                    "client {client} goes to upstream {id}, next is {next:?} of {:?}",
                    self.lines
                )
            },
        );
        if self.lines.len() > 1 {
            net.counts.one("turns among several clients");
        }
    }

    /// Whether a line is of the address that joins next; it loses one of its own if it may.
    fn is_of_who_joins(&self, line: &Line) -> bool {
        let joins = self.events.iter().find_map(|event| match event {
            Event::Joins(_, address) => Some(*address),
            _ => None,
        });
        joins == Some(line.address)
    }

    /// Nobody else is to pay for whoever asks for the most.
    fn the_longest_line_loses_its_oldest(&self, client: usize, net: &mut Net) {
        let is_full = self.len() == self.most;
        net.check("nobody is refused while the queue has room", is_full, || {
            format!("client {client}, {} of {} wait", self.len(), self.most)
        });
        let longest = self.lines.iter().map(|line| line.waiters.len()).max();
        let is_longest = |line: &&Line| Some(line.waiters.len()) == longest;
        let newcomers = || self.lines.iter().filter(|line| line.had_turn == 0);
        let newcomer_loses = newcomers().any(|line| is_longest(&line))
            && 2 * newcomers().count() >= self.lines.len();
        let other_has_longest =
            self.lines.iter().any(|line| line.had_turn > 0 && is_longest(&line));
        let of_these = |line: &&Line| {
            !other_has_longest
                || (line.had_turn == 0) == newcomer_loses
                || self.is_of_who_joins(line)
        };
        let mut lines = self.lines.iter().filter(is_longest).filter(of_these);
        let is_its = lines.any(|line| line.waiters.first().is_some_and(|w| w.client == client));
        net.check("the longest line loses its oldest", is_its, || {
            format!("client {client} of {:?}", self.lines)
        });
    }
}
