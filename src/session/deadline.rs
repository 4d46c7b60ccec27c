//! How long a client's connection waits, for what, and what happens when that was too long.
//!
//! Not here: what an exchange waits for (`exchange/deadline.rs`), timers (`engine/`).

use std::time::{Duration, Instant};

use super::{Phase, Session, Timeout};
use crate::message::Reply;

/// How long a client that is turned away may stay, from accept to close, whatever it does.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(2);

impl Session {
    /// When `next` has to be called even if nothing moves. `None` only once it is closed.
    pub fn deadline(&self) -> Option<Instant> {
        if let Phase::Closed { .. } = self.phase {
            return None;
        }
        let config = &self.state.config;
        let (timeouts, since) = (&config.timeouts, self.wait.since);
        let last_moved = since.max(self.moved);
        let exchange = self.exchange.as_ref();
        let at = match self.wait.timeout {
            Timeout::Idle => since + timeouts.idle,
            Timeout::Grace => since + timeouts.drain_grace,
            Timeout::Head => since + timeouts.head,
            Timeout::Shortage => since + exchange.map_or(Duration::ZERO, |e| e.shortage_pause()),
            Timeout::Queue => since + timeouts.queue,
            Timeout::Connect => since + timeouts.connect,
            Timeout::Response => exchange.map_or(since, |e| e.response_deadline(config, since)),
            Timeout::Progress => last_moved + timeouts.progress,
            Timeout::Tunnel => last_moved + timeouts.tunnel,
            Timeout::Linger => since + timeouts.linger,
        };
        let at = self.turned_away.map_or(at, |since| at.min(since + TURN_AWAY_TIMEOUT));
        Some(self.capacity_check_at().map_or(at, |check| check.min(at)))
    }

    pub(super) fn capacity_check_at(&self) -> Option<Instant> {
        self.exchange.as_ref()?.capacity_check_at(&self.state.config)
    }

    /// Since when the session has waited for a whole request head, if that is all it does, and whether
    /// a part of one has come. To be asked after `next`.
    pub fn waits_for_head(&self) -> Option<(Instant, bool)> {
        let is_open = self.phase == Phase::Open && self.turned_away.is_none();
        match self.wait.timeout {
            Timeout::Idle if is_open => Some((self.wait.since, false)),
            Timeout::Head if is_open => Some((self.wait.since, true)),
            _ => None,
        }
    }

    /// Whether a whole request head has come since the session was new, or began again.
    pub fn has_asked(&self) -> bool {
        self.has_asked
    }

    /// Starts the clock again if something else is waited for than before.
    pub(super) fn note_wait(&mut self, now: Instant) {
        let timeout = self.waits_for();
        self.wait.note(timeout, now);
    }

    fn waits_for(&self) -> Timeout {
        match self.phase {
            Phase::Lingering => return Timeout::Linger,
            Phase::Last(_) | Phase::Closed { .. } => return Timeout::Progress,
            Phase::Open => (),
        }
        if let Some(exchange) = &self.exchange {
            return exchange.waits_for(self.client.output.is_empty());
        }
        match (self.client.input.is_empty(), self.state.is_stopping()) {
            (false, _) => Timeout::Head,
            (true, true) => Timeout::Grace,
            // A client that is only turned away must not keep others from being told.
            (true, false) if self.turned_away.is_some() => Timeout::Linger,
            (true, false) => Timeout::Idle,
        }
    }

    /// The deadline has passed.
    pub(super) fn on_deadline(&mut self, now: Instant) {
        let timeout = self.wait.timeout;
        // Whatever is waited for next, it is waited for from now on.
        self.wait.since = now;
        if self.turned_away.is_some_and(|since| since + TURN_AWAY_TIMEOUT <= now) {
            const WHY: &str = "it was turned away, and did not leave in time";
            let abort = !self.client.is_flushed();
            self.on_exchange(now, |exchange, client| exchange.abort(client, WHY));
            return self.enter(Phase::Closed { abort });
        }
        let in_exchange =
            self.on_exchange(now, |exchange, client| exchange.on_deadline(client, timeout, now));
        if in_exchange.is_some() {
            return;
        }
        match timeout {
            Timeout::Head => {
                self.reject_head(Reply::closing(408, "the request head took too long"), now);
            }
            // The client does not read the last answer.
            Timeout::Progress => self.enter(Phase::Closed { abort: true }),
            _ => self.enter(Phase::Closed { abort: false }),
        }
    }
}
