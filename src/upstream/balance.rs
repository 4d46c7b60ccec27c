//! How an upstream is chosen among those that may be chosen.
//!
//! Pure but for counters: no lock, no clock, and no random numbers but those drawn from the seed
//! that is handed in. Not here: who may be chosen (`health.rs`, `mod.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{Upstream, UpstreamId};
use crate::config::Policy;

/// Those of a list that a request has not tried, with numbers from 0. The list is not copied, so
/// that being one of many costs a request nothing.
pub struct Candidates<'a> {
    list: &'a [Arc<Upstream>],
    /// The indices of those that it has tried, from the lowest to the highest.
    tried: Vec<usize>,
}

impl<'a> Candidates<'a> {
    /// Those of `list`, which is in the order of the ids, without those that were `tried`.
    pub fn new(list: &'a [Arc<Upstream>], tried: &[UpstreamId]) -> Self {
        let index = |id: &UpstreamId| list.binary_search_by_key(id, |upstream| upstream.id()).ok();
        let mut tried: Vec<_> = tried.iter().filter_map(index).collect();
        tried.sort_unstable();
        tried.dedup();
        Candidates { list, tried }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len() - self.tried.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one with this number, which is below `len`.
    pub fn get(&self, number: usize) -> &'a Arc<Upstream> {
        let skip = |index, &tried: &usize| index + usize::from(tried <= index);
        &self.list[self.tried.iter().fold(number, skip)]
    }
}

/// A way of choosing.
pub trait Balance: Send + Sync {
    /// The number of the chosen one. There is at least one. `again` says that this request was with
    /// another one before: it must not use up a turn, or the one after a broken upstream would get
    /// no requests of its own.
    fn pick(&self, among: &Candidates<'_>, again: bool) -> usize;
}

/// The implementation of `policy`; what it does at random follows from `seed`.
pub fn of_policy(policy: Policy, seed: u64) -> Box<dyn Balance> {
    let draws = Draws(AtomicU64::new(seed));
    match policy {
        Policy::RoundRobin => Box::new(RoundRobin { cursor: Cursor::from(&draws) }),
        Policy::Random => Box::new(Random { draws }),
        Policy::LeastRequests => Box::new(LeastRequests { cursor: Cursor::from(&draws) }),
        Policy::TwoChoices => Box::new(TwoChoices { draws }),
    }
}

/// One after the other.
struct RoundRobin {
    cursor: Cursor,
}

impl Balance for RoundRobin {
    fn pick(&self, among: &Candidates<'_>, again: bool) -> usize {
        self.cursor.next(among.len(), again)
    }
}

/// Any, with equal chance.
struct Random {
    draws: Draws,
}

impl Balance for Random {
    fn pick(&self, among: &Candidates<'_>, _again: bool) -> usize {
        self.draws.below(among.len())
    }
}

/// The fewest exchanges in flight; among equals, one after the other. Whoever has none is not to be
/// outdone, so all are looked at only if all are busy.
struct LeastRequests {
    cursor: Cursor,
}

impl Balance for LeastRequests {
    fn pick(&self, among: &Candidates<'_>, again: bool) -> usize {
        let start = self.cursor.next(among.len(), again);
        let (mut fewest, mut chosen) = (usize::MAX, start);
        for numbers in [start..among.len(), 0..start] {
            for number in numbers {
                let in_flight = among.get(number).in_flight();
                if in_flight < fewest {
                    (fewest, chosen) = (in_flight, number);
                }
                if fewest == 0 {
                    return chosen;
                }
            }
        }
        chosen
    }
}

/// The better of two different ones drawn at random: nearly as even as looking at all of them, at
/// the cost of looking at two, and no herd runs to the one that was the best a moment ago.
struct TwoChoices {
    draws: Draws,
}

impl Balance for TwoChoices {
    fn pick(&self, among: &Candidates<'_>, _again: bool) -> usize {
        let one = self.draws.below(among.len());
        if among.len() == 1 {
            return one;
        }
        let step = 1 + self.draws.below(among.len() - 1);
        let other = (one + step) % among.len();
        if among.get(other).in_flight() < among.get(one).in_flight() { other } else { one }
    }
}

/// Whose turn it is.
struct Cursor(AtomicUsize);

impl Cursor {
    fn from(draws: &Draws) -> Self {
        // Half the range is left, so that the count does not wrap within the life of a process.
        Cursor(AtomicUsize::new(draws.next() as usize >> 1))
    }

