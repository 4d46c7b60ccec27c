//! A simple reader of requests that shares no code with balancebeam: httparse finds head and fields,
//! and the body is framed as RFC 9112 §6.3 says.
//!
//! It is as lenient as httparse is about lines (a bare LF, several empty lines) and as strict as the
//! RFC is about framing. Not here: limits, targets, anything about connections.

/// One request that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    /// The minor version: 0 or 1.
    pub version: u8,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Bytes of its head, and of all of it.
    pub head_len: usize,
    pub len: usize,
}

impl Request {
    /// The values of the fields of that name, in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| &v[..])
    }
}

/// What stands at the front of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read<T> {
    Whole(T),
    /// It is not whole.
    Partial,
    Refused(&'static str),
}

/// The requests that follow each other, and what comes behind them.
pub fn requests(bytes: &[u8]) -> (Vec<Request>, Read<()>) {
    let (mut all, mut rest) = (Vec::new(), bytes);
    loop {
        match request(rest) {
            Read::Whole(request) => {
                rest = &rest[request.len..];
                all.push(request);
            }
            Read::Partial => return (all, Read::Partial),
            Read::Refused(why) => return (all, Read::Refused(why)),
        }
    }
}

/// The request at the front of `bytes`.
pub fn request(bytes: &[u8]) -> Read<Request> {
    // httparse wants targets to be UTF-8, which no RFC does.
    let mut masked = bytes.to_vec();
    let start = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(0);
    for byte in masked[start..].iter_mut().take_while(|byte| **byte != b'\n') {
        *byte = if *byte >= 0x80 { b'x' } else { *byte };
    }
    let mut fields = [httparse::EMPTY_HEADER; 512];
    let mut head = httparse::Request::new(&mut fields);
    let head_len = match head.parse(&masked) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Read::Partial,
        Err(_) => return Read::Refused("httparse refuses the head"),
    };
    let (method, target) = (head.method.unwrap_or_default(), head.path.unwrap_or_default());
    let target_at = start + method.len() + 1;
    let mut request = Request {
        method: method.as_bytes().to_vec(),
        target: bytes[target_at..target_at + target.len()].to_vec(),
        version: head.version.unwrap_or_default(),
        fields: head.headers.iter().map(|f| (f.name.to_string(), f.value.to_vec())).collect(),
        body: Vec::new(),
        head_len,
        len: head_len,
    };
    let body = &bytes[head_len..];
    let framed = match framing(&request) {
        Ok(Framing::Length(len)) => match usize::try_from(len).ok().and_then(|n| body.get(..n)) {
            Some(body) => Read::Whole((body.to_vec(), body.len())),
            None => Read::Partial,
        },
        Ok(Framing::Chunked) => match chunked(body) {
            Read::Whole(Chunked { content, len, .. }) => Read::Whole((content, len)),
            Read::Partial => Read::Partial,
            Read::Refused(why) => Read::Refused(why),
        },
        Err(why) => Read::Refused(why),
    };
    match framed {
        Read::Whole((content, len)) => {
            request.body = content;
            request.len += len;
            Read::Whole(request)
        }
        Read::Partial => Read::Partial,
        Read::Refused(why) => Read::Refused(why),
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

/// RFC 9112 §6.3, for requests.
fn framing(request: &Request) -> Result<Framing, &'static str> {
    let list = |name| {
        let values: Vec<_> = request.values(name).map(String::from_utf8_lossy).collect();
        (!values.is_empty()).then(|| values.join(","))
    };
    match (list("transfer-encoding"), list("content-length")) {
        (Some(_), _) if request.version == 0 => Err("HTTP/1.0 with Transfer-Encoding"),
        (Some(_), Some(_)) => Err("both framings"),
        (Some(codings), None) if codings.trim().eq_ignore_ascii_case("chunked") => {
            Ok(Framing::Chunked)
        }
        (Some(_), None) => Err("another coding"),
        (None, None) => Ok(Framing::Length(0)),
        (None, Some(lengths)) => {
            let mut all = lengths.split(',').map(str::trim);
            let first = all.next().unwrap_or_default();
            let is_number = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
            match first.parse() {
                Ok(length) if is_number && all.all(|other| other == first) => {
                    Ok(Framing::Length(length))
                }
                _ => Err("Content-Length is not one number"),
            }
        }
    }
}

/// A chunked body that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunked {
    pub content: Vec<u8>,
    /// Name and value of each trailer field.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Bytes of the longest line that tells a size, and of the trailer section.
    pub longest_line: usize,
    pub trailer_len: usize,
    /// Bytes of all of it.
    pub len: usize,
}

/// The chunked body at the front of `bytes`.
pub fn chunked(bytes: &[u8]) -> Read<Chunked> {
    let mut body = Chunked {
        content: Vec::new(),
        trailers: Vec::new(),
        longest_line: 0,
        trailer_len: 0,
        len: 0,
    };
    loop {
        let rest = &bytes[body.len..];
        let (line, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Read::Partial,
            Err(_) => return Read::Refused("httparse refuses a chunk size"),
        };
        body.longest_line = body.longest_line.max(line);
        body.len += line;
        if size == 0 {
            break;
        }
        let rest = &bytes[body.len..];
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= rest.len()) else {
            return Read::Partial;
        };
        match &rest[size..] {
            [b'\r', b'\n', ..] => (),
            [] | [b'\r'] => return Read::Partial,
            _ => return Read::Refused("no line end behind a chunk"),
        }
        body.content.extend_from_slice(&rest[..size]);
        body.len += size + 2;
    }
    let mut fields = [httparse::EMPTY_HEADER; 512];
    match httparse::parse_headers(&bytes[body.len..], &mut fields) {
        Ok(httparse::Status::Complete((len, fields))) => {
            body.trailers = fields.iter().map(|f| (f.name.to_string(), f.value.to_vec())).collect();
            body.trailer_len = len;
            body.len += len;
            Read::Whole(body)
        }
        Ok(httparse::Status::Partial) => Read::Partial,
        Err(_) => Read::Refused("httparse refuses a trailer"),
    }
}
