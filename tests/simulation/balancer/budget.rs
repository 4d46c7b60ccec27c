//! What is sent to upstreams more than once, and how often.
//!
//! Requests written to upstreams ≤ requests of clients
//!     + the budget: `percent` of those, and `floor` at once and `floor` a second more
//!     + retries after a connection from the pool turned out to be dead.
//! The last ones are outside the budget by design: nobody has worked on such a request, and each
//! costs a connection that was good once, so they cannot become a storm. Without them this is
//! 1.2 × requests + floor.

use std::collections::BTreeMap;

use balancebeam::upstream::idle_limit::UNKNOWN;

use super::ledger::Use;
use super::scenario::{Mood, Ms};
use super::world::World;

/// Why a request was written once more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// The connection came from the pool, and was dead.
    Stale,
    /// The connection was fresh, and broke.
    Budgeted,
}

pub fn check(world: &World<'_>) {
    let mut by_request: BTreeMap<usize, Vec<Use>> = BTreeMap::new();
    for used in world.net.borrow().ledger.uses.iter().filter(|used| used.wrote > 0) {
        by_request.entry(used.request.unwrap_or(usize::MAX)).or_default().push(used.clone());
    }
    let mut again = Vec::new();
    for (id, uses) in &by_request {
        what_is_not_idempotent_is_written_once(world, *id, uses);
        what_is_not_idempotent_goes_out_on_young_connections(world, *id, uses);
        for pair in uses.windows(2) {
            again.extend(sent_again_for_a_reason(world, *id, pair).map(|why| (why, pair[1].since)));
        }
    }
    attempts_are_bounded(world);
    the_budget_is_kept(world, again);
}

/// The upstream may be about to close an older one. No upstream here tells its limit.
fn what_is_not_idempotent_goes_out_on_young_connections(
    world: &World<'_>,
    id: usize,
    uses: &[Use],
) {
    let net = &mut *world.net.borrow_mut();
    let request = world.scenario.request(id);
    let may_be_old = request.is_some_and(|request| request.is_idempotent());
    let is_old = uses.iter().any(|used| used.idle > UNKNOWN.as_millis() as Ms);
    net.check("what must not be sent twice takes no old connection", may_be_old || !is_old, || {
        format!("exchange {id}: {uses:?}")
    });
}

/// Doing something twice that the client has asked for once is worse than failing.
fn what_is_not_idempotent_is_written_once(world: &World<'_>, id: usize, uses: &[Use]) {
    let net = &mut *world.net.borrow_mut();
    let request = world.scenario.request(id);
    net.check("every request is a client's", request.is_some(), || format!("request {id}"));
    let may_be_again = request.is_some_and(|request| request.is_idempotent());
    net.check("what is not idempotent is written once", may_be_again || uses.len() == 1, || {
        format!("request {id}, {} times", uses.len())
    });
}

/// A request is sent again only if the connection was lost before a byte of an answer had come;
/// not because an upstream is slow, and not behind an answer.
fn sent_again_for_a_reason(world: &World<'_>, id: usize, pair: &[Use]) -> Option<Again> {
    let net = &mut *world.net.borrow_mut();
    let (before, after) = (&pair[0], &pair[1]);
    let holds = before.is_lost && before.read == 0 && before.client == after.client;
    net.check("a request is sent again for a reason", holds, || {
        format!("request {id}: {before:?}, then {after:?}")
    });
    if before.is_reused {
        net.counts.one("retries after a dead connection of the pool");
        let is_same = !after.is_reused && before.upstream == after.upstream;
        let is_first = world.scenario.mood != Mood::Calm;
        net.check("a dead connection is followed by a fresh one", is_same || is_first, || {
            format!("request {id}")
        });
        return Some(Again::Stale);
    }
    net.counts.one("retries within the budget");
    let is_another = before.upstream != after.upstream;
    net.check("a retry goes to another upstream", is_another, || format!("request {id}"));
    Some(Again::Budgeted)
}

/// An exchange must not go round all upstreams of a large set.
fn attempts_are_bounded(world: &World<'_>) {
    let net = &mut *world.net.borrow_mut();
    let most = world.scenario.knobs.attempts;
    for (_, _, record) in &world.records {
        net.check("attempts are bounded", record.attempts <= most, || format!("{record:?}"));
    }
}

/// Retries must not become a storm, at any time.
fn the_budget_is_kept(world: &World<'_>, mut again: Vec<(Again, Ms)>) {
    again.retain(|(why, _)| *why == Again::Budgeted);
    again.sort_by_key(|(_, at)| *at);
    let net = &mut *world.net.borrow_mut();
    let knobs = &world.scenario.knobs;
    for (number, (_, at)) in again.iter().enumerate() {
        let begun = world.clients.iter().flat_map(|client| &client.begun);
        let requests = begun.filter(|begun| *begun <= at).count();
        let floor = f64::from(knobs.budget_floor);
        let share = f64::from(knobs.budget_percent) / 100.0;
        let most = floor + floor * *at as f64 / 1_000.0 + share * requests as f64;
        net.check("the budget is kept", (number + 1) as f64 <= most, || {
            format!("{} retries of {requests} requests", number + 1)
        });
    }
}
