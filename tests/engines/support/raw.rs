//! One end of a TCP connection, byte for byte, and a strict reader of HTTP/1.1 messages that shares
//! nothing with the code under test.
//!
//! Texts are Latin-1: one `char` is one byte, so `"\u{ff}"` is the byte FF, and any bytes can be shown.
//! Whatever waits gives up after [`PATIENCE`].

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// One end of a connection: a client's, or an upstream's.
pub struct Conn {
    stream: Arc<TcpStream>,
    /// Read from the socket, not yet taken.
    buffer: Vec<u8>,
    /// Taken since the message began.
    wire: Vec<u8>,
}

/// How a connection ended, or that it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order: no more bytes will come.
    Fin,
    /// By a reset.
    Reset,
    /// Not at all: nothing came for as long as we were willing to wait.
    Silence,
}

/// A message that did not arrive whole.
pub struct Broken {
    /// What came of it.
    pub wire: String,
    /// Why no more came.
    pub end: End,
}

/// How the end of a body was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Empty,
    Length,
    Chunked,
    UntilClose,
}

/// A request or a response, as it was on the wire.
#[derive(Clone)]
pub struct Message {
    /// The request line or the status line.
    pub first: String,
    /// Names and values, in order.
    pub fields: Vec<(String, String)>,
    pub framing: Framing,
    pub body: String,
    pub trailers: Vec<(String, String)>,
    /// All of it.
    pub wire: String,
}

/// Takes connections one by one, in the thread of the test.
pub struct Listener {
    listener: TcpListener,
}

/// The text whose chars are these bytes.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// The bytes that are these chars.
pub fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a text of bytes")).collect()
}

impl Conn {
    /// Connects, as a client does.
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Conn {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("a connection");
        Conn::new(stream)
    }

    fn new(stream: TcpStream) -> Conn {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        Conn { stream: Arc::new(stream), buffer: Vec::new(), wire: Vec::new() }
    }

