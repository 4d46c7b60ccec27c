//! Who may ask how often: at most so many requests of one client within any minute.
//!
//! Exact and pure: no clock, no thread; `now` is an argument. Not here: who a client is (`client_addr.rs`),
//! the answer to a refused request (`session/`), when to sweep (`background/rate_limit_sweep.rs`).
//!
//! Of each client the admitted requests of the last minute are kept, counted by tenths of a second.
//! A tenth is forgotten a minute after its *end*, so rounding never admits too much; it may refuse
//! a place for up to a tenth of a second after it came free.
//!
//! What an address costs matters more than what a busy client costs, since addresses are what an
//! attacker has many of: a client with one request takes 32 bytes in the map, 16 in the queue, and
//! no allocation of its own (a million of them: 85 MiB measured, 142 MiB when all have come again).
//! A busy one takes 8 bytes more for each tenth in which it was admitted.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client_addr;
use crate::lock::Lock;

/// The span over which requests are counted.
pub const WINDOW: Duration = Duration::from_secs(60);
/// The resolution at which admitted requests are remembered, in milliseconds.
const SLOT_MS: u64 = 100;
/// Slots after which what was admitted in one no longer counts: a window, and the rest of the slot.
const SLOTS_COUNTED: u64 = WINDOW.as_millis() as u64 / SLOT_MS + 1;
/// The most shards that a table has; each has its own lock.
const MOST_SHARDS: usize = 16;
/// The fewest clients that make another shard worth while; fewer fill unevenly.
const FEWEST_CLIENTS_A_SHARD: usize = 256;
/// Clients that a sweep looks at before it lets others have the shard's lock.
const CLIENTS_A_SWEEP_STEP: usize = 512;

/// Decides which requests are admitted, and remembers them.
pub struct Limiter {
    per_minute: u32,
    epoch: Instant,
    shards: Box<[Shard]>,
    evicted: AtomicU64,
}

struct Shard {
    /// The clients that it remembers at most.
    capacity: usize,
    table: Lock<Table>,
}

/// The clients of one shard. Each is in the map once and in the queue once. The map's order is
/// never looked at, so the random state of its hasher, which keeps collisions from being made on
/// purpose, decides nothing.
#[derive(Default)]
struct Table {
    clients: HashMap<u64, Client>,
    /// Seen longest ago first. A client that is seen again is queued again, and its earlier place
    /// is then stale.
    queue: VecDeque<Sighting>,
    sightings: u32,
}

/// A place in the queue; stale unless it is its client's last sighting.
#[derive(Clone, Copy)]
struct Sighting {
    key: u64,
    number: u32,
}

/// The admitted requests of one client that still count. Never empty.
struct Client {
    newest: Run,
    #[expect(
        clippy::box_collection,
        reason = "most clients have none; a word is what it may cost"
    )]
    older: Option<Box<VecDeque<Run>>>,
    /// All that still count, `newest` and `older` together.
    admitted: u32,
    last_sighting: u32,
}

/// Requests that were admitted within one slot.
#[derive(Clone, Copy)]
struct Run {
    /// Slots since the epoch; enough for 13 years.
    slot: u32,
    count: u32,
}

impl Limiter {
    /// `per_minute` requests a client within any minute; at most `clients` are remembered.
    pub fn new(per_minute: u32, clients: usize, now: Instant) -> Self {
        let clients = clients.max(1);
        let shards = (clients / FEWEST_CLIENTS_A_SHARD).clamp(1, MOST_SHARDS);
        let share = |i| clients / shards + usize::from(i < clients % shards);
        Limiter {
            per_minute,
            epoch: now,
            shards: (0..shards)
                .map(|i| Shard { capacity: share(i), table: Lock::default() })
                .collect(),
            evicted: AtomicU64::new(0),
        }
    }

