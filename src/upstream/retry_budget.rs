//! How many requests may be sent a second time to upstreams that had already begun to work on them.
//!
//! Without a bound, an upstream that breaks under load would get each request several times and
//! could never recover. The budget is a share of all requests, so that retries grow with the
//! traffic, and a floor a second, so that a quiet balancer may retry too. Not here: which request
//! may be retried (`exchange/retry.rs`). Retries that follow a failed connect are free: nothing was
//! sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::lock::Lock;

/// The most retries that can be saved up.
const MOST_SAVED: f64 = 1_000.0;

/// A balance of retries, filled by requests and by time.
pub struct Budget {
    share: f64,
    floor_per_second: f64,
    requests: AtomicU64,
    account: Lock<Account>,
}

struct Account {
    saved: f64,
    requests_seen: u64,
    settled_at: Instant,
}

impl Budget {
    /// `percent` of the requests, and `floor` retries a second beside them.
    pub fn new(percent: u32, floor: u32, now: Instant) -> Self {
        Budget {
            share: f64::from(percent) / 100.0,
            floor_per_second: f64::from(floor),
            requests: AtomicU64::new(0),
            account: Lock::new(Account {
                saved: f64::from(floor),
                requests_seen: 0,
                settled_at: now,
            }),
        }
    }

    /// Counts one request from a client. Called for each, so it is one atomic addition.
    pub fn deposit(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self, now: Instant) -> bool {
        let requests = self.requests.load(Ordering::Relaxed);
        let mut account = self.account.lock();
        let seconds = now.saturating_duration_since(account.settled_at).as_secs_f64();
        let earned = self.share * requests.saturating_sub(account.requests_seen) as f64
            + self.floor_per_second * seconds;
        account.saved = (account.saved + earned).min(MOST_SAVED);
        account.requests_seen = requests.max(account.requests_seen);
        account.settled_at = now.max(account.settled_at);
        if account.saved < 1.0 {
            return false;
        }
        account.saved -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn withdrawals(budget: &Budget, now: Instant) -> usize {
        (0..5_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn retries_are_a_share_of_the_requests_and_a_floor_a_second() {
        let start = Instant::now();
        let budget = Budget::new(20, 10, start);
        assert_eq!(withdrawals(&budget, start), 10, "the first second's floor");
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(withdrawals(&budget, start), 20, "a fifth of the requests");
        assert_eq!(withdrawals(&budget, start + Duration::from_secs(3)), 30, "the floor");
        assert_eq!(withdrawals(&budget, start), 0, "a clock that goes back earns nothing");
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let start = Instant::now();
        let budget = Budget::new(20, 10, start);
        assert_eq!(withdrawals(&budget, start + Duration::from_secs(86_400)), 1_000);
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let start = Instant::now();
        let budget = Budget::new(0, 0, start);
        budget.deposit();
        assert!(!budget.withdraw(start + Duration::from_secs(60)));
    }
}
