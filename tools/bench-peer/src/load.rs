//! A load in an open loop: requests are due at fixed times, whether earlier answers came or not.
//!
//! Latency counts from the time at which a request was due, so that one that had to wait for a free
//! connection counts in full (no coordinated omission). Where the load itself was late, the figure is
//! worth nothing: that lag is told, too. Not here: the wire (`client.rs`).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::client::{self, Client, Senders, Target, Wrong};
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
    /// Client addresses that requests name in X-Forwarded-For, in turn [default: none]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    senders: Option<u32>,
    /// The first of them
    #[arg(long, default_value = "10.0.0.0")]
    first_sender: Ipv4Addr,
    /// Such as http://127.0.0.1:8080/path
    url: String,
}

/// A good answer that took longer than this is told as a late one.
const LATE: Duration = Duration::from_secs(1);

/// A request: when it was due, and when the load noticed.
struct Due {
    at: Instant,
    seen: Instant,
}

/// What the connections share: requests that are due, and what came of the others.
struct Desk {
    due: RefCell<VecDeque<Due>>,
    /// Wakes the connection that has waited longest, so that all of them are used in turn.
    bell: Notify,
    over: RefCell<bool>,
    counters: RefCell<Counters>,
}

struct Counters {
    /// How late the load was by its own fault: waiting for a free connection is not.
    lag_us: Histogram<u64>,
    latency_us: Histogram<u64>,
    body_bytes: u64,
    /// Good answers that came while requests were still being sent.
    good_in_time: u64,
    wrong: BTreeMap<Wrong, u64>,
    /// Good answers that came late.
    late: u64,
    /// When the last request was due that got no good answer, or a late one.
    last_trouble: Option<Instant>,
}

