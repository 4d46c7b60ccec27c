//! SIGTERM and SIGINT: what is in flight is finished, nothing is lost, and a second signal is final.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::client::{Answer, Connection, Lost, agent};
use super::support::binary::{Balancer, PATIENCE};
use super::support::echo::Echo;
use super::support::pattern::{Check, all_right};
use super::support::until;

each_engine!(beside_others:
    a_shutdown_under_load_loses_nothing,
    an_interrupt_is_a_shutdown_too,
    a_balancer_without_work_ends_at_once,
    a_second_signal_ends_at_once,
    signals_without_a_meaning_are_ignored_with_a_line_in_the_log,
    a_drain_ends_at_its_timeout_and_says_what_it_cut,
    a_drain_ends_although_every_place_is_taken,
    a_drain_lets_idle_clients_go_although_they_have_every_place,
    a_drain_serves_those_who_wait_in_the_queue,
    whoever_connects_while_the_port_is_being_closed_is_answered,
    a_drain_ends_although_descriptors_have_run_out,
);

/// A request that another thread waits for.
fn in_background(balancer: &Balancer, target: &str) -> JoinHandle<Result<Answer, Lost>> {
    let (address, target) = (balancer.address(), target.to_string());
    std::thread::spawn(move || Connection::open(address).expect("it listens").get(&target))
}

fn wait_until_refused(balancer: &Balancer) {
    let is_refused = || TcpStream::connect(balancer.address()).is_err();
    until(PATIENCE, "new connections are refused", is_refused);
}

/// What the balancer tells of how its drain ended: finished, then cut.
fn drained(balancer: &Balancer) -> [usize; 2] {
    let log = balancer.log();
    let told = |line: &&String| line.contains("finished=") && line.contains("cut=");
    let line = log.iter().rfind(told).unwrap_or_else(|| panic!("no line tells it: {log:?}"));
    let number = |name: &str| {
        let word = line.split(' ').find_map(|word| word.strip_prefix(name));
        word.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{name} in {line}"))
    };
    [number("finished="), number("cut=")]
}

/// Requests over one kept connection until it ends. Returns how many were answered in full.
///
/// A connection may end instead of an answer only once the balancer was told to stop, and only before
/// a byte of that answer: such a request must not have reached an upstream either.
fn send_until_closed(mut connection: Connection, is_stopping: &AtomicBool) -> usize {
    for answered in 0.. {
        let outcome = match answered % 2 {
            0 => connection.get("/"),
            _ => connection.post("/", &"body".repeat(answered % 500)),
        };
        match outcome {
            Ok(answer) => {
                assert_eq!(answer.status, 200);
                if answer.closes() {
                    return answered + 1;
                }
            }
            Err(Lost::BeforeAnyByte) if is_stopping.load(Ordering::SeqCst) => return answered,
            Err(Lost::BeforeAnyByte) => {
                panic!("closed before the signal, after {answered} answers")
            }
            Err(Lost::Cut(bytes)) => panic!("answer {answered} was cut after {bytes} bytes"),
        }
    }
    unreachable!("a connection ends before the numbers do")
}

fn a_shutdown_under_load_loses_nothing(engine: &str) {
    const CLIENTS: usize = 16;
    const WAITING: usize = 4;
    const DOWNLOAD: u64 = 64 << 20;
    let upstreams = [Echo::start(), Echo::start()];
    let delivered = || upstreams.iter().map(Echo::requests).sum::<usize>();
    let waiting = || upstreams.iter().map(Echo::waiting).sum::<usize>();
    let balancer = Balancer::start(engine, &upstreams.each_ref(), &[]);
    let is_stopping = AtomicBool::new(false);

    // The balancer moves in, so that a failure in there kills it and with it ends the clients.
    let (mut balancer, answered) = std::thread::scope(|scope| {
        let mut balancer = balancer;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| Connection::open(balancer.address()).unwrap())
            .map(|connection| scope.spawn(|| send_until_closed(connection, &is_stopping)))
            .collect();
        let url = balancer.url(&format!("/pattern/{DOWNLOAD}"));
        let download = agent(true).get(url).call().unwrap();
        let waits: Vec<_> = (0..WAITING).map(|_| in_background(&balancer, "/slow/1000")).collect();
        until(PATIENCE, "the load is on", || delivered() >= 300 && waiting() == WAITING);

        is_stopping.store(true, Ordering::SeqCst);
        balancer.signal(Signal::TERM);
        wait_until_refused(&balancer);
        assert!(balancer.is_running(), "a download is in flight, and nobody has read it yet");
        let verdict = Check::default().drain(download.into_body().into_reader()).unwrap();
        assert_eq!(verdict, all_right(DOWNLOAD));
        for answer in waits {
            assert_eq!(answer.join().unwrap().expect("it was in flight").status, 200);
        }
        let answered: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        (balancer, answered)
    });
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
    assert_eq!(delivered(), answered + WAITING + 1, "what was delivered was answered, once");
    let [finished, cut] = drained(&balancer);
    // A client whose answer was on its way at the signal may send one more request before it is told.
    let known = WAITING + 1;
    assert!((known..=known + 2 * CLIENTS).contains(&finished), "it says {finished} were finished");
    assert_eq!(cut, 0);
}

