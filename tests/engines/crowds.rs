//! Rules 44 and 45: slow clients cost nobody else anything, and there may be only so many.

use std::thread;
use std::time::{Duration, Instant};

use balancebeam::config::{EngineKind, WhenFull};

use crate::support::*;

on_each_engine! {
    half_sent_heads_delay_nobody,
    trickling_heads_delay_nobody,
    idle_connections_delay_nobody,
    clients_that_do_not_read_delay_nobody,
    half_sent_bodies_delay_nobody,
    slow_upstreams_delay_nobody,
    tunnels_delay_nobody,
    lingering_clients_delay_nobody,
    two_fast_transfers_do_not_starve_the_others,
    a_connection_too_many_waits_until_another_one_ends,
    a_connection_too_many_is_refused_if_so_chosen,
    those_who_gave_up_in_the_queue_delay_nobody,
    many_requests_on_many_connections_get_their_own_answers,
}

/// Requests of all kinds are answered at once, on new connections and on old ones.
#[track_caller]
fn expect_quick(balancer: &Balancer) {
    let mut kept = balancer.client();
    for number in 0..10 {
        let target = format!("/quick{number}");
        for client in [&mut kept, &mut balancer.client()] {
            let began = Instant::now();
            assert_eq!(client.ask(&post(&target, "x")).body, format!("POST {target} x"));
            assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
        }
    }
}

/// So many clients that have each sent these bytes and do not go on.
fn crowd(balancer: &Balancer, count: usize, wire: &str) -> Vec<Conn> {
    let mut clients: Vec<Conn> = (0..count).map(|_| balancer.client()).collect();
    clients.iter_mut().for_each(|client| client.send(wire));
    clients
}

// Rule 44
fn half_sent_heads_delay_nobody(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let _slow = crowd(&balancer, 200, "GET / HTTP/1.1\r\nHost: a.exam");
    expect_quick(&balancer);
}

// Rule 44
fn trickling_heads_delay_nobody(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut slow = crowd(&balancer, 100, "GET / HTTP/1.1\r\nHost: a.example\r\nX: ");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let trickling = thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(5)).is_err() {
            for client in &mut slow {
                client.try_send("x");
            }
        }
    });
    expect_quick(&balancer);
    stop.send(()).expect("a listener");
    trickling.join().expect("the tricklers");
}

// Rule 44
fn idle_connections_delay_nobody(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let _fresh = crowd(&balancer, 200, "");
    let mut kept = crowd(&balancer, 100, &get("/"));
    kept.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
    expect_quick(&balancer);
    kept.iter_mut().for_each(|client| assert_eq!(client.ask(&get("/")).status(), 200));
}

/// Echoes, but `/large` gets an answer larger than any buffer, and `/silent` none.
fn large_or_silent() -> Upstream {
    Upstream::new(|peer| {
        while let Some(request) = peer.next_request() {
            match request.target() {
                "/silent" => drop(peer.hold()),
                "/large" => {
                    peer.send("HTTP/1.1 200 OK\r\n\r\n");
                    let piece = "x".repeat(64 * 1024);
                    while peer.try_send(&piece) {}
                    return;
                }
                _ => peer.send(&echo_of(&request)),
            }
        }
    })
}

// Rule 44
fn clients_that_do_not_read_delay_nobody(engine: EngineKind) {
    let upstream = large_or_silent();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let _slow = crowd(&balancer, 30, &get("/large"));
    expect_quick(&balancer);
}

// Rule 44
fn half_sent_bodies_delay_nobody(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let _some = crowd(&balancer, 100, &request("POST", "/", "Content-Length: 10\r\n", "hello"));
    let _chunked =
        crowd(&balancer, 50, &request("POST", "/", "Transfer-Encoding: chunked\r\n", "5\r\nhe"));
    // More than fit into the upstream's listen queue, and who does not fit connects a second later.
    upstream.wait_until("the crowd is there", |log| log.connections == 150);
    expect_quick(&balancer);
}

// Rule 44
fn slow_upstreams_delay_nobody(engine: EngineKind) {
    let upstream = large_or_silent();
    let hole = BlackHole::new();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let _waiting = crowd(&balancer, 100, &get("/silent"));
    expect_quick(&balancer);

    let connecting = Balancer::start_with(engine, &[hole.address(), upstream.address()], |c| {
        c.timeouts.connect = Duration::from_millis(500);
    });
    let mut waiting = crowd(&connecting, 50, &get("/"));
    let mut answers = waiting.iter_mut().map(|client| client.response().status());
    assert!(answers.all(|status| status == 200));
}

// Rules 35 and 44
fn tunnels_delay_nobody(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        while let Some(request) = peer.next_request() {
            if request.has("Upgrade") {
                peer.send("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n");
                peer.hold();
                return;
            }
            peer.send(&echo_of(&request));
        }
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let asking = request("GET", "/", "Connection: upgrade\r\nUpgrade: foo\r\n", "");
    let mut tunnels = crowd(&balancer, 50, &asking);
    tunnels.iter_mut().for_each(|client| assert_eq!(client.response().status(), 101));
    expect_quick(&balancer);
}

