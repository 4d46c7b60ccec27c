//! Upstreams that die, fail and come back: noticed by requests, and noticed by active checks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::client::{get, post};
use super::support::binary::Balancer;
use super::support::echo::Echo;
use super::support::until;

each_engine!(beside_others:
    no_client_notices_the_death_of_one_of_three,
    an_ejected_upstream_is_left_alone_for_ten_seconds_then_tried_once_and_restored,
    with_all_upstreams_down_clients_get_502_until_one_is_back,
    failing_probes_eject_within_three_seconds_and_go_on,
    passing_probes_restore_within_three_seconds,
    probes_restore_what_a_refused_connection_ejected,
    the_first_probe_comes_one_interval_after_the_start,
    a_probe_that_meets_tls_says_so,
    an_upstream_whose_answers_are_refused_is_named_with_the_reason_once,
    a_probe_asks_for_the_host_that_was_given,
);

/// The longest that a change may take to show at an interval of one second.
const NOTICED: Duration = Duration::from_secs(3);

/// Sends that many requests, every other one with a body, each on its own connection; all succeed.
fn send(balancer: &Balancer, count: usize) {
    for i in 0..count {
        let url = balancer.url(&format!("/{i}"));
        let (status, body) = if i % 2 == 0 { get(&url) } else { post(&url, "body") };
        assert_eq!(status, 200, "request {i} of {count}: {body}");
    }
}

fn counts<const N: usize>(upstreams: &[Echo; N]) -> [usize; N] {
    upstreams.each_ref().map(Echo::requests)
}

fn no_client_notices_the_death_of_one_of_three(engine: &str) {
    let mut upstreams = [Echo::start(), Echo::start(), Echo::start()];
    let balancer = Balancer::start(engine, &upstreams.each_ref(), &[]);
    send(&balancer, 30);
    assert_eq!(counts(&upstreams).iter().sum::<usize>(), 30);
    assert!(counts(&upstreams).iter().all(|&n| n > 0), "{:?}", counts(&upstreams));

    upstreams[1].kill();
    let before = counts(&upstreams);
    send(&balancer, 30);
    let after = counts(&upstreams);
    assert_eq!(after[1], before[1]);
    assert_eq!(after.iter().sum::<usize>(), 60, "each request reached one upstream, once");
    let (first, third) = (after[0] - before[0], after[2] - before[2]);
    assert!(first.abs_diff(third) <= 2, "the living share evenly: {first} and {third}");
    let dead = upstreams[1].address().to_string();
    balancer.expect_logged(&[&dead, "ejected"], 1);
    balancer.expect_logged(&["ejected"], 1);
}

