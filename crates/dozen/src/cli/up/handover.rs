//! `up --detach` where another one runs already: that one leaves what it runs to this one, and ends.

use crate::cli::down::wait_for;
use crate::client::{Client, Told};
use crate::printer::Printer;
use crate::running::{AlreadyRunning, RunFolder};
use crate::settings::Settings;
use anyhow::{Context, Result};
use dozen_core::ids::DeployRef;
use dozen_engine::output::Output;
use dozen_engine::port::Router;
use dozen_engine::processes::adoption;
use dozen_engine::processes::notes::Notes;
use http::Method;
use serde_json::json;

/// Takes the deploy, from whoever runs it where that can be taken over.
pub(super) async fn take(settings: &Settings, deploy: &DeployRef, printer: &Printer) -> Result<RunFolder> {
    let refused = match RunFolder::take(&settings.home, deploy, true) {
        Ok(free) => return Ok(free),
        Err(refused) => refused,
    };
    let Some(AlreadyRunning(holder)) = refused.downcast_ref().filter(|AlreadyRunning(holder)| holder.lasting) else {
        return Err(refused);
    };
    // Before it goes: what this version cannot take over stays with the one that can.
    let notes = Notes::of(settings.home.run(deploy));
    adoption::check(&notes)?;
    Router::check(&notes)?;
    printer.step(&format!("Taking over from {holder}"));
    let mut client = Client::connect(settings, deploy.clone()).await.with_context(|| refused.to_string())?;
    let left: Result<serde_json::Value> = client.call(Method::POST, "/handover", &json!({})).await;
    match left {
        // One that is gone before its answer has come has left as well.
        Err(e) if e.is::<Told>() => return Err(e),
        Ok(_) | Err(_) => wait_for(deploy, holder.pid).await?,
    }
    RunFolder::take(&settings.home, deploy, true)
}
