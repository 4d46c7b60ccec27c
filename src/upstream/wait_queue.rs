//! Requests that wait because every upstream has as many as it may have.
//!
//! More than can be served cannot all be served in time; what counts is that those which are, are
//! served soon. So room goes to the clients in turn, however much one of them asks for, and of one
//! client to its newest request: the oldest are those whose client has given up most likely.
//!
//! There are two rings of clients, and they alternate while both have clients. So newcomers get at
//! most every second turn while others wait, from however many addresses they come. The first ring
//! has the newcomers, which have had no turn: the last one to come is the first. The second ring has
//! the clients that have had a turn, even if they did not wait meanwhile: the one whose turn was
//! longest ago is the first. The queue is bounded; if it is full, the client with the most requests
//! in it loses its oldest. Not here: how long one waits (`session/deadline.rs`), and who has room
//! (`mod.rs`).
//!
//! | event                              | then                                                  |
//! |------------------------------------|-------------------------------------------------------|
//! | a request comes, the queue is full | the longest line loses its oldest, which is refused; of equals, the last one of the ring that has more clients, of equal rings the newcomers' |
//! | a request comes, nobody waits      | who has had a turn is forgotten, and the next one is a newcomer's |
//! | a request comes                    | it is the newest of its line                          |
//! | an upstream has room               | the newest of the first line that may go there, of the ring that did not have the last turn if there is one, else of the other; its client has had a turn |
//! | an ejected one has room            | the same of those that have been at all that are live |
//! | a request leaves                   | its place is free; what it was given goes to the next |

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use super::id::UpstreamId;
use crate::client_addr;
use crate::lock::Lock;

/// Turns that are remembered while others wait: a client that had an earlier one counts as new.
const TURNS_REMEMBERED: usize = 4_096;

/// All that wait.
pub(super) struct WaitQueue<T> {
    most: usize,
    /// How many wait; spares the lock while nobody does.
    waiting: AtomicUsize,
    state: Lock<WaitState<T>>,
}

/// Those that wait, by client. However many there are, one more costs no walk past the others.
struct WaitState<T> {
    /// No line is empty.
    by_client: BTreeMap<u64, ClientQueue<T>>,
    /// Clients that have not had a turn.
    newcomers: Ring,
    /// Clients that have had one.
    returning: Ring,
    /// Whether the last turn was a newcomer's.
    newcomer_was_last: bool,
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

/// Clients that take turns. Each client that has a line is in one ring, once.
#[derive(Default)]
struct Ring {
    /// Whose turn it is, the first one first.
    turns: BTreeMap<i64, u64>,
    /// Each line's length, and its turn.
    lengths: BTreeSet<(usize, i64)>,
}

/// Those of one client that wait, the newest last.
struct ClientQueue<T> {
    /// When its client had its last turn, counted in turns from 1. Newcomers count down from 0.
    turn: i64,
    tickets: VecDeque<Arc<Ticket<T>>>,
}

/// A request's place in the queue.
pub struct Ticket<T> {
    client: u64,
    /// Who came later has a greater one.
    number: u64,
    tried: Vec<UpstreamId>,
    state: Lock<TicketState<T>>,
}

/// What has become of it.
enum TicketState<T> {
    /// It waits; whoever settles it wakes the session, if there is something to wake.
    Waiting(Option<Waker>),
    /// Room was found, and is kept for it.
    Chosen(T),
    /// It is to be refused.
    Refused,
    /// Nobody asks any more.
    Left,
}

/// How a request in the queue stands.
pub enum TicketStatus<T> {
    /// It still waits.
    Waiting,
    /// It may go on with this choice.
    Chosen(T),
    /// There was no room for it in the queue.
    Refused,
}

/// A request that waits, until it is dropped.
pub struct Waiting<T> {
    queue: Arc<WaitQueue<T>>,
    ticket: Arc<Ticket<T>>,
}

impl<T> Waiting<T> {
    /// How it stands. What was chosen is given out once.
    pub fn status(&self) -> TicketStatus<T> {
        let mut state = self.ticket.state.lock();
        match std::mem::replace(&mut *state, TicketState::Left) {
            TicketState::Waiting(waker) => {
                *state = TicketState::Waiting(waker);
                TicketStatus::Waiting
            }
            TicketState::Chosen(choice) => TicketStatus::Chosen(choice),
            TicketState::Refused | TicketState::Left => TicketStatus::Refused,
        }
    }

    /// Its place, for whoever can wake its session.
    pub fn ticket(&self) -> Arc<Ticket<T>> {
        self.ticket.clone()
    }
}

impl<T> Drop for Waiting<T> {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.ticket.state.lock(), TicketState::Left);
        if let TicketState::Waiting(_) = state {
            self.queue.leave(&self.ticket);
        }
        // Dropped behind the lock: what it was given goes to the next, whose ticket is locked then.
        drop(state);
    }
}

