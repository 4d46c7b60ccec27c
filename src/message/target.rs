//! Request targets and hosts (RFC 9112 §3.2, RFC 3986 §3.2).
//!
//! Path and query are never looked into, let alone normalised. Not here: where a request is sent.

use std::net::Ipv6Addr;

use super::{Method, Reply, fields};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `/path?query`
    Origin(&'a [u8]),
    /// `http://authority/path?query`, which goes on as origin-form.
    Absolute {
        /// Host and port.
        authority: &'a [u8],
        /// Path and query; may be empty, or a query alone.
        path: &'a [u8],
    },
    /// `*`: the server as a whole.
    Asterisk,
    /// `host:port`, in a CONNECT, which is refused.
    Authority,
}

impl<'a> Target<'a> {
    /// The authority within the target.
    pub fn authority(&self) -> Option<&'a [u8]> {
        match self {
            Target::Absolute { authority, .. } => Some(authority),
            _ => None,
        }
    }

    /// The target as it goes to an upstream, in two pieces: origin-form, or `*` for OPTIONS of a
    /// whole server (RFC 9112 §3.2.4).
    pub fn forwarded(&self, method: Method) -> (&'static [u8], &'a [u8]) {
        match *self {
            Target::Origin(path) => (b"", path),
            Target::Absolute { path: b"", .. } if method == Method::Options => (b"*", b""),
            Target::Absolute { path, .. } if path.first() == Some(&b'/') => (b"", path),
            Target::Absolute { path, .. } => (b"/", path),
            Target::Asterisk | Target::Authority => (b"*", b""),
        }
    }
}

/// Reads a target.
pub fn read(target: &[u8], method: Method) -> Result<Target<'_>, Reply> {
    if target.is_empty() || !target.iter().all(|&b| b > b' ' && b != 0x7f) {
        return Err(Reply::bad("the target is empty, or has a space or a control character"));
    }
    match target {
        _ if method == Method::Connect => Ok(Target::Authority),
        [b'/', ..] => Ok(Target::Origin(target)),
        b"*" if method == Method::Options => Ok(Target::Asterisk),
        _ => absolute(target).ok_or(Reply::bad("the target is neither a path nor an http URI")),
    }
}

fn absolute(target: &[u8]) -> Option<Target<'_>> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    })?;
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.starts_with(b"#") {
        return None; // a fragment alone has no place in a target
    }
    (!authority.is_empty() && is_host(authority)).then_some(Target::Absolute { authority, path })
}

/// Whether it is a host with or without a port (RFC 9110 §7.2). An empty one is.
pub fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|&b| b == b']') else { return false };
            let address = std::str::from_utf8(&rest[..end]).ok();
            if address.is_none_or(|a| a.parse::<Ipv6Addr>().is_err()) {
                return false;
            }
            (&b""[..], &rest[end + 1..])
        }
        _ => value.split_at(value.iter().position(|&b| b == b':').unwrap_or(value.len())),
    };
    let port_is_good = match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => fields::number(digits).is_some_and(|n| n <= u16::MAX.into()),
        _ => false,
    };
    port_is_good && (host.is_empty() && (port.is_empty() || value[0] == b'[') || is_name(host))
}

/// reg-name (RFC 3986 §3.2.2), not empty; without a comma, which looks like a list of hosts.
fn is_name(host: &[u8]) -> bool {
    let mut rest = host;
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'%', [a, b, after @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => after,
            (
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+',
                _,
            )
            | (b';' | b'=', _) => after,
            (first, _) if first.is_ascii_alphanumeric() => after,
            _ => return false,
        };
    }
    !host.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for host in
            ["", "a", "a:80", "a:", "a_b.example:8080", "127.0.0.1", "[::1]", "[::1]:80", "a%41"]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "a b", "a,b", "a/b", "a@b", "a:b", "a:80:80", "a:65536", ":80", "[::1", "[x]",
            "[::1]x", "a%4", "a\\b", "a\x7f", "ä", "a#b", "a?b", "::1",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn targets() {
        let forwarded = |target: &'static str, method| {
            let target = read(target.as_bytes(), method).ok()?;
            let (a, b) = target.forwarded(method);
            Some([a, b].concat())
        };
        for (target, method, expected) in [
            ("/", Method::Get, Some("/")),
            ("/a/../b?c=%zz#d", Method::Get, Some("/a/../b?c=%zz#d")),
            ("//a", Method::Get, Some("//a")),
            ("http://a/b", Method::Get, Some("/b")),
            ("HTTPS://a:1?q", Method::Get, Some("/?q")),
            ("http://a", Method::Get, Some("/")),
            ("http://a", Method::Options, Some("*")),
            ("*", Method::Options, Some("*")),
            ("*", Method::Get, None),
            ("a", Method::Get, None),
            ("http://", Method::Get, None),
            ("http://a#b", Method::Get, None),
            ("http://u@a/", Method::Get, None),
            ("ftp://a/", Method::Get, None),
            ("/a\tb", Method::Get, None),
            ("/a\x7f", Method::Get, None),
            ("", Method::Get, None),
        ] {
            assert_eq!(forwarded(target, method), expected.map(|e| e.into()), "{target}");
        }
    }
}
