//! When an ejected upstream is tried: a second reading of what the README says of it. One that fails
//! requests is left alone for 10 seconds, and for twice as long each time that it fails again while
//! it is tried, or soon after; then it is tried once a second while it does well. So is one that
//! cannot be reached, if no probe looks at it, always after 10 seconds.
//!
//! A request that would have gone there in any case, because nobody is live, may be a trial or not:
//! then what is known is how long it is left alone at the least. Not here: what ejects and restores
//! (`health.rs`).

use std::collections::BTreeMap;

use super::net::Net;
use super::room::Came;
use super::scenario::Ms;

const ALONE: Ms = 10_000;
const DOUBLINGS: u32 = 5;
const TRIAL_SPACING: Ms = 1_000;

/// Why a request is at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Live,
    Trial,
    /// It has waited, or nobody is live.
    Unknown,
}

#[derive(Clone, Debug, Default)]
struct Trial {
    /// Until when nobody tries it; `None`: no request does.
    until: Option<Ms>,
    relapses: u32,
    restored_at: Option<Ms>,
    fails: bool,
}

impl Trial {
    fn pause(&self) -> Ms {
        if self.fails { ALONE << self.relapses.min(DOUBLINGS) } else { ALONE }
    }
}

pub struct Trials {
    of: Vec<Trial>,
    has_probes: bool,
    choices: BTreeMap<usize, (usize, Choice)>,
}

impl Trials {
    pub fn new(upstreams: usize, has_probes: bool) -> Trials {
        Trials { of: vec![Trial::default(); upstreams], has_probes, choices: BTreeMap::new() }
    }

    pub fn is_due(&self, id: usize, now: Ms) -> bool {
        self.of[id].until.is_some_and(|until| until <= now)
    }

    pub fn ejected(&mut self, id: usize, fails: bool, now: Ms) {
        let trial = &mut self.of[id];
        trial.fails = fails;
        if fails {
            let is_relapse = trial.restored_at.is_some_and(|at| now < at + trial.pause());
            trial.relapses = if is_relapse { trial.relapses + 1 } else { 0 };
        }
        trial.until = (fails || !self.has_probes).then(|| now + trial.pause());
    }

    pub fn restored(&mut self, id: usize, now: Ms) {
        (self.of[id].until, self.of[id].restored_at) = (None, Some(now));
    }

    /// A client's request was sent to an upstream. `is_ejected`: it is, and others are live or not.
    pub fn asked(
        &mut self,
        client: usize,
        id: usize,
        came: Came,
        is_ejected: Option<bool>,
        net: &mut Net,
    ) {
        if came == Came::Again {
            return;
        }
        let choice = match is_ejected {
            _ if came == Came::FromQueue => Choice::Unknown,
            None => Choice::Live,
            Some(others_are_live) => {
                let is_due = self.is_due(id, net.now);
                who_is_ejected_is_left_alone(id, is_due || !others_are_live, net);
                if is_due && others_are_live { Choice::Trial } else { Choice::Unknown }
            }
        };
        if choice == Choice::Trial {
            net.counts.one("requests that tried an ejected upstream");
            self.of[id].until = Some(net.now + self.of[id].pause());
        }
        self.choices.insert(client, (id, choice));
    }

    pub fn is_over(&mut self, client: usize) {
        self.choices.remove(&client);
    }

    pub fn may_be_trial(&self, client: usize, id: usize) -> bool {
        let choice = self.choices.get(&client);
        choice.is_some_and(|(of, choice)| *of == id && *choice != Choice::Live)
    }

    /// A session has seen something of an upstream that is ejected, now if not before.
    pub fn seen(&mut self, client: usize, id: usize, seen: &str, net: &mut Net) {
        let trial = &mut self.of[id];
        if seen == "TrialServed" {
            trial.until = Some(net.now + TRIAL_SPACING);
        } else if seen != "Served" && self.choices.get(&client) == Some(&(id, Choice::Trial)) {
            net.counts.one("trials that failed");
            trial.relapses += u32::from(trial.fails);
            self.choices.insert(client, (id, Choice::Unknown));
            trial.until = Some(net.now + trial.pause());
        }
    }
}

/// An upstream that fails requests must not be given every other one to see whether it still does.
fn who_is_ejected_is_left_alone(id: usize, holds: bool, net: &mut Net) {
    net.check("who is ejected is left alone", holds, || format!("upstream {id}"));
}
