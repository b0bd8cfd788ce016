//! One router for all deploys of a control plane: each has a line to it, and the table leads what all of them lead.
//!
//! | in | out |
//! |---|---|
//! | of each deploy: what leads to it, its certificates, what is to be drained | one route table and one supply, to the router |
//! | events of the router | to the deploy that they are about, in its own numbers |
//!
//! **Invariant:** a router that was taken over goes on leading to a deploy as before until that deploy has said what leads to it.

use super::{Router, RouterEvent, Supply};
use dozen_core::ids::{DeployRef, Generation};
use dozen_core::port::{Domain, Manners, Route, RouteTable, Web};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

/// A router that does not live this long is not replaced faster than this.
const PACE: SignedDuration = SignedDuration::from_secs(1);
/// How long the router may take to end what is in flight when everything ends.
const GRACE: std::time::Duration = std::time::Duration::from_secs(1);

/// What leads to one deploy.
#[derive(Debug, Clone)]
pub struct Led {
    /// By these names, which it has by itself: they lead nowhere else, whatever was added elsewhere.
    pub own: Vec<Domain>,
    /// And by these, which somebody added.
    pub added: Vec<Domain>,
    /// To this.
    pub route: Arc<Route>,
    /// Also by every name that leads nowhere else.
    pub any_host: bool,
}

/// A handle; when the last one and all lines are dropped, the router ends.
#[derive(Debug, Clone)]
pub struct Switchboard {
    orders: mpsc::UnboundedSender<Order>,
    generation: Generation,
    found: Arc<BTreeSet<u16>>,
    /// Counts the lines.
    lines: Arc<AtomicU64>,
}

/// A deploy's line to the router. Dropped, nothing leads to the deploy any more.
#[derive(Debug)]
pub struct Line {
    deploy: DeployRef,
    /// Tells it from one that the deploy had before.
    number: u64,
    orders: mpsc::UnboundedSender<Order>,
    events: mpsc::UnboundedReceiver<RouterEvent>,
    generation: Generation,
    found: Arc<BTreeSet<u16>>,
    serial: u64,
}

#[derive(Debug)]
enum Order {
    Open(DeployRef, u64, mpsc::UnboundedSender<RouterEvent>),
    Lead(DeployRef, Led, Generation),
    Certify(DeployRef, Arc<Supply>, u64),
    Drain(DeployRef, u16),
    Close(DeployRef, u64, Option<oneshot::Sender<()>>),
    Keep(Domain, DeployRef),
    End(oneshot::Sender<()>),
}

impl Switchboard {
    /// Takes a router over. `expected`: the deploys that it leads to already, if it does, and that will say again what leads to them.
    pub fn start(router: Router, expected: impl IntoIterator<Item = DeployRef>) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (generation, found) = (router.generation(), Arc::new(router.found().clone()));
        let board = Board {
            router,
            generation,
            deploys: BTreeMap::new(),
            kept: None,
            expected: expected.into_iter().collect(),
            serial: 0,
            table_is_new: false,
            supply_is_new: false,
            revive: None,
            revived: None,
        };
        crate::tasks::spawn("switchboard", board.run(inbox));
        Self { orders, generation, found, lines: Arc::default() }
    }

    /// A line for a deploy, which has no other.
    pub fn line(&self, deploy: DeployRef) -> Line {
        let (teller, events) = mpsc::unbounded_channel();
        let number = self.lines.fetch_add(1, Ordering::Relaxed);
        // A board that was ended leads nowhere.
        let _ = self.orders.send(Order::Open(deploy.clone(), number, teller));
        Line { deploy, number, orders: self.orders.clone(), events, generation: self.generation, found: self.found.clone(), serial: 0 }
    }

    /// Has a host lead to nobody but this deploy, also before that has said so: who asks for it waits until then.
    pub fn keep(&self, host: Domain, deploy: DeployRef) {
        // A board that was ended leads nowhere.
        let _ = self.orders.send(Order::Keep(host, deploy));
    }

    /// Ends the router. When this answers, it has written its last lines.
    pub async fn end(self) {
        let (answer, ended) = oneshot::channel();
        if self.orders.send(Order::End(answer)).is_ok() {
            // A board that ended without answering has no router any more.
            let _ = ended.await;
        }
    }
}

impl Line {
    /// Has requests led so from now on; answered by [`RouterEvent::Applied`] with this generation, or a later one. Never blocks.
    pub fn lead(&self, led: Led, generation: Generation) {
        self.order(Order::Lead(self.deploy.clone(), led, generation));
    }

