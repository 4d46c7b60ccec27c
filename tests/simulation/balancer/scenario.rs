//! What is played: clients, upstreams, and what befalls them, as plain values.
//!
//! A scenario together with its seed decides everything, so whatever is taken out of it leaves a
//! scenario that can be played too. Not here: how one is drawn (`generate.rs`), how one is made
//! smaller (`shrink.rs`), what its parts do (`client.rs`, `upstream.rs`).

use std::fmt;

use balancebeam::config::Policy;

/// Milliseconds since the beginning; the resolution of everything that happens.
pub type Ms = u64;

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub mood: Mood,
    pub knobs: Knobs,
    pub upstreams: Vec<UpstreamPlan>,
    pub clients: Vec<ClientPlan>,
    pub happenings: Vec<(Ms, What)>,
}

/// How much goes wrong; what must hold beyond what always does follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Nothing does: every request gets its upstream's answer.
    Calm,
    /// Upstreams die, all but one, and clients only ask with GET: nobody is to notice.
    Failover,
    /// Everything does.
    Wild,
}

#[derive(Clone, Debug)]
pub struct Knobs {
    pub policy: Policy,
    pub attempts: usize,
    pub budget_percent: u32,
    pub budget_floor: u32,
    pub fail_open: bool,
    /// Time between two rounds of probes; `None` turns them off.
    pub probes: Option<Ms>,
    pub rise: u32,
    pub fall: u32,
    pub pool: usize,
    pub per_minute: u32,
    pub limit_clients: usize,
    pub most_connections: usize,
    /// Requests that an upstream has at a time, those that wait, and for how long they do.
    pub in_flight: Option<usize>,
    pub queue: usize,
    pub queue_timeout: Ms,
    /// Errors and late answers in a row that eject.
    pub eject_after: Option<u32>,
    /// Deadlines of a tenth of the defaults.
    pub is_hasty: bool,
    /// An end on an idle upstream connection is heard of before the connection is used again.
    pub watches_idle: bool,
}

#[derive(Clone, Debug)]
pub struct UpstreamPlan {
    pub id: usize,
    /// It behaves, whatever happens.
    pub is_steady: bool,
    pub addresses: usize,
}

#[derive(Clone, Debug)]
pub struct ClientPlan {
    pub id: usize,
    pub at: Ms,
    /// The last byte of its address.
    pub address: u8,
    /// It sends all requests without waiting for answers.
    pub pipelines: bool,
    /// Pause before it sends or reads the next piece, at most.
    pub pace: Ms,
    /// Pause before each further request, at most.
    pub thinks: Ms,
    /// It ends its sending direction behind its last request.
    pub half_closes: bool,
    pub mishap: Option<ClientMishap>,
    pub requests: Vec<RequestPlan>,
}

/// What is wrong with a client; each from a byte of what it sends, or gets, on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMishap {
    ResetsAfterSending(usize),
    EndsAfterSending(usize),
    StallsAfterSending(usize),
    ResetsAfterReading(usize),
    StopsReadingAfter(usize),
}

#[derive(Clone, Debug)]
pub struct RequestPlan {
    /// The number of the exchange, in the target and in every part of the body.
    pub id: usize,
    pub method: &'static str,
    pub framing: Framing,
    pub size: usize,
    pub is_old: bool,
    pub closes: bool,
    pub expects: bool,
    pub fault: Option<&'static str>,
    /// What the upstreams that get it do with it, one after the other; then they answer well.
    pub answers: Vec<AnswerPlan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Nothing,
    Length,
    Chunked,
    UntilClose,
}

#[derive(Clone, Debug)]
pub struct AnswerPlan {
    pub status: u16,
    pub framing: Framing,
    pub size: usize,
    pub interim: usize,
    pub thinks: Ms,
    pub closes: bool,
    pub mishap: Option<UpstreamMishap>,
}

