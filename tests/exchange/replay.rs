//! Plays a script in many ways, and looks whether each tells the same story.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use balancebeam::session::{Next, Side};

use crate::script::{Script, Step};
use crate::world::{Engine, Event, Steps, World};

/// How bytes move in one replay.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Whole,
    /// Each read gets one byte.
    ByteByByte,
    /// Each write takes one byte.
    TinyWindows,
    ByteByByteAndTinyWindows,
    /// What is sent in step `step` arrives in two parts.
    Cut {
        step: usize,
        at: usize,
    },
}

/// What one replay has shown beside its story.
pub struct Told {
    /// Whether a body could have gone past the session.
    pub was_offered: bool,
    /// Bytes of bodies that went past it.
    pub spliced: usize,
}

/// Positions at which a long send is cut: all near its ends, some between.
const CUT_ENDS: usize = 600;
const CUT_STRIDE: usize = 4099;

impl Script {
    /// Plays it in every way. Nothing may happen that the script does not tell.
    pub fn replay(self) {
        self.replay_where(Engine::Copies);
        self.replay_where(Engine::Splices);
    }

    /// For what rightly depends on how bodies go: plays it in every way on one kind of engine.
    /// Returns what was to be seen when nothing was cut.
    pub fn replay_where(&self, engine: Engine) -> Told {
        let told = self.replay_as(engine, Mode::Whole);
        // Where nothing is offered, all engines are alike.
        if told.was_offered || engine == Engine::Copies {
            for mode in self.modes() {
                self.replay_as(engine, mode);
            }
        }
        told
    }

    fn replay_as(&self, engine: Engine, mode: Mode) -> Told {
        let mut at_step = 0;
        let played = catch_unwind(AssertUnwindSafe(|| self.play(engine, mode, &mut at_step)));
        played.unwrap_or_else(|panic| {
            let how = format!("replayed {mode:?} where the engine {engine:?}");
            match self.steps.get(at_step) {
                Some(Step::Send { from, bytes, .. }) => {
                    eprintln!("{how}, step {at_step}: {from:?}: {:?}", show(bytes));
                }
                Some(step) => eprintln!("{how}, step {at_step}: {step:?}"),
                None => eprintln!("{how}, after the last step"),
            }
            resume_unwind(panic);
        })
    }

    fn modes(&self) -> Vec<Mode> {
        let mut modes = vec![Mode::ByteByByte, Mode::TinyWindows, Mode::ByteByByteAndTinyWindows];
        for (step, sent) in self.steps.iter().enumerate() {
            if let Step::Send { bytes, at_once: false, .. } = sent {
                let near_ends = |at: &usize| {
                    *at < CUT_ENDS || bytes.len() - at < CUT_ENDS || at.is_multiple_of(CUT_STRIDE)
                };
                let cuts = (1..bytes.len()).filter(near_ends);
                modes.extend(cuts.map(|at| Mode::Cut { step, at }));
            }
        }
        modes
    }

    fn play(&self, engine: Engine, mode: Mode, at_step: &mut usize) -> Told {
        let (read, write) = match mode {
            Mode::Whole | Mode::Cut { .. } => (usize::MAX, usize::MAX),
            Mode::ByteByByte => (1, usize::MAX),
            Mode::TinyWindows => (usize::MAX, 1),
            Mode::ByteByByteAndTinyWindows => (1, 1),
        };
        let steps = Steps { read, write };
        let mut world = World::new(&self.config, steps);
        world.engine = engine;
        world.drive();
        for (at, step) in self.steps.iter().enumerate() {
            *at_step = at;
            match step {
                Step::Send { from, bytes, at_once: true } => {
                    world.steps.read = usize::MAX;
                    world.send(*from, bytes);
                    world.steps = steps;
                }
                Step::Send { from, bytes, .. } => {
                    let cut = match mode {
                        Mode::Cut { step, at: cut } if step == at => cut,
                        _ => bytes.len(),
                    };
                    let (first, second) = bytes.split_at(cut);
                    world.send(*from, first);
                    // What is sent to a connection that is no longer there is lost.
                    if !second.is_empty() && (*from == Side::Client || world.is_connected) {
                        world.send(*from, second);
                    }
                }
                step => world.take(step),
            }
        }
        *at_step = self.steps.len();
        assert_eq!(world.events, [], "nothing more happens");
        assert_eq!(show(&world.client.seen), "", "the client sees nothing more");
        assert_eq!(show(&world.upstream.seen), "", "the upstream sees nothing more");
        Told { was_offered: world.was_offered, spliced: world.spliced }
    }
}

