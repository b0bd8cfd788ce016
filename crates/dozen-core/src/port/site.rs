//! What a static file server answers to a request: which file, which encoding of it, which part of it, and how long it may be kept.
//!
//! **Invariant:** no path leads out of the folder: what is asked of the disk has no `..`, no empty part and no hidden name.
//! **Invariant:** nothing is "not modified" that is not the same bytes.

use crate::dependencies::static_files::Settings;
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use std::ops::Range;

/// How a folder is served.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Paths that are not there are the app's own: they get `index.html`.
    pub spa: bool,
    /// What static.json says.
    pub settings: Settings,
}

/// Files at the root that speak to the platform and not to the site's visitors.
const PLATFORM: [&str; 7] = ["Aptfile", "Procfile", "app.json", "dozen.toml", "package.json", "package-lock.json", "static.json"];

/// The path of a request, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The parts between the slashes, decoded; none is empty.
    parts: Vec<String>,
    /// The same as they came.
    raw: Vec<String>,
    /// Whether it ends with a slash.
    folder: bool,
}

/// Why a path is not looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is no path of a URL, or wants to leave the folder: 400.
    Malformed,
    /// It is never served: 404, whether it is there or not.
    Hidden,
}

impl Place {
    /// Reads the path of a URL, without its query.
    pub fn read(path: &str) -> Result<Self, Refused> {
        let mut place = Self { parts: Vec::new(), raw: Vec::new(), folder: path.ends_with('/') };
        let Some(path) = path.strip_prefix('/') else { return Err(Refused::Malformed) };
        for raw in path.split('/').filter(|p| !p.is_empty()) {
            let escapes = raw.match_indices('%').map(|(at, _)| raw.as_bytes().get(at + 1..at + 3));
            let valid = |digits: Option<&[u8]>| digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit));
            if !escapes.into_iter().all(valid) {
                return Err(Refused::Malformed);
            }
            let part = percent_encoding::percent_decode_str(raw).decode_utf8().map_err(|_| Refused::Malformed)?;
            if part == "." || part == ".." || part.contains(['\0', '/', '\\']) {
                return Err(Refused::Malformed);
            }
            let first = place.parts.is_empty();
            if part.starts_with('.') && !(first && part == ".well-known") {
                return Err(Refused::Hidden);
            }
            place.parts.push(part.into_owned());
            place.raw.push(raw.to_owned());
        }
        match &place.parts[..] {
            [one] if PLATFORM.contains(&one.as_str()) => Err(Refused::Hidden),
            _ => Ok(place),
        }
    }

    /// Relative to the folder; empty for the folder itself.
    pub fn path(&self) -> String {
        self.parts.join("/")
    }

    /// As in a URL, from the root and without doubled slashes: a redirect to it stays on this host.
    fn url(&self) -> String {
        format!("/{}", self.raw.join("/"))
    }
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// Nothing, or nothing that is served.
    Nothing,
}

/// What a path is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This file, relative to the folder.
    File(String),
    /// Another URL.
    Redirect(String),
    /// Nothing; this page says so, where there is one.
    Missing(Option<String>),
}

/// Finds what a path means. `look` tells what lies at a relative path; `wants_page` is whether the client asks for HTML by name.
pub fn find(place: &Place, query: Option<&str>, wants_page: bool, rules: &Rules, look: &dyn Fn(&str) -> Kind) -> Found {
    let path = place.path();
    let is_file = |path: &str| look(path) == Kind::File;
    let index = if path.is_empty() { "index.html".to_owned() } else { format!("{path}/index.html") };
    match if path.is_empty() { Kind::Folder } else { look(&path) } {
        Kind::File if !place.folder => return Found::File(path),
        Kind::Folder if is_file(&index) => {
            if place.folder {
                return Found::File(index);
            }
            let query = query.map(|q| format!("?{q}")).unwrap_or_default();
            return Found::Redirect(format!("{}/{query}", place.url()));
        }
        _ => {}
    }
    if rules.settings.clean_urls && !place.folder && !path.is_empty() {
        let page = format!("{path}.html");
        if is_file(&page) {
            return Found::File(page);
        }
    }
    // A script that is missing must not be a page: the browser would read HTML as code and say something strange.
    let is_page = wants_page || place.parts.last().is_none_or(|name| !name.contains('.'));
    let url = format!("/{path}");
    let all = ("/**".to_owned(), "index.html".to_owned());
    let routes = rules.settings.routes.iter().chain(rules.spa.then_some(&all));
    for (_, file) in routes.filter(|(pattern, _)| matches(pattern, &url) && (is_page || pattern != "/**")) {
        if is_file(file) {
            return Found::File(file.clone());
        }
    }
    let page = rules.settings.error_page.as_deref().unwrap_or("404.html");
    Found::Missing(is_file(page).then(|| page.to_owned()))
}

