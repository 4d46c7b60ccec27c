//! Where sessions that cannot move are: one epoll set at which all idle workers wait together.
//!
//! Sockets are registered once, edge-triggered, and never armed again. The kernel wakes one worker
//! for a ready socket; what the event says is written onto the session's *seat*, and whoever finds
//! the seat free drives the session. Not here: driving (`turn.rs`), deadlines (`timer_wheel.rs`).
//!
//! | seat      | an event comes            | its driver has nothing more to do |
//! |-----------|---------------------------|-----------------------------------|
//! | free      | → taken, by who brings it | –                                 |
//! | taken     | the news is written down  | no news → free; else drive again  |

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::handover::{AtomicU64, Ordering};
use super::key::Key;

/// Events that a worker takes from one wait.
const EVENTS: usize = 16;

/// What has become known about a session: bits.
pub type News = u32;

/// The news of the client's socket; those of the upstream's are shifted by `UPSTREAM`.
pub const READABLE: News = 1 << 1;
/// It can be written to.
pub const WRITABLE: News = 1 << 2;
/// Its end has arrived.
pub const ENDS: News = 1 << 3;
/// It has failed.
pub const FAILED: News = 1 << 4;
/// By how much the upstream's news are shifted.
pub const UPSTREAM: u32 = 4;
/// Somebody wants the session to look at the clock, or at the state.
pub const WAKE: News = 1 << 9;
/// Another client needs the place: the session is to end if it has sent no request for too long.
pub const EVICT: News = 1 << 10;
const TAKEN: News = 1;
const UPSTREAM_NEWS: News = (READABLE | WRITABLE | ENDS | FAILED) << UPSTREAM;
/// The bits of a seat's word that are news.
const NEWS: u64 = (u32::MAX ^ TAKEN) as u64;

/// Who an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The client socket of the session on this seat.
    Client(Key),
    /// An upstream connection.
    Upstream(Key),
    /// Nobody: look at the deadlines again.
    Nudge,
    /// The workers are to go home.
    End,
}

impl About {
    const UPSTREAM: u64 = 1 << 62;
    const NUDGE: u64 = 2 << 62;
    const END: u64 = 3 << 62;

    fn data(self) -> EventData {
        EventData::new_u64(match self {
            About::Client(key) => key.number(),
            About::Upstream(key) => key.number() | Self::UPSTREAM,
            About::Nudge => Self::NUDGE,
            About::End => Self::END,
        })
    }

    fn from_data(data: u64) -> Self {
        match data >> 62 {
            0 => About::Client(Key::from_number(data)),
            1 => About::Upstream(Key::from_number(data)),
            2 => About::Nudge,
            _ => About::End,
        }
    }
}

/// The epoll set.
pub struct WaitingRoom {
    epoll: OwnedFd,
    nudge: OwnedFd,
    end: OwnedFd,
}

/// What one wait brought.
pub struct Events(Vec<epoll::Event>);

impl Default for Events {
    fn default() -> Self {
        Events(Vec::with_capacity(EVENTS))
    }
}

impl Events {
    /// Who has news, and which.
    pub fn iter(&self) -> impl Iterator<Item = (About, News)> {
        self.0.iter().map(|event| (About::from_data(event.data.u64()), news(event.flags)))
    }
}

