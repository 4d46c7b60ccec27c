//! Heads and bodies through the codec: found, read, and written as they leave.
//!
//! Not here: what a session does with them (`exchange.rs`).

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use balancebeam::buffer::Buffer;
use balancebeam::http1::body::{Decoder, Encoder, Flow, Transfer};
use balancebeam::http1::head;
use balancebeam::http1::head::{HeadLimits, Search};
use balancebeam::http1::rewrite;
use balancebeam::http1::rewrite::{RequestRules, ResponseRules, TrailerRules};
use balancebeam::message::{Framing, Method, Version};
use criterion::{Criterion, Throughput};

/// As they are by default.
const LIMITS: HeadLimits = HeadLimits { line: 8 * 1024, head: 16 * 1024, fields: 100 };

/// Bytes of content of a body.
const BODY: usize = 16 * 1024;

/// What a small client says.
const SMALL_REQUEST: &str = "GET /v1/items/42 HTTP/1.1\r\nHost: api.example\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\nX-Request-Id: 7f3a9c\r\n";

/// What a browser says.
const LARGE_REQUEST: &str = "GET /products/shoes?color=green&size=42&page=3 HTTP/1.1\r\n\
    Host: shop.example\r\nConnection: keep-alive\r\nCache-Control: max-age=0\r\n\
    Sec-Ch-Ua: \"Chromium\";v=\"126\", \"Not.A/Brand\";v=\"24\"\r\nSec-Ch-Ua-Mobile: ?0\r\n\
    Sec-Ch-Ua-Platform: \"Linux\"\r\nDnt: 1\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/126.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\n\
    Sec-Fetch-Dest: document\r\nReferer: http://shop.example/products\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=2f1d9c8e7b6a5f4e3d2c1b0a9f8e7d6c; theme=dark; consent=yes; cart=3\r\n\
    If-None-Match: \"5d8c72a5edda8\"\r\nX-Requested-With: page\r\n";

const SMALL_RESPONSE: &str = "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
    Server: nginx\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n";

const LARGE_RESPONSE: &str = "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
    Server: nginx/1.24.0\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 1024\r\n\
    Connection: keep-alive\r\nVary: Accept-Encoding, Cookie\r\n\
    Last-Modified: Sun, 31 Dec 2023 23:00:00 GMT\r\nETag: \"5d8c72a5edda8\"\r\n\
    Cache-Control: private, max-age=0, must-revalidate\r\nExpires: 0\r\n\
    Set-Cookie: session=2f1d9c8e7b6a5f4e3d2c1b0a9f8e7d6c; Path=/; HttpOnly; SameSite=Lax\r\n\
    Set-Cookie: theme=dark; Path=/; Max-Age=31536000\r\nX-Frame-Options: DENY\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: same-origin\r\n\
    Strict-Transport-Security: max-age=63072000\r\nX-Request-Id: 7f3a9c81\r\n\
    Content-Security-Policy: default-src 'self'; img-src *; script-src 'self'\r\n\
    Accept-Ranges: bytes\r\nX-Runtime: 0.004211\r\n";

pub fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for (size, head) in [("4 fields", SMALL_REQUEST), ("20 fields", LARGE_REQUEST)] {
        let (wire, mut out) = (format!("{head}\r\n"), Buffer::default());
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(format!("request head of {size}"), |bencher| {
            bencher.iter(|| request(black_box(wire.as_bytes()), &mut out));
        });
    }
    for (size, head) in [("4 fields", SMALL_RESPONSE), ("20 fields", LARGE_RESPONSE)] {
        let (wire, mut out) = (format!("{head}\r\n"), Buffer::default());
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(format!("response head of {size}"), |bencher| {
            bencher.iter(|| response(black_box(wire.as_bytes()), &mut out));
        });
    }
    for chunk in [1024, 4 * 1024] {
        let mut from = Buffer::default();
        for _ in 0..BODY / chunk {
            from.push(format!("{chunk:x}\r\n{}\r\n", "b".repeat(chunk)).as_bytes());
        }
        from.push(b"0\r\n\r\n");
        from.retain();
        let mut to = Buffer::default();
        group.throughput(Throughput::Bytes(BODY as u64));
        group.bench_function(format!("16 KiB in chunks of {chunk}"), |bencher| {
            bencher.iter(|| body(black_box(&mut from), &mut to));
        });
    }
    group.finish();
}

/// From the bytes of a client to the bytes for an upstream.
fn request(wire: &[u8], out: &mut Buffer) {
    let mut search = Search::default();
    let len = search.end(wire, LIMITS).ok().flatten().expect("it is whole");
    let Ok(head) = head::request(&wire[..len], &search) else { panic!("it is good") };
    let rules = RequestRules {
        peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        trusted: false,
        via: true,
        upstream_host: false,
    };
    rewrite::request(&head, &rules, out);
    out.consume(black_box(out.unread()).len());
}

/// From the bytes of an upstream to the bytes for a client.
fn response(wire: &[u8], out: &mut Buffer) {
    let mut search = Search::default();
    let len = search.end(wire, LIMITS).ok().flatten().expect("it is whole");
    let head = head::response(&wire[..len], &search, Method::Get);
    let Ok(head) = head else { panic!("it is good") };
    let rules = ResponseRules {
        framing: head.response.framing,
        method: Method::Get,
        version: Version::Http11,
        persists: true,
        via: false,
    };
    rewrite::response(&head, &rules, out);
    out.consume(black_box(out.unread()).len());
}

/// Out of chunks and into chunks.
fn body(from: &mut Buffer, to: &mut Buffer) {
    let decoder = Decoder::new(Framing::Chunked, LIMITS.head, LIMITS.fields);
    let mut transfer = Transfer::new(decoder, Encoder::CHUNKED);
    assert_eq!(transfer.run(from, to, &TrailerRules::default()), Ok(Flow::Ended));
    from.rewind();
    to.consume(black_box(to.unread()).len());
}