impl<T> Ticket<T> {
    /// Who is to be woken when it no longer waits; at once if that is so already.
    pub fn wake_by(&self, waker: Waker) {
        let mut state = self.state.lock();
        match &mut *state {
            TicketState::Waiting(wakes) => *wakes = Some(waker),
            TicketState::Chosen(_) | TicketState::Refused | TicketState::Left => {
                drop(state);
                waker.wake();
            }
        }
    }

    /// It no longer waits. A choice that nobody asks for any more comes back.
    fn settle(&self, settled: TicketState<T>) -> Option<TicketState<T>> {
        let mut state = self.state.lock();
        if let TicketState::Waiting(waker) = &mut *state {
            let waker = waker.take();
            *state = settled;
            drop(state);
            waker.into_iter().for_each(Waker::wake);
            return None;
        }
        Some(settled)
    }
}

impl<T> WaitQueue<T> {
    /// Room for `most` that wait for upstreams, all of which are live.
    pub fn new(most: usize, upstreams: usize) -> Self {
        let live = (0..upstreams).map(UpstreamId).collect();
        let state = Lock::new(WaitState::new(live));
        WaitQueue { most, waiting: AtomicUsize::new(0), state }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// A request of `client` waits for an upstream that is not in `tried`. `None`: there is no room
    /// for it.
    pub fn join(self: &Arc<Self>, client: IpAddr, tried: &[UpstreamId]) -> Option<Waiting<T>> {
        if self.most == 0 {
            return None;
        }
        let client = client_addr::key_of(client);
        let (ticket, refused) = {
            let mut state = self.state.lock();
            let is_full = state.len >= self.most;
            let refused = if is_full { state.give_up_one(client) } else { None };
            let ticket = state.push(client, tried);
            self.waiting.store(state.len, Ordering::SeqCst);
            (ticket, refused)
        };
        if let Some(refused) = refused {
            refused.settle(TicketState::Refused);
        }
        Some(Waiting { queue: self.clone(), ticket })
    }

    /// Those that may be chosen for all now.
    pub fn set_live(&self, live: impl Iterator<Item = UpstreamId>) {
        self.state.lock().live = live.collect();
    }

    /// There may be room at upstream `id`: as long as `begin`, which is told whether it is live,
    /// finds some, it goes to those that wait.
    pub fn hand_over(&self, id: UpstreamId, mut begin: impl FnMut(bool) -> Option<T>) {
        while self.len() > 0 {
            let mut state = self.state.lock();
            let Some((client, place)) = state.next_for(id) else { return };
            let Some(choice) = begin(state.live.contains(&id)) else { return };
            let next = state.take_turn(client, place);
            self.waiting.store(state.len, Ordering::SeqCst);
            drop(state);
            // Given back behind the lock, because giving it back comes here again.
            let given_back = match next {
                Some(ticket) => ticket.settle(TicketState::Chosen(choice)),
                None => Some(TicketState::Chosen(choice)),
            };
            drop(given_back);
        }
    }

    fn leave(&self, ticket: &Arc<Ticket<T>>) {
        let mut state = self.state.lock();
        state.remove(ticket);
        self.waiting.store(state.len, Ordering::SeqCst);
    }
}

impl<T> ClientQueue<T> {
    fn index_of(&self, number: u64) -> Option<usize> {
        self.tickets.binary_search_by_key(&number, |ticket| ticket.number).ok()
    }
}

impl Ring {
    /// Puts a client's line into the ring.
    fn insert(&mut self, client: u64, turn: i64, len: usize) {
        self.turns.insert(turn, client);
        self.lengths.insert((len, turn));
    }

    /// Takes a line out of the ring.
    fn remove(&mut self, turn: i64, len: usize) {
        self.turns.remove(&turn);
        self.lengths.remove(&(len, turn));
    }

    /// The length of a line has changed.
    fn change(&mut self, turn: i64, from: usize, to: usize) {
        self.lengths.remove(&(from, turn));
        self.lengths.insert((to, turn));
    }
}

/// Whether the line that has this turn is a newcomer's.
fn is_newcomers(turn: i64) -> bool {
    turn <= 0
}

impl<T> WaitState<T> {
    fn new(live: BTreeSet<UpstreamId>) -> Self {
        WaitState {
            by_client: BTreeMap::new(),
            newcomers: Ring::default(),
            returning: Ring::default(),
            newcomer_was_last: false,
            len: 0,
            tried: BTreeSet::new(),
            live,
            joined: 0,
            had_turn: BTreeMap::new(),
            remembered: VecDeque::new(),
            turn: 0,
        }
    }

    /// The ring of the line that has this turn.
    fn ring_of(&mut self, turn: i64) -> &mut Ring {
        if is_newcomers(turn) { &mut self.newcomers } else { &mut self.returning }
    }

