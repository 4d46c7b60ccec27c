//! The library as a test suite uses it: a real balancer between a client and an echo upstream.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use balancebeam::{Drained, EngineKind, Server, Stats, Timeouts};
use support::echo::Echo;
use support::until;

const PATIENCE: Duration = Duration::from_secs(10);

fn get(url: &str) -> (u16, String) {
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
    let agent = config.max_idle_connections(0).timeout_global(Some(PATIENCE)).build().new_agent();
    let mut response = agent.get(url).call().unwrap_or_else(|error| panic!("GET {url}: {error}"));
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

#[test]
fn five_lines_put_a_balancer_between_a_client_and_its_upstream() {
    let echo = Echo::start();
    let server = Server::builder().upstream(echo.address()).start().unwrap();
    let (status, body) = get(&format!("http://{}/hello", server.address()));
    assert_eq!((status, body.as_str()), (200, "GET /hello"));
    assert_eq!(echo.requests(), 1);
}

#[test]
fn a_builder_takes_every_setting() {
    let upstreams = [Echo::start(), Echo::start()];
    let server = Server::builder()
        .upstream(upstreams[0].address())
        .upstream(upstreams[1].address())
        .configure(|config| config.limits.requests_per_minute = 4)
        .start()
        .unwrap();
    let url = format!("http://{}/", server.address());
    let statuses = [(); 6].map(|()| get(&url).0);
    assert_eq!(statuses, [200, 200, 200, 200, 429, 429]);
    assert_eq!(upstreams.each_ref().map(Echo::requests), [2, 2]);
}

#[test]
fn a_drop_finishes_what_is_in_flight_and_closes_the_port() {
    let echo = Echo::start();
    let (address, client) = {
        let server = Server::builder().upstream(echo.address()).start().unwrap();
        let address = server.address();
        let client = std::thread::spawn(move || get(&format!("http://{address}/slow/500")));
        until(PATIENCE, "the request is in flight", || echo.waiting() == 1);
        (address, client)
    };
    assert_eq!(echo.waiting(), 0, "the drop has waited for it");
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(client.join().unwrap(), (200, "GET /slow/500".into()));
    assert_eq!(echo.requests(), 1);
}

#[test]
fn a_stop_tells_what_it_finished() {
    let echo = Echo::start();
    let server = Server::builder().upstream(echo.address()).start().unwrap();
    let url = format!("http://{}/slow/500", server.address());
    let client = std::thread::spawn(move || get(&url));
    until(PATIENCE, "the request is in flight", || echo.waiting() == 1);
    assert_eq!(server.stop(), Drained { finished: 1, failed: 0, cut: 0 });
    assert_eq!(client.join().unwrap().0, 200);
}

#[test]
fn several_balancers_run_in_one_process() {
    let echo = Echo::start();
    let servers = [(); 3].map(|()| Server::builder().upstream(echo.address()).start().unwrap());
    for server in &servers {
        assert_eq!(get(&format!("http://{}/", server.address())).0, 200);
    }
    assert_eq!(echo.requests(), 3);
}

#[test]
fn a_builder_without_an_upstream_says_so() {
    let error = Server::builder().start().expect_err("nothing to balance");
    assert!(error.to_string().contains("upstream"), "{error}");
}

#[test]
fn a_server_may_be_stopped_and_dropped_within_an_async_runtime() {
    for engine in [EngineKind::Threads, EngineKind::Async] {
        let echo = Echo::start();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let start = || {
                let builder = Server::builder().upstream(echo.address());
                builder.configure(|config| config.engine = engine).start().unwrap()
            };
            assert_eq!(start().stop().cut, 0);
            drop(start());
        });
    }
}

#[test]
fn an_upstream_may_be_a_text_and_a_bad_one_is_the_error_of_the_start() {
    let echo = Echo::start();
    let text = echo.address().to_string();
    let server =
        Server::builder().upstream(text.as_str()).upstream(&text).upstream(text).start().unwrap();
    assert_eq!(get(&format!("http://{}/", server.address())).0, 200);
    for bad in ["localhost", "https://localhost:80"] {
        let error = Server::builder().upstream(bad).start().expect_err(bad).to_string();
        assert!(error.contains(&format!("upstream `{bad}`")), "{error}");
    }
}

