//! The route table: which route a host and a path are led to.
//!
//! **Invariant:** a lookup takes no memory, and as many steps however many hosts there are.

use super::Domain;
use crate::ids::Generation;
use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// All routes at one generation. The router keeps its own kind of route (`R`), with counters, under the same lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTable<R = super::Route> {
    /// A table with an older generation than the current one is stale.
    pub generation: Generation,
    /// By host name, lower case, without a port: `shop.example.com`.
    names: Hosts<R>,
    /// Those with `*.` by what stands behind it: `example.com`.
    wild: Hosts<R>,
    /// Answers any other host, where a single app runs.
    pub fallback: Option<Arc<R>>,
}

/// SipHash with a fixed key, for want of randomness in core. Who could make names collide is who adds domains, and slows down nobody else by it:
/// clients only look up, and no lookup makes another one longer.
type Hosts<R> = HashMap<Name, Host<R>, BuildHasherDefault<DefaultHasher>>;

/// A host's name. Between two requests a table is out of the processor's caches, and each step through memory then takes longer than all else of a
/// lookup: so what is short lies in the table itself, and with its route fills 64 bytes.
#[derive(Debug, Clone)]
enum Name {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

const SHORT: usize = 38;

/// No domain is longer ([`Domain`]), so that nothing longer need be looked at.
const LONGEST: usize = 253;

/// What answers for a host.
#[derive(Debug, PartialEq, Eq)]
struct Host<R> {
    /// All of it that is led by no path. Most hosts have only this, and it is found without another step through memory.
    whole: Option<Arc<R>>,
    /// What is below a path, the longest first: that is the one which is meant.
    below: Box<[Mount<R>]>,
}

/// What answers below a path of a host.
#[derive(Debug, PartialEq, Eq)]
struct Mount<R> {
    /// `/api`
    path: String,
    route: Arc<R>,
}

impl<R> Clone for Host<R> {
    fn clone(&self) -> Self {
        Self { whole: self.whole.clone(), below: self.below.clone() }
    }
}

impl<R> Clone for Mount<R> {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), route: self.route.clone() }
    }
}

impl<R> Default for Host<R> {
    fn default() -> Self {
        Self { whole: None, below: Box::default() }
    }
}

impl<R> Default for RouteTable<R> {
    fn default() -> Self {
        Self { generation: Generation::default(), names: Hosts::default(), wild: Hosts::default(), fallback: None }
    }
}

impl<R> RouteTable<R> {
    /// Leads a domain to a route, in place of what it led to before.
    pub fn lead(&mut self, domain: &Domain, route: Arc<R>) {
        let (hosts, name) = match domain.host().strip_prefix("*.") {
            Some(parent) => (&mut self.wild, parent),
            None => (&mut self.names, domain.host()),
        };
        hosts.entry(Name::of(name)).or_default().lead(domain.path(), route);
    }

    /// The same table with these routes in place of its own.
    pub fn led(domains: impl IntoIterator<Item = (Domain, Arc<R>)>, generation: Generation, fallback: Option<Arc<R>>) -> Self {
        let domains = domains.into_iter();
        let mut table = Self { generation, fallback, ..Self::default() };
        table.names.reserve(domains.size_hint().0);
        domains.for_each(|(domain, route)| table.lead(&domain, route));
        table
    }

    /// Every route, as often as something leads to it, and the domain that does, its host and its path; `None` is the fallback, which is last.
    /// The others come in no order.
    pub fn routes(&self) -> impl Iterator<Item = (Option<(Cow<'_, str>, &str)>, &Arc<R>)> {
        let names = self.names.iter().map(|(name, host)| (name.text(), host));
        let hosts = names.chain(self.wild.iter().map(|(parent, host)| (Cow::Owned(format!("*.{}", parent.text())), host)));
        let led = hosts.flat_map(|(name, host)| host.routes().map(move |(path, route)| (Some((name.clone(), path)), route)));
        led.chain(self.fallback.iter().map(|route| (None, route)))
    }

    /// The route for a `Host` header's value and a path: case and a port do not matter in a host, nor does a final dot. A path is led by whole
    /// segments: `/api` leads `/api` and `/api/x`, and not `/apish`. A name of its own wins over `*.`, which stands for one label.
    pub fn lookup(&self, host: &str, path: &str) -> Option<&Arc<R>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let wild = || {
            let (label, parent) = name.split_once('.')?;
            if label.is_empty() { None } else { find(&self.wild, parent) }
        };
        // A host that is asked for by its own name is not answered by its neighbours' `*.`, whatever the path.
        let host = find(&self.names, name).or_else(wild);
        host.and_then(|host| host.lookup(path)).or(self.fallback.as_ref())
    }
}

