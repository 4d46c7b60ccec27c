//! What a turn does with a pipe, between two sockets that can be told to take nothing.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::engine::io::{Dialer, Host, Io};
use crate::engine::pipe::{MOST, Pipes};
use crate::engine::socket;
use crate::state::ProxyState;
use crate::upstream::UpstreamId;
use crate::upstream::Upstreams;
use std::net::SocketAddr;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a wire says to whoever writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    /// It takes nothing when it is asked next.
    IsFullOnce,
    IsFull,
    IsDeaf,
}

struct Wire {
    stream: TcpStream,
    mood: Mood,
    /// How often it was written to, and read from, not in vain.
    writes: usize,
    reads: usize,
}

impl AsMut<Wire> for Wire {
    fn as_mut(&mut self) -> &mut Wire {
        self
    }
}

impl Wire {
    fn may_write(&mut self) -> io::Result<()> {
        match self.mood {
            Mood::Takes => Ok(()),
            Mood::IsFullOnce => {
                self.mood = Mood::Takes;
                Err(ErrorKind::WouldBlock.into())
            }
            Mood::IsFull => Err(ErrorKind::WouldBlock.into()),
            Mood::IsDeaf => Err(ErrorKind::BrokenPipe.into()),
        }
    }
}

struct Hand {
    pipes: Arc<Pipes>,
    has_tiny_pipes: bool,
    /// The connection that the next connect makes, at once or when it is looked at.
    conn: Option<Wire>,
    /// Connects do not come to an end.
    is_dialling: bool,
}

impl Io for Hand {
    type Wire = Wire;

    fn read(&mut self, wire: &mut Wire, into: &mut [u8]) -> io::Result<usize> {
        let n = wire.stream.read(into)?;
        wire.reads += 1;
        Ok(n)
    }

    fn write(&mut self, wire: &mut Wire, bytes: &[u8], _: bool) -> io::Result<usize> {
        assert!(!bytes.is_empty(), "a system call for nothing");
        wire.may_write()?;
        wire.writes += 1;
        wire.stream.write(bytes)
    }

    fn fill(&mut self, pipe: &mut Pipe, wire: &mut Wire, most: usize) -> io::Result<usize> {
        pipe.fill(&wire.stream, most)
    }

    fn drain(&mut self, pipe: &mut Pipe, wire: &mut Wire) -> io::Result<usize> {
        wire.may_write()?;
        pipe.drain(&wire.stream)
    }

    fn shut_down(&mut self, wire: &mut Wire) -> io::Result<()> {
        wire.stream.shutdown(std::net::Shutdown::Write)
    }

    fn peek(&mut self, wire: &mut Wire) -> Peeked {
        socket::peek(&wire.stream)
    }

    fn acknowledge(&mut self, _: &mut Wire) {}

    fn reset_on_close(&mut self, _: &mut Wire) {}
}

impl Dialer for Hand {
    type Conn = Wire;

    fn take_idle(&mut self, _: UpstreamId, _: Duration, _: Instant) -> Option<Wire> {
        None
    }

    fn dial(&mut self, _: UpstreamId, _: SocketAddr) -> io::Result<(Wire, bool)> {
        Ok((self.conn.take().expect("one connection"), !self.is_dialling))
    }

    fn poll_connected(&mut self, _: &mut Wire) -> Option<io::Result<()>> {
        (!self.is_dialling).then_some(Ok(()))
    }

    fn keep(&mut self, _: Wire, _: Instant) {}
}

impl Host for Hand {
    fn pipe(&mut self) -> Option<Pipe> {
        if self.has_tiny_pipes { Some(self.pipes.tiny()) } else { self.pipes.take() }
    }

    fn waker(&mut self) -> std::task::Waker {
        std::task::Waker::noop().clone()
    }

    fn complain_of_shortage(&mut self, _: UpstreamId, error: &io::Error, _: Instant) {
        panic!("{error}");
    }
}

