//! The health-check thread: asks every upstream, live or ejected, at a fixed rate.
//!
//! All probes of a round go out at once and share one poll set, each with its own timeout, so one
//! hung upstream delays no other and many upstreams need no many threads. Not here: what follows
//! from what was seen (`upstream/health.rs`), one probe's way (`probe_conn.rs`), its words
//! (`probe.rs`).

mod probe;
mod probe_conn;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::{Background, Stop, wait_for};
use crate::log_throttle::LogThrottle;
use crate::state::ProxyState;
use crate::upstream::UpstreamId;
use probe::ProbeOutcome;
use probe_conn::ProbeConn;

/// The most probes that are out at a time; each holds a descriptor. More wait their turn.
pub const MAX_PROBES_OUT: usize = 512;
/// The shortest time between two rounds, so that an interval of nothing is no endless loop.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// The running thread; there is none if active checks are off. Dropping it stops it.
pub struct HealthCheckThread {
    _thread: Option<Background>,
}

impl HealthCheckThread {
    /// Starts to check; the first round is one interval from now.
    pub fn start(state: Arc<ProxyState>) -> io::Result<Self> {
        let thread = state.config.health.interval.map(|interval| {
            Background::start("health-check", move |stop| {
                Checker::new(&state, interval, Instant::now()).run(stop);
            })
        });
        Ok(HealthCheckThread { _thread: thread.transpose()? })
    }

    /// Ends the thread, and waits for its end; probes that are out say nothing any more.
    pub fn stop(self) {}
}

/// When rounds begin: at a fixed rate, whatever a round takes.
struct Rounds {
    next: Instant,
    interval: Duration,
}

impl Rounds {
    fn new(interval: Duration, now: Instant) -> Self {
        let interval = interval.max(MIN_INTERVAL);
        Rounds { next: now + interval, interval }
    }

    /// Whether one begins now. After a long sleep only one does, and the rate's phase stays.
    fn begins(&mut self, now: Instant) -> bool {
        let Some(late) = now.checked_duration_since(self.next) else { return false };
        let phase = (late.as_nanos() % self.interval.as_nanos()) as u64;
        self.next = now + self.interval - Duration::from_nanos(phase);
        true
    }
}

/// Where an upstream is between two observations. At most one probe of it is out.
///
/// | turn        | its round begins | it is launched | its probe ends |
/// |-------------|------------------|----------------|----------------|
/// | `Idle`      | `Waiting`        |                |                |
/// | `Waiting`   | –                | `Out`          |                |
/// | `Out`       | `OutAndDue`      |                | `Idle`         |
/// | `OutAndDue` | –                |                | `Waiting`      |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeState {
    Idle,
    Waiting,
    Out,
    /// A probe that takes a whole interval ends just after the next round has begun; the upstream
    /// must not lose that round for it.
    OutAndDue,
}

/// Sends probes out and reports what they saw.
struct Checker<'a> {
    state: &'a ProxyState,
    rounds: Rounds,
    states: Vec<ProbeState>,
    /// Those whose turn is `Waiting`, in order.
    waiting: VecDeque<UpstreamId>,
    probes: Vec<ProbeConn>,
    shortages: LogThrottle,
}

impl<'a> Checker<'a> {
    fn new(state: &'a ProxyState, interval: Duration, now: Instant) -> Self {
        Checker {
            state,
            rounds: Rounds::new(interval, now),
            states: vec![ProbeState::Idle; state.upstreams.all().len()],
            waiting: VecDeque::new(),
            probes: Vec::new(),
            shortages: LogThrottle::default(),
        }
    }

    fn run(mut self, stop: &Stop) {
        while let Some(ready) = self.wait(stop) {
            let now = Instant::now();
            self.advance(&ready, now);
            if self.rounds.begins(now) {
                self.enlist_all();
            }
            self.launch_waiting(now);
        }
    }

    /// Waits until something is to be done. Tells for each flight whether its socket is ready;
    /// `None` is the end.
    fn wait(&self, stop: &Stop) -> Option<Vec<bool>> {
        let until = self.probes.iter().map(ProbeConn::due).fold(self.rounds.next, Instant::min);
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        fds.extend(self.probes.iter().map(|probe| {
            let (stream, flags) = probe.waits_for();
            PollFd::new(stream, flags)
        }));
        wait_for(&mut fds, until);
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let is_told = ready.next().unwrap_or(true);
        (!is_told).then(|| ready.collect())
    }

    fn advance(&mut self, ready: &[bool], now: Instant) {
        // Backwards, because an ended flight is replaced by the last one.
        for i in (0..ready.len()).rev() {
            let probe = &mut self.probes[i];
            if !ready[i] && now < probe.due() {
                continue;
            }
            if let Some(outcome) = probe.advance(now) {
                let upstream = self.probes.swap_remove(i).upstream();
                self.end_probe(upstream, outcome, now);
            }
        }
    }

    fn enlist_all(&mut self) {
        for (i, probe_state) in self.states.iter_mut().enumerate() {
            *probe_state = match *probe_state {
                ProbeState::Idle => {
                    self.waiting.push_back(UpstreamId(i));
                    ProbeState::Waiting
                }
                ProbeState::Out => ProbeState::OutAndDue,
                waiting_or_due => waiting_or_due,
            };
        }
    }

    fn launch_waiting(&mut self, now: Instant) {
        while self.probes.len() < MAX_PROBES_OUT
            && let Some(id) = self.waiting.pop_front()
        {
            self.states[id.0] = ProbeState::Out;
            let upstream = &self.state.upstreams.all()[id.0];
            match ProbeConn::launch(upstream, &self.state.config, now) {
                Ok(probe) => self.probes.push(probe),
                Err(outcome) => self.end_probe(id, outcome, now),
            }
        }
    }

    fn end_probe(&mut self, id: UpstreamId, outcome: ProbeOutcome, now: Instant) {
        self.states[id.0] = if self.states[id.0] == ProbeState::OutAndDue {
            self.waiting.push_back(id);
            ProbeState::Waiting
        } else {
            ProbeState::Idle
        };
        if let Some(seen) = outcome.seen(&self.state.config.health.status) {
            self.state.upstreams.observe(id, seen, now);
        }
        if let ProbeOutcome::OwnShortage(error) = outcome
            && self.shortages.may_log(now)
        {
            let name = self.state.upstreams.all()[id.0].name();
            log::warn!("cannot probe upstream {name}: {error}; this says nothing about it");
        }
    }
}