/// A host as it is kept, for one as a client wrote it.
fn find<'t, R>(hosts: &'t Hosts<R>, name: &str) -> Option<&'t Host<R>> {
    if hosts.is_empty() || name.len() > LONGEST {
        return None;
    }
    if !name.bytes().any(|b| b.is_ascii_uppercase()) {
        return hosts.get(name.as_bytes());
    }
    let mut lower = [0; LONGEST];
    let lower = &mut lower[..name.len()];
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    hosts.get(&*lower)
}

impl Name {
    fn of(name: &str) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(name.as_bytes());
                Self::Short { length, bytes }
            }
            _ => Self::Long(name.as_bytes().into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }

    /// It was made of a text.
    fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.bytes())
    }
}

// As its bytes do, by which it is looked for.
impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Name {}

impl<R> Host<R> {
    fn lead(&mut self, path: &str, route: Arc<R>) {
        if path.is_empty() {
            self.whole = Some(route);
            return;
        }
        let mut below = std::mem::take(&mut self.below).into_vec();
        below.retain(|mount| mount.path != path);
        below.push(Mount { path: path.to_owned(), route });
        below.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
        self.below = below.into();
    }

    fn routes(&self) -> impl Iterator<Item = (&str, &Arc<R>)> {
        let below = self.below.iter().map(|mount| (mount.path.as_str(), &mount.route));
        below.chain(self.whole.iter().map(|route| ("", route)))
    }

    fn lookup(&self, path: &str) -> Option<&Arc<R>> {
        self.below.iter().find(|mount| leads(&mount.path, path)).map(|mount| &mount.route).or(self.whole.as_ref())
    }
}

