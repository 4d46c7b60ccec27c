//! Rules 38, 40, 43 and 47: bodies that do not come are the client's fault, and take nothing from
//! others.

use std::io::{ErrorKind, Read};
use std::thread;
use std::time::{Duration, Instant};

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    no_upstream_is_ejected_for_bodies_that_do_not_come,
    no_upstream_is_ejected_for_bodies_that_wait_for_a_100,
    no_upstream_is_ejected_for_bodies_that_come_while_it_closes,
    a_stalled_body_is_sent_to_one_upstream_alone,
    bodies_that_trickle_keep_no_upstream_from_others,
    a_request_waits_for_an_upstream_only_once_its_body_is_there,
    interim_responses_extend_the_wait_for_the_answer,
}

/// How long the upstreams here wait for the rest of a request.
const READ_TIMEOUT: Duration = Duration::from_millis(400);

/// Answers whole requests, and closes a connection whose request takes longer than its read timeout.
fn impatient() -> Upstream {
    Upstream::new(|peer| {
        let stream = peer.stream();
        stream.set_read_timeout(Some(READ_TIMEOUT)).expect("a read timeout");
        let mut wire = Vec::new();
        let mut until = Instant::now() + READ_TIMEOUT;
        while wire.is_empty() || Instant::now() < until {
            let mut piece = [0; 4096];
            match (&*stream).read(&mut piece) {
                Ok(0) => return,
                Ok(n) => {
                    if wire.is_empty() {
                        until = Instant::now() + READ_TIMEOUT;
                    }
                    wire.extend_from_slice(&piece[..n]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return,
            }
            if wire.starts_with(b"GET ") && wire.ends_with(b"\r\n\r\n") {
                wire.clear();
                peer.send(&ok("fine"));
            }
        }
    })
}

/// Begins a request whose body stops after its first byte.
fn stalled(balancer: &Balancer, method: &str, client: usize) -> Conn {
    begun(balancer, method, client, 100)
}

/// Begins a request with a body of so many bytes, and sends the first one.
fn begun(balancer: &Balancer, method: &str, client: usize, length: usize) -> Conn {
    let fields = format!("X-Forwarded-For: 198.51.100.{client}\r\nContent-Length: {length}\r\n");
    let mut conn = balancer.client();
    conn.send(&request(method, "/upload", &fields, "x"));
    conn
}

/// Does something to a balancer that must not make it eject one of its upstreams.
fn expect_no_ejection(engine: EngineKind, attack: impl Fn(&Balancer)) {
    let upstreams = [impatient(), impatient(), impatient()];
    let addresses = upstreams.each_ref().map(Upstream::address);
    let balancer = Balancer::start_with(engine, &addresses, |c| {
        c.health.eject_after = Some(1);
        c.retry.fail_open = false;
    });
    attack(&balancer);
    let before: Vec<_> = upstreams.iter().map(Upstream::connections).collect();
    for _ in 0..9 {
        assert_eq!(balancer.ask(&get("/")).body, "fine");
    }
    for (upstream, before) in upstreams.iter().zip(before) {
        assert!(upstream.connections() > before, "it was ejected: nothing is sent to it");
    }
}

// Rule 43
fn no_upstream_is_ejected_for_bodies_that_do_not_come(engine: EngineKind) {
    expect_no_ejection(engine, |balancer| {
        let mut stalled: Vec<_> =
            (1..=60).map(|client| stalled(balancer, "POST", client)).collect();
        for conn in &mut stalled {
            expect_refusal(conn, &[408]);
        }
    });
}

// Rules 38 and 43
fn no_upstream_is_ejected_for_bodies_that_wait_for_a_100(engine: EngineKind) {
    expect_no_ejection(engine, |balancer| {
        let waits = |client| {
            let fields = format!(
                "X-Forwarded-For: 198.51.100.{client}\r\nContent-Length: 100\r\n\
                 Expect: 100-continue\r\n"
            );
            let mut conn = balancer.client();
            conn.send(&request("POST", "/upload", &fields, ""));
            conn
        };
        let mut waiting: Vec<_> = (1..=12).map(waits).collect();
        for conn in &mut waiting {
            expect_refusal(conn, &[502]);
        }
    });
}

// Rules 38 and 43
fn no_upstream_is_ejected_for_bodies_that_come_while_it_closes(engine: EngineKind) {
    expect_no_ejection(engine, |balancer| {
        let mut conns: Vec<_> =
            (1..=12).map(|client| begun(balancer, "POST", client, 10_000)).collect();
        // The upstreams close some time or other, and then there is nearly always a byte on its way.
        let until = Instant::now() + 2 * READ_TIMEOUT;
        while Instant::now() < until {
            for conn in &mut conns {
                conn.try_send("x");
            }
            thread::sleep(Duration::from_millis(2)); // the pace of the clients
        }
    });
}

// Rules 40 and 43
fn a_stalled_body_is_sent_to_one_upstream_alone(engine: EngineKind) {
    let upstreams = [impatient(), impatient(), impatient()];
    let balancer = Balancer::start(engine, &upstreams.each_ref().map(Upstream::address));
    let mut stalled: Vec<_> = (1..=10).map(|client| stalled(&balancer, "PUT", client)).collect();
    for conn in &mut stalled {
        expect_refusal(conn, &[408]);
    }
    let attempts: usize = upstreams.iter().map(Upstream::connections).sum();
    assert_eq!(attempts, 10, "one attempt for each request");
}

fn bounded(engine: EngineKind, upstream: &Upstream, most: usize) -> Balancer {
    Balancer::start_with(engine, &[upstream.address()], |c| {
        c.limits.in_flight = Some(most);
        c.timeouts.queue = Duration::from_millis(600);
    })
}

// Rule 47
fn bodies_that_trickle_keep_no_upstream_from_others(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = bounded(engine, &upstream, 4);
    let trickling: Vec<_> = (1..=4)
        .map(|client| {
            let mut conn = stalled(&balancer, "POST", client);
            thread::spawn(move || {
                let until = Instant::now() + raw::PATIENCE;
                let stream = conn.stream();
                stream.set_nonblocking(true).expect("a socket that does not block");
                // A byte now and then, until an answer is there.
                while stream.peek(&mut [0]).is_err() && Instant::now() < until {
                    conn.try_send("x");
                    thread::sleep(Duration::from_millis(50)); // the pace of the client
                }
                stream.set_nonblocking(false).expect("a socket that blocks");
                conn.response().status()
            })
        })
        .collect();
    upstream.wait_until("four requests have begun", |log| log.connections == 4);
    let began = Instant::now();
    while balancer.ask(&get("/polite")).status() != 200 {
        assert!(began.elapsed() < raw::PATIENCE, "no other client is served");
    }
    assert!(began.elapsed() < Duration::from_secs(3), "served after {:?}", began.elapsed());
    let statuses: Vec<_> = trickling.into_iter().map(|t| t.join().expect("a client")).collect();
    assert!(statuses.contains(&408), "{statuses:?}");
}

// Rules 36 and 47
fn a_request_waits_for_an_upstream_only_once_its_body_is_there(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = bounded(engine, &upstream, 1);
    let mut first = balancer.client();
    first.send(&request("POST", "/first", "Content-Length: 3000\r\n", "x"));
    upstream.wait_until("the first request has begun", |log| log.connections == 1);
    // It brings enough to keep its upstream; meanwhile one waits whose body does not come.
    let mut second = stalled(&balancer, "POST", 1);
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(400)); // together longer than --queue-timeout
        first.send(&"x".repeat(1_400));
    }
    second.send(&"y".repeat(99));
    first.send(&"x".repeat(199));
    assert_eq!(first.response().status(), 200);
    assert_eq!(second.response().status(), 200, "the wait has begun with the end of the body");
}

// Rules 30 and 43
fn interim_responses_extend_the_wait_for_the_answer(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        while peer.next_request().is_some() {
            for _ in 0..4 {
                peer.send("HTTP/1.1 102 Processing\r\n\r\n");
                thread::sleep(Duration::from_millis(400)); // the work of the upstream
            }
            peer.send(&ok("done"));
        }
    });
    let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
        c.timeouts.response = Duration::from_millis(700);
    });
    let mut client = balancer.client();
    client.send(&get("/"));
    for _ in 0..4 {
        assert_eq!(client.response_head().expect("an interim response").status(), 102);
    }
    assert_eq!(client.response().body, "done");
}
