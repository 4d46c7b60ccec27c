//! Room at upstreams under `--max-in-flight`: who has some, who waits for some, and whether any is
//! lost. It goes by what sessions do, in the order in which they do it: they ask an upstream for a
//! connection, wait, are woken, and are over. Not here: whose turn it is among those that wait
//! (`turns.rs`).

use std::collections::{BTreeMap, BTreeSet};

use balancebeam::upstream::Upstreams;

use super::logs::Record;
use super::net::Net;
use super::scenario::{Ms, Scenario, What};
use super::turns::{Outcome, Turns};

/// What is told to those for whom there is no room in the queue, or none in time.
const TOO_MANY: &str = "every live upstream is busy, and no more requests may wait";
const TOO_LATE: &str = "no upstream had room in time";
/// The reason of a 408 whose body came too slowly while other requests waited.
const TOO_SLOW: &str = "the request body came too slowly while others waited";
const REFUSED: u16 = 503;

/// One client's exchange, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// Upstreams that it has asked, in order; it has room at the last one unless it waits.
    pub asked: Vec<usize>,
    pub stand: Stand,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stand {
    /// It has not come to an upstream, or has none any more.
    #[default]
    Nowhere,
    Waits {
        since: Ms,
    },
    /// It was woken; what for shows in its turn.
    Woken,
    /// It has room here.
    At(usize),
    /// It was not served in time, or there were too many.
    Refused,
}

/// How a client came to an upstream that it had not asked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It was chosen in this turn.
    AtOnce,
    /// It has waited for room, and was given some earlier perhaps.
    FromQueue,
    /// It is there already: another address, or another connection.
    Again,
}

pub struct Room {
    pub bound: Option<usize>,
    most: usize,
    patience: Ms,
    addresses: Vec<u8>,
    /// Requests whose clients wait for a word of the upstream before they send their bodies.
    expecting: BTreeSet<usize>,
    /// The clock jumps, so who is late is not told apart from who was not looked at.
    jumps: bool,
    exchanges: BTreeMap<usize, Exchange>,
    turns: Turns,
    /// When each client had its last turn, and whether it was the first one then.
    turned: BTreeMap<usize, (Ms, bool)>,
    /// What those had asked who were told in this turn that there is no room.
    refused: Vec<Vec<usize>>,
}

impl Room {
    pub fn new(scenario: &Scenario) -> Room {
        let knobs = &scenario.knobs;
        let requests = scenario.clients.iter().flat_map(|client| &client.requests);
        Room {
            expecting: requests.filter(|request| request.expects).map(|r| r.id).collect(),
            jumps: scenario.happenings.iter().any(|(_, what)| matches!(what, What::Jump(1..))),
            bound: knobs.in_flight,
            most: knobs.queue,
            patience: knobs.queue_timeout,
            addresses: scenario.clients.iter().map(|client| client.address).collect(),
            exchanges: BTreeMap::new(),
            turns: Turns::new(knobs.queue),
            turned: BTreeMap::new(),
            refused: Vec::new(),
        }
    }

    pub fn asked_by(&self, client: usize) -> &[usize] {
        self.exchanges.get(&client).map_or(&[], |exchange| &exchange.asked)
    }

    /// When a client that waits has waited for long enough.
    pub fn until(&self, client: usize) -> Option<Ms> {
        match self.exchanges.get(&client)?.stand {
            Stand::Waits { since } => Some(since + self.patience),
            _ => None,
        }
    }

    fn waiting(&self) -> impl Iterator<Item = (usize, &Exchange)> {
        let waits = |exchange: &Exchange| matches!(exchange.stand, Stand::Waits { .. });
        self.exchanges.iter().filter(move |(_, e)| waits(e)).map(|(client, e)| (*client, e))
    }

    /// A client gets a turn. If it has waited for long enough, it waits no more.
    pub fn turn_begins(&mut self, client: usize, net: &mut Net) {
        let is_first = self.turned.get(&client).is_none_or(|(at, _)| *at != net.now);
        self.turned.insert(client, (net.now, is_first));
        self.refused.clear();
        if self.until(client).is_some_and(|until| until <= net.now) {
            net.counts.one("waits that were too long");
            // Now, and not when the client has taken its answer, which may be long afterwards.
            self.no_body_that_does_not_come_keeps_others_waiting(net);
            self.turns.leaves(client);
            self.exchanges.entry(client).or_default().stand = Stand::Refused;
        }
    }

