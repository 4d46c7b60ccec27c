//! What is told of an exchange once it is over.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::upstream::Upstream;

/// One exchange that is over.
pub struct Record {
    /// Who asked, as far as trusted peers say.
    pub client: IpAddr,
    /// How it ended.
    pub outcome: ExchangeOutcome,
    /// The status of the answer; 499 if the client left before there was one.
    pub status: u16,
    /// Why we answered ourselves, or gave up; empty if an upstream's answer went through.
    pub why: &'static str,
    /// Who answered, or was asked last; `None` if nobody was, or it waits for another one.
    pub upstream: Option<Arc<Upstream>>,
    /// Connections that were asked for.
    pub attempts: usize,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
    /// From the request's head to the end.
    pub took: Duration,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeOutcome {
    /// The client got a whole answer, the upstream's or ours.
    Finished,
    /// The client got a part of an answer, and can see that it is only a part.
    Aborted,
    /// The client left.
    ClientGone,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let upstream = self.upstream.as_ref().map_or("-", |upstream| upstream.name());
        write!(
            f,
            "{} {} upstream={upstream} attempts={} request_bytes={} response_bytes={} ms={}",
            self.client,
            self.status,
            self.attempts,
            self.request_bytes,
            self.response_bytes,
            self.took.as_millis()
        )?;
        match self.outcome {
            ExchangeOutcome::Finished => (),
            ExchangeOutcome::Aborted => write!(f, " aborted")?,
            ExchangeOutcome::ClientGone => write!(f, " unfinished")?,
        }
        if self.why.is_empty() { Ok(()) } else { write!(f, ": {}", self.why) }
    }
}
