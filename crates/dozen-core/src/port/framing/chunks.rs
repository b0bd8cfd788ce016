//! A body in chunks, and the trailers behind it.

use super::head::{BARE_CR, BARE_LF, Broken, field, line};
use super::{Fault, Part};
use memchr::memchr2;

/// The extensions of all chunks of a body together.
const MAX_EXTENSIONS: usize = 4 * 1024;
/// All trailers together.
const MAX_TRAILERS: usize = 16 * 1024;

/// Headers that nobody may add behind a body: they frame, route or vouch for what was acted on already.
const NEVER: [&str; 24] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// Whether a header may stand behind a body.
pub fn may_trail(name: &[u8]) -> bool {
    let dashed = name.iter().map(|b| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() });
    !NEVER.iter().any(|never| never.len() == name.len() && never.bytes().eq(dashed.clone()))
}

#[derive(Debug, Default)]
pub(super) struct Chunks {
    place: Place,
    extensions: usize,
    trailers: usize,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Size { digits: u8, size: u64 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers,
}

impl Default for Place {
    fn default() -> Self {
        Self::Size { digits: 0, size: 0 }
    }
}

const SIZE: Fault = Fault::bad("a chunk's size is no plain hexadecimal number");

impl Chunks {
    /// Reads on: how much was read, and whether it was the last of the body. A fault comes with how much was read before it.
    pub(super) fn read<'b>(&mut self, bytes: &'b [u8], mut part: impl FnMut(Part<'b>)) -> Result<(usize, bool), (usize, Fault)> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            let fail = |fault| Err((at, fault));
            self.place = match self.place {
                Place::Data { left } => {
                    let there = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    part(Part::Data(&bytes[at..at + there]));
                    at += there;
                    match left - there as u64 {
                        0 => Place::DataCr,
                        left => Place::Data { left },
                    }
                }
                Place::Trailers => match self.trailer(&bytes[at..]) {
                    // The body is over at the empty line.
                    Ok(Some(2)) => return Ok((at + 2, true)),
                    Ok(Some(length)) => {
                        part(Part::Trailer(&bytes[at..at + length - 2]));
                        at += length;
                        Place::Trailers
                    }
                    // A trailer is read when it is whole.
                    Ok(None) => return Ok((at, false)),
                    Err(fault) => return fail(fault),
                },
                Place::Extension { size } => {
                    let rest = &bytes[at..];
                    let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    let room = MAX_EXTENSIONS - self.extensions;
                    let control = rest[..end].iter().position(|b| (*b < b' ' && *b != b'\t') || *b >= 0x7f);
                    match control {
                        Some(place) if place < room => return Err((at + place, Fault::bad("a chunk's extension has a strange character"))),
                        _ if end > room => return Err((at + room, Fault::bad("the extensions of chunks are too long"))),
                        _ => {}
                    }
                    self.extensions += end;
                    at += end;
                    match rest.get(end) {
                        None => Place::Extension { size },
                        Some(b'\r') => {
                            at += 1;
                            Place::SizeLf { size }
                        }
                        Some(_) => return Err((at, BARE_LF)),
                    }
                }
                place => {
                    let next = match (place, byte) {
                        (Place::Size { digits, size }, byte) if byte.is_ascii_hexdigit() => {
                            let digit = (byte as char).to_digit(16).unwrap_or(0);
                            match size.checked_mul(16).map(|s| s + u64::from(digit)) {
                                Some(size) if digits < 16 && i64::try_from(size).is_ok() => Place::Size { digits: digits + 1, size },
                                _ => return fail(SIZE),
                            }
                        }
                        (Place::Size { digits: 1.., size }, b';') => Place::Extension { size },
                        (Place::Size { digits: 1.., size }, b'\r') => Place::SizeLf { size },
                        (Place::SizeLf { size: 0 }, b'\n') => Place::Trailers,
                        (Place::SizeLf { size }, b'\n') => Place::Data { left: size },
                        (Place::DataCr, b'\r') => Place::DataLf,
                        (Place::DataLf, b'\n') => Place::default(),
                        (Place::Size { .. }, _) => return fail(SIZE),
                        (Place::SizeLf { .. }, _) => return fail(BARE_CR),
                        _ => return fail(Fault::bad("a chunk's data does not end where its size says")),
                    };
                    at += 1;
                    next
                }
            };
        }
        Ok((at, false))
    }

    /// The length of the next line, if it is whole.
    fn trailer(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        const LONG: Fault = Fault::bad("the trailers are too long");
        let found = line(bytes).map_err(|broken| match broken {
            Broken::Long => LONG,
            Broken::Cr => BARE_CR,
            Broken::Lf => BARE_LF,
        })?;
        let Some((line, length)) = found else { return Ok(None) };
        self.trailers += length;
        if self.trailers > MAX_TRAILERS {
            return Err(LONG);
        }
        if !line.is_empty() && !may_trail(field(line)?.name) {
            return Err(Fault::bad("a trailer has the name of a header that frames or routes"));
        }
        Ok(Some(length))
    }
}
