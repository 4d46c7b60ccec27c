//! One client connection: writes the same GET again and again and reads the whole answer.
//!
//! Strict where a figure depends on it: an answer counts when all of its bytes came, and a connection
//! that ends without a byte of one is told apart from an answer that was cut. Not here: when a request
//! is sent (`load.rs`, `idle.rs`), clients that are slow (`slow.rs`).

use std::borrow::Cow;
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::Failure;

/// Bytes of an answer that are read at a time; its head must fit.
const CHUNK: usize = 16 << 10;
const MAX_FIELDS: usize = 64;
/// Clients that are warmed at a time: few, so that they need few connections to upstreams.
const WARMED_AT_A_TIME: u32 = 16;
/// Source addresses that warm clients come from in turn, so that none runs out of ports.
const SOURCES: u32 = 250;

/// Where requests go, and the request itself.
pub struct Target {
    address: SocketAddr,
    request: Vec<u8>,
    close: bool,
    senders: Option<Senders>,
}

/// Client addresses that requests name in turn, as a trusted proxy in front would.
pub struct Senders {
    first: u32,
    count: u32,
    next: Cell<u32>,
}

impl Senders {
    /// So many addresses from `first` on.
    pub fn new(first: Ipv4Addr, count: u32) -> Senders {
        Senders { first: first.to_bits(), count, next: Cell::new(0) }
    }

    fn next(&self) -> Ipv4Addr {
        let number = self.next.get();
        self.next.set((number + 1) % self.count);
        Ipv4Addr::from_bits(self.first.wrapping_add(number))
    }
}

impl Target {
    /// Reads `http://ADDRESS:PORT/PATH`. With `close`, each request asks for the end of its connection.
    pub fn of(url: &str, close: bool) -> Result<Target, Failure> {
        let wrong = || format!("{url:?} is not of the form http://127.0.0.1:8080/path");
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let address = host.parse().map_err(|_| wrong())?;
        let last = if close { "Connection: close\r\n" } else { "" };
        let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\n{last}\r\n").into_bytes();
        Ok(Target { address, request, close, senders: None })
    }

    /// Lets each request name one of these as its client.
    pub fn with_senders(self, senders: Option<Senders>) -> Target {
        Target { senders, ..self }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bytes of the next request.
    pub fn request(&self) -> Cow<'_, [u8]> {
        let Some(senders) = &self.senders else { return Cow::Borrowed(&self.request) };
        let field = format!("X-Forwarded-For: {}\r\n\r\n", senders.next());
        let fields = &self.request[..self.request.len() - 2];
        Cow::Owned([fields, field.as_bytes()].concat())
    }
}

/// How an exchange ended, other than with a good answer. The names are those of the figures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// A whole answer with another status than 200.
    Status(u16),
    /// No connection.
    Connect,
    /// The connection ended within the answer.
    Closed,
    /// A new connection ended without a byte of an answer.
    Unanswered,
    /// A connection that had served before ended without a byte of this answer.
    Dropped,
    /// Bytes that are no answer, or one whose end is unknown.
    Garbage,
    /// No answer in time.
    Timeout,
}

impl Wrong {
    pub fn name(self) -> String {
        match self {
            Wrong::Status(status) => format!("status {status}"),
            Wrong::Connect => "not connected".to_string(),
            Wrong::Closed => "cut off".to_string(),
            Wrong::Unanswered => "no answer".to_string(),
            Wrong::Dropped => "closed when used again".to_string(),
            Wrong::Garbage => "not understood".to_string(),
            Wrong::Timeout => "timeout".to_string(),
        }
    }
}

/// What a head says of its answer.
struct Head {
    status: u16,
    bytes: usize,
    body: usize,
    close: bool,
}

/// A connection that is made when it is needed, and again after an error.
pub struct Client {
    stream: Option<TcpStream>,
    from: Option<Ipv4Addr>,
    buffer: Vec<u8>,
}

impl Client {
    /// With `from`, connections come from that address.
    pub fn new(from: Option<Ipv4Addr>) -> Client {
        Client { stream: None, from, buffer: Vec::new() }
    }

    /// Sends one request and reads its answer; tells the bytes of the body.
    ///
    /// Whoever drops the future half way must call [`Client::disconnect`].
    pub async fn exchange(&mut self, target: &Target) -> Result<usize, Wrong> {
        let result = self.try_exchange(target).await;
        if result.as_ref().is_err_and(|wrong| !matches!(wrong, Wrong::Status(_))) {
            self.disconnect();
        }
        result
    }

