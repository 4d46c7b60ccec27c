//! What a flag's value may look like: upstreams, times, sizes, whole numbers, words, networks.
//!
//! Every parser refuses with "`value`: what would be accepted", for `errors.rs` to put the flag
//! before.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

pub use balancebeam::config::Size;
use balancebeam::config::validate::{LONGEST, check_net, check_probe_host, check_probe_path};
use balancebeam::config::{Authority, BadValue, masked};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ipnet::{IpNet, Ipv4Net};

/// The longest time, as it is typed.
const YEAR: &str = "8760h";

/// An upstream; one of several, where commas are between them, perhaps with spaces round them.
pub fn upstream(entry: &str) -> Result<Authority, String> {
    let text = entry.trim();
    if text == "backup" || text.starts_with("weight=") {
        return Err(format!(
            "`{text}`: weights and backups come with the configuration file, in a later version; \
             give only host:port, such as 127.0.0.1:8080"
        ));
    }
    text.parse().map_err(|error: BadValue| {
        let is_list = text.contains(char::is_whitespace);
        format!("{error}{}", if is_list { ", or several with a comma between them" } else { "" })
    })
}

/// A duration that is typed with a unit or in seconds, and shown in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

/// Seconds of a deadline: more than none.
pub fn seconds(text: &str) -> Result<Seconds, String> {
    duration(text).filter(|duration| !duration.is_zero()).map(Seconds).ok_or_else(|| {
        format!("`{text}`: give a time above 0, at most {YEAR}, such as 500ms, 10s or 1m; a bare number is seconds")
    })
}

/// Seconds between two events, or 0 for none at all.
pub fn seconds_or_off(text: &str) -> Result<Seconds, String> {
    duration(text).map(Seconds).ok_or_else(|| {
        format!("`{text}`: give a time, at most {YEAR}, such as 500ms, 10s or 1m; a bare number is seconds, 0 turns the checks off")
    })
}

/// The units of a time, each with how many make a second, and how many seconds it has. `ms` is
/// before the units that it ends with.
const UNITS: [(&str, f64, f64); 4] =
    [("ms", 1000.0, 1.0), ("s", 1.0, 1.0), ("m", 1.0, 60.0), ("h", 1.0, 3600.0)];

/// Digits with at most one point: no sign, no exponent, no `inf`, which `f64` would take. Perhaps a
/// unit behind them.
fn duration(text: &str) -> Option<Duration> {
    let (number, divisor, factor) = UNITS
        .iter()
        .find_map(|(unit, divisor, factor)| Some((text.strip_suffix(unit)?, *divisor, *factor)))
        .unwrap_or((text, 1.0, 1.0));
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number / divisor * factor)
        .ok()
        .filter(|duration| *duration <= LONGEST)
}

/// A size within `range` of bytes.
pub fn size(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Size, String> + Clone + Send + Sync {
    move |text| {
        Size::parse(text).filter(|size| range.contains(&size.0)).ok_or_else(|| {
            let (low, high) = (Size(*range.start()), Size(*range.end()));
            format!("`{text}`: give bytes from {low} to {high}; K, M and G may follow the number")
        })
    }
}

/// A whole number within `range`.
pub fn whole<T>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync
where
    T: TryFrom<u64>,
{
    move |text| {
        digits_only(text)
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                format!("`{text}`: give a whole number from {low} to {high}")
            })
    }
}

/// A whole number of percent within `range`.
pub fn percent(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync {
    let number = whole(range);
    move |text| {
        let hint = if text.ends_with('%') { "; leave out the %" } else { "" };
        number(text).map_err(|error| format!("{error}{hint}"))
    }
}

/// `str::parse` would take a plus sign.
fn digits_only(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The words that a flag takes, each with its meaning.
pub type Words<T> = &'static [(&'static str, T)];

/// One of `words`.
pub fn word<T>(words: Words<T>) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let names = words.iter().map(|(name, _)| *name);
    PossibleValuesParser::new(names).try_map(move |given| {
        let into_config = words.iter().find(|(name, _)| *name == given);
        into_config.map(|(_, meaning)| *meaning).ok_or_else(|| format!("`{given}`: not known"))
    })
}