    /// Has TLS connections be shown these from now on, beside those of other deploys. Answers the number by which
    /// [`RouterEvent::Certified`] tells that it was done. Never blocks.
    pub fn certify(&mut self, supply: Arc<Supply>) -> u64 {
        self.serial += 1;
        self.order(Order::Certify(self.deploy.clone(), supply, self.serial));
        self.serial
    }

    /// Asks for [`RouterEvent::Drained`] as soon as the instance that listens on `port` is led to no more and has nothing in flight.
    pub fn drain(&self, port: u16) {
        self.order(Order::Drain(self.deploy.clone(), port));
    }

    /// The generation of the router's table when this control plane found or started it.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the router, when it was taken over, sent requests to an instance that listens on this port.
    pub fn routes(&self, port: u16) -> bool {
        self.found.contains(&port)
    }

    /// The next event that is about this deploy; may be cancelled. [`RouterEvent::Lost`] says that another router takes over.
    pub async fn next(&mut self) -> RouterEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The router was ended on purpose.
            None => std::future::pending().await,
        }
    }

    /// Has nothing lead to the deploy any more.
    pub async fn close(self) {
        let (answer, closed) = oneshot::channel();
        self.order(Order::Close(self.deploy.clone(), self.number, Some(answer)));
        // A board that has ended leads to nothing.
        let _ = closed.await;
    }

    fn order(&self, order: Order) {
        // A board ends when it is told to; then nothing is to be led any more.
        let _ = self.orders.send(order);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.order(Order::Close(self.deploy.clone(), self.number, None));
    }
}

/// A deploy, as the board knows it.
#[derive(Debug)]
struct Party {
    line: u64,
    teller: mpsc::UnboundedSender<RouterEvent>,
    led: Option<Led>,
    /// Its generations, each with the first of the board's that it is in.
    tables: Vec<(Generation, Generation)>,
    supply: Option<Arc<Supply>>,
    serials: Vec<(u64, u64)>,
    draining: BTreeSet<u16>,
}

struct Board {
    router: Router,
    /// Counts the tables.
    generation: Generation,
    deploys: BTreeMap<DeployRef, Party>,
    /// A host, and whose it is.
    kept: Option<Led>,
    expected: BTreeSet<DeployRef>,
    /// The last of the router's serials.
    serial: u64,
    table_is_new: bool,
    supply_is_new: bool,
    /// The router is gone; another is started then.
    revive: Option<Timestamp>,
    revived: Option<Timestamp>,
}

