//! What the driver's task tells: states and lines to the house, the route table to the router.

use super::{Instance, Key, Reconciler};
use crate::port::Supply;
use crate::port::lease::Lease;
use dozen_core::concurrency::Desired;
use dozen_core::disposability::last_words;
use dozen_core::ids::{DeployRef, Generation};
use dozen_core::logs::{LogLine, Source};
use dozen_core::port::{Backend, Manners, Route, RouteTable, Web};
use dozen_core::processes::{Seen, State};
use jiff::Timestamp;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Reconciler {
    pub(crate) fn seen(&self, key: &Key, i: &Instance) -> Seen {
        Seen {
            deploy: i.release.deploy.clone(),
            generation: i.generation,
            instance: key.1.clone(),
            release: key.0,
            state: i.life.state,
            since: i.life.since,
            port: i.port.as_ref().map(Lease::port),
            ready: i.life.ready,
            routed: i.routed,
            pid: i.pid,
            restarts: i.life.restarts,
            exit: i.life.exit,
            fault: i.life.fault,
            retry: i.life.retry(),
            isolation: i.isolation,
            size: i.size,
            missing: i.missing.clone(),
            stopped: i.stopped,
        }
    }

    pub(crate) fn report(&self, key: &Key) {
        if let Some(i) = self.instances.get(key) {
            // Routed is what the router goes by, not what it was told: whoever waits for it asks next. One that is in the table again
            // before it was taken out makes no new table.
            let applied = self.applied >= i.table.min(self.tables);
            self.site.report.seen(Seen { routed: i.routed && applied, ..self.seen(key, i) });
        }
    }

    pub(crate) fn line(&self, ps: &str, message: &str) {
        let deploy = self.desired.as_ref().map(|d| d.deploy.clone());
        // What was taken over or runs once has one, too.
        let any = || self.one_offs.values().chain(self.instances.values()).next().map(|i| i.release.deploy.clone());
        let deploy = deploy.or_else(any);
        if let Some(deploy) = deploy {
            self.line_of(&deploy, ps, message);
        }
    }

    pub(crate) fn line_of(&self, deploy: &DeployRef, ps: &str, message: &str) {
        let line = LogLine { time: Timestamp::now(), source: Source::Dozen, ps: ps.to_owned(), message: message.as_bytes().to_vec() };
        self.site.report.line(deploy, line);
    }

    /// Says why a process that nobody stopped most likely ended, where its last lines tell.
    pub(crate) fn tell_cause(&self, ps: &str) {
        if let Some(cause) = last_words::cause(&self.site.store.last_words(ps, last_words::LINES)) {
            self.line(ps, &format!("Likely cause: {}. {}.", cause.what, cause.cure));
        }
    }

    /// The table that follows from what is routed; sent when it differs from the last. What left it is then drained.
    pub(crate) fn publish_routes(&mut self) {
        let Some(desired) = &self.desired else { return };
        let web = self.web(desired);
        let changed = self.routes.as_ref() != Some(&web);
        let Some(router) = &mut self.site.router else { return };
        if changed {
            self.tables += 1;
            let route = Arc::new(Route { deploy: desired.deploy.clone(), web: web.clone(), manners: Manners::default() });
            let domain = format!("{}.localhost", desired.deploy.app).parse().ok();
            let domains = domain.into_iter().map(|domain| (domain, route.clone()));
            router.set(&RouteTable::led(domains, Generation(self.tables), self.site.any_host.then(|| route.clone())));
            self.routes = Some(web);
        }
        self.leaving.drain(..).for_each(|port| router.drain(port));
    }

    /// Hands the router what it is to speak TLS with.
    pub(crate) fn certify(&mut self, supply: Arc<Supply>, answer: oneshot::Sender<()>) {
        match &mut self.site.router {
            Some(router) => self.certifying.push((router.certify(supply), answer)),
            // Whoever waits may have gone.
            None => drop(answer.send(())),
        }
    }

    /// The router shows what it was handed at this time.
    pub(crate) fn certified(&mut self, serial: u64, wrong: &[String]) {
        wrong.iter().for_each(|what| self.line("router", &format!("The router cannot show a certificate: {what}")));
        for (_, answer) in self.certifying.extract_if(.., |(since, _)| *since <= serial) {
            // Whoever waited may have gone.
            let _ = answer.send(());
        }
    }

    pub(crate) fn web(&self, desired: &Desired) -> Web {
        let webs: Vec<(&Key, &Instance)> = self.instances.iter().filter(|((_, i), _)| i.kind.is_web()).collect();
        let ready: Vec<Backend> = webs
            .iter()
            .filter(|(_, i)| i.routed && i.life.state == State::Up && i.life.ready)
            .filter_map(|(key, i)| {
                let weight = desired.releases.iter().find(|share| share.release.version == key.0).map_or(1, |share| share.weight);
                Some(Backend { instance: key.1.to_string(), port: i.port.as_ref()?.port(), release: key.0, weight })
            })
            .collect();
        let wanted = desired.releases.iter().any(|s| s.formation.iter().any(|(kind, n)| kind.is_web() && n > 0));
        if !ready.is_empty() {
            Web::Ready(ready)
        } else if desired.hold {
            Web::Held
        } else if !wanted {
            Web::None
        } else if !webs.is_empty() && webs.iter().all(|(_, i)| i.life.state == State::Crashed) {
            Web::Crashed
        } else {
            Web::Starting
        }
    }
}
