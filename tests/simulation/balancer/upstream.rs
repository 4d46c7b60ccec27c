//! An upstream's end of one connection: it reads requests, checks them, and answers as it was
//! planned. Not here: how it takes connections and probes (`net.rs`, `probes.rs`).

use super::links::{Dial, Found};
use super::net::{Answer, Net};
use super::reader::Reader;
use super::scenario::{AnswerPlan, Mode, Ms, Scenario, UpstreamMishap};
use super::task::{Task, Then, check};
use super::words;

/// The most that is read at once.
const PIECE: usize = 20_000;
/// What looks like an answer to the next request, and answers nobody.
const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstray!";
const GARBAGE: [&str; 3] =
    ["SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "HTTP/1.1 200OK\r\n\r\n"];

pub struct Peer {
    upstream: usize,
    pub link: usize,
    reader: Reader,
    /// Messages that were answered.
    done: usize,
    task: Option<Task>,
    /// To be said, and how much of it was.
    words: Vec<u8>,
    said: usize,
    /// Bytes that were said before.
    said_before: u64,
    /// When it says what belongs to no answer.
    stray_at: Option<Ms>,
    is_done: bool,
}

impl Peer {
    pub fn new(upstream: usize, link: usize) -> Peer {
        Peer {
            upstream,
            link,
            reader: Reader::of_requests(),
            done: 0,
            task: None,
            words: Vec::new(),
            said: 0,
            said_before: 0,
            stray_at: None,
            is_done: false,
        }
    }

    pub fn act(&mut self, net: &mut Net, scenario: &Scenario) {
        let place = &net.places[self.link];
        let is_frozen = net.modes[self.upstream] == Mode::Frozen;
        if self.is_done || place.link.dial != Dial::Made || is_frozen {
            return;
        }
        if place.link.far_closed {
            self.is_done = true;
            return;
        }
        let has_heard = self.hear(net, scenario);
        if self.is_done {
            return;
        }
        self.answer(net, scenario);
        let has_said = self.say(net);
        self.say_stray(net);
        if has_heard || has_said {
            let pause = net.places[self.link].link.draws.below(4) as Ms;
            net.stir(self.link, pause);
        }
    }

    fn hear(&mut self, net: &mut Net, scenario: &Scenario) -> bool {
        let is_deaf = self.task.as_ref().is_some_and(|task| {
            task.has_answered && task.plan.mishap == Some(UpstreamMishap::Early { reads_on: false })
        });
        if is_deaf {
            return false;
        }
        match net.places[self.link].link.far_read(PIECE) {
            Found::Nothing => false,
            Found::End | Found::Reset => {
                self.is_done = true;
                net.places[self.link].link.far_close();
                false
            }
            Found::Bytes(bytes) => {
                net.tell_near(self.link);
                if self.task.is_none() {
                    self.begin(net, scenario);
                }
                self.reader.hear(&bytes);
                if let Some(fault) = self.reader.fault.take() {
                    net.accuse("what upstreams get can be read", || fault);
                }
                self.take(bytes.len(), net, scenario);
                true
            }
        }
    }

    /// The first byte of a request has come.
    fn begin(&mut self, net: &mut Net, scenario: &Scenario) {
        let id = net.ledger.request_of(self.link).unwrap_or(usize::MAX);
        let Some(request) = scenario.request(id) else {
            return net.accuse("every request is a client's", || format!("request {id}"));
        };
        let times = net.heard.entry(id).or_default();
        let mut plan = request.answers.get(*times).cloned().unwrap_or(AnswerPlan::good(100));
        *times += 1;
        let number = *times;
        if net.steady[self.upstream] {
            plan.mishap = None;
        }
        let Peer { upstream, link, .. } = *self;
        net.note(format_args!("upstream {upstream} link {link} hears {id} ({number})"));
        self.task = Some(Task {
            id,
            plan,
            heard: 0,
            was_checked: false,
            has_continued: false,
            answers_at: None,
            has_answered: false,
            then: Then::GoesOn,
        });
    }

    /// So many bytes of it have come.
    fn take(&mut self, n: usize, net: &mut Net, scenario: &Scenario) {
        let Some(task) = &mut self.task else { return };
        task.heard += n;
        if let Some(UpstreamMishap::Breaks { after, resets }) = task.plan.mishap
            && task.heard >= after
        {
            net.counts.one("upstreams that broke off a request");
            return self.finish(if resets { Then::Resets } else { Then::Closes }, net);
        }
        let Some(message) = self.reader.messages.get(self.done) else { return };
        let Some(request) = scenario.request(task.id) else { return };
        if !task.was_checked || message.is_whole {
            task.was_checked = true;
            check(message, request, net);
        }
        let is_whole = message.is_whole;
        let more = self.reader.messages.len() - self.done - 1;
        let is_alone = more == 0 && (!message.is_whole || self.reader.is_between());
        if !is_alone && is_whole && task.has_answered && self.said == self.words.len() {
            // It had answered before it had read all of the request; this is the next one.
            self.complete();
            self.begin(net, scenario);
            return self.take(1, net, scenario);
        }
        net.check("a connection carries one request at a time", is_alone, || {
            format!("{more} behind {}", task.id)
        });
        let is_early = matches!(task.plan.mishap, Some(UpstreamMishap::Early { .. }));
        let is_awaited = message.field("Expect").is_some() && message.content.is_empty();
        if is_awaited && !(message.is_whole || is_early || task.has_continued) {
            task.has_continued = true;
            self.words.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if task.answers_at.is_none()
            && (message.is_whole || is_early)
            && task.plan.mishap != Some(UpstreamMishap::Mute)
        {
            task.answers_at = Some(net.now + task.plan.thinks);
            net.stir(self.link, task.plan.thinks);
        }
    }

    /// Says what it has to say, if it is time.
    fn answer(&mut self, net: &mut Net, scenario: &Scenario) {
        let Some(task) = &mut self.task else { return };
        if task.has_answered || task.answers_at.is_none_or(|at| at > net.now) {
            return;
        }
        let Some(request) = scenario.request(task.id) else { return };
        task.has_answered = true;
        let draws = &mut net.places[self.link].link.draws;
        if task.plan.mishap == Some(UpstreamMishap::Garbage) {
            net.counts.one("upstreams that said garbage");
            self.words.extend_from_slice(draws.one_of(&GARBAGE).as_bytes());
            return;
        }
        let (serial, is_head) = (net.answers.len(), request.method == "HEAD");
        let plan = &task.plan;
        let has_no_body = is_head || plan.has_no_body();
        let (mut wire, head) = words::answer(plan, serial, is_head);
        let mut size = if has_no_body { 0 } else { plan.size };
        let mut is_whole = true;
        let ends_by_close = plan.ends_by_close(is_head);
        if ends_by_close || plan.closes {
            task.then = Then::Closes;
        }
        if let Some(UpstreamMishap::Cut { permille, resets }) = plan.mishap {
            net.counts.one("upstreams that cut an answer");
            wire.truncate(wire.len() * permille / 1_000);
            task.then = if resets { Then::Resets } else { Then::Closes };
            // Nobody can know that there should have been more.
            let looks_whole = ends_by_close && !resets && wire.len() >= head;
            is_whole = looks_whole;
            size = if looks_whole { wire.len() - head } else { size };
        }
        let said = self.said_before + self.words.len() as u64;
        if wire.len() >= head {
            net.ledger.head_ends(self.link, said + head as u64, plan.status);
        }
        if is_whole && task.then == Then::GoesOn {
            net.ledger.answer_ends(self.link, said + wire.len() as u64);
        }
        self.words.extend_from_slice(&wire);
        net.answers.push(Answer { id: task.id, status: plan.status, size, is_whole });
    }

    /// Says some of it. Returns whether anything was said.
    fn say(&mut self, net: &mut Net) -> bool {
        let link = self.link;
        if self.said < self.words.len() {
            let n = net.places[link].link.far_write(&self.words[self.said..]);
            self.said += n;
            if n > 0 {
                net.tell_near(link);
            }
            if self.said < self.words.len() {
                return n > 0;
            }
        }
        let is_whole = self.reader.messages.get(self.done).is_some_and(|m| m.is_whole);
        let Some(task) = &mut self.task else { return false };
        if !task.has_answered {
            return false;
        }
        if task.then != Then::GoesOn {
            let then = task.then;
            self.finish(then, net);
            return false;
        }
        match task.plan.mishap.take() {
            Some(UpstreamMishap::SaysMore { later: 0 }) => self.stray_at = Some(net.now),
            Some(UpstreamMishap::SaysMore { later }) => {
                self.stray_at = Some(net.now + later);
                net.stir(link, later);
            }
            Some(UpstreamMishap::Lies) => {
                net.counts.one("upstreams that said more than an answer");
                net.places[link].link.back.bytes.extend(b"more");
                net.tell_near(link);
            }
            // It stays deaf, until the balancer closes.
            Some(UpstreamMishap::Early { reads_on: false }) if !is_whole => {
                let closes = net.places[link].link.draws.percent(50);
                task.plan.mishap = Some(UpstreamMishap::Early { reads_on: false });
                if closes {
                    self.finish(Then::Closes, net);
                }
                return false;
            }
            _ => (),
        }
        if is_whole {
            self.complete();
        }
        false
    }

    /// The request is whole, and so is its answer.
    fn complete(&mut self) {
        self.done += 1;
        self.said_before += self.words.len() as u64;
        self.words.clear();
        (self.said, self.task) = (0, None);
    }

    /// Says what nobody asked for, unless it could only be taken for an answer: to a request that
    /// has been written meanwhile, it is one, and no balancer could know better.
    fn say_stray(&mut self, net: &mut Net) {
        if self.stray_at.is_none_or(|at| at > net.now) {
            return;
        }
        self.stray_at = None;
        let is_asked = !net.places[self.link].link.out.bytes.is_empty() || self.task.is_some();
        if !is_asked && net.places[self.link].link.near_closed.is_none() {
            net.counts.one("upstreams that said more than an answer");
            net.places[self.link].link.back.bytes.extend(STRAY);
            net.tell_near(self.link);
        }
    }

    fn finish(&mut self, then: Then, net: &mut Net) {
        self.is_done = true;
        let link = &mut net.places[self.link].link;
        if then == Then::Resets {
            link.far_resets()
        } else {
            link.far_close()
        }
        net.tell_near(self.link);
    }
}