    /// The socket itself, for another thread; it stays open as long as one of them holds it.
    pub fn stream(&self) -> Arc<TcpStream> {
        self.stream.clone()
    }

    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.send_bytes(&bytes(text));
    }

    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        if let Err(error) = (&*self.stream).write_all(bytes) {
            panic!("cannot send: {error}");
        }
    }

    /// Each byte in a packet of its own, as far as the system lets it.
    #[track_caller]
    pub fn send_byte_by_byte(&mut self, text: &str) {
        for byte in bytes(text) {
            self.send_bytes(&[byte]);
        }
    }

    /// For when the other side may be gone; whether it was taken.
    pub fn try_send(&mut self, text: &str) -> bool {
        (&*self.stream).write_all(&bytes(text)).is_ok()
    }

    /// Ends our direction and leaves the other one open.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Makes the close a reset.
    pub fn close_by_reset(&self) {
        let socket = socket2::SockRef::from(&*self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Ends both directions at once, without an orderly end.
    pub fn reset(self) {
        self.close_by_reset();
    }

    /// Waits for more bytes until `deadline`.
    fn fill(&mut self, deadline: Instant) -> Result<(), End> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(End::Silence);
        }
        self.stream.set_read_timeout(Some(left)).expect("a read timeout");
        let mut chunk = [0; 64 * 1024];
        loop {
            match (&*self.stream).read(&mut chunk) {
                Ok(0) => return Err(End::Fin),
                Ok(n) => {
                    self.buffer.extend_from_slice(&chunk[..n]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Err(End::Silence);
                }
                Err(_) => return Err(End::Reset),
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let taken: Vec<u8> = self.buffer.drain(..count).collect();
        self.wire.extend_from_slice(&taken);
        taken
    }

    /// Exactly `count` bytes.
    fn try_exactly(&mut self, count: usize) -> Result<Vec<u8>, End> {
        let deadline = Instant::now() + PATIENCE;
        while self.buffer.len() < count {
            self.fill(deadline)?;
        }
        Ok(self.take(count))
    }

    /// One line, without its CRLF. A bare CR or LF never is acceptable in what we are sent.
    fn line(&mut self) -> Result<String, End> {
        let deadline = Instant::now() + PATIENCE;
        let mut from = 0;
        let lf = loop {
            match self.buffer[from..].iter().position(|&byte| byte == b'\n') {
                Some(at) => break from + at,
                None => from = self.buffer.len(),
            }
            self.fill(deadline)?;
        };
        let line = latin1(&self.take(lf + 1));
        let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("a bare LF after {line:?}"));
        assert!(!line.contains('\r'), "a bare CR in {line:?}");
        Ok(line.to_string())
    }

    fn section(&mut self) -> Result<Vec<(String, String)>, End> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) =
                line.split_once(':').unwrap_or_else(|| panic!("no colon in the line {line:?}"));
            let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            assert!(!name.is_empty() && name.bytes().all(is_token), "not a field name: {name:?}");
            let value = value.trim_matches([' ', '\t']);
            fields.push((name.to_string(), value.to_string()));
        }
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<Vec<(String, String)>, End> {
        loop {
            let line = self.line()?;
            assert!(
                !line.is_empty() && line.bytes().all(|b| b.is_ascii_hexdigit()),
                "not a bare chunk size: {line:?}"
            );
            let size = usize::from_str_radix(&line, 16).expect("a chunk size that fits");
            if size == 0 {
                return self.section();
            }
            body.extend(self.try_exactly(size)?);
            let end = self.line()?;
            assert!(end.is_empty(), "{end:?} after the data of a chunk");
        }
    }

    fn head(&mut self) -> Result<Message, End> {
        self.wire.clear();
        let first = self.line()?;
        let fields = self.section()?;
        let message = Message {
            first,
            fields,
            framing: Framing::Empty,
            body: String::new(),
            trailers: Vec::new(),
            wire: String::new(),
        };
        for name in ["Content-Length", "Transfer-Encoding"] {
            assert!(message.all(name).len() <= 1, "more than one {name} in {message:?}");
        }
        assert!(
            !(message.has("Content-Length") && message.has("Transfer-Encoding")),
            "both framings in {message:?}"
        );
        Ok(message)
    }

    fn body(&mut self, message: &mut Message, otherwise: Framing) -> Result<(), End> {
        let mut body = Vec::new();
        let result = if let Some(coding) = message.field("Transfer-Encoding") {
            assert_eq!(coding.to_ascii_lowercase(), "chunked", "{message:?}");
            message.framing = Framing::Chunked;
            self.chunks(&mut body).map(|trailers| message.trailers = trailers)
        } else if let Some(length) = message.field("Content-Length") {
            let digits = length.bytes().all(|b| b.is_ascii_digit());
            assert!(digits, "a length of {length:?}");
            let length = length.parse().expect("a length that fits");
            message.framing = Framing::Length;
            self.try_exactly(length).map(|all| body = all)
        } else if otherwise == Framing::UntilClose {
            message.framing = Framing::UntilClose;
            let (all, end) = self.rest_bytes();
            body = all;
            if end == End::Fin { Ok(()) } else { Err(end) }
        } else {
            Ok(())
        };
        message.body = latin1(&body);
        result
    }

    fn broken(&mut self, end: End) -> Broken {
        let left = self.buffer.len();
        self.take(left);
        Broken { wire: latin1(&self.wire), end }
    }

    /// A request that must be what a proxy may send: HTTP/1.1, exactly one `Host`.
    pub fn try_request(&mut self) -> Result<Message, Broken> {
        let mut message = self.request_head()?;
        match self.body(&mut message, Framing::Empty) {
            Ok(()) => Ok(self.whole(message)),
            Err(end) => Err(self.broken(end)),
        }
    }

    /// The head of a request; its body is left where it is.
    pub fn request_head(&mut self) -> Result<Message, Broken> {
        let message = self.head().map_err(|end| self.broken(end))?;
        assert!(message.first.ends_with(" HTTP/1.1"), "forwarded as {:?}", message.first);
        assert_eq!(message.all("Host").len(), 1, "not one Host in {message:?}");
        Ok(self.whole(message))
    }

    /// A response to a request of that method; an interim one (1xx) is one too.
    pub fn try_response_to(&mut self, method: &str) -> Result<Message, Broken> {
        let mut message = self.response_head()?;
        let status = message.status();
        let has_body = method != "HEAD" && status >= 200 && status != 204 && status != 304;
        if has_body && let Err(end) = self.body(&mut message, Framing::UntilClose) {
            return Err(self.broken(end));
        }
        Ok(self.whole(message))
    }

    /// The head of a response; its body is left where it is.
    pub fn response_head(&mut self) -> Result<Message, Broken> {
        let message = self.head().map_err(|end| self.broken(end))?;
        let status = message.status();
        if status < 200 || status == 204 {
            for name in ["Content-Length", "Transfer-Encoding"] {
                assert!(!message.has(name), "framing in {message:?}");
            }
        }
        Ok(self.whole(message))
    }

    fn whole(&self, mut message: Message) -> Message {
        message.wire = latin1(&self.wire);
        message
    }

    #[track_caller]
    pub fn request(&mut self) -> Message {
        self.try_request().unwrap_or_else(|broken| panic!("no whole request: {broken:?}"))
    }

    #[track_caller]
    pub fn response(&mut self) -> Message {
        self.response_to("GET")
    }

    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Message {
        self.try_response_to(method)
            .unwrap_or_else(|broken| panic!("no whole response: {broken:?}"))
    }

    /// The data of a chunked body that must come next.
    #[track_caller]
    pub fn chunked_body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        match self.chunks(&mut body) {
            Ok(_) => body,
            Err(end) => panic!("a body of {} bytes broke off: {end:?}", body.len()),
        }
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        self.response()
    }

    /// These bytes must come next.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        match self.try_exactly(text.chars().count()) {
            Ok(got) => assert_eq!(latin1(&got), text),
            Err(end) => panic!("waited for {text:?}, got {:?}, {end:?}", latin1(&self.buffer)),
        }
    }

    /// One chunk with this data must come next.
    #[track_caller]
    pub fn expect_chunk(&mut self, data: &str) {
        self.expect(&chunk(data));
    }

    /// What was read beyond what was asked for, before the bare stream is used.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Everything up to the end.
    pub fn rest(&mut self) -> (String, End) {
        let (rest, end) = self.rest_bytes();
        (latin1(&rest), end)
    }

    fn rest_bytes(&mut self) -> (Vec<u8>, End) {
        let end = loop {
            if let Err(end) = self.fill(Instant::now() + PATIENCE) {
                break end;
            }
        };
        let left = self.buffer.len();
        (self.take(left), end)
    }

    /// Nothing more must come but the end.
    #[track_caller]
    pub fn end(&mut self) -> End {
        let (rest, end) = self.rest();
        assert_eq!(rest, "", "bytes before the end ({end:?})");
        assert_ne!(end, End::Silence, "the connection stays open");
        end
    }

    /// Nothing more must come but an orderly end.
    #[track_caller]
    pub fn expect_fin(&mut self) {
        assert_eq!(self.end(), End::Fin);
    }

    /// Whether its end has not come yet.
    pub fn is_open(&mut self) -> bool {
        matches!(self.fill(Instant::now() + Duration::from_millis(1)), Ok(()) | Err(End::Silence))
    }

    /// Neither a byte nor an end may come for that long.
    #[track_caller]
    pub fn expect_quiet(&mut self, duration: Duration) {
        assert!(self.buffer.is_empty(), "there is {:?}", latin1(&self.buffer));
        if let Some(end) = self.fill(Instant::now() + duration).err() {
            assert_eq!(end, End::Silence, "the connection ended");
        }
        assert!(self.buffer.is_empty(), "there is {:?}", latin1(&self.buffer));
    }
}

