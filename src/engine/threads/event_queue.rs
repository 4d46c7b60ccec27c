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
pub type Readiness = u32;

/// The news of the client's socket; those of the upstream's are shifted by `UPSTREAM`.
pub const READABLE: Readiness = 1 << 1;
/// It can be written to.
pub const WRITABLE: Readiness = 1 << 2;
/// Its end has arrived.
pub const ENDS: Readiness = 1 << 3;
/// It has failed.
pub const FAILED: Readiness = 1 << 4;
/// By how much the upstream's news are shifted.
pub const UPSTREAM: u32 = 4;
/// Somebody wants the session to look at the clock, or at the state.
pub const WAKE: Readiness = 1 << 9;
/// Another client needs the place: the session is to end if it has sent no request for too long.
pub const EVICT: Readiness = 1 << 10;
const TAKEN: Readiness = 1;
const UPSTREAM_READINESS: Readiness = (READABLE | WRITABLE | ENDS | FAILED) << UPSTREAM;
/// The bits of a seat's word that are news.
const READINESS: u64 = (u32::MAX ^ TAKEN) as u64;

/// Who an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The client socket of the session on this seat.
    Client(Key),
    /// An upstream connection.
    Upstream(Key),
    /// Nobody: look at the deadlines again.
    Notify,
    /// The workers are to go home.
    End,
}

impl Token {
    const UPSTREAM: u64 = 1 << 62;
    const NOTIFY: u64 = 2 << 62;
    const END: u64 = 3 << 62;

    fn data(self) -> EventData {
        EventData::new_u64(match self {
            Token::Client(key) => key.number(),
            Token::Upstream(key) => key.number() | Self::UPSTREAM,
            Token::Notify => Self::NOTIFY,
            Token::End => Self::END,
        })
    }

    fn from_data(data: u64) -> Self {
        match data >> 62 {
            0 => Token::Client(Key::from_number(data)),
            1 => Token::Upstream(Key::from_number(data)),
            2 => Token::Notify,
            _ => Token::End,
        }
    }
}

/// The epoll set.
pub struct EventQueue {
    epoll: OwnedFd,
    notify: OwnedFd,
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
    pub fn iter(&self) -> impl Iterator<Item = (Token, Readiness)> {
        self.0.iter().map(|event| (Token::from_data(event.data.u64()), readiness(event.flags)))
    }
}

impl EventQueue {
    /// An empty room.
    pub fn new() -> io::Result<Self> {
        let event_queue = EventQueue {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            notify: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            end: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        let once = EventFlags::IN | EventFlags::ET;
        epoll::add(&event_queue.epoll, &event_queue.notify, Token::Notify.data(), once)?;
        // Not edge-triggered: every worker is to see it.
        epoll::add(&event_queue.epoll, &event_queue.end, Token::End.data(), EventFlags::IN)?;
        Ok(event_queue)
    }

    /// Watches a socket for input, its end and errors, and for room for output if that is waited
    /// for.
    pub fn watch(&self, socket: impl AsFd, token: Token, output: bool) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, token.data(), flags(output))?)
    }

    /// Watches a socket for room for output too.
    pub fn watch_output(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, token.data(), flags(true))?)
    }

    /// Waits for news, for `patience` at most; without, for as long as it takes.
    pub fn wait(&self, events: &mut Events, patience: Option<Duration>) {
        let timeout = patience.map(|patience| Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: patience.subsec_nanos().into(),
        });
        events.0.clear();
        let event_queue = rustix::buffer::spare_capacity(&mut events.0);
        match epoll::wait(&self.epoll, event_queue, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => (),
            Err(error) => {
                log::error!("cannot wait for sockets: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Makes one worker look at the deadlines again.
    pub fn notify(&self) {
        // It fails only when it is full, and then somebody is being nudged already.
        let _ = rustix::io::write(&self.notify, &1u64.to_ne_bytes());
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

fn readiness(flags: EventFlags) -> Readiness {
    let mut readiness = 0;
    let both = EventFlags::HUP | EventFlags::ERR;
    if flags.intersects(EventFlags::IN | EventFlags::RDHUP | both) {
        readiness |= READABLE;
    }
    if flags.intersects(EventFlags::OUT | both) {
        readiness |= WRITABLE;
    }
    if flags.intersects(EventFlags::RDHUP | both) {
        readiness |= ENDS;
    }
    if flags.contains(EventFlags::ERR) {
        readiness |= FAILED;
    }
    readiness
}

/// A seat's occupant, whether it is being driven, and the news since: one word.
#[derive(Default)]
pub struct RunState(AtomicU64);

impl RunState {
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
    pub fn signal(&self, key: Key, readiness: Readiness) -> bool {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            if (word >> 32) as u32 != key.generation {
                return false;
            }
            let with_readiness = word | u64::from(readiness | TAKEN);
            match self.0.compare_exchange_weak(
                word,
                with_readiness,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return word & u64::from(TAKEN) == 0,
                Err(changed) => word = changed,
            }
        }
    }

    /// The driver takes the news.
    pub fn take_readiness(&self) -> Readiness {
        let taken = self.0.fetch_and(!READINESS, Ordering::AcqRel);
        taken as u32 & !TAKEN
    }

    /// The driver takes the news of the upstream, and leaves the others. Returns whether the
    /// upstream's connection may have something to read.
    pub fn take_upstream_readiness(&self) -> Readiness {
        let taken = self.0.fetch_and(!u64::from(UPSTREAM_READINESS), Ordering::AcqRel);
        taken as u32 & UPSTREAM_READINESS & !(WRITABLE << UPSTREAM)
    }

    /// Whether news of the upstream have come since the driver looked.
    pub fn has_upstream_readiness(&self) -> bool {
        self.0.load(Ordering::Acquire) & u64::from(UPSTREAM_READINESS) != 0
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
        let run_state = RunState::default();
        let key = run_state.occupy(7);
        assert!(run_state.signal(key, READABLE), "the seat was free");
        assert!(!run_state.signal(key, WRITABLE), "it is taken");
        assert_eq!(run_state.take_readiness(), READABLE | WRITABLE);
        assert!(!run_state.signal(key, ENDS));
        assert!(!run_state.free(key), "there are news");
        assert_eq!(run_state.take_readiness(), ENDS);
        assert!(run_state.free(key));
        assert!(run_state.signal(key, WAKE));
    }

    #[test]
    fn news_left_behind_by_a_driver_that_comes_back_are_kept() {
        let run_state = RunState::default();
        let key = run_state.occupy(0);
        assert!(run_state.signal(key, READABLE));
        assert!(!run_state.signal(key, FAILED));
        run_state.free_for_now();
        assert!(run_state.signal(key, WAKE));
        assert_eq!(run_state.take_readiness(), READABLE | FAILED | WAKE);
    }

    #[test]
    fn late_news_are_for_nobody() {
        let run_state = RunState::default();
        let first = run_state.occupy(3);
        assert!(run_state.signal(first, WAKE));
        run_state.vacate();
        assert!(!run_state.signal(first, READABLE));
        let second = run_state.occupy(3);
        assert_ne!(first, second);
        assert!(!run_state.signal(first, READABLE));
        assert!(run_state.signal(second, READABLE));
        assert_eq!(run_state.take_readiness(), READABLE);
    }

    #[test]
    fn events_name_their_subject() {
        let key = Key { index: u32::MAX, generation: GENERATIONS - 1 };
        for token in [Token::Client(key), Token::Upstream(key), Token::Notify, Token::End] {
            assert_eq!(Token::from_data(token.data().u64()), token);
        }
    }
}
