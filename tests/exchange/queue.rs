//! Requests that wait because every upstream has as many as it may.

use balancebeam::session::Side;

use crate::script::{FINISHED, GET, GONE, OK, Script, Source, forwarded, get, script_with};

/// One upstream that may have one exchange at a time, and has it; so many may wait.
fn busy(queue: usize) -> Script {
    script_with(1, |config| {
        (config.limits.in_flight, config.limits.queue) = (Some(1), queue);
    })
    .others_have(1)
}

#[test]
fn a_request_waits_until_an_upstream_has_room() {
    busy(9)
        .client_sends(GET)
        .waits_for_room()
        .after_ms(999)
        .others_have(0)
        .goes_upstream(get())
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .one_good_exchange()
        .replay();
}

#[test]
fn what_arrives_of_a_body_meanwhile_goes_with_it() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n";
    busy(9)
        .client_sends(format!("{head}\r\nabc"))
        .after_ms(2_000) // it waits for no room yet
        .client_sends("def")
        .waits_for_room()
        .others_have(0)
        .goes_upstream(forwarded(head) + "abcdef")
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

/// While an upstream has room bodies stream, so as soon as there is some it is taken.
#[test]
fn a_body_that_is_arriving_goes_on_as_soon_as_there_is_room() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n";
    busy(9)
        .client_sends(format!("{head}\r\nabc"))
        .others_have(0)
        .client_sends("d")
        .goes_upstream(forwarded(head) + "abcd")
        .client_sends("ef")
        .upstream_sees("ef")
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

/// Its client sends no more before it has an answer.
#[test]
fn a_body_that_is_buffered_goes_on_when_there_is_room_although_no_more_of_it_comes() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n";
    busy(9)
        .client_sends(format!("{head}\r\nabc"))
        .after_ms(400)
        .others_have(0)
        .after_ms(250)
        .goes_upstream(forwarded(head) + "abc")
        .replay();
}

/// Its client waits for a word of the upstream before it sends the body.
#[test]
fn one_that_expects_a_100_waits_for_room_at_once() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nExpect: 100-continue\r\n";
    busy(9)
        .client_sends(format!("{head}\r\n"))
        .waits_for_room()
        .others_have(0)
        .goes_upstream(forwarded(head))
        .replay();
}

#[test]
fn a_body_that_stops_arriving_before_there_is_room_is_408() {
    busy(9)
        .client_sends("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
        .after_ms(59_999)
        .after_ms(1)
        .client_sees_last_answer(408)
        .reported(408, FINISHED)
        .because("the request body stopped arriving")
        .lingers_then_closes()
        .replay();
}

/// One upstream for one request at a time, and a request whose body has begun to come.
fn trickling(head: &str) -> Script {
    script_with(1, |config| config.limits.in_flight = Some(1))
        .client_sends(format!("{head}\r\na"))
        .goes_upstream(forwarded(head) + "a")
}

const PUT_9000: &str = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n";

/// Rule 47: others must not wait for a client that sends a byte now and then.
#[test]
fn a_body_that_trickles_loses_its_room_when_others_wait() {
    trickling(PUT_9000)
        .after_ms(900)
        .client_sends("b")
        .upstream_sees("b")
        .after_ms(900)
        .another_waits()
        .after_ms(250)
        .dropped()
        .client_sees_last_answer(408)
        .reported(408, FINISHED)
        .because("the request body came too slowly while others waited")
        .lingers_then_closes()
        .replay();
}

#[test]
fn a_body_that_trickles_keeps_its_room_while_nobody_waits() {
    let mut story = trickling(PUT_9000);
    for _ in 0..5 {
        story = story.after_ms(5_000).client_sends("b").upstream_sees("b");
    }
    story.replay();
}

#[test]
fn a_body_that_comes_keeps_its_room_whoever_waits() {
    let piece = "b".repeat(1_024);
    let mut story = trickling(PUT_9000).another_waits();
    for _ in 0..8 {
        story = story.after_ms(900).client_sends_at_once(&piece).upstream_sees(&piece);
    }
    story.replay();
}

/// It is not the client that holds up a body which the upstream does not read.
#[test]
fn a_body_that_is_not_read_keeps_its_room() {
    trickling(PUT_9000)
        .stops_taking(Side::Upstream)
        .client_sends("b")
        .another_waits()
        .after_ms(5_000)
        .takes_again(Side::Upstream)
        .upstream_sees("b")
        .after_ms(999) // what the client could not send meanwhile is not held against it
        .replay();
}

/// Nor is it the client that holds up a body while it waits for the upstream's 100.
#[test]
fn a_body_that_was_let_go_late_has_its_time_from_then() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nExpect: 100-continue\r\n";
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    script_with(1, |config| config.limits.in_flight = Some(1))
        .client_sends(format!("{head}\r\n"))
        .goes_upstream(forwarded(head))
        .another_waits()
        .after_ms(5_000)
        .upstream_sends(interim)
        .client_sees(interim)
        .after_ms(999)
        .client_sends("abcdef")
        .upstream_sees("abcdef")
        .replay();
}

