//! Rule 37 and its kin: an upstream connection that we end before its time is reset, so that it does
//! not keep a local port for a minute (TIME_WAIT).

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    aborted_requests_keep_no_port,
    connections_that_leave_the_pool_keep_no_port,
    a_connection_that_the_upstream_will_close_keeps_no_port,
    a_distrusted_upstream_costs_no_ports,
    idle_connections_keep_no_port_when_the_balancer_stops,
    probes_keep_no_port,
    a_tunnel_that_ends_in_order_loses_nothing,
}

/// Sockets of ours that keep a port because we ended a connection to this upstream first.
struct KeptPorts {
    upstream: SocketAddr,
    before: usize,
}

impl KeptPorts {
    fn toward(upstream: &Upstream) -> KeptPorts {
        let upstream = upstream.address();
        KeptPorts { upstream, before: KeptPorts::count(upstream) }
    }

    /// By the system's table: `number: local:port remote:port state …`.
    fn count(upstream: SocketAddr) -> usize {
        const ENDED_FIRST: [&str; 3] = ["04", "05", "06"]; // FIN_WAIT1, FIN_WAIT2, TIME_WAIT
        let port = format!(":{:04X}", upstream.port());
        let table = fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|f| f[2].ends_with(&port) && ENDED_FIRST.contains(&f[3])).count()
    }

    #[track_caller]
    fn expect_none(&self) {
        assert_eq!(KeptPorts::count(self.upstream) - self.before, 0, "sockets that keep a port");
    }
}

// Rule 37
fn aborted_requests_keep_no_port(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        peer.next_request();
        peer.hold();
    });
    let kept = KeptPorts::toward(&upstream);
    let balancer = Balancer::start(engine, &[upstream.address()]);
    for number in 1..=20 {
        let mut client = balancer.client();
        client.send(&get("/slow"));
        upstream.wait_until("it was asked", |log| log.requests.len() == number);
        client.reset();
        upstream.wait_until("it is told", |log| log.closed == number);
    }
    kept.expect_none();
}

fn connections_that_leave_the_pool_keep_no_port(engine: EngineKind) {
    let upstream = Upstream::echo();
    let kept = KeptPorts::toward(&upstream);
    let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
        c.limits.pool = 4;
        c.timeouts.pool = Duration::from_millis(100);
    });
    // Some find no room in the pool; the others grow too old there.
    let mut clients: Vec<Conn> = (0..12).map(|_| balancer.client()).collect();
    for _ in 0..3 {
        clients.iter_mut().for_each(|client| client.send(&get("/")));
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
    }
    upstream.wait_until("all are closed", |log| log.closed == log.connections);
    kept.expect_none();
}

fn a_connection_that_the_upstream_will_close_keeps_no_port(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        peer.next_request();
        peer.send(&response("200 OK", "Connection: close\r\n", "hello"));
        peer.hold();
    });
    let kept = KeptPorts::toward(&upstream);
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for _ in 0..10 {
        assert_eq!(client.ask(&get("/")).body, "hello");
    }
    upstream.wait_until("all are closed", |log| log.closed == 10);
    kept.expect_none();
}

// Rule 29
fn a_distrusted_upstream_costs_no_ports(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        while let Some(request) = peer.next_request() {
            let stray = if peer.number == 0 { ok("stray") } else { String::new() };
            peer.send(&(echo_of(&request) + &stray));
        }
    });
    let kept = KeptPorts::toward(&upstream);
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for number in 1..=10 {
        assert_eq!(client.ask(&get("/")).body, "GET /");
        upstream.wait_until("it is closed", |log| log.closed == number);
    }
    kept.expect_none();
}

fn idle_connections_keep_no_port_when_the_balancer_stops(engine: EngineKind) {
    let upstream = Upstream::echo();
    let kept = KeptPorts::toward(&upstream);
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut clients: Vec<Conn> = (0..10).map(|_| balancer.client()).collect();
    clients.iter_mut().for_each(|client| client.send(&get("/")));
    clients.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
    drop(clients);
    balancer.stop();
    upstream.wait_until("all are closed", |log| log.closed == log.connections);
    kept.expect_none();
}

fn probes_keep_no_port(engine: EngineKind) {
    for answers in [true, false] {
        let upstream = Upstream::new(move |peer| {
            if peer.next_request().is_some() && answers {
                peer.send(&ok("fine"));
            }
            peer.hold();
        });
        let kept = KeptPorts::toward(&upstream);
        let balancer = Balancer::start_with(engine, &[upstream.address()], |c| {
            c.health.interval = Some(Duration::from_millis(20));
            c.health.timeout = Some(Duration::from_millis(20));
        });
        upstream.wait_until("some probes are over", |log| log.closed >= 10);
        balancer.stop();
        upstream.wait_until("all are over", |log| log.closed == log.connections);
        kept.expect_none();
    }
}

// Rule 35: a reset would throw away what the upstream has yet to read
fn a_tunnel_that_ends_in_order_loses_nothing(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&request("GET", "/", "Connection: upgrade\r\nUpgrade: foo\r\n", ""));
    let mut peer = listener.accept();
    peer.request();
    peer.send("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n");
    assert_eq!(client.response_head().expect("a head").status(), 101);
    peer.finish();
    let body = "x".repeat(1 << 20);
    client.send(&body);
    client.finish();
    // Both directions have ended, and much of it still waits in the system.
    client.expect_fin();
    let began = Instant::now();
    let (got, end) = peer.rest();
    assert_eq!((got.len(), end), (body.len(), End::Fin), "after {:?}", began.elapsed());
}
