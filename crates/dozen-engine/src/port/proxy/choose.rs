//! Which instance a request is sent to, and the wait for one.

use super::{Client, Core, Live, PROOFS, Shared, Stand};
use crate::port::fields::Fields;
use crate::port::fleet::{Line, Picked, Ticket, Wish};
use crate::port::log::Record;
use crate::port::pages::{Code, Refusal};
use crate::port::pool::{Busy, Target};
use crate::port::wire::FromRouter;
use dozen_core::port::Sticky;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// What a request is led by, besides its host and path.
pub(super) struct Asks<'r> {
    pub(super) fields: &'r Fields,
    pub(super) client: &'r Client,
    /// One that was just tried and refused: another is wanted, and where there is none, H21.
    pub(super) refused: Option<u64>,
}

/// Where it is led.
pub(super) struct Led {
    /// To this instance, counted.
    pub(super) busy: Busy,
    /// The client is to be told of the release, to come back to it.
    pub(super) remember: bool,
}

/// Why it is led to no instance.
pub(super) enum Turned {
    Away(Refusal),
    /// It is to come by HTTPS, on this port; `None` is the usual one, of a proxy before the router.
    Elsewhere(Option<u16>),
}

impl From<Code> for Turned {
    fn from(code: Code) -> Self {
        Self::Away(code.into())
    }
}

/// What a look at the table comes to.
enum Look {
    Led(Led),
    /// The table was changed meanwhile.
    Again,
    /// All have as many requests as they take: this line is for those that wait, and is so long at most.
    Full(Arc<Line>, usize),
    /// Something is under way. It is waited for so long, and then it is this.
    Held(Duration, Code),
}

/// The instance to ask, where nothing need be waited for: most requests find it here.
pub(super) fn at_once(core: &Core, record: &mut Record, asks: &Asks<'_>) -> Option<Result<Led, Turned>> {
    let mut now = core.live.borrow_mut();
    if now.epoch != core.shared.epoch.load(Ordering::SeqCst) {
        now.clone_from(&core.table.borrow());
    }
    match look(core, record, asks, &now, None) {
        Ok(Look::Led(led)) => Some(Ok(led)),
        Ok(Look::Again | Look::Full(..) | Look::Held(..)) => None,
        Err(turned) => Some(Err(turned)),
    }
}

/// The instance to ask; waits while the app starts, while a change is under way, and while all have as many requests as they take.
pub(super) async fn choose(core: &Core, record: &mut Record, asks: &Asks<'_>) -> Result<Led, Turned> {
    // Where something is waited for; what has changed since the worker began is seen at once, and looked at once more.
    let mut table: Option<watch::Receiver<Arc<Live>>> = None;
    let limits = &core.shared.limits;
    let mut waiting: Option<Waiting<'_>> = None;
    let mut ticket: Option<(Ticket, tokio::time::Instant)> = None;
    loop {
        let now = match &mut table {
            None => core.table.borrow().clone(),
            Some(table) => table.borrow_and_update().clone(),
        };
        match look(core, record, asks, &now, ticket.as_ref().map(|(ticket, _)| ticket))? {
            Look::Led(led) => return Ok(led),
            Look::Again => {}
            Look::Full(line, most) => match &ticket {
                None => {
                    let place = line.join(most).ok_or(Code::H11)?;
                    // Then it looks once more: what was freed meanwhile has called nobody.
                    ticket = Some((place, tokio::time::Instant::now() + limits.hold));
                }
                Some((ticket, until)) => tokio::select! {
                    () = ticket.called() => {}
                    changed = table.get_or_insert_with(|| core.table.clone()).changed() => changed.map_err(|_| Code::H99)?,
                    () = tokio::time::sleep_until(*until) => return Err(Code::H11.into()),
                },
            },
            Look::Held(limit, code) => {
                // The first wait sets the end of all: a change that goes on to a start does not give a request more time.
                let waiting = match &mut waiting {
                    Some(waiting) => waiting,
                    None => waiting.insert(Waiting::begin(&core.shared, limit)?),
                };
                match tokio::time::timeout_at(waiting.until, table.get_or_insert_with(|| core.table.clone()).changed()).await {
                    Err(_) => return Err(code.into()),
                    Ok(Err(_)) => return Err(Code::H99.into()),
                    Ok(Ok(())) => {}
                }
            }
        }
    }
}

/// Looks once; `ticket` is the request's place in the line, if it has one.
fn look(core: &Core, record: &mut Record, asks: &Asks<'_>, now: &Live, ticket: Option<&Ticket>) -> Result<Look, Turned> {
    let limits = &core.shared.limits;
    let Some(place) = now.table.lookup(record.host(), record.path()) else { return Err(Code::H81.into()) };
    if record.place.is_none() {
        record.place = Some(place.clone());
    }
    let manners = &place.manners;
    if manners.https_only && !record.path().starts_with(PROOFS) && !asks.client.is_secure(record, asks.fields) {
        match core.shared.https {
            _ if asks.client.is_trusted(record) => return Err(Turned::Elsewhere(None)),
            Some(port) => return Err(Turned::Elsewhere(Some(port))),
            // There is no other way to come.
            None => {}
        }
    }
    if manners.maintenance {
        return Err(Code::H80.into());
    }
    let fleet = match if manners.paused { &Stand::Held } else { &place.web } {
        Stand::Crashed => return Err(Code::H10.into()),
        Stand::None => return Err(Code::H14.into()),
        Stand::Away => return Err(Code::H99.into()),
        Stand::Held => return Ok(Look::Held(limits.hold, Code::H80)),
        Stand::Starting => return Ok(Look::Held(limits.boot, Code::H20)),
        Stand::Ready(fleet) => fleet,
    };
    let kept = fleet.kept(&manners.sticky, asks.fields);
    let limit = manners.concurrency.and_then(|most| usize::try_from(most).ok());
    let wish = Wish { avoid: asks.refused, kept, limit, now: &|| core.shared.now() };
    // Nobody goes before those that wait.
    let turn = limit.is_none() || ticket.map_or_else(|| fleet.line.is_empty(), Ticket::is_first);
    match if turn { fleet.pick(wish) } else { Picked::Full } {
        // Counted first, then compared: whoever swaps the table after this comparison finds the request in the count.
        Picked::Got(busy) if core.shared.epoch.load(Ordering::SeqCst) == now.epoch => {
            let remember = fleet.is_split() && manners.sticky == Sticky::Cookie && kept != Some(busy.target().release);
            Ok(Look::Led(Led { busy, remember }))
        }
        Picked::Got(_) => Ok(Look::Again),
        Picked::Nobody => Err(if asks.refused.is_some() { Code::H21 } else { Code::H14 }.into()),
        Picked::Full => Ok(Look::Full(fleet.line.clone(), usize::try_from(manners.queue).unwrap_or(usize::MAX))),
    }
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
    fn begin(shared: &'s Shared, limit: Duration) -> Result<Self, Code> {
        let waiting = Self { shared, until: tokio::time::Instant::now() + limit };
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= shared.limits.waiting {
            return Err(Code::H11);
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
