//! Probes without sockets: they report what they see of an upstream the way the health-check thread
//! does, at most one of an upstream at a time. Not here: what follows from it (`health.rs`).

use balancebeam::state::ProxyState;
use balancebeam::upstream::UpstreamId;
use balancebeam::upstream::health::Observation;

use super::net::{Event, Net};
use super::scenario::{Mode, Ms};

/// What a sick upstream says.
const SICK: u16 = 503;

#[derive(Clone, Copy, Default)]
enum Turn {
    #[default]
    Idle,
    Out(Mode),
    /// Its next round has begun while it was out.
    OutAndDue(Mode),
}

pub struct Probes {
    interval: Ms,
    timeout: Ms,
    turns: Vec<Turn>,
}

impl Probes {
    /// `None` if they are off.
    pub fn begin(state: &ProxyState, net: &mut Net) -> Option<Probes> {
        let health = &state.config.health;
        let interval = health.interval?.as_millis() as Ms;
        net.schedule(interval, Event::Probes);
        let turns = vec![Turn::default(); state.upstreams.all().len()];
        Some(Probes { interval, timeout: health.probe_timeout().as_millis() as Ms, turns })
    }

    pub fn begin_round(&mut self, net: &mut Net) {
        net.schedule(net.now + self.interval, Event::Probes);
        for id in 0..self.turns.len() {
            match self.turns[id] {
                Turn::Idle => self.launch(id, net),
                Turn::Out(mode) | Turn::OutAndDue(mode) => self.turns[id] = Turn::OutAndDue(mode),
            }
        }
    }

    fn launch(&mut self, id: usize, net: &mut Net) {
        let mode = net.modes[id];
        let after = match mode {
            Mode::Up | Mode::Sick | Mode::Refuses => 1 + net.draws.below(20) as Ms,
            Mode::Hangs | Mode::Frozen => self.timeout,
        };
        net.schedule(net.now + after.min(self.timeout), Event::ProbeEnds(id));
        self.turns[id] = Turn::Out(mode);
    }

    /// Returns what was reported.
    pub fn end(&mut self, id: usize, state: &ProxyState, net: &mut Net) -> Option<String> {
        let (Turn::Out(mode) | Turn::OutAndDue(mode)) = self.turns[id] else { return None };
        let seen = match mode {
            Mode::Up => Observation::ProbePassed,
            Mode::Sick => Observation::BadStatus(SICK),
            Mode::Refuses | Mode::Hangs => Observation::NoConnection,
            Mode::Frozen => Observation::ProbeUnanswered,
        };
        state.upstreams.observe(UpstreamId(id), seen, net.instant());
        if let Turn::OutAndDue(_) = std::mem::take(&mut self.turns[id]) {
            self.launch(id, net);
        }
        Some(format!("{seen:?}"))
    }
}
