//! What must hold of what the router reads besides requests: domains and the table that they make, whom a deploy trusts and by what it knows
//! its clients, and what a static site answers.

use dozen_core::ids::Generation;
use dozen_core::port::site::{Conditions, Found, Kind, Place, Rules, Serve, Validators, cache_control, decide, encodings, find, matches};
use dozen_core::port::{Domain, Network, RouteTable, Sticky};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Lines of the input; those that are not there are empty.
fn lines<const N: usize>(text: &str) -> [&str; N] {
    let mut lines = text.splitn(N, '\n');
    std::array::from_fn(|_| lines.next().unwrap_or_default())
}

/// A domain is read again from how it is shown, and a table of several leads where one finds by looking at each. The input is a line of
/// domains, a `Host` header, and a path.
pub fn domain(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let [domains, host, path] = lines(&text);
    let domains: Vec<Domain> = domains.split(',').filter_map(|d| d.parse().ok()).collect();
    for domain in &domains {
        assert_eq!(domain.to_string().parse().as_ref(), Ok(domain));
        let (host, path) = (domain.host(), domain.path());
        assert!(
            !host.is_empty() && host.is_ascii() && !host.bytes().any(|b| b.is_ascii_uppercase() || b" /?#@\\".contains(&b)),
            "{host:?}"
        );
        assert!(path.is_empty() || path.starts_with('/') && !path.ends_with('/') && !path.contains("//"), "{path:?}");
        assert!(!path.split('/').any(|part| matches!(part, "." | "..")), "{path:?}");
        let _ = domain.is_public();
    }
    let led = domains.iter().map(|domain| (domain.clone(), Arc::new(domain.to_string())));
    let table = RouteTable::led(led, Generation::default(), None);
    let found = table.lookup(host, path).map(|route| route.as_str());

    // The same by looking at each.
    let cut = host.trim_end_matches(|c: char| c.is_ascii_digit());
    let name = cut.strip_suffix(':').filter(|name| !name.ends_with(':')).unwrap_or(host);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_own = domains.iter().any(|domain| domain.host() == name);
    let wild = name.split_once('.').filter(|(label, _)| !matches!(*label, "" | "*")).map(|(_, parent)| format!("*.{parent}"));
    let meant = |domain: &&Domain| if is_own { domain.host() == name } else { Some(domain.host()) == wild.as_deref() };
    let below = |domain: &&Domain| {
        let parts = |path: &str| path.split(['/', '?']).map(str::to_owned).collect::<Vec<_>>();
        domain.path().is_empty() || path.starts_with(domain.path()) && parts(path).starts_with(&parts(domain.path()))
    };
    let wanted = domains.iter().filter(meant).filter(below).max_by_key(|domain| domain.path().len()).map(ToString::to_string);
    assert_eq!(found, wanted.as_deref(), "{host:?} {path:?} among {domains:?}");
}

/// Whom a deploy trusts, and by what it knows its clients, is read again from how it is shown; a network has the addresses that begin with its
/// bits. The input is a network, an address, and what clients are known by.
pub fn manners(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let [network, address, sticky] = lines(&text);
    if let Ok(known) = network.parse::<Network>() {
        let shown = known.to_string();
        assert_eq!(shown.parse(), Ok(known), "{network:?}");
        let (first, prefix) = shown.split_once('/').expect("it is shown with its bits");
        let (first, prefix): (IpAddr, usize) = (first.parse().expect("an address"), prefix.parse().expect("a number"));
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => format!("4{:032b}", u32::from(v4)),
            IpAddr::V6(v6) => format!("6{:0128b}", u128::from(v6)),
        };
        // An address of IPv4 is one, however it came.
        let begins = |address: IpAddr| bits(address.to_canonical()).get(..=prefix) == bits(first).get(..=prefix);
        for address in [address.parse().ok(), Some(first)].into_iter().flatten() {
            assert_eq!(known.contains(address), begins(address), "{address} in {known}");
        }
    }
    if let Ok(known) = sticky.parse::<Sticky>() {
        assert_eq!(known.to_string().parse().as_ref(), Ok(&known), "{sticky:?}");
        if let Sticky::Header(name) = known {
            assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && b != b':'), "{name:?}");
        }
    }
}

/// Nothing that is asked of a static site leads out of its folder, what is answered is there, and a part is one of the file. The input is a
/// path, the files that there are, a size, and the headers `Range`, `If-Range`, `If-None-Match`, `If-Modified-Since` and `Accept-Encoding`.
pub fn site(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let [path, files, size, range, if_range, none_match, since, accept] = lines(&text);
    let files: BTreeSet<&str> = files.split(',').collect();
    let folder = |path: &str| files.iter().any(|file| file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')));
    if let Ok(place) = Place::read(path) {
        let asked = |path: &str| {
            assert!(!path.is_empty() && !path.contains('\0'), "{path:?} is asked for");
            let hidden =
                |(at, part): (usize, &str)| part.is_empty() || part.starts_with('.') && !(at == 0 && part.starts_with(".well-known"));
            assert!(!path.split('/').enumerate().any(hidden), "{path:?} leads out, or is hidden");
            match (files.contains(path), folder(path)) {
                (true, _) => Kind::File,
                (false, true) => Kind::Folder,
                (false, false) => Kind::Nothing,
            }
        };
        for (spa, page) in [(false, false), (false, true), (true, false), (true, true)] {
            match find(&place, Some("q=1"), page, &Rules { spa, ..Rules::default() }, &asked) {
                Found::File(file) | Found::Missing(Some(file)) => assert!(files.contains(file.as_str()), "{file:?} is not there"),
                // A path with two slashes in front would be another host's.
                Found::Redirect(url) => assert!(url.starts_with('/') && !url.starts_with("//") && url.ends_with("/?q=1"), "{url:?}"),
                Found::Missing(None) => {}
            }
        }
        assert!(!cache_control(&place.path()).is_empty());
    }

    let size = size.parse().unwrap_or(100);
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let conditions = Conditions {
        range: said(range),
        if_range: said(if_range),
        none_match: said(none_match),
        modified_since: said(since),
        matches: said(if_range).filter(|_| size % 2 == 1),
        unmodified_since: said(since),
    };
    let have = Validators { etag: Some("\"a\"".to_owned()), modified: "2026-01-02T03:04:05Z".parse().ok() };
    match decide(&conditions, &have, size) {
        Serve::Part(part) => assert!(part.start < part.end && part.end <= size && !range.is_empty(), "{part:?} of {size}"),
        Serve::Unsatisfiable => assert!(!range.is_empty()),
        Serve::NotModified => assert!(none_match.contains("\"a\"") || none_match.contains('*') || since.contains("2026"), "{conditions:?}"),
        Serve::Whole | Serve::Failed => {}
    }
    let liked = encodings(accept);
    assert!(liked.iter().all(|one| liked.iter().filter(|other| *other == one).count() == 1), "{liked:?}");

    // A pattern that is short enough for a matcher that tries everything.
    let (pattern, path) = (range.as_bytes(), path.as_bytes());
    if pattern.len() <= 12 && path.len() <= 24 {
        assert_eq!(matches(range, std::str::from_utf8(path).expect("it is text")), tried(pattern, path), "{range:?}");
    }
}

/// Whether a pattern of static.json fits, by trying everything.
fn tried(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|at| tried(rest, &path[at..])),
        [b'*', rest @ ..] => (0..=path.len()).take_while(|at| !path[..*at].contains(&b'/')).any(|at| tried(rest, &path[at..])),
        [one, rest @ ..] => path.split_first().is_some_and(|(first, path)| first == one && tried(rest, path)),
    }
}
