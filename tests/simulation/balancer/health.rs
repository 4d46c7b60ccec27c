//! Whether the balancer thinks of its upstreams what it has reason to think. Everything it says that
//! it saw must have happened, and every ejection and restore must follow from what it saw, by a
//! second reading of the rules.
//!
//! The rules: an upstream that is up is ejected by a connect that fails, or by `fall` probes and
//! connections together that went wrong since they went well; the last live one is not ejected for
//! connections that broke. One that is ejected comes back by `rise` good probes in a row, or by a
//! request that was sent to try it.

use std::collections::BTreeSet;

use super::ledger::Fact;
use super::logs::Said;
use super::net::Net;
use super::scenario::{Ms, Scenario};

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
    losses: u32,
    /// Good probes in a row since it was ejected.
    good: u32,
}

pub struct Judge {
    models: Vec<Model>,
    rise: u32,
    fall: u32,
    has_probes: bool,
    addresses: Vec<usize>,
    connect: Ms,
    /// A change that has to be told next: whose, and whether it is an ejection.
    due: Option<(usize, bool)>,
    blamed: BTreeSet<(usize, usize)>,
}

impl Judge {
    pub fn new(scenario: &Scenario, connect: Ms) -> Judge {
        Judge {
            models: vec![Model::default(); scenario.upstreams.len()],
            rise: scenario.knobs.rise,
            fall: scenario.knobs.fall,
            has_probes: scenario.knobs.probes.is_some(),
            addresses: scenario.upstreams.iter().map(|plan| plan.addresses).collect(),
            connect,
            due: None,
            blamed: BTreeSet::new(),
        }
    }

    pub fn is_up(&self, id: usize) -> bool {
        !self.models[id].is_ejected
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
            net.counts.one(name_of(ejects));
            return;
        }
        match said {
            Said::Seen(id, seen) => {
                self.check_fact(*id, seen, source, net);
                self.see(*id, seen);
            }
            Said::Ejected(id) | Said::Restored(id) => {
                net.accuse("every ejection and restore is explained", || {
                    format!("upstream {id}: {said:?}")
                });
            }
            Said::Exchange(_) | Said::Other => (),
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
        let has_happened = match source {
            Source::Probe { upstream, seen: reported } => id == upstream && seen == reported,
            Source::Session { client, exchange } => match seen {
                "Served" => net.ledger.has_head(client, id),
                "TrialServed" => !self.has_probes && net.ledger.has_head(client, id),
                "Broken" => {
                    let is_first = self.blamed.insert((client, exchange));
                    net.check("one exchange is held against upstreams once", is_first, || {
                        format!("client {client}, exchange {exchange}")
                    });
                    net.counts.one("losses held against upstreams");
                    net.ledger.blame(client, id)
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
                _ => false,
            },
        };
        net.check("what is said to be seen has happened", has_happened, || {
            format!("{seen} of upstream {id}")
        });
    }

    fn see(&mut self, id: usize, seen: &str) {
        let live = self.models.iter().filter(|model| !model.is_ejected).count();
        let is_bad_probe = seen.starts_with("BadStatus") || seen == "ProbeUnanswered";
        let model = &mut self.models[id];
        let turns = if model.is_ejected {
            match seen {
                "ProbePassed" => model.good += 1,
                "Served" | "TrialServed" => (),
                "Broken" if live <= 1 => (),
                _ => model.good = 0,
            }
            seen == "TrialServed" || model.good >= self.rise
        } else {
            match seen {
                "ProbePassed" => (model.probes, model.losses) = (0, 0),
                "Served" | "TrialServed" => model.losses = 0,
                "Broken" if live > 1 => model.losses += 1,
                _ => model.probes += u32::from(is_bad_probe),
            }
            matches!(seen, "NoConnection" | "ConnectTimedOut")
                || model.probes + model.losses >= self.fall
        };
        if turns {
            *model = Model { is_ejected: !model.is_ejected, ..Model::default() };
            self.due = Some((id, model.is_ejected));
        }
    }
}

fn name_of(ejects: bool) -> &'static str {
    if ejects { "ejections" } else { "restores" }
}
