use super::*;
use std::time::Duration;

fn upstreams(count: usize, change: impl FnOnce(&mut Config)) -> Upstreams {
    let addresses: Vec<SocketAddr> =
        (0..count).map(|i| SocketAddr::from(([127, 0, 0, 1], 8000 + i as u16))).collect();
    let mut config = Config {
        upstreams: addresses.iter().map(|&address| address.into()).collect(),
        ..Config::default()
    };
    change(&mut config);
    Upstreams::new(&config, addresses.into_iter().map(|a| vec![a]).collect(), 1)
}

fn picks(upstreams: &Upstreams, tried: &[UpstreamId], now: Instant) -> Vec<usize> {
    let mut picks: Vec<_> = (0..6)
        .filter_map(|_| upstreams.pick(tried, now).ok().map(|p| p.upstream().id().0))
        .collect();
    picks.sort_unstable();
    picks.dedup();
    picks
}

#[test]
fn only_live_upstreams_that_were_not_tried_are_chosen() {
    let now = Instant::now();
    let upstreams = upstreams(4, |_| ());
    upstreams.observe(UpstreamId(1), Observation::NoConnection, now);
    assert_eq!(picks(&upstreams, &[], now), [0, 2, 3]);
    assert_eq!(picks(&upstreams, &[UpstreamId(0), UpstreamId(3)], now), [2]);
    upstreams.observe(UpstreamId(1), Observation::ProbePassed, now);
    assert_eq!(picks(&upstreams, &[], now), [0, 1, 2, 3]);
}

#[test]
fn with_nobody_live_ejected_ones_are_tried_if_allowed() {
    for fail_open in [true, false] {
        let now = Instant::now();
        let upstreams = upstreams(2, |config| config.retry.fail_open = fail_open);
        upstreams.observe(UpstreamId(0), Observation::NoConnection, now);
        upstreams.observe(UpstreamId(1), Observation::NoConnection, now);
        let expected: &[usize] = if fail_open { &[0, 1] } else { &[] };
        assert_eq!(picks(&upstreams, &[], now), expected);
        assert_eq!(upstreams.failed_open() > 0, fail_open);
    }
}

#[test]
fn without_probes_one_request_tries_an_ejected_upstream_and_restores_it() {
    let start = Instant::now();
    let upstreams = upstreams(2, |config| config.health.interval = None);
    upstreams.observe(UpstreamId(0), Observation::NoConnection, start);
    assert_eq!(picks(&upstreams, &[], start), [1]);
    let later = start + TRIAL_INTERVAL;
    let trial = upstreams.pick(&[], later).unwrap();
    assert_eq!((trial.upstream().id(), trial.chosen()), (UpstreamId(0), Chosen::Trial));
    assert_eq!(picks(&upstreams, &[], later), [1], "one request, not two");
    upstreams.observe(UpstreamId(0), trial.served(), later);
    assert_eq!(picks(&upstreams, &[], later), [0, 1]);
}

#[test]
fn each_ejected_upstream_is_tried_once_an_interval() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let upstreams = upstreams(4, |config| config.health.interval = None);
    upstreams.observe(UpstreamId(2), Observation::NoConnection, start);
    upstreams.observe(UpstreamId(1), Observation::NoConnection, after(4));
    let trial = |tried: &[UpstreamId], now| {
        let choice = upstreams.pick(tried, now).ok()?;
        (choice.chosen() == Chosen::Trial).then(|| choice.upstream().id().0)
    };
    for (seconds, tried, expected) in [
        (9, None, None),
        (10, Some(UpstreamId(2)), None),
        (10, None, Some(2)),
        (13, None, None),
        (14, None, Some(1)),
        (19, None, None),
        // Both are due by now, and one after the other has its turn.
        (30, None, Some(1)),
        (30, None, Some(2)),
        (30, None, None),
        (40, Some(UpstreamId(1)), Some(2)),
        (40, None, Some(1)),
    ] {
        let tried: Vec<_> = tried.into_iter().collect();
        assert_eq!(trial(&tried, after(seconds)), expected, "after {seconds} s, not {tried:?}");
    }
    upstreams.observe(UpstreamId(1), Observation::TrialServed, after(41));
    assert_eq!(trial(&[], after(60)), Some(2));
    assert_eq!(trial(&[], after(60)), None, "the other one is live again");
}

