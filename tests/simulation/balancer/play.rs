//! One scenario, from its beginning to its end, and what came of it. Not here: many (`runs.rs`).

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Instant;

use super::net::Net;
use super::scenario::Scenario;
use super::trace::{Counts, Finding, Trace};
use super::world::World;

/// What came of a scenario.
pub struct Played {
    pub finding: Option<Finding>,
    pub counts: Counts,
    pub hash: u64,
    pub lines: Vec<String>,
}

pub fn play(scenario: &Scenario, keeps_lines: bool) -> Played {
    let net = Rc::new(RefCell::new(Net::new(
        scenario.seed,
        Instant::now(),
        scenario.clients.len(),
        scenario.upstreams.iter().map(|plan| plan.is_steady).collect(),
        Trace::new(keeps_lines),
    )));
    let played = catch_unwind(AssertUnwindSafe(|| World::new(scenario, net.clone()).run()));
    let mut net = match net.try_borrow_mut() {
        Ok(net) => net,
        Err(_) => panic!("the simulator itself has failed"),
    };
    if let Err(panic) = played {
        let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        net.accuse("nothing panics", || text);
    }
    Played {
        finding: net.finding.take(),
        counts: std::mem::take(&mut net.counts),
        hash: net.trace.hash,
        lines: net.trace.lines.take().unwrap_or_default(),
    }
}
