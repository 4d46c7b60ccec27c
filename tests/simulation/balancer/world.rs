//! The whole balancer on virtual time: connections, pool, health, limit, budget, and everybody at
//! the far ends. The clock moves to whatever is next. Not here: what must hold (`oracle.rs`), what
//! befalls all of it (`happenings.rs`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use balancebeam::engine_parts::{Connection, Pool, SessionPool, TurnEnd};
use balancebeam::session::{Direction, Side};
use balancebeam::state::ProxyState;
use balancebeam::upstream::Upstreams;

use super::client::Client;
use super::health::{Judge, Source};
use super::host::{Hand, Line, Shared, Wire, Woken};
use super::links::Dial;
use super::logs::{Listening, Record, Said};
use super::net::{Event, Owner};
use super::oracle;
use super::probes::Probes;
use super::room::Room;
use super::scenario::{Mode, Mood, Ms, Scenario};
use super::setup;
use super::upstream::Peer;

/// Time between two sweeps, of the pool and of the limit.
pub const SWEEP_INTERVAL: Ms = 1_000;
/// Everything is over by then, whatever happens.
const LONGEST: Ms = 4 * 3_600_000;
/// Events that one scenario may have; with more it does not end.
const MOST_EVENTS: usize = 2_000_000;

pub struct World<'a> {
    pub scenario: &'a Scenario,
    pub net: Shared,
    pub state: Arc<ProxyState>,
    pub pool: Pool<Line>,
    sessions: SessionPool<Line>,
    woken: Woken,
    /// By the clients' places.
    pub connections: Vec<Option<Connection<Wire, Line>>>,
    pub clients: Vec<Client>,
    /// How late each session finds out that its deadline has passed.
    lateness: Vec<Ms>,
    was_told_of_reset: Vec<bool>,
    /// When those that are only turned away arrived, by client.
    pub turned_away: Vec<Option<Instant>>,
    peers: Vec<Option<Peer>>,
    probes: Option<Probes>,
    pub judge: Judge,
    pub room: Room,
    pub records: Vec<(usize, Ms, Record)>,
    pub drained_at: Option<Ms>,
    /// Sessions that were ended with the drain although they were busy.
    pub cut: usize,
    listening: Listening,
}

