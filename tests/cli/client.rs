//! The clients of these tests: ureq where a connection does not matter, one plain socket where it does.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// Longer than anything here may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A ureq agent. `keep_alive: false` makes every request on a connection of its own.
pub fn agent(keep_alive: bool) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_idle_connections(if keep_alive { 8 } else { 0 })
        .timeout_global(Some(4 * PATIENCE))
        .build()
        .new_agent()
}

/// One GET on a connection of its own: status and body.
pub fn get(url: &str) -> (u16, String) {
    let mut response = agent(false).get(url).call().unwrap_or_else(|e| panic!("GET {url}: {e}"));
    let body = response.body_mut().read_to_string().unwrap_or_else(|e| panic!("GET {url}: {e}"));
    (response.status().as_u16(), body)
}

/// One POST on a connection of its own: status and body.
pub fn post(url: &str, body: &str) -> (u16, String) {
    let mut response =
        agent(false).post(url).send(body).unwrap_or_else(|e| panic!("POST {url}: {e}"));
    let body = response.body_mut().read_to_string().unwrap_or_else(|e| panic!("POST {url}: {e}"));
    (response.status().as_u16(), body)
}

/// One connection, for what depends on which connection it is and on how it ends.
pub struct Connection {
    stream: TcpStream,
    /// Read, but not yet part of an answer.
    ahead: Vec<u8>,
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// How a connection ended instead of answering.
#[derive(Debug)]
pub enum Lost {
    /// Not one byte of the answer had come.
    BeforeAnyByte,
    /// That many bytes of the answer had come.
    Cut(usize),
}

impl Connection {
    pub fn open(to: SocketAddr) -> std::io::Result<Self> {
        Connection::ready(TcpStream::connect(to)?)
    }

    /// One that comes from this address.
    pub fn open_from(from: IpAddr, to: SocketAddr) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect(&to.into())?;
        Connection::ready(socket.into())
    }

    fn ready(stream: TcpStream) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, ahead: Vec::new() })
    }

    pub fn send(&mut self, text: &str) -> std::io::Result<()> {
        self.stream.write_all(text.as_bytes())
    }

    /// Sends a GET and waits for its answer.
    pub fn get(&mut self, target: &str) -> Result<Answer, Lost> {
        self.exchange(&get_head(target))
    }

    /// Sends a POST and waits for its answer.
    pub fn post(&mut self, target: &str, body: &str) -> Result<Answer, Lost> {
        let len = body.len();
        let head = format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n");
        self.exchange(&(head + body))
    }

    fn exchange(&mut self, request: &str) -> Result<Answer, Lost> {
        // A write to a connection that was closed fails now or lets the read below find its end.
        let _ = self.send(request);
        self.answer()
    }

    /// Reads one whole answer: with `Content-Length`, or without a body.
    pub fn answer(&mut self) -> Result<Answer, Lost> {
        let (mut answer, head_len) = loop {
            if let Some(parsed) = parse_head(&self.ahead) {
                break parsed;
            }
            self.read_some()?;
        };
        let len = answer.field("content-length").map_or(0, |len| len.parse().expect("a length"));
        while self.ahead.len() < head_len + len {
            self.read_some()?;
        }
        answer.body = self.ahead.drain(..head_len + len).skip(head_len).collect();
        Ok(answer)
    }

    fn read_some(&mut self) -> Result<(), Lost> {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(n) if n > 0 => {
                self.ahead.extend_from_slice(&buffer[..n]);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("no answer and no end within {PATIENCE:?}")
            }
            _ if self.ahead.is_empty() => Err(Lost::BeforeAnyByte),
            _ => Err(Lost::Cut(self.ahead.len())),
        }
    }

    /// Whether the other side has neither sent anything more nor ended the connection.
    pub fn is_open_and_quiet(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        self.ahead.is_empty()
            && seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

impl Answer {
    /// The value of a field, whatever the case of its name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let (_, value) = self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the connection ends after this answer.
    pub fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The head of a GET as [`Connection::get`] sends it.
pub fn get_head(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

fn parse_head(bytes: &[u8]) -> Option<(Answer, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(len) = response.parse(bytes).expect("a well-formed head") else {
        return None;
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let fields = response.headers.iter().map(|f| (f.name.to_string(), text(f.value))).collect();
    Some((Answer { status: response.code?, fields, body: Vec::new() }, len))
}
