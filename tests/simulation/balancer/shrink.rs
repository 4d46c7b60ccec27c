//! A scenario made smaller, as long as the same rule does not hold in it.
//!
//! What is taken out is a list of cuts, each a word: the seed and the cuts together name a scenario,
//! so that whatever is found can be played again. Not here: what a scenario is (`scenario.rs`).

use std::fmt;
use std::str::FromStr;

use super::generate;
use super::play;
use super::scenario::{Mode, RequestPlan, Scenario, What};
use super::trace::Finding;

/// Scenarios that one shrinking plays at the most.
const MOST_PLAYED: usize = 2_000;

/// One thing taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// `c3`: client 3.
    Client(usize),
    /// `r302`: request 302.
    Request(usize),
    /// `a302`: what is wrong with its answers.
    Mishaps(usize),
    /// `s302`: most bytes of it and of its answers.
    Bytes(usize),
    /// `m3`: what is wrong with client 3.
    Mishap(usize),
    /// `w3`: its pauses.
    Pauses(usize),
    /// `u1`: from now on upstream 1 behaves.
    Upstream(usize),
    /// `h2`: what happens third.
    Happening(usize),
    /// `k`: what the operator has decided that is out of the ordinary, but for the next two.
    Knobs,
    /// `q`: the bound of what is in flight, and the queue.
    Room,
    /// `e`: that errors eject.
    Errors,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Client(id) => write!(f, "c{id}"),
            Cut::Request(id) => write!(f, "r{id}"),
            Cut::Mishaps(id) => write!(f, "a{id}"),
            Cut::Bytes(id) => write!(f, "s{id}"),
            Cut::Mishap(id) => write!(f, "m{id}"),
            Cut::Pauses(id) => write!(f, "w{id}"),
            Cut::Upstream(id) => write!(f, "u{id}"),
            Cut::Happening(number) => write!(f, "h{number}"),
            Cut::Knobs => write!(f, "k"),
            Cut::Room => write!(f, "q"),
            Cut::Errors => write!(f, "e"),
        }
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Cut, String> {
        match text {
            "k" => return Ok(Cut::Knobs),
            "q" => return Ok(Cut::Room),
            "e" => return Ok(Cut::Errors),
            _ => (),
        }
        let bad = || format!("{text:?} is no cut: give what a shrunk finding says");
        let (letter, number) = text.split_at_checked(1).ok_or_else(bad)?;
        let number = number.parse().map_err(|_| bad())?;
        Ok(match letter {
            "c" => Cut::Client(number),
            "r" => Cut::Request(number),
            "a" => Cut::Mishaps(number),
            "s" => Cut::Bytes(number),
            "m" => Cut::Mishap(number),
            "w" => Cut::Pauses(number),
            "u" => Cut::Upstream(number),
            "h" => Cut::Happening(number),
            _ => return Err(bad()),
        })
    }
}

/// The scenario of a seed without what was taken out.
pub fn scenario(seed: u64, cuts: &[Cut]) -> Scenario {
    let mut scenario = generate::scenario(seed);
    let nothing = (0, What::Jump(0));
    for cut in cuts {
        match *cut {
            Cut::Client(id) => scenario.clients.retain(|client| client.id != id),
            Cut::Upstream(id) => scenario.upstreams.iter_mut().for_each(|plan| {
                if plan.id == id {
                    (plan.is_steady, plan.addresses) = (true, 1);
                }
            }),
            Cut::Happening(number) => {
                // The others keep their numbers.
                scenario.happenings.get_mut(number).into_iter().for_each(|what| *what = nothing);
            }
            Cut::Knobs => scenario.knobs.make_ordinary(),
            Cut::Room => scenario.knobs.in_flight = None,
            Cut::Errors => scenario.knobs.eject_after = None,
            Cut::Mishap(id) | Cut::Pauses(id) => {
                for client in scenario.clients.iter_mut().filter(|client| client.id == id) {
                    match cut {
                        Cut::Mishap(_) => client.mishap = None,
                        _ => (client.pace, client.thinks) = (0, 0),
                    }
                }
            }
            Cut::Request(id) => scenario.clients.iter_mut().for_each(|client| {
                client.requests.retain(|request| request.id != id);
            }),
            Cut::Mishaps(id) => change(&mut scenario, id, |request| {
                request.answers.iter_mut().for_each(|answer| answer.mishap = None);
            }),
            Cut::Bytes(id) => change(&mut scenario, id, |request| {
                request.size = request.size.min(10);
                request.answers.iter_mut().for_each(|answer| answer.size = answer.size.min(10));
            }),
        }
    }
    scenario.clients.retain(|client| !client.requests.is_empty());
    let steady: Vec<_> = scenario.upstreams.iter().map(|plan| plan.is_steady).collect();
    scenario.happenings.iter_mut().for_each(|(_, what)| match what {
        What::Turns(id, mode) if steady[*id] => *mode = Mode::Up,
        What::ClosesIdle(id) | What::Breaks(id) if steady[*id] => *what = nothing.1,
        _ => (),
    });
    scenario
}

