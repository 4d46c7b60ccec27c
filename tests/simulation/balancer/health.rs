//! Whether the balancer thinks of its upstreams what it has reason to think. Everything it says that
//! it saw must have happened, and every ejection and restore must follow from what it saw, by a
//! second reading of the rules.
//!
//! The rules: an upstream that is up is ejected by a connect that fails, or by `fall` probes and
//! connections together that went wrong since they went well, of each client one connection; the last live one is spared when that is
//! connections that broke, and counted anew. One that is ejected comes back by `rise` good probes in a row, or by a
//! request that was sent to try it and is answered, whatever the answer. If the operator says so, `eject_after` errors, late answers
//! and answers that are refused in a row eject, too, or spare it if that were more than half of all; one that they have ejected comes back by three
//! good answers in a row to requests that were sent to try it, and by nothing else. Not here: when it
//! is tried (`trials.rs`).

use std::collections::BTreeSet;
use std::time::Duration;

use super::ledger::{Fact, Use};
use super::logs::Said;
use super::net::Net;
use super::room::Came;
use super::scenario::{Ms, Scenario};
use super::trials::Trials;

/// Who has seen something.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A session, in its turn, after so many exchanges that are over.
    Session { client: usize, exchange: usize },
    /// A probe, and what it has reported.
    Probe { upstream: usize, seen: &'a str },
}

#[derive(Clone, Default)]
struct Model {
    is_ejected: bool,
    /// What went wrong since it went well: probes, and connections.
    probes: u32,
    /// Clients that have lost connections; each counts once.
    losses: BTreeSet<u8>,
    /// Good probes in a row since it was ejected.
    good: u32,
    /// Errors and late answers in a row.
    errors: u32,
    /// The same before the last good head, whose body may still be refused.
    errors_before: u32,
    /// It is ejected for those; good answers in a row since to requests that tried it.
    fails: bool,
    good_trials: u32,
}

/// Good answers that restore one that fails requests.
const GOOD_TRIALS: u32 = 3;

pub struct Judge {
    models: Vec<Model>,
    rise: u32,
    fall: u32,
    eject_after: Option<u32>,
    fail_open: bool,
    addresses: Vec<usize>,
    /// The clients' own addresses, by their places.
    peers: Vec<u8>,
    connect: Ms,
    /// The least that one waits for an upstream that neither reads nor answers.
    patience: Ms,
    trials: Trials,
    /// A change that has to be told next: whose, and whether it is an ejection.
    due: Option<(usize, bool)>,
    blamed: BTreeSet<(usize, usize)>,
}

impl Judge {
    pub fn new(scenario: &Scenario, (connect, patience): (Duration, Duration)) -> Judge {
        let has_probes = scenario.knobs.probes.is_some();
        Judge {
            models: vec![Model::default(); scenario.upstreams.len()],
            rise: scenario.knobs.rise,
            fall: scenario.knobs.fall,
            eject_after: scenario.knobs.eject_after,
            fail_open: scenario.knobs.fail_open,
            addresses: scenario.upstreams.iter().map(|plan| plan.addresses).collect(),
            peers: scenario.clients.iter().map(|client| client.address).collect(),
            connect: connect.as_millis() as Ms,
            patience: patience.as_millis() as Ms,
            trials: Trials::new(scenario.upstreams.len(), has_probes),
            due: None,
            blamed: BTreeSet::new(),
        }
    }

    pub fn is_up(&self, id: usize) -> bool {
        !self.models[id].is_ejected
    }

    pub fn is_trial_due(&self, id: usize, now: Ms) -> bool {
        !self.is_up(id) && self.trials.is_due(id, now)
    }

    pub fn live(&self) -> Vec<usize> {
        (0..self.models.len()).filter(|id| self.is_up(*id)).collect()
    }

    /// Whether those who wait for room are not given the room of this one: it is ejected, and another
    /// one is live. Only a request that has been at all of those is sent there.
    pub fn is_left_alone(&self, id: usize) -> bool {
        !self.is_up(id) && self.models.iter().any(|model| !model.is_ejected)
    }