/// A connection, and the far ends of its two sockets.
struct World {
    state: Arc<ProxyState>,
    hand: Hand,
    awake: ActiveConnection<Wire>,
    near_client: Wire,
    client: TcpStream,
    upstream: TcpStream,
}

fn pair() -> (Wire, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let far = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (near, _) = listener.accept().expect("a connection");
    near.set_nonblocking(true).expect("a socket that does not block");
    far.set_nonblocking(true).expect("a socket that does not block");
    (Wire { stream: near, mood: Mood::Takes, writes: 0, reads: 0 }, far)
}

impl World {
    fn new(has_tiny_pipes: bool) -> World {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let config = Config { upstreams: vec![address.into()], ..Config::default() };
        let upstreams = Upstreams::new(&config, vec![vec![address]], 1);
        let now = Instant::now();
        let state = Arc::new(ProxyState::new(config, upstreams, now));
        let session = Session::new(state.clone(), IpAddr::from(Ipv4Addr::LOCALHOST), now);
        let ((near_client, client), (conn, upstream)) = (pair(), pair());
        let pipes = Pipes::new(usize::MAX);
        let hand = Hand { pipes, has_tiny_pipes, conn: Some(conn), is_dialling: false };
        World { state, hand, awake: ActiveConnection::new(session), near_client, client, upstream }
    }

    /// Takes turns until `is_done`.
    fn turn_until(&mut self, what: &str, mut is_done: impl FnMut(&mut World) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_done(self) {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            self.awake.turn(&mut self.near_client, &mut self.hand, Instant::now());
        }
    }

    /// Takes turns until so many bytes have reached one side.
    fn arrives(&mut self, at: Side, len: usize) -> Vec<u8> {
        let mut got = Vec::new();
        self.turn_until(&format!("{len} bytes for the {at:?}"), |world| {
            let mut far = if at == Side::Client { &world.client } else { &world.upstream };
            let mut piece = vec![0; len];
            if let Ok(n) = far.read(&mut piece) {
                got.extend_from_slice(&piece[..n]);
            }
            got.len() >= len
        });
        got
    }

    fn conn(&mut self) -> &mut Wire {
        let Attached::Open(conn) = &mut self.awake.upstream else { panic!("no connection") };
        conn
    }
}

const PUT: &[u8] = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n";

/// An answer of so many letters, with a field of so many.
fn answer(status: &str, field: usize, body: usize) -> Vec<u8> {
    let field = "f".repeat(field);
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {body}\r\nA: {field}\r\n\r\n");
    [head.as_bytes(), &vec![b'a'; body]].concat()
}

#[test]
fn what_a_pipe_holds_for_an_upstream_that_reads_no_more_is_nobody_elses() {
    let mut world = World::new(false);
    world.client.write_all(PUT).expect("room for a head");
    world.arrives(Side::Upstream, PUT.len());
    world.conn().mood = Mood::IsFull;
    // All of it has arrived when this returns, so the first read fills a buffer.
    world.client.write_all(&[b'q'; 100_000]).expect("room for a part of a body");
    world.turn_until("something is in the pipe", |world| {
        let pipe = world.awake.pipe.as_ref();
        pipe.is_some_and(|(pipe, to)| !pipe.is_empty() && *to == Side::Upstream)
    });
    world.conn().mood = Mood::IsDeaf;
    let answer = answer("413 Too Much", 1, 50_000);
    world.upstream.write_all(&answer).expect("room for an answer");
    assert!(world.arrives(Side::Client, answer.len()) == answer, "the answer has come through");
    let World { hand, awake, .. } = world;
    drop(awake);
    let pipes: Vec<_> = std::iter::from_fn(|| hand.pipes.take()).collect();
    assert_eq!(pipes.len(), MOST, "the one that was thrown away can be made anew");
}