/// When a trial comes, in seconds after the start, if each is answered so: `+` well, `-` not.
fn trials(answers: &str) -> Vec<u64> {
    let start = Instant::now();
    let upstreams = upstreams(2, |config| config.health.eject_after = Some(1));
    upstreams.observe(UpstreamId(0), Observation::ServerError(500), start);
    let mut answers = answers.chars();
    let mut at = Vec::new();
    for second in 0..2_000 {
        let now = start + Duration::from_secs(second);
        let choice = upstreams.pick(&[], now).unwrap();
        if choice.chosen() != Chosen::Trial {
            continue;
        }
        at.push(second);
        let seen = match answers.next() {
            Some('+') => choice.served(),
            Some('-') => Observation::ServerError(500),
            _ => break,
        };
        upstreams.observe_choice(&choice, seen, now);
    }
    at
}

#[test]
fn one_that_fails_requests_comes_back_by_a_trickle_and_is_left_alone_for_longer_each_time() {
    assert_eq!(trials("+++"), [10, 11, 12], "then it is live, and there are no trials");
    assert_eq!(trials("----"), [10, 30, 70, 150, 310], "twice as long each time");
    assert_eq!(trials("------")[5..], [630, 950], "up to 320 s");
    assert_eq!(trials("++-+++"), [10, 11, 12, 32, 33, 34], "three in a row restore it");
}

#[test]
fn one_that_fails_again_soon_after_it_came_back_is_left_alone_for_longer() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let upstreams = upstreams(2, |config| config.health.eject_after = Some(1));
    let fail_and_return = |at: u64| {
        upstreams.observe(UpstreamId(0), Observation::ServerError(500), after(at));
        let mut seconds = at..;
        let back = seconds.find(|second| {
            let choice = upstreams.pick(&[], after(*second)).unwrap();
            if choice.chosen() == Chosen::Trial {
                upstreams.observe_choice(&choice, choice.served(), after(*second));
            }
            upstreams.live().len() == 2
        });
        back.unwrap() - at
    };
    assert_eq!(fail_and_return(0), 12);
    assert_eq!(fail_and_return(15), 22, "soon after it came back");
    assert_eq!(fail_and_return(50), 42);
    assert_eq!(fail_and_return(500), 12, "long after");
}

#[test]
fn errors_eject_no_more_than_half_and_probes_do_not_bring_those_back() {
    let now = Instant::now();
    let upstreams = upstreams(4, |config| config.health.eject_after = Some(2));
    for id in [0, 1, 2, 3].repeat(3) {
        upstreams.observe(UpstreamId(id), Observation::TooLate, now);
    }
    assert_eq!(picks(&upstreams, &[], now), [2, 3]);
    upstreams.observe(UpstreamId(0), Observation::ProbePassed, now);
    assert_eq!(picks(&upstreams, &[], now), [2, 3]);
    upstreams.observe(UpstreamId(2), Observation::NoConnection, now);
    assert_eq!(picks(&upstreams, &[], now), [3], "a closed door is another matter");
}

#[test]
fn losses_do_not_eject_the_last_live_upstream() {
    let now = Instant::now();
    let upstreams = upstreams(2, |_| ());
    for (client, id) in [0, 0, 0, 1, 1, 1].into_iter().enumerate() {
        let client = client as u64;
        upstreams.observe(UpstreamId(id), Observation::Broken { client }, now);
    }
    assert_eq!(picks(&upstreams, &[], now), [1]);
    upstreams.observe(UpstreamId(1), Observation::NoConnection, now);
    assert!(upstreams.live().is_empty(), "a closed door is another matter");
}

#[test]
fn connections_of_an_upstream_that_talks_unasked_are_not_reused_for_a_while() {
    let now = Instant::now();
    let upstream = &upstreams(1, |_| ()).all()[0].clone();
    assert!(upstream.may_reuse(now));
    upstream.disable_reuse(now);
    assert!(!upstream.may_reuse(now + REUSE_PAUSE - Duration::from_secs(1)));
    assert!(upstream.may_reuse(now + REUSE_PAUSE));
}

