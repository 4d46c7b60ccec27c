//! Requests of other clients, which have room at upstreams, or wait for some. Not here: the session
//! that they get in the way of (`world.rs`).

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use balancebeam::state::ProxyState;
use balancebeam::upstream::InFlight;
use balancebeam::upstream::Waiting;

/// Clients that wait.
const CLIENTS: u8 = 3;
const MOST_WAITING: usize = 8;

#[derive(Default)]
pub struct Others {
    served: VecDeque<InFlight>,
    waiting: Vec<Waiting>,
}

impl Others {
    /// All room there is, if it has a bound.
    pub fn take_all(&mut self, state: &ProxyState, now: Instant) {
        if state.config.limits.in_flight.is_some() {
            self.served.extend(std::iter::from_fn(|| state.upstreams.pick(&[], now).ok()));
        }
    }

    /// One that has room since the longest time is done; if all wait, whoever has waited longest.
    pub fn finish_one(&mut self) {
        if self.served.pop_front().is_none() && !self.waiting.is_empty() {
            self.waiting.remove(0);
        }
    }

    pub fn wait(&mut self, state: &ProxyState, client: u8) {
        let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7 + client % CLIENTS));
        if self.waiting.len() < MOST_WAITING {
            self.waiting.extend(state.upstreams.wait_for_capacity(client, &[]));
        }
    }

    pub fn leave(&mut self, which: u8) {
        if !self.waiting.is_empty() {
            self.waiting.remove(usize::from(which) % self.waiting.len());
        }
    }
}