#[test]
fn a_head_that_does_not_fit_into_a_pipe_leaves_in_order_before_its_body() {
    let mut world = World::new(true);
    world.client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("room for a head");
    world.arrives(Side::Upstream, 26);
    let answer = answer("200 OK", 6_000, 50_000);
    world.near_client.mood = Mood::IsFullOnce;
    world.upstream.write_all(&answer).expect("room for an answer");
    assert!(world.arrives(Side::Client, answer.len()) == answer, "the answer has come through");
}

#[test]
fn a_connect_that_was_made_while_the_machine_slept_has_not_timed_out() {
    let mut world = World::new(false);
    world.hand.is_dialling = true;
    let begin = Instant::now();
    world.client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("room for a head");
    while matches!(world.awake.upstream, Attached::Nothing) {
        assert!(begin.elapsed() < PATIENCE, "waited in vain for a connect");
        world.awake.turn(&mut world.near_client, &mut world.hand, begin);
    }
    world.hand.is_dialling = false;
    let later = begin + Config::default().timeouts.connect * 2;
    world.awake.turn(&mut world.near_client, &mut world.hand, later);
    assert!(matches!(world.awake.upstream, Attached::Open(_)), "it is used");
    assert!(world.state.upstreams.all()[0].is_up(), "and nobody is ejected");
}

#[test]
fn an_answer_that_came_while_the_machine_slept_was_in_time() {
    let mut world = World::new(false);
    let begin = Instant::now();
    world.client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("room for a head");
    world.arrives(Side::Upstream, 26);
    let answer = answer("200 OK", 1, 10);
    world.upstream.write_all(&answer).expect("room for an answer");
    let later = begin + Config::default().timeouts.response * 2;
    world.awake.turn(&mut world.near_client, &mut world.hand, later);
    assert!(world.arrives(Side::Client, answer.len()) == answer, "and not a 504");
}

#[test]
fn a_long_answer_of_which_only_the_head_comes_is_502() {
    for resets in [false, true] {
        let mut world = World::new(false);
        world.client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("room for a head");
        world.arrives(Side::Upstream, 26);
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n";
        if resets {
            // One turn sees the head alone.
            world.upstream.write_all(head).expect("room for an answer");
            world.awake.turn(&mut world.near_client, &mut world.hand, Instant::now());
            socket2::SockRef::from(&world.upstream)
                .set_linger(Some(Duration::ZERO))
                .expect("linger");
            let far = std::mem::replace(&mut world.upstream, pair().1);
            drop(far);
        } else {
            world.upstream.write_all(head).expect("room for an answer");
            world.upstream.shutdown(std::net::Shutdown::Write).expect("an end");
        }
        let got = world.arrives(Side::Client, 12);
        assert_eq!(String::from_utf8_lossy(&got), "HTTP/1.1 502", "reset: {resets}");
    }
}

#[test]
fn a_body_that_has_come_with_its_head_goes_on_with_it_in_one_write() {
    const BODY: usize = 64 * 1024;
    let chunk = |len: usize| format!("{len:x}\r\n{}\r\n", "b".repeat(len));
    let chunks = chunk(BODY / 2).repeat(2) + "0\r\n\r\n";
    // A chunk that has not begun may be the last one.
    for (framing, body, most_reads) in [
        (format!("Content-Length: {BODY}"), "b".repeat(BODY), 2),
        ("Transfer-Encoding: chunked".to_string(), chunks, 3),
    ] {
        let mut world = World::new(false);
        let request = format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{body}");
        // All of it has arrived when this returns.
        world.client.write_all(request.as_bytes()).expect("room for a request");
        let mut got = 0;
        world.turn_until("all of it has gone on", |world| {
            let mut piece = [0; 4096];
            let n = (&world.upstream).read(&mut piece).unwrap_or(0);
            got += piece[..n].iter().filter(|&&byte| byte == b'b').count();
            got >= BODY
        });
        assert_eq!(world.conn().writes, 1, "{framing}");
        let reads = world.near_client.reads;
        assert!(reads <= most_reads, "{framing}: {reads} reads");
    }
}
