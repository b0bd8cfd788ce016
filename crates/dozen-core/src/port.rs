//! VII. Export services via port binding.
//! A route leads a host name, or a path below it, to the instances of a deploy's `web`. The table is immutable and swapped whole; the lookup is here, pure.

mod domain;
pub mod framing;
mod manners;
mod network;
pub mod site;

use crate::ids::{DeployRef, Generation, Version};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

pub use domain::{Domain, InvalidDomain};
pub use manners::{ERROR_PAGE, Front, InvalidSticky, MAINTENANCE_PAGE, Manners, Sticky, bad_pages};
pub use network::{InvalidNetwork, Network};

/// The ports that instances get, one each. Linux hands out ephemeral ports from 32768.
pub const INSTANCES: std::ops::Range<u16> = 20_000..32_000;

/// One deploy's place in the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whose.
    pub deploy: DeployRef,
    /// What is there to send requests to.
    pub web: Web,
    /// How its requests are treated.
    pub manners: Manners,
}

/// The `web` of a deploy, as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Web {
    /// These instances take requests.
    Ready(Vec<Backend>),
    /// Instances were started and none listens yet: requests wait, then H20.
    Starting,
    /// A change stopped the instances and their successors are not there yet: requests wait, then H80.
    Held,
    /// All have crashed: H10.
    Crashed,
    /// The formation has no `web`: H14.
    None,
}

/// One instance that takes requests, on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `web.1`, for log lines.
    pub instance: String,
    /// Where it listens.
    pub port: u16,
    /// What it runs.
    pub release: Version,
    /// The part of the requests that its release gets, relative to the other releases.
    pub weight: u32,
}

/// All routes at one generation. The router keeps its own kind of route (`R`), with counters, under the same lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTable<R = Route> {
    /// A table with an older generation than the current one is stale.
    pub generation: Generation,
    /// By host name, lower case, without a port: `shop.example.com`, `*.example.com`.
    hosts: BTreeMap<String, Vec<Mount<R>>>,
    /// Answers any other host, where a single app runs.
    pub fallback: Option<Arc<R>>,
}

/// What answers below a path of a host.
#[derive(Debug, PartialEq, Eq)]
struct Mount<R> {
    /// `/api`; empty is the whole host.
    path: String,
    route: Arc<R>,
}

impl<R> Clone for Mount<R> {
    fn clone(&self) -> Self {
        Self { path: self.path.clone(), route: self.route.clone() }
    }
}

impl<R> Default for RouteTable<R> {
    fn default() -> Self {
        Self { generation: Generation::default(), hosts: BTreeMap::new(), fallback: None }
    }
}

impl<R> RouteTable<R> {
    /// Leads a domain to a route, in place of what it led to before.
    pub fn lead(&mut self, domain: &Domain, route: Arc<R>) {
        let mounts = self.hosts.entry(domain.host().to_owned()).or_default();
        mounts.retain(|mount| mount.path != domain.path());
        mounts.push(Mount { path: domain.path().to_owned(), route });
        // The longest path that fits is the one that is meant.
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
    }

    /// The same table with these routes in place of its own.
    pub fn led(domains: impl IntoIterator<Item = (Domain, Arc<R>)>, generation: Generation, fallback: Option<Arc<R>>) -> Self {
        let mut table = Self { generation, hosts: BTreeMap::new(), fallback };
        domains.into_iter().for_each(|(domain, route)| table.lead(&domain, route));
        table
    }

    /// Every route, as often as something leads to it, and the domain that does; `None` is the fallback.
    pub fn routes(&self) -> impl Iterator<Item = (Option<(&str, &str)>, &Arc<R>)> {
        let mounts =
            self.hosts.iter().flat_map(|(host, mounts)| mounts.iter().map(move |m| (Some((host.as_str(), m.path.as_str())), &m.route)));
        mounts.chain(self.fallback.iter().map(|route| (None, route)))
    }

    /// The route for a `Host` header's value and a path: case and a port do not matter in a host, nor does a final dot. A path is led by whole
    /// segments: `/api` leads `/api` and `/api/x`, and not `/apish`. A name of its own wins over `*.`, which stands for one label.
    pub fn lookup(&self, host: &str, path: &str) -> Option<&Arc<R>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = &*lower(name);
        let wild = || {
            let (_, parent) = name.split_once('.').filter(|(label, _)| !label.is_empty() && *label != "*")?;
            self.hosts.get(&format!("*.{parent}"))
        };
        // A host that is asked for by its own name is not answered by its neighbours' `*.`, whatever the path.
        let mounts = self.hosts.get(name).or_else(wild);
        let mount = mounts.into_iter().flatten().find(|mount| leads(&mount.path, path));
        mount.map(|mount| &mount.route).or(self.fallback.as_ref())
    }
}

/// A name as hosts are kept, which most clients write already.
pub fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

/// Whether a path is at or below another one.
fn leads(mount: &str, path: &str) -> bool {
    path.strip_prefix(mount).is_some_and(|rest| mount.is_empty() || rest.is_empty() || rest.starts_with(['/', '?']))
}

#[cfg(test)]
mod tests {
    use super::*;
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

    proptest! {
        #[test]
        fn a_lookup_answers_the_named_route_or_the_fallback(host in "[a-zA-Z:.0-9\\[\\]é]{0,12}|.{0,12}") {
            let t = table(&["a", "a.b", "[::1]"], None);
            if let Some(route) = t.lookup(&host, "/") {
                let name = t.routes().find_map(|(at, r)| Arc::ptr_eq(r, route).then_some(at?.0)).expect("of the table");
                prop_assert!(host.to_ascii_lowercase().starts_with(name), "{host:?} is not {name}");
                prop_assert!(host[name.len()..].chars().all(|c| matches!(c, '.' | ':' | '0'..='9')), "{host:?} is not {name}");
            }
        }
    }
}
