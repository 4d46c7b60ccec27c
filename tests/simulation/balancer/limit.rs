//! Whether the rate limit lets through what it may, and refuses nobody else. Not here: sweeps and
//! eviction, which only show in what it forgets (`world.rs` does the first; a table that was too
//! small is not judged).

use super::scenario::Ms;
use super::world::World;

const WINDOW: Ms = 60_000;
/// A place comes free up to so much later than a minute after it was taken.
const SLOT: Ms = 100;
const REFUSED: u16 = 429;

pub fn check(world: &World<'_>) {
    let Some(limiter) = &world.state.limiter else { return };
    if limiter.evicted() > 0 {
        world.net.borrow_mut().counts.one("tables of the limit that were too small");
        return;
    }
    let limit = world.scenario.knobs.per_minute as usize;
    let mut addresses: Vec<&str> = world.records.iter().map(|(.., r)| &r.client[..]).collect();
    addresses.sort_unstable();
    addresses.dedup();
    for address in addresses {
        let of_it = || world.records.iter().filter(|(.., record)| record.client == address);
        let begun = |(_, at, record): &(usize, Ms, super::logs::Record)| at - record.took;
        let mut admitted: Vec<Ms> =
            of_it().filter(|(.., record)| record.attempts > 0).map(begun).collect();
        admitted.sort_unstable();
        no_window_holds_more(world, &admitted, limit);
        for refused in of_it().filter(|(.., record)| record.status == REFUSED) {
            let others = of_it().filter(|(.., record)| record.status != REFUSED).map(begun);
            nobody_is_refused_without_cause(
                world,
                begun(refused),
                &others.collect::<Vec<_>>(),
                limit,
            );
        }
    }
}

/// It is a promise to those who run the upstreams: never more than this in any minute.
fn no_window_holds_more(world: &World<'_>, admitted: &[Ms], limit: usize) {
    let net = &mut *world.net.borrow_mut();
    for (first, begin) in admitted.iter().enumerate() {
        let within = admitted[first..].iter().take_while(|at| **at < begin + WINDOW).count();
        net.check("the limit holds in every window", within <= limit, || {
            format!("{within} of {limit} from {begin} ms on")
        });
    }
}

/// And one to clients: who asks less often is served.
fn nobody_is_refused_without_cause(world: &World<'_>, at: Ms, others: &[Ms], limit: usize) {
    let net = &mut *world.net.borrow_mut();
    net.counts.one("requests over the limit");
    let counted = others.iter().filter(|then| **then <= at && **then + WINDOW + SLOT > at).count();
    // Those that the end of a drain has cut have left no record.
    let holds = counted >= limit || world.cut > 0;
    net.check("nobody is refused without cause", holds, || format!("{counted} of {limit} at {at}"));
}
