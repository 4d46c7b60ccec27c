//! Errors that clients see and that we make: 502, 503, 504, and answers that are cut. They are
//! logged once a minute for each upstream and reason, with a count.
//!
//! No clock: the caller passes the time. Not here: errors that upstreams answer (they go
//! through), lines for each exchange (`exchange/record.rs`).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lock::Lock;
use crate::upstream::{Upstream, UpstreamId};

/// The least time between two lines about the same upstream, status and reason.
pub const TELL_PAUSE: Duration = Duration::from_secs(60);

/// Counts errors, and logs them. It has at most one entry for each upstream, status and reason;
/// reasons are texts of the program.
#[derive(Default)]
pub struct ErrorLog(Lock<HashMap<Kind, Entry>>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    upstream: Option<UpstreamId>,
    status: u16,
    is_aborted: bool,
    why: &'static str,
}

struct Entry {
    upstream: Option<Arc<Upstream>>,
    /// Errors since the last line.
    untold: u64,
    /// When the last line was written.
    told_at: Instant,
}

/// One line of the log.
struct Line {
    kind: Kind,
    upstream: Option<Arc<Upstream>>,
    count: u64,
}

impl ErrorLog {
    /// One client got `status` from us because of `why`; `is_aborted`: a part of the answer with that
    /// status, and no more.
    pub fn count(
        &self,
        upstream: Option<&Arc<Upstream>>,
        status: u16,
        is_aborted: bool,
        why: &'static str,
        now: Instant,
    ) {
        let kind = Kind { upstream: upstream.map(|known| known.id()), status, is_aborted, why };
        let mut is_new = false;
        let line = {
            let mut entries = self.0.lock();
            let entry = entries.entry(kind).or_insert_with(|| {
                is_new = true;
                Entry { upstream: upstream.cloned(), untold: 0, told_at: now }
            });
            entry.untold += 1;
            entry.line(kind, is_new, now)
        };
        line.iter().for_each(Line::write);
    }

    /// Logs what was only counted since the last line about it, if that is long enough ago.
    /// `at_once`: however long ago that is.
    pub fn tell_pending(&self, at_once: bool, now: Instant) {
        let lines: Vec<Line> = {
            let mut entries = self.0.lock();
            entries.iter_mut().filter_map(|(kind, entry)| entry.line(*kind, at_once, now)).collect()
        };
        lines.iter().for_each(Line::write);
    }
}

impl Entry {
    fn line(&mut self, kind: Kind, at_once: bool, now: Instant) -> Option<Line> {
        let is_due = at_once || now.saturating_duration_since(self.told_at) >= TELL_PAUSE;
        if self.untold == 0 || !is_due {
            return None;
        }
        self.told_at = now;
        let count = std::mem::take(&mut self.untold);
        Some(Line { kind, upstream: self.upstream.clone(), count })
    }
}

impl Line {
    fn write(&self) {
        log::warn!("{self}");
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kind { status, is_aborted, why, .. } = self.kind;
        let upstream = self.upstream.as_ref().map_or("-", |upstream| upstream.name());
        let aborted = if is_aborted { " aborted" } else { "" };
        write!(f, "upstream={upstream} status={status} count={}{aborted}: {why}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::test_upstreams;

    #[test]
    fn each_kind_is_told_at_first_then_once_a_minute_with_all_that_came_meanwhile() {
        let kind = Kind { upstream: None, status: 502, is_aborted: false, why: "x" };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut entry = Entry { upstream: None, untold: 1, told_at: start };
        let mut told = |more: u64, at_once, seconds| {
            entry.untold += more;
            entry.line(kind, at_once, at(seconds)).map(|line| line.to_string())
        };
        assert_eq!(told(0, true, 0).unwrap(), "upstream=- status=502 count=1: x");
        assert_eq!(told(16, false, 59), None);
        assert_eq!(told(1, false, 60).unwrap(), "upstream=- status=502 count=17: x");
        assert_eq!(told(0, false, 600), None, "nothing has come");
        assert_eq!(told(2, true, 601).unwrap(), "upstream=- status=502 count=2: x");
    }

    #[test]
    fn it_holds_one_entry_for_each_upstream_status_and_reason() {
        let (log, upstreams, now) = (ErrorLog::default(), test_upstreams(2), Instant::now());
        for _ in 0..100 {
            for upstream in &upstreams {
                log.count(Some(upstream), 502, false, "lost", now);
                log.count(Some(upstream), 504, false, "late", now);
                log.count(Some(upstream), 200, true, "lost", now);
            }
            log.count(None, 503, false, "none", now);
        }
        let untold = |log: &ErrorLog| log.0.lock().values().map(|e| e.untold).sum::<u64>();
        assert_eq!(log.0.lock().len(), 7);
        assert_eq!(untold(&log), 7 * 99);
        log.tell_pending(false, now);
        assert_eq!(untold(&log), 7 * 99);
        log.tell_pending(false, now + TELL_PAUSE);
        assert_eq!(untold(&log), 0);
    }
}
