//! Clients that are as slow as they can be: some send a byte of a head each second and never end it,
//! some ask for a large answer and read 1 KiB of it each second. Who is let go comes again.
//!
//! Prints `ready` and how many of each kind are connected once all are, or after ten seconds; and, when
//! stdin has ended, what became of them. Not here: clients in a hurry (`load.rs`).

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::client::Target;
use crate::{Failure, allow_descriptors, stdin_to_end};

/// Time in which all clients connect, one after the other.
const RAMP: Duration = Duration::from_secs(5);
/// How long `ready` may take at the most.
const MOST_RAMP: Duration = Duration::from_secs(10);
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes that a slow reader takes in each period, and its receive buffer: the kernel must not read
/// the answer in its place.
const READ: usize = 1 << 10;
const RECEIVE_BUFFER: u32 = 4 << 10;
/// How a head begins that never ends; what follows is one long value.
const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: slow\r\nX-Slow: ";
/// Source addresses in turn, so that none runs out of ports.
const SOURCES: u32 = 250;

#[derive(Args)]
pub struct Options {
    /// Clients that send a byte of a head each second
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    heads: u32,
    /// Clients that read 1 KiB of their answer each second
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    reads: u32,
    /// What the readers ask for, such as http://127.0.0.1:8080/path
    url: String,
}

/// What became of one kind of client.
#[derive(Default)]
struct Counters {
    open: u64,
    most_open: u64,
    connected: u64,
    /// Connections that could not be made.
    refused: u64,
    /// Connections that the other side ended, with an answer's first bytes and without.
    answered: u64,
    ended: u64,
    bytes: u64,
}

impl Counters {
    fn opened(&mut self) {
        self.connected += 1;
        self.open += 1;
        self.most_open = self.most_open.max(self.open);
    }

    fn json(&self) -> String {
        format!(
            "{{\"open\":{},\"most_open\":{},\"connected\":{},\"refused\":{},\"answered\":{},\
             \"ended\":{},\"bytes\":{}}}",
            self.open,
            self.most_open,
            self.connected,
            self.refused,
            self.answered,
            self.ended,
            self.bytes
        )
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Head,
    Read,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    let all = options.heads + options.reads;
    allow_descriptors(all as usize)?;
    let target = Rc::new(Target::of(&options.url, true)?);
    let tallies: [Rc<RefCell<Counters>>; 2] = Default::default();
    let [heads, reads] = &tallies;
    for number in 0..all {
        // Readers are spread among the others.
        let is_read = |n: u32| u64::from(n) * u64::from(options.reads) / u64::from(all);
        let (kind, counters) = match is_read(number + 1) > is_read(number) {
            true => (Kind::Read, reads.clone()),
            false => (Kind::Head, heads.clone()),
        };
        tokio::task::spawn_local(live(kind, number, RAMP * number / all, target.clone(), counters));
    }
    let start = Instant::now();
    let open = || [heads.borrow().open, reads.borrow().open];
    while open() != [u64::from(options.heads), u64::from(options.reads)]
        && start.elapsed() < MOST_RAMP
    {
        sleep(Duration::from_millis(50)).await;
    }
    let [open_heads, open_reads] = open();
    println!("ready {open_heads} {open_reads}");
    stdin_to_end().await;
    println!("{{\"heads\":{},\"reads\":{}}}", heads.borrow().json(), reads.borrow().json());
    Ok(())
}

/// One client, over and over.
async fn live(
    kind: Kind,
    number: u32,
    begin: Duration,
    target: Rc<Target>,
    counters: Rc<RefCell<Counters>>,
) {
    sleep(begin).await;
    let from = Ipv4Addr::new(127, 0, 1, (number % SOURCES + 1) as u8);
    loop {
        match connect(kind, from, target.address()).await {
            Ok(stream) => {
                counters.borrow_mut().opened();
                let came = match kind {
                    Kind::Head => send_slowly(stream).await,
                    Kind::Read => read_slowly(stream, &target, &counters).await,
                };
                let mut counters = counters.borrow_mut();
                counters.open -= 1;
                if came {
                    counters.answered += 1;
                } else {
                    counters.ended += 1;
                }
            }
            Err(_) => counters.borrow_mut().refused += 1,
        }
        sleep(PERIOD).await;
    }
}

async fn connect(kind: Kind, from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Kind::Read = kind {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.bind(SocketAddr::new(from.into(), 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a byte each second until the other side ends it; tells whether it said something.
async fn send_slowly(mut stream: TcpStream) -> bool {
    let (mut reader, mut writer) = stream.split();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let trickle = async {
        for number in 0.. {
            tick.tick().await;
            let byte = HEAD.get(number).copied().unwrap_or(b'a');
            if writer.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    };
    let mut room = [0; 512];
    tokio::select! {
        came = reader.read(&mut room) => matches!(came, Ok(1..)),
        () = trickle => false,
    }
}

/// Asks, and reads 1 KiB each second until the other side ends it; tells whether anything came.
async fn read_slowly(mut stream: TcpStream, target: &Target, counters: &RefCell<Counters>) -> bool {
    if stream.write_all(&target.request()).await.is_err() {
        return false;
    }
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut room, mut came) = ([0; READ], false);
    loop {
        tick.tick().await;
        match stream.read(&mut room).await {
            Ok(count @ 1..) => {
                came = true;
                counters.borrow_mut().bytes += count as u64;
            }
            _ => return came,
        }
    }
}
