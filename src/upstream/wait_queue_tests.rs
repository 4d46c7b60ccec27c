use crate::config::Config;
use crate::upstream::health::Observation;
use crate::upstream::{Chosen, InFlight, NoChoice, TicketStatus, UpstreamId, Upstreams, Waiting};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};
use std::time::Instant;

/// One upstream, or several, with room for one request each, and a queue.
struct World {
    upstreams: Upstreams,
    now: Instant,
    /// The requests that have room.
    served: Vec<InFlight>,
}

impl World {
    fn new(count: usize, queue: usize) -> World {
        let addresses: Vec<SocketAddr> =
            (0..count).map(|i| SocketAddr::from(([127, 0, 0, 1], 8000 + i as u16))).collect();
        let mut config = Config {
            upstreams: addresses.iter().map(|&address| address.into()).collect(),
            ..Config::default()
        };
        (config.limits.in_flight, config.limits.queue) = (Some(1), queue);
        let upstreams =
            Upstreams::new(&config, addresses.into_iter().map(|a| vec![a]).collect(), 1);
        let mut world = World { upstreams, now: Instant::now(), served: Vec::new() };
        for _ in 0..count {
            let choice = world.upstreams.pick(&[], world.now);
            world.served.push(choice.expect("there is room for one each"));
        }
        world
    }

    /// The client with this number asks, and there is no room.
    fn ask(&self, client: u8) -> Option<Waiting> {
        self.ask_without(client, &[])
    }

    fn ask_without(&self, client: u8, tried: &[UpstreamId]) -> Option<Waiting> {
        assert_eq!(self.upstreams.pick(tried, self.now).err(), Some(NoChoice::Full));
        self.upstreams.wait_for_capacity([192, 0, 2, client].into(), tried)
    }

    /// One request is over after the other; who has room then, by place in `waiting`.
    fn order(&mut self, mut waiting: Vec<Option<Waiting>>) -> Vec<usize> {
        let mut order = Vec::new();
        while !self.served.is_empty() {
            drop(self.served.remove(0));
            for (place, ticket) in waiting.iter_mut().enumerate() {
                if let Some(choice) = ticket.as_ref().and_then(chosen) {
                    order.push(place);
                    self.served.push(choice);
                    *ticket = None;
                }
            }
        }
        order
    }
}

fn chosen(waiting: &Waiting) -> Option<InFlight> {
    match waiting.status() {
        TicketStatus::Chosen(choice) => Some(choice),
        TicketStatus::Waiting | TicketStatus::Refused => None,
    }
}

/// Whether it has room now, which it keeps.
fn chosen_is(waiting: &Waiting, world: &mut World) -> bool {
    world.served.extend(chosen(waiting));
    !world.served.is_empty()
}

fn is_refused(waiting: &Option<Waiting>) -> bool {
    waiting.as_ref().is_some_and(|waiting| matches!(waiting.status(), TicketStatus::Refused))
}

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn clients_take_turns_and_of_each_its_newest_request_comes_first() {
    // Who asks, one after the other, and the order in which they have room.
    for (asks, expected) in [
        (&[1, 1, 1][..], &[2, 1, 0][..]),
        (&[1, 2, 3], &[2, 1, 0]),
        (&[1, 1, 1, 1, 2, 3], &[5, 4, 3, 2, 1, 0]),
        // 3 and 1 are newcomers; in between, 3 has no more, and 1 comes back. Then 2 is new.
        (&[2, 1, 1, 1, 2, 3], &[5, 3, 2, 4, 1, 0]),
    ] {
        let mut world = World::new(1, 100);
        let waiting = asks.iter().map(|client| world.ask(*client)).collect();
        assert_eq!(world.order(waiting), expected, "of {asks:?}");
        assert_eq!(world.upstreams.waiting(), 0);
    }
}

#[test]
fn a_client_that_asks_for_much_does_not_keep_another_one_waiting() {
    let mut world = World::new(1, 100);
    let mut waiting: Vec<_> = (0..50).map(|_| world.ask(1)).collect();
    waiting.push(world.ask(2));
    assert_eq!(world.order(waiting)[0], 50);
}

/// Each asks again as soon as it was served, so its line is empty whenever it has had its turn.
#[test]
fn clients_that_ask_one_request_after_the_other_are_served_in_turn() {
    for clients in [3, 4, 7] {
        let mut world = World::new(1, 100);
        let mut waiting: Vec<_> = (1..clients).map(|client| world.ask(client)).collect();
        // Client 0 is the one that has room at first, and was not seen waiting for it.
        let (mut order, mut asks) = (vec![0], 0);
        waiting.insert(0, None);
        for _ in 0..clients * 5 {
            world.served.clear();
            let next =
                waiting.iter().position(|w| w.as_ref().is_some_and(|w| chosen_is(w, &mut world)));
            let next = next.expect("somebody has room now");
            waiting[asks] = world.ask(asks as u8);
            (asks, waiting[next]) = (next, None);
            order.push(next);
        }
        for round in order[clients as usize..].chunks_exact(clients as usize) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, (0..clients as usize).collect::<Vec<_>>(), "of {order:?}");
        }
    }
}

#[test]
fn with_a_full_queue_whoever_waits_most_often_loses_its_oldest() {
    for (asks, lost) in [
        (&[1, 1, 1, 1][..], 0),
        (&[1, 1, 1, 2], 0),
        (&[1, 2, 2, 1], 1),
        (&[2, 1, 1, 1], 1),
        (&[2, 1, 1, 3], 1),
    ] {
        let world = World::new(1, 3);
        let waiting: Vec<_> = asks.iter().map(|client| world.ask(*client)).collect();
        let refused: Vec<_> = (0..4).filter(|place| is_refused(&waiting[*place])).collect();
        assert_eq!(refused, [lost], "of {asks:?}");
        assert_eq!(world.upstreams.waiting(), 3);
    }
    assert!(World::new(1, 0).ask(1).is_none(), "a queue without room is none");
}

