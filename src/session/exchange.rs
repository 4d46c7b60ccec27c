//! One request and its response: the two legs, and what is remembered from one to the other.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::http1::body::{Encoder, Transfer};
use crate::http1::head::Search;
use crate::http1::rewrite::{HostSlot, TrailerRules};
use crate::message::{Request, Response};
use crate::upstream::Waiting;
use crate::upstream::{InFlight, Upstream, UpstreamId};

/// From the client to the upstream.
///
/// ```text
/// Head ─▶ Body ─▶ Done      Body ─▶ Cut  (nobody listens any more)      Done ─▶ Tunnel
/// ```
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestLeg {
    /// A head is awaited, or arriving.
    Head,
    /// The body is on its way, perhaps to nowhere.
    Body(Transfer),
    /// All of it was understood and written to the upstream's output.
    Done,
    /// The rest is not read.
    Cut,
    /// Bytes, whatever they mean.
    Tunnel,
}

/// From the upstream to the client.
///
/// ```text
/// Idle ─▶ Head ─▶ Body ─▶ Done      Head ─▶ Head  (interim response)      Head ─▶ Tunnel
/// ```
#[derive(Clone, Copy, Debug)]
pub(super) enum ResponseLeg {
    /// There is no exchange.
    Idle,
    /// A head is awaited, or arriving.
    Head(Search),
    /// The body is on its way.
    Body(Transfer),
    /// All of it was written to the client's output.
    Done,
    /// Bytes, whatever they mean.
    Tunnel,
}

/// What is remembered of an exchange.
pub(super) struct Exchange {
    pub request: Request,
    /// Who asks, as far as trusted peers say.
    pub client: IpAddr,
    pub started: Instant,
    /// The upstream it is with.
    pub choice: Option<InFlight>,
    /// The one it was with, once that is done with it.
    pub done_by: Option<Arc<Upstream>>,
    /// Its place in the queue of those that wait for one.
    pub queued: Option<Waiting>,
    /// Upstreams that failed it.
    pub tried: Vec<UpstreamId>,
    /// Upstreams chosen.
    pub attempts: usize,
    /// Addresses of the present upstream that did not answer in time.
    pub addresses_timed_out: usize,
    /// Whether a lost connection was held against an upstream.
    pub loss_counted: bool,
    /// Where the upstream's name belongs in the held request.
    pub host_slot: Option<HostSlot>,
    /// Which trailers of the request go upstream, whichever that is.
    pub request_trailers: TrailerRules,
    /// Which trailers of the response go to the client.
    pub response_trailers: TrailerRules,
    /// Whether a byte was written to the present upstream connection.
    pub wrote: bool,
    /// Whether a byte of a response has come over it.
    pub response_began: bool,
    /// Whether a byte has come over it before any was written: it answers something else.
    pub spoke_first: bool,
    /// Whether the client still waits for a 100 before it sends its body.
    pub awaits_continue: bool,
    /// When the last 102 or 103 has come.
    pub interim_at: Option<Instant>,
    /// How fast the body has come while an upstream was kept for it.
    pub pace: Pace,
    /// The final head, once it was written to the client's output.
    pub response: Option<Response>,
    /// The status that the client gets; 0 before it is known.
    pub status: u16,
    /// What went wrong with the upstream that was tried last.
    pub last_failure: &'static str,
    /// Since when our own shortage keeps it from a connection.
    pub short_since: Option<Instant>,
    /// How often it has waited because of that.
    pub shortages: u32,
    /// Why we answered ourselves.
    pub why: &'static str,
    /// Whether the client's connection will be used again.
    pub persists: bool,
    pub sent_to_client: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// How fast a request's body comes; looked at only where `--max-in-flight` bounds what an upstream has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Since when fewer bytes have come than keep the capacity of an upstream.
    pub since: Instant,
    /// Bytes of the body that had come then.
    pub bytes: u64,
    /// When it is looked at next.
    pub check_at: Instant,
}

impl Exchange {
    pub fn new(request: Request, client: IpAddr, now: Instant) -> Self {
        Exchange {
            request,
            client,
            started: now,
            choice: None,
            done_by: None,
            queued: None,
            tried: Vec::new(),
            attempts: 0,
            addresses_timed_out: 0,
            loss_counted: false,
            host_slot: None,
            request_trailers: TrailerRules::default(),
            response_trailers: TrailerRules::default(),
            wrote: false,
            response_began: false,
            spoke_first: false,
            awaits_continue: request.expects_continue,
            interim_at: None,
            pace: Pace { since: now, bytes: 0, check_at: now },
            response: None,
            status: 0,
            why: "",
            last_failure: "",
            short_since: None,
            shortages: 0,
            persists: false,
            sent_to_client: 0,
            request_bytes: 0,
            response_bytes: 0,
        }
    }
}

impl Exchange {
    /// The upstream is done with it, so there is room for another one, however long the client takes
    /// to read the answer.
    pub fn give_capacity(&mut self) {
        if let Some(choice) = self.choice.take() {
            self.done_by = Some(choice.upstream().clone());
        }
    }
}

impl RequestLeg {
    /// Whether the body is read only to get past it.
    pub fn is_discarding(&self) -> bool {
        matches!(self, RequestLeg::Body(transfer) if transfer.encoder == Encoder::Nowhere)
    }
}
