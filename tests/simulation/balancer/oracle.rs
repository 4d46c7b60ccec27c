//! What must hold at every step, and when it is looked at. Each oracle is a function of its own that
//! says why. Not here: what clients must have got (`answers.rs`), what health, budget and limit must
//! come to (`health.rs`, `budget.rs`, `limit.rs`).

use std::time::Duration;

use balancebeam::buffer;
use balancebeam::engine_parts::{Attached, TurnEnd};

use super::scenario::Ms;
use super::world::World;
use super::{answers, budget, limit};

/// The most that a session may hold: its four buffers, and the upstream's name in a held head.
const MOST_BUFFERED: usize = 4 * buffer::SIZE + 256;
/// How long an idle client may still begin a request once a drain has begun.
const DRAIN_GRACE: Duration = Duration::from_millis(300);
/// How long a client that is turned away may stay.
const TURN_AWAY: Duration = Duration::from_secs(2);

pub fn after_turn(world: &mut World<'_>, client: usize, turn: TurnEnd) {
    has_a_deadline(world, client, turn);
    one_turned_away_leaves_soon(world, client);
    waits_for_something_that_ends(world, client);
    memory_is_bounded(world, client);
    a_drain_waits_for_nobody_idle(world, client);
    in_flight_is_what_is_in_flight(world);
    who_waits_knows_until_when(world, client);
    whoever_waits_has_a_reason(world);
    the_live_list_is_those_that_are_up(world);
    the_pool_is_bounded(world);
}

pub fn after_sweep(world: &mut World<'_>) {
    idle_connections_are_young(world);
}

pub fn at_the_end(world: &World<'_>) {
    nobody_is_in_flight(world);
    budget::check(world);
    limit::check(world);
    a_drain_takes_no_new_requests(world);
    answers::check(world);
}

/// A session that nothing wakes would be forgotten with all that it holds: whoever waits knows until
/// when, and what was due has fired.
fn has_a_deadline(world: &World<'_>, client: usize, turn: TurnEnd) {
    let Some(connection) = &world.connections[client] else { return };
    let net = &mut *world.net.borrow_mut();
    let now = net.instant();
    let deadline = connection.deadline();
    let holds = turn != TurnEnd::Wait || deadline.is_some_and(|at| at > now);
    net.check("no live session without a deadline", holds, || format!("client {client}"));
}

/// Places for those that are turned away are few: whatever one does, it keeps its own for a short time.
fn one_turned_away_leaves_soon(world: &World<'_>, client: usize) {
    let (Some(connection), Some(arrived)) = (&world.connections[client], world.turned_away[client])
    else {
        return;
    };
    let leaves = connection.deadline().is_none_or(|at| at <= arrived + TURN_AWAY);
    let net = &mut *world.net.borrow_mut();
    net.check("one turned away leaves soon", leaves, || format!("client {client}"));
}

/// A deadline that is far away is none. Without a byte moved nothing lasts longer than the longest
/// one; a client that takes no answer may cost it twice: for what stalled, and for being told so.
fn waits_for_something_that_ends(world: &World<'_>, client: usize) {
    let Some(deadline) = world.connections[client].as_ref().and_then(|c| c.deadline()) else {
        return;
    };
    let timeouts = &world.state.config.timeouts;
    let longest = timeouts.idle.max(timeouts.response).max(timeouts.progress).max(timeouts.queue);
    let longest = longest.as_millis() as Ms;
    let net = &mut *world.net.borrow_mut();
    let most = net.now.max(net.active[client] + longest) + longest;
    let at = net.ms_of(deadline);
    net.check("every wait has an end", at <= most, || format!("client {client} until {at} ms"));
}

/// What peers send must not fill our memory, and whoever is idle must cost nearly nothing.
fn memory_is_bounded(world: &mut World<'_>, client: usize) {
    let Some(connection) = &mut world.connections[client] else { return };
    let is_busy = connection.is_busy();
    let net = &mut *world.net.borrow_mut();
    if let Some(awake) = connection.active() {
        let buffered = awake.session.buffered();
        net.check("memory is bounded", buffered <= MOST_BUFFERED, || format!("{buffered} bytes"));
        if !is_busy {
            net.check("an idle session holds no buffer", buffered == 0, || format!("{buffered}"));
        }
    } else {
        net.counts.one("turns that ended asleep");
    }
}

/// Once a drain has begun, a client that asks for nothing may begin a request for a moment, or be
/// read from until it has its last answer; then it is sent away.
fn a_drain_waits_for_nobody_idle(world: &World<'_>, client: usize) {
    let Some(connection) = &world.connections[client] else { return };
    let net = &mut *world.net.borrow_mut();
    if !world.state.is_stopping() || connection.is_busy() {
        return;
    }
    let patience = DRAIN_GRACE.max(world.state.config.timeouts.linger);
    let until = net.instant() + patience;
    let holds = connection.deadline().is_some_and(|at| at <= until);
    net.check("a drain waits for nobody who is idle", holds, || format!("client {client}"));
}

