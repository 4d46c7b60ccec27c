//! A model of an upstream connection: it reads requests, checks them, and answers well or badly.

use crate::draws::Draws;
use crate::messages::{Framing, Message, content, framed, size};

/// What an upstream has said to a request.
pub struct Answer {
    pub id: usize,
    pub content: Vec<u8>,
    /// Whether all of it was sent; if not, nobody may think so.
    pub is_whole: bool,
}

/// What a connection does with its next request.
struct Plan {
    /// Breaks when so many bytes of the request have come.
    breaks_at: Option<usize>,
    answers: bool,
    is_early: bool,
    is_garbage: bool,
    cut: bool,
    interim: usize,
    has_stray_bytes: bool,
    closes: bool,
    framing: Framing,
    size: usize,
}

impl Plan {
    fn draw(is_calm: bool, draws: &mut Draws) -> Plan {
        let mut mishap = |percent| !is_calm && draws.percent(percent);
        let (breaks, is_mute) = (mishap(8), mishap(5));
        let (is_early, is_garbage, cut) = (mishap(15), mishap(5), mishap(12));
        let has_stray_bytes = mishap(4);
        Plan {
            breaks_at: breaks.then(|| 1 + size(draws)),
            answers: !is_mute,
            is_early,
            is_garbage,
            cut,
            has_stray_bytes,
            interim: if draws.percent(15) { 1 + draws.below(3) } else { 0 },
            closes: draws.percent(15),
            framing: draws.one_of(&[
                Framing::Length,
                Framing::Length,
                Framing::Chunked,
                Framing::UntilClose,
            ]),
            size: size(draws),
        }
    }
}

pub struct Conn {
    pub upstream: usize,
    pub is_reused: bool,
    is_calm: bool,
    plan: Plan,
    heard: Vec<u8>,
    heard_of_request: usize,
    has_answered: bool,
    /// Said, and not yet read.
    pub says: Vec<u8>,
    /// Behind it comes an end …
    pub has_ended: bool,
    /// … or an error.
    pub is_broken: bool,
    /// Writing to it has failed.
    pub was_deaf: bool,
    /// Bytes said behind an answer, which nobody may take for anything.
    stray: usize,
}

/// What looks like an answer to the next request.
const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstray!";

impl Conn {
    pub fn new(upstream: usize, is_calm: bool, draws: &mut Draws) -> Conn {
        Conn {
            upstream,
            is_reused: false,
            is_calm,
            plan: Plan::draw(is_calm, draws),
            heard: Vec::new(),
            heard_of_request: 0,
            has_answered: false,
            says: Vec::new(),
            has_ended: false,
            is_broken: false,
            was_deaf: false,
            stray: 0,
        }
    }

    /// Between two exchanges, with nothing on its way.
    pub fn is_at_rest(&self) -> bool {
        self.heard.is_empty() && !self.has_answered
    }

    /// Whether some of what it said behind its answer was read.
    pub fn has_lost_stray_bytes(&self) -> bool {
        self.says.len() < self.stray
    }

    pub fn is_quiet(&self) -> bool {
        self.says.is_empty() && !self.has_ended && !self.is_broken
    }

    /// Takes bytes of the request `id`, and perhaps answers.
    pub fn hear(&mut self, bytes: &[u8], id: usize, answers: &mut Vec<Answer>, draws: &mut Draws) {
        if self.has_ended || self.is_broken {
            return; // the bytes are lost on the way
        }
        self.heard.extend_from_slice(bytes);
        self.heard_of_request += bytes.len();
        if self.plan.breaks_at.is_some_and(|at| self.heard_of_request >= at) {
            (self.has_ended, self.is_broken) =
                if draws.percent(50) { (true, false) } else { (false, true) };
            return;
        }
        let Some(request) = Message::read(&self.heard, false, false) else { return };
        assert_eq!(request.id(), id, "a request of another exchange");
        assert_eq!(request.field("Via").map(|via| &via[3..]), Some(" balancebeam"));
        let expected = content(&format!("q{id};"), request.content.len());
        assert!(request.content == expected, "bytes of another exchange in request {id}");
        let is_due = request.len.is_some() || self.plan.is_early;
        if is_due && !self.has_answered && self.plan.answers {
            let is_head = request.first_line.starts_with("HEAD ");
            self.answer(id, is_head, answers, draws);
        }
        if let (Some(len), true) = (request.len, self.has_answered) {
            assert_eq!(len, self.heard.len(), "bytes behind a request");
            self.heard.clear();
            self.heard_of_request = 0;
            self.has_answered = false;
            self.plan = Plan::draw(self.is_calm, draws);
        }
    }

    fn answer(&mut self, id: usize, is_head: bool, answers: &mut Vec<Answer>, draws: &mut Draws) {
        self.has_answered = true;
        let plan = &self.plan;
        if plan.is_garbage {
            let garbage =
                ["SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "HTTP/1.1 200OK\r\n\r\n"];
            self.says.extend_from_slice(draws.one_of(&garbage).as_bytes());
            return;
        }
        for _ in 0..plan.interim {
            self.says.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\n\r\n");
        }
        let serial = answers.len();
        let mut body = content(&format!("a{serial};"), plan.size);
        let mut wire = format!("HTTP/1.1 200 OK\r\nX-Answer: {serial}\r\n").into_bytes();
        if plan.closes {
            wire.extend_from_slice(b"Connection: close\r\n");
        }
        let head = wire.len();
        wire.extend_from_slice(&framed(&body, plan.framing, false, draws));
        if is_head {
            let end = wire[head - 2..].windows(4).position(|w| w == b"\r\n\r\n").expect("an end");
            wire.truncate(head - 2 + end + 4);
            body.clear();
        }
        let closes = plan.closes || (plan.framing == Framing::UntilClose && !is_head);
        let mut is_whole = true;
        if plan.cut {
            let len = draws.below(wire.len());
            wire.truncate(len);
            let is_reset = draws.percent(50);
            (self.has_ended, self.is_broken) = (!is_reset, is_reset);
            let head_end = wire.windows(4).position(|w| w == b"\r\n\r\n");
            match head_end {
                // Nobody can know that there should have been more.
                Some(end) if plan.framing == Framing::UntilClose && !is_reset && !is_head => {
                    body.truncate(wire.len() - end - 4);
                }
                _ => is_whole = false,
            }
        } else if closes {
            self.has_ended = true;
        } else if plan.has_stray_bytes {
            wire.extend_from_slice(STRAY);
            self.stray = STRAY.len();
        }
        self.says.extend_from_slice(&wire);
        answers.push(Answer { id, content: body, is_whole });
    }
}