impl Board {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let ended = loop {
            let due = self.revive;
            tokio::select! {
                order = orders.recv() => {
                    let mut next = order;
                    let end = loop {
                        match next {
                            Some(Order::End(answer)) => break Some(Some(answer)),
                            Some(order) => self.order(order),
                            None => break Some(None),
                        }
                        // What is asked at once is one table.
                        match orders.try_recv() {
                            Ok(order) => next = Some(order),
                            Err(_) => break None,
                        }
                    };
                    if let Some(answer) = end {
                        break answer;
                    }
                }
                event = self.router.next(), if due.is_none() => self.event(event),
                () = until(due) => self.revive().await,
            }
            self.publish();
        };
        self.router.stop(GRACE).await;
        if let Some(answer) = ended {
            // Whoever asked may have gone.
            let _ = answer.send(());
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Open(deploy, line, teller) => {
                let (tables, serials, draining) = Default::default();
                let party = Party { line, teller, led: None, tables, supply: None, serials, draining };
                self.deploys.insert(deploy, party);
            }
            Order::Lead(deploy, led, generation) => {
                let next = Generation(self.generation.0 + 1);
                if let Some(party) = self.deploys.get_mut(&deploy) {
                    party.led = Some(led);
                    party.tables.push((generation, next));
                    self.table_is_new = true;
                    self.expected.remove(&deploy);
                }
            }
            Order::Certify(deploy, supply, serial) => {
                if let Some(party) = self.deploys.get_mut(&deploy) {
                    party.supply = Some(supply);
                    party.serials.push((serial, self.serial + 1));
                    self.supply_is_new = true;
                }
            }
            Order::Drain(deploy, port) => {
                // By a table that it is in no more.
                self.publish();
                if let Some(party) = self.deploys.get_mut(&deploy) {
                    party.draining.insert(port);
                    self.router.drain(port);
                }
            }
            Order::Close(deploy, line, answer) => {
                if self.deploys.get(&deploy).is_some_and(|party| party.line == line)
                    && let Some(party) = self.deploys.remove(&deploy)
                {
                    self.table_is_new |= party.led.is_some();
                    self.supply_is_new |= party.supply.is_some();
                }
                self.publish();
                // Whoever asked may have gone.
                let _ = answer.map(|answer| answer.send(()));
            }
            Order::Keep(host, deploy) => {
                let route = Arc::new(Route { deploy, web: Web::Starting, manners: Manners::default() });
                self.kept = Some(Led { own: vec![host], added: Vec::new(), route, any_host: false });
            }
            // The loop's own.
            Order::End(_) => {}
        }
    }

    fn event(&mut self, event: RouterEvent) {
        match event {
            RouterEvent::Applied { generation } => {
                for party in self.deploys.values_mut() {
                    let reached = party.tables.iter().filter(|(_, first)| *first <= generation).map(|(own, _)| *own).max();
                    party.tables.retain(|(_, first)| *first > generation);
                    if let Some(generation) = reached {
                        party.tell(RouterEvent::Applied { generation });
                    }
                }
            }
            RouterEvent::Certified { serial, wrong } => {
                for party in self.deploys.values_mut() {
                    let reached = party.serials.iter().filter(|(_, first)| *first <= serial).map(|(own, _)| *own).max();
                    party.serials.retain(|(_, first)| *first > serial);
                    if let Some(serial) = reached {
                        party.tell(RouterEvent::Certified { serial, wrong: wrong.clone() });
                    }
                }
            }
            RouterEvent::Drained { port } => {
                if let Some(party) = self.deploys.values_mut().find_map(|party| party.draining.remove(&port).then_some(party)) {
                    party.tell(event);
                }
            }
            RouterEvent::Wrote { ref deploy } => {
                let of = |name: &str| name.parse::<DeployRef>().ok();
                if let Some(party) = of(deploy).and_then(|deploy| self.deploys.get(&deploy)) {
                    party.tell(event);
                }
            }
            RouterEvent::BackendRefused { ref deploy, .. } | RouterEvent::Counted { ref deploy, .. } => {
                if let Some(party) = deploy.parse().ok().and_then(|deploy: DeployRef| self.deploys.get(&deploy)) {
                    party.tell(event);
                }
            }
            RouterEvent::Lost => {
                // At once, unless the last one did not even live that long: then no faster than that.
                let now = Timestamp::now();
                let soon = self.revived.is_some_and(|at| now.duration_since(at) < PACE);
                self.revive = Some(if soon { now + PACE } else { now });
                self.tell_all(&RouterEvent::Lost);
            }
            RouterEvent::Weak { .. } => self.tell_all(&event),
            // What the board says itself, and what nobody asks it for.
            RouterEvent::Stale { .. } | RouterEvent::InFlight { .. } | RouterEvent::NotRevived { .. } => {}
        }
    }

    fn tell_all(&self, event: &RouterEvent) {
        self.deploys.values().for_each(|party| party.tell(event.clone()));
    }

    async fn revive(&mut self) {
        let now = Timestamp::now();
        (self.revive, self.revived) = (None, Some(now));
        if let Err(error) = self.router.revive().await {
            tracing::error!(%error, "cannot start another router");
            self.tell_all(&RouterEvent::NotRevived { why: crate::chain(&error) });
            self.revive = Some(now + PACE);
        }
    }

    /// Gives the router what follows from all lines, where it differs from what it has.
    fn publish(&mut self) {
        if std::mem::take(&mut self.table_is_new) {
            self.generation = Generation(self.generation.0 + 1);
            let led: Vec<&Led> = self.deploys.values().filter_map(|party| party.led.as_ref()).collect();
            let table = table(self.kept.as_ref(), &led, self.generation);
            self.router.set_beside(&table, &self.expected);
        }
        if std::mem::take(&mut self.supply_is_new) {
            let mut all = Supply::default();
            for supply in self.deploys.values().filter_map(|party| party.supply.as_ref()) {
                let fallback = all.certificates.iter().any(|certificate| certificate.fallback);
                let certificates = supply.certificates.iter().cloned().map(|mut certificate| {
                    // Of several one is shown to who names no host.
                    certificate.fallback &= !fallback;
                    certificate
                });
                all.certificates.extend(certificates);
                all.proofs.extend(supply.proofs.iter().cloned());
            }
            self.serial = self.router.certify(Arc::new(all));
        }
    }
}

