//! Which instance a request is sent to, and the wait for one.

use super::{Core, Shared, Stand};
use crate::port::log::Record;
use crate::port::pages::{Code, Refusal};
use crate::port::pool::{Busy, Target};
use crate::port::wire::FromRouter;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The instance to ask, counted; waits while the app starts. `refused` is one that was just tried: another is wanted, and where
/// there is none, H21.
pub(super) async fn choose(core: &Core, record: &mut Record, refused: Option<u64>) -> Result<Busy, Refusal> {
    let mut table = core.table.clone();
    let mut waiting: Option<Waiting<'_>> = None;
    loop {
        let now = table.borrow_and_update().clone();
        let Some(place) = now.table.lookup(&record.host, &record.path) else { return Err(Code::H81.into()) };
        if record.place.is_none() {
            record.place = Some(place.clone());
        }
        if place.manners.maintenance {
            return Err(Code::H80.into());
        }
        let web = if place.manners.paused { &Stand::Held } else { &place.web };
        match web {
            Stand::Crashed => return Err(Code::H10.into()),
            Stand::None => return Err(Code::H14.into()),
            Stand::Ready(targets) => {
                let Some(target) = core.pick(targets, refused) else {
                    return Err(if refused.is_some() { Code::H21 } else { Code::H14 }.into());
                };
                let busy = Busy::with(target);
                // Counted first, then compared: whoever swaps the table after this comparison finds the request in the count.
                if core.shared.epoch.load(Ordering::SeqCst) == now.epoch {
                    return Ok(busy);
                }
            }
            stand @ (Stand::Starting | Stand::Held) => {
                let limits = &core.shared.limits;
                let (limit, code) = if matches!(stand, Stand::Held) { (limits.hold, Code::H80) } else { (limits.boot, Code::H20) };
                // The first wait sets the end of all: a change that goes on to a start does not give a request more time.
                let waiting = match &mut waiting {
                    Some(waiting) => waiting,
                    None => waiting.insert(Waiting::begin(&core.shared, limit)?),
                };
                match tokio::time::timeout_at(waiting.until, table.changed()).await {
                    Err(_) => return Err(code.into()),
                    Ok(Err(_)) => return Err(Code::H99.into()),
                    Ok(Ok(())) => {}
                }
            }
        }
    }
}

impl Core {
    /// The less busy of two random instances, among those that are not in quarantine; if all are, among all.
    fn pick(&self, targets: &[Arc<Target>], avoid: Option<u64>) -> Option<Arc<Target>> {
        if let [only] = targets {
            return (avoid != Some(only.id)).then(|| only.clone());
        }
        let now = self.shared.now();
        let healthy = |t: &&Arc<Target>| Some(t.id) != avoid && t.quarantined_until.load(Ordering::Relaxed) <= now;
        let fit = match targets.iter().filter(healthy).count() {
            0 => targets.iter().filter(|t| Some(t.id) != avoid).collect::<Vec<_>>(),
            _ => targets.iter().filter(healthy).collect(),
        };
        let fit = of_one_release(fit);
        let first = *fit.get(rand::random_range(0..fit.len().max(1)))?;
        let second = fit[rand::random_range(0..fit.len())];
        let load = |t: &Target| t.in_flight.load(Ordering::Relaxed);
        Some(if load(second) < load(first) { second } else { first }.clone())
    }
}

/// The instances of one release, chosen by the releases' weights.
fn of_one_release(mut fit: Vec<&Arc<Target>>) -> Vec<&Arc<Target>> {
    if fit.iter().all(|t| t.release == fit[0].release) {
        return fit;
    }
    let weights: BTreeMap<u32, u64> = fit.iter().map(|t| (t.release, t.weight.load(Ordering::Relaxed).into())).collect();
    let mut left = rand::random_range(0..weights.values().sum::<u64>().max(1));
    let chosen = weights.into_iter().find_map(|(release, weight)| {
        let over = left < weight;
        left = left.saturating_sub(weight);
        over.then_some(release)
    });
    // Where no weight is left, all are equal.
    if let Some(chosen) = chosen {
        fit.retain(|t| t.release == chosen);
    }
    fit
}

impl Shared {
    /// Milliseconds since the router's start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A place among the requests that wait for an app's start, or for a change of it.
struct Waiting<'s> {
    shared: &'s Shared,
    until: tokio::time::Instant,
}

impl<'s> Waiting<'s> {
    fn begin(shared: &'s Shared, limit: Duration) -> Result<Self, Refusal> {
        let waiting = Self { shared, until: tokio::time::Instant::now() + limit };
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= shared.limits.waiting {
            return Err(Code::H11.into());
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nothing listens on its port: others are asked first for a while, and the control plane is told once.
pub(super) fn quarantine(core: &Core, target: &Target) {
    let now = core.shared.now();
    let span = u64::try_from(core.shared.limits.quarantine.as_millis()).unwrap_or(u64::MAX);
    if target.quarantined_until.swap(now.saturating_add(span), Ordering::Relaxed) <= now {
        let _ = core.shared.events.send(FromRouter::Refused {
            deploy: target.deploy.clone(),
            instance: target.instance.clone(),
            port: target.port,
        });
    }
}
