//! The requests that hyper's server reads from some bytes, in memory and without a runtime.
//!
//! Not here: what its answers are; every request gets an empty 200.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;

/// Polls of a connection that never waits for anything: more means that it hangs.
const MOST_POLLS: usize = 100_000;

/// One request whose body hyper has read to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Vec<u8>,
    pub body: Vec<u8>,
}

/// All requests that are whole, and why there are no more: an error, or the end.
pub fn requests(bytes: &[u8]) -> (Vec<Request>, Result<(), hyper::Error>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let method = request.method().as_str().as_bytes().to_vec();
            // The connection tells the error of a body, too.
            if let Ok(body) = request.into_body().collect().await {
                let body = body.to_bytes().to_vec();
                seen.borrow_mut().push(Request { method, body });
            }
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    let wire = Wire { unread: bytes.to_vec(), at: 0 };
    let end = {
        // Its own limit is 100, and a request of so many leaves with those that we add.
        let connection =
            Builder::new().half_close(true).max_headers(300).serve_connection(wire, service);
        let mut connection = pin!(connection);
        let mut context = Context::from_waker(Waker::noop());
        let mut polls = 0;
        loop {
            match connection.as_mut().poll(&mut context) {
                Poll::Ready(end) => break end,
                Poll::Pending => polls += 1,
            }
            assert!(polls < MOST_POLLS, "hyper waits for something");
        }
    };
    (seen.take(), end)
}

/// Bytes that are all there, then an end; what is written is dropped.
struct Wire {
    unread: Vec<u8>,
    at: usize,
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.unread[self.at..];
        let len = rest.len().min(into.remaining());
        into.put_slice(&rest[..len]);
        self.at += len;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
