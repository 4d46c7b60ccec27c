//! The suite's own tools, held against each other without a balancer in between.

use std::time::Duration;

use super::*;

#[test]
fn a_client_and_an_upstream_understand_each_other() {
    let upstream = Upstream::echo();
    let mut client = Conn::connect(upstream.address());
    assert_eq!(client.ask(&get("/1")).body, "GET /1");
    assert_eq!(client.ask(&post("/2", "\u{ff}")).body, "POST /2 \u{ff}");
    client.send(&request("HEAD", "/3", "", ""));
    assert_eq!(client.response_to("HEAD").field("Content-Length"), Some("7"));
    let chunked =
        request("PUT", "/4", "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\nX: y\r\n\r\n");
    assert_eq!(client.ask(&chunked).body, "PUT /4 abc");
    let log = upstream.log();
    let last = &log.requests[3].1;
    assert_eq!((last.wire.as_str(), last.framing), (chunked.as_str(), Framing::Chunked));
    assert_eq!(last.trailers, [("X".to_string(), "y".to_string())]);
    assert_eq!((log.connections, log.requests.len()), (1, 4));
}

#[test]
fn a_script_tells_connections_apart_and_their_ends_are_counted() {
    let upstream = Upstream::new(|peer| {
        let number = peer.number;
        peer.next_request();
        peer.send(&ok(&number.to_string()));
    });
    for number in ["0", "1"] {
        let mut client = Conn::connect(upstream.address());
        assert_eq!(client.ask(&get("/")).body, number);
        client.expect_fin();
    }
    upstream.wait_until("both are closed", |log| log.closed == 2);
}

#[test]
fn ends_are_told_apart() {
    let listener = Listener::new();
    assert!(listener.try_accept().is_none());
    let mut client = Conn::connect(listener.address());
    let mut peer = listener.accept();
    peer.send("x");
    client.expect("x");
    client.expect_quiet(Duration::from_millis(20));
    peer.finish();
    assert_eq!(client.end(), End::Fin);
    client.send("still heard");
    peer.expect("still heard");
    peer.reset();
    assert!(matches!(client.rest(), (_, End::Fin | End::Reset)));

    let mut client = Conn::connect(listener.address());
    listener.accept().reset();
    assert_eq!(client.end(), End::Reset);
}

#[test]
fn what_is_missing_of_a_message_is_noticed() {
    let rows = [
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ];
    cases(rows, |wire| {
        let listener = Listener::new();
        let mut client = Conn::connect(listener.address());
        listener.accept().send(wire);
        let broken = client.try_response_to("GET").expect_err("not whole");
        assert_eq!((broken.wire.as_str(), broken.end), (*wire, End::Fin));
    });
}

#[test]
fn what_a_proxy_must_not_send_is_refused_by_the_reader() {
    let rows = [
        "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0;x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nName : x\r\n\r\n",
    ];
    cases(rows, |wire| {
        let listener = Listener::new();
        let mut client = Conn::connect(listener.address());
        listener.accept().send(wire);
        let outcome = catch_unwind(AssertUnwindSafe(|| client.response()));
        assert!(outcome.is_err(), "taken as {outcome:?}");
    });
}

#[test]
fn a_table_names_every_case_that_fails() {
    let outcome = catch_unwind(|| cases([1, 2, 3], |n| assert!(n % 2 == 0, "odd")));
    let text = panic_text(outcome.expect_err("two fail").as_ref());
    assert_eq!(text, "2 cases failed:\n  1\n    odd\n  3\n    odd");
}

#[test]
fn a_failing_script_fails_the_test() {
    let outcome = catch_unwind(|| {
        let upstream = Upstream::new(|_| panic!("as meant"));
        let _client = Conn::connect(upstream.address());
        upstream.wait_until("it has failed", |log| log.closed == 1);
    });
    let text = panic_text(outcome.expect_err("it fails").as_ref());
    assert!(text.contains("as meant"), "{text}");
}

#[test]
fn closed_ports_refuse_until_opened_and_black_holes_never_answer() {
    let closed = ClosedPort::new();
    let address = closed.address();
    assert!(TcpStream::connect(address).is_err());
    let listener = closed.open();
    let _client = Conn::connect(address);
    let _peer = listener.accept();

    let hole = BlackHole::new();
    let soon = Duration::from_millis(100);
    let error = TcpStream::connect_timeout(&hole.address(), soon).expect_err("no connection");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}
