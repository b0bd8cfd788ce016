//! A request's head: the request line, the headers, and what they say of the body.

use super::{About, Fault, MAX_HEAD, MAX_HEADERS, MAX_LINE, Place};
use memchr::{memchr, memrchr};
use std::ops::Range;

/// `Connection` names so many headers at most: each of them is looked for among all. Clients name two or three.
const MAX_NAMED: usize = 100;

/// As much of a head as has been read.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the first line begins that was not whole yet.
    at: usize,
    /// Whether an empty line came before the request line. One is let through: some clients end a body with it.
    blank: bool,
    begun: bool,
    whole: bool,
    old: bool,
    method: Range<usize>,
    target: Range<usize>,
    places: Vec<Place>,
    host: Option<Range<usize>>,
    length: Option<u64>,
    coding: Option<Coding>,
    upgrade: bool,
    connection: bool,
    /// Words of `Connection`.
    named: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// Another one before a final `chunked`.
    Unknown,
}

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunks,
}

impl Head {
    /// Reads on; `bytes` begin with the head's first byte. `None` if it is not whole, else its length.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<(usize, Body)>, Fault> {
        while let Some((line, length)) = line(&bytes[self.at..]).map_err(|e| self.line_fault(e))? {
            let begin = self.at;
            self.at += length;
            if !self.begun {
                if line.is_empty() {
                    if self.blank {
                        return Err(Fault::bad("empty lines stand before the request line"));
                    }
                    self.blank = true;
                    continue;
                }
                self.request_line(line, begin)?;
                self.begun = true;
            } else if line.is_empty() {
                let body = self.body(bytes)?;
                self.whole = true;
                return Ok(Some((self.at, body)));
            } else {
                self.header(line, begin)?;
            }
            if self.at > MAX_HEAD {
                return Err(Fault { status: 431, why: "the head is too long" });
            }
        }
        Ok(None)
    }

    fn line_fault(&self, broken: Broken) -> Fault {
        match broken {
            Broken::Long if self.begun => Fault { status: 431, why: "a header is too long" },
            Broken::Long => Fault { status: 414, why: "the request line is too long" },
            Broken::Cr => BARE_CR,
            Broken::Lf => BARE_LF,
        }
    }

    fn request_line(&mut self, line: &[u8], begin: usize) -> Result<(), Fault> {
        const PARTS: Fault = Fault::bad("the request line is not a method, a target and a version, with one blank between");
        let (Some(first), Some(last)) = (memchr(b' ', line), memrchr(b' ', line)) else { return Err(PARTS) };
        let method = &line[..first];
        if first == last || method.is_empty() {
            return Err(PARTS);
        }
        if !method.iter().all(|b| TOKEN[usize::from(*b)] != 0) {
            return Err(Fault::bad("the method is no word"));
        }
        (self.method, self.target) = (begin..begin + first, begin + first + 1..begin + last);
        let target = &line[first + 1..last];
        if !is_plain(target) {
            return Err(Fault::bad("the target has characters that none may have"));
        }
        self.old = match &line[last + 1..] {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
                return Err(Fault { status: 505, why: "only HTTP/1.1 and HTTP/1.0 are spoken here" });
            }
            _ => return Err(PARTS),
        };
        match (method, target) {
            (b"CONNECT", _) => Err(Fault { status: 405, why: "this is no proxy" }),
            (_, [b'/', ..]) | (b"OPTIONS", b"*") => Ok(()),
            _ if authority(target).is_some() => Ok(()),
            _ => Err(Fault::bad("the target is neither a path nor the address of a page")),
        }
    }

    fn header(&mut self, line: &[u8], begin: usize) -> Result<(), Fault> {
        let Field { name, value, underscored } = field(line)?;
        if self.places.len() == MAX_HEADERS {
            return Err(Fault { status: 431, why: "too many headers" });
        }
        let from = begin + line.len() - line[name.len() + 1..].trim_ascii_start().len();
        // A head is far shorter than what these hold, and a line than what the name's length holds.
        let place = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.places.push(Place {
            begin: place(begin),
            name: u16::try_from(name.len()).unwrap_or(u16::MAX),
            value: place(from),
            end: place(from + value.len()),
        });
        // Few names matter here, and their lengths tell most others apart.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                once(&mut self.host, from..from + value.len(), "there are two Host headers")?;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.named += 1 + memchr::memchr_iter(b',', value).count();
                if self.named > MAX_NAMED {
                    return Err(Fault::bad("Connection names too many headers"));
                }
                self.connection |= value.windows(7).any(|w| w.eq_ignore_ascii_case(b"upgrade"));
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                once(&mut self.length, number(value)?, "there are two Content-Length headers")?;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                once(&mut self.coding, coding(value)?, "there are two Transfer-Encoding headers")?;
            }
            // Servers that hand headers on as variables write both alike.
            _ if underscored && means_ours(name) => {
                return Err(Fault::bad("a header has the name of one that routes or frames, but for its underscores"));
            }
            _ => {}
        }
        Ok(())
    }

    /// What only all headers together say.
    fn body(&self, bytes: &[u8]) -> Result<Body, Fault> {
        if self.host.is_none() && !self.old {
            return Err(Fault::bad("there is no Host header"));
        }
        if let (Some(host), Some(authority)) = (&self.host, authority(&bytes[self.target.clone()]))
            && !bytes[host.clone()].eq_ignore_ascii_case(authority)
        {
            return Err(Fault::bad("the target and the Host header name two hosts"));
        }
        match (self.coding, self.length) {
            (None, None | Some(0)) => Ok(Body::None),
            (None, Some(length)) => Ok(Body::Length(length)),
            (Some(_), Some(_)) => Err(Fault::bad("there are both Content-Length and Transfer-Encoding")),
            (Some(_), None) if self.old => Err(Fault::bad("HTTP/1.0 has no Transfer-Encoding")),
            (Some(Coding::Unknown), None) => Err(Fault { status: 501, why: "no transfer coding is known but chunked" }),
            (Some(Coding::Chunked), None) => Ok(Body::Chunks),
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// For the next one.
    pub(super) fn clear(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.clear();
        *self = Self { places, ..Self::default() };
    }

    pub(super) fn is_old(&self) -> bool {
        self.old
    }

    pub(super) fn line(&self) -> (Range<usize>, Range<usize>) {
        (self.method.clone(), self.target.clone())
    }

    pub(super) fn places(&mut self, places: &mut Vec<Place>) {
        places.clear();
        std::mem::swap(&mut self.places, places);
    }

    pub(super) fn wants_turn(&self) -> bool {
        self.upgrade && self.connection && !self.old
    }

    pub(super) fn about(&self, bytes: &[u8]) -> About {
        let text = |range: Range<usize>| bytes.get(range).map_or_else(String::new, |b| String::from_utf8_lossy(b).into_owned());
        let host = self.host.clone().map_or_else(
            // The fault may stand before the host.
            || {
                let lines = bytes.split(|b| *b == b'\n').skip(1);
                let host = |line: &[u8]| {
                    let (name, value) = line.split_at_checked(5)?;
                    name.eq_ignore_ascii_case(b"host:").then(|| String::from_utf8_lossy(value.trim_ascii()).into_owned())
                };
                lines.take(MAX_HEADERS).find_map(host).unwrap_or_default()
            },
            text,
        );
        About { method: text(self.method.clone()), target: text(self.target.clone()), host }
    }
}

pub(super) const BARE_CR: Fault = Fault::bad("a CR stands without its LF");
pub(super) const BARE_LF: Fault = Fault::bad("an LF stands without its CR");

/// Why there is no line.
pub(super) enum Broken {
    Long,
    Cr,
    Lf,
}

/// The first line without its end, and its length with it. What no further byte could mend is said before the line ends.
pub(super) fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, Broken> {
    let window = bytes.get(..MAX_LINE + 2).unwrap_or(bytes);
    match memchr(b'\n', window) {
        Some(end) => match window[..end].strip_suffix(b"\r") {
            Some(line) => Ok(Some((line, end + 1))),
            None => Err(Broken::Lf),
        },
        None => match memchr(b'\r', window) {
            Some(cr) if cr + 1 < window.len() => Err(Broken::Cr),
            _ if window.len() > MAX_LINE + 1 => Err(Broken::Long),
            _ => Ok(None),
        },
    }
}

/// The characters of a method or a header's name; 2 is the underscore.
const TOKEN: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        let other = matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'`' | b'|' | b'~');
        if byte.is_ascii_alphanumeric() || other {
            table[byte as usize] = 1;
        }
        byte += 1;
    }
    table[b'_' as usize] = 2;
    table
};

