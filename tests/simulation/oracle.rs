//! What each client must have got: an upstream's answer to its own request, exactly; or a part of one
//! that it can tell from a whole one; or an answer of our own.

use crate::messages::{Framing, Message};
use crate::traffic::{Client, Simulation};
use crate::upstream::Answer;

/// How often something happened, so that a simulation that proves nothing is noticed.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub reports: u64,
    pub retries: u64,
    pub reused: u64,
    pub answered: u64,
    pub answered_by_us: u64,
    pub cut_visibly: u64,
    pub unanswered: u64,
    /// Bytes of bodies that went past a session, toward the client and toward the upstream.
    pub spliced: [u64; 2],
    /// Seeds in which some did.
    pub splicing: [u64; 2],
}

impl Findings {
    pub fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("reports", self.reports),
            ("retries", self.retries),
            ("reused connections", self.reused),
            ("answers of upstreams", self.answered),
            ("answers of our own", self.answered_by_us),
            ("answers that were cut", self.cut_visibly),
            ("requests without an answer", self.unanswered),
            // One percent of the seeds would prove little of these.
            ("tens of seeds that splice answers", self.splicing[0] / 10),
            ("tens of seeds that splice requests", self.splicing[1] / 10),
        ]
    }

    pub fn add(&mut self, other: &Findings) {
        self.reports += other.reports;
        self.retries += other.retries;
        self.reused += other.reused;
        self.answered += other.answered;
        self.answered_by_us += other.answered_by_us;
        self.cut_visibly += other.cut_visibly;
        self.unanswered += other.unanswered;
        for to in 0..2 {
            self.spliced[to] += other.spliced[to];
            self.splicing[to] += u64::from(other.spliced[to] > 0);
        }
    }
}

pub fn check(simulation: &mut Simulation) {
    let Simulation { clients, answers, findings, is_calm, .. } = simulation;
    for client in clients {
        let answered = check_client(client, answers, findings);
        findings.unanswered += (client.asked.len() - answered) as u64;
        if *is_calm {
            assert_eq!(answered, client.asked.len(), "every request has an answer");
        }
    }
    if *is_calm {
        assert_eq!(findings.answered_by_us + findings.cut_visibly, 0, "there was no reason to");
    }
}

/// Returns how many requests were answered, be it in part.
fn check_client(client: &Client, answers: &[Answer], findings: &mut Findings) -> usize {
    let mut rest = &client.received[..];
    let was_aborted = client.closed == Some(true);
    let may_be_cut = client.has_left || was_aborted;
    for (at, asked) in client.asked.iter().enumerate() {
        let message = loop {
            let is_interim = rest.get(9) == Some(&b'1');
            let Some(message) = Message::read(rest, true, is_interim || asked.method == "HEAD")
            else {
                // A HEAD whose first line never was whole cannot be known for one: its refusal has a body.
                let is_refusal_of_head = rest.starts_with(b"balancebeam: ");
                assert!(rest.is_empty() || may_be_cut || is_refusal_of_head, "a head is not whole");
                findings.cut_visibly += u64::from(!rest.is_empty());
                return at;
            };
            if message.status() / 100 != 1 {
                break message;
            }
            assert!(!asked.is_old, "an interim response to an old client");
            rest = &rest[message.len.expect("it has no body")..];
        };
        let ends_by_close = message.framing == Framing::UntilClose;
        assert!(!ends_by_close || asked.is_old, "a body without an end of its own");
        let is_whole = message.len.is_some() || (ends_by_close && !was_aborted);
        assert!(is_whole || may_be_cut, "it looks whole, and is not");
        match message.field("X-Answer") {
            Some(serial) => {
                let answer = &answers[serial.parse::<usize>().expect("a number")];
                assert!(!asked.is_malformed || !is_whole, "a malformed request was served");
                check_answer(&message, answer, asked.id, is_whole);
                findings.answered += u64::from(is_whole);
            }
            None => {
                let text = String::from_utf8_lossy(&message.content);
                assert!(message.status() >= 400, "{}", message.first_line);
                let may_be_short = !is_whole || asked.method == "HEAD";
                let is_ours = text.starts_with("balancebeam: ")
                    || (may_be_short && "balancebeam: ".starts_with(&*text));
                assert!(is_ours, "whose is {text:?}?");
                findings.answered_by_us += 1;
            }
        }
        let Some(len) = message.len else {
            findings.cut_visibly += u64::from(!is_whole);
            return at + 1;
        };
        rest = &rest[len..];
        let said_too_little =
            client.has_left || (asked.method == "HEAD" && message.status() == 408);
        if said_too_little && rest.starts_with(b"balancebeam: ") {
            return at + 1; // it had not even said that it was asking with HEAD
        }
    }
    let text = String::from_utf8_lossy(rest);
    assert!(rest.is_empty(), "behind the last answer: {text:?}");
    client.asked.len()
}

fn check_answer(message: &Message, answer: &Answer, id: usize, is_whole: bool) {
    assert_eq!(answer.id, id, "an answer to another request");
    let there = answer.content.get(..message.content.len());
    // HEAD is told the length of what it does not get.
    assert!(there == Some(&message.content[..]), "bytes of another exchange in answer {id}");
    if is_whole {
        assert!(answer.is_whole, "a cut answer looks whole");
        assert_eq!(message.content.len(), answer.content.len(), "the answer is not whole");
    }
}
