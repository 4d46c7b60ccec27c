//! One request and its response, whatever carries it.
//!
//! An exchange has two legs, which `settle.rs` joins, and makes attempts at upstreams
//! (`attempt.rs`). An exchange never says what becomes of the client's connection: it ends with a
//! [`StreamEnd`], and the session follows it. Not here: where requests begin, and the client's
//! connection (`session/`).

mod attempt;
mod conn_state;
mod deadline;
mod observe;
mod record;
mod reply;
mod request;
mod response;
mod retry;
mod settle;
mod splice;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::http1::body::{Encoder, Transfer};
use crate::http1::head::Search;
use crate::http1::rewrite::{HostSlot, TrailerRules};
use crate::message::{Reply, Request, Response};
use crate::state::ProxyState;
use crate::upstream::{Ticket, Upstream, UpstreamId, Waiting};

pub(crate) use attempt::{Attempt, Link, RETRY_AFTER_SHORTAGE};
pub(crate) use conn_state::{ConnState, Shutdown};
pub use deadline::Timeout;
pub(crate) use deadline::{Pace, Wait};
pub use record::{ExchangeOutcome, Record};
pub(crate) use splice::BodyPath;
pub use splice::Splice;

/// Bytes that are read of a response at a time before its head is known: a long body behind it is
/// cheaper not copied.
pub(crate) const FIRST_READ: usize = 8 * 1024;

/// Room below which no more is read for a side that has not taken what there is.
pub(crate) const LEAST_READ: usize = 2 * 1024;

/// One of the two connections of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client, which asks.
    Client,
    /// The upstream, which answers.
    Upstream,
}

impl Side {
    /// The other side.
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// The other side refused, or was not reached.
    Remote(io::ErrorKind),
    /// This machine is short of descriptors, ports or memory; that says nothing about the upstream.
    Local(io::ErrorKind),
}

/// From the client to the upstream.
///
/// ```text
/// Body ─▶ Done      Body ─▶ Cut  (the rest is of no use any more)      Done ─▶ Tunnel
/// ```
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestLeg {
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
/// Head ─▶ Body ─▶ Done      Head ─▶ Head  (interim response)      Head ─▶ Tunnel
/// ```
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResponseLeg {
    /// A head is awaited, or arriving.
    Head(Search),
    /// The body is on its way.
    Body(Transfer),
    /// All of it was written to the client's output.
    Done,
    /// Bytes, whatever they mean.
    Tunnel,
}

/// The client's side of an exchange: what its methods may touch outside of it.
pub(crate) struct ClientSide<'a> {
    pub state: &'a ProxyState,
    pub conn: &'a mut ConnState,
    pub orders: &'a mut Orders,
    pub wait: &'a mut Wait,
    /// When the last byte came from the client.
    pub sent_at: Instant,
}

/// What the driver has to be told, in this order.
#[derive(Default)]
pub(crate) struct Orders {
    /// To detach the upstream connection; whether it may be used again.
    pub release: Option<bool>,
    /// How an exchange ended.
    pub report: Option<Record>,
    /// To connect, and how long a pooled connection may have been idle.
    pub connect: Option<(Arc<Upstream>, Option<Duration>)>,
}

impl Orders {
    pub fn is_empty(&self) -> bool {
        self.release.is_none() && self.report.is_none() && self.connect.is_none()
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub outcome: ExchangeOutcome,
    /// Why, if that is not the reason of the balancer's own answer.
    pub why: &'static str,
    pub stream: StreamEnd,
}

/// What becomes of the client's connection (or its stream) when an exchange has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The next request may come.
    Keep,
    /// Closed once the output is out: the client has nothing more to say.
    CloseAfterOutput,
    /// Closed by lingering once the output is out (RFC 9112 §9.6).
    Linger,
    /// Reset once the output is out: an orderly end would look like the end of a message.
    ResetAfterOutput,
    /// Closed at once.
    Close,
    /// Reset at once.
    Reset,
}