    /// Both rings, first the one that did not have the last turn.
    fn rings(&self) -> [&Ring; 2] {
        if self.newcomer_was_last {
            [&self.returning, &self.newcomers]
        } else {
            [&self.newcomers, &self.returning]
        }
    }

    /// The newest of its client's line.
    fn push(&mut self, client: u64, tried: &[UpstreamId]) -> Arc<Ticket<T>> {
        if self.len == 0 {
            self.had_turn.clear();
            self.remembered.clear();
            self.newcomer_was_last = false;
        }
        self.joined += 1;
        let ticket = Arc::new(Ticket {
            client,
            number: self.joined,
            tried: tried.to_vec(),
            state: Lock::new(TicketState::Waiting(None)),
        });
        if let Some(line) = self.by_client.get_mut(&client) {
            line.tickets.push_back(ticket.clone());
            let (turn, len) = (line.turn, line.tickets.len());
            self.ring_of(turn).change(turn, len - 1, len);
        } else {
            // The last newcomer is the first.
            let before = self.newcomers.turns.first_key_value().map_or(0, |(first, _)| first - 1);
            let turn = self.had_turn.get(&client).copied().unwrap_or(before);
            self.ring_of(turn).insert(client, turn, 1);
            self.by_client.insert(client, ClientQueue { turn, tickets: [ticket.clone()].into() });
        }
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
        self.rings().into_iter().flat_map(|ring| ring.turns.values()).find_map(|client| {
            let tickets = &self.by_client.get(client)?.tickets;
            Some((*client, tickets.iter().rposition(|ticket| !ticket.tried.contains(&id))?))
        })
    }

    /// The same of those that have been at all that are live; the others wait for one of these.
    fn next_for_ejected(&self, id: UpstreamId) -> Option<(u64, usize)> {
        let among = self.tried.iter().filter_map(|(client, number)| {
            let line = self.by_client.get(client)?;
            let place = line.index_of(*number)?;
            let tried = &line.tickets[place].tried;
            let may_go = !tried.contains(&id) && self.live.iter().all(|live| tried.contains(live));
            let had_last = is_newcomers(line.turn) == self.newcomer_was_last;
            may_go.then_some((had_last, line.turn, Reverse(place), *client))
        });
        among.min().map(|(_, _, Reverse(place), client)| (client, place))
    }

    /// Takes the one whose turn it is. Its client has had its turn: all others of its ring come
    /// before it, and the other ring is next.
    fn take_turn(&mut self, client: u64, place: usize) -> Option<Arc<Ticket<T>>> {
        let turn = self.by_client.get(&client)?.turn;
        self.newcomer_was_last = is_newcomers(turn);
        let ticket = self.take(client, place);
        self.remember_turn(client);
        ticket
    }

    fn remember_turn(&mut self, client: u64) {
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
        self.ring_of(turn).remove(turn, len);
        self.returning.insert(client, last, len);
    }

    /// Makes room for a request of `client`: the longest line loses its oldest.
    fn give_up_one(&mut self, client: u64) -> Option<Arc<Ticket<T>>> {
        // Of rings with equally long state, the one with more clients loses: else a flood of
        // newcomers would push out those that come back, one after the other.
        let of =
            |ring: &Ring| ring.lengths.last().map(|&(len, turn)| (len, ring.turns.len(), turn));
        let [newcomers, returning] = [of(&self.newcomers), of(&self.returning)];
        let is_newcomer = newcomers.map(|(len, clients, _)| (len, clients))
            >= returning.map(|(len, clients, _)| (len, clients));
        let (longest, _, turn) = if is_newcomer { newcomers? } else { returning? };
        // Most often the client that asks for the most asks now.
        let has_longest = |line: &ClientQueue<T>| line.tickets.len() == longest;
        let asks_most = self.by_client.get(&client).is_some_and(has_longest);
        let loses = if asks_most { client } else { *self.ring_of(turn).turns.get(&turn)? };
        self.take(loses, 0)
    }

    fn remove(&mut self, ticket: &Ticket<T>) {
        let Some(line) = self.by_client.get(&ticket.client) else { return };
        if let Some(place) = line.index_of(ticket.number) {
            self.take(ticket.client, place);
        }
    }

    /// Takes one out of a line, and the line away if it was the last one.
    fn take(&mut self, client: u64, place: usize) -> Option<Arc<Ticket<T>>> {
        let line = self.by_client.get_mut(&client)?;
        let ticket = line.tickets.remove(place)?;
        let (len, turn) = (line.tickets.len(), line.turn);
        if len == 0 {
            self.by_client.remove(&client);
            self.ring_of(turn).remove(turn, 1);
        } else {
            self.ring_of(turn).change(turn, len + 1, len);
        }
        self.len -= 1;
        self.tried.remove(&(client, ticket.number));
        Some(ticket)
    }
}

#[cfg(test)]
#[path = "wait_queue_tests.rs"]
mod tests;