/// What is wrong with an upstream that has got a request. A steady one has none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamMishap {
    /// It breaks off after so many bytes of the request, by a reset or an end.
    Breaks { after: usize, resets: bool },
    /// It has a read timeout: it breaks off a request of which nothing has come for so long.
    GivesUp { after: Ms, resets: bool },
    /// It never answers.
    Mute,
    /// It answers before the request is whole, and reads on or not.
    Early { reads_on: bool },
    /// What it says is no response.
    Garbage,
    /// It breaks off within its answer; so many thousandths of it leave.
    Cut { permille: usize, resets: bool },
    /// It says more than an answer, at once or after a while.
    SaysMore { later: Ms },
    /// Its answer is longer than it says.
    Lies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// From now on the upstream is like this.
    Turns(usize, Mode),
    /// Its idle connections end.
    ClosesIdle(usize),
    /// All of its connections break.
    Breaks(usize),
    /// The clock stands still for everybody, and then this much has gone by.
    Jump(Ms),
    Drain,
}

/// How an upstream takes connections and probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Up,
    Refuses,
    /// Connects are not answered.
    Hangs,
    /// It is connected to and says nothing; what it is saying stops.
    Frozen,
    /// Probes get a bad status; requests are served.
    Sick,
}

impl Knobs {
    /// As if no flag had been given, and as few surprises as there can be. Bounds, and what errors
    /// do, are taken out on their own.
    pub fn make_ordinary(&mut self) {
        (self.attempts, self.budget_percent, self.budget_floor) = (16, 20, 10);
        (self.pool, self.per_minute, self.most_connections) = (1024, 0, 1_000);
        (self.fail_open, self.is_hasty, self.watches_idle) = (true, false, true);
        self.policy = Policy::RoundRobin;
    }
}

impl RequestPlan {
    pub fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }

    pub fn is_plain_get(&self) -> bool {
        self.method == "GET" && self.framing == Framing::Nothing && self.fault.is_none()
    }
}

impl AnswerPlan {
    /// What follows when the plans have run out.
    pub fn good(size: usize) -> AnswerPlan {
        AnswerPlan {
            status: 200,
            framing: Framing::Length,
            size,
            interim: 0,
            thinks: 1,
            closes: false,
            mishap: None,
        }
    }
}

impl Scenario {
    pub fn request(&self, id: usize) -> Option<&RequestPlan> {
        let client = self.clients.iter().find(|client| client.id == id / 100)?;
        client.requests.iter().find(|request| request.id == id)
    }

    pub fn drains(&self) -> bool {
        self.happenings.iter().any(|(_, what)| *what == What::Drain)
    }
}

/// Short enough to be read: one line for each upstream, client, request and happening.
impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {:?}\n  {:?}", self.seed, self.mood, self.knobs)?;
        for plan in &self.upstreams {
            let manner = if plan.is_steady { "behaves" } else { "may misbehave" };
            writeln!(f, "  upstream {}: {manner}, addresses: {}", plan.id, plan.addresses)?;
        }
        for (at, what) in self.happenings.iter().filter(|(_, what)| *what != What::Jump(0)) {
            writeln!(f, "  at {at} ms: {what:?}")?;
        }
        for ClientPlan {
            id,
            at,
            address,
            pipelines,
            pace,
            thinks,
            half_closes,
            mishap,
            requests,
        } in &self.clients
        {
            write!(f, "  client {id} at {at} ms from 192.0.2.{address}: pace {pace} ms, ")?;
            write!(f, "thinks {thinks} ms, pipelines: {pipelines}, half-closes: {half_closes}")?;
            writeln!(f, "{}", mishap.map_or(String::new(), |mishap| format!(", {mishap:?}")))?;
            for request in requests {
                let RequestPlan { id, method, framing, size, answers, .. } = request;
                let mut flags = String::new();
                for (is_set, name) in [
                    (request.is_old, ", HTTP/1.0"),
                    (request.closes, ", Connection: close"),
                    (request.expects, ", Expect: 100-continue"),
                ] {
                    flags.push_str(if is_set { name } else { "" });
                }
                writeln!(f, "    {method} /{id} {framing:?} {size}{flags}")?;
                for answer in answers {
                    writeln!(f, "      {answer:?}")?;
                }
            }
        }
        Ok(())
    }
}
