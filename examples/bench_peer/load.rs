//! A load in an open loop: requests are due at fixed times, whether earlier answers came or not.
//!
//! Latency counts from the time at which a request was due, so that one that had to wait for a free
//! connection counts in full (no coordinated omission). Not here: the wire (`client.rs`).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::sync::{Notify, mpsc};

use crate::client::{self, Client, Target, Wrong};
use crate::{Failure, allow_descriptors};

#[derive(Args)]
pub struct Options {
    /// Requests a second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Connections at the most; a request that finds none free waits
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// How long requests are sent
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// When a client gives up and closes, counted from when its request was due
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=600_000))]
    timeout_ms: u32,
    /// A new connection for each request
    #[arg(long)]
    close: bool,
    /// Connect first, with a request each that does not count
    #[arg(long, conflicts_with = "close")]
    warm: bool,
    /// Such as http://127.0.0.1:8080/path
    url: String,
}

/// What the connections share: requests that are due, and what came of the others.
struct Desk {
    due: RefCell<VecDeque<Instant>>,
    /// Wakes the connection that has waited longest, so that all of them are used in turn.
    bell: Notify,
    over: RefCell<bool>,
    tally: RefCell<Tally>,
}

struct Tally {
    latency_us: Histogram<u64>,
    body_bytes: u64,
    wrong: BTreeMap<Wrong, u64>,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    allow_descriptors(options.connections as usize)?;
    let target = Rc::new(Target::of(&options.url, options.close)?);
    let timeout = Duration::from_millis(options.timeout_ms.into());
    // No latency is longer than the timeout; twice that leaves room for a late timer.
    let latency_us = Histogram::new_with_bounds(1, 2 * timeout.as_micros() as u64 + 1_000_000, 3)
        .map_err(|error| format!("no histogram: {error}"))?;
    let tally = Tally { latency_us, body_bytes: 0, wrong: BTreeMap::new() };
    let desk = Rc::new(Desk {
        due: RefCell::default(),
        bell: Notify::new(),
        over: RefCell::new(false),
        tally: RefCell::new(tally),
    });
    let clients = match options.warm {
        true => client::warm(options.connections, &target).await?,
        false => (0..options.connections).map(|_| Client::new(None)).collect(),
    };
    let clients: Vec<_> = clients
        .into_iter()
        .map(|client| {
            tokio::task::spawn_local(serve(client, desk.clone(), target.clone(), timeout))
        })
        .collect();
    pace(&desk, &options).await.map_err(|error| format!("no timer: {error}"))?;
    for client in clients {
        client.await.map_err(|error| format!("a connection's task failed: {error}"))?;
    }
    println!("{}", report(&desk.tally.borrow(), &options));
    Ok(())
}

/// Puts each request on the desk when it is due.
async fn pace(desk: &Desk, options: &Options) -> Result<(), Failure> {
    let period_ns = 1_000_000_000 / u64::from(options.rate);
    let all = u64::from(options.rate) * u64::from(options.seconds);
    let (tell, mut told) = mpsc::unbounded_channel();
    let start = Instant::now();
    let ticker = tokio::task::spawn_blocking(move || tick(period_ns, all, &tell));
    let mut put = 0;
    while let Some(count) = told.recv().await {
        for _ in 0..count {
            put += 1;
            desk.due.borrow_mut().push_back(start + Duration::from_nanos(put * period_ns));
            desk.bell.notify_one();
        }
    }
    desk.over.replace(true);
    desk.bell.notify_waiters();
    let ticked = ticker.await.map_err(|error| format!("the timer's thread failed: {error}"))?;
    ticked.map_err(|error| format!("the timer failed: {error}"))
}

/// Tells how many requests have become due, until `all` are. A timer descriptor and a thread that
/// waits for it are exact to some microseconds; the runtime's own timers are to a millisecond.
fn tick(period_ns: u64, all: u64, tell: &mpsc::UnboundedSender<u64>) -> rustix::io::Result<()> {
    let (seconds, nanoseconds) = (period_ns / 1_000_000_000, period_ns % 1_000_000_000);
    let period = Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds as i64 };
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let every = Itimerspec { it_interval: period, it_value: period };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
    let mut left = all;
    while left > 0 {
        let mut count = [0; 8];
        rustix::io::retry_on_intr(|| rustix::io::read(&timer, &mut count))?;
        let count = u64::from_ne_bytes(count).min(left);
        left -= count;
        if tell.send(count).is_err() {
            break;
        }
    }
    Ok(())
}

/// One connection: takes what is due until all is over.
async fn serve(mut client: Client, desk: Rc<Desk>, target: Rc<Target>, timeout: Duration) {
    loop {
        let next = desk.due.borrow_mut().pop_front();
        let Some(due) = next else {
            if *desk.over.borrow() {
                return;
            }
            desk.bell.notified().await;
            continue;
        };
        let deadline = tokio::time::Instant::from_std(due + timeout);
        let result = match tokio::time::timeout_at(deadline, client.exchange(&target)).await {
            Ok(result) => result,
            Err(_) => {
                client.disconnect();
                Err(Wrong::Timeout)
            }
        };
        desk.tally.borrow_mut().count(result, due.elapsed());
    }
}

impl Tally {
    fn count(&mut self, result: Result<usize, Wrong>, latency: Duration) {
        match result {
            Ok(bytes) => {
                self.body_bytes += bytes as u64;
                self.latency_us.saturating_record(latency.as_micros() as u64);
            }
            Err(wrong) => *self.wrong.entry(wrong).or_default() += 1,
        }
    }
}

fn report(tally: &Tally, options: &Options) -> String {
    let at = |quantile| tally.latency_us.value_at_quantile(quantile);
    let errors: Vec<_> =
        tally.wrong.iter().map(|(wrong, count)| format!("\"{}\":{count}", wrong.name())).collect();
    format!(
        "{{\"rate\":{},\"seconds\":{},\"good\":{},\"body_bytes\":{},\"errors\":{{{}}},\
         \"p50_us\":{},\"p99_us\":{},\"p999_us\":{},\"max_us\":{}}}",
        options.rate,
        options.seconds,
        tally.latency_us.len(),
        tally.body_bytes,
        errors.join(","),
        at(0.5),
        at(0.99),
        at(0.999),
        tally.latency_us.max()
    )
}
