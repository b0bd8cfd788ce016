//! What the driver's task tells: states and lines to the house, the route table to the router.

use super::{Instance, Key, Reconciler};
use crate::port::lease::Lease;
use crate::port::{Led, Supply};
use dozen_core::concurrency::Desired;
use dozen_core::disposability::last_words;
use dozen_core::ids::{DeployRef, Generation};
use dozen_core::logs::{LogLine, Source};
use dozen_core::port::{Backend, Route, Web, bad_pages};
use dozen_core::processes::{Seen, State};
use dozen_core::release::Release;
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
            // Routed is what the router goes by, not what it was told: whoever waits for it asks next.
            self.site.report.seen(Seen { routed: i.routed && self.applied >= i.table, ..self.seen(key, i) });
        }
    }

    /// What was to be in the next table and is in the one that there is: where it was in the table again before it was taken out no other
    /// came of it.
    pub(crate) fn settle_tables(&mut self) {
        let (tables, mut settled) = (self.tables, Vec::new());
        for (key, i) in self.instances.iter_mut().filter(|(_, i)| i.table > tables) {
            i.table = tables;
            settled.push(key.clone());
        }
        settled.iter().for_each(|key| self.report(key));
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
        let paused = self.front.manners.paused;
        self.front = std::mem::take(&mut self.front).at(Timestamp::now());
        if paused && !self.front.manners.paused {
            self.line("router", "The pause is over");
        }
        // Where nothing is led anywhere there is nothing to wait for.
        if self.desired.is_none() || self.site.router.is_none() {
            self.asked.clear();
        }
        let Some(desired) = &self.desired else { return };
        // Releases that serve until another one does keep their parts.
        self.weights.retain(|version, _| self.instances.keys().any(|(of, _)| of == version));
        self.weights.extend(desired.releases.iter().map(|share| (share.release.version, share.weight)));
        let serving = self.serving(desired);
        let manners = self.front.manners(serving);
        let route = Route { deploy: desired.deploy.clone(), web: self.web(desired), manners };
        let is_new = self.front_is_new || self.route.as_deref() != Some(&route);
        let bad = if is_new { serving.map(bad_pages).unwrap_or_default() } else { Vec::new() };
        if self.bad_pages != bad && is_new {
            bad.iter().for_each(|name| self.line("router", &format!("{name} is not shown: it is no address of http or https")));
            self.bad_pages = bad;
        }
        let Some(router) = &mut self.site.router else { return };
        if is_new {
            self.tables += 1;
            let route = Arc::new(route);
            let (own, added) = (self.site.names.clone(), self.front.domains.clone());
            router.lead(Led { own, added, route: route.clone(), any_host: self.site.any_host }, Generation(self.tables));
            (self.route, self.front_is_new) = (Some(route), false);
        }
        self.leaving.drain(..).for_each(|port| router.drain(port));
        self.asked.iter_mut().for_each(|(table, _)| *table = Some(table.unwrap_or(self.tables)));
        self.asked.retain(|(table, _)| table.is_none_or(|table| table > self.applied));
    }

    /// The release that says how its requests are treated: the latest that gets any, else the latest that is wanted.
    fn serving<'d>(&'d self, desired: &'d Desired) -> Option<&'d Release> {
        let routed = self.instances.iter().filter(|(_, i)| i.routed).map(|(_, i)| &*i.release).max_by_key(|r| r.version);
        routed.or_else(|| desired.releases.iter().map(|share| &*share.release).max_by_key(|r| r.version))
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
                let weight = self.weights.get(&key.0).copied().unwrap_or(1);
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
