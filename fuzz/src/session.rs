//! The check of sessions; what holds stands in `fuzz_targets/session.rs`.
//!
//! An input is a small program. Two bytes choose the configuration; then each event is one byte, its
//! number in the table below, perhaps with 128 added, and its operand. Everything is read from the
//! front, so that `seeds.py` can write it. Behind each event `next` is called until it comes to rest,
//! but not with 128: then it hears of several things at once.
//!
//! | events | what happens                                  | operand                        |
//! |--------|-----------------------------------------------|--------------------------------|
//! | 0, 1   | the client, the upstream sends any bytes      | how many, and the bytes        |
//! | 2, 3   | the client, the upstream sends a phrase       | its number in `PHRASES`        |
//! | 4, 5   | the client, the upstream ends                 |                                |
//! | 6 – 9  | an error: of reading from the client, writing to it, the same of the upstream | |
//! | 10, 11 | the client, the upstream takes bytes          | how many; 0 is all             |
//! | 12, 13 | a fresh, an idle connection is there          |                                |
//! | 14, 15 | no connection: their fault, ours              | the kind of error              |
//! | 16, 17 | time passes, in ms, in s                      | how much                       |
//! | 18     | time passes until the deadline                |                                |
//! | 19     | calls that are too many                       |                                |
//! | 20     | the output is poured into a pipe              |                                |
//! | 21, 22 | bytes are taken past the session, the end is  | how many, in units of 1 KiB    |
//! | 23     | bytes of the pipe arrive                      | how many, in units of 1 KiB    |
//! | 24     | a drain begins                                |                                |
//! | 25     | a probe sees something of an upstream         | which, and what                |
//! | 26     | one that only waits goes on for another client |                               |
//! | 27     | buffers that are empty are given back         |                                |
//! | 28     | a sending direction is closed that is to be   |                                |
//! | 29, 30 | others take all room, or one of them is done  |                                |
//! | 31, 32 | one of the others waits for room, or leaves   | which client; which            |
//!
//! What cannot happen where it stands is passed over.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Unstructured;
use balancebeam::Config;
use balancebeam::session::{ConnectFailure, Direction, Side};
use balancebeam::upstream::health::Observation;

use crate::world::World;

pub use crate::world::Reached;

/// Events of one input.
const MOST_EVENTS: usize = 2_000;

/// What peers often say. `seeds.py` names them by their place: add at the end.
pub const PHRASES: [&[u8]; 32] = [
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n",
    b"abc",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\nA: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n",
    b"\r\n",
    b"GET",
    b"HTTP/1.1 200",
    b"\n",
    &[b'b'; 1024],
    &[b'b'; 32 * 1024],
    b"7fff\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n",
];

const THEIR_FAULT: [ErrorKind; 4] = [
    ErrorKind::ConnectionRefused,
    ErrorKind::TimedOut,
    ErrorKind::ConnectionReset,
    ErrorKind::HostUnreachable,
];

const OUR_FAULT: [ErrorKind; 3] =
    [ErrorKind::AddrNotAvailable, ErrorKind::OutOfMemory, ErrorKind::Other];

const SEEN: [Observation; 14] = [
    Observation::ProbePassed,
    Observation::Served,
    Observation::TrialServed,
    Observation::BadStatus(500),
    Observation::ProbeUnanswered,
    Observation::ProbeClosed,
    Observation::Broken { client: 1 },
    Observation::NoConnection,
    Observation::ConnectTimedOut,
    Observation::ServerError(500),
    Observation::TooLate,
    Observation::Malformed("x"),
    Observation::MalformedBody("x"),
    Observation::ProbeMalformed("x"),
];

pub fn check(input: &[u8]) {
    play(input);
}

/// Plays an input to its end, and tells what has happened in it.
pub fn play(input: &[u8]) -> Reached {
    let mut program = Unstructured::new(input);
    let choices = [byte(&mut program), byte(&mut program)];
    let mut world = World::new(configured(choices), choices[0] & 128 == 128);
    for _ in 0..MOST_EVENTS {
        if program.is_empty() || world.is_closed() {
            break;
        }
        let code = byte(&mut program);
        event(&mut world, code & 127, &mut program);
        if code & 128 == 0 {
            world.rest();
        }
    }
    world.finish()
}

