//! Bodies that go past the session, and heads that may wait for theirs: the story is the same
//! whether an engine does as it is offered, or copies everything and waits for nothing.

use balancebeam::buffer::SIZE;
use balancebeam::session::Side;

use crate::script::{
    ABORTED, FINISHED, GET, GONE, OK, Script, Source, forwarded, get, script, script_with,
};
use crate::world::Engine;

/// More than two buffers, so that some of it has to go past the session.
const LONG: usize = 200 * 1024;
/// Bytes that may be copied before a body goes past the session.
const COPIED_OF_ANSWERS: usize = 8 * 1024;
const COPIED_OF_REQUESTS: usize = 2 * SIZE;

const LONG_OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 204800\r\n\r\n";
const LONG_PUT: &str = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 204800\r\n";

/// Content that shows where pieces of it were lost or changed places.
fn long() -> String {
    (0..LONG / 5).map(|i| format!("{i:5}")).collect()
}

fn put(body: &str) -> String {
    format!("{LONG_PUT}\r\n{body}")
}

impl Script {
    /// Tells the same story on each kind of engine, and at least so much goes past the session.
    fn replay_and_splice(self, least: usize) {
        self.replay_where(Engine::Copies);
        let spliced = self.replay_where(Engine::Splices).spliced;
        assert!(spliced >= least, "{spliced} bytes went past the session");
    }

    fn never_splices(self) {
        self.replay_where(Engine::Copies);
        assert!(!self.replay_where(Engine::Splices).was_offered, "a splice was offered");
    }

    fn asks(self) -> Self {
        self.client_sends(GET).goes_upstream(get())
    }

    /// A long request of which so much has arrived at the upstream.
    fn puts(self, part: &str) -> Self {
        self.client_sends_at_once(put(""))
            .goes_upstream(forwarded(LONG_PUT))
            .client_sends_at_once(part)
            .upstream_sees(part)
    }

    fn answered_ok(self) -> Self {
        self.upstream_sends(OK).client_sees(OK).kept().reported(200, FINISHED)
    }
}

#[test]
fn a_long_answer_arrives_whole_behind_its_head() {
    let all = LONG_OK.to_string() + &long();
    script()
        .asks()
        .upstream_sends(&all)
        .client_sees(&all)
        .kept()
        .reported(200, FINISHED)
        .one_good_exchange()
        .replay_and_splice(LONG - COPIED_OF_ANSWERS);
    script()
        .asks()
        .upstream_sends(LONG_OK)
        .client_sees(LONG_OK)
        .upstream_sends_at_once(long())
        .client_sees(long())
        .kept()
        .reported(200, FINISHED)
        .replay_and_splice(LONG);
}

#[test]
fn what_stands_behind_a_long_answer_is_not_taken_for_it() {
    script()
        .asks()
        .upstream_sends_at_once(LONG_OK.to_string() + &long() + OK)
        .client_sees(LONG_OK.to_string() + &long())
        .kept() // nothing of the rest was read; whoever keeps it will hear it
        .reported(200, FINISHED)
        .replay_where(Engine::Splices);
}

#[test]
fn a_long_request_arrives_whole_and_is_no_longer_held() {
    script()
        .client_sends(put(&long()))
        .goes_upstream(forwarded(LONG_PUT) + &long())
        .answered_ok()
        .one_good_exchange()
        .replay_and_splice(LONG - COPIED_OF_REQUESTS);
    script_with(2, |_| ())
        .puts(&long())
        .upstream_ends()
        .dropped()
        .client_sees_answer(502)
        .reported(502, FINISHED)
        .replay_and_splice(LONG - COPIED_OF_REQUESTS);
}

#[test]
fn a_request_behind_a_long_one_is_not_taken_for_its_body() {
    script()
        .client_sends_at_once(put(&long()) + GET)
        .goes_upstream(forwarded(LONG_PUT) + &long())
        .answered_ok()
        .connects(0, Source::Pooled)
        .connected_reused()
        .upstream_sees(get())
        .answered_ok()
        .replay_and_splice(LONG - COPIED_OF_REQUESTS);
}

