//! What an exchange says about the health of its upstream (passive checks, outlier ejection).
//!
//! Not here: what follows from an observation (`upstream/health.rs`).

use std::time::Instant;

use super::response::is_own_fault;
use super::{ClientSide, Exchange, RequestLeg};
use crate::client_addr;
use crate::upstream::Chosen;
use crate::upstream::health::Observation;

impl Exchange {
    /// Reports what was seen of the upstream that was chosen.
    pub(super) fn observe(&self, client: &ClientSide<'_>, seen: Observation, now: Instant) {
        if let Some(choice) = &self.attempt.choice {
            client.state.upstreams.observe_choice(choice, seen, now);
        }
    }

    /// A fresh connection was lost. One exchange counts it once: its request may be what breaks
    /// upstreams, and must not go round and eject them all. An ejected upstream has failed its trial
    /// in any case.
    pub(super) fn loss(&mut self, client: &ClientSide<'_>, now: Instant) {
        let was_counted = std::mem::replace(&mut self.loss_counted, true);
        let is_trial = self.attempt.choice.as_ref().is_some_and(|c| c.chosen() == Chosen::Trial);
        if !was_counted || is_trial {
            let key = client_addr::key_of(self.client);
            self.observe(client, Observation::Broken { client: key }, now);
        }
    }

    /// The upstream has neither read all of the request nor answered it in time. The upstream is not
    /// blamed if the client did not go on.
    pub(super) fn too_late(&self, client: &ClientSide<'_>, now: Instant) {
        let is_held_up =
            self.awaits_continue || !client.conn.is_flushed() || self.rest_is_clients();
        if client.state.config.health.eject_after.is_some() && !is_held_up {
            self.observe(client, Observation::TooLate, now);
        }
    }

    /// The upstream's answer was rejected. A trial has failed in any case.
    pub(super) fn malformed(&self, client: &ClientSide<'_>, why: &'static str, now: Instant) {
        let Some(choice) = &self.attempt.choice else { return };
        let counts = client.state.config.health.eject_after.is_some();
        let seen = match self.response {
            Some(response) if counts && is_own_fault(response.status) => return, // it has counted
            Some(_) => Observation::MalformedBody(why),
            None => Observation::Malformed(why),
        };
        if counts || choice.chosen() == Chosen::Trial {
            self.observe(client, seen, now);
        }
    }

    /// Whether the client has sent all of its request. What an upstream does before is not held
    /// against it: it cannot have had a whole request.
    pub(super) fn has_whole_request(&self) -> bool {
        matches!(self.request_leg, RequestLeg::Done)
    }

    /// Whether all that has come of the request's body has gone on, and the rest is the client's to
    /// send, and the client is not waiting for a 100. So the client keeps other requests waiting, and
    /// no other upstream is tried.
    pub(super) fn rest_is_clients(&self) -> bool {
        matches!(self.request_leg, RequestLeg::Body(_))
            && !self.request_leg.is_discarding()
            && !self.awaits_continue
            && (self.upstream.is_flushed() || self.upstream.write_closed)
    }
}
