//! What must hold of the framing of requests: whatever was cleared is read alike by a reader that was written apart from it and trusts
//! nothing, and how the bytes are cut changes nothing.

use dozen_core::port::framing::Framing;

/// A request that was cleared, as the plain reader reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// The target, byte by byte.
    pub target: Vec<u8>,
    /// Names in lower case, and values without the blanks around them.
    pub headers: Vec<(String, Vec<u8>)>,
    /// As much of it as was cleared.
    pub body: Vec<u8>,
    /// Whether that is all.
    pub whole: bool,
}

/// Reads what was cleared. Panics where it is not as strict as everything that is cleared must be.
pub fn requests(mut bytes: &[u8]) -> Vec<Request> {
    let mut all = Vec::new();
    loop {
        bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
        if bytes.is_empty() {
            return all;
        }
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head is cleared whole");
        let (head, rest) = (&bytes[..end], &bytes[end + 4..]);
        let mut lines = head.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
        assert!(head.iter().all(|b| !matches!(*b, 0..=8 | 11 | 12 | 14..=31 | 127)), "a control character");
        let crs = head.iter().filter(|b| **b == b'\r').count();
        assert!(
            crs == head.iter().filter(|b| **b == b'\n').count() && crs == head.windows(2).filter(|w| w == b"\r\n").count(),
            "a bare CR or LF"
        );
        let line = lines.next().expect("a first line");
        let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let [method, target, version @ (b"HTTP/1.1" | b"HTTP/1.0")] = words[..] else { panic!("no request line: {line:?}") };
        assert!(!method.is_empty() && !target.is_empty() && !target.contains(&b'#'));
        let headers: Vec<(String, Vec<u8>)> = lines
            .map(|line| {
                let colon = line.iter().position(|b| *b == b':').expect("a colon");
                let name = std::str::from_utf8(&line[..colon]).expect("ASCII").to_ascii_lowercase();
                assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&b)), "{name:?}");
                (name, line[colon + 1..].trim_ascii().to_vec())
            })
            .collect();
        let values = |wanted: &str| headers.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value).collect::<Vec<_>>();
        let hosts = values("host").len();
        assert!(hosts == 1 || (hosts == 0 && version == b"HTTP/1.0"), "{hosts} hosts");
        let (mut body, whole, left) = (Vec::new(), true, rest);
        let (whole, left) = match (values("content-length").as_slice(), values("transfer-encoding").as_slice()) {
            ([], []) => (whole, left),
            ([length], []) => {
                assert!(length.iter().all(u8::is_ascii_digit));
                let length: usize = std::str::from_utf8(length).expect("ASCII").parse().expect("a length");
                let there = length.min(left.len());
                body.extend_from_slice(&left[..there]);
                (there == length, &left[there..])
            }
            ([], [coding]) => {
                assert!(coding.eq_ignore_ascii_case(b"chunked") && version == b"HTTP/1.1");
                chunks(left, &mut body).map_or((false, &[][..]), |left| (true, left))
            }
            both => panic!("{both:?}"),
        };
        all.push(Request { method: String::from_utf8(method.to_vec()).expect("ASCII"), target: target.to_vec(), headers, body, whole });
        bytes = left;
    }
}

/// Reads chunks and trailers; `None` where they are cut short, else what comes after them.
fn chunks<'b>(mut bytes: &'b [u8], body: &mut Vec<u8>) -> Option<&'b [u8]> {
    let line = |bytes: &'b [u8]| {
        let end = bytes.iter().position(|b| *b == b'\n')?;
        let line = bytes[..end].strip_suffix(b"\r").expect("CR before LF");
        assert!(!line.contains(&b'\r'), "a bare CR");
        Some((line, &bytes[end + 1..]))
    };
    loop {
        let (size, rest) = line(bytes)?;
        let size = std::str::from_utf8(size.split(|b| *b == b';').next()?).expect("ASCII");
        assert!(!size.is_empty() && size.len() <= 16 && size.bytes().all(|b| b.is_ascii_hexdigit()), "{size:?}");
        let size = usize::from_str_radix(size, 16).expect("a size");
        bytes = rest;
        if size == 0 {
            loop {
                let (trailer, rest) = line(bytes)?;
                bytes = rest;
                if trailer.is_empty() {
                    return Some(bytes);
                }
                assert!(trailer.contains(&b':') && !trailer.starts_with(b" ") && !trailer.starts_with(b"\t"));
            }
        }
        body.extend_from_slice(&bytes[..size.min(bytes.len())]);
        let end = bytes.get(size..).filter(|end| end.len() >= 2)?;
        assert_eq!(&end[..2], b"\r\n");
        bytes = &end[2..];
    }
}

/// How much was cleared, the status of a fault (0 is none), and how many heads.
pub type Outcome = (usize, u16, u64);

/// Reads the bytes of one connection as far as they are cleared; after so many of them, `cut` more come.
pub fn read(bytes: &[u8], mut cut: impl FnMut(usize) -> usize) -> Outcome {
    let (mut framing, mut begin, mut end) = (Framing::default(), 0, 0);
    loop {
        let rest = &bytes[begin..end];
        let step = if framing.in_body() {
            framing.body(rest, |_| ()).map(|(read, over)| (read, over || read > 0))
        } else if rest.is_empty() {
            Ok((0, false))
        } else {
            framing.head(rest).map(|length| (length.unwrap_or(0), length.is_some())).map_err(|fault| {
                let about = framing.about(rest);
                assert!(!fault.why.is_empty() && about.method.len() <= rest.len());
                (0, fault)
            })
        };
        match step {
            Ok((read, true)) => {
                assert!(read <= rest.len(), "more was read than there was");
                begin += read;
            }
            Ok((_, false)) if end == bytes.len() => return (begin, 0, framing.heads()),
            Ok((_, false)) => end = bytes.len().min(end + cut(end).max(1)),
            Err((read, fault)) => return (begin + read, fault.status, framing.heads()),
        }
    }
}

/// The bytes of one connection, in whatever pieces they come.
pub fn framing(data: &[u8]) {
    let whole = read(data, |_| data.len());
    let seed = data.iter().fold(7_usize, |sum, b| sum.wrapping_mul(31).wrapping_add(usize::from(*b)));
    // A body that breaks is cleared up to where it does, in pieces and as a whole.
    assert_eq!(read(data, |_| 1), whole, "byte by byte");
    assert_eq!(read(data, |at| (seed ^ at.wrapping_mul(2_654_435_761)) % 97), whole, "in pieces");
    let (cleared, status, heads) = whole;
    assert!(matches!(status, 0 | 400 | 405 | 414 | 431 | 501 | 505), "{status}");
    let read = requests(&data[..cleared]);
    assert_eq!(read.len() as u64, heads, "{read:?}");
    assert!(read.iter().rev().skip(1).all(|r| r.whole), "one that is not whole is followed by another");
}
