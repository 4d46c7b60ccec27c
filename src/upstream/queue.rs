//! Requests that wait because every upstream has as many as it may have.
//!
//! More than can be served cannot all be served in time; what counts is that those which are, are
//! served soon. So room goes to the clients in turn, however much one of them asks for, and of one
//! client to its newest request: the oldest are those whose client has given up most likely. A
//! client that has not had a turn comes first, of several the last one; those that have had one come
//! behind, whoever had it longest ago first, even if they did not wait meanwhile. The queue is
//! bounded; if it is full, whoever has the most in it loses its oldest. Not here: how long one waits
//! (`session/deadline.rs`), and who has room (`mod.rs`).
//!
//! | event                              | then                                                  |
//! |------------------------------------|-------------------------------------------------------|
//! | a request comes, the queue is full | the longest line loses its oldest, which is refused   |
//! | a request comes, nobody waits      | who has had a turn is forgotten                       |
//! | a request comes                    | it is the newest of its line                          |
//! | an upstream has room               | the newest of the first line that may go there; its client has had a turn |
//! | an ejected one has room            | the same of those that have been at all that are live |
//! | a request leaves                   | its place is free; what it was given goes to the next |

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::{InFlight, UpstreamId};
use crate::lock::Lock;
use crate::who;

/// Turns that are remembered while others wait: a client that had an earlier one counts as new.
const TURNS_REMEMBERED: usize = 4_096;
/// The least time between two warnings that requests are refused.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// All that wait.
pub(super) struct Queue {
    most: usize,
    /// How many wait; spares the lock while nobody does.
    waiting: AtomicUsize,
    lines: Lock<Lines>,
    warned_at: Lock<Option<Instant>>,
}

/// Those that wait, by client. However many there are, one more costs no walk past the others.
#[derive(Default)]
struct Lines {
    /// No line is empty.
    by_client: BTreeMap<u64, Line>,
    /// Whose turn it is, the first one first. Each client that has a line is in it once.
    turns: BTreeMap<i64, u64>,
    /// Each line's length, and its turn.
    lengths: BTreeSet<(usize, i64)>,
    len: usize,
    /// Those that have been at an upstream already, by client and number.
    tried: BTreeSet<(u64, u64)>,
    /// The upstreams that may be chosen for all.
    live: BTreeSet<UpstreamId>,
    /// How many have ever joined.
    joined: u64,
    /// When clients had their last turn, counted in turns. Those of clients that wait are theirs
    /// still.
    had_turn: BTreeMap<u64, i64>,
    /// The same in order, and turns that were not the last of their client.
    remembered: VecDeque<(i64, u64)>,
    /// How many turns there were.
    turn: i64,
}

/// Those of one client that wait, the newest last.
struct Line {
    turn: i64,
    tickets: VecDeque<Arc<Ticket>>,
}

/// A request's place in the queue.
pub struct Ticket {
    client: u64,
    /// Who came later has a greater one.
    number: u64,
    tried: Vec<UpstreamId>,
    outcome: Lock<Outcome>,
}

/// What has become of it.
enum Outcome {
    /// It waits; whoever settles it wakes the session, if there is something to wake.
    Waiting(Option<Waker>),
    /// Room was found, and is kept for it.
    Chosen(InFlight),
    /// It is to be refused.
    Refused,
    /// Nobody asks any more.
    Left,
}

/// How a request in the queue stands.
pub enum Standing {
    /// It still waits.
    Waiting,
    /// It may go on with this choice.
    Chosen(InFlight),
    /// There was no room for it in the queue.
    Refused,
}

/// A request that waits, until it is dropped.
pub struct Waiting {
    queue: Arc<Queue>,
    ticket: Arc<Ticket>,
}

impl Waiting {
    /// How it stands. What was chosen is given out once.
    pub fn standing(&self) -> Standing {
        let mut outcome = self.ticket.outcome.lock();
        match std::mem::replace(&mut *outcome, Outcome::Left) {
            Outcome::Waiting(waker) => {
                *outcome = Outcome::Waiting(waker);
                Standing::Waiting
            }
            Outcome::Chosen(choice) => Standing::Chosen(choice),
            Outcome::Refused | Outcome::Left => Standing::Refused,
        }
    }

