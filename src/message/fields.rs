//! Field lines: their grammar, the names that mean something here, and where they stand in a head.
//!
//! Not here: what the fields of a request or a response say together (`head.rs`, `framing.rs`).

use std::cell::RefCell;
use std::cmp::Ordering;

use memchr::memchr;

use super::fault::Fault;
use super::{Version, look_at};

/// The names that make a difference to an intermediary. Every one of them is about framing, routing
/// or this hop alone, so none of them may stand in a trailer section (RFC 9110 §6.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the field of that name")]
pub enum Name {
    Other,
    Connection,
    ContentLength,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    MaxForwards,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    /// Any other that begins with `X-Forwarded-`, or with `_` for a `-` of that; not one name alone.
    XForwardedOther,
}

impl Name {
    /// Which one it is, in any case of letters.
    pub fn of(name: &[u8]) -> Name {
        look_at(name);
        let (text, known): (&[u8], Name) = match (name.len(), name[0] | 0x20) {
            (2, b't') => (b"te", Name::Te),
            (3, b'v') => (b"via", Name::Via),
            (4, b'h') => (b"host", Name::Host),
            (6, b'e') => (b"expect", Name::Expect),
            (7, b'u') => (b"upgrade", Name::Upgrade),
            (7, b't') => (b"trailer", Name::Trailer),
            (9, b'f') => (b"forwarded", Name::Forwarded),
            (10, b'c') => (b"connection", Name::Connection),
            (10, b'k') => (b"keep-alive", Name::KeepAlive),
            (12, b'm') => (b"max-forwards", Name::MaxForwards),
            (14, b'c') => (b"content-length", Name::ContentLength),
            (14, b'h') => (b"http2-settings", Name::Http2Settings),
            (15, b'x') => (b"x-forwarded-for", Name::XForwardedFor),
            (16, b'p') => (b"proxy-connection", Name::ProxyConnection),
            (16, b'x') => (b"x-forwarded-host", Name::XForwardedHost),
            (17, b't') => (b"transfer-encoding", Name::TransferEncoding),
            (17, b'x') => (b"x-forwarded-proto", Name::XForwardedProto),
            (18, b'p') => (b"proxy-authenticate", Name::ProxyAuthenticate),
            (19, b'p') => (b"proxy-authorization", Name::ProxyAuthorization),
            _ => return Name::of_unknown(name),
        };
        if name.eq_ignore_ascii_case(text) { known } else { Name::of_unknown(name) }
    }

    /// A server may read `_` as `-`, so what looks like a known name with `_` belongs to the family.
    fn of_unknown(name: &[u8]) -> Name {
        const FAMILY: &[u8] = b"x-forwarded-";
        let is_of_family = name.len() >= FAMILY.len()
            && name.iter().zip(FAMILY).all(|(byte, family)| match byte {
                b'_' => *family == b'-',
                byte => byte.to_ascii_lowercase() == *family,
            });
        if is_of_family { Name::XForwardedOther } else { Name::Other }
    }

    /// Whether it is one name, and not any of many.
    fn is_known(self) -> bool {
        !matches!(self, Name::Other | Name::XForwardedOther)
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// Options of `Connection` that are no known names; a head with more of them is refused. The work of
/// looking for each name among them is bounded by it.
pub const MAX_UNKNOWN_OPTIONS: usize = 32;

/// Where one field stands in its head, in bytes from the head's beginning.
#[derive(Clone, Copy)]
struct Place {
    name: Name,
    is_hop_by_hop: bool,
    start: u16,
    colon: u16,
    value: u16,
    end: u16,
}

/// One field, borrowed from its head.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Which one.
    pub name: Name,
    /// Whether a `Connection` field names it (RFC 9110 §7.6.1).
    pub is_hop_by_hop: bool,
    /// The name as it came.
    pub name_bytes: &'a [u8],
    /// The value without white space around it.
    pub value: &'a [u8],
    /// Name, colon and value as they came, without the line end.
    pub line: &'a [u8],
}

/// Memory that is used again for the next head.
struct Places(Vec<Place>);

impl Places {
    fn new() -> Self {
        Places(SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let mut places = std::mem::take(&mut self.0);
        places.clear();
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < MOST_SCRATCH {
                scratch.push(places);
            }
        });
    }
}

