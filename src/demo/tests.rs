use super::*;

fn connect(manner: usize) -> (Echo, BufReader<TcpStream>) {
    let echo = Echo::start(MANNERS[manner]).unwrap();
    let stream = TcpStream::connect(echo.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (echo, BufReader::new(stream))
}

/// Sends `request` and returns head and body of the answer; an empty one is a connection broken
/// off.
fn exchange(wire: &mut BufReader<TcpStream>, request: &str) -> String {
    wire.get_mut().write_all(request.as_bytes()).unwrap();
    let Some(head) = Head::read(wire).unwrap() else { return String::new() };
    let length = head.field("content-length").unwrap().parse().unwrap();
    let mut body = String::new();
    wire.take(length).read_to_string(&mut body).unwrap();
    assert_eq!(body.len() as u64, length);
    head.0 + &body
}

#[test]
fn what_reached_it_is_told_on_one_connection() {
    let (_echo, mut wire) = connect(0);
    let get = exchange(&mut wire, "GET /a HTTP/1.1\r\nHost: x\r\nVia: 1.1 y\r\n\r\n");
    assert!(get.contains("swift answers") && get.contains("GET /a HTTP/1.1\nHost: x\nVia: 1.1 y"));
    let post = exchange(&mut wire, "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
    assert!(post.contains("and 5 bytes of body"), "{post}");
    let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                   a;x=y\r\n0123456789\r\n1\r\n!\r\n0\r\nT: v\r\n\r\n";
    let put = exchange(&mut wire, chunked);
    assert!(put.contains("and 11 bytes of body"), "{put}");
    let last = exchange(&mut wire, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(last.contains("Connection: close\r\n"), "{last}");
    assert!(Head::read(&mut wire).unwrap().is_none());
}

#[test]
fn an_expectation_is_met() {
    let (_echo, mut wire) = connect(0);
    let head = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    wire.get_mut().write_all(head.as_bytes()).unwrap();
    assert_eq!(Head::read(&mut wire).unwrap().unwrap().line(), "HTTP/1.1 100 Continue");
    assert!(exchange(&mut wire, "hi").contains("and 2 bytes of body"));
}

#[test]
fn only_a_request_that_may_be_sent_twice_is_broken_off() {
    let (echo, mut wire) = connect(2);
    let get = "GET / HTTP/1.1\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n.";
    let probe = "GET /health HTTP/1.1\r\n\r\n";
    for request in [get, get, probe, get, post, probe, get, get, get] {
        assert!(!exchange(&mut wire, request).is_empty(), "{request}");
    }
    assert_eq!(exchange(&mut wire, get), "", "the eighth request is broken off");
    let mut next = BufReader::new(TcpStream::connect(echo.address).unwrap());
    assert!(!exchange(&mut next, get).is_empty());
}

/// More connections than threads: those that are kept must not keep the others out.
#[test]
fn idle_connections_do_not_hold_all_threads() {
    let (echo, _wire) = connect(0);
    let mut kept = Vec::new();
    for _ in 0..3 * THREADS {
        let stream = TcpStream::connect(echo.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut wire = BufReader::new(stream);
        assert!(!exchange(&mut wire, "GET / HTTP/1.1\r\n\r\n").is_empty());
        kept.push(wire);
    }
}
