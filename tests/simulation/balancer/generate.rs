//! A scenario out of a seed. Not here: what it means (`scenario.rs`).

use balancebeam::config::Policy;

use super::scenario::*;
use crate::draws::Draws;

/// Clients of one scenario, and requests of one client, at the most.
const MOST_CLIENTS: usize = 10;
const MOST_REQUESTS: usize = 6;

pub fn scenario(seed: u64) -> Scenario {
    let mut draws = Draws::new(seed);
    let mood = match draws.below(10) {
        0 => Mood::Calm,
        1 | 2 => Mood::Failover,
        _ => Mood::Wild,
    };
    let count = match mood {
        Mood::Failover => 2 + draws.below(4),
        _ => 1 + draws.below(4),
    };
    // Nobody has to behave if anything may happen.
    let steady = if draws.percent(60) || mood == Mood::Failover { draws.below(count) } else { 99 };
    let upstreams: Vec<_> = (0..count)
        .map(|id| UpstreamPlan {
            id,
            is_steady: id == steady || mood == Mood::Calm,
            addresses: if draws.percent(25) { 2 } else { 1 },
        })
        .collect();
    let clients = 1 + draws.below(MOST_CLIENTS);
    let span = draws.one_of(&[50, 2_000, 40_000]);
    let mut clients: Vec<_> =
        (0..clients).map(|id| client(id + 1, mood, span, &mut draws)).collect();
    let mut happenings = Vec::new();
    if mood != Mood::Calm {
        for _ in 0..draws.below(8) {
            let at = draws.below(span + span / 2) as Ms;
            let what = happening(&upstreams, mood, &mut draws);
            happenings.extend(what.into_iter().map(|(later, what)| (at + later, what)));
        }
        if mood == Mood::Wild && draws.percent(25) {
            happenings.push((draws.below(2 * span) as Ms, What::Drain));
        }
    }
    let mut knobs = knobs(mood, &mut draws);
    if draws.percent(35) {
        bound(&mut knobs, mood, &mut draws);
        let more = draws.one_of(&[0, 0, 6, 12]);
        let first = clients.len() + 1;
        clients.extend((first..first + more).map(|id| client(id, mood, span, &mut draws)));
        crowd(&mut clients, &mut draws);
        if mood == Mood::Wild && draws.percent(25) {
            resend(&mut clients, &mut draws);
        }
    }
    if draws.percent(30) {
        knobs.eject_after = Some(1 + draws.below(3) as u32);
        let often = draws.one_of(&[10, 40, 80]);
        fail(&mut clients, often, &mut draws);
    }
    if knobs.eject_after.is_some() && draws.percent(25) {
        linger(&mut clients, &mut draws);
    }
    if mood == Mood::Wild && draws.percent(20) {
        stall(&mut clients, &mut draws);
    }
    if mood == Mood::Wild && knobs.in_flight.is_some() && draws.percent(25) {
        knobs.queue_timeout = 20_000;
        give_up(&mut clients, &mut draws);
    }
    Scenario { seed, mood, knobs, upstreams, clients, happenings }
}

/// They come and ask for long enough that an upstream which has failed them is tried and comes back.
fn linger(clients: &mut [ClientPlan], draws: &mut Draws) {
    for client in clients {
        client.at = draws.below(40_000) as Ms;
        client.thinks = 6_000;
    }
}

/// Some ask and leave, while others keep the upstreams busy.
fn give_up(clients: &mut [ClientPlan], draws: &mut Draws) {
    for client in clients {
        let Some(request) = client.requests.first_mut() else { continue };
        if draws.percent(40) {
            (request.method, request.framing, request.size) = ("GET", Framing::Nothing, 0);
            client.at += 50;
            client.mishap = Some(ClientMishap::ResetsAfterSending(1));
        } else {
            request.answers.iter_mut().for_each(|answer| answer.thinks += 500);
        }
    }
}

/// Some stop within a body, at upstreams that have a read timeout.
fn stall(clients: &mut [ClientPlan], draws: &mut Draws) {
    for client in clients {
        if draws.percent(50) {
            let Some(request) = client.requests.first_mut() else { continue };
            request.method = draws.one_of(&["POST", "PUT"]);
            (request.size, request.is_old) = (500 + draws.below(20_000), false);
            request.framing = draws.one_of(&[Framing::Length, Framing::Chunked]);
            for answer in &mut request.answers {
                let (after, resets) = (300 + draws.below(5_000) as Ms, draws.percent(50));
                answer.mishap = Some(UpstreamMishap::GivesUp { after, resets });
            }
            client.mishap = Some(ClientMishap::StallsAfterSending(100 + draws.below(request.size)));
        }
    }
}