/// Lists of places that a thread keeps for the next head; no head is read while another one is.
const MOST_SCRATCH: usize = 2;

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<Place>>> = const { RefCell::new(Vec::new()) };
}

/// The most fields that a head can be allowed to have.
pub const MAX_FIELDS: usize = 256;
/// Fields that most heads have at most: less memory is prepared for them.
const FEW_FIELDS: usize = 24;

/// The fields of a head, in order.
pub struct Fields<'a> {
    head: &'a [u8],
    places: Places,
    /// One bit a known name that is there.
    seen: u32,
    /// What the `Connection` fields say.
    options: ConnectionOptions,
}

/// What the `Connection` fields of a head ask for (RFC 9110 §7.6.1), read once.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionOptions {
    close: bool,
    /// One bit a known name that is an option.
    known: u32,
    /// Options that are no known names.
    unknown: usize,
}

impl ConnectionOptions {
    /// Whether `name` is one of them.
    pub fn name(self, name: Name) -> bool {
        self.known & name.bit() != 0
    }

    /// Whether the connection can be used again (RFC 9112 §9.3).
    pub fn keep_alive(self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.name(Name::KeepAlive))
    }

    /// Whether `name` is `close`, and that is one of them.
    pub fn closes(self, name: &[u8]) -> bool {
        self.close && name.eq_ignore_ascii_case(b"close")
    }

    fn read<'a>(options: impl Iterator<Item = &'a [u8]>) -> Result<Self, &'static str> {
        let mut read = ConnectionOptions::default();
        for option in options {
            if !is_token(option) {
                return Err("a Connection option is not a token");
            }
            match Name::of(option) {
                Name::Host | Name::ContentLength | Name::TransferEncoding => {
                    return Err("a Connection field names a field that framing or routing needs");
                }
                name if name.is_known() => read.known |= name.bit(),
                _ if option.eq_ignore_ascii_case(b"close") => read.close = true,
                _ if read.unknown == MAX_UNKNOWN_OPTIONS => {
                    return Err("the Connection fields have more than 32 unknown options");
                }
                _ => read.unknown += 1,
            }
        }
        Ok(read)
    }
}

impl<'a> Fields<'a> {
    /// Reads the `count` field lines from `from` to the empty line that ends `head`. Every line end in
    /// `head` is already known to be CRLF.
    ///
    /// `httparse` finds names and values; what it lets pass between them is checked here.
    pub fn read(head: &'a [u8], from: usize, count: usize) -> Result<Self, Fault> {
        let lines = &head[from..];
        look_at(lines);
        if count <= FEW_FIELDS {
            return Fields::parse(head, from, &mut [httparse::EMPTY_HEADER; FEW_FIELDS]);
        }
        Fields::parse(head, from, &mut [httparse::EMPTY_HEADER; MAX_FIELDS])
    }

    fn parse(
        head: &'a [u8],
        from: usize,
        room: &mut [httparse::Header<'a>],
    ) -> Result<Self, Fault> {
        let parsed = match httparse::parse_headers(&head[from..], room) {
            Ok(httparse::Status::Complete((_, parsed))) => parsed,
            Ok(httparse::Status::Partial) | Err(_) => return Err(first_fault(&head[from..])),
        };
        let mut fields =
            Fields { head, places: Places::new(), seen: 0, options: Default::default() };
        let mut start = from;
        for header in parsed {
            let place = place_of(head, start, header).ok_or_else(|| first_fault(&head[from..]))?;
            fields.seen |= place.name.bit();
            start =
                after_line(head, place.end as usize).ok_or_else(|| first_fault(&head[from..]))?;
            fields.places.0.push(place);
        }
        if head.get(start..) != Some(b"\r\n") {
            return Err(first_fault(&head[from..]));
        }
        if fields.has(Name::Connection) {
            fields.read_options().map_err(Fault::Syntax)?;
        }
        Ok(fields)
    }

    /// Reads the `Connection` fields, and marks the fields that they name.
    fn read_options(&mut self) -> Result<(), &'static str> {
        self.options = ConnectionOptions::read(self.values(Name::Connection).flat_map(elements))?;
        let options = self.options;
        let head = self.head;
        for place in &mut self.places.0 {
            let name = &head[place.start as usize..place.colon as usize];
            place.is_hop_by_hop = options.name(place.name) || options.closes(name);
        }
        if options.unknown > 0 {
            self.mark_unknown_options();
        }
        Ok(())
    }