impl Message {
    /// The number of a response.
    #[track_caller]
    pub fn status(&self) -> u16 {
        let known = ["HTTP/1.1 ", "HTTP/1.0 "].iter().find_map(|v| self.first.strip_prefix(v));
        let digits = known.and_then(|rest| rest.split(' ').next()).filter(|d| d.len() == 3);
        digits
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {:?}", self.first))
    }

    /// The middle of a request line.
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// The value of a field that stands there once or not at all.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times: {all:?}", all.len());
        all.first().copied()
    }

    /// The members of a list field, lower case, over all its lines.
    pub fn list(&self, name: &str) -> Vec<String> {
        let members = self.all(name).join(",").to_ascii_lowercase();
        members.split(',').map(|m| m.trim().to_string()).filter(|m| !m.is_empty()).collect()
    }

    /// Whether it says that the connection ends with it.
    pub fn says_close(&self) -> bool {
        self.list("Connection").iter().any(|option| option == "close")
    }
}

impl Listener {
    pub fn new() -> Listener {
        Listener::over(TcpListener::bind("127.0.0.1:0").expect("a listener"))
    }

    /// Takes connections from a socket that listens already.
    pub fn over(listener: TcpListener) -> Listener {
        listener.set_nonblocking(true).expect("a listener that does not block");
        Listener { listener }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    /// The next connection.
    #[track_caller]
    pub fn accept(&self) -> Conn {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(conn) = self.try_accept() {
                return conn;
            }
            assert!(Instant::now() < deadline, "nobody connects");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next connection, if one is waiting.
    pub fn try_accept(&self) -> Option<Conn> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).expect("a connection that blocks");
        Some(Conn::new(stream))
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after {:?}", self.end, shortened(&self.wire))
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} body {:?}", self.first, self.fields, shortened(&self.body))
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() > 1000 {
        format!("{} … ({} bytes)", text.chars().take(200).collect::<String>(), text.len())
    } else {
        text.to_string()
    }
}

/// One chunk of a chunked body.
pub fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.chars().count())
}