fn an_interrupt_is_a_shutdown_too(engine: &str) {
    let echo = Echo::start();
    let mut balancer = Balancer::start(engine, &[&echo], &[]);
    let answer = in_background(&balancer, "/slow/500");
    until(PATIENCE, "the request is in flight", || echo.waiting() == 1);
    balancer.signal(Signal::INT);
    assert_eq!(answer.join().unwrap().expect("it was in flight").status, 200);
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
    assert_eq!(drained(&balancer), [1, 0]);
    assert_eq!(echo.requests(), 1);
}

fn a_balancer_without_work_ends_at_once(engine: &str) {
    for signal in [Signal::TERM, Signal::INT] {
        let echo = Echo::start();
        let mut balancer = Balancer::start(engine, &[&echo], &[]);
        let mut idle = Connection::open(balancer.address()).unwrap();
        assert_eq!(idle.get("/").unwrap().status, 200);
        balancer.signal(signal);
        assert_eq!(balancer.wait(Duration::from_secs(5)).code(), Some(0));
        assert!(matches!(idle.answer(), Err(Lost::BeforeAnyByte)), "an idle client is let go");
        assert_eq!(drained(&balancer), [0, 0]);
    }
}

fn a_second_signal_ends_at_once(engine: &str) {
    let echo = Echo::start();
    let mut balancer = Balancer::start(engine, &[&echo], &[]);
    let answer = in_background(&balancer, "/slow/20000");
    until(PATIENCE, "the request is in flight", || echo.waiting() == 1);
    balancer.signal(Signal::TERM);
    wait_until_refused(&balancer);
    assert!(balancer.is_running(), "the first signal lets the request finish");
    balancer.signal(Signal::TERM);
    let status = balancer.wait(Duration::from_secs(2));
    assert!(!status.success(), "what was cut is not a success");
    assert!(matches!(answer.join().unwrap(), Err(Lost::BeforeAnyByte)));
    assert_eq!(echo.requests(), 1);
}

fn signals_without_a_meaning_are_ignored_with_a_line_in_the_log(engine: &str) {
    let echo = Echo::start();
    let mut balancer = Balancer::start(engine, &[&echo], &[]);
    let answer = in_background(&balancer, "/slow/500");
    until(PATIENCE, "the request is in flight", || echo.waiting() == 1);
    for (signal, words) in [
        (Signal::HUP, ["SIGHUP ignored", "configuration"]),
        (Signal::USR1, ["SIGUSR1 ignored", "no action"]),
        (Signal::USR2, ["SIGUSR2 ignored", "no action"]),
    ] {
        balancer.signal(signal);
        balancer.expect_logged(&words, 1);
    }
    assert_eq!(answer.join().unwrap().expect("it was in flight").status, 200);
    assert!(balancer.is_running());
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
}

fn a_drain_ends_at_its_timeout_and_says_what_it_cut(engine: &str) {
    let echo = Echo::start();
    let mut balancer = Balancer::start(engine, &[&echo], &["--drain-timeout", "1"]);
    let endless = in_background(&balancer, "/slow/20000");
    let short = in_background(&balancer, "/slow/300");
    until(PATIENCE, "both requests are in flight", || echo.waiting() == 2);
    let start = Instant::now();
    balancer.signal(Signal::TERM);
    assert_eq!(short.join().unwrap().expect("it ends before the timeout").status, 200);
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
    let took = start.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
    assert!(endless.join().unwrap().is_err());
    assert_eq!(drained(&balancer), [1, 1]);
    assert_eq!(echo.requests(), 2);
}

