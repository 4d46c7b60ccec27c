//! An upstream as it is written: `host:port`, what else is refused, and how a refusal shows it.
//!
//! Not here: lists of upstreams (`cli/`), resolving names (`resolve.rs`).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::BadValue;

/// An upstream's name and port as given: `10.0.0.7:8080`, `[::1]:8080`, `app.example:80`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    host: String,
    port: u16,
}

impl Authority {
    /// The host: a name, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, if the host is one and needs no resolving.
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Authority { host: address.ip().to_string(), port: address.port() }
    }
}

impl TryFrom<&str> for Authority {
    type Error = BadValue;

    fn try_from(text: &str) -> Result<Self, BadValue> {
        text.parse()
    }
}

impl TryFrom<String> for Authority {
    type Error = BadValue;

    fn try_from(text: String) -> Result<Self, BadValue> {
        text.parse()
    }
}

impl TryFrom<&String> for Authority {
    type Error = BadValue;

    fn try_from(text: &String) -> Result<Self, BadValue> {
        text.parse()
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Authority {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        Authority::read(text).map_err(|remedy| BadValue::new(&masked(text), remedy))
    }
}

impl Authority {
    /// The error is the remedy.
    fn read(text: &str) -> Result<Self, &'static str> {
        let given = without_scheme(text)?;
        if given.contains('@') {
            return Err("an upstream has no user name or password; give what follows the @ alone");
        }
        if given.contains(['/', '?', '#']) {
            return Err("an upstream has no path and no query; give host:port or http://host:port");
        }
        if given.contains(',') {
            return Err("this is a list; give one host:port at a time");
        }
        let (host, port) = given
            .rsplit_once(':')
            .filter(|_| !given.ends_with(']'))
            .ok_or("add a port, such as 127.0.0.1:8080 or [::1]:8080")?;
        let port = match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => return Err("the port must be a number from 1 to 65535"),
        };
        Ok(Authority { host: bare_host(host)?.to_string(), port })
    }
}

/// What is left of an upstream without `http://`. The error is the remedy.
fn without_scheme(text: &str) -> Result<&str, &'static str> {
    if text.trim().is_empty() {
        return Err("an entry is empty; leave it out or give host:port, such as 127.0.0.1:8080");
    }
    if text.contains(char::is_whitespace) {
        return Err("a host has no spaces; give one host:port");
    }
    if text
        .strip_prefix("unix:")
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    {
        return Err("Unix sockets are not supported; give host:port, such as 127.0.0.1:8080");
    }
    match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            Ok(rest.strip_suffix('/').unwrap_or(rest))
        }
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            Err("TLS to upstreams comes with a later version; give http://host:port")
        }
        Some(_) => Err("the scheme can only be http://; give http://host:port"),
        None => Ok(text),
    }
}

/// A name, or an address without its brackets. The error is the remedy.
fn bare_host(host: &str) -> Result<&str, &'static str> {
    let is_of_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => Ok(v6),
        Some(_) => Err("only an IPv6 address stands in brackets"),
        None if host.contains(':') => Err("put an IPv6 address in brackets: [::1]:8080"),
        None if !host.is_empty() && host.bytes().all(is_of_name) => Ok(host),
        None => Err("the host must be a name or an IP address"),
    }
}

/// `text` as an error may show it: what stands before an `@` may be a password.
pub fn masked(text: &str) -> String {
    let Some((secret, rest)) = text.rsplit_once('@') else { return text.to_string() };
    let is_scheme = |scheme: &str| scheme.bytes().all(|b| b.is_ascii_alphanumeric());
    match secret.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => format!("{scheme}://***@{rest}"),
        _ => format!("***@{rest}"),
    }
}
