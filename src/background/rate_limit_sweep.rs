//! The rate-limit thread: makes the limiter forget clients that have been quiet, and says so when
//! the table is too small.
//!
//! The limit is exact without it; this is for memory. Not here: the limit itself (`rate_limit/`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Background, Stop};
use crate::log_throttle::LogThrottle;
use crate::rate_limit::Limiter;
use crate::state::ProxyState;

/// Time between two sweeps.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The running thread; there is none if there is no limit. Dropping it stops it.
pub struct RateLimitThread {
    _thread: Option<Background>,
}

impl RateLimitThread {
    /// Starts to sweep.
    pub fn start(state: Arc<ProxyState>) -> io::Result<Self> {
        let thread = (state.limiter.is_some())
            .then(|| Background::start("rate-limit", move |stop| sweep_until_told(&state, stop)));
        Ok(RateLimitThread { _thread: thread.transpose()? })
    }

    /// Ends the thread, and waits for its end.
    pub fn stop(self) {}
}

fn sweep_until_told(state: &ProxyState, stop: &Stop) {
    let Some(limiter) = &state.limiter else { return };
    let mut evictions = Evictions::default();
    while !stop.wait(Instant::now() + SWEEP_INTERVAL) {
        let now = Instant::now();
        limiter.sweep(now);
        if let Some(news) = evictions.news(limiter, now) {
            log::warn!(
                "the rate limit's table is full: {news} clients were forgotten while they still \
                 counted; raise the number of clients it remembers ({})",
                state.config.limits.rate_limit_clients
            );
        }
    }
}

/// What has been said of evicted clients.
#[derive(Default)]
struct Evictions {
    told: u64,
    throttle: LogThrottle,
}

impl Evictions {
    /// How many there were since they were told of last, if it is time to tell.
    fn news(&mut self, limiter: &Limiter, now: Instant) -> Option<u64> {
        let evicted = limiter.evicted();
        if evicted == self.told || !self.throttle.may_log(now) {
            return None;
        }
        let news = evicted - self.told;
        self.told = evicted;
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::upstream::Upstreams;
    use std::net::{IpAddr, Ipv4Addr};

    fn state(requests_per_minute: u32) -> Arc<ProxyState> {
        let mut config = Config::default();
        config.limits.requests_per_minute = requests_per_minute;
        let upstreams = Upstreams::new(&config, Vec::new(), 1);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(120));
        Arc::new(ProxyState::new(config, upstreams, long_ago.unwrap_or_else(Instant::now)))
    }

    #[test]
    fn quiet_clients_are_forgotten_and_the_thread_ends_when_told() {
        let state = state(1);
        let limiter = state.limiter.as_ref().unwrap();
        let who = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let now = Instant::now();
        let Some(long_ago) = now.checked_sub(Duration::from_secs(90)) else { return };
        limiter.admit(who, long_ago).unwrap();
        let thread = RateLimitThread::start(state.clone()).unwrap();
        while limiter.clients() > 0 {
            assert!(now.elapsed() < 10 * SWEEP_INTERVAL, "nobody swept");
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.stop();
        assert_eq!(Arc::strong_count(&state), 1, "the thread has ended");
    }

    #[test]
    fn without_a_limit_there_is_no_thread() {
        let state = state(0);
        let _thread = RateLimitThread::start(state.clone()).unwrap();
        assert_eq!(Arc::strong_count(&state), 1);
    }

    #[test]
    fn evictions_are_told_with_their_number_once_a_minute() {
        let start = Instant::now();
        let limiter = Limiter::new(1, 1, start);
        let mut evictions = Evictions::default();
        let mut next = 0;
        let mut admit = |count| {
            for _ in 0..count {
                next += 1;
                limiter.admit(IpAddr::V4(Ipv4Addr::from_bits(next)), start).unwrap();
            }
        };
        admit(1);
        assert_eq!(evictions.news(&limiter, start), None);
        admit(3);
        assert_eq!(evictions.news(&limiter, start), Some(3));
        admit(2);
        assert_eq!(evictions.news(&limiter, start + LogThrottle::PAUSE / 2), None);
        admit(2);
        assert_eq!(evictions.news(&limiter, start + LogThrottle::PAUSE), Some(4));
        assert_eq!(evictions.news(&limiter, start + 2 * LogThrottle::PAUSE), None);
    }
}