    pub fn disconnect(&mut self) {
        self.stream = None;
    }

    /// Gives the memory for answers back; a client that only waits needs none.
    pub fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    /// Whether the connection is open and silent.
    pub fn is_idle(&self) -> bool {
        let Some(stream) = &self.stream else { return false };
        let read = stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    async fn try_exchange(&mut self, target: &Target) -> Result<usize, Wrong> {
        let fresh = self.stream.is_none();
        if fresh {
            self.stream = Some(connect(target.address, self.from).await?);
        }
        let silent = if fresh { Wrong::Unanswered } else { Wrong::Dropped };
        let stream = self.stream.as_mut().ok_or(Wrong::Connect)?;
        stream.write_all(&target.request()).await.map_err(|_| silent)?;
        self.buffer.resize(CHUNK, 0);
        let mut filled = 0;
        let head = loop {
            let came = read(stream, &mut self.buffer[filled..]).await;
            filled += came.map_err(|wrong| match wrong {
                Wrong::Closed if filled == 0 => silent,
                other => other,
            })?;
            if let Some(head) = parse(&self.buffer[..filled])? {
                break head;
            }
        };
        let mut left = (head.bytes + head.body).checked_sub(filled).ok_or(Wrong::Garbage)?;
        while left > 0 {
            let most = left.min(CHUNK);
            left -= read(stream, &mut self.buffer[..most]).await?;
        }
        if head.close || target.close {
            self.disconnect();
        }
        if head.status == 200 { Ok(head.body) } else { Err(Wrong::Status(head.status)) }
    }
}

/// So many clients that have made one request each and are connected.
pub async fn warm(count: u32, target: &Rc<Target>) -> Result<Vec<Client>, Failure> {
    let next = Rc::new(Cell::new(0));
    let lanes: Vec<_> = (0..WARMED_AT_A_TIME)
        .map(|_| tokio::task::spawn_local(warm_lane(next.clone(), count, target.clone())))
        .collect();
    let mut clients = Vec::new();
    for lane in lanes {
        clients.extend(lane.await.map_err(|error| format!("a task failed: {error}"))??);
    }
    Ok(clients)
}

/// Warms one client after the other until `count` have been.
async fn warm_lane(
    next: Rc<Cell<u32>>,
    count: u32,
    target: Rc<Target>,
) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::new();
    while next.get() < count {
        let number = next.replace(next.get() + 1);
        let mut client = Client::new(Some(Ipv4Addr::new(127, 0, 1, (number % SOURCES + 1) as u8)));
        let answer = client.exchange(&target).await;
        answer.map_err(|wrong| format!("client {number} of {count}: {}", wrong.name()))?;
        clients.push(client);
    }
    Ok(clients)
}

async fn connect(address: SocketAddr, from: Option<Ipv4Addr>) -> Result<TcpStream, Wrong> {
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = from {
            socket.bind(SocketAddr::new(from.into(), 0))?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    };
    connect.await.map_err(|_| Wrong::Connect)
}

/// Reads at least one byte.
async fn read(stream: &mut TcpStream, room: &mut [u8]) -> Result<usize, Wrong> {
    if room.is_empty() {
        return Err(Wrong::Garbage);
    }
    match stream.read(room).await {
        Ok(0) | Err(_) => Err(Wrong::Closed),
        Ok(count) => Ok(count),
    }
}

/// The head at the front of `bytes`, once it is whole.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Wrong> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let length = match answer.parse(bytes).map_err(|_| Wrong::Garbage)? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(length) => length,
    };
    let status = answer.code.ok_or(Wrong::Garbage)?;
    let (mut body, mut close) = (None, false);
    for field in answer.headers.iter() {
        let value = std::str::from_utf8(field.value).map_err(|_| Wrong::Garbage)?;
        if field.name.eq_ignore_ascii_case("content-length") {
            body = Some(value.parse().map_err(|_| Wrong::Garbage)?);
        } else if field.name.eq_ignore_ascii_case("connection") {
            close = value.eq_ignore_ascii_case("close");
        }
    }
    let body = body.ok_or(Wrong::Garbage)?;
    Ok(Some(Head { status, bytes: length, body, close }))
}