/// One request and its response.
pub(crate) struct Exchange {
    pub upstream: ConnState,
    pub link: Link,
    pub request_leg: RequestLeg,
    pub response_leg: ResponseLeg,
    pub request: Request,
    /// The client's address, as far as trusted peers say.
    pub client: IpAddr,
    pub started: Instant,
    /// The present attempt.
    pub attempt: Attempt,
    /// The upstream of the attempt that is over, once its capacity was given back.
    pub done_by: Option<Arc<Upstream>>,
    /// The place in the queue of requests that wait for capacity.
    pub queued: Option<Waiting>,
    /// Whether the driver knows that place.
    pub is_queue_told: bool,
    /// Upstreams that failed the request.
    pub tried: Vec<UpstreamId>,
    /// How many upstreams were chosen.
    pub attempts: usize,
    /// Whether a lost connection was held against an upstream.
    pub loss_counted: bool,
    /// Where the upstream's name belongs in the retained request.
    pub host_slot: Option<HostSlot>,
    /// Which trailers of the request go upstream, to whichever one.
    pub request_trailers: TrailerRules,
    /// Which trailers of the response go to the client.
    pub response_trailers: TrailerRules,
    /// Whether the client still waits for a 100 before it sends its body.
    pub awaits_continue: bool,
    /// How fast the body has come while an upstream was kept for it.
    pub pace: Pace,
    /// The final head, once it was written to the client's output.
    pub response: Option<Response>,
    /// The status that the client gets; 0 before it is known.
    pub status: u16,
    /// What went wrong with the upstream that was tried last.
    pub last_failure: &'static str,
    /// Since when a shortage of this machine keeps the request from a connection.
    pub short_since: Option<Instant>,
    /// How often the request has waited because of that.
    pub shortages: u32,
    /// Why the balancer answered itself.
    pub why: &'static str,
    /// Whether the client's connection will be used again.
    pub persists: bool,
    pub sent_to_client: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// How the exchange ended, if it has.
    pub ending: Option<Ending>,
}

impl Exchange {
    /// A request whose head was read. Its legs are those of a request without a body.
    pub fn new(request: Request, client: IpAddr, now: Instant) -> Self {
        Exchange {
            upstream: ConnState::default(),
            link: Link::None,
            request_leg: RequestLeg::Done,
            response_leg: ResponseLeg::Head(Search::default()),
            request,
            client,
            started: now,
            attempt: Attempt::default(),
            done_by: None,
            queued: None,
            is_queue_told: true,
            tried: Vec::new(),
            attempts: 0,
            loss_counted: false,
            host_slot: None,
            request_trailers: TrailerRules::default(),
            response_trailers: TrailerRules::default(),
            awaits_continue: request.expects_continue,
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
            ending: None,
        }
    }

    /// Begins to work on a request; `refusal` is the answer to one that is not forwarded.
    pub fn start(&mut self, client: &mut ClientSide<'_>, refusal: Option<Reply>, now: Instant) {
        if let Some(reply) = refusal {
            return self.answer(client, reply);
        }
        client.state.budget.deposit();
        // What has arrived of the body is looked at before an upstream hears of the request (rule
        // 16).
        self.relay_request(client);
        if self.ending.is_none() && matches!(self.response_leg, ResponseLeg::Head(_)) {
            self.choose(client, now);
        }
    }

    /// The place in the queue that the driver has not been told of.
    pub fn ticket_to_tell(&mut self) -> Option<Arc<Ticket>> {
        let is_told = std::mem::replace(&mut self.is_queue_told, true);
        self.queued.as_ref().filter(|_| !is_told).map(|waiting| waiting.ticket())
    }

    /// Gives the upstream's capacity to another request, however long the client takes to read the
    /// answer: the upstream is done with this one.
    pub fn give_capacity(&mut self) {
        if let Some(choice) = self.attempt.choice.take() {
            self.done_by = Some(choice.upstream().clone());
        }
    }

    /// Bytes of bodies that may be read, for the client and for the upstream.
    pub fn read_budgets(&self, client: &ConnState) -> (usize, usize) {
        let (sent, answered) = (client.input.len(), self.upstream.input.len());
        (client.read_budget(answered), self.upstream.read_budget(sent))
    }
}

impl RequestLeg {
    /// Whether the body is read only to get past it.
    pub fn is_discarding(&self) -> bool {
        matches!(self, RequestLeg::Body(transfer) if transfer.encoder == Encoder::Nowhere)
    }
}