fn change(scenario: &mut Scenario, id: usize, change: impl Fn(&mut RequestPlan)) {
    let requests = scenario.clients.iter_mut().flat_map(|client| &mut client.requests);
    requests.filter(|request| request.id == id).for_each(change);
}

/// Everything that can be taken out of a scenario, the largest first.
fn candidates(scenario: &Scenario) -> Vec<Cut> {
    let mut cuts: Vec<_> = scenario.clients.iter().map(|client| Cut::Client(client.id)).collect();
    cuts.extend((0..scenario.happenings.len()).map(Cut::Happening));
    cuts.extend(scenario.upstreams.iter().map(|plan| Cut::Upstream(plan.id)));
    cuts.extend([Cut::Knobs, Cut::Room, Cut::Errors]);
    let requests = || scenario.clients.iter().flat_map(|client| &client.requests);
    cuts.extend(requests().map(|request| Cut::Request(request.id)));
    cuts.extend(requests().map(|request| Cut::Bytes(request.id)));
    cuts.extend(requests().map(|request| Cut::Mishaps(request.id)));
    let clients = scenario.clients.iter();
    cuts.extend(clients.flat_map(|client| [Cut::Mishap(client.id), Cut::Pauses(client.id)]));
    cuts
}

/// A finding of a seed, as small as it can be made, and how to play it again.
pub fn report(seed: u64, finding: &Finding) -> String {
    let cuts = shrink(seed, finding.oracle);
    let scenario = scenario(seed, &cuts);
    let shrunk = play::play(&scenario, false).finding;
    let shrunk = shrunk.map_or(String::new(), |finding| finding.to_string());
    let words: Vec<_> = cuts.iter().map(Cut::to_string).collect();
    let cut = if words.is_empty() { String::new() } else { format!(" --cut {}", words.join(",")) };
    format!(
        "seed {seed}: {finding}\nshrunk: {shrunk}\n\n{scenario}\n\
         replay: cargo run --release --example soak -- --seed {seed}{cut}"
    )
}

/// Takes out what can be taken out. `oracle` is the rule that does not hold.
fn shrink(seed: u64, oracle: &str) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut played = 0;
    loop {
        let before = cuts.len();
        for cut in candidates(&scenario(seed, &cuts)) {
            let whole = scenario(seed, &cuts).to_string();
            cuts.push(cut);
            let smaller = scenario(seed, &cuts);
            if smaller.to_string() == whole {
                cuts.pop();
                continue;
            }
            let finding = play::play(&smaller, false).finding;
            if finding.is_none_or(|finding| finding.oracle != oracle) {
                cuts.pop();
            }
            played += 1;
            if played >= MOST_PLAYED {
                return without_idle_cuts(seed, cuts);
            }
        }
        if cuts.len() == before {
            return without_idle_cuts(seed, cuts);
        }
    }
}

/// Leaves out cuts within what another one has taken out.
fn without_idle_cuts(seed: u64, mut cuts: Vec<Cut>) -> Vec<Cut> {
    let shrunk = scenario(seed, &cuts).to_string();
    for at in (0..cuts.len()).rev() {
        let cut = cuts.remove(at);
        if scenario(seed, &cuts).to_string() != shrunk {
            cuts.insert(at, cut);
        }
    }
    cuts
}
