//! Whether an upstream may be chosen: what was seen of it, turned into `Up` or `Ejected`.
//!
//! Pure: no clock, no socket, no lock. The health-check thread (active) and the sessions (passive)
//! both report what they
//! *saw* through [`Health::observe`]; whoever holds the live list applies the [`Change`] that
//! comes back. Not here: when to probe (`health_check/`), how to choose among the living
//! (`balance.rs`).

use std::fmt;

/// What was seen of an upstream, by a probe or by a real request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A probe got a passing status.
    ProbePassed,
    /// A real request got a response head. It clears earlier doubts but never restores: it may be
    /// a late answer.
    Served,
    /// A real request that was sent to an ejected upstream to try it got a response head.
    TrialServed,
    /// A real request got a response head with this status, which tells of the upstream's own fault.
    ServerError(u16),
    /// The same of one that was sent to an ejected upstream to try it.
    TrialFailed(u16),
    /// A real request got no response head in time, or was not read in time.
    TooLate,
    /// A real request got an answer whose head was refused: malformed, or over a limit.
    Malformed(&'static str),
    /// The same of the body of an answer whose head was good, and was seen as `Served`.
    MalformedBody(&'static str),
    /// A probe got this failing status.
    BadStatus(u16),
    /// A probe was connected and got no answer in time.
    ProbeUnanswered,
    /// The connection of a probe was closed before the head of its answer had come.
    ProbeClosed,
    /// A probe got an answer that a request could not use either.
    ProbeMalformed(&'static str),
    /// A connection was lost that had been made for a whole request of this client (`client_addr::key_of`):
    /// perhaps one bad request, so it only counts, and once for each client.
    Broken {
        /// The client's key.
        client: u64,
    },
    /// A connection was refused, or could not be made, by the other side.
    NoConnection,
    /// A connection was not made in time.
    ConnectTimedOut,
}

/// How many observations in a row turn the state. Both at least 1; the unit is observations.
#[derive(Clone, Copy, Debug)]
pub struct HealthRules {
    /// Good probes that restore an ejected upstream.
    pub rise: u32,
    /// Bad observations that eject one that is up.
    pub fall: u32,
    /// Errors, late and refused answers to real requests that eject one that is up; `None`: they
    /// count as answers.
    pub eject_after: Option<u32>,
}

/// A turn of the state, with the observation that made it: the log line and the metric say why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// No longer chosen.
    Ejected(Observation),
    /// Chosen again.
    Restored(Observation),
    /// It would no longer be chosen, but too few others would be; its count starts again.
    Spared(Observation),
}

/// Why an upstream is ejected, which decides what restores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is not there, or not well: its probes or connections fail.
    Unreachable,
    /// It is there, and fails the requests that are sent to it. Its probes say nothing about that.
    Failing,
}

/// Good answers in a row to requests that try it that restore one that failed requests.
pub const GOOD_TRIALS: u32 = 3;

/// The state of one upstream. Starts `up`: a balancer that knows nothing yet must serve.
#[derive(Debug, Default)]
pub struct Health {
    ejected: Option<Fault>,
    /// Errors, late answers and refused ones since the last good answer.
    errors: u32,
    /// `errors` before the last good head, until it is followed by another one: its body may still
    /// be refused.
    errors_before: u32,
    /// Good answers in a row to requests that tried it while ejected.
    good_trials: u32,
    /// Bad statuses since the last good probe. Real requests may succeed all the while.
    bad_probes: u32,
    /// Clients that lost a connection since the last good answer.
    losses: LostClients,
    /// Good probes in a row while ejected.
    good_probes: u32,
}

/// Clients that lost connections, each counted once.
#[derive(Debug, Default)]
struct LostClients {
    known: Vec<u64>,
    count: u32,
}

impl LostClients {
    /// Clients that are told apart; of those beyond them each loss counts.
    const MOST: usize = 64;

    fn add(&mut self, client: u64) {
        if self.known.contains(&client) {
            return;
        }
        if self.known.len() < Self::MOST {
            self.known.push(client);
        }
        self.count = self.count.saturating_add(1);
    }