#[test]
fn a_test_can_see_and_wait_for_the_state_of_an_upstream() {
    let mut upstreams = [Echo::start(), Echo::start()];
    let names = upstreams.each_ref().map(|echo| echo.address().to_string());
    let server = Server::builder()
        .upstream(names[0].as_str())
        .upstream(names[1].as_str())
        .configure(|config| config.health.interval = Some(Duration::from_millis(50)))
        .start()
        .unwrap();
    assert!(server.wait_until_live(&names[0], Duration::ZERO));
    assert!(!server.wait_until_ejected(&names[0], Duration::from_millis(20)));
    assert!(!server.wait_until_live("no.such.upstream:80", PATIENCE));

    upstreams[0].kill();
    assert!(server.wait_until_ejected(&names[0], PATIENCE));
    let [first, second] = &server.upstreams()[..] else { panic!("there are two") };
    assert_eq!((first.name.as_str(), first.live), (names[0].as_str(), false));
    assert!(first.why.as_ref().is_some_and(|why| why.contains("refuse")), "{first:?}");
    assert_eq!((second.live, second.why.as_deref(), second.in_flight), (true, None, 0));
    assert!(format!("{server:?}").contains(&names[0]), "{server:?}");

    upstreams[0].revive();
    assert!(server.wait_until_live(&names[0], PATIENCE));
    let url = format!("http://{}/slow/300", server.address());
    let client = std::thread::spawn(move || get(&url));
    let in_flight = || server.upstreams().iter().map(|u| u.in_flight).sum::<usize>();
    until(PATIENCE, "the request is in flight", || in_flight() == 1);
    assert_eq!(client.join().unwrap().0, 200);
    let expected = Stats { answered_2xx: 1, ..Stats::default() };
    until(PATIENCE, "the answer is counted", || server.stats() == expected);
}

/// A client that has had an answer, and keeps its connection.
fn idle_client(server: &Server) -> TcpStream {
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(client.read(&mut [0; 4096]).unwrap() > 0);
    client
}

/// Bytes that have been written, and that the other side's system has not acknowledged: a busy machine
/// may put that off, even on loopback. By the system's table: `number: local:port remote:port state
/// unacknowledged:unread …`.
fn unacknowledged(stream: &TcpStream) -> u32 {
    let port = format!(":{:04X}", stream.local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|fields| fields[1].ends_with(&port)).expect("a row for each connection");
    u32::from_str_radix(row[4].split(':').next().unwrap(), 16).unwrap()
}

#[test]
fn a_stop_with_an_idle_client_takes_milliseconds() {
    for engine in [EngineKind::Threads, EngineKind::Async] {
        let echo = Echo::start();
        let took = |grace: Option<Duration>| {
            let builder = Server::builder().upstream(echo.address());
            let builder = builder.configure(|config| {
                config.engine = engine;
                config.timeouts.drain_grace = grace.unwrap_or(config.timeouts.drain_grace);
            });
            let server = builder.start().unwrap();
            let mut client = idle_client(&server);
            std::thread::sleep(Duration::from_millis(20)); // it is asleep
            let begin = Instant::now();
            assert_eq!(server.stop().cut, 0);
            let took = begin.elapsed();
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "it is let go in order");
            took
        };
        // The least of some, since the machine may have other work.
        let least = (0..5).map(|_| took(None)).min().unwrap();
        assert!(least < Duration::from_millis(50), "{engine:?}: {least:?}");
        assert!(took(Some(Timeouts::default().drain_grace)) >= Duration::from_millis(300));
    }
}

#[test]
fn a_request_that_has_arrived_is_served_by_a_stop_without_grace() {
    for engine in [EngineKind::Threads, EngineKind::Async] {
        for _ in 0..20 {
            let echo = Echo::start();
            let builder = Server::builder().upstream(echo.address());
            let builder = builder.configure(|config| {
                config.engine = engine;
                // The client reads on only once the server has stopped.
                config.timeouts.linger = Duration::from_millis(10);
            });
            let server = builder.start().unwrap();
            let mut client = idle_client(&server);
            client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
            until(PATIENCE, "the request has arrived", || unacknowledged(&client) == 0);
            server.stop();
            let mut answer = String::new();
            let end = client.read_to_string(&mut answer);
            assert!(end.is_ok(), "{engine:?}: {end:?} after {answer:?}");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{engine:?}: {answer:?}");
        }
    }
}

#[test]
fn a_stop_now_cuts_what_is_in_flight() {
    for engine in [EngineKind::Threads, EngineKind::Async] {
        let echo = Echo::start();
        let builder = Server::builder().upstream(echo.address());
        let server = builder.configure(|config| config.engine = engine).start().unwrap();
        let mut client = TcpStream::connect(server.address()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"GET /slow/20000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        until(PATIENCE, "the request is in flight", || echo.waiting() == 1);
        let begin = Instant::now();
        assert_eq!(server.stop_now(), Drained { finished: 0, failed: 0, cut: 1 });
        assert!(begin.elapsed() < Duration::from_secs(3), "{engine:?}: {:?}", begin.elapsed());
        assert!(client.read(&mut [0; 1]).is_err(), "a reset, not an end");
    }
}