impl<'a> World<'a> {
    pub fn new(scenario: &'a Scenario, net: Shared) -> World<'a> {
        let config = setup::config(scenario);
        let address = |id: usize, i: u16| SocketAddr::from(([10, 0, 0, id as u8], 80 + i));
        let addresses = scenario.upstreams.iter().enumerate();
        let addresses = addresses
            .map(|(id, plan)| (0..plan.addresses as u16).map(|i| address(id, i)).collect())
            .collect();
        let upstreams = Upstreams::new(&config, addresses, scenario.seed);
        let pool = Pool::new(config.upstreams.len(), config.limits.pool, config.timeouts.pool);
        let patience = config.timeouts.response.min(config.timeouts.progress);
        let waits = (config.timeouts.connect, patience);
        let now = net.borrow().instant();
        let state = Arc::new(ProxyState::new(config, upstreams, now));
        let count = scenario.clients.len();
        let probes = {
            let net = &mut *net.borrow_mut();
            net.is_hostile = scenario.mood == Mood::Wild;
            net.bound = scenario.knobs.in_flight;
            for (place, client) in scenario.clients.iter().enumerate() {
                net.schedule(client.at, Event::Arrive(place));
            }
            for (number, (at, _)) in scenario.happenings.iter().enumerate() {
                net.schedule(*at, Event::Happening(number));
            }
            net.schedule(SWEEP_INTERVAL, Event::Sweep);
            Probes::begin(&state, net)
        };
        World {
            scenario,
            net,
            pool,
            sessions: SessionPool::default(),
            woken: Woken::default(),
            connections: (0..count).map(|_| None).collect(),
            clients: scenario.clients.iter().cloned().map(Client::new).collect(),
            lateness: vec![0; count],
            was_told_of_reset: vec![false; count],
            turned_away: vec![None; count],
            peers: Vec::new(),
            probes,
            judge: Judge::new(scenario, waits),
            room: Room::new(scenario),
            records: Vec::new(),
            drained_at: None,
            cut: 0,
            state,
            listening: Listening::begin(),
        }
    }

    pub fn run(mut self) {
        let mut arrivals = self.clients.len();
        for _ in 0..MOST_EVENTS {
            let is_over = arrivals == 0
                && self.connections.iter().all(Option::is_none)
                && self.clients.iter().all(|client| client.is_done);
            if is_over || self.net.borrow().finding.is_some() {
                return oracle::at_the_end(&self);
            }
            for client in std::mem::take(&mut *self.woken.lock().expect("nobody panicked")) {
                self.net.borrow_mut().wake(client, 0);
            }
            if let Some(client) = self.advance() {
                self.turn(client);
                continue;
            }
            let event = self.net.borrow_mut().pop();
            if let Some(Event::Arrive(_)) = event {
                arrivals -= 1;
            }
            if let Some(event) = event {
                self.happen(event);
            }
        }
        self.net.borrow_mut().accuse("no exchange hangs for ever", || "too many events".into());
    }

    /// Moves the clock to what is next. Returns whose deadline that is, if it is one.
    fn advance(&mut self) -> Option<usize> {
        let mut net = self.net.borrow_mut();
        let connections = self.connections.iter().zip(&self.lateness).enumerate();
        let due = connections.filter_map(|(place, (connection, late))| {
            let deadline = connection.as_ref()?.deadline()?;
            Some((net.ms_of(deadline) + late, place))
        });
        let due = due.min();
        let next = net.next_at();
        let at = [due.map(|(at, _)| at), next].into_iter().flatten().min();
        let at = at.unwrap_or(LONGEST);
        net.now = net.now.max(at);
        let is_late = net.now >= LONGEST;
        net.check("no exchange hangs for ever", !is_late, || "hours have gone by".into());
        let (at, place) = due?;
        if next.is_some_and(|next| next < at) {
            return None;
        }
        self.lateness[place] = net.draws.below(110) as Ms;
        net.counts.one("deadlines");
        Some(place)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(place) => self.arrive(place),
            Event::Far(link) => self.far(link),
            Event::DialEnds(link) => self.end_dial(link),
            Event::Turn(client) => self.turn(client),
            Event::Listen(link) => self.listen(link),
            Event::Farewell(link) => {
                let mut net = self.net.borrow_mut();
                net.places[link].link.far_close();
                net.tell_near(link);
            }
            Event::Happening(number) => self.befall(self.scenario.happenings[number].1),
            Event::Probes => {
                if let Some(probes) = &mut self.probes {
                    probes.begin_round(&mut self.net.borrow_mut());
                }
            }
            Event::ProbeEnds(upstream) => {
                let Some(probes) = &mut self.probes else { return };
                let reported = probes.end(upstream, &self.state, &mut self.net.borrow_mut());
                let seen = reported.unwrap_or_default();
                self.net.borrow_mut().counts.one("probes");
                self.hear(Source::Probe { upstream, seen: &seen });
            }
            Event::Sweep => self.sweep(),
            Event::DrainEnds => self.end_drain(),
        }
    }