    fn clear(&mut self) {
        self.known.clear();
        self.count = 0;
    }
}

impl Health {
    /// Whether an answer to a real request could change anything.
    pub fn is_doubted(&self) -> bool {
        let errors = self.errors > 0 || self.errors_before > 0;
        self.losses.count > 0 || errors || !self.is_up()
    }

    /// Whether the upstream may be chosen.
    pub fn is_up(&self) -> bool {
        self.ejected.is_none()
    }

    /// Whether it is ejected because it fails requests: then only requests restore it.
    pub fn fails_requests(&self) -> bool {
        self.ejected == Some(Fault::Failing)
    }

    /// Takes one observation into account. Returns the change if this observation made one.
    /// `may_eject`: there are enough others for one that is ejected for what requests have seen.
    ///
    /// | seen           | while up                                | while ejected            |
    /// |----------------|-----------------------------------------|--------------------------|
    /// | `ProbePassed`  | forget earlier bad ones                 | `rise` in a row restore, unless it fails requests |
    /// | `Served`       | forget losses and errors                | –                        |
    /// | `TrialServed`  | forget losses and errors                | restores at once; one that fails requests, `GOOD_TRIALS` in a row |
    /// | `ServerError`, `TooLate`, `Malformed` | `eject_after` in a row eject: it fails requests | forget earlier good ones |
    /// | `MalformedBody` | the same, as if its head had not been good | forget earlier good ones |
    /// | `TrialFailed`  | as `ServerError`                        | forget earlier good ones; restores at once unless it fails requests: it is there |
    /// | `BadStatus`, `ProbeUnanswered`, `ProbeClosed`, `ProbeMalformed` | `fall` bad ones, of any kind, eject | forget earlier good ones |
    /// | `Broken`       | `fall` bad ones, of any kind and of different clients, eject | forget earlier good ones |
    /// | `NoConnection`, `ConnectTimedOut` | ejects at once       | forget earlier good ones |
    ///
    /// `NoConnection` ejects whatever `fall` says: the next request would meet the same closed
    /// door. `TrialServed` restores whatever `rise` says: without probes nobody else would look
    /// again soon; so does `TrialFailed`, then. `Served` says nothing about probes: an upstream that answers requests with 500
    /// serves them, unless the operator has decided that it does not (`eject_after`). What
    /// requests have seen ejects only if that `may` be: perhaps it is the requests' fault, and then
    /// all would be ejected one after the other.
    pub fn observe(
        &mut self,
        seen: Observation,
        rules: &HealthRules,
        may_eject: bool,
    ) -> Option<Change> {
        match seen {
            Observation::ProbePassed => {
                self.bad_probes = 0;
                self.losses.clear();
                self.good_probes += u32::from(!self.is_up());
            }
            Observation::Served | Observation::TrialServed => {
                self.errors_before = std::mem::take(&mut self.errors);
                self.losses.clear();
                self.good_trials += u32::from(!self.is_up() && seen == Observation::TrialServed);
            }
            Observation::ServerError(_)
            | Observation::TrialFailed(_)
            | Observation::TooLate
            | Observation::Malformed(_) => {
                self.errors = self.errors.saturating_add(1);
                self.errors_before = 0;
            }
            Observation::MalformedBody(_) => {
                let before = std::mem::take(&mut self.errors_before);
                self.errors = self.errors.max(before).saturating_add(1);
            }
            Observation::BadStatus(_)
            | Observation::ProbeUnanswered
            | Observation::ProbeClosed
            | Observation::ProbeMalformed(_) => {
                self.bad_probes = self.bad_probes.saturating_add(1);
            }
            Observation::Broken { client } => self.losses.add(client),
            Observation::NoConnection | Observation::ConnectTimedOut => (),
        }
        if !seen.is_good() {
            (self.good_probes, self.good_trials) = (0, 0);
        }
        let Some(fault) = self.ejected else {
            let fault = self.fault(seen, rules)?;
            if seen.is_of_a_request() && !may_eject {
                (self.errors, self.errors_before) = (0, 0);
                self.losses.clear();
                return Some(Change::Spared(seen));
            }
            *self = Health { ejected: Some(fault), ..Health::default() };
            return Some(Change::Ejected(seen));
        };
        let is_well = match fault {
            Fault::Unreachable => {
                let is_there =
                    matches!(seen, Observation::TrialServed | Observation::TrialFailed(_));
                is_there || self.good_probes >= rules.rise
            }
            Fault::Failing => self.good_trials >= GOOD_TRIALS,
        };
        is_well.then(|| {
            *self = Health::default();
            Change::Restored(seen)
        })
    }