    /// Marks the fields of unknown names that are options, in work that grows with the head's size.
    fn mark_unknown_options(&mut self) {
        let mut options: [&[u8]; MAX_UNKNOWN_OPTIONS] = [b""; MAX_UNKNOWN_OPTIONS];
        let options = &mut options[..self.options.unknown];
        options.iter_mut().zip(self.unknown_options()).for_each(|(to, option)| *to = option);
        options.sort_unstable_by(|a, b| compare_names(a, b));
        let head = self.head;
        for place in self.places.0.iter_mut().filter(|place| !place.name.is_known()) {
            let name = &head[place.start as usize..place.colon as usize];
            let found = options.binary_search_by(|option| compare_names(option, name));
            place.is_hop_by_hop |= found.is_ok();
        }
    }

    /// What the `Connection` fields ask for.
    pub fn options(&self) -> ConnectionOptions {
        self.options
    }

    /// The options of `Connection` that are no known names, in order; at most `MAX_UNKNOWN_OPTIONS`.
    pub fn unknown_options(&self) -> impl Iterator<Item = &'a [u8]> {
        let options = self.values(Name::Connection).flat_map(elements);
        let is_unknown =
            |option: &&[u8]| !Name::of(option).is_known() && !option.eq_ignore_ascii_case(b"close");
        options.filter(is_unknown).take(self.options.unknown)
    }

    /// Whether a field of that name is there.
    pub fn has(&self, name: Name) -> bool {
        self.seen & name.bit() != 0
    }

    /// All fields in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Field<'a>> {
        let head = self.head;
        self.places.0.iter().map(move |place| {
            let [start, colon] = [place.start as usize, place.colon as usize];
            let [value, end] = [place.value as usize, place.end as usize];
            Field {
                name: place.name,
                is_hop_by_hop: place.is_hop_by_hop,
                name_bytes: &head[start..colon],
                value: &head[value..end],
                line: &head[start..end],
            }
        })
    }

    /// The values of the fields of that name, in order.
    pub fn values(&self, name: Name) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let count = if self.has(name) { self.places.0.len() } else { 0 };
        let head = self.head;
        self.places.0[..count]
            .iter()
            .filter(move |place| place.name == name)
            .map(move |place| &head[place.value as usize..place.end as usize])
    }

    /// The index of the last field of that name.
    pub fn last(&self, name: Name) -> Option<usize> {
        self.places.0.iter().rposition(|place| place.name == name)
    }

    /// Whether a field of that known name is there that no `Connection` field names.
    pub fn has_end_to_end(&self, name: Name) -> bool {
        self.has(name) && !self.options.name(name)
    }
}

/// Where a field stands whose line begins at `start`. `None`: something stands where a strict reader
/// expects the name, the colon, or white space alone.
fn place_of(head: &[u8], start: usize, header: &httparse::Header<'_>) -> Option<Place> {
    let name = header.name.as_bytes();
    let colon = start + name.len();
    if head.get(start..colon) != Some(name) || head.get(colon) != Some(&b':') {
        return None;
    }
    let blanks = head[colon + 1..].iter().take_while(|b| is_blank(**b)).count();
    let value = colon + 1 + blanks;
    let end = value + header.value.len();
    if head.get(value..end) != Some(header.value) {
        return None;
    }
    // `line` of a field without a value is the whole line.
    Some(Place {
        name: Name::of(name),
        is_hop_by_hop: false,
        start: start as u16,
        colon: colon as u16,
        value: value as u16,
        end: end as u16,
    })
}

/// Where the next line begins, if nothing but white space follows `end` on its line.
fn after_line(head: &[u8], end: usize) -> Option<usize> {
    let blanks = head.get(end..)?.iter().take_while(|b| is_blank(**b)).count();
    head[end + blanks..].starts_with(b"\r\n").then_some(end + blanks + 2)
}

/// What is wrong with the first field line that is.
fn first_fault(lines: &[u8]) -> Fault {
    let lines = lines.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let faults =
        lines.take_while(|line| !line.is_empty()).filter_map(|line| field_line(line).err());
    Fault::Syntax(faults.into_iter().next().unwrap_or("a field line cannot be read"))
}

/// An order of names in which those that differ in case alone are equal.
pub fn compare_names(a: &[u8], b: &[u8]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| {
        look_at(a);
        a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
    })
}