/// How `meaning` is typed: how a default is shown.
pub fn name_of<T: PartialEq>(words: Words<T>, meaning: T) -> &'static str {
    words.iter().find(|(_, known)| *known == meaning).map_or("", |(name, _)| *name)
}

/// An address to listen on.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        let shown = masked(text);
        format!("`{shown}`: give an IP address and a port, such as 0.0.0.0:1100 or [::1]:1100")
    })
}

/// A path to probe, as it will stand in a request line.
pub fn path(text: &str) -> Result<String, String> {
    check_probe_path(text).map(|()| text.to_string()).map_err(|error| error.to_string())
}

/// A `Host` to ask for, as it will stand in a request.
pub fn host(text: &str) -> Result<String, String> {
    check_probe_host(text).map(|()| text.to_string()).map_err(|error| error.to_string())
}

/// Who is trusted to have told the truth about the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trust {
    Nobody,
    Net(IpNet),
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trust::Nobody => write!(f, "none"),
            Trust::Net(net) => write!(f, "{net}"),
        }
    }
}

/// Networks, addresses, or `none`, as they stand behind one flag.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustList(pub Vec<Trust>);

impl From<Vec<IpNet>> for TrustList {
    fn from(nets: Vec<IpNet>) -> Self {
        TrustList(nets.into_iter().map(Trust::Net).collect())
    }
}

impl fmt::Display for TrustList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, trust) in self.0.iter().enumerate() {
            write!(f, "{}{trust}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// A list with commas or white space between its entries.
pub fn trust(text: &str) -> Result<TrustList, String> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let mut words = part.split_whitespace().peekable();
        if words.peek().is_none() {
            list.push(trust_one(part)?);
        }
        for word in words {
            list.push(trust_one(word)?);
        }
    }
    Ok(TrustList(list))
}

/// A network, one address, or `none`.
fn trust_one(text: &str) -> Result<Trust, String> {
    if text == "none" {
        return Ok(Trust::Nobody);
    }
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let net = net.map_err(|_| {
        format!("`{text}`: give a network or an address, such as 10.0.0.0/8 or ::1, or none")
    })?;
    check_net(&net).map_err(|error| error.to_string())?;
    Ok(Trust::Net(unmapped(net)))
}

/// An IPv4-mapped network is the IPv4 network: peers are compared by their IPv4 address.
fn unmapped(net: IpNet) -> IpNet {
    const MAPPED_PREFIX: u8 = 96;
    let IpNet::V6(v6) = net else { return net };
    let bits = v6.prefix_len().checked_sub(MAPPED_PREFIX);
    let v4 = v6.addr().to_ipv4_mapped().zip(bits);
    v4.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok()).map_or(v6.into(), IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        for bytes in [0, 1, 1023, 1024, 1025, 32 << 10, 1 << 20, 3 << 30, u64::MAX] {
            assert_eq!(Size::parse(&Size(bytes).to_string()), Some(Size(bytes)));
        }
        for (text, bytes) in [("1k", 1024), ("2KiB", 2048), ("1m", 1 << 20), ("1GIB", 1 << 30)] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
        }
        for text in ["", "K", "iB", "1iB", "1KB", "-1", "+1", "1.5K", "0x1", "1 K", "é"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
        for millis in [1, 3, 500, 1000, 31_536_000_000] {
            let name_of = seconds(&format!("{millis}ms")).unwrap();
            assert_eq!(name_of.0, Duration::from_millis(millis));
            let shown = Seconds(Duration::from_millis(millis));
            assert_eq!(seconds(&shown.to_string()), Ok(shown));
        }
    }

    #[test]
    fn networks_are_compared_as_what_they_are() {
        for (text, shown) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::/0", "::/0"),
            ("none", "none"),
            ("10.0.0.1 , ::1\t10.0.0.2", "10.0.0.1/32,::1/128,10.0.0.2/32"),
            ("127.0.0.0/8 ::1/128", "127.0.0.0/8,::1/128"),
        ] {
            assert_eq!(trust(text).unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "",
            " ",
            ",",
            "::1,",
            "::1,,::2",
            "all",
            "10.0.0.0/33",
            "10.1.2.3/8",
            "::ffff:10.0.0.1/104",
            "10.0.0",
            "::/129",
            "host",
            "NONE",
        ] {
            assert!(trust(text).is_err(), "{text}");
        }
    }
}
