//! Counts what the hot path allocates once it is warm: nothing.
//!
//! Every allocation of the process counts, whichever thread makes it. So this program has one test,
//! its peers allocate nothing either, and nothing runs beside the traffic. Not here: how much memory
//! a session holds (`tests/exchange/memory.rs`).
#![forbid(unsafe_code)]

#[path = "support/in_memory.rs"]
mod in_memory;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use balancebeam::Server;
use balancebeam::buffer::Buffer;
use balancebeam::config::EngineKind;
use in_memory::{Connection, answer, get, post};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Exchanges before the count begins, and while it runs.
const WARM_UP: usize = 200;
const MEASURED: usize = 1_000;

/// The least of so many counts is taken: if the tests run for long, their harness says so, which
/// allocates. What the hot path allocates is in each of them.
const COUNTS: usize = 3;

/// What two workers may still allocate when they are warm, however much goes through them: a buffer
/// that one of them lacks is made anew while the other keeps some, but it keeps 16 large and 32 small
/// ones at the most, and hands the next ones over. One worker has nobody to lack them for.
const FOR_TWO_WORKERS: usize = 96;

/// What a peer waits for the other one; a test that fails must not hang.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_hot_path_allocates_nothing() {
    let small = ("GET of 1 KiB", get(), answer(1024));
    let large_answer = ("GET of 100 KiB", get(), answer(100 * 1024));
    let large_request = ("POST of 64 KiB", post(64 * 1024), answer(2));
    // What is large is for one client: the upstream reads from one connection after the other.
    for ((name, request, answer), most_clients) in
        [(small, 4), (large_answer, 1), (large_request, 1)]
    {
        let mut connection = Connection::new(request.clone(), answer.clone());
        assert_eq!(allocations(|| _ = connection.exchange()), 0, "{name} in memory");
        for engine in [EngineKind::Threads, EngineKind::Async] {
            for (clients, workers, most) in
                [(1, 1, 0), (most_clients, 1, 0), (most_clients, 2, FOR_TWO_WORKERS)]
            {
                let mut peers = Peers::start(engine, workers, clients, &request, &answer);
                let made = allocations(|| peers.exchange());
                let case = format!("{name}, {engine:?}, {workers} workers, {clients} clients");
                assert!(made <= most, "{case}: {made} allocations in {MEASURED} exchanges each");
            }
        }
    }
    let made = allocations_of_a_handover();
    assert_eq!(made, 0, "memory that one thread takes and another one gives back");
}

/// What `MEASURED` exchanges allocate.
fn allocations(mut exchange: impl FnMut()) -> usize {
    (0..WARM_UP).for_each(|_| exchange());
    let mut least = usize::MAX;
    for _ in 0..COUNTS {
        let region = Region::new(ALLOCATOR);
        (0..MEASURED).for_each(|_| exchange());
        let change = region.change();
        least = least.min(change.allocations + change.reallocations);
        if least == 0 {
            break;
        }
    }
    least
}

/// Each time, this thread fills a buffer and another one empties it.
fn allocations_of_a_handover() -> usize {
    let (shelf, step) = (Mutex::new(None), Barrier::new(2));
    let put = |buffer: Option<Buffer>| {
        *shelf.lock().expect("nobody panicked") = buffer;
        step.wait();
        step.wait();
    };
    let take = || {
        step.wait();
        let buffer: Option<Buffer> = shelf.lock().expect("nobody panicked").take();
        let was_there = buffer.is_some();
        drop(buffer);
        step.wait();
        was_there
    };
    thread::scope(|scope| {
        scope.spawn(|| while take() {});
        let made = allocations(|| {
            let mut buffer = Buffer::default();
            buffer.push(b"bytes");
            put(Some(buffer));
            let mut resting = Buffer::default();
            resting.push(b"bytes");
            resting.release_memory();
            put(Some(resting));
        });
        put(None);
        made
    })
}

/// A balancer, its clients, and behind it an upstream in a thread of its own.
struct Peers {
    clients: Vec<TcpStream>,
    request: Vec<u8>,
    /// Bytes of the answer's body.
    body: usize,
    space: Vec<u8>,
    _server: Server,
}

impl Peers {
    fn start(
        engine: EngineKind,
        workers: usize,
        clients: usize,
        request: &[u8],
        answer: &[u8],
    ) -> Peers {
        let upstream = upstream(clients, body_of(request), answer.to_vec());
        let server = Server::builder().upstream(upstream).configure(|config| {
            config.engine = engine;
            config.threads = Some(workers);
            config.health.interval = None;
        });
        let server = server.start().expect("it starts");
        let clients = (0..clients).map(|_| connect(server.address())).collect();
        Peers {
            clients,
            request: request.to_vec(),
            body: body_of(answer),
            space: vec![0; 256 * 1024],
            _server: server,
        }
    }

    /// Every client asks, and every client is answered.
    fn exchange(&mut self) {
        for client in &mut self.clients {
            client.write_all(&self.request).expect("the request is taken");
        }
        for client in &mut self.clients {
            let head = receive(client, self.body, &mut self.space).expect("an answer");
            assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
    }
}

/// An upstream for so many connections. It answers when each of them has brought a request, so there
/// are as many connections as clients from the first exchange to the last.
fn upstream(connections: usize, body: usize, answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let accept = |_| listener.accept().expect("a connection").0;
        let mut streams: Vec<_> = (0..connections).map(accept).collect();
        let mut space = vec![0; 256 * 1024];
        loop {
            for stream in &mut streams {
                if receive(stream, body, &mut space).is_none() {
                    return;
                }
            }
            for stream in &mut streams {
                stream.write_all(&answer).expect("the answer is taken");
            }
        }
    });
    address
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream
}

/// Reads a head and a body of so many bytes. Returns the head; `None` at the end.
fn receive<'a>(stream: &mut TcpStream, body: usize, space: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut len = 0;
    loop {
        let n = stream.read(&mut space[len..]).expect("bytes in time");
        len += n;
        let head = head_of(&space[..len]);
        match head {
            _ if n == 0 => return None,
            Some(head) if len >= head + body => return Some(&space[..head]),
            _ => (),
        }
    }
}

/// The length of the head, once it is whole.
fn head_of(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4)
}

/// The length of the body.
fn body_of(message: &[u8]) -> usize {
    message.len() - head_of(message).expect("it has a head")
}
