//! Rule 45: when as many clients are connected as may be, those that ask for nothing make room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use balancebeam::config::{EngineKind, WhenFull};

use crate::support::*;

on_each_engine! {
    silent_connections_make_room_for_each_newcomer,
    those_without_a_whole_head_go_before_idle_ones_and_the_oldest_first,
    a_head_that_trickles_keeps_no_place,
    the_longest_idle_goes_if_all_have_asked,
    exchanges_in_progress_are_never_closed,
    those_turned_away_keep_no_place,
    refused_requests_keep_no_place,
}

/// What a newcomer may have to wait for: a second of silence, and some more.
const SOON: Duration = Duration::from_secs(2);
const PARTIAL: &str = "GET / HTTP/1.1\r\nHost: a.exam";

fn at_most(engine: EngineKind, most: usize, when_full: WhenFull, upstream: &Upstream) -> Balancer {
    Balancer::start_with(engine, &[upstream.address()], |c| {
        c.limits.connections = Some(most);
        c.limits.when_full = when_full;
    })
}

/// A new client that is served soon; one that is told that there are too many comes again.
#[track_caller]
fn newcomer(balancer: &Balancer) -> Conn {
    let began = Instant::now();
    loop {
        let mut client = balancer.client();
        client.send(&get("/new"));
        let status = client.response().status();
        assert!(began.elapsed() < SOON, "{status} after {:?}", began.elapsed());
        if status == 200 {
            return client;
        }
        assert_eq!(status, 503);
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether it still serves this client.
#[track_caller]
fn expect_served(client: &mut Conn) {
    assert_eq!(client.ask(&get("/kept")).body, "GET /kept");
}

/// Longer than a connection has to be silent before it may be closed.
fn be_silent() {
    thread::sleep(Duration::from_millis(1200));
}

fn silent_connections_make_room_for_each_newcomer(engine: EngineKind) {
    for when_full in [WhenFull::Wait, WhenFull::Refuse] {
        let upstream = Upstream::echo();
        let balancer = at_most(engine, 60, when_full, &upstream);
        let mut silent: Vec<Conn> = (0..60).map(|_| balancer.client()).collect();
        let mut all_served = Vec::new();
        let mut gone = 0;
        for _ in 0..5 {
            let mut served = newcomer(&balancer);
            // Who was closed comes back at once.
            for client in &mut silent {
                if !client.is_open() {
                    *client = balancer.client();
                    gone += 1;
                }
            }
            expect_served(&mut served);
            all_served.push(served);
        }
        assert!(gone >= all_served.len(), "{gone} made room");
    }
}

fn those_without_a_whole_head_go_before_idle_ones_and_the_oldest_first(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = at_most(engine, 6, WhenFull::Wait, &upstream);
    let mut idle = [balancer.client(), balancer.client()];
    idle.iter_mut().for_each(expect_served);
    let mut second = balancer.client();
    expect_served(&mut second);
    let mut headless = [balancer.client(), second, balancer.client(), balancer.client()];
    for client in &mut headless[..3] {
        thread::sleep(Duration::from_millis(20));
        client.send(PARTIAL);
    }
    // The last one has sent nothing, and is as old as it is.
    be_silent();
    let mut served: Vec<Conn> = Vec::new();
    for gone in [0, 2, 3, 1] {
        served.push(newcomer(&balancer));
        headless[gone].expect_fin();
        let left = headless.iter_mut().map(Conn::is_open).filter(|is_open| *is_open).count();
        assert_eq!(left, 4 - served.len(), "after {gone}");
    }
    idle.iter_mut().chain(&mut served).for_each(expect_served);
}

fn a_head_that_trickles_keeps_no_place(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = at_most(engine, 2, WhenFull::Wait, &upstream);
    let mut slow = [balancer.client(), balancer.client()];
    slow.iter_mut().for_each(|client| client.send(PARTIAL));
    thread::scope(|scope| {
        let newcomers = scope.spawn(|| (newcomer(&balancer), newcomer(&balancer)));
        while !newcomers.is_finished() {
            thread::sleep(Duration::from_millis(50));
            for client in &mut slow {
                client.try_send("x");
            }
        }
        newcomers.join().expect("they are served");
    });
}

fn the_longest_idle_goes_if_all_have_asked(engine: EngineKind) {
    for when_full in [WhenFull::Wait, WhenFull::Refuse] {
        let upstream = Upstream::echo();
        let balancer = at_most(engine, 3, when_full, &upstream);
        let mut idle = [balancer.client(), balancer.client(), balancer.client()];
        for asking in [0, 1, 2, 0] {
            thread::sleep(Duration::from_millis(20));
            expect_served(&mut idle[asking]);
        }
        be_silent();
        let mut served = newcomer(&balancer);
        idle[1].expect_fin();
        [&mut idle[0], &mut served].into_iter().for_each(expect_served);
        expect_served(&mut idle[2]);
    }
}

fn exchanges_in_progress_are_never_closed(engine: EngineKind) {
    for when_full in [WhenFull::Wait, WhenFull::Refuse] {
        let is_released = Arc::new(AtomicBool::new(false));
        let may_answer = is_released.clone();
        let upstream = Upstream::new(move |peer| {
            while let Some(request) = peer.next_request() {
                while !may_answer.load(Ordering::Acquire) {
                    thread::sleep(Duration::from_millis(1));
                }
                peer.send(&echo_of(&request));
            }
        });
        let balancer = at_most(engine, 3, when_full, &upstream);
        let mut clients = [balancer.client(), balancer.client(), balancer.client()];
        clients[0].send(&get("/slow"));
        clients[1].send(&request("POST", "/stalled", "Content-Length: 5\r\n", "he"));
        clients[2].send(&(get("/first") + PARTIAL));
        be_silent();
        let mut outside = balancer.client();
        outside.send(&get("/outside"));
        match when_full {
            WhenFull::Wait => outside.expect_quiet(Duration::from_millis(500)),
            WhenFull::Refuse => drop(expect_refusal(&mut outside, &[503])),
        }
        clients[1].send("llo");
        is_released.store(true, Ordering::Release);
        for (client, answer) in
            clients.iter_mut().zip(["GET /slow", "POST /stalled hello", "GET /first"])
        {
            assert_eq!(client.response().body, answer);
        }
        clients[2].send("ple\r\n\r\n");
        assert_eq!(clients[2].response().body, "GET /");
    }
}

fn those_turned_away_keep_no_place(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        peer.next_request();
        peer.hold();
    });
    let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
        c.limits.connections = Some(1);
        c.limits.when_full = WhenFull::Refuse;
        c.timeouts.linger = Duration::from_secs(60);
    });
    let mut inside = balancer.client();
    inside.send(&get("/slow"));
    upstream.wait_until("it is busy", |log| log.requests.len() == 1);
    // More than are told at a time: silent, with a part of a head, and not going once they are told.
    let wires = ["".to_string(), PARTIAL.to_string(), post("/", "x")];
    let mut crowd: Vec<Conn> = (0..300).map(|_| balancer.client()).collect();
    crowd.iter_mut().enumerate().for_each(|(n, client)| client.send(&wires[n % 3]));
    let began = Instant::now();
    let mut outside = balancer.client();
    outside.send(&get("/outside"));
    expect_refusal(&mut outside, &[503]);
    assert!(began.elapsed() < Duration::from_secs(4), "it took {:?}", began.elapsed());
    for (number, client) in crowd.iter_mut().enumerate() {
        assert_ne!(client.rest().1, End::Silence, "client {number}");
    }
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
}

fn refused_requests_keep_no_place(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
        c.limits.connections = Some(3);
        c.timeouts.linger = Duration::from_millis(200);
    });
    // It is answered, and the body that it has announced never comes …
    let mut bodiless = balancer.client();
    bodiless.send(&request("TRACE", "/", "Content-Length: 5\r\n", ""));
    assert_eq!(bodiless.response().status(), 405);
    // … and these ask for something again before they have been silent for long enough.
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let mut client = balancer.client();
            thread::spawn(move || {
                let until = Instant::now() + raw::PATIENCE;
                let mut asked = 0;
                while client.is_open() && Instant::now() < until {
                    client.try_send(&request("OPTIONS", "*", "Max-Forwards: 0\r\n", ""));
                    asked += 1;
                    thread::sleep(Duration::from_millis(100)); // the pace of the client
                }
                (asked, Instant::now() < until)
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300)); // they have begun
    let mut newcomers = [newcomer(&balancer), newcomer(&balancer), newcomer(&balancer)];
    newcomers.iter_mut().for_each(expect_served);
    for client in busy {
        let (asked, was_closed) = client.join().expect("a client");
        assert!(asked > 1 && was_closed, "asked {asked} times, closed: {was_closed}");
    }
}
