//! Rule 35: connections that become something else.

use std::thread;
use std::time::Duration;

use balancebeam::config::EngineKind;

use crate::support::*;

on_each_engine! {
    an_upgrade_is_asked_for_and_answered_with_all_its_fields,
    bytes_flow_both_ways_in_any_order,
    bytes_that_came_with_the_heads_flow_first,
    the_clients_end_passes_on_and_answers_still_come,
    the_upstreams_end_passes_on_and_bytes_still_go,
    a_reset_passes_on_as_an_end,
    an_upgrade_that_is_declined_is_an_ordinary_exchange,
    a_switch_before_the_request_is_whole_is_502,
    a_request_with_a_body_can_be_upgraded,
    a_tunnel_is_never_used_again,
    a_tunnel_has_its_own_deadline,
    large_tunnels_lose_nothing,
}

const ASKING: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A client and an upstream with a tunnel between them.
fn tunnel(engine: EngineKind) -> (Balancer, Listener, Conn, Conn) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let (client, peer) = tunnel_through(&balancer, &listener);
    (balancer, listener, client, peer)
}

fn tunnel_through(balancer: &Balancer, listener: &Listener) -> (Conn, Conn) {
    let mut client = balancer.client();
    client.send(ASKING);
    let mut peer = listener.accept();
    peer.request();
    peer.send(SWITCH);
    assert_eq!(client.response().status(), 101);
    (client, peer)
}

