//! One request in the hands of an upstream, and what it must be. Not here: how it is answered
//! (`upstream.rs`).

use super::net::Net;
use super::reader::Message;
use super::scenario::{AnswerPlan, Ms, RequestPlan};
use super::words;

/// One request, and what is done with it.
pub struct Task {
    pub id: usize,
    pub plan: AnswerPlan,
    pub heard: usize,
    pub was_checked: bool,
    pub has_continued: bool,
    pub answers_at: Option<Ms>,
    /// When its upstream's read timeout has passed.
    pub gives_up_at: Option<Ms>,
    pub has_answered: bool,
    /// What follows when everything is said.
    pub then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    GoesOn,
    Closes,
    Resets,
}

/// A request is what its client has sent, and nobody else's; if it looks whole, it is.
pub fn check(message: &Message, request: &RequestPlan, net: &mut Net) {
    let RequestPlan { id, method, size, fault, .. } = request;
    let first = format!("{method} /{id} HTTP/1.1");
    net.check("a request is its client's", message.first_line == first, || {
        format!("{:?} for {first:?}", message.first_line)
    });
    net.check("nothing malformed is forwarded", fault.is_none(), || first.clone());
    let via = message.field("Via").unwrap_or_default();
    net.check("a request names who forwarded it", via.ends_with(" balancebeam"), || {
        via.to_string()
    });
    let is_its = words::is_content(&format!("q{id};"), &message.content);
    let len = message.content.len();
    net.check("a request's body is its own", is_its && len <= *size, || first.clone());
    net.check("a request that looks whole is", !message.is_whole || len == *size, || {
        format!("{len} of {size} bytes of {first}")
    });
}