/// A header or a trailer, without its end of line.
pub(super) struct Field<'l> {
    pub(super) name: &'l [u8],
    pub(super) value: &'l [u8],
    /// Whether the name has underscores.
    underscored: bool,
}

pub(super) fn field(line: &[u8]) -> Result<Field<'_>, Fault> {
    let (mut end, mut kinds) = (0, 0);
    while let Some(kind) = line.get(end).map(|b| TOKEN[usize::from(*b)])
        && kind != 0
    {
        kinds |= kind;
        end += 1;
    }
    let (name, rest) = line.split_at(end);
    let Some(value) = rest.strip_prefix(b":").filter(|_| end > 0) else {
        return Err(match (name, rest) {
            (_, []) => Fault::bad("a header has no colon"),
            ([], [b':', ..]) => Fault::bad("a header has no name"),
            ([], [b' ' | b'\t', ..]) => Fault::bad("a header goes on in the next line, or begins with a blank"),
            (_, [b' ' | b'\t', ..]) => Fault::bad("a blank stands before a header's colon, or there is none"),
            _ => Fault::bad("a header's name has characters that none may have"),
        });
    };
    if has_control(value) {
        return Err(if memchr(b'\r', value).is_some() { BARE_CR } else { Fault::bad("a header has a control character") });
    }
    Ok(Field { name, value: value.trim_ascii(), underscored: kinds & 2 != 0 })
}