    /// A client's request was sent to an upstream, the last of those that it was sent to.
    pub fn asks(&mut self, client: usize, id: usize, came: Came, asked: &[usize], net: &mut Net) {
        let others = (0..self.models.len()).filter(|id| !asked.contains(id));
        let others_are_live = others.into_iter().any(|id| self.is_up(id)) || !self.fail_open;
        let is_ejected = (!self.is_up(id)).then_some(others_are_live);
        self.trials.asked(client, id, came, is_ejected, net);
    }

    pub fn is_over(&mut self, client: usize) {
        self.trials.is_over(client);
    }

    /// Hears what was said, in order.
    pub fn hear(&mut self, said: &Said, source: Source<'_>, net: &mut Net) {
        if let Some((id, ejects)) = self.due.take() {
            let is_told = match said {
                Said::Ejected(of) => ejects && *of == id,
                Said::Restored(of) => !ejects && *of == id,
                _ => false,
            };
            net.check("what was seen has its consequence", is_told, || {
                format!("upstream {id} is to be {}: {said:?}", name_of(ejects))
            });
            return;
        }
        match said {
            Said::Observation(id, seen) => {
                self.check_fact(*id, seen, source, net);
                let loser = match source {
                    Source::Session { client, .. } => self.peers.get(client).copied(),
                    Source::Probe { .. } => None,
                };
                self.see(*id, seen, loser, net);
                if let (Source::Session { client, .. }, true) = (source, !self.is_up(*id)) {
                    self.trials.seen(client, *id, seen, net);
                }
            }
            Said::Ejected(id) | Said::Restored(id) => {
                net.accuse("every ejection and restore is explained", || {
                    format!("upstream {id}: {said:?}")
                });
            }
            _ => (),
        }
    }

    /// Everything that was said has been heard.
    pub fn is_content(&mut self, net: &mut Net) {
        if let Some((id, ejects)) = self.due.take() {
            net.accuse("what was seen has its consequence", || {
                format!("upstream {id} is to be {}", name_of(ejects))
            });
        }
    }

    /// Whoever says what it has seen must have seen it.
    fn check_fact(&mut self, id: usize, seen: &str, source: Source<'_>, net: &mut Net) {
        let counts_errors = self.eject_after.is_some();
        let is_good = |status| !counts_errors || status < 500 || status == 501 || status == 505;
        let has_happened = match source {
            Source::Probe { upstream, seen: reported } => id == upstream && seen == reported,
            Source::Session { client, exchange } => match seen {
                "Served" => net.ledger.has_head(client, id, is_good),
                "TrialServed" => {
                    let is_trial = self.trials.may_be_trial(client, id);
                    is_trial && net.ledger.has_head(client, id, is_good)
                }
                "TooLate" => {
                    net.counts.one("late answers held against upstreams");
                    let has_waited = net.ledger.has_waited(client, id, self.patience, net.now);
                    counts_errors && has_waited
                }
                _ if seen.starts_with("Malformed") => {
                    net.counts.one("refused answers held against upstreams");
                    let counts = counts_errors || self.trials.may_be_trial(client, id);
                    counts && net.ledger.has_garbage(client, id)
                }
                _ if seen.starts_with("Broken") => {
                    let is_first = self.blamed.insert((client, exchange)) || !self.is_up(id);
                    net.check("one exchange is held against upstreams once", is_first, || {
                        format!("client {client}, exchange {exchange}")
                    });
                    net.counts.one("losses held against upstreams");
                    let used = net.ledger.blame(client, id).cloned();
                    if let Some(used) = &used {
                        only_whole_requests_are_held_against_upstreams(used, net);
                    }
                    used.is_some()
                }
                _ if seen.starts_with("TrialFailed") && !self.trials.may_be_trial(client, id) => {
                    false
                }
                "NoConnection" => net.ledger.facts.contains(&Fact::ConnectFailed { upstream: id }),
                "ConnectTimedOut" => {
                    net.counts.one("connects that timed out");
                    let least = if self.addresses[id] == 1 { self.connect } else { 0 };
                    net.ledger.facts.iter().any(|fact| {
                        matches!(fact, Fact::ConnectGivenUp { upstream, after }
                            if *upstream == id && *after >= least)
                    })
                }
                _ => {
                    net.counts.one("errors held against upstreams");
                    let told = ["ServerError", "TrialFailed"];
                    let is_it =
                        |status| told.iter().any(|kind| format!("{kind}({status})") == seen);
                    let is_fault = |status| !is_good(status) && is_it(status);
                    net.ledger.has_head(client, id, is_fault)
                }
            },
        };
        net.check("what is said to be seen has happened", has_happened, || {
            format!("{seen} of upstream {id}")
        });
    }