    fn arrive(&mut self, place: usize) {
        let client = &mut self.clients[place];
        if self.state.is_stopping() {
            client.is_done = true;
            return;
        }
        let open = self.connections.iter().flatten().count();
        let turn_away = open >= self.scenario.knobs.most_connections;
        let now = self.net.borrow().instant();
        let link = self.net.borrow_mut().connect(Owner::Client(place), place, Dial::Made);
        client.link = Some(link);
        let at = self.net.borrow().now;
        self.net.borrow_mut().active[place] = at;
        let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, client.plan.address));
        let wire = Wire { net: self.net.clone(), link };
        let connection = Connection::new(self.state.clone(), peer, wire, turn_away, now);
        self.connections[place] = Some(connection);
        self.turned_away[place] = turn_away.then_some(now);
        let mut net = self.net.borrow_mut();
        net.note(format_args!("client {} arrives; turned away: {turn_away}", client.plan.id));
        net.counts.one(if turn_away { "clients turned away" } else { "clients" });
        net.stir(link, 0);
    }

    fn far(&mut self, link: usize) {
        let net = &mut *self.net.borrow_mut();
        match net.places[link].owner {
            Owner::Client(place) => self.clients[place].act(net),
            Owner::Upstream(id) => {
                let len = self.peers.len().max(link + 1);
                self.peers.resize_with(len, || None);
                let peer = self.peers[link].get_or_insert_with(|| Peer::new(id, link));
                peer.act(net, self.scenario);
            }
        }
    }

    fn end_dial(&mut self, link: usize) {
        let net = &mut *self.net.borrow_mut();
        let Owner::Upstream(id) = net.places[link].owner else { return };
        let mode = net.modes[id];
        if net.places[link].link.near_closed.is_some() {
            return;
        }
        if mode == Mode::Hangs {
            let at = net.now + SWEEP_INTERVAL;
            return net.schedule(at, Event::DialEnds(link));
        }
        let is_refused = mode == Mode::Refuses || net.places[link].refuses;
        net.places[link].link.dial = match is_refused {
            true => Dial::Failed(std::io::ErrorKind::ConnectionRefused),
            false => Dial::Made,
        };
        net.tell_near(link);
    }

    /// One turn of one connection.
    fn turn(&mut self, client: usize) {
        let Some(connection) = &mut self.connections[client] else { return };
        let now = {
            let net = &mut *self.net.borrow_mut();
            net.ledger.begin_turn();
            self.room.turn_begins(client, net);
            net.instant()
        };
        let link = connection.client.link;
        let is_reset = self.net.borrow().places[link].link.far_reset;
        if is_reset && !std::mem::replace(&mut self.was_told_of_reset[client], true) {
            // An engine hears of it even if it does not read.
            let awake = connection.wake(&self.sessions);
            awake.session.failed(Side::Client, Direction::Read);
        }
        let mut hand = Hand {
            net: &self.net,
            pool: &self.pool,
            state: &self.state,
            woken: &self.woken,
            client,
            calls: 0,
        };
        let turn = connection.turn(&mut hand, &self.sessions, now);
        if turn == TurnEnd::Gone {
            self.connections[client] = None;
        }
        self.hear(Source::Session { client, exchange: 0 });
        if turn == TurnEnd::Gone {
            self.room.is_gone(client, &mut self.net.borrow_mut());
        }
        let mut net = self.net.borrow_mut();
        net.note(format_args!("turn of client {}: {turn:?}", self.clients[client].plan.id));
        if turn == TurnEnd::Yield {
            net.counts.one("turns that were cut short");
            net.wake(client, 0);
        }
        drop(net);
        oracle::after_turn(self, client, turn);
    }

    /// Looks at what was said.
    pub fn hear(&mut self, source: Source<'_>) {
        let net = &mut *self.net.borrow_mut();
        for line in self.listening.heard() {
            if !line.ends_with("ProbePassed") {
                net.note(format_args!("{line}"));
            }
            let said = Said::read(&line);
            // Of several exchanges in one turn each counts for itself.
            let source = match source {
                Source::Session { client, .. } => {
                    let exchange = self.records.iter().filter(|(of, ..)| *of == client).count();
                    Source::Session { client, exchange }
                }
                probe => probe,
            };
            self.judge.hear(&said, source, net);
            match (said, source) {
                (Said::Asks(client, id), _) => {
                    let is_for_others =
                        !self.judge.is_trial_due(id, net.now) && !self.judge.is_left_alone(id);
                    let came = self.room.asks(client, id, !is_for_others, net);
                    self.judge.asks(client, id, came, self.room.asked_by(client), net);
                }
                (Said::Waits(client), _) => self.room.waits(client, net),
                (Said::Woken(client), _) => {
                    self.room.wakes(client, self.judge.live(), net);
                }
                (Said::Exchange(record), Source::Session { client, .. }) => {
                    net.active[client] = net.now;
                    self.room.is_over(client, &record, net);
                    self.judge.is_over(client);
                    self.records.push((client, net.now, record));
                }
                _ => (),
            }
        }
        self.judge.is_content(net);
    }
}