#[test]
fn a_client_that_waits_more_often_than_most_does_not_pay_for_one_that_waits_yet_more_often() {
    let world = World::new(1, 7);
    let asks = [1, 1, 1, 2, 2, 3, 4, 2];
    let waiting: Vec<_> = asks.iter().map(|client| world.ask(*client)).collect();
    let refused: Vec<_> = (0..8).filter(|place| is_refused(&waiting[*place])).collect();
    assert_eq!(refused, [0]);
}

#[test]
fn what_one_that_leaves_was_given_goes_to_the_next() {
    let mut world = World::new(1, 100);
    let waiting = [world.ask(1), world.ask(2), world.ask(3)];
    world.served.clear();
    let [first, second, third] = waiting;
    drop(second);
    drop(third);
    assert_eq!(world.upstreams.waiting(), 0);
    assert!(first.as_ref().and_then(chosen).is_some());
    drop(first);
    assert!(world.upstreams.pick(&[], world.now).is_ok(), "nothing is lost on the way");
}

#[test]
fn room_where_a_request_was_already_is_not_for_it() {
    let mut world = World::new(2, 100);
    let ids: Vec<_> = world.served.iter().map(|choice| choice.upstream().id()).collect();
    let waiting = vec![world.ask(1), world.ask_without(2, &ids[..1])];
    assert_eq!(world.order(waiting), [0, 1]);
}

#[test]
fn room_wakes_whoever_gets_it_and_a_refusal_whoever_is_refused() {
    for (room, woken) in [(true, [0, 1]), (false, [1, 0])] {
        let mut world = World::new(1, 2);
        let waiting = [world.ask(1), world.ask(1)].map(|waiting| waiting.expect("room to wait"));
        let bells = [Arc::new(Bell::default()), Arc::new(Bell::default())];
        for (waiting, bell) in waiting.iter().zip(&bells) {
            waiting.ticket().wake_by(Waker::from(bell.clone()));
        }
        if room {
            world.served.clear();
        } else {
            std::mem::forget(world.ask(1));
        }
        let rung = || bells.each_ref().map(|bell| bell.0.load(Ordering::SeqCst));
        assert_eq!(rung(), woken);
        // Whoever says too late how to wake it is woken at once.
        let place = usize::from(room);
        waiting[place].ticket().wake_by(Waker::from(bells[place].clone()));
        assert_eq!(rung()[place], 2);
    }
}

/// There is nobody else for it, and it waits like the others.
#[test]
fn one_that_has_been_at_all_that_are_live_gets_the_room_of_ejected_ones() {
    let mut world = World::new(3, 100);
    let ids: Vec<_> = world.served.iter().map(|choice| choice.upstream().id()).collect();
    let waiting = [world.ask(1), world.ask_without(2, &ids[..1]), world.ask_without(3, &ids[..2])];
    world.upstreams.observe(ids[2], Observation::NoConnection, world.now);
    world.served.pop();
    let served = |waiting: &Option<Waiting>| waiting.as_ref().and_then(chosen).map(|c| c.chosen());
    let expected = [None, None, Some(Chosen::FailOpen)];
    assert_eq!(waiting.each_ref().map(served), expected, "the others have live ones to wait for");
    assert_eq!(world.upstreams.failed_open(), 1);
}

#[test]
fn an_upstream_that_comes_back_serves_those_that_wait() {
    let mut world = World::new(2, 100);
    let gone = world.served[0].upstream().id();
    world.upstreams.observe(gone, Observation::NoConnection, world.now);
    drop(world.served.remove(0));
    let waiting = world.ask(1).expect("room to wait");
    assert!(chosen(&waiting).is_none(), "it is ejected");
    world.upstreams.observe(gone, Observation::ProbePassed, world.now);
    assert!(chosen(&waiting).is_some());
}

/// 120 addresses that ask once each come while there is room for 100 requests; five clients ask
/// again as soon as they were served.
#[test]
fn newcomers_take_no_more_than_half_of_the_turns_while_those_that_come_back_wait() {
    for queue in [1_000, 10] {
        let mut world = World::new(1, queue);
        let mut regulars: Vec<Option<Waiting>> = (0..5).map(|_| None).collect();
        let mut fresh = (0..120).map(|i| [198, 51, 100, i].into());
        let mut newcomers = Vec::new();
        let (mut served, mut refused) = (0, 0);
        for turn in 0..100 {
            // Six come in the time of five turns.
            let coming = if turn % 5 == 0 { 2 } else { 1 };
            for client in fresh.by_ref().take(coming) {
                newcomers.push(world.upstreams.wait_for_capacity(client, &[]));
            }
            // Every second turn is a newcomer's, and the newest one has it.
            if turn % 2 == 0 && turn / 2 < regulars.len() {
                regulars[turn / 2] = world.ask(turn as u8 / 2);
            }
            world.served.clear();
            for (client, waiting) in regulars.iter_mut().enumerate() {
                let Some(ticket) = waiting else { continue };
                match ticket.status() {
                    TicketStatus::Waiting => continue,
                    TicketStatus::Chosen(choice) => {
                        world.served.push(choice);
                        served += 1;
                    }
                    TicketStatus::Refused => refused += 1,
                }
                *waiting = world.ask(client as u8);
            }
            world.served.extend(newcomers.iter().flatten().filter_map(chosen));
        }
        assert!((45..=55).contains(&served), "{served} of 100, with a queue of {queue}");
        assert_eq!(refused, 0, "with a queue of {queue}");
    }
}