#[test]
fn an_upstream_that_breaks_off_a_long_answer_aborts_the_client() {
    let part = &long()[..LONG / 2];
    for resets in [false, true] {
        script_with(2, |_| ())
            .asks()
            .upstream_sends_at_once(LONG_OK.to_string() + part)
            .client_sees(LONG_OK.to_string() + part)
            .then(|s| if resets { s.upstream_resets() } else { s.upstream_ends() })
            .dropped()
            .reported(200, ABORTED)
            .because("the upstream broke off its response")
            .aborted()
            .replay_and_splice(part.len() - COPIED_OF_ANSWERS);
    }
}

#[test]
fn what_was_taken_of_a_long_answer_is_passed_on_before_the_abort() {
    let part = &long()[..LONG / 3];
    script()
        .asks()
        .upstream_sends(LONG_OK)
        .client_sees(LONG_OK)
        .stops_taking(Side::Client)
        .upstream_sends_at_once(part)
        .upstream_ends()
        .takes_again(Side::Client)
        .client_sees(part)
        .dropped()
        .reported(200, ABORTED)
        .aborted()
        .replay_and_splice(part.len());
}

#[test]
fn a_head_that_is_on_its_way_past_the_session_is_not_taken_back() {
    let broken_off = script_with(2, |_| ())
        .asks()
        .stops_taking(Side::Client)
        .upstream_sends(LONG_OK)
        .upstream_ends()
        .dropped();
    broken_off
        .clone()
        .reported(200, ABORTED)
        .takes_again(Side::Client)
        .client_sees(LONG_OK)
        .aborted()
        .replay_where(Engine::Splices);
    // One that is still in the output is.
    broken_off
        .takes_again(Side::Client)
        .client_sees_answer(502)
        .reported(502, FINISHED)
        .replay_where(Engine::Copies);
}

#[test]
fn a_long_body_that_ends_with_its_connection_goes_on_until_it_does() {
    let request = "GET / HTTP/1.0\r\nHost: h\r\n\r\n";
    let seen = get().replace("1.1 balancebeam", "1.0 balancebeam");
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    for resets in [false, true] {
        script()
            .client_sends(request)
            .goes_upstream(&seen)
            .upstream_sends_at_once("HTTP/1.1 200 OK\r\n\r\n".to_string() + &long())
            .client_sees(head.to_string() + &long())
            .then(|s| if resets { s.upstream_resets() } else { s.upstream_ends() })
            .dropped()
            .then(|s| match resets {
                true => s.reported(200, ABORTED).aborted(),
                false => s.reported(200, FINISHED).closed(),
            })
            .replay_and_splice(LONG - COPIED_OF_ANSWERS);
    }
}