/// What leads to whom. What is kept leads to its deploy alone; a deploy's own name to nobody but it, with every path below it; then comes what
/// was added. So whoever adds a domain takes no request from anybody, whatever the ledger let them add.
fn table(kept: Option<&Led>, all: &[&Led], generation: Generation) -> RouteTable {
    let mut own: HashMap<&str, &Led> = HashMap::new();
    let of_kept = kept.and_then(|kept| all.iter().copied().find(|led| led.route.deploy == kept.route.deploy)).or(kept);
    for led in all.iter().copied().chain(of_kept) {
        own.extend(led.own.iter().map(|name| (name.host(), led)));
    }
    let foreign = |domain: &Domain, led: &Led| own.get(domain.host()).is_some_and(|owner| owner.route.deploy != led.route.deploy);
    let added =
        all.iter().flat_map(|led| led.added.iter().filter(|domain| !foreign(domain, led)).map(|domain| (domain.clone(), &led.route)));
    let names = all
        .iter()
        .copied()
        .chain(of_kept)
        .flat_map(|led| led.own.iter().filter(|name| !foreign(name, led)).map(|name| (name.clone(), &led.route)));
    let fallback = all.iter().find(|led| led.any_host).map(|led| led.route.clone());
    RouteTable::led(added.chain(names).map(|(domain, route)| (domain, route.clone())), generation, fallback)
}

impl Party {
    fn tell(&self, event: RouterEvent) {
        // A line that is being closed hears nothing more.
        let _ = self.teller.send(event);
    }
}

async fn until(due: Option<Timestamp>) {
    match due {
        Some(at) => tokio::time::sleep(at.duration_since(Timestamp::now()).try_into().unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(deploy: &str, own: &[&str], added: &[&str]) -> Led {
        let domains = |all: &[&str]| all.iter().map(|text| text.parse().expect("a domain")).collect();
        let route = Route { deploy: deploy.parse().expect("a deploy"), web: Web::None, manners: Manners::default() };
        Led { own: domains(own), added: domains(added), route: Arc::new(route), any_host: false }
    }

    /// Whom a host and a path lead to.
    fn found(table: &RouteTable, host: &str, path: &str) -> Option<String> {
        table.lookup(host, path).map(|route| route.deploy.to_string())
    }

    #[test]
    fn an_own_name_leads_to_whose_it_is_whatever_was_added_elsewhere() {
        let added = ["shop.localhost", "shop.localhost/admin", "*.localhost.test", "dozen.localhost", "dozen.localhost/v1", "own.test/a"];
        // Before and after it in the order of names.
        for name in ["aaa/production", "zzz/production"] {
            let thief = led(name, &["thief.localhost"], &added);
            let shop = led("shop/production", &["shop.localhost", "shop.localhost.test"], &["shop.localhost/x", "own.test"]);
            let api = led("dozen/server", &["dozen.localhost"], &[]);
            let mut all = [&thief, &shop, &api];
            all.sort_by_key(|led| led.route.deploy.clone());
            let t = table(None, &all, Generation(1));
            for (host, path, whose) in [
                ("shop.localhost", "/", "shop/production"),
                ("shop.localhost", "/admin", "shop/production"),
                ("shop.localhost", "/x", "shop/production"),
                ("shop.localhost.test", "/", "shop/production"),
                ("dozen.localhost", "/", "dozen/server"),
                ("dozen.localhost", "/v1/apps", "dozen/server"),
                ("thief.localhost", "/", name),
                // What is nobody's own is whose it was added to.
                ("own.test", "/a", name),
                ("own.test", "/b", "shop/production"),
                ("x.localhost.test", "/", name),
            ] {
                assert_eq!(found(&t, host, path).as_deref(), Some(whose), "{host}{path}");
            }
        }
    }

    #[test]
    fn a_host_that_is_kept_leads_to_nobody_else_also_before_its_deploy_is_there() {
        let (kept, thief) =
            (led("dozen/server", &["dozen.a.test"], &[]), led("zzz/dev", &["dozen.a.test"], &["dozen.a.test/v1", "*.a.test"]));
        let before = table(Some(&kept), &[&thief], Generation(1));
        let api = led("dozen/server", &["dozen.a.test"], &[]);
        let after = table(Some(&kept), &[&api, &thief], Generation(2));
        for path in ["/", "/v1/apps"] {
            assert!(before.lookup("dozen.a.test", path).is_some_and(|route| Arc::ptr_eq(route, &kept.route)), "{path}");
            assert!(after.lookup("dozen.a.test", path).is_some_and(|route| Arc::ptr_eq(route, &api.route)), "{path}");
        }
        assert_eq!(found(&after, "other.a.test", "/").as_deref(), Some("zzz/dev"));
    }
}