#[test]
fn an_exchange_counts_until_its_choice_is_dropped() {
    let upstreams = upstreams(1, |_| ());
    let one = upstreams.pick(&[], Instant::now()).unwrap();
    assert_eq!(upstreams.all()[0].in_flight(), 1);
    drop(one);
    assert_eq!(upstreams.all()[0].in_flight(), 0);
}

/// Requests that were under way when their upstream was ejected say nothing of what it does since.
#[test]
fn what_is_seen_of_a_request_counts_only_for_the_state_it_was_sent_in() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let upstreams = upstreams(2, |config| {
        (config.health.eject_after, config.health.interval) = (Some(1), None);
    });
    let slow: Vec<_> =
        (0..20).filter_map(|_| upstreams.pick(&[UpstreamId(1)], start).ok()).collect();
    upstreams.observe(UpstreamId(0), Observation::TooLate, start);
    for second in [10, 11, 12] {
        let trial = upstreams.pick(&[], after(second)).unwrap();
        assert_eq!(trial.chosen(), Chosen::Trial, "after {second} s");
        upstreams.observe_choice(&trial, trial.served(), after(second));
        upstreams.observe_choice(&slow[0], Observation::TooLate, after(second));
    }
    assert_eq!(picks(&upstreams, &[], after(12)), [0, 1], "the three good ones were in a row");
    upstreams.observe_choice(&slow[0], Observation::TooLate, after(13));
    assert_eq!(picks(&upstreams, &[], after(13)), [0, 1], "and it is live again since");
}

/// Sends a trial after `seconds`, which is served.
fn served_trial(upstreams: &Upstreams, now: Instant) -> InFlight {
    let trial = upstreams.pick(&[], now).unwrap();
    assert_eq!(trial.chosen(), Chosen::Trial);
    upstreams.observe_choice(&trial, trial.served(), now);
    trial
}

#[test]
fn a_trial_that_is_over_late_makes_no_room_for_one_beside_the_next() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let upstreams = upstreams(2, |config| config.health.eject_after = Some(1));
    upstreams.observe(UpstreamId(0), Observation::TooLate, start);
    let first = served_trial(&upstreams, after(10));
    let second = upstreams.pick(&[], after(11)).unwrap();
    assert_eq!(second.chosen(), Chosen::Trial);
    drop(first);
    for seconds in 12..71 {
        assert_eq!(picks(&upstreams, &[], after(seconds)), [1], "after {seconds} s");
    }
    drop(second);
    assert_eq!(picks(&upstreams, &[], after(72)), [0, 1]);
}

#[test]
fn a_trial_that_fails_in_two_ways_fails_once() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let upstreams = upstreams(2, |config| config.health.eject_after = Some(1));
    upstreams.observe(UpstreamId(0), Observation::TooLate, start);
    let trial = upstreams.pick(&[], after(10)).unwrap();
    for seen in [trial.failed(500), Observation::Broken { client: 1 }] {
        upstreams.observe_choice(&trial, seen, after(10));
    }
    assert_eq!(picks(&upstreams, &[], after(29)), [1]);
    assert_eq!(picks(&upstreams, &[], after(30)), [0, 1], "twice as long, not four times");
}

/// A client that gives up does not say what its upstream would have done.
#[test]
fn trials_that_say_nothing_come_no_sooner_than_those_that_fail() {
    let start = Instant::now();
    let upstreams = upstreams(2, |config| config.health.eject_after = Some(1));
    upstreams.observe(UpstreamId(0), Observation::TooLate, start);
    let mut now = start;
    let mut at = Vec::new();
    for second in 0..120 {
        now = start + Duration::from_secs(second);
        let choice = upstreams.pick(&[], now).unwrap();
        if choice.chosen() == Chosen::Trial {
            at.push(second);
            if at.len() < 3 {
                upstreams.observe_choice(&choice, choice.failed(500), now);
            }
        }
    }
    assert_eq!(at, [10, 30, 70, 110], "the last two were given up after a second");
    assert_eq!(picks(&upstreams, &[], now), [1]);
}