/// Whether there is a control character that is no tab. Looks at eight bytes at a time, and at each only where one of them may be one.
fn has_control(value: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x80 * ONES;
    let is_control = |b: &u8| (*b < b' ' && *b != b'\t') || *b == 0x7f;
    let (eights, rest) = value.as_chunks::<8>();
    let strange = |eight: &[u8; 8]| {
        let word = u64::from_le_bytes(*eight);
        let low = word.wrapping_sub(0x20 * ONES) & !word;
        let del = (word ^ (0x7f * ONES)).wrapping_sub(ONES) & !(word ^ (0x7f * ONES));
        (low | del) & TOPS != 0
    };
    eights.iter().any(|eight| strange(eight) && eight.iter().any(is_control)) || rest.iter().any(is_control)
}

/// The host and port of a target in absolute form.
pub(super) fn authority(target: &[u8]) -> Option<&[u8]> {
    let strip = |scheme: &[u8]| target.split_at_checked(scheme.len()).filter(|(s, _)| s.eq_ignore_ascii_case(scheme)).map(|(_, rest)| rest);
    let rest = strip(b"http://").or_else(|| strip(b"https://"))?;
    let authority = &rest[..memchr(b'/', rest).unwrap_or(rest.len())];
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    (!authority.is_empty() && authority.iter().all(plain)).then_some(authority)
}

/// Whether a target has only what readers of addresses let pass. What is not ASCII is to be UTF-8.
fn is_plain(target: &[u8]) -> bool {
    let (path, query) = target.split_at(memchr(b'?', target).unwrap_or(target.len()));
    let other = |b: &u8| *b <= b' ' || matches!(*b, b'#' | b'<' | b'>' | 0x7f);
    !path.iter().any(|b| other(b) || *b == b'`')
        && !query.iter().any(|b| other(b) || *b == b'"')
        && (target.is_ascii() || std::str::from_utf8(target).is_ok())
}

fn once<T>(slot: &mut Option<T>, value: T, twice: &'static str) -> Result<(), Fault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Fault::bad(twice)),
    }
}

fn number(value: &[u8]) -> Result<u64, Fault> {
    let plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit) && (value.len() == 1 || value[0] != b'0');
    let number = std::str::from_utf8(value).ok().filter(|_| plain).and_then(|v| v.parse::<u64>().ok());
    // Some readers keep it in a signed number.
    number.filter(|n| i64::try_from(*n).is_ok()).ok_or(Fault::bad("Content-Length is no plain number"))
}

fn coding(value: &[u8]) -> Result<Coding, Fault> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(Coding::Chunked);
    }
    let mut codings = value.split(|b| *b == b',').map(<[u8]>::trim_ascii).rev();
    let is_final = codings.next().is_some_and(|c| c.eq_ignore_ascii_case(b"chunked"));
    let other = |c: &[u8]| !c.is_empty() && !c.eq_ignore_ascii_case(b"chunked") && c.iter().all(|b| TOKEN[usize::from(*b)] != 0);
    match is_final && codings.all(other) {
        true => Ok(Coding::Unknown),
        false => Err(Fault::bad("Transfer-Encoding does not end with one chunked")),
    }
}

/// Whether a name with underscores stands for a header that frames a request, or that the router sets.
fn means_ours(name: &[u8]) -> bool {
    const OURS: [&[u8]; 8] = [
        b"content-length",
        b"transfer-encoding",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-forwarded-host",
        b"x-request-id",
        b"x-request-start",
    ];
    let same = |ours: &&[u8]| {
        ours.len() == name.len() && ours.iter().zip(name).all(|(o, n)| *o == n.to_ascii_lowercase() || (*o == b'-' && *n == b'_'))
    };
    OURS.iter().any(same)
}
