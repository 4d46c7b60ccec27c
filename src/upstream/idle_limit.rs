//! How long an upstream lets a connection be idle before it closes it, as far as is known.
//!
//! A request that meets this close on its way is lost, and one that is not idempotent is 502. So a
//! connection that may be closed soon is not used. Pure, without a lock. Not here: idle connections
//! (`engine/pool.rs`).
//!
//! | what is known                | idempotent requests take   | other requests take        |
//! |------------------------------|----------------------------|----------------------------|
//! | nothing                      | any                        | idle for `UNKNOWN` at most |
//! | `Keep-Alive: timeout=N`      | up to N seconds less `MARGIN`, `LEAST` at least | up to N seconds less `MARGIN` |
//! | ends seen while idle         | any                        | up to the least age less `MARGIN` |
//! | both                         | up to N seconds less `MARGIN` | the lesser of both      |
//!
//! A restart of the upstream closes all its connections, whatever their age. Three rules keep that
//! from being taken for its limit: an end at an age below `LEAST_LEARNT` teaches nothing; a
//! connection that is found alive at a greater age corrects what was learnt; and so does the next
//! `Keep-Alive`. What requests take that can be sent again is never bounded below `LEAST`, nor is what
//! ends have taught.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::message::fields::{elements, number};

/// How much earlier than the upstream's limit a connection is no longer used.
pub const MARGIN: Duration = Duration::from_secs(1);
/// The longest that a connection may have been idle for a request that must not be sent twice, until
/// the limit is known.
pub const UNKNOWN: Duration = Duration::from_secs(1);
/// An end at a lesser age is no limit: limits are whole seconds, and a restart ends all.
pub const LEAST_LEARNT: Duration = Duration::from_secs(1);
/// A connection that has been idle for no longer may be used by a request that can be sent again.
pub const LEAST: Duration = Duration::from_millis(100);

/// What is known of one upstream. Times are in milliseconds; 0 is unknown.
#[derive(Debug, Default)]
pub struct IdleLimit {
    /// By `Keep-Alive`.
    told: AtomicU32,
    /// The least age at which an idle connection has ended.
    learnt: AtomicU32,
}

impl IdleLimit {
    /// The longest that a connection may have been idle that a request takes.
    pub fn most_idle(&self, may_send_again: bool) -> Duration {
        let told = self.told.load(Ordering::Relaxed);
        if may_send_again {
            return usable(told, LEAST).unwrap_or(Duration::MAX);
        }
        let learnt = self.learnt.load(Ordering::Relaxed);
        let known =
            [usable(told, Duration::ZERO), usable(learnt, LEAST)].into_iter().flatten().min();
        known.unwrap_or(UNKNOWN)
    }

    /// The longest that a connection is kept.
    pub fn most_kept(&self) -> Duration {
        self.most_idle(true)
    }

    /// The upstream has said `Keep-Alive` with this value.
    pub fn told(&self, keep_alive: &[u8]) {
        let Some(seconds) = timeout(keep_alive) else { return };
        let limit = millis(Duration::from_secs(seconds)).max(1);
        if self.told.load(Ordering::Relaxed) != limit {
            self.told.store(limit, Ordering::Relaxed);
        }
        if self.learnt.load(Ordering::Relaxed) != 0 {
            self.learnt.store(0, Ordering::Relaxed);
        }
    }

    /// A connection was found to have ended after it was idle for so long. `is_exact`: it ended just
    /// then; else it ended at some time before, so it can only make the limit lower.
    pub fn ended(&self, idle: Duration, is_exact: bool) {
        if idle < LEAST_LEARNT {
            return;
        }
        let age = millis(idle);
        let learnt = self.learnt.load(Ordering::Relaxed);
        let is_news = if learnt == 0 { is_exact || idle < UNKNOWN + MARGIN } else { age < learnt };
        if is_news {
            self.learnt.store(age, Ordering::Relaxed);
        }
    }