// Rules 9 and 44
fn lingering_clients_delay_nobody(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
        c.timeouts.linger = Duration::from_secs(5);
    });
    let _lingering = crowd(&balancer, 100, "BAD\r\n\r\n");
    expect_quick(&balancer);
}

// Rules 36 and 44: more transfers than workers, each as fast as it can
fn two_fast_transfers_do_not_starve_the_others(engine: EngineKind) {
    let upstream = large_or_silent();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let fast = crowd(&balancer, 3, &get("/large"));
    let streams: Vec<_> = fast.iter().map(Conn::stream).collect();
    let readers: Vec<_> = fast
        .into_iter()
        .map(|client| {
            thread::spawn(move || {
                let stream = client.stream();
                let mut piece = vec![0; 256 * 1024];
                while std::io::Read::read(&mut &*stream, &mut piece).is_ok_and(|n| n > 0) {}
            })
        })
        .collect();
    expect_quick(&balancer);
    for stream in streams {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    readers.into_iter().for_each(|reader| reader.join().expect("a reader"));
}

/// So many clients whose requests are under way for as long as they stay.
fn busy_crowd(balancer: &Balancer, upstream: &Upstream, count: usize) -> Vec<Conn> {
    let clients = crowd(balancer, count, &get("/silent"));
    upstream.wait_until("all have asked", |log| log.requests.len() == count);
    clients
}

// Rule 45
fn a_connection_too_many_waits_until_another_one_ends(engine: EngineKind) {
    let upstream = large_or_silent();
    let balancer =
        Balancer::start_with(engine, &[upstream.address()], |c| c.limits.connections = Some(4));
    let mut inside = busy_crowd(&balancer, &upstream, 4);
    let mut outside = crowd(&balancer, 2, &get("/outside"));
    outside[0].expect_quiet(Duration::from_millis(200));
    assert_eq!(upstream.deliveries(), 4);
    inside.pop().expect("a client").reset();
    assert_eq!(outside[0].response().body, "GET /outside");
    outside[0].send(&get("/silent"));
    outside[1].expect_quiet(Duration::from_millis(50));
    inside.pop().expect("a client").reset();
    assert_eq!(outside[1].response().body, "GET /outside");
}

// Rule 45
fn a_connection_too_many_is_refused_if_so_chosen(engine: EngineKind) {
    let upstream = large_or_silent();
    let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
        c.limits.connections = Some(4);
        c.limits.when_full = WhenFull::Refuse;
    });
    let mut inside = busy_crowd(&balancer, &upstream, 4);
    for _ in 0..3 {
        let mut outside = balancer.client();
        outside.try_send(&get("/outside"));
        expect_refusal(&mut outside, &[503]);
    }
    assert_eq!(upstream.deliveries(), 4);
    inside.pop().expect("a client").reset();
    let deadline = Instant::now() + raw::PATIENCE;
    loop {
        let mut next = balancer.client();
        next.try_send(&get("/next"));
        match next.response().status() {
            200 => break,
            status => assert_eq!(status, 503),
        }
        assert!(Instant::now() < deadline, "the place never became free");
        thread::sleep(Duration::from_millis(10));
    }
}

// Rules 37 and 45
fn those_who_gave_up_in_the_queue_delay_nobody(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        while let Some(request) = peer.next_request() {
            thread::sleep(Duration::from_millis(200));
            peer.send(&echo_of(&request));
        }
    });
    let balancer =
        Balancer::start_with(engine, &[upstream.address()], |c| c.limits.connections = Some(2));
    let inside = crowd(&balancer, 2, &get("/inside"));
    thread::sleep(Duration::from_millis(50));
    // They wait, and leave: 10 s of work for two at a time.
    drop(crowd(&balancer, 100, &get("/gone")));
    let mut patient = balancer.client();
    patient.send(&get("/patient"));
    drop(inside);
    let began = Instant::now();
    assert_eq!(patient.response().body, "GET /patient");
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
}

// Rules 17 and 44: nobody gets another's answer
fn many_requests_on_many_connections_get_their_own_answers(engine: EngineKind) {
    let upstreams = [Upstream::echo(), Upstream::echo()];
    let balancer = Balancer::start(engine, &upstreams.each_ref().map(Upstream::address));
    thread::scope(|scope| {
        for one in 0..8 {
            let balancer = &balancer;
            scope.spawn(move || {
                let mut client = balancer.client();
                for number in 0..100 {
                    let target = format!("/{one}/{number}");
                    let body = "x".repeat(number * 37 % 5000);
                    assert_eq!(
                        client.ask(&post(&target, &body)).body,
                        format!("POST {target} {body}").trim_end()
                    );
                }
            });
        }
    });
    let sum: usize = upstreams.iter().map(Upstream::deliveries).sum();
    assert_eq!(sum, 800);
}
