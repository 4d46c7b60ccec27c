//! The thread against real sockets, and the parts that need none.

use super::*;
use crate::config::{Config, HealthConfig};
use crate::upstream::Upstreams;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread;

const INTERVAL: Duration = Duration::from_millis(50);
/// A timeout that no test lives to see.
const NEVER: Duration = Duration::from_secs(600);
/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// Each upstream is given by its addresses.
fn state(upstreams: &[Vec<SocketAddr>], health: HealthConfig) -> Arc<ProxyState> {
    let config = Config {
        upstreams: upstreams.iter().map(|addresses| addresses[0].into()).collect(),
        health: HealthConfig { interval: Some(INTERVAL), ..health },
        ..Config::default()
    };
    let upstreams = Upstreams::new(&config, upstreams.to_vec(), 1);
    Arc::new(ProxyState::new(config, upstreams, Instant::now()))
}

fn timeout(timeout: Duration) -> HealthConfig {
    HealthConfig { timeout: Some(timeout), ..HealthConfig::default() }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn is_up(state: &ProxyState, i: usize) -> bool {
    state.upstreams.all()[i].is_up()
}

/// An upstream that answers each connection with `status`; 0 closes without an answer.
struct Answering {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    answered: Arc<AtomicUsize>,
}

impl Answering {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (status, answered) = (Arc::new(AtomicU16::new(status)), Arc::default());
        let server = Answering { address, status, answered };
        let (status, answered) = (server.status.clone(), server.answered.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(stream, status.load(Ordering::SeqCst));
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
        server
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream, status: u16) {
    let mut request = Vec::new();
    let mut piece = [0; 512];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => request.extend(&piece[..count]),
            _ => return,
        }
    }
    if status > 0 {
        let head = format!("HTTP/1.1 {status} ?\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
    }
}

/// An address whose connections are made (by the kernel) and never answered, while the listener
/// lives.
fn hung() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address that refuses: bound, so that nobody else gets it, but not listened on.
fn refusing() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address to which no connection is ever made: its queue is full. Lives as long as the sockets.
fn unreachable() -> (Vec<socket2::Socket>, SocketAddr) {
    let (listener, address) = refusing();
    listener.listen(0).unwrap();
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let kind = socket2::Type::STREAM.nonblocking();
        let client = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
        let _ = client.connect(&address.into());
        sockets.push(client);
    }
    (sockets, address)
}

#[test]
fn each_upstream_is_judged_by_its_own_answers() {
    let (good, bad) = (Answering::start(200), Answering::start(500));
    let silent = Answering::start(0);
    let ((_hung, hung), (_refusing, refusing)) = (hung(), refusing());
    let upstreams =
        [good.address, bad.address, silent.address, hung, refusing].map(|address| vec![address]);
    let state = state(&upstreams, timeout(10 * INTERVAL));
    let thread = HealthCheckThread::start(state.clone()).unwrap();
    wait_until("the bad ones are ejected", || (1..5).all(|i| !is_up(&state, i)));
    assert!(is_up(&state, 0));
    bad.status.store(404, Ordering::SeqCst);
    wait_until("one is restored while ejected", || is_up(&state, 1));
    good.status.store(503, Ordering::SeqCst);
    wait_until("the good one is ejected later", || !is_up(&state, 0));
    thread.stop();
    assert_eq!(Arc::strong_count(&state), 1, "the thread has ended");
}

#[test]
fn a_hung_upstream_delays_no_other_and_is_asked_once_at_a_time() {
    let (good, bad, late) = (Answering::start(200), Answering::start(500), Answering::start(200));
    let (listener, hung) = hung();
    let upstreams = [hung, good.address, bad.address, late.address].map(|address| vec![address]);
    let state = state(&upstreams, timeout(NEVER));
    let thread = HealthCheckThread::start(state.clone()).unwrap();
    wait_until("the bad one is ejected", || !is_up(&state, 2));
    wait_until("others are probed again and again", || good.answered() > 5 && late.answered() > 5);
    listener.set_nonblocking(true).unwrap();
    let _probe = listener.accept().unwrap();
    assert!(listener.accept().is_err(), "one probe is out, not two");
    assert!(is_up(&state, 0));
    thread.stop();
    assert_eq!(Arc::strong_count(&state), 1, "it ends although a probe is out");
}

#[test]
fn no_connection_ejects_at_once_and_anything_later_only_counts() {
    let health = HealthConfig { fall: u32::MAX, ..timeout(10 * INTERVAL) };
    let ((_full, unreachable), (_refusing, refusing), (listener, hung)) =
        (unreachable(), refusing(), hung());
    let silent = Answering::start(0);
    let upstreams = [unreachable, refusing, hung, silent.address].map(|address| vec![address]);
    let state = state(&upstreams, health);
    let _thread = HealthCheckThread::start(state.clone()).unwrap();
    wait_until("both are ejected", || !is_up(&state, 0) && !is_up(&state, 1));
    let accepted = AtomicUsize::new(0);
    listener.set_nonblocking(true).unwrap();
    wait_until("the hung one is asked again", || {
        accepted.fetch_add(usize::from(listener.accept().is_ok()), Ordering::SeqCst) > 2
            && silent.answered() > 2
    });
    assert!(is_up(&state, 2) && is_up(&state, 3));
}

