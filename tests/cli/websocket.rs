//! An upgraded connection, with tungstenite at both ends.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

use super::client::get;
use super::support::binary::Balancer;
use super::support::echo::Echo;
use super::support::until;

each_engine!(beside_others:
    a_websocket_carries_text_binary_pings_and_the_close_both_ways,
    an_upgrade_that_is_refused_stays_http,
);

const PATIENCE: Duration = Duration::from_secs(30);

/// What a WebSocket upstream has seen.
#[derive(Default)]
struct Observation {
    handshakes: AtomicUsize,
    messages: AtomicUsize,
    closes: AtomicUsize,
}

/// A WebSocket upstream that sends every message back. It ends with the test process.
fn websocket_echo() -> (SocketAddr, Arc<Observation>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Observation> = Arc::default();
    let shared = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let seen = shared.clone();
            std::thread::spawn(move || serve(stream, &seen));
        }
    });
    (address, seen)
}

fn serve(stream: TcpStream, seen: &Observation) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    seen.handshakes.fetch_add(1, Ordering::SeqCst);
    // tungstenite answers pings and the close by itself; the last read flushes the answer.
    while let Ok(message) = socket.read() {
        seen.messages.fetch_add(1, Ordering::SeqCst);
        if message.is_close() {
            seen.closes.fetch_add(1, Ordering::SeqCst);
        } else if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
            return;
        }
    }
}

fn open(balancer: &Balancer) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(balancer.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let url = format!("ws://{}/chat?room=1", balancer.address());
    let (socket, response) = tungstenite::client(url, stream).expect("the handshake");
    assert_eq!(response.status(), 101);
    socket
}

fn a_websocket_carries_text_binary_pings_and_the_close_both_ways(engine: &str) {
    let (upstream, seen) = websocket_echo();
    let balancer = Balancer::start(engine, &[], &["--upstream", &upstream.to_string()]);
    let mut sockets = [open(&balancer), open(&balancer)];
    let binary: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    for (i, socket) in sockets.iter_mut().enumerate() {
        for message in [Message::text(format!("hello {i}")), Message::binary(binary.clone())] {
            socket.send(message.clone()).unwrap();
            assert!(socket.read().unwrap() == message, "socket {i} gets its own message back");
        }
        socket.send(Message::Ping("still there?".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("still there?".into()));
    }
    for mut socket in sockets {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
        socket.close(Some(frame.clone())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Close(Some(frame)));
        assert!(matches!(socket.read(), Err(Error::ConnectionClosed)));
    }
    until(PATIENCE, "the upstream sees both closes", || seen.closes.load(Ordering::SeqCst) == 2);
    assert_eq!(seen.handshakes.load(Ordering::SeqCst), 2);
    assert_eq!(seen.messages.load(Ordering::SeqCst), 2 * 4);
}

fn an_upgrade_that_is_refused_stays_http(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &[]);
    let stream = TcpStream::connect(balancer.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let url = format!("ws://{}/no", balancer.address());
    match tungstenite::client(url, stream) {
        Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => {
            assert_eq!(response.status(), 200);
        }
        other => panic!("an HTTP answer was expected: {:?}", other.map(|_| "a WebSocket")),
    }
    assert_eq!(get(&balancer.url("/")).0, 200);
    assert_eq!(echo.requests(), 2);
}