#[test]
fn only_a_long_body_that_leaves_as_it_comes_goes_past_the_session() {
    let length = "Content-Length: 204800\r\n";
    for (method, answer) in [
        ("HEAD", format!("HTTP/1.1 200 OK\r\n{length}\r\n")),
        ("GET", format!("HTTP/1.1 304 Not Modified\r\n{length}\r\n")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n".to_string()),
        ("GET", format!("HTTP/1.1 200 OK\r\nContent-Length: 32767\r\n\r\n{}", &long()[..32767])),
    ] {
        script()
            .client_sends(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"))
            .goes_upstream(get().replacen("GET", method, 1))
            .upstream_sends_at_once(&answer)
            .client_sees(&answer)
            .kept()
            .reported(answer[9..12].parse().unwrap(), FINISHED)
            .never_splices();
    }
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    script()
        .asks()
        .upstream_sends_at_once(format!("{chunked}32000\r\n{}\r\n0\r\n\r\n", long()))
        .client_sees_chunks(chunked, &long(), "0\r\n\r\n")
        .kept()
        .reported(200, FINISHED)
        .never_splices();
    script()
        .asks()
        .upstream_sends_at_once("HTTP/1.1 200 OK\r\n\r\n".to_string() + &long())
        .client_sees_chunks(chunked, &long(), "")
        .upstream_ends()
        .client_sees("0\r\n\r\n")
        .dropped()
        .reported(200, FINISHED)
        .never_splices();
    let head = "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";
    script()
        .client_sends_at_once(format!("{head}\r\n32000\r\n{}\r\n0\r\n\r\n", long()))
        .connects(0, Source::Pooled)
        .connected_fresh()
        .upstream_sees_chunks(&forwarded(head), &long(), "0\r\n\r\n")
        .answered_ok()
        .never_splices();
}

#[test]
fn an_early_answer_throws_away_what_was_on_its_way_to_the_upstream() {
    script()
        .puts(&long()[..80_000])
        .stops_taking(Side::Upstream)
        .client_sends_at_once(&long()[80_000..100_000])
        .upstream_sends("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n")
        .client_sees("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n")
        .upstream_sends("no")
        .dropped()
        .client_sees("no")
        .reported(403, FINISHED)
        .lingers_then_closes()
        .replay_and_splice(20_000);
}

#[test]
fn a_long_answer_to_a_request_that_nobody_reads_any_more_has_nothing_of_that_request_in_it() {
    let head = "HTTP/1.1 413 Too Much\r\nContent-Length: 204800\r\n\r\n";
    script()
        .puts(&long()[..80_000])
        .stops_taking(Side::Upstream)
        .client_sends_at_once(&long()[80_000..100_000])
        .upstream_is_deaf()
        .upstream_sends_at_once(head.to_string() + &long())
        .client_sees(head.to_string() + &long())
        .dropped()
        .reported(413, FINISHED)
        .lingers_then_closes()
        .replay_and_splice(LONG - COPIED_OF_ANSWERS);
}

#[test]
fn a_long_answer_and_its_long_request_do_not_get_into_each_other() {
    // The answer is on its way past the session when the request could be.
    script()
        .puts(&long()[..5_000])
        .stops_taking(Side::Upstream)
        .client_sends_at_once(&long()[5_000..25_000])
        .client_sends_at_once(&long()[25_000..100_000])
        .stops_taking(Side::Client)
        .upstream_sends_at_once(LONG_OK.to_string() + &long()[..100_000])
        .takes_again(Side::Upstream)
        .upstream_sees(&long()[5_000..100_000])
        .client_sends_at_once(&long()[100_000..])
        .upstream_sees(&long()[100_000..])
        .takes_again(Side::Client)
        .client_sees(LONG_OK.to_string() + &long()[..100_000])
        .upstream_sends_at_once(&long()[100_000..])
        .client_sees(&long()[100_000..])
        .kept()
        .reported(200, FINISHED)
        .one_good_exchange()
        .replay_and_splice(30_000);
}

#[test]
fn a_client_that_leaves_a_long_body_takes_the_upstream_connection_with_it() {
    for resets in [false, true] {
        script()
            .puts(&long()[..100_000])
            .then(|s| if resets { s.client_resets() } else { s.client_ends() })
            .dropped()
            .reported(499, GONE)
            .aborted()
            .replay_and_splice(20_000);
    }
    script()
        .asks()
        .upstream_sends_at_once(LONG_OK.to_string() + &long()[..100_000])
        .client_sees(LONG_OK.to_string() + &long()[..100_000])
        .client_is_deaf()
        .upstream_sends_at_once("more")
        .dropped()
        .reported(200, GONE)
        .aborted()
        .replay_and_splice(50_000);
}

#[test]
fn a_stall_of_a_long_body_is_told_from_the_other_stalls() {
    let part = &long()[..100_000];
    script()
        .asks()
        .upstream_sends(LONG_OK)
        .client_sees(LONG_OK)
        .stops_taking(Side::Client)
        .upstream_sends_at_once(part)
        .after_ms(59_999)
        .after_ms(1)
        .dropped()
        .reported(200, ABORTED)
        .because("the client stopped reading")
        .aborted()
        .replay_and_splice(part.len());
    script()
        .asks()
        .upstream_sends(LONG_OK)
        .client_sees(LONG_OK)
        .upstream_sends_at_once(part)
        .client_sees(part)
        .after_ms(59_999)
        .after_ms(1)
        .dropped()
        .reported(200, ABORTED)
        .because("the upstream stopped sending")
        .aborted()
        .replay_and_splice(part.len());
    script()
        .puts(part)
        .after_ms(59_999)
        .after_ms(1)
        .dropped()
        .client_sees_last_answer(408)
        .reported(408, FINISHED)
        .lingers_then_closes()
        .replay_and_splice(20_000);
    script()
        .puts(part)
        .stops_taking(Side::Upstream)
        .client_sends_at_once(&long()[100_000..105_000])
        .after_ms(59_999)
        .after_ms(1)
        .dropped()
        .client_sees_last_answer(504)
        .reported(504, FINISHED)
        .lingers_then_closes()
        .replay_and_splice(25_000);
}

#[test]
fn a_tunnel_does_not_end_before_the_body_of_its_request_is_out() {
    let upgrade = "Upgrade: x\r\nConnection: upgrade\r\n";
    let seen = forwarded(LONG_PUT).replace("X-Forwarded-For", &format!("{upgrade}X-Forwarded-For"));
    let switch = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n");
    script()
        .client_sends(format!("{LONG_PUT}{upgrade}\r\n"))
        .goes_upstream(seen)
        .client_sends_at_once(&long()[..100_000])
        .upstream_sees(&long()[..100_000])
        .stops_taking(Side::Upstream)
        .client_sends_at_once(&long()[100_000..])
        .upstream_sends(&switch)
        .client_sees(&switch)
        .client_sends_at_once("behind")
        .upstream_ends()
        .half_closed(Side::Client)
        .takes_again(Side::Upstream)
        .upstream_sees(long()[100_000..].to_string() + "behind")
        .client_ends()
        .dropped()
        .reported(101, FINISHED)
        .closed()
        .replay_where(Engine::Splices);
}

#[test]
fn a_head_is_alone_until_its_body_comes() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (head, first, is_still_alone) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "abc", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "abcde", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", "abc", false),
        (chunked, "3\r\nabc\r\n", false),
    ] {
        script()
            .asks()
            .stops_taking(Side::Client)
            .head_is_alone(false)
            .upstream_sends(head)
            .head_is_alone(true)
            .upstream_sends(first)
            .then(|s| if first == "abcde" { s.kept() } else { s })
            .head_is_alone(is_still_alone)
            .client_resets()
            .then(|s| if first == "abcde" { s } else { s.dropped() })
            .reported(200, GONE)
            .aborted()
            .replay();
    }
    // Once the client has got a byte of it, nothing is gained.
    script().asks().upstream_sends(chunked).client_sees(chunked).head_is_alone(false).replay();
}

#[test]
fn what_no_body_will_follow_is_never_alone() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let waiting = || script().asks().stops_taking(Side::Client);
    waiting()
        .upstream_sends(interim)
        .head_is_alone(false)
        .takes_again(Side::Client)
        .client_sees(interim)
        .answered_ok()
        .replay();
    for answer in
        ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
    {
        waiting()
            .upstream_sends(answer)
            .kept()
            .head_is_alone(false)
            .takes_again(Side::Client)
            .client_sees(answer)
            .reported(answer[9..12].parse().unwrap(), FINISHED)
            .replay();
    }
    waiting()
        .upstream_sends("nonsense\r\n\r\n")
        .dropped()
        .head_is_alone(false)
        .takes_again(Side::Client)
        .client_sees_answer(502)
        .reported(502, FINISHED)
        .replay();
}