fn knobs(mood: Mood, draws: &mut Draws) -> Knobs {
    let is_wild = mood == Mood::Wild;
    let mut knobs = Knobs {
        policy: draws.one_of(&[
            Policy::RoundRobin,
            Policy::Random,
            Policy::LeastRequests,
            Policy::TwoChoices,
        ]),
        attempts: 16,
        budget_percent: 20,
        budget_floor: 10,
        fail_open: true,
        probes: draws.percent(60).then(|| draws.one_of(&[200, 1_000, 10_000])),
        rise: 1 + draws.below(3) as u32,
        fall: 1 + draws.below(3) as u32,
        pool: 1024,
        per_minute: 0,
        limit_clients: 1_000,
        most_connections: 1_000,
        in_flight: None,
        queue: 1024,
        queue_timeout: 1_000,
        eject_after: None,
        is_hasty: is_wild && draws.percent(50),
        watches_idle: draws.percent(50),
    };
    if is_wild {
        knobs.attempts = 1 + draws.below(5);
        knobs.budget_percent = draws.one_of(&[0, 20]);
        knobs.budget_floor = draws.one_of(&[0, 1, 10]);
        knobs.fail_open = draws.percent(70);
        knobs.pool = draws.one_of(&[0, 1, 3, 1024]);
        knobs.per_minute = draws.one_of(&[0, 0, 0, 2, 5, 10]);
        knobs.limit_clients = draws.one_of(&[1, 1_000, 1_000]);
        knobs.most_connections = draws.one_of(&[3, 1_000, 1_000, 1_000]);
    }
    knobs
}

/// Upstreams have as many requests as they may, and no more. Where everybody has to be served, there
/// is room and time for all that wait.
fn bound(knobs: &mut Knobs, mood: Mood, draws: &mut Draws) {
    knobs.in_flight = Some(draws.one_of(&[1, 1, 2, 3]));
    if mood == Mood::Wild {
        knobs.queue = draws.one_of(&[0, 1, 2, 4, 7, 1024]);
        knobs.queue_timeout = draws.one_of(&[30, 1_000, 1_000, 20_000]);
    } else {
        knobs.queue_timeout = 3_600_000;
    }
}

/// Answers take a while, and many come at once.
fn crowd(clients: &mut [ClientPlan], draws: &mut Draws) {
    let slow = draws.one_of(&[1, 100, 1_500]);
    let many = draws.percent(50);
    for client in clients {
        if many {
            client.at = draws.below(100) as Ms;
        }
        for answer in client.requests.iter_mut().flat_map(|request| &mut request.answers) {
            answer.thinks += draws.below(slow) as Ms;
        }
    }
}

/// Some send much, to upstreams that break off in the middle of it: what is sent again waits, and
/// grows.
fn resend(clients: &mut [ClientPlan], draws: &mut Draws) {
    for request in clients.iter_mut().flat_map(|client| &mut client.requests) {
        if draws.percent(20) {
            (request.method, request.size) = ("PUT", 60_000 + draws.below(100_000));
            let framings = [Framing::Length, Framing::Chunked];
            request.framing =
                if request.is_old { Framing::Length } else { draws.one_of(&framings) };
            let (after, resets) = (1 + draws.below(1_000), draws.percent(50));
            request.answers[0].mishap = Some(UpstreamMishap::Breaks { after, resets });
        }
    }
}

/// So many of a hundred answers tell of a fault; of some of them the upstream is not to blame.
fn fail(clients: &mut [ClientPlan], often: usize, draws: &mut Draws) {
    let requests = clients.iter_mut().flat_map(|client| &mut client.requests);
    for answer in requests.flat_map(|request| &mut request.answers) {
        if draws.percent(often) {
            answer.status = draws.one_of(&[500, 500, 503, 503, 501, 505]);
        }
    }
}

/// Something that befalls one upstream that is not steady, or all; with what ends it.
fn happening(upstreams: &[UpstreamPlan], mood: Mood, draws: &mut Draws) -> Vec<(Ms, What)> {
    if mood == Mood::Wild && draws.percent(10) {
        return vec![(0, What::Jump(draws.one_of(&[500, 5_000, 70_000, 200_000])))];
    }
    let upstream = &upstreams[draws.below(upstreams.len())];
    if upstream.is_steady {
        return Vec::new();
    }
    let (id, long) = (upstream.id, draws.one_of(&[20, 1_000, 15_000]));
    let until = 1 + draws.below(long) as Ms;
    let turns = |mode| vec![(0, What::Turns(id, mode)), (until, What::Turns(id, Mode::Up))];
    match draws.below(if mood == Mood::Failover { 5 } else { 8 }) {
        0 => turns(Mode::Refuses),
        1 => turns(Mode::Hangs),
        2 => vec![(0, What::ClosesIdle(id))],
        3 => turns(Mode::Sick),
        4 => {
            // It dies, and comes back later.
            let mut death = turns(Mode::Refuses);
            if mood == Mood::Wild {
                death.push((0, What::Breaks(id)));
            } else {
                death.push((0, What::ClosesIdle(id)));
            }
            death
        }
        5 => vec![(0, What::Breaks(id))],
        6 => turns(Mode::Frozen),
        // It flaps.
        _ => (0..4)
            .map(|i| {
                let mode = if i % 2 == 0 { Mode::Refuses } else { Mode::Up };
                (i * until, What::Turns(id, mode))
            })
            .collect(),
    }
}