    /// What is wrong with one that is up, after `seen`.
    fn fault(&self, seen: Observation, rules: &HealthRules) -> Option<Fault> {
        let has_no_door = matches!(seen, Observation::NoConnection | Observation::ConnectTimedOut);
        if has_no_door || self.bad_probes.saturating_add(self.losses.count) >= rules.fall {
            return Some(Fault::Unreachable);
        }
        rules.eject_after.is_some_and(|most| self.errors >= most).then_some(Fault::Failing)
    }
}

impl Observation {
    /// Whether it tells of no fault.
    pub fn is_good(self) -> bool {
        matches!(self, Observation::ProbePassed | Observation::Served | Observation::TrialServed)
    }

    /// Whether it is a request that something went wrong with, perhaps by its own fault.
    pub fn is_of_a_request(self) -> bool {
        match self {
            Observation::ServerError(_) | Observation::TrialFailed(_) | Observation::TooLate => {
                true
            }
            Observation::Malformed(_)
            | Observation::MalformedBody(_)
            | Observation::Broken { .. } => true,
            Observation::ProbePassed
            | Observation::Served
            | Observation::TrialServed
            | Observation::BadStatus(_) => false,
            Observation::ProbeUnanswered
            | Observation::ProbeClosed
            | Observation::ProbeMalformed(_) => false,
            Observation::NoConnection | Observation::ConnectTimedOut => false,
        }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Observation::ProbePassed => write!(f, "a probe passed"),
            Observation::Served => write!(f, "it answered a request"),
            Observation::TrialServed => write!(f, "it answered when it was tried"),
            Observation::ServerError(status) => {
                write!(f, "it fails one request after the other, the last one with {status}")
            }
            Observation::TrialFailed(status) => write!(f, "it answered {status} when it was tried"),
            Observation::TooLate => write!(f, "it does not answer requests in time"),
            Observation::Malformed(why) | Observation::MalformedBody(why) => {
                write!(f, "its answers to requests are refused: {why}")
            }
            Observation::BadStatus(status) => write!(
                f,
                "a probe got status {status} (see --active-health-check-path, -status and -host)"
            ),
            Observation::ProbeUnanswered => write!(f, "a probe got no HTTP answer in time"),
            Observation::ProbeClosed => write!(
                f,
                "the connection of a probe was closed before a whole head of an answer had come (is \
                 it a port for TLS?)"
            ),
            Observation::ProbeMalformed(why) => {
                write!(f, "a probe got an answer that no request can use: {why}")
            }
            Observation::Broken { .. } => write!(f, "it broke off connections without an answer"),
            Observation::NoConnection => write!(f, "it refuses connections"),
            Observation::ConnectTimedOut => write!(f, "no connection was made in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: HealthRules = HealthRules { rise: 2, fall: 3, eject_after: Some(4) };

    /// Each row: what is seen, one letter an observation (p = probe passed, s = served, t = trial
    /// served, 5 = a probe got 500, b, c, d = broken for one of three clients, x = no connection,
    /// E = a request got 500, l = it was answered too late, F = a trial got 500, m = its answer was
    /// refused, M = the body of one was, whose head was served), and the state after each (U = up, e =
    /// ejected).
    #[test]
    fn states_follow_observations() {
        for (seen, states) in [
            ("p", "U"),
            ("5b", "UU"),
            ("5b5", "UUe"),
            ("bcsbcd", "UUUUUe"), // a good one in between starts the count again
            ("bbbbbb", "UUUUUU"), // one client alone ejects no upstream
            ("bbcbcd", "UUUUUe"),
            ("5bc", "UUe"),
            ("55p555", "UUUUUe"),
            ("5s5s5", "UUUUe"), // requests may be served while probes fail
            ("x", "e"),         // a closed door needs no second look
            ("xpp", "eeU"),
            ("xp5pp", "eeeeU"), // one good probe does not restore
            ("xssss", "eeeee"), // nor does any number of late answers
            ("xt", "eU"),       // an answer to a request that was sent to try it does
            ("EElE", "UUUe"),
            ("EEEsEEEE", "UUUUUUUe"), // a good answer in between starts the count again
            ("EEEpE", "UUUUe"),       // a good probe says nothing about requests
            ("EEEEppp", "UUUeeee"),   // and does not restore one that fails them
            ("EEEEsss", "UUUeeee"),   // nor do late answers
            ("EEEEttt", "UUUeeeU"),   // requests that try it do
            ("EEEEttEttt", "UUUeeeeeeU"),
            ("xF", "eU"), // it is there
            ("EEEEttFttt", "UUUeeeeeeU"),
            ("EEbc", "UUUU"), // each kind has its own count
            ("mElm", "UUUe"),
            ("sMsMsMsM", "UUUUUUUe"), // the head of a refused body clears nothing
            ("sMsMsMssM", "UUUUUUUUU"), // but that of a whole answer does
            ("sMsMsMsm", "UUUUUUUU"),
            ("EEEEtttM", "UUUeeeUU"),
        ] {
            let mut health = Health::default();
            let got: String = seen.chars().map(|c| step(&mut health, c)).collect();
            assert_eq!(got, states, "after {seen}");
        }
    }

    #[test]
    fn a_change_is_told_once_and_says_why() {
        let mut health = Health::default();
        assert_eq!(
            health.observe(Observation::NoConnection, &RULES, true),
            Some(Change::Ejected(Observation::NoConnection))
        );
        assert_eq!(health.observe(Observation::NoConnection, &RULES, true), None);
    }

    /// The same letters, and after which of them it was spared (s).
    #[test]
    fn one_that_must_not_be_ejected_for_requests_is_spared_each_time_its_count_is_full() {
        for (seen, spared) in [
            ("bcdbcd", "--s--s"),
            ("EEEEEEEl", "---s---s"),
            ("E", "-"), // one alone is nothing to tell of
            ("5bc5b", "--s-s"),
        ] {
            let mut health = Health::default();
            let told =
                |c| matches!(health.observe(seen_of(c), &RULES, false), Some(Change::Spared(_)));
            let got: String = seen.chars().map(told).map(|t| if t { 's' } else { '-' }).collect();
            assert_eq!((got.as_str(), health.is_up()), (spared, true), "after {seen}");
        }
        let mut health = Health::default();
        for c in "bcd55bc5".chars() {
            health.observe(seen_of(c), &RULES, false);
        }
        assert!(!health.is_up(), "its probes fail, too");
    }

    fn step(health: &mut Health, c: char) -> char {
        health.observe(seen_of(c), &RULES, true);
        if health.is_up() { 'U' } else { 'e' }
    }

    fn seen_of(c: char) -> Observation {
        match c {
            'p' => Observation::ProbePassed,
            's' => Observation::Served,
            't' => Observation::TrialServed,
            'b' => Observation::Broken { client: 1 },
            'c' => Observation::Broken { client: 2 },
            'd' => Observation::Broken { client: 3 },
            'E' => Observation::ServerError(500),
            'l' => Observation::TooLate,
            'F' => Observation::TrialFailed(500),
            'm' => Observation::Malformed("x"),
            'M' => Observation::MalformedBody("x"),
            '5' => Observation::BadStatus(500),
            _ => Observation::NoConnection,
        }
    }
}