pub async fn run(options: Options) -> Result<(), Failure> {
    allow_descriptors(options.connections as usize)?;
    let senders = options.senders.map(|count| Senders::new(options.first_sender, count));
    let target = Rc::new(Target::of(&options.url, options.close)?.with_senders(senders));
    let timeout = Duration::from_millis(options.timeout_ms.into());
    // No latency is longer than the timeout; twice that leaves room for a late timer.
    let latency_us = Histogram::new_with_bounds(1, 2 * timeout.as_micros() as u64 + 1_000_000, 3)
        .map_err(|error| format!("no histogram: {error}"))?;
    let lag_us = latency_us.clone();
    let counters = Counters::new(lag_us, latency_us);
    let desk = Rc::new(Desk {
        due: RefCell::default(),
        bell: Notify::new(),
        over: RefCell::new(false),
        counters: RefCell::new(counters),
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
    let start = pace(&desk, &options).await.map_err(|error| format!("no timer: {error}"))?;
    for client in clients {
        client.await.map_err(|error| format!("a connection's task failed: {error}"))?;
    }
    println!("{}", report(&desk.counters.borrow(), &options, start));
    Ok(())
}

/// Puts each request on the desk when it is due. A timer descriptor is exact to some microseconds;
/// the runtime's own timers are to a millisecond. It is waited for where the requests are sent, since
/// a thread of its own would have to wake that one for each of them. Tells when it began.
async fn pace(desk: &Desk, options: &Options) -> std::io::Result<Instant> {
    let period = Duration::from_secs(1) / options.rate;
    let all = options.rate * options.seconds;
    let timer = timer()?;
    let start = arm(timer.get_ref(), period)?;
    let mut put = 0;
    while put < all {
        let more = ticks(&timer).await?.min(u64::from(all - put)) as u32;
        let seen = Instant::now();
        for _ in 0..more {
            put += 1;
            let at = start + period * put;
            desk.due.borrow_mut().push_back(Due { at, seen });
            desk.bell.notify_one();
        }
    }
    desk.over.replace(true);
    desk.bell.notify_waiters();
    Ok(start)
}

// What replaces `new` is unsafe; its flaw is a descriptor that closes early, and an owned one does not.
#[allow(deprecated)]
fn timer() -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

/// Lets the timer expire each `period` from now on; tells when that is.
fn arm(timer: &OwnedFd, period: Duration) -> std::io::Result<Instant> {
    let each =
        Timespec { tv_sec: period.as_secs() as i64, tv_nsec: i64::from(period.subsec_nanos()) };
    let every = Itimerspec { it_interval: each, it_value: each };
    let start = Instant::now();
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &every)?;
    Ok(start)
}

/// How often the timer has expired since the last call; at least once.
async fn ticks(timer: &AsyncFd<OwnedFd>) -> std::io::Result<u64> {
    loop {
        let mut ready = timer.readable().await?;
        let mut count = [0; 8];
        let read = rustix::io::read(timer.get_ref(), &mut count);
        // Whatever was read: only the next expiry is news.
        ready.clear_ready();
        match read {
            Ok(_) => return Ok(u64::from_ne_bytes(count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One connection: takes what is due until all is over.
async fn serve(mut client: Client, desk: Rc<Desk>, target: Rc<Target>, timeout: Duration) {
    let mut free = Instant::now();
    loop {
        let next = desk.due.borrow_mut().pop_front();
        let Some(due) = next else {
            if *desk.over.borrow() {
                return;
            }
            desk.bell.notified().await;
            continue;
        };
        let waited = free.saturating_duration_since(due.seen);
        desk.counters.borrow_mut().count_lag(due.at.elapsed().saturating_sub(waited));
        let deadline = tokio::time::Instant::from_std(due.at + timeout);
        let result = match tokio::time::timeout_at(deadline, client.exchange(&target)).await {
            Ok(result) => result,
            Err(_) => {
                client.disconnect();
                Err(Wrong::Timeout)
            }
        };
        let is_over = *desk.over.borrow();
        desk.counters.borrow_mut().count(result, due.at, is_over);
        free = Instant::now();
    }
}

impl Counters {
    fn new(lag_us: Histogram<u64>, latency_us: Histogram<u64>) -> Counters {
        Counters {
            lag_us,
            latency_us,
            body_bytes: 0,
            good_in_time: 0,
            wrong: BTreeMap::new(),
            late: 0,
            last_trouble: None,
        }
    }

    fn count_lag(&mut self, lag: Duration) {
        self.lag_us.saturating_record(lag.as_micros() as u64);
    }

    fn count(&mut self, result: Result<usize, Wrong>, due: Instant, is_over: bool) {
        let latency = due.elapsed();
        let late = result.is_ok() && latency > LATE;
        self.late += u64::from(late);
        if late || result.is_err() {
            self.last_trouble = self.last_trouble.max(Some(due));
        }
        match result {
            Ok(bytes) => {
                self.body_bytes += bytes as u64;
                self.good_in_time += u64::from(!is_over);
                self.latency_us.saturating_record(latency.as_micros() as u64);
            }
            Err(wrong) => *self.wrong.entry(wrong).or_default() += 1,
        }
    }
}

fn report(counters: &Counters, options: &Options, start: Instant) -> String {
    let at = |quantile| counters.latency_us.value_at_quantile(quantile);
    let errors: Vec<_> = counters
        .wrong
        .iter()
        .map(|(wrong, count)| format!("\"{}\":{count}", wrong.name()))
        .collect();
    format!(
        "{{\"rate\":{},\"seconds\":{},\"good\":{},\"good_in_time\":{},\
         \"body_bytes\":{},\"errors\":{{{}}},\"late\":{},\"trouble_seconds\":{:.3},\
         \"p50_us\":{},\"p99_us\":{},\"p999_us\":{},\"max_us\":{},\
         \"lag_p99_us\":{}}}",
        options.rate,
        options.seconds,
        counters.latency_us.len(),
        counters.good_in_time,
        counters.body_bytes,
        errors.join(","),
        counters.late,
        counters
            .last_trouble
            .map_or(0.0, |last| last.saturating_duration_since(start).as_secs_f64()),
        at(0.5),
        at(0.99),
        at(0.999),
        counters.latency_us.max(),
        counters.lag_us.value_at_quantile(0.99)
    )
}