/// Whoever would wait for longer than the operator allows is one that has been forgotten.
fn who_waits_knows_until_when(world: &World<'_>, client: usize) {
    let Some(until) = world.room.until(client) else { return };
    let deadline = world.connections[client].as_ref().and_then(|c| c.deadline());
    let net = &mut *world.net.borrow_mut();
    let at = deadline.map(|deadline| net.ms_of(deadline));
    net.check("who waits is served, or told so in time", at == Some(until), || {
        format!("client {client} until {at:?} instead of {until} ms")
    });
}

/// With a bound: nobody has more, and nobody waits in vain. Those on the live list may be chosen;
/// by one that has been at all of those all may, if the operator allows it.
pub fn whoever_waits_has_a_reason(world: &World<'_>) {
    let (judge, knobs) = (&world.judge, &world.scenario.knobs);
    let net = &mut world.net.borrow_mut();
    world.room.check(&world.state.upstreams, &judge.live(), knobs.fail_open, net);
}

/// The policies go by these numbers: one that is lost leaves an upstream looking busy for ever.
fn in_flight_is_what_is_in_flight(world: &mut World<'_>) {
    let mut attached = vec![0; world.scenario.upstreams.len()];
    let net = &mut *world.net.borrow_mut();
    let mut awake_now = 0;
    for connection in world.connections.iter_mut().flatten() {
        let Some(awake) = connection.active() else { continue };
        awake_now += 1;
        if let Attached::Open(line) | Attached::Connecting(line, _) = &awake.upstream
            && let super::net::Owner::Upstream(id) = net.places[line.0.link].owner
        {
            attached[id] += 1;
        }
    }
    let mut all = 0;
    for upstream in world.state.upstreams.all().iter() {
        let (in_flight, least) = (upstream.in_flight(), attached[upstream.id().0]);
        all += in_flight;
        net.check("who uses an upstream is in flight", in_flight >= least, || {
            format!("{in_flight} of {least} at {}", upstream.name())
        });
    }
    net.check("who is in flight is awake", all <= awake_now, || format!("{all} of {awake_now}"));
}

fn nobody_is_in_flight(world: &World<'_>) {
    let net = &mut *world.net.borrow_mut();
    for upstream in world.state.upstreams.all().iter() {
        let left =
            if world.connections.iter().any(Option::is_some) { 0 } else { upstream.in_flight() };
        net.check("in the end nobody is in flight", left == 0, || upstream.name().to_string());
    }
}

/// Who may be chosen is who was seen to be well.
fn the_live_list_is_those_that_are_up(world: &World<'_>) {
    let net = &mut *world.net.borrow_mut();
    let live = world.state.upstreams.live();
    for upstream in world.state.upstreams.all().iter() {
        let is_live = live.iter().any(|live| live.id() == upstream.id());
        let is_up = world.judge.is_up(upstream.id().0);
        net.check("the live list is those that are up", is_live == is_up, || {
            format!("{} is live: {is_live}", upstream.name())
        });
    }
}

/// Idle connections cost both sides something, so there is a most.
fn the_pool_is_bounded(world: &World<'_>) {
    let net = &mut *world.net.borrow_mut();
    let idle = net.places.iter().filter(|place| place.idle_since.is_some()).count();
    let most = world.scenario.knobs.pool;
    net.check("the pool is bounded", idle <= most, || format!("{idle} of {most}"));
    if idle == most && most > 0 {
        net.counts.one("turns that leave the pool full");
    }
}

/// An upstream closes what is idle for too long, so the balancer must have done so before.
fn idle_connections_are_young(world: &World<'_>) {
    let net = &mut *world.net.borrow_mut();
    let most = world.state.config.timeouts.pool.as_millis() as Ms;
    let oldest = net.places.iter().filter_map(|place| place.idle_since).min().unwrap_or(net.now);
    let age = net.now - oldest;
    net.check("idle connections are young", age <= most, || format!("{age} ms"));
}

/// Clients that go on asking would keep a drain from its end: of those that were connected when it
/// began each may begin one more request, which is answered with the end of its connection.
fn a_drain_takes_no_new_requests(world: &World<'_>) {
    let Some(drained_at) = world.drained_at else { return };
    let net = &mut *world.net.borrow_mut();
    for (place, client) in world.clients.iter().enumerate() {
        let mut taken: Vec<usize> = (net.ledger.uses.iter())
            .filter(|used| used.client == place && used.since > drained_at && used.wrote > 0)
            .filter_map(|used| used.request)
            .filter(|id| client.begun.get(id % 100).is_some_and(|&begun| begun > drained_at))
            .collect();
        taken.dedup();
        net.check("a drain takes one more request at the most", taken.len() <= 1, || {
            format!("{taken:?} of client {}", client.plan.id)
        });
    }
}
