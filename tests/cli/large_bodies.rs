//! Bodies far larger than the memory that the balancer may use.

use super::client::agent;
use super::support::binary::Balancer;
use super::support::echo::Echo;
use super::support::pattern::{Check, Source, all_right};

each_engine!(alone: a_gibibyte_each_way_passes_unchanged_in_under_64_mib);

const GIB: u64 = 1 << 30;
const MEMORY_LIMIT_KIB: u64 = 64 * 1024;

fn upload(balancer: &Balancer, len: u64, is_chunked: bool) {
    let mut source = Source::new(len);
    let mut request = agent(true).post(balancer.url("/verify"));
    if !is_chunked {
        request = request.header("content-length", len.to_string());
    }
    let mut response = request.send(ureq::SendBody::from_reader(&mut source)).unwrap();
    let framing = if is_chunked { "chunked" } else { "length" };
    assert_eq!(response.headers()["seen-framing"], framing);
    assert_eq!(response.body_mut().read_to_string().unwrap(), all_right(len));
}

fn download(balancer: &Balancer, len: u64, is_chunked: bool) {
    let target = if is_chunked { format!("/chunked/{len}") } else { format!("/pattern/{len}") };
    let response = agent(true).get(balancer.url(&target)).call().unwrap();
    assert_eq!(response.headers().contains_key("content-length"), !is_chunked);
    let verdict = Check::default().drain(response.into_body().into_reader()).unwrap();
    assert_eq!(verdict, all_right(len));
}

fn a_gibibyte_each_way_passes_unchanged_in_under_64_mib(engine: &str) {
    let echo = Echo::start();
    let balancer = Balancer::start(engine, &[&echo], &["--threads", "2"]);
    upload(&balancer, GIB, false);
    download(&balancer, GIB, false);
    upload(&balancer, GIB / 8, true);
    download(&balancer, GIB / 8, true);
    let peak = balancer.peak_memory_kib();
    assert!(peak < MEMORY_LIMIT_KIB, "the balancer used {peak} KiB");
    assert_eq!(echo.requests(), 4);
}