#[test]
fn one_that_waits_for_too_long_is_told_so_and_keeps_its_connection() {
    busy(9)
        .client_sends(GET)
        .waits_for_room()
        .after_ms(999)
        .after_ms(1)
        .client_sees_answer_with(503, true, "Retry-After: 1")
        .reported(503, FINISHED)
        .because("no upstream had room in time")
        .others_have(0)
        .one_good_exchange()
        .replay();
}

#[test]
fn one_for_which_the_queue_has_no_room_is_told_so_at_once() {
    busy(0)
        .client_sends(GET)
        .client_sees_answer_with(503, true, "Retry-After: 1")
        .reported(503, FINISHED)
        .because("every live upstream is busy, and no more requests may wait")
        .others_have(0)
        .one_good_exchange()
        .replay();
}

#[test]
fn a_client_that_leaves_while_it_waits_leaves_its_place() {
    busy(9)
        .client_sends(GET)
        .waits_for_room()
        .client_resets()
        .reported(499, GONE)
        .aborted()
        .others_have(0)
        .others_have(1)
        .replay();
}

#[test]
fn a_client_that_only_ends_its_direction_while_it_waits_gets_its_answer() {
    busy(9)
        .client_sends(GET)
        .client_ends()
        .waits_for_room()
        .others_have(0)
        .goes_upstream(get())
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .closed()
        .replay();
}

#[test]
fn a_request_that_is_sent_again_waits_for_the_other_upstream() {
    script_with(2, |config| config.limits.in_flight = Some(1))
        .client_sends(GET)
        .connects(0, Source::Pooled)
        .others_have(1)
        .refused()
        .waits_for_room()
        .others_have(0)
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(get())
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}

#[test]
fn a_drain_waits_for_those_that_wait() {
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    busy(9)
        .client_sends(GET)
        .waits_for_room()
        .drain()
        .others_have(0)
        .goes_upstream(get())
        .upstream_sends(OK)
        .client_sees(last)
        .kept()
        .reported(200, FINISHED)
        .half_closed(Side::Client)
        .client_ends()
        .closed()
        .replay();
}

/// Whoever does not read must not keep others from an upstream that is done with it.
#[test]
fn an_answer_that_fits_a_buffer_gives_its_room_back_whether_it_is_read_or_not() {
    let unread = || {
        script_with(1, |config| config.limits.in_flight = Some(1))
            .stops_taking(Side::Client)
            .client_sends(GET)
            .goes_upstream(get())
    };
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n".to_string();
    let body = "x".repeat(30_000);
    unread()
        .upstream_sends(head.clone() + &body[..8_000])
        .upstream_sends(&body[8_000..])
        .kept()
        .others_have(1)
        .takes_again(Side::Client)
        .client_sees(head + &body)
        .reported(200, FINISHED)
        .replay();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for size in [5, 64 * 1024] {
        let content = "a".repeat(size);
        unread()
            .upstream_sends_at_once(head)
            .upstream_sends_at_once(format!("{size:x}\r\n{content}\r\n"))
            .upstream_sends("0\r\n\r\n")
            .kept()
            .others_have(1)
            .takes_again(Side::Client)
            .client_sees_chunks(head, &content, "0\r\n\r\n")
            .reported(200, FINISHED)
            .replay();
    }
}

/// The request must not go on from where it was when the first upstream gave it up: what stands
/// there is the client's to choose.
#[test]
fn a_request_that_waits_to_be_sent_again_is_sent_from_its_beginning() {
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n";
    let (begun, rest) = ("a".repeat(1_000), "b".repeat(89_000));
    script_with(2, |config| config.limits.in_flight = Some(1))
        .client_sends(format!("{head}\r\n{begun}"))
        .goes_upstream(forwarded(head) + &begun)
        .others_have(1)
        .upstream_ends()
        .dropped()
        .client_sends(&rest)
        .waits_for_room()
        .others_have(0)
        .connects(1, Source::Pooled)
        .connected_fresh()
        .upstream_sees(forwarded(head) + &begun + &rest)
        .upstream_sends(OK)
        .client_sees(OK)
        .kept()
        .reported(200, FINISHED)
        .replay();
}
