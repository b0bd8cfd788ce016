//! VII. Export services via port binding.
//! A route leads a host name to the instances of a deploy's `web`. The table is immutable and swapped whole; the lookup is here, pure.

use crate::ids::{DeployRef, Generation};
use std::collections::BTreeMap;
use std::sync::Arc;

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

    #[test]
    fn a_host_is_found_however_it_is_written() {
        let table = RouteTable {
            generation: Generation(1),
            hosts: [("shop.test", 1), ("[::1]", 6)].map(|(host, n)| (host.to_owned(), Arc::new(n))).into(),
            fallback: None,
        };
        let found = |host: &str| table.lookup(host).map(|n| **n);
        for host in ["shop.test", "SHOP.test", "shop.test:80", "shop.test.", "Shop.Test.:8000", "shop.test:"] {
            assert_eq!(found(host), Some(1), "{host}");
        }
        assert_eq!((found("[::1]"), found("[::1]:80")), (Some(6), Some(6)));
        for host in ["", "shop.test:80:80", "xshop.test", "shop.test/", "shop.test..", "shop.test:http"] {
            assert_eq!(found(host), None, "{host}");
        }
        let open = RouteTable { fallback: Some(Arc::new(9)), ..table };
        assert_eq!(open.lookup("other").map(|n| **n), Some(9));
    }
}