fn client(id: usize, mood: Mood, span: usize, draws: &mut Draws) -> ClientPlan {
    let count = 1 + draws.below(MOST_REQUESTS);
    let requests: Vec<_> =
        (0..count).map(|i| request(id * 100 + i, i + 1 == count, mood, draws)).collect();
    let sent: usize = requests.iter().map(|request| request.size + 60).sum();
    let read: usize = requests.iter().flat_map(|r| &r.answers).map(|a| a.size + 60).sum();
    let mishap = (mood == Mood::Wild && draws.percent(25)).then(|| match draws.below(5) {
        0 => ClientMishap::ResetsAfterSending(draws.below(sent)),
        1 => ClientMishap::EndsAfterSending(draws.below(sent)),
        2 => ClientMishap::StallsAfterSending(draws.below(sent)),
        3 => ClientMishap::ResetsAfterReading(draws.below(read)),
        _ => ClientMishap::StopsReadingAfter(draws.below(read)),
    });
    ClientPlan {
        id,
        at: draws.below(span) as Ms,
        address: draws.one_of(&[1, 1, 2, 3, 4, 5]),
        pipelines: draws.percent(40),
        pace: draws.one_of(&[0, 1, 5, 30]),
        thinks: draws.one_of(&[0, 3, 100, 3_000]),
        half_closes: draws.percent(30),
        mishap,
        requests,
    }
}

fn request(id: usize, is_last: bool, mood: Mood, draws: &mut Draws) -> RequestPlan {
    let method = match mood {
        Mood::Failover => "GET",
        _ => draws.one_of(&["GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE"]),
    };
    let is_old = is_last && draws.percent(20);
    let framing = match (method, is_old) {
        ("GET" | "HEAD", _) if mood == Mood::Failover || draws.percent(90) => Framing::Nothing,
        (_, true) => Framing::Length,
        _ => draws.one_of(&[Framing::Length, Framing::Chunked]),
    };
    let faults =
        ["A : b\r\n", "Host: h\r\nHost: h\r\n", "A: b\n", " x\r\n", "Content-Length: 1, 1\r\n"];
    RequestPlan {
        id,
        method,
        framing,
        size: if framing == Framing::Nothing { 0 } else { size(draws) },
        is_old,
        closes: is_last && draws.percent(30),
        expects: framing != Framing::Nothing && !is_old && draws.percent(15),
        fault: (mood == Mood::Wild && draws.percent(3)).then(|| draws.one_of(&faults)),
        answers: (0..1 + draws.below(3)).map(|_| answer(mood, draws)).collect(),
    }
}

fn answer(mood: Mood, draws: &mut Draws) -> AnswerPlan {
    use Framing::{Chunked, Length, UntilClose};
    let resets = draws.percent(50);
    let mishap = (mood == Mood::Wild && draws.percent(35)).then(|| match draws.below(20) {
        0..=5 => UpstreamMishap::Breaks { after: 1 + draws.below(300), resets },
        6 => UpstreamMishap::Breaks { after: 1 + draws.below(100_000), resets },
        7 | 8 => UpstreamMishap::Mute,
        9..=11 => UpstreamMishap::Early { reads_on: draws.percent(50) },
        12 | 13 => UpstreamMishap::Garbage,
        14 | 15 => UpstreamMishap::Cut { permille: draws.below(1_000), resets },
        16..=18 => UpstreamMishap::SaysMore { later: draws.one_of(&[0, 1, 10, 30]) },
        _ => UpstreamMishap::Lies,
    });
    AnswerPlan {
        status: draws.one_of(&[200, 200, 200, 404, if mood == Mood::Wild { 500 } else { 204 }]),
        framing: draws.one_of(&[Length, Length, Chunked, UntilClose]),
        size: size(draws),
        interim: if draws.percent(12) { 1 + draws.below(3) } else { 0 },
        thinks: match draws.below(40) {
            0 if mood == Mood::Wild => draws.below(90_000) as Ms,
            1..=10 => draws.below(300) as Ms,
            _ => draws.below(4) as Ms,
        },
        closes: draws.percent(15),
        mishap,
    }
}

/// Mostly small; now and then larger than all buffers.
fn size(draws: &mut Draws) -> usize {
    match draws.below(40) {
        0 => draws.below(200_000),
        1..=4 => draws.below(50_000),
        5..=12 => draws.below(5_000),
        13..=15 => 0,
        _ => draws.below(200),
    }
}
