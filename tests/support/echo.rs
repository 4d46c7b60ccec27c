//! An upstream made of hyper, an HTTP server that shares no code with the balancer.
//!
//! | target | answer |
//! |---|---|
//! | `/pattern/N` | N bytes of the pattern, with `Content-Length` |
//! | `/chunked/N` | the same, chunked |
//! | `/verify` | the verdict over a body that should be the pattern |
//! | `/slow/MS`, then anything | waits that many milliseconds first |
//! | `/health` | 200, counted as a probe and not as a request |
//! | anything else | the body that came, or `METHOD target` when none came |
//!
//! Every answer tells what arrived: `seen-method`, `seen-target`, `seen-framing`, `seen-host`.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::pattern;

/// The path of the active checks in all tests.
pub const HEALTH: &str = "/health";

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// An upstream on a port of its own, which stays its own while it is down.
pub struct Echo {
    address: SocketAddr,
    /// Bound and never listening: connects are refused, and nobody else is given the port.
    _port: Socket,
    counts: Arc<Counts>,
    running: Option<Runtime>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    probes: AtomicUsize,
    waiting: AtomicUsize,
    first_probe: OnceLock<Instant>,
    is_failing: AtomicBool,
}

impl Echo {
    /// One that answers.
    pub fn start() -> Self {
        let mut echo = Echo::down();
        echo.revive();
        echo
    }

    /// One that refuses connections until it is revived.
    pub fn down() -> Self {
        let port = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = port.local_addr().unwrap().as_socket().unwrap();
        Echo { address, _port: port, counts: Arc::default(), running: None }
    }

    /// Listens (again) on the same port.
    pub fn revive(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let socket = bound(self.address);
        socket.listen(4096).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(socket.into()).unwrap()
        };
        runtime.spawn(accept(listener, self.counts.clone()));
        self.running = Some(runtime);
    }

    /// Closes the listener and every connection, as the end of a process does.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// From now on every request and every probe is answered 500, or no longer.
    pub fn fail(&self, failing: bool) {
        self.counts.is_failing.store(failing, Ordering::SeqCst);
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Heads received so far, without probes.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Requests for [`HEALTH`] so far.
    pub fn probes(&self) -> usize {
        self.counts.probes.load(Ordering::SeqCst)
    }

    /// Requests for `/slow` that wait now.
    pub fn waiting(&self) -> usize {
        self.counts.waiting.load(Ordering::SeqCst)
    }

    /// When the first probe came.
    pub fn first_probe(&self) -> Option<Instant> {
        self.counts.first_probe.get().copied()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.kill();
    }
}

fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    socket
}

async fn accept(listener: TcpListener, counts: Arc<Counts>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        counts.connections.fetch_add(1, Ordering::SeqCst);
        let counts = counts.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| answer(request, counts.clone()));
            // An error here is the other side's way to end a connection; the client's side judges.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, counts: Arc<Counts>) -> Result<Answer, hyper::Error> {
    if request.uri().path() == HEALTH {
        counts.first_probe.get_or_init(Instant::now);
        counts.probes.fetch_add(1, Ordering::SeqCst);
    } else {
        counts.requests.fetch_add(1, Ordering::SeqCst);
    }
    let seen = seen(&request);
    let mut answer = if counts.is_failing.load(Ordering::SeqCst) {
        text(StatusCode::INTERNAL_SERVER_ERROR, "failing on purpose")
    } else {
        body_for(request, counts).await?
    };
    answer.headers_mut().extend(seen);
    Ok(answer)
}

/// What arrived, as fields of the answer.
fn seen(request: &Request<Incoming>) -> hyper::HeaderMap {
    let headers = request.headers();
    let value = |text: &str| HeaderValue::from_str(text).unwrap();
    let absent = || HeaderValue::from_static("");
    let framing = match (headers.get(TRANSFER_ENCODING), headers.get(CONTENT_LENGTH)) {
        (Some(coding), None) => coding.clone(),
        (None, Some(_)) => HeaderValue::from_static("length"),
        (None, None) => HeaderValue::from_static("none"),
        (Some(_), Some(_)) => HeaderValue::from_static("both"),
    };
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    [
        ("seen-method", value(request.method().as_str())),
        ("seen-target", value(target)),
        ("seen-framing", framing),
        ("seen-host", headers.get(HOST).cloned().unwrap_or_else(absent)),
    ]
    .into_iter()
    .map(|(name, value)| (hyper::header::HeaderName::from_static(name), value))
    .collect()
}

async fn body_for(request: Request<Incoming>, counts: Arc<Counts>) -> Result<Answer, hyper::Error> {
    let path = request.uri().path().to_string();
    let mut parts = path.split('/').skip(1);
    let (what, number) = (parts.next().unwrap_or(""), parts.next().and_then(|n| n.parse().ok()));
    match (what, number) {
        ("pattern", Some(len)) => return Ok(stream(len, true)),
        ("chunked", Some(len)) => return Ok(stream(len, false)),
        ("verify", _) => {
            let mut check = pattern::Check::default();
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    check.take(&data);
                }
            }
            return Ok(text(StatusCode::OK, &check.verdict()));
        }
        ("slow", Some(milliseconds)) => {
            let _waiting = Waiting::begin(counts);
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        _ => (),
    }
    if request.body().is_end_stream() {
        Ok(text(StatusCode::OK, &format!("{} {}", request.method(), request.uri())))
    } else {
        Ok(Response::new(request.into_body().boxed()))
    }
}

/// Counts a waiting request until it is dropped, also when its connection ends meanwhile.
struct Waiting(Arc<Counts>);

impl Waiting {
    fn begin(counts: Arc<Counts>) -> Self {
        counts.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(counts)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn text(status: StatusCode, text: &str) -> Answer {
    let body = Full::new(Bytes::from(text.to_string()));
    let mut answer = Response::new(body.map_err(|never: Infallible| match never {}).boxed());
    *answer.status_mut() = status;
    answer
}

fn stream(len: u64, is_sized: bool) -> Answer {
    Response::new(BoxBody::new(Stream { position: 0, len, is_sized }))
}

/// The first `len` bytes of the pattern; hyper sends what has no known size as chunks.
struct Stream {
    position: u64,
    len: u64,
    is_sized: bool,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let piece = pattern::at(self.position, self.len - self.position);
        self.position += piece.len() as u64;
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_sized { SizeHint::with_exact(self.len) } else { SizeHint::default() }
    }
}