/// A name as hosts are kept, which most clients write already.
pub fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// Whether a path is at or below another one.
fn leads(mount: &str, path: &str) -> bool {
    path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{Manners, Route, Web};
    use proptest::prelude::*;

    fn route(app: &str) -> Arc<Route> {
        Arc::new(Route { deploy: app.parse().expect("valid"), web: Web::None, manners: Manners::default() })
    }

    fn table(hosts: &[&str], fallback: Option<&str>) -> RouteTable {
        let hosts = hosts.iter().enumerate().map(|(i, host)| (host.parse().expect("a domain"), route(&format!("app{i}"))));
        RouteTable::led(hosts, Generation(1), fallback.map(route))
    }

    fn found_at(table: &RouteTable, host: &str, path: &str) -> Option<String> {
        table.lookup(host, path).map(|r| r.deploy.app.to_string())
    }

    fn found(table: &RouteTable, host: &str) -> Option<String> {
        found_at(table, host, "/")
    }

    #[test]
    fn the_longest_path_of_whole_segments_leads() {
        let t = table(&["a.test", "a.test/api", "a.test/api/v2", "b.test/only"], None);
        for (host, path, want) in [
            ("a.test", "/", Some("app0")),
            ("a.test", "*", Some("app0")),
            ("a.test", "/api", Some("app1")),
            ("a.test", "/api/", Some("app1")),
            ("a.test", "/api?x=/api/v2", Some("app1")),
            ("a.test", "/apish", Some("app0")),
            ("a.test", "/API", Some("app0")),
            ("a.test", "/api/v2/x", Some("app2")),
            ("a.test", "/api/v22", Some("app1")),
            ("b.test", "/only/x", Some("app3")),
            ("b.test", "/", None),
        ] {
            assert_eq!(found_at(&t, host, path).as_deref(), want, "{host}{path}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_label_and_a_name_wins_over_it() {
        let t = table(&["*.a.test", "x.a.test", "y.a.test/api"], None);
        for (host, want) in [
            ("b.a.test", Some("app0")),
            ("B.A.test:80", Some("app0")),
            ("x.a.test", Some("app1")),
            ("y.a.test", None),
            ("a.test", None),
            (".a.test", None),
            ("*.a.test", Some("app0")),
            ("c.b.a.test", None),
        ] {
            assert_eq!(found(&t, host).as_deref(), want, "{host}");
        }
    }

    #[test]
    fn a_host_is_found_whatever_its_case_its_port_and_its_final_dot() {
        let t = table(&["shop.localhost", "127.0.0.1", "[::1]", "[2001:db8::1]"], None);
        for (host, want) in [
            ("shop.localhost", Some("app0")),
            ("shop.localhost:8000", Some("app0")),
            ("shop.localhost:", Some("app0")),
            ("shop.localhost.", Some("app0")),
            ("shop.localhost.:8000", Some("app0")),
            ("Shop.LOCALHOST:8000", Some("app0")),
            ("127.0.0.1", Some("app1")),
            ("127.0.0.1:8000", Some("app1")),
            ("[::1]", Some("app2")),
            ("[::1]:8000", Some("app2")),
            ("[2001:DB8::1]:80", Some("app3")),
            ("localhost", None),
            ("shop", None),
            ("x.shop.localhost", None),
            ("shop.localhost.evil.example", None),
        ] {
            assert_eq!(found(&t, host).as_deref(), want, "{host}");
        }
    }

    #[test]
    fn a_host_and_its_route_fill_a_line_of_the_cache_and_a_name_of_any_length_is_found() {
        assert_eq!(size_of::<(Name, Host<Route>)>(), 64);
        let names = [1, SHORT - 1, SHORT, SHORT + 1, LONGEST]
            .map(|length| (1..=length).map(|i| if i % 20 == 0 && i < length { '.' } else { 'a' }).collect::<String>());
        let t = table(&names.each_ref().map(String::as_str), None);
        for (i, name) in names.iter().enumerate() {
            assert_eq!(found(&t, &name.to_uppercase()), Some(format!("app{i}")), "{name}");
        }
        assert_eq!(found(&t, &format!("{}.a", names[4])), None);
    }

    #[test]
    fn a_hostile_host_is_no_route_of_anyone() {
        let t = table(&["shop.localhost", "[::1]"], None);
        for host in [
            "",
            ".",
            ":",
            "::",
            ":80",
            ":::::",
            "[",
            "]",
            "[]",
            "[:",
            "[::1",
            "::1",
            "::1:80",
            "shop.localhost..",
            "shop.localhost:80:90",
            "shop.localhost:8o",
            "shop.localhost:-1",
            "shop.localhost@evil",
            "evil@shop.localhost",
            "shop.localhost/",
            " shop.localhost",
            "shop.localhost\0",
            "shop.localhost\r\nX: y",
            "ſhop.localhost",
            "ＳＨＯＰ.localhost",
        ] {
            assert_eq!(found(&t, host), None, "{host:?}");
        }
        assert_eq!(found(&t, &"a.".repeat(1_000_000)), None);
    }

    #[test]
    fn any_other_host_goes_to_the_only_app() {
        let t = table(&["shop.localhost"], Some("only"));
        for host in ["", "localhost:8000", "192.0.2.1", "[::1]:8000", "\0"] {
            assert_eq!(found(&t, host).as_deref(), Some("only"), "{host:?}");
        }
        assert_eq!(found(&t, "shop.localhost:1").as_deref(), Some("app0"));
    }

    /// What is led, in this order, and what is asked for.
    type Case = (Vec<(Domain, Arc<usize>)>, bool, String, String);

    /// Few names, so that they meet: hosts as people add them, and as clients write them.
    fn case() -> impl Strategy<Value = Case> {
        let name = || {
            proptest::collection::vec(prop_oneof![4 => "[ab]", 1 => "www", 1 => Just("long-".repeat(5) + "x")], 1..4)
                .prop_map(|labels| labels.join("."))
        };
        let path = || prop_oneof![Just(""), Just("/a"), Just("/a/b"), Just("/ab")];
        let led = prop_oneof![name(), name().prop_map(|name| format!("*.{name}")), Just("[::1]".to_owned())];
        let led = proptest::collection::vec((led, path()).prop_map(|(host, path)| format!("{host}{path}").parse::<Domain>()), 0..12);
        let led = led.prop_map(|all| all.into_iter().filter_map(Result::ok).enumerate().map(|(i, d)| (d, Arc::new(i))).collect());
        let written = |name: String| {
            (Just(name), any::<u8>(), "\\.?\\.?", "(:[0-9]{0,3}|:8x)?").prop_map(|(name, upper, dot, port)| {
                let upper = |(i, c): (usize, char)| if upper >> (i % 8) & 1 == 1 { c.to_ascii_uppercase() } else { c };
                format!("{}{dot}{port}", name.chars().enumerate().map(upper).collect::<String>())
            })
        };
        let host = prop_oneof![
            8 => name().prop_flat_map(written),
            1 => name().prop_flat_map(move |name| written(format!("*.{name}"))),
            1 => prop_oneof![Just("[::1]:80".to_owned()), Just(format!("{}.a", "a".repeat(254))), "[aé.:*\\[\\]]{0,6}"],
        ];
        let asked = (path(), "(/a|/b|/|\\?x|b)?").prop_map(|(path, rest)| format!("{path}{rest}"));
        (led, any::<bool>(), host, asked)
    }

    /// The same as a lookup, said plainly.
    fn slow(led: &[(Domain, Arc<usize>)], host: &str, path: &str) -> Option<usize> {
        let host = host.to_ascii_lowercase();
        let digits = host.len() - host.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let name = host[..host.len() - digits].strip_suffix(':').filter(|name| !name.ends_with(':')).unwrap_or(&host);
        let name = name.strip_suffix('.').unwrap_or(name);
        let own = |d: &Domain| d.host() == name;
        let wild = |d: &Domain| {
            let label = d.host().strip_prefix('*').and_then(|parent| name.strip_suffix(parent));
            label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
        };
        let meant: Vec<_> = match led.iter().any(|(d, _)| own(d)) {
            true => led.iter().filter(|(d, _)| own(d)).collect(),
            false => led.iter().filter(|(d, _)| wild(d)).collect(),
        };
        let below = |d: &Domain| path == d.path() || ["/", "?"].iter().any(|next| path.starts_with(&format!("{}{next}", d.path())));
        let fits = meant.into_iter().filter(|(d, _)| d.path().is_empty() || below(d));
        // Of those that are equally long the last one was led in place of the others.
        fits.max_by_key(|(d, _)| d.path().len()).map(|(_, i)| **i)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn a_lookup_finds_what_a_search_through_all_domains_does((led, only, host, path) in case()) {
            let fallback = only.then(|| Arc::new(usize::MAX));
            let table = RouteTable::led(led.clone(), Generation(1), fallback.clone());
            let wanted = slow(&led, &host, &path).or(fallback.as_deref().copied());
            prop_assert_eq!(table.lookup(&host, &path).map(|i| **i), wanted, "{:?} {:?}", host, path);
            // What is listed is what is led: each domain once, to what it was led to last.
            let mut listed: Vec<_> = table.routes().filter_map(|(at, i)| at.map(|(host, path)| (format!("{host}{path}"), **i))).collect();
            listed.sort();
            let last: std::collections::BTreeMap<_, _> = led.iter().map(|(d, i)| (d.to_string(), **i)).collect();
            prop_assert_eq!(listed, last.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn a_lookup_answers_the_named_route_or_the_fallback(host in "[a-zA-Z:.0-9\\[\\]é]{0,12}|.{0,12}") {
            let t = table(&["a", "a.b", "[::1]"], None);
            if let Some(route) = t.lookup(&host, "/") {
                let name = t.routes().find_map(|(at, r)| Arc::ptr_eq(r, route).then_some(at?.0)).expect("of the table");
                prop_assert!(host.to_ascii_lowercase().starts_with(&*name), "{host:?} is not {name}");
                prop_assert!(host[name.len()..].chars().all(|c| matches!(c, '.' | ':' | '0'..='9')), "{host:?} is not {name}");
            }
        }
    }
}