impl WaitingRoom {
    /// An empty room.
    pub fn new() -> io::Result<Self> {
        let room = WaitingRoom {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            nudge: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            end: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        let once = EventFlags::IN | EventFlags::ET;
        epoll::add(&room.epoll, &room.nudge, About::Nudge.data(), once)?;
        // Not edge-triggered: every worker is to see it.
        epoll::add(&room.epoll, &room.end, About::End.data(), EventFlags::IN)?;
        Ok(room)
    }

    /// Watches a socket for input, its end and errors, and for room for output if that is waited
    /// for.
    pub fn watch(&self, socket: impl AsFd, about: About, output: bool) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, about.data(), flags(output))?)
    }

    /// Watches a socket for room for output too.
    pub fn watch_output(&self, socket: impl AsFd, about: About) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, about.data(), flags(true))?)
    }

    /// Waits for news, for `patience` at most; without, for as long as it takes.
    pub fn wait(&self, events: &mut Events, patience: Option<Duration>) {
        let timeout = patience.map(|patience| Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: patience.subsec_nanos().into(),
        });
        events.0.clear();
        let room = rustix::buffer::spare_capacity(&mut events.0);
        match epoll::wait(&self.epoll, room, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => (),
            Err(error) => {
                log::error!("cannot wait for sockets: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Makes one worker look at the deadlines again.
    pub fn nudge(&self) {
        // It fails only when it is full, and then somebody is being nudged already.
        let _ = rustix::io::write(&self.nudge, &1u64.to_ne_bytes());
    }

    /// Sends every worker home, those that come later too.
    pub fn end(&self) {
        let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
    }
}

fn flags(output: bool) -> EventFlags {
    let input = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    if output { input | EventFlags::OUT } else { input }
}

fn news(flags: EventFlags) -> News {
    let mut news = 0;
    let both = EventFlags::HUP | EventFlags::ERR;
    if flags.intersects(EventFlags::IN | EventFlags::RDHUP | both) {
        news |= READABLE;
    }
    if flags.intersects(EventFlags::OUT | both) {
        news |= WRITABLE;
    }
    if flags.intersects(EventFlags::RDHUP | both) {
        news |= ENDS;
    }
    if flags.contains(EventFlags::ERR) {
        news |= FAILED;
    }
    news
}

/// A seat's occupant, whether it is being driven, and the news since: one word.
#[derive(Default)]
pub struct Seat(AtomicU64);

impl Seat {
    /// Seats somebody on a free place whose number is `index`. Returns the occupant's key.
    pub fn occupy(&self, index: u32) -> Key {
        let last = Key::from_number(self.0.load(Ordering::Acquire)).generation;
        let generation = Key::next_generation(last).max(1);
        self.0.store(u64::from(generation) << 32, Ordering::Release);
        Key { index, generation }
    }

    /// The occupant has left; late news are for nobody.
    pub fn vacate(&self) {
        let last = Key::from_number(self.0.load(Ordering::Acquire)).generation;
        let generation = Key::next_generation(last).max(1);
        self.0.store(u64::from(generation) << 32 | u64::from(TAKEN), Ordering::Release);
    }

    /// Whoever sits here now.
    pub fn occupant(&self, index: u32) -> Key {
        Key { index, generation: Key::from_number(self.0.load(Ordering::Acquire)).generation }
    }

    /// Writes news down. Returns whether the caller has to drive the session.
    pub fn signal(&self, key: Key, news: News) -> bool {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            if (word >> 32) as u32 != key.generation {
                return false;
            }
            let with_news = word | u64::from(news | TAKEN);
            match self.0.compare_exchange_weak(word, with_news, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return word & u64::from(TAKEN) == 0,
                Err(changed) => word = changed,
            }
        }
    }

    /// The driver takes the news.
    pub fn take_news(&self) -> News {
        let taken = self.0.fetch_and(!NEWS, Ordering::AcqRel);
        taken as u32 & !TAKEN
    }

    /// The driver takes the news of the upstream, and leaves the others. Returns whether the
    /// upstream's connection may have something to read.
    pub fn take_upstream_news(&self) -> News {
        let taken = self.0.fetch_and(!u64::from(UPSTREAM_NEWS), Ordering::AcqRel);
        taken as u32 & UPSTREAM_NEWS & !(WRITABLE << UPSTREAM)
    }

    /// Whether news of the upstream have come since the driver looked.
    pub fn has_upstream_news(&self) -> bool {
        self.0.load(Ordering::Acquire) & u64::from(UPSTREAM_NEWS) != 0
    }

    /// The driver has nothing more to do. Returns false if there are news, and it has to go on.
    pub fn free(&self, key: Key) -> bool {
        let free = u64::from(key.generation) << 32;
        let taken = free | u64::from(TAKEN);
        self.0.compare_exchange(taken, free, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The driver will come back; whoever comes first takes the news.
    pub fn free_for_now(&self) {
        self.0.fetch_and(!u64::from(TAKEN), Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::key::GENERATIONS;
    use super::*;

    #[test]
    fn one_driver_at_a_time_and_no_news_is_lost() {
        let seat = Seat::default();
        let key = seat.occupy(7);
        assert!(seat.signal(key, READABLE), "the seat was free");
        assert!(!seat.signal(key, WRITABLE), "it is taken");
        assert_eq!(seat.take_news(), READABLE | WRITABLE);
        assert!(!seat.signal(key, ENDS));
        assert!(!seat.free(key), "there are news");
        assert_eq!(seat.take_news(), ENDS);
        assert!(seat.free(key));
        assert!(seat.signal(key, WAKE));
    }

    #[test]
    fn news_left_behind_by_a_driver_that_comes_back_are_kept() {
        let seat = Seat::default();
        let key = seat.occupy(0);
        assert!(seat.signal(key, READABLE));
        assert!(!seat.signal(key, FAILED));
        seat.free_for_now();
        assert!(seat.signal(key, WAKE));
        assert_eq!(seat.take_news(), READABLE | FAILED | WAKE);
    }

    #[test]
    fn late_news_are_for_nobody() {
        let seat = Seat::default();
        let first = seat.occupy(3);
        assert!(seat.signal(first, WAKE));
        seat.vacate();
        assert!(!seat.signal(first, READABLE));
        let second = seat.occupy(3);
        assert_ne!(first, second);
        assert!(!seat.signal(first, READABLE));
        assert!(seat.signal(second, READABLE));
        assert_eq!(seat.take_news(), READABLE);
    }

    #[test]
    fn events_name_their_subject() {
        let key = Key { index: u32::MAX, generation: GENERATIONS - 1 };
        for about in [About::Client(key), About::Upstream(key), About::Nudge, About::End] {
            assert_eq!(About::from_data(about.data().u64()), about);
        }
    }
}