    /// Admits a request of `who`, or tells how long it would have to wait to be admitted. What is
    /// refused does not count, so a client that goes on asking is still served at its rate.
    pub fn admit(&self, who: IpAddr, now: Instant) -> Result<(), Duration> {
        if self.per_minute == 0 {
            return Err(WINDOW);
        }
        let (key, slot) = (client_addr::key_of(who), self.slot(now));
        let shard = self.shard(key);
        let mut table = shard.table.lock();
        if let Some(client) = table.clients.get_mut(&key) {
            client.forget_expired(slot);
            let verdict = if client.admitted < self.per_minute {
                client.count_one(slot);
                Ok(())
            } else {
                Err(self.until_slot(client.oldest().expires_at(), now))
            };
            table.saw(key);
            return verdict;
        }
        if table.clients.len() >= shard.capacity && table.evict_one() {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
        table.clients.insert(key, Client::new(slot));
        table.saw(key);
        Ok(())
    }

    /// Forgets clients of which nothing counts any more, and gives back memory.
    pub fn sweep(&self, now: Instant) {
        let slot = self.slot(now);
        for shard in &self.shards {
            let mut left = shard.table.lock().queue.len();
            while left > 0 {
                let step = left.min(CLIENTS_A_SWEEP_STEP);
                if !shard.table.lock().sweep(slot, step) {
                    break;
                }
                left -= step;
            }
            shard.table.lock().shrink();
        }
    }

    /// Clients that were forgotten because the table was full.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Clients that are remembered now.
    pub fn clients(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.lock().clients.len()).sum()
    }

    /// The slot of `now`; what lies before the epoch is the first slot.
    fn slot(&self, now: Instant) -> u32 {
        let slot = now.saturating_duration_since(self.epoch).as_millis() / u128::from(SLOT_MS);
        u32::try_from(slot).unwrap_or(u32::MAX)
    }

    fn until_slot(&self, slot: u64, now: Instant) -> Duration {
        let begin = Duration::from_millis(slot.saturating_mul(SLOT_MS));
        begin.saturating_sub(now.saturating_duration_since(self.epoch))
    }