/// A byte of the program; behind its end they are 0.
fn byte(program: &mut Unstructured<'_>) -> u8 {
    program.arbitrary().unwrap_or_default()
}

/// Eight choices, each of them one bit, and one for all limits.
fn configured([bits, limits]: [u8; 2]) -> Config {
    let is = |bit: u8| bits >> bit & 1 == 1;
    let mut config = Config::default();
    let count = if is(0) { 2 } else { 1 };
    let address = |i| SocketAddr::from(([127, 0, 0, i], 8000));
    config.upstreams = (1..=count).map(|i| address(i).into()).collect();
    config.health.interval = config.health.interval.filter(|_| is(1));
    config.retry.fail_open = is(2);
    config.retry.attempts = if is(3) { 16 } else { 1 };
    config.retry.budget_floor = if is(4) { 10 } else { 0 };
    config.forwarding.upstream_host = is(5);
    config.limits.body = is(6).then_some(1000);
    match limits {
        0..=99 => (),
        // Room for one each, and for so many to wait.
        100..=127 => {
            config.limits.in_flight = Some(1);
            config.limits.queue = usize::from(limits - 100) % 4;
            config.health.eject_after = (limits < 112).then_some(2);
        }
        128..=191 => {
            config.limits.request_line = 64;
            config.limits.head = 256;
            config.limits.fields = 3;
            config.limits.requests_per_minute = 2;
        }
        192..=223 => {
            config.limits.request_line = 1;
            config.limits.head = 1;
            config.limits.fields = 1;
        }
        _ => {
            config.limits.request_line = 32 * 1024;
            config.limits.head = 32 * 1024;
            config.limits.fields = 256;
        }
    }
    // Heads are smaller than a server's may be, so that few bytes reach their limit.
    let is_small = |path| matches!(path, "limits.head" | "limits.request_line");
    let mut problems = balancebeam::config::validate(&config);
    problems.retain(|problem| !is_small(problem.path));
    assert_eq!(problems, [], "a configuration that is accepted");
    config
}

fn event(world: &mut World, code: u8, program: &mut Unstructured<'_>) {
    let sides = [Side::Client, Side::Upstream];
    let side = sides[usize::from(code & 1)];
    match code {
        0 | 1 => {
            let len = usize::from(byte(program)).min(program.len());
            world.says(side, program.bytes(len).unwrap_or_default());
        }
        2 | 3 => world.says(side, PHRASES[usize::from(byte(program)) % PHRASES.len()]),
        4 | 5 => world.ends(side),
        6 | 8 => world.fails(sides[usize::from(code == 8)], Direction::Read),
        7 | 9 => world.fails(sides[usize::from(code == 9)], Direction::Write),
        10 | 11 => world.takes(side, usize::from(byte(program))),
        12 | 13 => world.connected(code == 13),
        14 => {
            let kind = THEIR_FAULT[usize::from(byte(program)) % THEIR_FAULT.len()];
            world.connect_failed(ConnectFailure::Remote(kind));
        }
        15 => {
            let kind = OUR_FAULT[usize::from(byte(program)) % OUR_FAULT.len()];
            world.connect_failed(ConnectFailure::Local(kind));
        }
        16 => world.now += Duration::from_millis(byte(program).into()),
        17 => world.now += Duration::from_secs(byte(program).into()),
        18 => world.meet_deadline(),
        19 => world.call_too_often(),
        20 => world.pour(),
        21 => world.take_past(1024 * usize::from(byte(program))),
        22 => world.end_past(),
        23 => world.pass(1024 * usize::from(byte(program))),
        24 => world.state.stop(),
        25 => {
            let (which, what) = (byte(program), byte(program));
            world.probe(usize::from(which), SEEN[usize::from(what) % SEEN.len()]);
        }
        26 => world.begin_again(),
        27 => world.session.release_memory(),
        28 => world.shut_down(),
        29 => world.others.take_all(&world.state, world.now),
        30 => world.others.finish_one(),
        31 => world.others.wait(&world.state, byte(program)),
        32 => world.others.leave(byte(program)),
        _ => (),
    }
}
