//! The library as a test suite uses it: a real balancer between a client and an echo upstream.

mod support;

use std::net::TcpStream;
use std::time::Duration;

use balancebeam::config::EngineKind;
use balancebeam::{Drained, Server};
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
    let error = Server::builder().start().err().expect("nothing to balance");
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