#[test]
fn an_upstream_is_up_while_one_of_its_addresses_is() {
    let health = timeout(20 * INTERVAL);
    let ((_full, unreachable), (_refusing, refusing)) = (unreachable(), refusing());
    let good = Answering::start(200);
    let upstreams = [vec![refusing, unreachable, good.address], vec![refusing, unreachable]];
    let state = state(&upstreams, health);
    let _thread = HealthCheckThread::start(state.clone()).unwrap();
    wait_until("the one without a good address is ejected", || !is_up(&state, 1));
    wait_until("the other is probed", || good.answered() > 2);
    assert!(is_up(&state, 0));
}

#[test]
fn without_an_interval_there_is_no_thread() {
    let config = Config {
        health: HealthConfig { interval: None, ..HealthConfig::default() },
        ..Config::default()
    };
    let upstreams = Upstreams::new(&config, Vec::new(), 1);
    let state = Arc::new(ProxyState::new(config, upstreams, Instant::now()));
    let _none = HealthCheckThread::start(state.clone()).unwrap();
    assert_eq!(Arc::strong_count(&state), 1);
}

#[test]
fn rounds_keep_their_rate_and_never_begin_twice() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut rounds = Rounds::new(Duration::from_secs(1), start);
    for (ms, begins) in [
        (0, false), // the first is one interval after the start
        (999, false),
        (1_000, true),
        (1_000, false),
        (1_999, false),
        (2_300, true), // late
        (2_999, false),
        (3_000, true), // but the next is not
        (9_500, true), // many were missed, one is held
        (9_999, false),
        (10_000, true),
    ] {
        assert_eq!(rounds.begins(at(ms)), begins, "at {ms} ms");
    }
    let mut hasty = Rounds::new(Duration::ZERO, start);
    assert!(!hasty.begins(start), "an interval of nothing is a little longer");
}

#[test]
fn a_round_that_comes_while_a_probe_is_out_is_held_when_it_ends() {
    let (_listener, hung) = hung();
    let state = state(&[vec![hung]], timeout(NEVER));
    let now = Instant::now();
    let mut checker = Checker::new(&state, INTERVAL, now);
    checker.enlist_all();
    checker.enlist_all();
    assert_eq!((checker.states[0], checker.waiting.len()), (ProbeState::Waiting, 1));
    checker.launch_waiting(now);
    assert_eq!((checker.states[0], checker.probes.len()), (ProbeState::Out, 1));
    checker.enlist_all();
    checker.enlist_all();
    checker.launch_waiting(now);
    assert_eq!((checker.states[0], checker.probes.len()), (ProbeState::OutAndDue, 1));
    checker.advance(&[false], now + NEVER);
    assert_eq!((checker.states[0], checker.probes.len()), (ProbeState::Waiting, 0));
    checker.launch_waiting(now);
    checker.advance(&[false], now + NEVER);
    assert_eq!((checker.states[0], checker.waiting.len()), (ProbeState::Idle, 0));
}

#[test]
fn a_shortage_of_our_own_is_no_observation() {
    let (_refusing, address) = refusing();
    let state = state(&[vec![address]], HealthConfig { fall: 1, ..HealthConfig::default() });
    let mut checker = Checker::new(&state, INTERVAL, Instant::now());
    let no_descriptor = rustix::io::Errno::MFILE.into();
    checker.end_probe(UpstreamId(0), ProbeOutcome::OwnShortage(no_descriptor), Instant::now());
    assert!(is_up(&state, 0));
    checker.end_probe(UpstreamId(0), ProbeOutcome::NoConnection, Instant::now());
    assert!(!is_up(&state, 0));
}

#[test]
fn only_so_many_probes_are_out_and_the_others_get_their_turn() {
    let (_listener, hung) = hung();
    let state = state(&vec![vec![hung]; MAX_PROBES_OUT + 40], timeout(NEVER));
    let now = Instant::now();
    let mut checker = Checker::new(&state, INTERVAL, now);
    checker.enlist_all();
    checker.launch_waiting(now);
    assert_eq!((checker.probes.len(), checker.waiting.len()), (MAX_PROBES_OUT, 40));
    checker.advance(&[false; MAX_PROBES_OUT], now + NEVER);
    checker.launch_waiting(now);
    assert_eq!((checker.probes.len(), checker.waiting.len()), (40, 0));
    assert!(checker.probes.iter().all(|probe| probe.upstream().0 >= MAX_PROBES_OUT));
}