    /// Its place, for whoever can wake its session.
    pub fn ticket(&self) -> Arc<Ticket> {
        self.ticket.clone()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut *self.ticket.outcome.lock(), Outcome::Left);
        if let Outcome::Waiting(_) = outcome {
            self.queue.leave(&self.ticket);
        }
        // Dropped behind the lock: what it was given goes to the next, whose ticket is locked then.
        drop(outcome);
    }
}

impl Ticket {
    /// Who is to be woken when it no longer waits; at once if that is so already.
    pub fn wake_by(&self, waker: Waker) {
        let mut outcome = self.outcome.lock();
        match &mut *outcome {
            Outcome::Waiting(wakes) => *wakes = Some(waker),
            Outcome::Chosen(_) | Outcome::Refused | Outcome::Left => {
                drop(outcome);
                waker.wake();
            }
        }
    }

    /// It no longer waits. A choice that nobody asks for any more comes back.
    fn settle(&self, settled: Outcome) -> Option<Outcome> {
        let mut outcome = self.outcome.lock();
        if let Outcome::Waiting(waker) = &mut *outcome {
            let waker = waker.take();
            *outcome = settled;
            drop(outcome);
            waker.into_iter().for_each(Waker::wake);
            return None;
        }
        Some(settled)
    }
}

impl Queue {
    /// Room for `most` that wait for upstreams, all of which are live.
    pub fn new(most: usize, upstreams: usize) -> Self {
        let live = (0..upstreams).map(UpstreamId).collect();
        let lines = Lock::new(Lines { live, ..Lines::default() });
        Queue { most, waiting: AtomicUsize::new(0), lines, warned_at: Lock::default() }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// A request of `client` waits for an upstream that is not in `tried`. `None`: there is no room
    /// for it.
    pub fn join(self: &Arc<Self>, client: IpAddr, tried: &[UpstreamId]) -> Option<Waiting> {
        if self.most == 0 {
            return None;
        }
        let client = who::key_of(client);
        let (ticket, refused) = {
            let mut lines = self.lines.lock();
            let is_full = lines.len >= self.most;
            let refused = if is_full { lines.give_up_one(client) } else { None };
            let ticket = lines.push(client, tried);
            self.waiting.store(lines.len, Ordering::SeqCst);
            (ticket, refused)
        };
        if let Some(refused) = refused {
            refused.settle(Outcome::Refused);
        }
        Some(Waiting { queue: self.clone(), ticket })
    }

    /// Those that may be chosen for all now.
    pub fn set_live(&self, live: impl Iterator<Item = UpstreamId>) {
        self.lines.lock().live = live.collect();
    }

    /// There may be room at upstream `id`: as long as `begin`, which is told whether it is live,
    /// finds some, it goes to those that wait.
    pub fn hand_over(&self, id: UpstreamId, mut begin: impl FnMut(bool) -> Option<InFlight>) {
        while self.len() > 0 {
            let mut lines = self.lines.lock();
            let Some((client, place)) = lines.next_for(id) else { return };
            let Some(choice) = begin(lines.live.contains(&id)) else { return };
            let next = lines.take(client, place);
            lines.end_turn(client);
            self.waiting.store(lines.len, Ordering::SeqCst);
            drop(lines);
            // Given back behind the lock, because giving it back comes here again.
            let given_back = match next {
                Some(ticket) => ticket.settle(Outcome::Chosen(choice)),
                None => Some(Outcome::Chosen(choice)),
            };
            drop(given_back);
        }
    }

    fn leave(&self, ticket: &Arc<Ticket>) {
        let mut lines = self.lines.lock();
        lines.remove(ticket);
        self.waiting.store(lines.len, Ordering::SeqCst);
    }

    /// Says once in a while that requests are refused, and why the last one was.
    pub fn warn(&self, why: &str, now: Instant) {
        let mut warned_at = self.warned_at.lock();
        if warned_at.is_none_or(|at| now >= at + WARNING_PAUSE) {
            *warned_at = Some(now);
            log::warn!(
                "requests are answered 503: {why} (see --max-in-flight, --max-queue and \
                 --queue-timeout)"
            );
        }
    }
}

impl Line {
    fn place_of(&self, number: u64) -> Option<usize> {
        self.tickets.binary_search_by_key(&number, |ticket| ticket.number).ok()
    }
}

impl Lines {
    /// The newest of its client's line.
    fn push(&mut self, client: u64, tried: &[UpstreamId]) -> Arc<Ticket> {
        if self.len == 0 {
            self.had_turn.clear();
            self.remembered.clear();
        }
        self.joined += 1;
        let ticket = Arc::new(Ticket {
            client,
            number: self.joined,
            tried: tried.to_vec(),
            outcome: Lock::new(Outcome::Waiting(None)),
        });
        let line = self.by_client.entry(client).or_insert_with(|| {
            // Turns that were had are counted from 1, so all that are new come before them.
            let first = self.turns.first_key_value().map_or(0, |(first, _)| *first.min(&0));
            let turn = self.had_turn.get(&client).copied().unwrap_or(first - 1);
            self.turns.insert(turn, client);
            Line { turn, tickets: VecDeque::new() }
        });
        self.lengths.remove(&(line.tickets.len(), line.turn));
        line.tickets.push_back(ticket.clone());
        self.lengths.insert((line.tickets.len(), line.turn));
        self.len += 1;
        if !tried.is_empty() {
            self.tried.insert((client, ticket.number));
        }
        ticket
    }

