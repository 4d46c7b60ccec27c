//! What befalls the balancer as a whole: ends of idle connections, sweeps, jumps of the clock, and a
//! drain. Not here: what befalls one upstream (`net.rs`), when it is time (`world.rs`).

use std::time::Duration;

use balancebeam::upstream::UpstreamId;

use super::health::Source;
use super::net::{Event, Owner};
use super::oracle;
use super::scenario::{Ms, What};
use super::world::{SWEEP_INTERVAL, World};

impl World<'_> {
    /// An engine that watches idle connections closes one of which it hears.
    pub fn listen(&mut self, link: usize) {
        let place_owner = self.net.borrow().places[link].owner;
        let Owner::Upstream(id) = place_owner else { return };
        if !self.scenario.knobs.watches_idle {
            return;
        }
        let removed = self.pool.remove(UpstreamId(id), |line| line.0.link == link);
        let Some((line, _)) = removed else { return };
        let mut net = self.net.borrow_mut();
        let now = net.instant();
        let place = &mut net.places[link];
        place.idle_since = None;
        if !place.link.back.bytes.is_empty() {
            self.state.upstreams.all()[id].disable_reuse(now);
        }
        net.counts.one("idle connections closed at once");
        drop(net);
        drop(line);
    }

    pub fn sweep(&mut self) {
        let now = self.net.borrow().instant();
        for (line, _) in self.pool.sweep(now, |_| Duration::MAX) {
            let mut net = self.net.borrow_mut();
            net.places[line.0.link].idle_since = None;
            net.counts.one("idle connections grown old");
        }
        if let Some(limiter) = &self.state.limiter {
            limiter.sweep(now);
        }
        oracle::after_sweep(self);
        let mut net = self.net.borrow_mut();
        let at = net.now + SWEEP_INTERVAL;
        net.schedule(at, Event::Sweep);
    }

    pub fn befall(&mut self, what: What) {
        self.net.borrow_mut().note(format_args!("{what:?}"));
        match what {
            What::Drain if !self.state.is_stopping() => {
                self.state.stop();
                let mut net = self.net.borrow_mut();
                self.drained_at = Some(net.now);
                net.counts.one("drains");
                let drain = self.state.config.timeouts.drain.as_millis() as Ms;
                let at = net.now + drain;
                net.schedule(at, Event::DrainEnds);
                (0..self.connections.len()).for_each(|client| net.wake(client, 0));
            }
            What::Drain => (),
            What::Jump(by) => {
                let mut net = self.net.borrow_mut();
                net.now += by;
                // No client could send meanwhile.
                net.sent_at.iter_mut().for_each(|at| *at += by);
                net.counts.one("clock jumps");
            }
            what => self.net.borrow_mut().befall(what),
        }
    }

    /// Whatever is still open is ended, and visibly if it is in the middle of something.
    pub fn end_drain(&mut self) {
        for place in 0..self.connections.len() {
            let Some(connection) = self.connections[place].take() else { continue };
            self.room.is_gone(place, &mut self.net.borrow_mut());
            if connection.is_busy() {
                self.cut += 1;
                let link = connection.client.link;
                self.net.borrow_mut().places[link].link.resets_on_close = true;
                self.net.borrow_mut().counts.one("exchanges cut by a drain");
            }
            drop(connection);
            self.hear(Source::Session { client: place, exchange: 0 });
        }
    }
}
