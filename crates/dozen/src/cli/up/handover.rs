//! `up --detach` where another one runs already: that one leaves what it runs to this one, and ends.

use super::Signals;
use crate::api::wire;
use crate::cli::down::wait_for;
use crate::client::{Client, Told};
use crate::printer::Printer;
use crate::running::{self, AlreadyRunning, Holder, RunFolder};
use crate::settings::Settings;
use anyhow::Result;
use dozen_core::ids::DeployRef;
use dozen_engine::output::Output;
use dozen_engine::port::{Ahead, Ports, Router};
use dozen_engine::processes::adoption;
use dozen_engine::processes::notes::Notes;
use http::Method;
use serde_json::json;
use std::time::{Duration, Instant};

/// One that has just started has its API within this; one that has none by then is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(20);

/// What was taken.
pub(super) struct Taken {
    pub(super) run_folder: RunFolder,
    /// The ports that were asked for and are not the running router's.
    pub(super) ahead: Ahead,
}

/// Takes the deploy, from whoever runs it where that can be taken over. `None` where a signal came before that was asked to leave.
pub(super) async fn take(
    settings: &Settings,
    deploy: &DeployRef,
    ports: Ports,
    signals: &mut Signals,
    printer: &Printer,
) -> Result<Option<Taken>> {
    let mut ahead = None;
    let begun = Instant::now();
    loop {
        let refused = match RunFolder::take(&settings.home, deploy, true) {
            Ok(run_folder) => return Ok(Some(Taken { run_folder, ahead: ahead.unwrap_or_default() })),
            Err(refused) => refused,
        };
        let Some(AlreadyRunning(holder)) = refused.downcast_ref() else { return Err(refused) };
        // Of one that has this moment begun it is not yet written down who it is.
        let starts = holder.pid == 0;
        if !starts && !holder.lasting {
            return Err(refused);
        }
        // Before it goes: what this version cannot take over, or has no port for, stays with the one that can.
        let notes = Notes::of(settings.home.run(deploy));
        adoption::check(&notes)?;
        Router::check(&notes)?;
        if let Some((http, https)) = Router::ports_of(&notes).filter(|(http, https)| ahead.is_none() && !ports.are(*http, *https)) {
            ahead = Some(ports.ahead(http, https)?);
        }
        let client = tokio::select! {
            client = answering(settings, deploy, holder) => client?.filter(|_| !starts),
            () = signals.next() => return Ok(None),
        };
        let Some(client) = client else {
            if begun.elapsed() > PATIENCE {
                let message = format!("{refused}, and its API does not answer");
                return Err(Told::failed(message, Some(running::without_api(holder))).into());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => continue,
                () = signals.next() => return Ok(None),
            }
        };
        leave(client, holder, printer).await?;
    }
}

/// A connection to one that answers: what one that is stopped or stuck is asked, it does when it goes on. `None` where it does not, yet.
async fn answering(settings: &Settings, deploy: &DeployRef, holder: &Holder) -> Result<Option<Client>> {
    let asked = async {
        let mut client = Client::of_holder(settings, deploy.clone(), holder).await?;
        client.get::<wire::Info>("").await.map(|_| client)
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Err(e)) if e.is::<Told>() => Err(e),
        answered => Ok(answered.ok().and_then(Result::ok)),
    }
}

/// Has a running one leave, and waits until it has.
async fn leave(mut client: Client, holder: &Holder, printer: &Printer) -> Result<()> {
    printer.step(&format!("Taking over from {holder}"));
    let left: Result<serde_json::Value> = client.call(Method::POST, "/handover", &json!({})).await;
    match left {
        // One that is gone before its answer has come has left as well.
        Err(e) if e.is::<Told>() => Err(e),
        Ok(_) | Err(_) => wait_for(&client.deploy, holder.pid).await,
    }
}