fn an_ejected_upstream_is_left_alone_for_ten_seconds_then_tried_once_and_restored(engine: &str) {
    let mut upstreams = [Echo::start(), Echo::down()];
    let balancer = Balancer::start(engine, &upstreams.each_ref(), &[]);
    // The second request at the latest is the one that finds the second upstream's door closed.
    let start = Instant::now();
    send(&balancer, 2);
    balancer.expect_logged(&["ejected"], 1);
    upstreams[1].revive();
    let mut sent = 2;
    while upstreams[1].connections() == 0 {
        assert!(start.elapsed() < Duration::from_secs(13), "it was never tried");
        send(&balancer, 1);
        sent += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(start.elapsed() >= Duration::from_secs(10), "tried after {:?}", start.elapsed());
    assert_eq!(counts(&upstreams), [sent - 1, 1]);
    let address = upstreams[1].address().to_string();
    balancer.expect_logged(&[&address, "restored"], 1);
    send(&balancer, 10);
    assert_eq!(counts(&upstreams), [sent - 1 + 5, 1 + 5], "both have their share again");
}

fn with_all_upstreams_down_clients_get_502_until_one_is_back(engine: &str) {
    let mut upstreams = [Echo::start(), Echo::start()];
    let balancer = Balancer::start(engine, &upstreams.each_ref(), &[]);
    send(&balancer, 4);
    upstreams.iter_mut().for_each(Echo::kill);
    for _ in 0..10 {
        assert_eq!(get(&balancer.url("/")).0, 502);
    }
    assert_eq!(counts(&upstreams).iter().sum::<usize>(), 4);
    upstreams[0].revive();
    send(&balancer, 10);
    assert_eq!(counts(&upstreams).iter().sum::<usize>(), 14);
}

/// Makes upstream `i` fail and sends requests until none meets it any more.
fn fail_until_ejected(balancer: &Balancer, upstreams: &[Echo], i: usize) {
    upstreams[i].fail(true);
    until(NOTICED, "no request meets the failing upstream", || {
        let before = upstreams[i].requests();
        for _ in 0..2 * upstreams.len() {
            get(&balancer.url("/"));
        }
        upstreams[i].requests() == before
    });
}

fn failing_probes_eject_within_three_seconds_and_go_on(engine: &str) {
    let upstreams = [Echo::start(), Echo::start(), Echo::start()];
    let balancer = Balancer::probing(engine, &upstreams.each_ref());
    send(&balancer, 6);
    assert!(counts(&upstreams).iter().all(|&n| n > 0), "{:?}", counts(&upstreams));
    fail_until_ejected(&balancer, &upstreams, 0);
    let failing = upstreams[0].address().to_string();
    balancer.expect_logged(&[&failing, "ejected", "500"], 1);

    let before = counts(&upstreams);
    let probes = upstreams[0].probes();
    send(&balancer, 30);
    until(NOTICED, "the ejected one is still probed", || upstreams[0].probes() >= probes + 2);
    send(&balancer, 30);
    let after = counts(&upstreams);
    assert_eq!(after[0], before[0]);
    assert_eq!(after[1] - before[1], 30);
    assert_eq!(after[2] - before[2], 30);
    balancer.expect_logged(&["ejected"], 1);
}

fn passing_probes_restore_within_three_seconds(engine: &str) {
    let upstreams = [Echo::start(), Echo::start(), Echo::start()];
    let balancer = Balancer::probing(engine, &upstreams.each_ref());
    fail_until_ejected(&balancer, &upstreams, 2);
    let before = upstreams[2].requests();
    upstreams[2].fail(false);
    until(NOTICED, "the restored one gets requests", || {
        send(&balancer, 3);
        upstreams[2].requests() > before
    });
    let address = upstreams[2].address().to_string();
    balancer.expect_logged(&[&address, "restored"], 1);
    let before = counts(&upstreams);
    send(&balancer, 30);
    let after = counts(&upstreams);
    let shares: Vec<usize> =
        after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(shares, [10, 10, 10]);
}

fn probes_restore_what_a_refused_connection_ejected(engine: &str) {
    let mut upstreams = [Echo::start(), Echo::start()];
    let balancer = Balancer::probing(engine, &upstreams.each_ref());
    upstreams[1].kill();
    send(&balancer, 4);
    assert_eq!(counts(&upstreams), [4, 0]);
    balancer.expect_logged(&["ejected"], 1);
    upstreams[1].revive();
    let is_restored = || balancer.log().iter().any(|line| line.contains("restored"));
    until(NOTICED, "a probe restores it", is_restored);
    send(&balancer, 10);
    assert_eq!(counts(&upstreams), [4 + 5, 5]);
}

fn the_first_probe_comes_one_interval_after_the_start(engine: &str) {
    let echo = Echo::start();
    let start = Instant::now();
    let _balancer = Balancer::probing(engine, &[&echo]);
    until(NOTICED, "a probe comes", || echo.probes() > 0);
    let after = echo.first_probe().unwrap() - start;
    assert!(after >= Duration::from_millis(950), "the first probe came after {after:?}");
    assert_eq!(echo.requests(), 0);
    assert_eq!(echo.probes(), 1);
}

/// Says the same to whoever connects and asks; keeps what it was asked.
fn saying(answer: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut request, mut piece) = (Vec::new(), [0; 512]);
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(count) if count > 0 => request.extend(&piece[..count]),
                    _ => break,
                }
            }
            kept.lock().expect("kept").push(String::from_utf8_lossy(&request).into_owned());
            let _ = stream.write_all(answer);
        }
    });
    (address, asked)
}

fn run(engine: &str, upstream: SocketAddr, flags: &[&str]) -> Balancer {
    let upstream = upstream.to_string();
    let start = ["--bind", "127.0.0.1:0", "--engine", engine, "--upstream", &upstream];
    Balancer::run(&[&start, flags].concat())
}

fn a_probe_that_meets_tls_says_so(engine: &str) {
    let (address, _) = saying(b"\x15\x03\x01\x00\x02\x02\x46");
    let flags = ["--active-health-check-interval", "0.1"];
    let balancer = run(engine, address, &flags);
    balancer.expect_logged(&[&address.to_string(), "ejected", "it answers in TLS; "], 1);
}

fn an_upstream_whose_answers_are_refused_is_named_with_the_reason_once(engine: &str) {
    let (address, _) = saying(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n");
    let balancer = run(engine, address, &["--active-health-check-interval", "0"]);
    for _ in 0..3 {
        assert_eq!(get(&balancer.url("/")).0, 502);
    }
    balancer.expect_logged(&["WARN", &address.to_string(), "status=502", "field name"], 1);
}

fn a_probe_asks_for_the_host_that_was_given(engine: &str) {
    let (address, asked) = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let flags =
        ["--active-health-check-interval", "0.1", "--active-health-check-host", "app.test:8"];
    let _balancer = run(engine, address, &flags);
    let is_asked = |request: &String| request.contains("\r\nHost: app.test:8\r\n");
    until(NOTICED, "a probe comes", || asked.lock().expect("asked").iter().any(is_asked));
}