fn a_drain_ends_although_every_place_is_taken(engine: &str) {
    let echo = Echo::start();
    for when_full in ["wait", "refuse"] {
        let limits = ["--max-connections", "4", "--when-full", when_full, "--drain-timeout", "2"];
        let mut balancer = Balancer::start(engine, &[&echo], &limits);
        let address = balancer.address();
        // More than are served and told together; they say nothing, and the last ones are never accepted.
        let crowd: Vec<_> = (0..300).map_while(|_| TcpStream::connect(address).ok()).collect();
        assert_eq!(crowd.len(), 300);
        let begin = Instant::now();
        balancer.signal(Signal::TERM);
        assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
        assert!(begin.elapsed() < Duration::from_secs(4), "{when_full}: {:?}", begin.elapsed());
    }
}

fn a_drain_lets_idle_clients_go_although_they_have_every_place(engine: &str) {
    let echo = Echo::start();
    let limits = ["--max-connections", "4", "--drain-timeout", "20", "--idle-timeout", "60"];
    let mut balancer = Balancer::start(engine, &[&echo], &limits);
    let idle: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Connection::open(balancer.address()).expect("it listens");
            assert_eq!(client.get("/").expect("it has a place").status, 200);
            client
        })
        .collect();
    let begin = Instant::now();
    balancer.signal(Signal::TERM);
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    drop(idle);
}

fn a_drain_serves_those_who_wait_in_the_queue(engine: &str) {
    let echo = Echo::start();
    let mut balancer = Balancer::start(engine, &[&echo], &["--max-connections", "2"]);
    let answers: Vec<_> = (0..5).map(|_| in_background(&balancer, "/slow/400")).collect();
    until(PATIENCE, "two are served and three wait", || echo.waiting() == 2);
    // Those who wait have connected as far as they can tell.
    let listening = format!(":{:04X} ", balancer.address().port());
    until(PATIENCE, "three wait", || queued(&listening) >= 3);
    balancer.signal(Signal::TERM);
    for answer in answers {
        assert_eq!(answer.join().unwrap().expect("it had connected").status, 200);
    }
    assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
    assert_eq!(echo.requests(), 5);
}

fn whoever_connects_while_the_port_is_being_closed_is_answered(engine: &str) {
    const ROUNDS: usize = 5;
    const CLIENTS: usize = 4;
    let echo = Echo::start();
    for round in 0..ROUNDS {
        let mut balancer = Balancer::start(engine, &[&echo], &[]);
        let address = balancer.address();
        // Each makes one connection after the other until the port is closed.
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                std::thread::spawn(move || {
                    let mut answered = 0;
                    while let Ok(mut connection) = Connection::open(address) {
                        match connection.get("/") {
                            Ok(answer) => assert_eq!(answer.status, 200),
                            Err(_) => return Err(answered),
                        }
                        answered += 1;
                    }
                    Ok(answered)
                })
            })
            .collect();
        let before = echo.requests();
        until(PATIENCE, "the load is on", || echo.requests() >= before + 50);
        balancer.signal(Signal::TERM);
        for client in clients {
            let lost = client.join().unwrap();
            assert!(lost.is_ok(), "round {round}: connected, then no answer: {lost:?}");
        }
        assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
    }
}

/// Connections that have not been accepted at the port that is written so in /proc/net/tcp.
fn queued(port: &str) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listening = table.lines().filter(|line| line.contains(port) && line.contains(" 0A "));
    let queues = listening.filter_map(|line| line.split_whitespace().nth(4)?.split(':').nth(1));
    queues.filter_map(|queue| usize::from_str_radix(queue, 16).ok()).sum()
}

fn a_drain_ends_although_descriptors_have_run_out(engine: &str) {
    for descriptors in [40, 48, 56, 64] {
        let echo = Echo::start();
        let flags = ["--max-connections", "1000", "--drain-timeout", "1", "--threads", "2"];
        let mut balancer = Balancer::start_with_descriptors(descriptors, engine, &echo, &flags);
        let crowd: Vec<_> = (0..64).map(|_| in_background(&balancer, "/slow/20000")).collect();
        until(PATIENCE, "requests are in flight", || echo.waiting() > 2);
        let begin = Instant::now();
        balancer.signal(Signal::TERM);
        assert_eq!(balancer.wait(PATIENCE).code(), Some(0));
        assert!(begin.elapsed() < Duration::from_secs(4), "{descriptors}: {:?}", begin.elapsed());
        // They were cut, or never served; either way they are told.
        crowd.into_iter().for_each(|answer| drop(answer.join()));
    }
}