/// Whether a pattern of static.json is about a path: `*` is anything between two slashes, `**` anything.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
    // Row by row as for an edit distance, so that no pattern takes long: `at[i]` is whether the pattern so far fits the first `i` bytes.
    let mut at = vec![false; path.len() + 1];
    at[0] = true;
    let mut i = 0;
    while i < pattern.len() {
        if pattern[i] == b'*' {
            let deep = pattern.get(i + 1) == Some(&b'*');
            i += if deep { 2 } else { 1 };
            for j in 1..=path.len() {
                at[j] |= at[j - 1] && (deep || path[j - 1] != b'/');
            }
        } else {
            for j in (1..=path.len()).rev() {
                at[j] = at[j - 1] && path[j - 1] == pattern[i];
            }
            at[0] = false;
            i += 1;
        }
    }
    at[path.len()]
}

/// The headers that static.json gives to a URL's path, the last of a name only.
pub fn headers<'r>(rules: &'r Rules, place: &Place) -> Vec<(&'r str, &'r str)> {
    let url = format!("/{}{}", place.path(), if place.folder && !place.parts.is_empty() { "/" } else { "" });
    let mut all: Vec<(&str, &str)> = Vec::new();
    for (name, value) in rules.settings.headers.iter().filter(|(pattern, _)| matches(pattern, &url)).flat_map(|(_, h)| h) {
        all.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        all.push((name, value));
    }
    all
}

/// How a file may be compressed beside itself: the token of HTTP and the ending of the file, the one that is most worth first.
pub const ENCODINGS: [(&str, &str); 3] = [("br", ".br"), ("zstd", ".zst"), ("gzip", ".gz")];

/// Which of [`ENCODINGS`] to look for, the best first; none where the file as it is is liked more.
pub fn encodings(accept: &str) -> Vec<(&'static str, &'static str)> {
    let mut named: Vec<(String, f32)> = Vec::new();
    for item in accept.split(',') {
        let mut words = item.split(';').map(str::trim);
        let coding = words.next().unwrap_or_default().to_ascii_lowercase();
        let quality = words.find_map(|w| w.strip_prefix("q=").or_else(|| w.strip_prefix("Q=")));
        let quality = quality.map_or(1.0, |q| q.trim().parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0));
        named.push((if coding == "x-gzip" { "gzip".into() } else { coding }, quality));
    }
    let of = |coding: &str| named.iter().find(|(name, _)| name == coding).map(|(_, q)| *q);
    let plain = of("identity").unwrap_or(0.0);
    let liked = ENCODINGS.into_iter().map(|e| (e, of(e.0).or_else(|| of("*")).unwrap_or(0.0)));
    let mut liked: Vec<_> = liked.filter(|(_, q)| *q > 0.0 && *q >= plain).collect();
    liked.sort_by(|a, b| b.1.total_cmp(&a.1));
    liked.into_iter().map(|(e, _)| e).collect()
}

/// What a client says about what it has, as its headers have it.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// `If-Match`
    pub matches: Option<String>,
    /// `If-None-Match`
    pub none_match: Option<String>,
    /// `If-Modified-Since`
    pub modified_since: Option<String>,
    /// `If-Unmodified-Since`
    pub unmodified_since: Option<String>,
    /// `If-Range`
    pub if_range: Option<String>,
    /// `Range`, of a GET only.
    pub range: Option<String>,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Default)]
pub struct Validators {
    /// Strong, with its quotes. None where the file changes at this moment.
    pub etag: Option<String>,
    /// When its content was changed last, as far as that is known.
    pub modified: Option<Timestamp>,
}

impl Validators {
    /// The time as `Last-Modified` says it.
    pub fn last_modified(&self) -> Option<String> {
        DateTimePrinter::new().timestamp_to_rfc9110_string(&self.modified?).ok()
    }
}

/// How much of a file is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serve {
    /// 200
    Whole,
    /// 206, these bytes; never empty.
    Part(Range<u64>),
    /// 304
    NotModified,
    /// 412
    Failed,
    /// 416
    Unsatisfiable,
}

