//! What a crowd leaves behind in the memory of the process.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::crowd::raise_descriptor_limit;
use super::support::binary::{Balancer, PATIENCE};
use super::support::until;

each_engine!(alone: memory_that_a_crowd_needed_goes_back_to_the_system_when_it_has_left);

const CLIENTS: usize = 800;
const HEAD: usize = 6 * 1024;
/// Bytes behind a head.
const BEHIND: usize = 60 * 1024;
/// How much more than at the start may be resident, 10 s after the crowd has left.
const MOST_LEFT_KIB: u64 = 16 * 1024;
/// A little more than that, because the machine may be busy.
const SOON: Duration = Duration::from_secs(12);

/// A request with a long head, and as many others behind it as a buffer holds.
fn pipelined() -> Vec<u8> {
    let cookie = "c".repeat(HEAD);
    let mut bytes = format!("GET / HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n").into_bytes();
    let len = bytes.len() + BEHIND;
    while bytes.len() < len {
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    bytes
}

/// A request whose body is held until the answer comes.
fn with_body() -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {BEHIND}\r\n\r\n");
    [head.as_bytes(), &[b'b'; BEHIND]].concat()
}

fn memory_that_a_crowd_needed_goes_back_to_the_system_when_it_has_left(engine: &str) {
    for request in [pipelined(), with_body()] {
        crowd_leaves(engine, &request);
    }
}

fn crowd_leaves(engine: &str, request: &[u8]) {
    assert!(raise_descriptor_limit() >= 3 * CLIENTS, "descriptors for the crowd");
    let upstream = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = upstream.local_addr().expect("it is bound").to_string();
    // Accepts every connection and never answers.
    let accepting = thread::spawn(move || {
        (0..CLIENTS).map(|_| upstream.accept().expect("a connection").0).collect::<Vec<_>>()
    });
    let arguments = ["--bind", "127.0.0.1:0", "--engine", engine, "--upstream", &address];
    let arguments = [&arguments[..], &["--active-health-check-interval", "0"]].concat();
    let balancer = Balancer::run(&arguments);
    let start = balancer.memory_kib();

    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(balancer.address()).expect("a connection");
            client.set_write_timeout(Some(PATIENCE)).expect("an option");
            client.write_all(request).expect("what is not read fits into the socket's buffer");
            client
        })
        .collect();
    let upstreams = accepting.join().expect("every request reaches the upstream");
    let held = balancer.memory_kib().saturating_sub(start);
    drop(clients);
    drop(upstreams);

    until(SOON, &format!("{start} KiB at the start, {held} more held, given back"), || {
        balancer.memory_kib() <= start + MOST_LEFT_KIB
    });
}