    /// Whose turn it is to go to an upstream, and where in the client's line.
    fn next_for(&self, id: UpstreamId) -> Option<(u64, usize)> {
        if !self.live.is_empty() && !self.live.contains(&id) {
            return self.next_for_ejected(id);
        }
        self.turns.values().find_map(|client| {
            let tickets = &self.by_client.get(client)?.tickets;
            Some((*client, tickets.iter().rposition(|ticket| !ticket.tried.contains(&id))?))
        })
    }

    /// The same of those that have been at all that are live; the others wait for one of these.
    fn next_for_ejected(&self, id: UpstreamId) -> Option<(u64, usize)> {
        let among = self.tried.iter().filter_map(|(client, number)| {
            let line = self.by_client.get(client)?;
            let place = line.place_of(*number)?;
            let tried = &line.tickets[place].tried;
            let may_go = !tried.contains(&id) && self.live.iter().all(|live| tried.contains(live));
            may_go.then_some((line.turn, Reverse(place), *client))
        });
        among.min().map(|(_, Reverse(place), client)| (client, place))
    }

    /// The client has had its turn: all others come before it.
    fn end_turn(&mut self, client: u64) {
        self.turn += 1;
        let last = self.turn;
        self.had_turn.insert(client, last);
        self.remembered.push_back((last, client));
        if self.remembered.len() > TURNS_REMEMBERED
            && let Some((turn, client)) = self.remembered.pop_front()
            && self.had_turn.get(&client) == Some(&turn)
        {
            self.had_turn.remove(&client);
        }
        let Some(line) = self.by_client.get_mut(&client) else { return };
        let (len, turn) = (line.tickets.len(), std::mem::replace(&mut line.turn, last));
        self.turns.remove(&turn);
        self.turns.insert(last, client);
        self.lengths.remove(&(len, turn));
        self.lengths.insert((len, last));
    }

    /// Makes room for a request of `client`: the longest line loses its oldest.
    fn give_up_one(&mut self, client: u64) -> Option<Arc<Ticket>> {
        let &(longest, turn) = self.lengths.last()?;
        // Most often it is whoever asks for the most that asks now. Of equals, the last one whose
        // turn it is.
        let has_longest = |line: &Line| line.tickets.len() == longest;
        let asks_most = self.by_client.get(&client).is_some_and(has_longest);
        let loses = if asks_most { client } else { *self.turns.get(&turn)? };
        self.take(loses, 0)
    }

    fn remove(&mut self, ticket: &Ticket) {
        let Some(line) = self.by_client.get(&ticket.client) else { return };
        if let Some(place) = line.place_of(ticket.number) {
            self.take(ticket.client, place);
        }
    }

    /// Takes one out of a line, and the line away if it was the last one.
    fn take(&mut self, client: u64, place: usize) -> Option<Arc<Ticket>> {
        let line = self.by_client.get_mut(&client)?;
        let ticket = line.tickets.remove(place)?;
        let (len, turn) = (line.tickets.len(), line.turn);
        self.lengths.remove(&(len + 1, turn));
        if len == 0 {
            self.by_client.remove(&client);
            self.turns.remove(&turn);
        } else {
            self.lengths.insert((len, turn));
        }
        self.len -= 1;
        self.tried.remove(&(client, ticket.number));
        Some(ticket)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