/// Decides by RFC 9110, section 13.2.2. A date counts as the same only when it is the very one that was sent: a rollback brings older files.
pub fn decide(asked: &Conditions, have: &Validators, size: u64) -> Serve {
    if let Some(list) = &asked.matches {
        if !names(list, have, false) {
            return Serve::Failed;
        }
    } else if let Some(date) = &asked.unmodified_since
        && let (Ok(date), Some(modified)) = (DateTimeParser::new().parse_timestamp(date.trim()), have.modified)
        && modified.as_second() > date.as_second()
    {
        return Serve::Failed;
    }
    let same = match (&asked.none_match, &asked.modified_since) {
        (Some(list), _) => names(list, have, true),
        (None, Some(date)) => have.last_modified().is_some_and(|have| have == date.trim()),
        (None, None) => false,
    };
    if same {
        return Serve::NotModified;
    }
    let same_still = |validator: &str| match validator.trim() {
        tag if tag.starts_with('"') => have.etag.as_deref() == Some(tag),
        // A weak one never guarantees the same bytes.
        tag if tag.starts_with("W/") => false,
        date => have.last_modified().is_some_and(|have| have == date),
    };
    match &asked.range {
        Some(range) if asked.if_range.as_deref().is_none_or(same_still) => part(range, size),
        _ => Serve::Whole,
    }
}

/// Whether a list of entity tags has this one. Only the weak comparison looks past `W/`.
fn names(list: &str, have: &Validators, weak: bool) -> bool {
    let Some(etag) = have.etag.as_deref() else { return list.trim() == "*" };
    let tag = |t: &str| if weak { t.strip_prefix("W/").unwrap_or(t).to_owned() } else { t.to_owned() };
    list.trim() == "*" || list.split(',').any(|t| tag(t.trim()) == etag)
}

/// One range of bytes. Several at once, another unit and what is no range are answered with the whole, as HTTP allows.
fn part(range: &str, size: u64) -> Serve {
    let number = |text: &str| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number beyond 64 bits is beyond every file.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let Some((unit, range)) = range.split_once('=') else { return Serve::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return Serve::Whole;
    }
    let Some((first, last)) = range.trim().split_once('-') else { return Serve::Whole };
    let (start, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Some(first), None) if last.trim().is_empty() => (first, size),
        (None, Some(suffix)) if first.trim().is_empty() => (if suffix == 0 { size } else { size.saturating_sub(suffix) }, size),
        _ => return Serve::Whole,
    };
    if start < end { Serve::Part(start..end) } else { Serve::Unsatisfiable }
}

/// A name that changes with the content: it may be kept for ever.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// It may be kept and must be asked for each time.
const ASK_AGAIN: &str = "public, max-age=0, must-revalidate";

/// Folders in which a framework puts nothing but files with a hash in their names or their paths.
const HASHED_FOLDERS: [&str; 4] = ["_app/immutable/", "_next/static/", "_astro/", "_nuxt/"];

/// What bundlers put a hash into the name of.
const BUNDLED: [&str; 24] = [
    "avif", "css", "cjs", "eot", "gif", "ico", "jpeg", "jpg", "js", "map", "mjs", "mp3", "mp4", "ogg", "otf", "png", "svg", "ttf", "wasm",
    "wav", "webm", "webp", "woff", "woff2",
];

/// How long a client may keep a file.
pub fn cache_control(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    if matches!(ending, "html" | "htm" | "xhtml") {
        return "no-cache";
    }
    let hashed = BUNDLED.contains(&ending) && stem.split('.').any(|part| part.split(['-', '_']).any(is_hex) || ends_hashed(part));
    if hashed || HASHED_FOLDERS.iter().any(|f| path.starts_with(f)) { FOR_EVER } else { ASK_AGAIN }
}

/// Eight and more hexadecimal digits, letters and figures among them: a date has no letters and a word no figures.
fn is_hex(word: &str) -> bool {
    let has = |of: fn(&u8) -> bool| word.as_bytes().iter().any(of);
    word.len() >= 8
        && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_lowercase)
}

/// The eight letters of Vite, Rollup and esbuild, after a hyphen: of a random mix, so that `userCard` or `Banner2x` is not taken for one.
fn ends_hashed(part: &str) -> bool {
    let Some((head, hash)) = part.len().checked_sub(8).and_then(|at| part.split_at_checked(at)) else { return false };
    if !(head.ends_with('-') && hash.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')) {
        return false;
    }
    let class = |b: u8| match b {
        b'a'..=b'z' => 0,
        b'A'..=b'Z' => 1,
        b'0'..=b'9' => 2,
        _ => 3,
    };
    let bytes = hash.as_bytes();
    // A word begins with a capital letter or with what is no letter after letters; names have two or three of them.
    let begins = |pair: &[u8]| class(pair[1]) == 1 || (class(pair[0]) != class(pair[1]) && !(class(pair[0]) == 1 && class(pair[1]) == 0));
    let words = 1 + bytes.windows(2).filter(|pair| begins(pair)).count();
    let classes = (0..3).filter(|c| bytes.iter().any(|b| class(*b) == *c)).count();
    words >= 5 && classes >= 2
}

#[cfg(test)]
mod tests;