    fn see(&mut self, id: usize, seen: &str, loser: Option<u8>, net: &mut Net) {
        let live = self.models.iter().filter(|model| !model.is_ejected).count();
        let may_eject_half = 2 * (self.models.len() - live + 1) <= self.models.len();
        let is_trial = seen.starts_with("TrialFailed");
        let is_malformed = seen.starts_with("Malformed");
        let is_error =
            seen.starts_with("ServerError") || is_trial || seen == "TooLate" || is_malformed;
        let is_loss = seen.starts_with("Broken");
        let is_bad_probe = seen.starts_with("BadStatus") || seen == "ProbeUnanswered";
        let model = &mut self.models[id];
        match seen {
            "ProbePassed" => {
                model.probes = 0;
                model.losses.clear();
            }
            "Served" | "TrialServed" => {
                model.errors_before = std::mem::take(&mut model.errors);
                model.losses.clear();
            }
            _ if is_loss => model.losses.extend(loser),
            _ if is_error => {
                let before = std::mem::take(&mut model.errors_before);
                let is_of_body = seen.starts_with("MalformedBody");
                model.errors = 1 + if is_of_body { model.errors.max(before) } else { model.errors };
            }
            _ => model.probes += u32::from(is_bad_probe),
        }
        let turns = if model.is_ejected {
            match seen {
                "ProbePassed" => model.good += 1,
                "TrialServed" => model.good_trials += 1,
                "Served" => (),
                _ => (model.good, model.good_trials) = (0, 0),
            }
            let is_reached = model.good_trials >= 1 || model.good >= self.rise || is_trial;
            if model.fails { model.good_trials >= GOOD_TRIALS } else { is_reached }
        } else {
            let has_no_door = matches!(seen, "NoConnection" | "ConnectTimedOut");
            let is_gone = has_no_door || model.probes + model.losses.len() as u32 >= self.fall;
            let most = self.eject_after.unwrap_or(u32::MAX);
            let fails = !is_gone && model.errors >= most;
            let is_spared =
                (is_gone && is_loss && live <= 1) || (fails && is_error && !may_eject_half);
            if is_spared {
                (model.errors, model.errors_before) = (0, 0);
                model.losses.clear();
                return net.counts.one("upstreams spared, because too few are left");
            }
            model.fails = fails;
            is_gone || fails
        };
        if !turns {
            return;
        }
        let Model { is_ejected, fails, .. } = model.clone();
        *model = Model { is_ejected: !is_ejected, fails: fails && !is_ejected, ..Model::default() };
        self.due = Some((id, !is_ejected));
        if is_ejected {
            self.trials.restored(id, net.now);
            net.counts.one(if fails { "restores by trials" } else { "restores" });
        } else {
            self.trials.ejected(id, fails, net.now);
            net.counts.one(if fails { "ejections for errors" } else { "ejections" });
            self.no_more_than_half_for_errors(fails, net);
        }
    }

    /// It may be the requests that are at fault; then everybody would be ejected for them.
    fn no_more_than_half_for_errors(&self, fails: bool, net: &mut Net) {
        let ejected = self.models.iter().filter(|model| model.is_ejected).count();
        let of = self.models.len();
        net.check("errors eject no more than half", !fails || 2 * ejected <= of, || {
            format!("{ejected} of {of}")
        });
    }
}

/// An upstream that answers every whole request is not to be ejected for what clients do not send.
fn only_whole_requests_are_held_against_upstreams(used: &Use, net: &mut Net) {
    let is_whole = used.request.is_none_or(|id| net.sent_whole.contains(&id));
    net.check("only whole requests are held against upstreams", is_whole, || {
        format!("{:?} of upstream {}", used.request, used.upstream)
    });
}

fn name_of(ejects: bool) -> &'static str {
    if ejects { "ejections" } else { "restores" }
}