    /// It asks an upstream for a connection. `is_trial`: it may have been sent to try it, or because
    /// it was at all others.
    pub fn asks(&mut self, client: usize, id: usize, is_trial: bool, net: &mut Net) -> Came {
        let exchange = self.exchanges.entry(client).or_default();
        let stand = std::mem::replace(&mut exchange.stand, Stand::At(id));
        let is_again = exchange.asked.last() == Some(&id) && stand == Stand::At(id);
        if is_again {
            return Came::Again;
        }
        let was_asked = exchange.asked.contains(&id);
        net.check("an upstream that has failed a request is not asked again", !was_asked, || {
            format!("client {client}, upstream {id}")
        });
        exchange.asked.push(id);
        if stand == Stand::Woken {
            self.turns.settle(client, Outcome::Goes(id), net);
            net.counts.one("waits that ended with room");
            return Came::FromQueue;
        }
        nobody_is_passed_by(self, client, id, is_trial, net);
        if self.waiting().next().is_some() {
            self.turns.passes(self.addresses[client], is_trial);
        }
        Came::AtOnce
    }

    /// It has a place in the queue.
    pub fn waits(&mut self, client: usize, net: &mut Net) {
        net.counts.one("waits for room");
        let exchange = self.exchanges.entry(client).or_default();
        exchange.stand = Stand::Waits { since: net.now };
        if !exchange.asked.is_empty() {
            net.counts.one("waits to be sent again");
        }
        self.turns.joins(client, self.addresses[client], exchange.asked.clone(), net);
    }

    /// It is woken, while those are live.
    pub fn wakes(&mut self, client: usize, live: Vec<usize>, net: &mut Net) {
        let exchange = self.exchanges.entry(client).or_default();
        let waits = matches!(exchange.stand, Stand::Waits { .. });
        net.check("who is woken has waited", waits, || format!("client {client}"));
        exchange.stand = Stand::Woken;
        self.turns.wakes(client, live, net);
    }

    /// Its exchange is over.
    pub fn is_over(&mut self, client: usize, record: &Record, net: &mut Net) {
        let exchange = self.exchanges.remove(&client).unwrap_or_default();
        let is_told = record.why == TOO_MANY || record.why == TOO_LATE;
        let shown = || format!("client {client}: {exchange:?}, {record:?}");
        let is_right = match exchange.stand {
            // Without a queue nobody waits; that there was no room is looked at behind each turn.
            Stand::At(_) | Stand::Nowhere => {
                !is_told || (self.bound.is_some() && self.most == 0 && record.why == TOO_MANY)
            }
            Stand::Woken => record.why == TOO_MANY || record.is_cut,
            Stand::Refused => record.why == TOO_LATE || record.is_cut,
            Stand::Waits { .. } => record.is_cut,
        };
        net.check("who waits is served, or told so in time", is_right, shown);
        if record.why == TOO_MANY {
            net.counts.one("requests for which the queue had no room");
        }
        if record.why == TOO_SLOW {
            net.counts.one("bodies that were too slow for those that waited");
        }
        if self.most == 0 && record.why == TOO_MANY && self.is_of_this_turn(client, record) {
            self.refused.push(exchange.asked.clone());
        }
        self.end(client, exchange.stand, record.status == REFUSED, net);
    }

    /// A request has waited in vain. No other one has kept an upstream from it for a body of which
    /// nothing has come for a long while, and of which the upstream has read all that had.
    fn no_body_that_does_not_come_keeps_others_waiting(&self, net: &mut Net) {
        if self.patience < 1_000 || self.jumps {
            return;
        }
        let long_ago = net.now.saturating_sub(2 * self.patience + 500);
        let stalls = |client: &usize| {
            let used = net.ledger.in_use_by(*client).filter(|used| used.wrote > 0);
            used.is_some_and(|used| {
                let is_whole = used
                    .request
                    .is_none_or(|id| net.sent_whole.contains(&id) || self.expecting.contains(&id));
                let has_read_all = net.places[used.link].link.out.bytes.is_empty();
                !is_whole && has_read_all && used.since.max(net.sent_at[*client]) < long_ago
            })
        };
        let holds = |(client, exchange): (&usize, &Exchange)| {
            matches!(exchange.stand, Stand::At(_)).then_some(*client)
        };
        let stalled = self.exchanges.iter().filter_map(holds).find(stalls);
        net.check("bodies that do not come keep no request waiting", stalled.is_none(), || {
            format!("client {stalled:?}")
        });
    }

    /// Whether all of an exchange was in this turn.
    fn is_of_this_turn(&self, client: usize, record: &Record) -> bool {
        record.took == 0 && self.turned.get(&client).is_some_and(|(_, is_first)| *is_first)
    }

