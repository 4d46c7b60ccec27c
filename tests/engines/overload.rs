//! Rules 38 and 47: more requests than the upstreams can do, and upstreams that fail them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    a_crowd_is_served_within_its_bound,
    a_request_waits_for_room_and_is_served_when_there_is_some,
    a_request_that_waits_for_too_long_is_503,
    one_greedy_client_costs_the_polite_ones_nothing,
    a_tunnel_counts_until_it_ends,
    an_upstream_that_answers_errors_is_ejected_if_that_is_asked_for,
    an_upstream_that_answers_too_late_is_ejected_if_that_is_asked_for,
    an_upstream_whose_answers_are_refused_is_ejected_if_that_is_asked_for,
    errors_eject_no_more_than_half,
}

/// An upstream that echoes each request once it may.
struct Gated {
    upstream: Upstream,
    gate: Arc<(Mutex<usize>, Condvar)>,
}

impl Gated {
    fn new() -> Gated {
        let gate = Arc::new((Mutex::new(0), Condvar::new()));
        let permits = gate.clone();
        let upstream = Upstream::new(move |peer| {
            while let Some(request) = peer.next_request() {
                let (count, changed) = &*permits;
                let count = count.lock().expect("permits");
                let mut count = changed.wait_while(count, |count| *count == 0).expect("permits");
                *count -= 1;
                drop(count);
                peer.send(&echo_of(&request));
            }
        });
        Gated { upstream, gate }
    }

    /// So many more requests may be answered.
    fn permit(&self, count: usize) {
        *self.gate.0.lock().expect("permits") += count;
        self.gate.1.notify_all();
    }
}

/// So many requests at a time to each upstream, and so many that wait.
fn bounded(engine: EngineKind, upstreams: &[&Upstream], most: usize, queue: usize) -> Balancer {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address()).collect();
    Balancer::start_with(engine, &addresses, |c| {
        (c.limits.in_flight, c.limits.queue) = (Some(most), queue);
        // Long enough that only room ends the wait.
        c.timeouts.queue = Duration::from_secs(60);
    })
}

/// Asks on a connection of its own; the answer comes later.
fn ask_for(balancer: &Balancer, client: &str, target: &str) -> Receiver<Message> {
    let (tell, told) = channel();
    let mut conn = balancer.client();
    let wire = request("GET", target, &format!("X-Forwarded-For: {client}\r\n"), "");
    thread::spawn(move || drop(tell.send(conn.ask(&wire))));
    told
}

fn answer(told: &Receiver<Message>) -> Message {
    told.recv_timeout(raw::PATIENCE).expect("an answer")
}

// Rule 47
fn a_crowd_is_served_within_its_bound(engine: EngineKind) {
    const EACH: usize = 2;
    let most = Arc::new(AtomicUsize::new(0));
    let gauged = || {
        let (now, most) = (AtomicUsize::new(0), most.clone());
        Upstream::new(move |peer| {
            while let Some(request) = peer.next_request() {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2)); // the work of the upstream
                now.fetch_sub(1, Ordering::SeqCst);
                peer.send(&echo_of(&request));
            }
        })
    };
    let upstreams = [gauged(), gauged()];
    let balancer = bounded(engine, &[&upstreams[0], &upstreams[1]], EACH, 1000);
    let crowd: Vec<_> = (0..100).map(|_| ask_for(&balancer, "192.0.2.1", "/")).collect();
    for told in &crowd {
        assert_eq!(answer(told).body, "GET /");
    }
    assert_eq!(most.load(Ordering::SeqCst), EACH, "at a time, at one upstream");
    for upstream in &upstreams {
        assert!(upstream.deliveries() >= 20, "both have worked");
    }
}

// Rule 47
fn a_request_waits_for_room_and_is_served_when_there_is_some(engine: EngineKind) {
    let gated = Gated::new();
    let balancer = bounded(engine, &[&gated.upstream], 1, 1);
    let first = ask_for(&balancer, "192.0.2.1", "/1");
    gated.upstream.wait_until("the first request", |log| log.requests.len() == 1);
    let others = [ask_for(&balancer, "192.0.2.1", "/2"), ask_for(&balancer, "192.0.2.1", "/3")];
    // The queue has room for one: the other is told so, and both were there.
    let (told, waits) = loop {
        match others.each_ref().map(|told| told.try_recv().ok()) {
            [Some(refused), _] => break (refused, &others[1]),
            [_, Some(refused)] => break (refused, &others[0]),
            _ => thread::yield_now(),
        }
    };
    assert_eq!((told.status(), told.field("Retry-After")), (503, Some("1")));
    assert!(!told.says_close(), "it may be asked again");
    assert_eq!(gated.upstream.deliveries(), 1);
    gated.permit(2);
    assert_eq!(answer(&first).body, "GET /1");
    assert_eq!(answer(waits).status(), 200);
    assert_eq!(gated.upstream.connections(), 1, "one after the other");
}

// Rule 47
fn a_request_that_waits_for_too_long_is_503(engine: EngineKind) {
    let gated = Gated::new();
    let balancer = Balancer::start_with(engine, &[gated.upstream.address()], |c| {
        c.limits.in_flight = Some(1);
        c.timeouts.queue = Duration::from_millis(100);
    });
    let first = ask_for(&balancer, "192.0.2.1", "/1");
    gated.upstream.wait_until("the first request", |log| log.requests.len() == 1);
    let mut client = balancer.client();
    let told = client.ask(&get("/2"));
    assert_eq!((told.status(), told.field("Retry-After")), (503, Some("1")));
    gated.permit(2);
    assert_eq!(answer(&first).status(), 200);
    assert_eq!(client.ask(&get("/3")).body, "GET /3", "the connection is kept");
}

