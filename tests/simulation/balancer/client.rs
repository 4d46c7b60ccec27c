//! A client: it sends its requests and reads what comes, in pieces, at its pace, and perhaps badly.
//! Not here: whether it got what it ought to have got (`answers.rs`).

use super::links::Found;
use super::net::{Net, Owner};
use super::reader::Reader;
use super::scenario::{ClientMishap, ClientPlan, Ms};
use super::words;

/// How long a client waits for a 100 before it sends its body all the same.
const CONTINUE_PATIENCE: Ms = 1_000;
/// The most that is read at once.
const PIECE: usize = 20_000;

pub struct Client {
    pub plan: ClientPlan,
    pub link: Option<usize>,
    wire: Vec<u8>,
    /// Where each request, and the head of each, ends in what is sent.
    ends: Vec<usize>,
    heads: Vec<usize>,
    pub sent: usize,
    read: usize,
    pub reader: Reader,
    /// When the first byte of each request was sent.
    pub begun: Vec<Ms>,
    waits_until: Ms,
    /// When the last head was sent whose body waits for a 100.
    asked_at: Option<(usize, Ms)>,
    has_half_closed: bool,
    /// It has reset, or has stopped reading: whatever it got is not all there was.
    pub has_left: bool,
    pub saw_reset: bool,
    pub is_done: bool,
}

impl Client {
    pub fn new(plan: ClientPlan) -> Client {
        let mut client = Client {
            link: None,
            wire: Vec::new(),
            ends: Vec::new(),
            heads: Vec::new(),
            sent: 0,
            read: 0,
            reader: Reader::of_responses(
                plan.requests.iter().map(|r| r.method == "HEAD").collect(),
            ),
            begun: Vec::new(),
            waits_until: 0,
            asked_at: None,
            has_half_closed: false,
            has_left: false,
            saw_reset: false,
            is_done: false,
            plan,
        };
        for request in &client.plan.requests {
            let (wire, head) = words::request(request);
            client.heads.push(client.wire.len() + head);
            client.wire.extend_from_slice(&wire);
            client.ends.push(client.wire.len());
        }
        client
    }

    /// Does what it can do now.
    pub fn act(&mut self, net: &mut Net) {
        let Some(link) = self.link else { return };
        if self.is_done {
            return;
        }
        if self.must_reset() {
            net.counts.one("clients that reset");
            (self.has_left, self.is_done) = (true, true);
            net.places[link].link.far_resets();
            return net.tell_near(link);
        }
        let has_moved = self.receive(net, link) | self.send(net, link);
        if self.is_done {
            return;
        }
        let all = self.reader.finals() >= self.plan.requests.len();
        if all && self.sent == self.wire.len() && net.places[link].link.draws.percent(30) {
            // It has what it came for. Otherwise it stays until it is sent away.
            self.is_done = true;
            net.places[link].link.far_close();
            net.tell_near(link);
        } else if has_moved {
            let pause = net.places[link].link.draws.below(self.plan.pace as usize + 1) as Ms;
            net.stir(link, pause);
        }
    }

    fn must_reset(&self) -> bool {
        match self.plan.mishap {
            Some(ClientMishap::ResetsAfterSending(most)) => self.sent >= most,
            Some(ClientMishap::ResetsAfterReading(most)) => self.read >= most,
            _ => false,
        }
    }

    fn receive(&mut self, net: &mut Net, link: usize) -> bool {
        let most = match self.plan.mishap {
            Some(ClientMishap::StopsReadingAfter(most)) => most.saturating_sub(self.read),
            _ => PIECE,
        };
        if most == 0 {
            self.has_left = true;
            if net.places[link].link.near_closed.is_some() {
                self.is_done = true;
            }
            return false;
        }
        match net.places[link].link.far_read(most.min(PIECE)) {
            Found::Nothing => return false,
            Found::Bytes(bytes) => {
                let before = self.reader.finals();
                self.read += bytes.len();
                self.reader.hear(&bytes);
                if let Some(fault) = self.reader.fault.take() {
                    net.accuse("what clients get can be read", || fault);
                }
                if self.reader.finals() > before {
                    let most = self.plan.thinks as usize + 1;
                    self.waits_until = net.now + net.places[link].link.draws.below(most) as Ms;
                }
                net.tell_near(link);
                return true;
            }
            Found::End => {
                self.reader.end();
                net.places[link].link.far_close();
                net.tell_near(link);
            }
            Found::Reset => self.saw_reset = true,
        }
        self.is_done = true;
        false
    }

    fn send(&mut self, net: &mut Net, link: usize) -> bool {
        let mut most = self.may_send(net, link);
        match self.plan.mishap {
            Some(ClientMishap::EndsAfterSending(end)) if self.sent >= end.min(most) => {
                most = most.min(end);
                if self.sent >= end && self.sent < self.wire.len() {
                    return self.half_close(net, link);
                }
            }
            Some(ClientMishap::EndsAfterSending(end)) => most = most.min(end),
            Some(ClientMishap::StallsAfterSending(end)) => most = most.min(end),
            _ => (),
        }
        if self.sent == self.wire.len() && self.plan.half_closes {
            return self.half_close(net, link);
        }
        if self.sent >= most {
            return false;
        }
        let n = net.places[link].link.far_write(&self.wire[self.sent..most]);
        let before = self.sent;
        self.sent += n;
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let begun = starts.take(self.ends.len()).filter(|&at| before <= at && at < self.sent);
        self.begun.extend(begun.map(|_| net.now));
        if n > 0 {
            let whole = self.plan.requests.iter().zip(&self.ends);
            let whole = whole.filter(|(_, end)| before < **end && **end <= self.sent);
            if let Owner::Client(place) = net.places[link].owner {
                net.sent_at[place] = net.now;
            }
            net.sent_whole.extend(whole.map(|(request, _)| request.id));
            net.tell_near(link);
        }
        n > 0
    }

    /// How far it may have sent by now: it waits for answers, or thinks, or waits for a 100.
    fn may_send(&mut self, net: &mut Net, link: usize) -> usize {
        let answered = self.reader.finals();
        let mut most = if self.plan.pipelines {
            self.wire.len()
        } else if net.now < self.waits_until {
            net.stir(link, self.waits_until - net.now);
            self.sent
        } else {
            self.ends.get(answered).copied().unwrap_or(self.wire.len())
        };
        let at = self.ends.iter().filter(|&&end| end <= self.sent).count();
        if self.plan.requests.get(at).is_some_and(|request| request.expects)
            && self.sent <= self.heads[at]
        {
            let has_word = self.reader.messages.iter().any(|m| m.status() == 100 || answered > at);
            if self.sent == self.heads[at] && self.asked_at.is_none_or(|(then, _)| then != at) {
                self.asked_at = Some((at, net.now));
                net.stir(link, CONTINUE_PATIENCE);
            }
            let is_patient = self
                .asked_at
                .is_none_or(|(then, since)| then != at || net.now < since + CONTINUE_PATIENCE);
            if is_patient && !has_word {
                most = most.min(self.heads[at]);
            }
        }
        most
    }

    fn half_close(&mut self, net: &mut Net, link: usize) -> bool {
        if std::mem::replace(&mut self.has_half_closed, true) {
            return false;
        }
        net.counts.one("clients that half-closed");
        net.places[link].link.far_end();
        net.tell_near(link);
        true
    }
}
