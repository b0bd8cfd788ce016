//! VII. Export services via port binding.
//! A route leads a host name to the instances of a deploy's `web`. The table is immutable and swapped whole; the lookup is here, pure.

pub mod site;

use crate::ids::{DeployRef, Generation};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The ports that instances get, one each. Linux hands out ephemeral ports from 32768.
pub const INSTANCES: std::ops::Range<u16> = 20_000..32_000;

/// One deploy's place in the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whose.
    pub deploy: DeployRef,
    /// What is there to send requests to.
    pub web: Web,
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
}

/// All routes at one generation. The router keeps its own kind of route (`R`), with counters, under the same lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTable<R = Route> {
    /// A table with an older generation than the current one is stale.
    pub generation: Generation,
    /// By host name, lower case, without a port.
    pub hosts: BTreeMap<String, Arc<R>>,
    /// Answers any other host, where a single app runs.
    pub fallback: Option<Arc<R>>,
}

impl<R> Default for RouteTable<R> {
    fn default() -> Self {
        Self { generation: Generation::default(), hosts: BTreeMap::new(), fallback: None }
    }
}

impl<R> RouteTable<R> {
    /// The route for a `Host` header's value: case and a port do not matter, nor does a final dot.
    pub fn lookup(&self, host: &str) -> Option<&Arc<R>> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let found =
            if name.bytes().any(|b| b.is_ascii_uppercase()) { self.hosts.get(&name.to_ascii_lowercase()) } else { self.hosts.get(name) };
        found.or(self.fallback.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(app: &str) -> Arc<Route> {
        Arc::new(Route { deploy: app.parse().expect("valid"), web: Web::None })
    }

    fn table(hosts: &[&str], fallback: Option<&str>) -> RouteTable {
        let hosts = hosts.iter().enumerate().map(|(i, host)| ((*host).to_owned(), route(&format!("app{i}"))));
        RouteTable { generation: Generation(1), hosts: hosts.collect(), fallback: fallback.map(route) }
    }

    fn found(table: &RouteTable, host: &str) -> Option<String> {
        table.lookup(host).map(|r| r.deploy.app.to_string())
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
            if let Some(route) = t.lookup(&host) {
                let (name, _) = t.hosts.iter().find(|(_, r)| *r == route).expect("of the table");
                prop_assert!(host.to_ascii_lowercase().starts_with(name.as_str()), "{host:?} is not {name}");
                prop_assert!(host[name.len()..].chars().all(|c| matches!(c, '.' | ':' | '0'..='9')), "{host:?} is not {name}");
            }
        }
    }
}