    /// A connection was found alive after it was idle for so long.
    pub fn lived(&self, idle: Duration) {
        if idle < LEAST_LEARNT {
            return;
        }
        let learnt = self.learnt.load(Ordering::Relaxed);
        if learnt != 0 && millis(idle) > learnt {
            self.learnt.store(millis(idle), Ordering::Relaxed);
        }
    }
}

/// How long a connection may have been idle with this limit, and `least` in any case; `None` if there
/// is no limit.
fn usable(limit: u32, least: Duration) -> Option<Duration> {
    let limit = Duration::from_millis(limit.into());
    (!limit.is_zero()).then(|| limit.saturating_sub(MARGIN).max(least))
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The number of seconds in a `Keep-Alive` field (RFC 2068 §19.7.1.1), such as `timeout=5, max=99`.
fn timeout(value: &[u8]) -> Option<u64> {
    elements(value).find_map(|parameter| {
        let (name, seconds) = parameter.split_at_checked(b"timeout=".len())?;
        name.eq_ignore_ascii_case(b"timeout=").then(|| number(seconds)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One step each: what the upstream says, or at which age a connection was found to have ended
    /// (exactly, or earlier), or found alive.
    enum Step {
        Told(&'static str),
        Ended(u64),
        EndedBefore(u64),
        Lived(u64),
    }
    use Step::{Ended, EndedBefore, Lived, Told};

    #[test]
    fn what_is_known_bounds_what_is_taken() {
        const ANY: Duration = Duration::MAX;
        for (steps, idempotent, others) in [
            (&[][..], ANY, UNKNOWN),
            (&[Told("timeout=5")], ms(4_000), ms(4_000)),
            (&[Told("max=99, Timeout=75")], ms(74_000), ms(74_000)),
            (&[Told("timeout=1")], LEAST, ms(0)),
            (&[Told("timeout=0")], LEAST, ms(0)),
            (&[Told("max=5")], ANY, UNKNOWN),
            (&[Told("timeout=-5")], ANY, UNKNOWN),
            (
                &[Told("timeout=99999999999")],
                ms(u32::MAX as u64 - 1_000),
                ms(u32::MAX as u64 - 1_000),
            ),
            (&[Told("timeout=5"), Told("timeout=9")], ms(8_000), ms(8_000)),
            (&[Ended(3_000)], ANY, ms(2_000)),
            (&[Ended(3_000), Ended(5_000)], ANY, ms(2_000)),
            (&[Ended(5_000), Ended(3_000)], ANY, ms(2_000)),
            // It ended at some time before 30 s, perhaps at 2 s.
            (&[EndedBefore(30_000)], ANY, UNKNOWN),
            (&[EndedBefore(1_500)], ANY, ms(500)),
            (&[Ended(5_000), EndedBefore(3_000)], ANY, ms(2_000)),
            (&[Told("timeout=9"), Ended(3_000)], ms(8_000), ms(2_000)),
            // A restart.
            (&[Ended(0), Ended(10), Ended(900)], ANY, UNKNOWN),
            (&[Ended(1_000)], ANY, LEAST),
            (&[Ended(1_000), Lived(4_000)], ANY, ms(3_000)),
            (&[Ended(4_000), Lived(3_000)], ANY, ms(3_000)),
            (&[Lived(4_000)], ANY, UNKNOWN),
            (&[Ended(1_000), Told("timeout=5")], ms(4_000), ms(4_000)),
        ] {
            let limit = IdleLimit::default();
            for step in steps {
                match *step {
                    Told(value) => limit.told(value.as_bytes()),
                    Ended(age) => limit.ended(ms(age), true),
                    EndedBefore(age) => limit.ended(ms(age), false),
                    Lived(age) => limit.lived(ms(age)),
                }
            }
            let got = [limit.most_idle(true), limit.most_idle(false)];
            assert_eq!(got, [idempotent, others], "{limit:?}");
        }
    }
}
