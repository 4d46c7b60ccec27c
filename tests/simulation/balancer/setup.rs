//! What the operator of a scenario has decided, as the balancer is told. Not here: what is decided
//! (`generate.rs`).

use std::time::Duration;

use balancebeam::Config;
use balancebeam::config::Authority;

use super::logs;
use super::scenario::{Scenario, UpstreamPlan};

/// All that can be decided; what is not drawn is the default.
pub fn config(scenario: &Scenario) -> Config {
    let knobs = &scenario.knobs;
    let authority =
        |plan: &UpstreamPlan| -> Authority { logs::name(plan.id).parse().expect("a name of ours") };
    let mut config = Config {
        upstreams: scenario.upstreams.iter().map(authority).collect(),
        policy: knobs.policy,
        ..Config::default()
    };
    config.retry.attempts = knobs.attempts;
    config.retry.budget_percent = knobs.budget_percent;
    config.retry.budget_floor = knobs.budget_floor;
    config.retry.fail_open = knobs.fail_open;
    config.health.interval = knobs.probes.map(Duration::from_millis);
    (config.health.rise, config.health.fall) = (knobs.rise, knobs.fall);
    config.health.eject_after = knobs.eject_after;
    (config.limits.in_flight, config.limits.queue) = (knobs.in_flight, knobs.queue);
    config.timeouts.queue = Duration::from_millis(knobs.queue_timeout);
    config.limits.pool = knobs.pool;
    config.limits.requests_per_minute = knobs.per_minute;
    config.limits.rate_limit_clients = knobs.limit_clients;
    if knobs.is_hasty {
        let t = &mut config.timeouts;
        for timeout in [
            &mut t.head,
            &mut t.idle,
            &mut t.connect,
            &mut t.response,
            &mut t.progress,
            &mut t.linger,
            &mut t.pool,
            &mut t.drain,
        ] {
            *timeout /= 10;
        }
    }
    config
}