// Rule 47
fn one_greedy_client_costs_the_polite_ones_nothing(engine: EngineKind) {
    const QUEUE: usize = 20;
    let gated = Gated::new();
    let balancer = bounded(engine, &[&gated.upstream], 1, QUEUE);
    let first = ask_for(&balancer, "192.0.2.1", "/greedy");
    gated.upstream.wait_until("the first request", |log| log.requests.len() == 1);
    let greedy: Vec<_> = (0..=QUEUE).map(|_| ask_for(&balancer, "192.0.2.1", "/greedy")).collect();
    let refused = |count| {
        let mut left: Vec<_> = greedy.iter().collect();
        let mut seen = 0;
        while seen < count {
            left.retain(|told| match told.try_recv() {
                Ok(answer) => {
                    assert_eq!(answer.status(), 503);
                    seen += 1;
                    false
                }
                Err(_) => true,
            });
            thread::yield_now();
        }
    };
    // One does not fit into the queue, so all others are in it.
    refused(1);
    // And one more makes room for somebody else.
    let polite = ask_for(&balancer, "192.0.2.2", "/polite");
    refused(1);
    gated.permit(2);
    assert_eq!(answer(&first).body, "GET /greedy");
    assert_eq!(answer(&polite).body, "GET /polite", "it comes next");
    gated.permit(QUEUE);
}

// Rules 35 and 47
fn a_tunnel_counts_until_it_ends(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        while let Some(request) = peer.next_request() {
            if request.has("Upgrade") {
                let fields = "Upgrade: x\r\nConnection: upgrade\r\n";
                peer.send(&format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n"));
                peer.hold();
                return;
            }
            peer.send(&echo_of(&request));
        }
    });
    let balancer = bounded(engine, &[&upstream], 1, 0);
    let mut tunnel = balancer.client();
    tunnel.send(&request("GET", "/", "Upgrade: x\r\nConnection: upgrade\r\n", ""));
    assert_eq!(tunnel.response_head().expect("a head").status(), 101);
    assert_eq!(balancer.ask(&get("/")).status(), 503);
    tunnel.reset();
    upstream.wait_until("the end of the tunnel", |log| log.closed == 1);
    // What the upstream has seen, the balancer has known for a moment.
    while balancer.ask(&get("/")).status() != 200 {
        thread::yield_now();
    }
}

/// Two upstreams: one that echoes, and another one.
fn beside_echo(engine: EngineKind, other: &Upstream, after: Option<u32>) -> (Upstream, Balancer) {
    let echo = Upstream::echo();
    let balancer = Balancer::start_with(engine, &[echo.address(), other.address()], |c| {
        c.health.eject_after = after;
        c.timeouts.response = Duration::from_millis(100);
    });
    (echo, balancer)
}

// Rule 38
fn an_upstream_that_answers_errors_is_ejected_if_that_is_asked_for(engine: EngineKind) {
    for (after, status, errors) in
        [(Some(3), "500 No", 3), (None, "500 No", 10), (Some(3), "501 No", 10)]
    {
        let bad = Upstream::answering(&response(status, "", ""));
        let (_echo, balancer) = beside_echo(engine, &bad, after);
        let answers: Vec<_> = (0..20).map(|_| balancer.ask(&get("/")).status()).collect();
        let failed = answers.iter().filter(|status| **status != 200).count();
        assert_eq!(failed, errors, "of {answers:?} with {after:?} and {status}");
    }
}

// Rule 38
fn an_upstream_that_answers_too_late_is_ejected_if_that_is_asked_for(engine: EngineKind) {
    let silent = Upstream::new(|peer| while peer.next_request().is_some() {});
    let (_echo, balancer) = beside_echo(engine, &silent, Some(2));
    let answers: Vec<_> = (0..12).map(|_| balancer.ask(&get("/")).status()).collect();
    let late = answers.iter().filter(|status| **status == 504).count();
    assert_eq!(late, 2, "of {answers:?}");
}

// Rule 38
fn an_upstream_whose_answers_are_refused_is_ejected_if_that_is_asked_for(engine: EngineKind) {
    let too_large = response("200 OK", &format!("A: {}\r\n", "x".repeat(16 * 1024)), "");
    for answer in [
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        &too_large,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nwhat\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "\x15\x03\x01\x00\x02\x02\x46",
    ] {
        for (after, refused) in [(Some(3), 3), (None, 10)] {
            let bad = Upstream::answering(answer);
            let (_echo, balancer) = beside_echo(engine, &bad, after);
            let answers: Vec<_> = (0..20).map(|_| balancer.ask(&get("/")).status()).collect();
            let failed = answers.iter().filter(|status| **status == 502).count();
            assert_eq!(failed, refused, "of {answers:?} with {after:?} and {answer:?}");
        }
    }
}

// Rule 38
fn errors_eject_no_more_than_half(engine: EngineKind) {
    let bad = [(); 3].map(|()| Upstream::answering(&response("503 No", "", "")));
    let balancer = Balancer::start_with(engine, &bad.each_ref().map(Upstream::address), |c| {
        c.health.eject_after = Some(1);
    });
    for _ in 0..20 {
        assert_eq!(balancer.ask(&get("/")).status(), 503);
    }
    let mut deliveries = bad.each_ref().map(Upstream::deliveries);
    deliveries.sort_unstable();
    assert_eq!(deliveries[0], 1, "one of three is ejected");
    assert!(deliveries[1] >= 9, "the others go on: {deliveries:?}");
}
