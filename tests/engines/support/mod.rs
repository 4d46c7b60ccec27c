//! What the socket suite stands on: a balancer that is started for one test, raw bytes at both of its
//! ends, and tables of cases.

pub mod raw;
mod self_test;
mod upstream;

use std::any::Any;
use std::fmt::Debug;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use balancebeam::Server;
use balancebeam::config::{Config, EngineKind};
use socket2::{Domain, Socket, Type};

pub use raw::{Conn, End, Framing, Listener, Message, chunk};
pub use upstream::{Upstream, echo_of};

/// Instantiates the named tests, functions of an `EngineKind`, once for each engine.
macro_rules! on_each_engine {
    ($($test:ident),+ $(,)?) => {
        $crate::support::on_each_engine!(@engines [threads Threads, r#async Async] [$($test)+]);
    };
    (@engines [$($module:ident $engine:ident),+] $tests:tt) => {
        $($crate::support::on_each_engine!(@engine $module $engine $tests);)+
    };
    (@engine $module:ident $engine:ident [$($test:ident)+]) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::$test(balancebeam::config::EngineKind::$engine);
                }
            )+
        }
    };
}
pub(crate) use on_each_engine;

/// A running balancer, stopped when dropped.
pub struct Balancer(Server);

impl Balancer {
    /// With active checks off, two workers, and the defaults for the rest.
    #[track_caller]
    pub fn start(engine: EngineKind, upstreams: &[SocketAddr]) -> Balancer {
        Balancer::start_with(engine, upstreams, |_| {})
    }

    /// The same, with changes.
    #[track_caller]
    pub fn start_with(
        engine: EngineKind,
        upstreams: &[SocketAddr],
        change: impl FnOnce(&mut Config),
    ) -> Balancer {
        let builder = upstreams.iter().fold(Server::builder(), |b, &address| b.upstream(address));
        let server = builder.configure(|config| {
            config.engine = engine;
            config.threads = Some(2);
            config.health.interval = None;
            config.timeouts.linger = Duration::from_millis(500);
            config.timeouts.drain = Duration::from_millis(100);
            change(config);
        });
        Balancer(server.start().expect("a balancer"))
    }

    /// Ends it now, so that nothing can reach an upstream any more.
    pub fn stop(self) {
        self.0.stop();
    }

    /// A new connection to it.
    #[track_caller]
    pub fn client(&self) -> Conn {
        Conn::connect(self.0.address())
    }

    /// Sends a request on a new connection and reads its answer.
    #[track_caller]
    pub fn ask(&self, request: &str) -> Message {
        self.client().ask(request)
    }
}

/// A request without a body.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

/// A request with a body.
pub fn post(target: &str, body: &str) -> String {
    request("POST", target, &format!("Content-Length: {}\r\n", body.chars().count()), body)
}

/// A request with these fields behind `Host`.
pub fn request(method: &str, target: &str, fields: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n{body}")
}

/// A response with a length.
pub fn ok(body: &str) -> String {
    response("200 OK", "", body)
}

/// A response with a length and these fields.
pub fn response(status: &str, fields: &str, body: &str) -> String {
    let length = body.chars().count();
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
}

/// Tries every row and tells all that failed.
#[track_caller]
pub fn cases<T: Debug>(rows: impl IntoIterator<Item = T>, check: impl Fn(&T)) {
    let mut failed = Vec::new();
    for row in rows {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&row))) {
            failed.push(format!("  {row:?}\n    {}", panic_text(panic.as_ref())));
        }
    }
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
    text.unwrap_or_else(|| "a panic without a text".to_string())
}

/// The client is told this status, that the connection ends, and sees it end in order; nothing else.
#[track_caller]
pub fn expect_refusal(client: &mut Conn, statuses: &[u16]) -> Message {
    let answer = client.response();
    let status = answer.status();
    assert!(statuses.contains(&status), "answered {status}, wanted {statuses:?}");
    assert!(answer.says_close(), "no `Connection: close` in {answer:?}");
    client.expect_fin();
    answer
}

/// After an answer of the balancer's own: the connection does what the answer said.
#[track_caller]
pub fn expect_kept_or_closed(client: &mut Conn, answer: &Message) {
    if answer.says_close() {
        client.expect_fin();
    } else {
        assert_eq!(client.ask(&get("/next")).status(), 200, "the next request");
    }
}

/// Sends bytes that must be refused before any upstream hears of them.
#[track_caller]
pub fn refused(engine: EngineKind, wire: &str, statuses: &[u16]) -> Message {
    let upstream = Upstream::echo();
    let balancer = Balancer::start(engine, &[upstream.address()]);
    let mut client = balancer.client();
    client.send(wire);
    let answer = expect_refusal(&mut client, statuses);
    balancer.stop();
    assert_eq!(upstream.connections(), 0, "connections to the upstream");
    answer
}

/// Sends bytes that must be forwarded as one request; returns what the upstream got.
#[track_caller]
pub fn forwarded(engine: EngineKind, wire: &str) -> Message {
    forwarded_with(engine, wire, |_| {})
}

/// The same, with another configuration.
#[track_caller]
pub fn forwarded_with(engine: EngineKind, wire: &str, change: impl FnOnce(&mut Config)) -> Message {
    let upstream = Upstream::echo();
    let balancer = Balancer::start_with(engine, &[upstream.address()], change);
    let mut client = balancer.client();
    client.send(wire);
    let method = wire.trim_start().split(' ').next().unwrap_or_default();
    assert_eq!(client.response_to(method).status(), 200);
    upstream.only_request()
}

/// Relays one response of an upstream to a plain GET; returns what the client got.
#[track_caller]
pub fn relayed(engine: EngineKind, response: &str) -> Message {
    let upstream = Upstream::answering(response);
    let balancer = Balancer::start(engine, &[upstream.address()]);
    balancer.ask(&get("/"))
}

/// A port that is taken, but where nobody listens: connections are refused.
pub struct ClosedPort(Socket);

impl ClosedPort {
    pub fn new() -> ClosedPort {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port");
        ClosedPort(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address").as_socket().expect("an IP address")
    }

    /// Begins to listen there.
    pub fn open(self) -> Listener {
        self.0.listen(128).expect("a listener");
        Listener::over(self.0.into())
    }
}

/// A listener whose queue is full: connecting to it neither succeeds nor fails.
pub struct BlackHole {
    listener: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    pub fn new() -> BlackHole {
        let ClosedPort(listener) = ClosedPort::new();
        listener.listen(0).expect("a listener");
        let address = listener.local_addr().expect("an address").as_socket().expect("an address");
        let soon = Duration::from_millis(100);
        let queued = (0..16).map_while(|_| TcpStream::connect_timeout(&address, soon).ok());
        let _queued: Vec<_> = queued.collect();
        assert!(_queued.len() < 16, "the queue never was full");
        BlackHole { listener, _queued }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address").as_socket().expect("an IP address")
    }
}