    fn shard(&self, key: u64) -> &Shard {
        // Neighbouring addresses differ in their low bits; a product's high bits depend on all of
        // them.
        let mixed = (key ^ (key >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let index = (u128::from(mixed) * self.shards.len() as u128) >> 64;
        &self.shards[index as usize]
    }
}

impl Table {
    /// Queues a client as the one that was seen last.
    fn saw(&mut self, key: u64) {
        const SPARE: usize = 64;
        let Some(client) = self.clients.get_mut(&key) else { return };
        if self.queue.back().is_some_and(|last| last.key == key) {
            return;
        }
        self.sightings = self.sightings.wrapping_add(1);
        client.last_sighting = self.sightings;
        self.queue.push_back(Sighting { key, number: self.sightings });
        if self.queue.len() > 2 * self.clients.len() + SPARE {
            let clients = &self.clients;
            self.queue.retain(|sighting| sighting.is_last_of(clients.get(&sighting.key)));
        }
    }

    /// Forgets the client seen longest ago.
    fn evict_one(&mut self) -> bool {
        while let Some(sighting) = self.queue.pop_front() {
            if sighting.is_last_of(self.clients.get(&sighting.key)) {
                return self.clients.remove(&sighting.key).is_some();
            }
        }
        false
    }

    /// Looks at `most` places from the front of the queue. Returns whether it is worth going on:
    /// behind a client that still counts, all were seen later, and their time will come.
    fn sweep(&mut self, slot: u32, most: usize) -> bool {
        for _ in 0..most {
            let Some(sighting) = self.queue.front() else { return false };
            let client = self.clients.get(&sighting.key);
            if sighting.is_last_of(client) {
                if client.is_some_and(|client| client.newest.still_counts(slot)) {
                    return false;
                }
                self.clients.remove(&sighting.key);
            }
            self.queue.pop_front();
        }
        true
    }

    /// Gives back most of what a flood has left empty.
    fn shrink(&mut self) {
        const SPARSE: usize = 8;
        if self.clients.capacity() / SPARSE > self.clients.len() {
            self.clients.shrink_to(2 * self.clients.len());
            self.queue.shrink_to(2 * self.queue.len());
        }
    }
}

impl Sighting {
    fn is_last_of(self, client: Option<&Client>) -> bool {
        client.is_some_and(|client| client.last_sighting == self.number)
    }
}

impl Client {
    fn new(slot: u32) -> Self {
        let newest = Run { slot, count: 1 };
        Client { newest, older: None, admitted: 1, last_sighting: 0 }
    }

    fn oldest(&self) -> Run {
        self.older.as_ref().and_then(|older| older.front().copied()).unwrap_or(self.newest)
    }

    fn forget_expired(&mut self, slot: u32) {
        if let Some(older) = &mut self.older {
            while let Some(run) = older.front().filter(|run| !run.still_counts(slot)) {
                self.admitted -= run.count;
                older.pop_front();
            }
            if older.is_empty() {
                self.older = None;
            }
        }
        if !self.newest.still_counts(slot) {
            self.admitted -= self.newest.count;
            self.newest = Run { slot, count: 0 };
        }
    }

    /// Counts one admitted request. A clock that went back counts as standing still.
    fn count_one(&mut self, slot: u32) {
        if slot > self.newest.slot {
            if self.newest.count > 0 {
                self.older.get_or_insert_default().push_back(self.newest);
            }
            self.newest = Run { slot, count: 0 };
        }
        self.newest.count += 1;
        self.admitted += 1;
    }
}

impl Run {
    /// The first slot in which it no longer counts.
    fn expires_at(self) -> u64 {
        u64::from(self.slot) + SLOTS_COUNTED
    }

    fn still_counts(self, slot: u32) -> bool {
        u64::from(slot) < self.expires_at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const MS: Duration = Duration::from_millis(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn a_full_burst_is_admitted_and_a_place_is_free_again_a_minute_later() {
        let start = Instant::now();
        let limiter = Limiter::new(3, 10, start);
        let who = ip("192.0.2.1");
        for _ in 0..3 {
            assert_eq!(limiter.admit(who, start + 50 * MS), Ok(()));
        }
        assert_eq!(limiter.admit(who, start + 50 * MS), Err(60_050 * MS));
        assert_eq!(limiter.admit(who, start + 60_099 * MS), Err(MS));
        for _ in 0..3 {
            assert_eq!(limiter.admit(who, start + 60_100 * MS), Ok(()));
        }
        assert!(limiter.admit(who, start + 60_100 * MS).is_err());
    }

    #[test]
    fn places_come_free_one_by_one_and_refusals_take_none() {
        let start = Instant::now();
        let limiter = Limiter::new(2, 10, start);
        let who = ip("192.0.2.1");
        assert_eq!(limiter.admit(who, start), Ok(()));
        assert_eq!(limiter.admit(who, start + 30_000 * MS), Ok(()));
        for second in 31..60 {
            let wait = limiter.admit(who, start + second * 1000 * MS).unwrap_err();
            assert_eq!(wait, (60_100 - second * 1000) * MS);
        }
        assert_eq!(limiter.admit(who, start + 60_100 * MS), Ok(()));
        assert_eq!(limiter.admit(who, start + 60_100 * MS), Err(30_000 * MS));
    }

    /// Against the plainest limiter there is: a list of the times that were admitted.
    #[test]
    fn any_minute_holds_at_most_the_limit_and_nobody_is_refused_without_cause() {
        for seed in 0..40 {
            let mut random = StdRng::seed_from_u64(seed);
            let (start, limit) = (Instant::now(), random.random_range(1..80));
            let limiter = Limiter::new(limit, 10, start);
            let mut admitted: Vec<u64> = Vec::new();
            let mut at = 0;
            for _ in 0..4_000 {
                at += match random.random_range(0..50) {
                    0 => random.random_range(0..70_000),
                    1..20 => random.random_range(0..3_000),
                    _ => random.random_range(0..120),
                };
                let within =
                    |ms| admitted.iter().rev().take_while(|&&then| then + ms > at).count() as u32;
                let answer = limiter.admit(ip("2001:db8::1"), start + (at as u32) * MS);
                match answer {
                    Ok(()) => {
                        assert!(within(60_000) < limit, "seed {seed}: too many at {at} ms");
                        admitted.push(at);
                    }
                    Err(wait) => {
                        assert!(within(60_100) >= limit, "seed {seed}: refused at {at} ms");
                        assert!(wait > Duration::ZERO && wait <= 60_100 * MS, "seed {seed}");
                        if random.random_bool(0.1) {
                            at += wait.as_millis() as u64;
                            let answer = limiter.admit(ip("2001:db8::1"), start + (at as u32) * MS);
                            assert_eq!(answer, Ok(()), "seed {seed}: waited as told");
                            admitted.push(at);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("0.0.0.1", "::1", false),
        ] {
            let limiter = Limiter::new(1, 10, Instant::now());
            assert_eq!(limiter.admit(ip(one), limiter.epoch), Ok(()));
            let refused = limiter.admit(ip(other), limiter.epoch).is_err();
            assert_eq!(refused, same, "{one} and {other}");
        }
    }

    #[test]
    fn a_full_table_forgets_who_was_seen_longest_ago_and_counts_it() {
        let now = Instant::now();
        let limiter = Limiter::new(1, 3, now);
        (0..3).for_each(|i| assert_eq!(limiter.admit(v4(i), now), Ok(())));
        assert!(limiter.admit(v4(0), now).is_err(), "refused, but seen");
        assert_eq!((limiter.clients(), limiter.evicted()), (3, 0));
        assert_eq!(limiter.admit(v4(9), now), Ok(()));
        assert_eq!((limiter.clients(), limiter.evicted()), (3, 1));
        assert!(limiter.admit(v4(0), now).is_err(), "still known");
        assert!(limiter.admit(v4(2), now).is_err(), "still known");
        assert_eq!(limiter.admit(v4(1), now), Ok(()), "the one that was forgotten");
    }

    #[test]
    fn a_flood_of_addresses_stays_within_the_bound_whatever_it_is() {
        let now = Instant::now();
        for bound in [0, 1, 255, 511, 5_000] {
            let limiter = Limiter::new(5, bound, now);
            (0..20_000).for_each(|i| assert_eq!(limiter.admit(v4(i), now), Ok(())));
            let clients = limiter.clients();
            assert!(clients <= bound.max(1), "{clients} of {bound}");
            assert!(clients >= bound * 9 / 10, "addresses in a row fill all shards: {clients}");
            assert_eq!(limiter.evicted() as usize, 20_000 - clients);
        }
    }

    #[test]
    fn a_sweep_forgets_those_of_whom_nothing_counts_and_nobody_else() {
        let start = Instant::now();
        let limiter = Limiter::new(2, 10_000, start);
        (0..5_000).for_each(|i| assert_eq!(limiter.admit(v4(i), start), Ok(())));
        (0..100).for_each(|i| assert_eq!(limiter.admit(v4(i), start + 30_000 * MS), Ok(())));
        limiter.sweep(start + 60_099 * MS);
        assert_eq!(limiter.clients(), 5_000);
        limiter.sweep(start + 60_100 * MS);
        assert_eq!(limiter.clients(), 100);
        for i in 0..100 {
            assert_eq!(limiter.admit(v4(i), start + 60_100 * MS), Ok(()));
            assert!(limiter.admit(v4(i), start + 60_100 * MS).is_err(), "its past still counts");
        }
        limiter.sweep(start + 200_000 * MS);
        assert_eq!((limiter.clients(), limiter.evicted()), (0, 0));
        for shard in &limiter.shards {
            let table = shard.table.lock();
            assert!(table.queue.is_empty() && table.clients.capacity() < 32, "memory goes back");
        }
    }

    #[test]
    fn a_clock_that_goes_back_neither_panics_nor_forgets() {
        let start = Instant::now() + WINDOW;
        let limiter = Limiter::new(2, 10, start);
        let who = ip("192.0.2.1");
        assert_eq!(limiter.admit(who, start + 1_000 * MS), Ok(()));
        assert_eq!(limiter.admit(who, start - 5_000 * MS), Ok(()));
        assert_eq!(limiter.admit(who, start - 5_000 * MS), Err(61_100 * MS));
        limiter.sweep(start - 5_000 * MS);
        assert_eq!(limiter.admit(who, start + 61_000 * MS), Err(100 * MS));
        assert_eq!(limiter.admit(who, start + 61_100 * MS), Ok(()));
    }

    #[test]
    fn what_is_kept_of_a_client_is_small() {
        assert!(size_of::<(u64, Client)>() <= 32);
        let start = Instant::now();
        let limiter = Limiter::new(u32::MAX, 1, start);
        for i in 0..30_000 {
            assert_eq!(limiter.admit(v4(1), start + i * 10 * MS), Ok(()));
        }
        let table = limiter.shards[0].table.lock();
        let older = table.clients.values().next().and_then(|client| client.older.as_ref()).unwrap();
        assert!(older.len() < SLOTS_COUNTED as usize, "{} runs", older.len());
    }

    #[test]
    fn threads_share_one_count() {
        let now = Instant::now();
        let limiter = Limiter::new(1_000, 100, now);
        let admitted: usize = std::thread::scope(|scope| {
            let asks = || (0..600).filter(|_| limiter.admit(v4(7), now).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(asks)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1_000);
    }
}