impl World {
    fn send(&mut self, from: Side, bytes: &[u8]) {
        assert!(from == Side::Client || self.is_connected, "there is no upstream connection");
        self.wire(from).pending.extend_from_slice(bytes);
        self.drive();
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Send { .. } => unreachable!("cut by the replay"),
            Step::Ends(side) => self.wire(*side).ended = true,
            Step::Resets(side) => {
                self.wire(*side).broken = true;
                self.wire(*side).deaf = true;
                if *side == Side::Client {
                    // An engine hears of it whether it wanted to read or not.
                    self.session.failed(Side::Client, balancebeam::session::Direction::Read);
                }
            }
            Step::IsDeaf(side) => self.wire(*side).deaf = true,
            Step::IsFull { side, is_full } => self.wire(*side).is_full = *is_full,
            Step::Connected { reused } => self.connected(*reused),
            Step::ConnectedDead { reused } => {
                self.connected(*reused);
                (self.upstream.ended, self.upstream.is_full) = (true, true);
            }
            Step::ConnectedSpeaking { reused, says } => {
                self.connected(*reused);
                (self.upstream.pending, self.upstream.is_full) = (says.as_bytes().to_vec(), true);
            }
            Step::ConnectFailed(failure) => {
                assert!(std::mem::take(&mut self.is_connecting), "no connection was asked for");
                self.session.connect_failed(*failure, self.now);
            }
            Step::After(time) => return self.pass(*time),
            Step::Drain => self.state.stop(),
            Step::Sees { side, bytes } => {
                let seen = std::mem::take(&mut self.wire(*side).seen);
                assert_eq!(show(&seen), show(bytes), "what the {side:?} sees");
            }
            Step::SeesChunks { side, head, content, last } => {
                let seen = std::mem::take(&mut self.wire(*side).seen);
                let wanted = (show(head), show(content), show(last));
                assert_eq!(read_chunks(&seen, head.len()), wanted, "in {}", show(&seen));
            }
            Step::SeesAnswer { status, persists, field } => {
                let seen = std::mem::take(&mut self.client.seen);
                check_answer(&show(&seen), *status, *persists, field);
            }
            Step::Event(event) => self.expect(event),
            Step::HoldsAtMost(bytes) => {
                let held = self.session.buffered();
                assert!(held <= *bytes, "it holds {held} bytes of memory");
            }
            Step::HeadAlone(is_alone) => {
                let Next::Transfer(wants) = self.session.next(self.now) else { panic!("at rest") };
                assert_eq!(wants.is_head_alone, *is_alone, "whether a head is alone");
            }
            Step::Why(why) => assert_eq!(self.why, *why, "what is told of the exchange"),
            Step::Others(exchanges) => {
                self.others.truncate(*exchanges);
                while self.others.len() < *exchanges {
                    let choice = self.state.upstreams.pick(&[], self.now);
                    self.others.push(choice.expect("room for others"));
                }
            }
            Step::AnotherWaits => {
                let other = IpAddr::from([192, 0, 2, 99]);
                let place = self.state.upstreams.wait_for_capacity(other, &[]);
                self.waiting.push(place.expect("a place in the queue"));
            }
            Step::Live(count) => assert_eq!(self.state.upstreams.live().len(), *count, "live"),
        }
        self.drive();
    }

    fn expect(&mut self, event: &Event) {
        assert!(!self.events.is_empty(), "nothing has happened");
        assert_eq!(self.events.remove(0), *event);
    }
}

/// For messages; every byte of these scripts is text, or told apart well enough.
fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The head of so many bytes, what the chunks behind it hold, and what stands behind them.
fn read_chunks(seen: &[u8], head: usize) -> (String, String, String) {
    let (head, mut rest) = seen.split_at(head.min(seen.len()));
    let mut content = Vec::new();
    while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = str::from_utf8(&rest[..line]).ok();
        match size.and_then(|size| usize::from_str_radix(size, 16).ok()) {
            None | Some(0) => break,
            Some(size) => {
                let data = &rest[line + 2..];
                assert_eq!(data.get(size..size + 2), Some(&b"\r\n"[..]), "behind a chunk");
                content.extend_from_slice(&data[..size]);
                rest = &data[size + 2..];
            }
        }
    }
    (show(head), show(&content), show(rest))
}

fn check_answer(seen: &str, status: u16, persists: bool, field: &str) {
    let (head, body) = seen.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {seen:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{seen:?}");
    assert!(
        head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())) || {
            head.ends_with(&format!("\r\nContent-Length: {}", body.len()))
        },
        "{seen:?}"
    );
    assert!(body.is_empty() || body.starts_with("balancebeam: "), "{seen:?}");
    assert_eq!(head.contains("\r\nConnection: close"), !persists, "{seen:?}");
    assert!(head.contains(field), "no {field:?} in {seen:?}");
}
