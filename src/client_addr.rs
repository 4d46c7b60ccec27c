//! Who a client is: the address that limits, logs and hashes go by.
//!
//! Anybody can write an `X-Forwarded-For` field, so it is believed only as far as it was written by
//! peers that the operator trusts: from the right, hop by hop. Not here: what is sent on in that
//! field (`session/`).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Entries of `X-Forwarded-For` that are looked at, from the right; no chain of proxies is longer.
pub const MAX_ENTRIES: usize = 32;

/// Whether `peer` is believed when it tells whom it forwards for.
pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|net| net.contains(&peer))
}

/// What counts as one client: an IPv4 address, or the /64 that a single IPv6 host may choose from.
/// No client has a multicast address, so ff00::/64 has room for IPv4.
pub fn key_of(client: IpAddr) -> u64 {
    const IPV4: u64 = 0xff00 << 48;
    match client.to_canonical() {
        IpAddr::V4(v4) => IPV4 | u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

/// The address of the client behind `peer`. `forwarded_for` are the values of the `X-Forwarded-For`
/// fields in order, each a list.
///
/// | peer      | the entries, from the right                | client                          |
/// |-----------|--------------------------------------------|---------------------------------|
/// | untrusted | whatever they are                          | the peer                        |
/// | trusted   | trusted ones, then one that is not         | that one                        |
/// | trusted   | trusted ones, then one that cannot be read | the last one that could be read |
/// | trusted   | trusted ones only, or none                 | the first one, or the peer      |
/// | trusted   | `MAX_ENTRIES` trusted ones, and more       | the last one that was looked at |
///
/// IPv4-mapped addresses are IPv4 addresses. Empty entries are skipped (RFC 9110 §5.6.1.2).
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &[IpNet],
) -> IpAddr {
    let mut nearest = peer.to_canonical();
    if !is_trusted(nearest, trusted) {
        return nearest;
    }
    let entries = forwarded_for.rev().flat_map(|value| value.rsplit(|&byte| byte == b','));
    let entries = entries.map(trim).filter(|entry| !entry.is_empty());
    for entry in entries.take(MAX_ENTRIES) {
        let Some(address) = parse(entry) else { break };
        nearest = address;
        if !is_trusted(nearest, trusted) {
            break;
        }
    }
    nearest
}

/// Without the white space that a list may have around its entries.
fn trim(entry: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(begin) = entry.iter().position(|byte| !is_space(byte)) else { return &[] };
    let end = entry.iter().rposition(|byte| !is_space(byte)).unwrap_or(begin);
    &entry[begin..=end]
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(bracketed)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Vec<IpNet> {
        ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()).into()
    }

    /// Fields are separated by `|`.
    fn client(peer: &str, fields: &[u8]) -> String {
        let fields: Vec<&[u8]> = fields.split(|&byte| byte == b'|').collect();
        client_address(peer.parse().unwrap(), fields.into_iter(), &trusted()).to_string()
    }

    #[test]
    fn a_client_is_the_last_address_that_somebody_trusted_tells() {
        for (peer, fields, expected) in [
            ("192.0.2.9", "192.0.2.1", "192.0.2.9"), // an untrusted peer is not asked
            ("127.0.0.1", "", "127.0.0.1"),
            ("127.0.0.1", "192.0.2.1", "192.0.2.1"),
            ("127.0.0.1", "192.0.2.1, 192.0.2.2", "192.0.2.2"), // what it was told, it did not see
            ("127.0.0.1", "192.0.2.1,10.0.0.5\t,  10.1.0.5 ", "192.0.2.1"),
            ("127.0.0.1", "192.0.2.1|192.0.2.2|10.0.0.5", "192.0.2.2"),
            ("127.0.0.1", "10.0.0.7,10.0.0.8", "10.0.0.7"), // all trusted: the first
            ("127.0.0.1", "192.0.2.1, unknown, 10.0.0.8", "10.0.0.8"),
            ("127.0.0.1", "192.0.2.1, unknown", "127.0.0.1"),
            ("127.0.0.1", "192.0.2.1, , ,|, ", "192.0.2.1"), // empty entries are none
            ("fd00::1", "2001:db8::1", "2001:db8::1"),
            ("::ffff:127.0.0.1", "192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.9", "192.0.2.1", "192.0.2.9"),
        ] {
            assert_eq!(client(peer, fields.as_bytes()), expected, "{fields:?} from {peer}");
        }
    }

    #[test]
    fn only_so_many_entries_are_looked_at() {
        let trusted_ones = |count: usize| {
            (1..=count)
                .map(|n| format!("10.0.{}.{}", n / 200, n % 200))
                .collect::<Vec<_>>()
                .join(",")
        };
        for (entries, expected) in [
            (format!("192.0.2.1,{}", trusted_ones(MAX_ENTRIES - 1)), "192.0.2.1"),
            (format!("192.0.2.1,{}", trusted_ones(MAX_ENTRIES)), "10.0.0.1"),
            (trusted_ones(4_000), "10.0.19.169"),
            (trusted_ones(4_000).replace(',', "|"), "10.0.19.169"),
            (format!("192.0.2.1{}", ",".repeat(4_000)), "192.0.2.1"),
        ] {
            assert_eq!(client("127.0.0.1", entries.as_bytes()), expected, "{entries:.60}");
        }
    }

    #[test]
    fn entries_may_have_ports_and_brackets() {
        for (entry, expected) in [
            ("192.0.2.1:567", "192.0.2.1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1"),
        ] {
            assert_eq!(client("127.0.0.1", entry.as_bytes()), expected, "{entry}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_guessed() {
        for entry in [
            &b"192.0.2"[..],
            b"192.0.2.1:",
            b"192.0.2.1:99999",
            b"192.0.2.1 192.0.2.2",
            b"192.0.2.256",
            b"[192.0.2.1]:80",
            b"[2001:db8::1",
            b"2001:db8::1]:80",
            b"\"192.0.2.1\"",
            b"\xff\xfe",
            b"_hidden",
        ] {
            assert_eq!(client("127.0.0.1", entry), "127.0.0.1", "{}", entry.escape_ascii());
        }
    }

    #[test]
    fn trust_goes_by_network_in_either_form() {
        for (peer, expected) in [
            ("127.9.9.9", true),
            ("::ffff:10.2.3.4", true),
            ("fd12::1", true),
            ("::1", false),
            ("11.0.0.1", false),
        ] {
            assert_eq!(is_trusted(peer.parse().unwrap(), &trusted()), expected, "{peer}");
        }
    }
}
