//! What the driver's task takes over from another one that is gone.

use super::{Instance, Reconciler, seed};
use crate::port::lease::Lease;
use crate::processes::adoption::Found;
use crate::processes::{JailEvent, missing_there_alone};
use dozen_core::disposability::health::Checks;
use dozen_core::disposability::{Event, Life, Signs};
use dozen_core::processes::rules::HealthKind;
use dozen_core::processes::{Exit, State};
use dozen_core::release::Release;
use jiff::Timestamp;
use std::sync::Arc;

impl Reconciler {
    /// An instance that another control part has started is one of this one from now on, in the state that it is in.
    pub(super) async fn adopt(&mut self, found: Found, release: Arc<Release>) {
        let Found { birth, jail, pid, isolation, missing, listening, stopping, end, crashed } = found;
        let key = (birth.release, birth.instance);
        let routed = self.site.router.as_ref().is_some_and(|router| birth.port.is_some_and(|port| router.routes(port)));
        // One that is sent requests has passed its checks: to begin with them again would take it from the router.
        let well = [Event::Healthy(HealthKind::Startup), Event::Healthy(HealthKind::Readiness)].into_iter().filter(|_| routed);
        let since_listening = std::iter::once(Event::Listening).chain(well);
        let mut past: Vec<(Timestamp, Event)> =
            listening.into_iter().flat_map(|at| since_listening.clone().map(move |event| (at, event))).collect();
        past.extend(stopping.map(|at| (at, Event::Stop)));
        // Taken in by the one before: it waits for its next start as it would have there.
        past.extend(crashed.map(|at| (at, Event::Ended(end))));
        let seed = seed(&release.deploy, &key.1);
        let counts = (birth.restarts, birth.crashes);
        let (rules, now) = (release.rules(&key.1.kind), Timestamp::now());
        let (policy, signs) = (self.site.policy.with(&rules), Signs::of(key.1.kind.is_web(), &rules.checks));
        let (life, todo) = Life::found(signs, seed, birth.started, counts, &past, &policy, now);
        let told = match &jail {
            _ if crashed.is_some() => "Taken over by another control part, crashed".to_owned(),
            Some(_) => format!("Taken over by another control part, {}", life.state.as_str()),
            None => "It ended while no control part was there".to_owned(),
        };
        self.line_of(&release.deploy, &key.1.to_string(), &told);
        let routed = routed && life.state == State::Up;
        let gone = jail.is_none() && crashed.is_none();
        let (incarnation, handle) = match jail {
            Some(jail) => self.follow(key.clone(), Ok(jail)),
            None => {
                self.incarnations += 1;
                (self.incarnations, None)
            }
        };
        let port = birth.port.map(Lease::again);
        let instance = Instance {
            checks: Checks::new(&rules.checks, key.1.kind.is_web()),
            port,
            jail: handle,
            incarnation,
            routed,
            table: self.tables,
            pid,
            isolation,
            missing: missing_there_alone(missing),
            size: birth.size,
            ..Instance::new(release, birth.generation, life, policy, birth.started)
        };
        self.instances.insert(key.clone(), instance);
        self.report(&key);
        self.perform(&key, todo).await;
        if gone {
            let event = if end == Exit::Lost { JailEvent::Lost } else { JailEvent::Exited(end) };
            // At once: nobody is to take it for one that runs.
            self.jail_event(key, incarnation, event).await;
        }
    }
}
