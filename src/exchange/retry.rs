//! Whether a request that failed is sent again: nothing is lost, and nothing is done twice.
//!
//! Pure. Not here: who is chosen next (`upstream/`), how many retries there may be (`upstream/retry_budget.rs`).

use std::time::Instant;

use crate::message::Reply;
use crate::upstream::retry_budget::Budget;

/// How far an attempt came.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFacts {
    /// The connection had served another exchange before.
    pub reused: bool,
    /// A byte of the request was written to it.
    pub wrote: bool,
    /// All of the request that was written is still held.
    pub replayable: bool,
    /// Doing it twice has the effect of doing it once.
    pub idempotent: bool,
    /// A byte of a response has arrived.
    pub response_began: bool,
    /// A byte of a final response has reached the client, or may have.
    pub answered: bool,
    /// The rest of the request is the client's to send, which has sent nothing for a while.
    pub client_stalls: bool,
    /// There is an upstream that it has not been at, and one more is within the limit of an exchange.
    pub attempts_left: bool,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection was made.
    Connect,
    /// The connection ended, or failed, before the response was whole.
    Lost,
    /// What came is no response.
    Malformed(&'static str),
    /// No response came in time.
    Late,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it again, to the same upstream, on a fresh connection.
    RetrySame,
    /// Send it again, to an upstream that was not tried.
    RetryOther,
    /// Answer this.
    Answer(Reply),
    /// Let the client see that the answer is cut.
    Abort,
}

/// | failed                                  | retry when                                                     |
/// |-----------------------------------------|----------------------------------------------------------------|
/// | connecting                              | always: nothing was sent                                       |
/// | reused connection, no response byte     | replayable ∧ (idempotent ∨ nothing written): same upstream     |
/// | fresh connection, no response byte      | replayable ∧ (nothing written ∨ idempotent ∧ within the budget) |
/// | any connection, while the client stalls | never: 408                                                     |
/// | a response had begun, or was malformed  | never: 502                                                     |
/// | no response in time                     | never: 504                                                     |
/// | the client has a part of it             | never: abort                                                   |
pub fn decide(attempt: &AttemptFacts, failure: Failure, budget: &Budget, now: Instant) -> Verdict {
    if attempt.answered {
        return Verdict::Abort;
    }
    let gave_up = Verdict::Answer(Reply::keeping(502, failure.text()));
    match failure {
        Failure::Late => {
            return Verdict::Answer(Reply::keeping(504, failure.text()));
        }
        Failure::Malformed(_) => return gave_up,
        Failure::Connect if attempt.attempts_left => return Verdict::RetryOther,
        Failure::Connect => return gave_up,
        Failure::Lost if attempt.client_stalls && !attempt.response_began => {
            return Verdict::Answer(Reply::closing(408, CLIENT_STALLED));
        }
        Failure::Lost => (),
    }
    if attempt.response_began {
        return Verdict::Answer(Reply::keeping(502, BEGAN));
    }
    let may_send_again = attempt.replayable && (attempt.idempotent || !attempt.wrote);
    if !may_send_again {
        gave_up
    } else if attempt.reused {
        Verdict::RetrySame
    } else if !attempt.attempts_left {
        gave_up
    } else if !attempt.wrote || budget.withdraw(now) {
        Verdict::RetryOther
    } else {
        gave_up
    }
}

/// Why a request is 502 of whose answer something had come.
const BEGAN: &str = "the upstream broke off its answer before any of it was passed on";

/// Why a request is 408 whose body stops arriving.
pub const CLIENT_STALLED: &str = "the request body stopped arriving";

impl Failure {
    /// What is answered, and logged, when nothing more can be done.
    pub fn text(self) -> &'static str {
        match self {
            Failure::Connect => "the upstream could not be connected to",
            Failure::Lost => "the upstream broke off the connection without an answer",
            Failure::Malformed(why) => why,
            Failure::Late => "the upstream did not answer in time",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter a fact: r = reused, w = wrote, h = held (replayable), i = idempotent, b =
    /// response began, a = answered, n = no attempts left, s = the client stalls.
    fn verdict(facts: &str, failure: Failure) -> Verdict {
        let is = |letter| facts.contains(letter);
        let attempt = AttemptFacts {
            reused: is('r'),
            wrote: is('w'),
            replayable: is('h'),
            idempotent: is('i'),
            response_began: is('b'),
            answered: is('a'),
            client_stalls: is('s'),
            attempts_left: !is('n'),
        };
        let now = Instant::now();
        decide(&attempt, failure, &Budget::new(0, 1, now), now)
    }

    #[test]
    fn what_is_sent_again() {
        for (facts, expected) in [
            ("rwhi", Verdict::RetrySame),
            ("rh", Verdict::RetrySame), // a POST of which nothing was written
            ("whi", Verdict::RetryOther), // fresh: within the budget
            ("h", Verdict::RetryOther),
        ] {
            assert_eq!(verdict(facts, Failure::Lost), expected, "{facts}");
        }
        assert_eq!(
            verdict("rwhin", Failure::Lost),
            Verdict::RetrySame,
            "it is no attempt of its own"
        );
        for facts in ["rwh", "wh", "rwi", "wi", "rwhib", "whib", "whin", "hn", ""] {
            let verdict = verdict(facts, Failure::Lost);
            assert!(matches!(verdict, Verdict::Answer(Reply { status: 502, .. })), "{facts}");
        }
    }

    #[test]
    fn a_failed_connect_is_always_followed_by_another() {
        for facts in ["", "h", "i", "r"] {
            assert_eq!(verdict(facts, Failure::Connect), Verdict::RetryOther);
        }
        assert!(matches!(verdict("hin", Failure::Connect), Verdict::Answer(_)));
    }

    #[test]
    fn what_is_never_sent_again() {
        for failure in [Failure::Connect, Failure::Lost, Failure::Late, Failure::Malformed("x")] {
            assert_eq!(verdict("rwhia", failure), Verdict::Abort);
        }
        let status = |failure| match verdict("whi", failure) {
            Verdict::Answer(reject) => reject.status,
            other => panic!("{other:?}"),
        };
        assert_eq!(status(Failure::Late), 504);
        for facts in ["whis", "rwhis", "rhs"] {
            let expected = Verdict::Answer(Reply::closing(408, CLIENT_STALLED));
            assert_eq!(verdict(facts, Failure::Lost), expected, "{facts}");
        }
        assert_eq!(status(Failure::Malformed("x")), 502);
    }

    #[test]
    fn the_budget_bounds_retries_on_fresh_connections_only() {
        let now = Instant::now();
        let budget = Budget::new(0, 1, now);
        let mut attempt = AttemptFacts {
            reused: false,
            wrote: true,
            replayable: true,
            idempotent: true,
            response_began: false,
            answered: false,
            client_stalls: false,
            attempts_left: true,
        };
        let decide = |attempt: &AttemptFacts| decide(attempt, Failure::Lost, &budget, now);
        assert_eq!(decide(&attempt), Verdict::RetryOther);
        assert!(matches!(decide(&attempt), Verdict::Answer(_)), "the budget is spent");
        attempt.reused = true;
        assert_eq!(decide(&attempt), Verdict::RetrySame);
    }
}
