//! An upstream that answers every request with 1 KiB by default, at once, late, or only so many at a time; never
//! before the body has come, whose length the request must tell. With a port of its own it can be
//! killed and started again in the same place.
//!
//! Those above `--most` wait in the order of their arrival; one whose client goes away meanwhile is
//! forgotten, as most servers do that hear of it. Not here: large bodies; nginx serves those.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::{Failure, allow_descriptors, stdin_to_end};

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
const MAX_FIELDS: usize = 64;
const BACKLOG: u32 = 4_096;

#[derive(Args)]
pub struct Options {
    /// Ports to listen on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    ports: u32,
    /// The one port to listen on [default: any that are free]
    #[arg(long, conflicts_with = "ports")]
    port: Option<u16>,
    /// Bytes of each answer's body
    #[arg(long, default_value_t = 1 << 10, value_parser = clap::value_parser!(u32).range(0..=16 << 20))]
    body: u32,
    /// How long each answer takes
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    delay_ms: u64,
    /// Requests that are worked on at a time, over all ports; others wait [default: no limit]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    most: Option<u32>,
}

const SHORT: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What a head says of its request.
struct Head {
    bytes: usize,
    body: usize,
    close: bool,
}

/// How each request is worked on, and the answer.
struct Work {
    delay: Duration,
    permits: Semaphore,
    answer: Vec<u8>,
    last_answer: Vec<u8>,
}

impl Work {
    async fn take(&self) {
        let _permit = self.permits.acquire().await;
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }
}

pub async fn run(options: Options) -> Result<(), Failure> {
    allow_descriptors(options.ports as usize)?;
    let answer = |field: &str| {
        let body = vec![b'x'; options.body as usize];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{field}\r\n", body.len());
        [head.as_bytes(), &body].concat()
    };
    let permits = options.most.map_or(Semaphore::MAX_PERMITS, |most| most as usize);
    let work = Rc::new(Work {
        delay: Duration::from_millis(options.delay_ms),
        permits: Semaphore::new(permits),
        answer: answer(""),
        last_answer: answer("Connection: close\r\n"),
    });
    let mut ports = Vec::new();
    for _ in 0..options.ports {
        let listener = listen(options.port.unwrap_or(0))
            .map_err(|error| format!("no port to listen on: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        ports.push(address.port().to_string());
        tokio::task::spawn_local(accept(listener, work.clone()));
    }
    println!("{}", ports.join(" "));
    stdin_to_end().await;
    Ok(())
}

/// Connections of a predecessor may still be on their way out at the same port.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, work: Rc<Work>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(serve(stream, work.clone()));
            }
            // A shortage of descriptors; connections that end make room.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Answers requests one after the other until the connection ends, or is no longer understood.
async fn serve(mut stream: TcpStream, work: Rc<Work>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut buffer = vec![0; MAX_HEAD];
    let mut filled = 0;
    loop {
        let head = loop {
            if let Some(head) = parse(&buffer[..filled])? {
                break head;
            }
            filled += match stream.read(&mut buffer[filled..]).await {
                Ok(count) if count > 0 => count,
                _ => return None,
            };
        };
        buffer.copy_within(head.bytes..filled, 0);
        filled -= head.bytes;
        filled = match read_body(&mut stream, &mut buffer, filled, head.body).await {
            Some(filled) => filled,
            None => return stream.write_all(SHORT).await.ok(),
        };
        tokio::select! {
            biased;
            () = work.take() => {}
            () = end_of(&stream) => return None,
        }
        let answer = if head.close { &work.last_answer } else { &work.answer };
        stream.write_all(answer).await.ok()?;
        if head.close {
            return None;
        }
    }
}

/// Reads a body to its end; `filled` bytes of the buffer are there already. Tells how many that follow
/// the body are at its front; `None` if the body is cut short.
async fn read_body(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    filled: usize,
    body: usize,
) -> Option<usize> {
    let here = filled.min(body);
    buffer.copy_within(here..filled, 0);
    let rest = filled - here;
    let mut left = body - here;
    while left > 0 {
        let most = left.min(buffer.len());
        left -= match stream.read(&mut buffer[..most]).await {
            Ok(count) if count > 0 => count,
            _ => return None,
        };
    }
    Some(rest)
}

/// Returns when the client has gone; never, if it sends more instead.
async fn end_of(stream: &TcpStream) {
    if let Ok(1..) = stream.peek(&mut [0]).await {
        std::future::pending::<()>().await;
    }
}

/// A whole head. `None` ends the connection: the head is not understood, or does not tell how long the
/// body is.
fn parse(bytes: &[u8]) -> Option<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes).ok()? {
        httparse::Status::Partial => return (bytes.len() < MAX_HEAD).then_some(None),
        httparse::Status::Complete(length) => length,
    };
    let has = |name: &str| request.headers.iter().find(|f| f.name.eq_ignore_ascii_case(name));
    if has("transfer-encoding").is_some() {
        return None;
    }
    let body = match has("content-length") {
        Some(field) => std::str::from_utf8(field.value).ok()?.parse().ok()?,
        None => 0,
    };
    let close = has("connection").is_some_and(|f| f.value.eq_ignore_ascii_case(b"close"));
    Some(Some(Head { bytes: length, body, close }))
}
