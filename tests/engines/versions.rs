//! Rules 30 and 31: interim answers, and HTTP/1.0 on either side.

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    interim_answers_reach_clients_of_http_1_1,
    interim_answers_carry_no_framing,
    interim_answers_are_kept_from_clients_of_http_1_0,
    an_answer_that_stays_interim_is_no_answer,
    a_switch_nobody_asked_for_is_502,
    an_upstream_of_http_1_0_is_not_asked_again_unless_it_says_so,
    clients_always_hear_http_1_1_and_so_do_upstreams,
    a_client_of_http_1_0_is_closed_unless_it_asks,
    a_client_of_http_1_0_that_asks_is_kept_and_told,
    a_client_of_http_1_0_never_gets_chunks,
    trailers_are_kept_from_clients_of_http_1_0,
}

// Rule 30
fn interim_answers_reach_clients_of_http_1_1(engine: EngineKind) {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nlink: </\u{e9}>\r\n\r\n";
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&get("/"));
    let mut peer = listener.accept();
    peer.request();
    for _ in 0..2 {
        peer.send(hints);
        let got = client.response();
        assert_eq!(got.first, "HTTP/1.1 103 Early Hints");
        assert_eq!(got.all("Link"), ["</a>; rel=preload", "</\u{e9}>"]);
    }
    peer.send(&("HTTP/1.1 102 Processing\r\n\r\n".to_string() + &ok("done")));
    assert_eq!(client.response().status(), 102);
    assert_eq!(client.response().body, "done");

    client.send(&get("/2"));
    assert_eq!(peer.request().target(), "/2");
    peer.send(&(hints.to_string() + "HTTP/1.1 100 Continue\r\n\r\n" + &ok("at once")));
    assert_eq!(client.response().status(), 103);
    let next = client.response();
    let last = if next.status() == 100 { client.response() } else { next };
    assert_eq!(last.body, "at once");
}

// Rule 25
fn interim_answers_carry_no_framing(engine: EngineKind) {
    for fields in
        ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n"]
    {
        let wire = format!("HTTP/1.1 103 Early Hints\r\nX: y\r\n{fields}\r\n{}", ok("hello"));
        let upstream = Upstream::answering(&wire);
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        let first = client.ask(&get("/"));
        if first.status() == 103 {
            assert_eq!(client.response().body, "hello");
        } else {
            assert_eq!(first.status(), 502, "{first:?}");
        }
    }
}

// Rule 30
fn interim_answers_are_kept_from_clients_of_http_1_0(engine: EngineKind) {
    let wire =
        format!("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{}", ok("hello"));
    let upstream = Upstream::answering(&wire);
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let got = balancer.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((got.status(), got.body.as_str()), (200, "hello"));
}

// Rules 28 and 30
fn an_answer_that_stays_interim_is_no_answer(engine: EngineKind) {
    let upstream = Upstream::new(|peer| {
        peer.next_request();
        peer.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    });
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    assert_eq!(client.ask(&post("/", "x")).status(), 103);
    match client.try_response_to("POST") {
        Ok(last) => assert_eq!(last.status(), 502),
        Err(broken) => assert_ne!(broken.end, End::Silence, "{broken:?}"),
    }
    assert_eq!(upstream.deliveries(), 1);
}

// Rule 30
fn a_switch_nobody_asked_for_is_502(engine: EngineKind) {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\nraw";
    let rows = [
        get("/"),
        request("GET", "/", "Upgrade: foo\r\n", ""),
        request("GET", "/", "Connection: upgrade\r\n", ""),
        request("GET", "/", "Connection: upgrade\r\nUpgrade: h2c\r\n", ""),
        "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n".to_string(),
    ];
    cases(rows, |wire| {
        let upstream = Upstream::answering(switch);
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        let got = client.ask(wire);
        assert_eq!(got.status(), 502);
        upstream.wait_until("the connection is dropped", |log| log.closed == 1);
    });
}

// Rule 31
fn an_upstream_of_http_1_0_is_not_asked_again_unless_it_says_so(engine: EngineKind) {
    for (fields, wanted) in [("", 3..=3), ("Connection: keep-alive\r\n", 1..=3)] {
        let answer = format!("HTTP/1.0 200 OK\r\n{fields}Content-Length: 5\r\n\r\nhello");
        let upstream = Upstream::answering(&answer);
        let balancer = Balancer::start(engine, &[upstream.address()]);
        let mut client = balancer.client();
        for _ in 0..3 {
            let got = client.ask(&get("/"));
            assert_eq!((got.body.as_str(), got.says_close()), ("hello", false));
        }
        assert!(wanted.contains(&upstream.connections()), "with {fields:?}");
    }
}

// Rule 31; that an upstream hears HTTP/1.1 is seen by every test's reader
fn clients_always_hear_http_1_1_and_so_do_upstreams(engine: EngineKind) {
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let got = relayed(engine, &format!("{version} 200 OK\r\nContent-Length: 2\r\n\r\nhi"));
        assert_eq!(got.first, "HTTP/1.1 200 OK");
    }
    assert_eq!(forwarded(engine, "GET / HTTP/1.0\r\n\r\n").first, "GET / HTTP/1.1");
}

// Rule 31
fn a_client_of_http_1_0_is_closed_unless_it_asks(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let rows =
        ["", "Connection: close\r\n", "Connection: x\r\n", "Connection: keep-alive, close\r\n"];
    cases(rows, |fields| {
        let mut client = balancer.client();
        client.send(&(format!("GET /1 HTTP/1.0\r\n{fields}\r\n") + &get("/evil")));
        let got = client.response();
        assert_eq!(got.body, "GET /1");
        assert!(!got.list("Connection").contains(&"keep-alive".to_string()), "{got:?}");
        client.expect_fin();
    });
    assert_eq!(upstream.deliveries(), rows.len());
}

// Rule 31
fn a_client_of_http_1_0_that_asks_is_kept_and_told(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for value in ["keep-alive", "Keep-Alive", "x, KEEP-ALIVE"] {
        let got = client.ask(&format!("GET /1 HTTP/1.0\r\nConnection: {value}\r\n\r\n"));
        assert_eq!(got.body, "GET /1");
        assert!(got.list("Connection").contains(&"keep-alive".to_string()), "{got:?}");
    }
    assert_eq!(client.ask("GET /2 HTTP/1.0\r\n\r\n").body, "GET /2");
    client.expect_fin();
}

// Rules 27 and 31
fn a_client_of_http_1_0_never_gets_chunks(engine: EngineKind) {
    let rows = [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\n\r\nhello",
    ];
    for keep in ["", "Connection: keep-alive\r\n"] {
        cases(rows, |&answer| {
            let upstream = Upstream::new(move |peer| {
                peer.next_request();
                peer.send(answer);
            });
            let balancer = Balancer::start(engine, &[upstream.address()]);
            let got = balancer.ask(&format!("GET / HTTP/1.0\r\n{keep}\r\n"));
            assert_eq!((got.framing, got.body.as_str()), (Framing::UntilClose, "hello"));
            assert!(!got.list("Connection").contains(&"keep-alive".to_string()), "{got:?}");
        });
    }
}

// Rules 15 and 31
fn trailers_are_kept_from_clients_of_http_1_0(engine: EngineKind) {
    let wire =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n";
    let upstream = Upstream::answering(wire);
    let balancer = Balancer::start(engine, &[upstream.address()]);
    assert_eq!(balancer.ask("GET / HTTP/1.0\r\n\r\n").body, "hello");
}