    /// Its connection is over, and whatever it was doing with it.
    pub fn is_gone(&mut self, client: usize, net: &mut Net) {
        if let Some(exchange) = self.exchanges.remove(&client) {
            self.end(client, exchange.stand, false, net);
        }
    }

    fn end(&mut self, client: usize, stand: Stand, was_refused: bool, net: &mut Net) {
        match stand {
            Stand::Woken if was_refused => self.turns.settle(client, Outcome::Refused, net),
            Stand::Woken => self.turns.settle(client, Outcome::Unknown, net),
            Stand::Waits { .. } => {
                net.counts.one("clients that left the queue");
                self.turns.leaves(client);
            }
            _ => (),
        }
    }

    /// What must hold whenever nobody has a turn, while those are live.
    pub fn check(&self, upstreams: &Upstreams, live: &[usize], fails_open: bool, net: &mut Net) {
        let Some(bound) = self.bound else { return };
        self.the_queue_is_bounded(upstreams, net);
        for upstream in upstreams.all().iter() {
            let (id, in_flight) = (upstream.id().0, upstream.in_flight());
            nobody_has_more_than_the_bound(id, in_flight, bound, net);
            self.room_is_held_by_somebody(id, in_flight, net);
            if in_flight < bound && (fails_open || live.contains(&id)) {
                self.nobody_is_refused_room_that_is_there(id, live, net);
                self.no_room_is_lost(id, live, net);
            } else if in_flight == bound {
                net.counts.one("turns that leave an upstream full");
            }
        }
    }

    /// It is memory, and time that is lost if nobody gives up.
    fn the_queue_is_bounded(&self, upstreams: &Upstreams, net: &mut Net) {
        let (here, there) = (self.waiting().count(), upstreams.waiting());
        net.check("the queue is bounded", here <= self.most, || format!("{here}"));
        net.check("who waits is in the queue", here == there, || format!("{here} and {there}"));
    }

    /// Room that is taken and used by nobody is lost for good.
    fn room_is_held_by_somebody(&self, id: usize, in_flight: usize, net: &mut Net) {
        let holds = |exchange: &&Exchange| {
            matches!(exchange.stand, Stand::Woken) || exchange.stand == Stand::At(id)
        };
        let most = self.exchanges.values().filter(holds).count();
        net.check("room is held by somebody", in_flight <= most, || {
            format!("{in_flight} of {most} at upstream {id}")
        });
    }

    /// Whoever is told that there is none could have been served.
    fn nobody_is_refused_room_that_is_there(&self, id: usize, live: &[usize], net: &mut Net) {
        let refused = self.refused.iter().find(|asked| may_go(asked, id, live));
        net.check("nobody is refused room that is there", refused.is_none(), || {
            format!("upstream {id}, after {refused:?}")
        });
    }

    /// Whoever waits although there is room would wait in vain, perhaps until its deadline.
    fn no_room_is_lost(&self, id: usize, live: &[usize], net: &mut Net) {
        let waits = self.waiting().find(|(_, exchange)| may_go(&exchange.asked, id, live));
        net.check("nobody waits where there is room", waits.is_none(), || {
            format!("upstream {id} and {waits:?}")
        });
    }
}

/// Whether one that has asked those may be sent to an upstream, if ejected ones are asked at all:
/// they are if all that are live were.
pub fn may_go(asked: &[usize], id: usize, live: &[usize]) -> bool {
    !asked.contains(&id) && (live.contains(&id) || live.iter().all(|id| asked.contains(id)))
}

/// Room that comes free is for those who wait for it, and not for whoever happens to come then; but
/// one request now and then tries an upstream that is ejected, or has nobody else left.
fn nobody_is_passed_by(room: &Room, client: usize, id: usize, is_trial: bool, net: &mut Net) {
    let mut waiting = room.waiting().filter(|(_, exchange)| !exchange.asked.contains(&id));
    let passed = waiting.next().filter(|_| !is_trial);
    net.check("nobody who waits is passed by", passed.is_none(), || {
        format!("client {client} at upstream {id}, {passed:?} waits")
    });
}

/// It is what the operator has promised the upstream. Connections are counted when one more is used
/// (`Net::check_bound`), and this is what the balancer counts itself.
fn nobody_has_more_than_the_bound(id: usize, in_flight: usize, bound: usize, net: &mut Net) {
    net.check("no upstream has more than the bound", in_flight <= bound, || {
        format!("{in_flight} of {bound} are counted at upstream {id}")
    });
}