/// Reads one field line without its line end (RFC 9112 §5): the index of the colon, and where the
/// value stands without the white space around it.
pub fn field_line(line: &[u8]) -> Result<(usize, std::ops::Range<usize>), &'static str> {
    look_at(line);
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err("a line begins with white space (obsolete line folding)");
    }
    let colon = memchr(b':', line).ok_or("a field line has no colon")?;
    if !is_token(&line[..colon]) {
        return Err("a field name is empty, or has a space or another forbidden character");
    }
    let mut value = colon + 1..line.len();
    if !line[value.clone()].iter().all(|&b| VALUE[b as usize]) {
        return Err("a field value has a control character");
    }
    while value.start < value.end && is_blank(line[value.start]) {
        value.start += 1;
    }
    while value.start < value.end && is_blank(line[value.end - 1]) {
        value.end -= 1;
    }
    Ok((colon, value))
}

/// The elements of a comma-separated list, empty ones left out (RFC 9110 §5.6.1).
pub fn elements(list: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    look_at(list);
    list.split(|&b| b == b',').map(trim).filter(|element| !element.is_empty())
}

/// Without spaces and tabs around it.
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_blank(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_blank(*last)
    {
        bytes = rest;
    }
    bytes
}

/// Whether it is a token (RFC 9110 §5.6.2): not empty, and of token characters only.
pub fn is_token(bytes: &[u8]) -> bool {
    look_at(bytes);
    !bytes.is_empty() && bytes.iter().all(|&b| TOKEN[b as usize])
}

/// Whether a byte may stand in a field value: visible, space, tab, or 0x80–0xFF (RFC 9110 §5.5).
pub fn is_value_byte(byte: u8) -> bool {
    VALUE[byte as usize]
}

/// Reads digits only, no sign, no white space, within a `u64` (RFC 9110 §8.6).
pub fn number(digits: &[u8]) -> Option<u64> {
    look_at(digits);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, &b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < 128 {
        let byte = b as u8;
        table[b] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        b += 1;
    }
    table
};

static VALUE: [bool; 256] = {
    let mut table = [true; 256];
    let mut b = 0;
    while b < 32 {
        table[b] = b == 9;
        b += 1;
    }
    table[127] = false;
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_line_is_a_token_a_colon_and_a_value() {
        for (line, value) in [
            (&b"A:b"[..], &b"b"[..]),
            (b"A: \t b c \t", b"b c"),
            (b"A:", b""),
            (b"A:  ", b""),
            (b"a_b!: \xff:x", b"\xff:x"),
        ] {
            let (_, range) = field_line(line).unwrap();
            assert_eq!(&line[range], value);
        }
        for line in [
            &b""[..],
            b"A",
            b": b",
            b"A : b",
            b" A: b",
            b"\tA: b",
            b"A\0: b",
            b"A: b\0",
            b"A: \rb",
            b"A: b\x7f",
            b"A: b\x01",
            b"A(: b",
            b"\xc3: b",
        ] {
            assert!(field_line(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn known_names_are_found_in_any_case() {
        for (name, known) in [
            (&b"Host"[..], Name::Host),
            (b"CONTENT-LENGTH", Name::ContentLength),
            (b"transfer-Encoding", Name::TransferEncoding),
            (b"te", Name::Te),
            (b"HTTP2-Settings", Name::Http2Settings),
            (b"x-forwarded-for", Name::XForwardedFor),
            (b"Hosts", Name::Other),
            (b"Most", Name::Other),
            (b"X-Forwarded-Ssl", Name::XForwardedOther),
            (b"x-forwarded-", Name::XForwardedOther),
            (b"x_forwarded-for", Name::XForwardedOther),
            (b"X-FORWARDED_HOST", Name::XForwardedOther),
            (b"x-forwarded-proto-", Name::XForwardedOther),
            (b"x-forwarded", Name::Other),
            (b"x-forwardedxfor", Name::Other),
            (b"x-_orwarded-for", Name::Other),
        ] {
            assert_eq!(Name::of(name), known);
        }
    }

    #[test]
    fn lists_have_elements() {
        let got: Vec<_> = elements(b" a,\tb ,, c,").collect();
        assert_eq!(got, [b"a", b"b", b"c"]);
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"007"), Some(7));
        for text in [&b""[..], b"18446744073709551616", b"+5", b"-5", b"0x5", b"5 5", b"5,5"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }
}