// Rule 35
fn an_upgrade_is_asked_for_and_answered_with_all_its_fields(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(ASKING);
    let mut peer = listener.accept();
    let got = peer.request();
    assert_eq!(got.list("Connection"), ["upgrade"]);
    assert_eq!(got.all("Upgrade"), ["websocket"]);
    assert_eq!(got.all("Sec-WebSocket-Key"), ["dGhlIHNhbXBsZSBub25jZQ=="]);
    peer.send(SWITCH);
    let got = client.response();
    assert_eq!(got.first, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(got.list("Connection"), ["upgrade"]);
    assert_eq!(got.all("Upgrade"), ["websocket"]);
    assert_eq!(got.all("Sec-WebSocket-Accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
}

// Rule 35
fn bytes_flow_both_ways_in_any_order(engine: EngineKind) {
    let (_balancer, _listener, mut client, mut peer) = tunnel(engine);
    for number in 0..50 {
        let text = format!("\0{number}\r\n\r\nGET / HTTP/1.1\r\n\u{ff}");
        peer.send(&text);
        client.expect(&text);
        client.send(&text);
        client.send(&text);
        peer.expect(&(text.clone() + &text));
    }
}

// Rule 35
fn bytes_that_came_with_the_heads_flow_first(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    client.send(&(ASKING.to_string() + "early "));
    let mut peer = listener.accept();
    peer.request();
    peer.send(&(SWITCH.to_string() + "greetings"));
    assert_eq!(client.response().status(), 101);
    client.expect("greetings");
    client.send("late");
    peer.expect("early late");
}

// Rule 35
fn the_clients_end_passes_on_and_answers_still_come(engine: EngineKind) {
    let (_balancer, _listener, mut client, mut peer) = tunnel(engine);
    client.send("last words");
    client.finish();
    peer.expect("last words");
    peer.expect_fin();
    for _ in 0..3 {
        peer.send("an answer");
        client.expect("an answer");
    }
    drop(peer);
    client.expect_fin();
}

// Rule 35
fn the_upstreams_end_passes_on_and_bytes_still_go(engine: EngineKind) {
    let (_balancer, _listener, mut client, mut peer) = tunnel(engine);
    peer.send("last words");
    peer.finish();
    client.expect("last words");
    client.expect_fin();
    for _ in 0..3 {
        client.send("an answer");
        peer.expect("an answer");
    }
    drop(client);
    peer.expect_fin();
}

// Rules 35 and 37
fn a_reset_passes_on_as_an_end(engine: EngineKind) {
    let (balancer, listener, client, mut peer) = tunnel(engine);
    client.reset();
    assert_ne!(peer.end(), End::Silence);
    let (mut client, peer) = tunnel_through(&balancer, &listener);
    peer.reset();
    assert_ne!(client.end(), End::Silence);
}

// Rule 35
fn an_upgrade_that_is_declined_is_an_ordinary_exchange(engine: EngineKind) {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    for _ in 0..2 {
        assert_eq!(client.ask(ASKING).body, "GET /chat");
    }
    assert_eq!(client.ask(&get("/next")).body, "GET /next");
    assert_eq!(upstream.connections(), 1);
}

// Rule 30
fn a_switch_before_the_request_is_whole_is_502(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    let length = "Connection: Upgrade\r\nContent-Length: 10";
    client.send(&ASKING.replace("Connection: keep-alive, Upgrade", length));
    client.send("hello");
    let mut peer = listener.accept();
    peer.request_head().expect("a head");
    peer.expect("hello");
    peer.send(SWITCH);
    assert_eq!(client.response().status(), 502);
    let (rest, end) = client.rest();
    assert_eq!((rest.as_str(), end != End::Silence), ("", true));
    assert_ne!(peer.end(), End::Silence);
}

// Rules 30 and 35
fn a_request_with_a_body_can_be_upgraded(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start(engine, &[listener.address()]);
    let mut client = balancer.client();
    let length = "Connection: Upgrade\r\nContent-Length: 5";
    let asking = ASKING.replace("Connection: keep-alive, Upgrade", length);
    client.send(&(asking + "hellomore"));
    let mut peer = listener.accept();
    assert_eq!(peer.request().body, "hello");
    peer.send(SWITCH);
    assert_eq!(client.response().status(), 101);
    peer.expect("more");
}

// Rule 35
fn a_tunnel_is_never_used_again(engine: EngineKind) {
    let (balancer, listener, mut client, mut peer) = tunnel(engine);
    client.send("bye");
    peer.expect("bye");
    peer.finish();
    client.expect_fin();
    drop(client);
    peer.expect_fin();
    let mut client = balancer.client();
    client.send(&get("/next"));
    let mut fresh = listener.accept();
    assert_eq!(fresh.request().target(), "/next");
    fresh.send(&ok("fresh"));
    assert_eq!(client.response().body, "fresh");
}

// Rules 35 and 43
fn a_tunnel_has_its_own_deadline(engine: EngineKind) {
    let listener = Listener::new();
    let balancer = Balancer::start_with(engine, &[listener.address()], |c| {
        c.timeouts.idle = Duration::from_millis(200);
        c.timeouts.response = Duration::from_millis(200);
        c.timeouts.progress = Duration::from_millis(200);
        c.timeouts.tunnel = Duration::from_millis(900);
    });
    let (mut client, mut peer) = tunnel_through(&balancer, &listener);
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(500));
        peer.send("still here");
        client.expect("still here");
    }
    assert_ne!(client.end(), End::Silence);
    assert_ne!(peer.end(), End::Silence);
}

// Rules 35 and 36
fn large_tunnels_lose_nothing(engine: EngineKind) {
    const COUNT: usize = 4 * 1024 * 1024;
    let (_balancer, _listener, mut client, mut peer) = tunnel(engine);
    let wire: Vec<u8> = (0..COUNT).map(|n| (n * 31 / 7) as u8).collect();
    let (there, back) = (wire.clone(), wire.clone());
    let sending = thread::spawn(move || {
        peer.send_bytes(&back);
        peer.finish();
        let (got, end) = peer.rest();
        assert!(raw::bytes(&got) == there, "{} bytes went there", got.chars().count());
        assert_eq!(end, End::Fin);
    });
    let stream = client.stream();
    let there = wire.clone();
    let more = thread::spawn(move || {
        std::io::Write::write_all(&mut &*stream, &there).expect("a reader");
        stream.shutdown(std::net::Shutdown::Write).expect("an open connection");
    });
    let (got, end) = client.rest();
    assert!(raw::bytes(&got) == wire, "{} bytes came back", got.chars().count());
    assert_eq!(end, End::Fin);
    more.join().expect("the writer");
    sending.join().expect("the upstream");
}