    fn next(&self, len: usize, again: bool) -> usize {
        self.0.fetch_add(usize::from(!again), Ordering::Relaxed) % len
    }
}

/// SplitMix64: a stream of well-mixed numbers that threads can draw from without a lock.
struct Draws(AtomicU64);

impl Draws {
    fn next(&self) -> u64 {
        const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `len` - 1; the bias is below `len` / 2^64.
    fn below(&self, len: usize) -> usize {
        ((u128::from(self.next()) * len as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Chosen, test_upstreams};

    fn all(list: &[Arc<Upstream>]) -> Candidates<'_> {
        Candidates::new(list, &[])
    }

    #[test]
    fn candidates_are_those_of_the_list_that_were_not_tried() {
        let list = test_upstreams(6);
        let without_one: Vec<_> = [&list[..2], &list[3..]].concat();
        let rows: [&[usize]; 7] =
            [&[], &[0], &[5], &[3, 1], &[4, 0, 0, 5], &[2, 9], &[5, 4, 3, 1, 0]];
        for list in [&list, &without_one] {
            for tried in rows {
                let ids: Vec<_> = tried.iter().map(|&i| UpstreamId(i)).collect();
                let candidates = Candidates::new(list, &ids);
                let found: Vec<_> =
                    (0..candidates.len()).map(|number| candidates.get(number).id()).collect();
                let expected = list.iter().map(|u| u.id()).filter(|id| !ids.contains(id));
                assert_eq!(found, expected.collect::<Vec<_>>(), "{tried:?}");
                assert_eq!(candidates.is_empty(), found.is_empty());
            }
        }
    }

    fn counts(policy: Policy, upstreams: usize, picks: usize) -> Vec<usize> {
        let (balance, live) = (of_policy(policy, 7), test_upstreams(upstreams));
        let mut counts = vec![0; upstreams];
        for _ in 0..picks {
            counts[balance.pick(&all(&live), false)] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_is_exactly_even() {
        assert_eq!(counts(Policy::RoundRobin, 3, 90), [30, 30, 30]);
    }

    #[test]
    fn a_second_choice_uses_up_no_turn() {
        let (balance, live) = (of_policy(Policy::RoundRobin, 7), test_upstreams(2));
        let first: Vec<_> = (0..4)
            .map(|_| {
                let first = balance.pick(&all(&live), false);
                balance.pick(&all(&live[..1]), true);
                first
            })
            .collect();
        assert!(first == [0, 1, 0, 1] || first == [1, 0, 1, 0], "{first:?}");
    }

    #[test]
    fn least_requests_takes_turns_among_equals() {
        assert_eq!(counts(Policy::LeastRequests, 3, 90), [30, 30, 30]);
    }

    #[test]
    fn random_policies_come_near_to_even() {
        for policy in [Policy::Random, Policy::TwoChoices] {
            for count in counts(policy, 4, 40_000) {
                assert!((9_500..10_500).contains(&count), "{policy:?}: {count} of 40,000");
            }
        }
    }

    #[test]
    fn a_busy_upstream_is_spared() {
        let live = test_upstreams(2);
        let _busy: Vec<_> = (0..5).map(|_| live[0].begin(Chosen::Live)).collect();
        for policy in [Policy::LeastRequests, Policy::TwoChoices] {
            let balance = of_policy(policy, 1);
            assert!((0..20).all(|_| balance.pick(&all(&live), false) == 1), "{policy:?}");
        }
    }

    #[test]
    fn the_first_with_the_fewest_requests_is_chosen_whoever_is_idle() {
        // In flight, and whose turn follows: the first from there on with the fewest.
        for (in_flight, chosen) in [
            ([0, 0, 0, 0], [0, 1, 2, 3]),
            ([2, 0, 3, 0], [1, 1, 3, 3]),
            ([2, 1, 3, 1], [1, 1, 3, 3]),
            ([1, 1, 1, 1], [0, 1, 2, 3]),
            ([4, 3, 2, 1], [3, 3, 3, 3]),
        ] {
            let live = test_upstreams(4);
            let begin = |(i, &count): (usize, &usize)| vec![i; count];
            let busy = in_flight.iter().enumerate().flat_map(begin);
            let _busy: Vec<_> = busy.map(|i| live[i].begin(Chosen::Live)).collect();
            let balance = LeastRequests { cursor: Cursor(AtomicUsize::new(0)) };
            let picks = [(); 4].map(|()| balance.pick(&all(&live), false));
            assert_eq!(picks, chosen, "{in_flight:?}");
        }
    }

    #[test]
    fn one_upstream_is_a_choice_too() {
        for policy in
            [Policy::RoundRobin, Policy::Random, Policy::LeastRequests, Policy::TwoChoices]
        {
            assert_eq!(counts(policy, 1, 3), [3]);
        }
    }
}
