//! The suite's own upstream and client, one talking to the other with no balancer between: what the
//! other tests count on.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::client::{Connection, agent, get, post};
use super::support::echo::{Echo, HEALTH};
use super::support::pattern::{Check, Source, all_right};

fn url(address: SocketAddr, target: &str) -> String {
    format!("http://{address}{target}")
}

#[test]
fn the_echo_upstream_tells_what_arrived_and_counts_it() {
    let echo = Echo::start();
    assert_eq!(get(&url(echo.address(), "/a?b")), (200, "GET /a?b".into()));
    assert_eq!(post(&url(echo.address(), "/"), "body"), (200, "body".into()));
    assert_eq!(get(&url(echo.address(), HEALTH)).0, 200);
    assert_eq!((echo.requests(), echo.probes(), echo.connections()), (2, 1, 3));
    let answer = Connection::open(echo.address()).unwrap().post("/x?y", "12345").unwrap();
    assert_eq!(answer.field("Seen-Method"), Some("POST"));
    assert_eq!(answer.field("Seen-Target"), Some("/x?y"));
    assert_eq!(answer.field("Seen-Framing"), Some("length"));
    assert_eq!(answer.field("Seen-Host"), Some("test"));
}

#[test]
fn the_echo_upstream_fails_and_waits_when_told() {
    let echo = Echo::start();
    echo.fail(true);
    assert_eq!(get(&url(echo.address(), "/")).0, 500);
    assert_eq!(get(&url(echo.address(), HEALTH)).0, 500);
    echo.fail(false);
    let start = Instant::now();
    assert_eq!(get(&url(echo.address(), "/slow/300")).0, 200);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_killed_upstream_refuses_ends_its_connections_and_can_be_revived_on_its_port() {
    let mut echo = Echo::start();
    let mut kept = Connection::open(echo.address()).unwrap();
    assert_eq!(kept.get("/").unwrap().status, 200);
    echo.kill();
    assert!(kept.get("/").is_err());
    assert!(TcpStream::connect(echo.address()).is_err());
    echo.revive();
    assert_eq!(get(&url(echo.address(), "/")).0, 200);
    assert_eq!((echo.requests(), echo.connections()), (2, 2));
    assert!(TcpStream::connect(Echo::down().address()).is_err());
}

#[test]
fn bodies_are_checked_in_both_directions() {
    const LEN: u64 = 1_000_000;
    let echo = Echo::start();
    for target in ["/pattern/1000000", "/chunked/1000000"] {
        let response = agent(true).get(url(echo.address(), target)).call().unwrap();
        let verdict = Check::default().drain(response.into_body().into_reader()).unwrap();
        assert_eq!(verdict, all_right(LEN), "{target}");
    }
    let mut source = Source::new(LEN);
    let body = ureq::SendBody::from_reader(&mut source);
    let mut response = agent(true).post(url(echo.address(), "/verify")).send(body).unwrap();
    assert_eq!(response.headers()["seen-framing"], "chunked");
    assert_eq!(response.body_mut().read_to_string().unwrap(), all_right(LEN));
    let mut shifted = Check::default();
    shifted.take(&[0]);
    let verdict = shifted.drain(Source::new(LEN)).unwrap();
    assert_eq!(verdict, format!("{} bytes, wrong near byte 0", LEN + 1));
}
