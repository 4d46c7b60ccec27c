//! A limit for log messages that could repeat without end. No clock: the caller passes the time.

use std::time::{Duration, Instant};

/// Lets one message into the log at most once a minute.
#[derive(Default)]
pub struct LogThrottle(Option<Instant>);

impl LogThrottle {
    /// The least time between two messages.
    pub const PAUSE: Duration = Duration::from_secs(60);

    /// Whether the message may be written now. If so, the next minute's are suppressed.
    pub fn may_log(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|last| now.saturating_duration_since(last) >= Self::PAUSE);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_logged_at_most_once_a_minute() {
        let (start, mut throttle) = (Instant::now(), LogThrottle::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(throttle.may_log(at(0)));
        assert!(!throttle.may_log(at(59)));
        assert!(throttle.may_log(at(60)));
        assert!(!throttle.may_log(at(61)));
    }
}
