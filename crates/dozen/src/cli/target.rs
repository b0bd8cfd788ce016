//! Which deploy a command is about: `-a`, or the app of the current folder.

use super::Usage;
use crate::api::wire;
use crate::client::Connection;
use crate::house::PRODUCTION;
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use dozen_core::ids::{AppName, DEFAULT_DEPLOY, DeployRef};
use dozen_core::manifest::app_json;
use dozen_engine::ledger::{AppRow, Ledger};
use std::path::{Path, PathBuf};

/// The deploy that `-a` names, or that the current folder belongs to: on the server that is chosen, else on this machine.
pub(crate) async fn find(settings: &Settings) -> Result<DeployRef> {
    let Some(remote) = &settings.remote else { return find_here(settings).await };
    let Some(name) = &settings.app else {
        return remote.deploy.clone().with_context(|| format!("name an app of {} with -a; `dozen apps` lists them", remote.url));
    };
    // What there is of that name the server says, who knows whether one may see it.
    if name.contains('/') {
        return Ok(name.parse()?);
    }
    let app: AppName = name.parse()?;
    let answer: wire::Apps = Connection::to(remote).await?.get("/v1/apps").await?;
    let deploys: Vec<DeployRef> = answer.apps.iter().flat_map(|app| &app.deploys).filter_map(|d| d.name.parse().ok()).collect();
    // On a server an app's own name is its production, whatever other deploys are made.
    let production = deploys.iter().find(|d| d.app == app && d.deploy.as_str() == PRODUCTION).cloned();
    production.map_or_else(|| only(&deploys, &app), |production| Ok(Some(production)))?.with_context(|| unknown(name, &deploys))
}

async fn find_here(settings: &Settings) -> Result<DeployRef> {
    let ledger = settings.home.ledger();
    let there =
        ledger.try_exists().with_context(|| format!("cannot look into {}; is it another user's?", settings.home.root().display()))?;
    if !there {
        bail!("nothing was brought up yet in {}; start with `dozen up` in an app's folder", settings.home.root().display());
    }
    let ledger = Ledger::open(&settings.home)?;
    let deploys = ledger.deploys().await?;
    let names = || deploys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if let Some(name) = &settings.app {
        if name.contains('/') {
            let deploy: DeployRef = name.parse()?;
            if deploys.contains(&deploy) {
                return Ok(deploy);
            }
        }
        let app: Result<AppName, _> = name.parse();
        if let Ok(app) = app {
            return only(&deploys, &app)?.with_context(|| unknown(name, &deploys));
        }
        bail!(unknown(name, &deploys));
    }
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let apps = ledger.apps().await?;
    let mine = here.ancestors().find_map(|folder| of_folder(&apps, folder).transpose());
    match mine.transpose()? {
        Some(app) => only(&deploys, &app.name)?.with_context(|| unknown(app.name.as_str(), &deploys)),
        None if deploys.is_empty() => bail!("nothing was brought up yet; start with `dozen up` in an app's folder"),
        None => bail!("no app was brought up from {}; name one with -a: {}", here.display(), names()),
    }
}

/// The app of the deploy that is meant, where it has several deploys or one.
pub(crate) async fn app(settings: &Settings) -> Result<AppName> {
    match &settings.app {
        Some(name) => Ok(name.parse::<DeployRef>()?.app),
        None => Ok(find(settings).await?.app),
    }
}

/// An error where there is no such deploy. A server elsewhere says so itself.
pub(crate) async fn known(settings: &Settings, deploy: &DeployRef) -> Result<()> {
    if settings.remote.is_some() {
        return Ok(());
    }
    let deploys = Ledger::open(&settings.home)?.deploys().await?;
    if deploys.contains(deploy) { Ok(()) } else { bail!(unknown(&deploy.to_string(), &deploys)) }
}

/// The name that `up` gives the app of a folder: `--app`, the one that was brought up from there before, app.json's, the folder's own.
pub(crate) async fn name(settings: &Settings, ledger: &Ledger, folder: &Path) -> Result<DeployRef> {
    if let Some(name) = &settings.app {
        return Ok(name.parse()?);
    }
    let apps = ledger.apps().await?;
    let deploys = ledger.deploys().await?;
    if let Some(app) = of_folder(&apps, folder)?
        && let Some(deploy) = only(&deploys, &app.name)?
    {
        return Ok(deploy);
    }
    let Some(app) = suggested(folder) else {
        bail!("cannot make an app name of {}; give one with --app NAME", folder.display());
    };
    let elsewhere: Option<&PathBuf> = apps.iter().find(|a| a.name == app).and_then(|a| a.folder.as_ref());
    if let Some(other) = elsewhere.filter(|f| f.exists()) {
        bail!(
            "an app {app} was brought up from {} before; give this one another name with --app NAME, or take it over with --app {app}",
            other.display()
        );
    }
    Ok(app.to_string().parse()?)
}

/// The folder of an app, without links.
pub(crate) fn folder(settings: &Settings, dir: &Path) -> Result<PathBuf> {
    let folder = std::fs::canonicalize(dir).with_context(|| format!("cannot find the folder {}", dir.display()))?;
    if !folder.is_dir() {
        bail!("{} is not a folder; give the folder of an app", folder.display());
    }
    if std::fs::canonicalize(settings.home.root()).is_ok_and(|home| home == folder) {
        // Told before anything is written there.
        bail!(Usage("DOZEN_HOME is the app's own folder; set it to another".to_owned()));
    }
    Ok(folder)
}

/// The name that a build gives the app of a folder: as [`name`], but what was brought up on this machine is asked only where there is such.
pub(crate) async fn app_of(settings: &Settings, folder: &Path) -> Result<AppName> {
    if let Some(name) = &settings.app {
        return Ok(name.parse::<DeployRef>()?.app);
    }
    if settings.home.ledger().exists() {
        let apps = Ledger::open(&settings.home)?.apps().await?;
        if let Some(app) = of_folder(&apps, folder)? {
            return Ok(app.name.clone());
        }
    }
    suggested(folder).with_context(|| format!("cannot make an app name of {}; give one with --app NAME", folder.display()))
}

/// The deploy that a slug file is released to: `--app`, or the only one of its own app, which is made where there is none.
pub(crate) async fn of_slug(settings: &Settings, ledger: &Ledger, app: &AppName) -> Result<DeployRef> {
    match &settings.app {
        Some(name) => Ok(name.parse()?),
        None => Ok(only(&ledger.deploys().await?, app)?.map_or_else(|| app.to_string().parse(), Ok)?),
    }
}

/// The app that was brought up from a folder; of several the one that has the folder's own name.
fn of_folder<'a>(apps: &'a [AppRow], folder: &Path) -> Result<Option<&'a AppRow>> {
    let mine: Vec<&AppRow> = apps.iter().filter(|a| a.folder.as_deref() == Some(folder)).collect();
    if mine.len() < 2 {
        return Ok(mine.first().copied());
    }
    let own = suggested(folder);
    match mine.iter().find(|a| Some(&a.name) == own.as_ref()) {
        Some(app) => Ok(Some(app)),
        None => {
            let names: Vec<&str> = mine.iter().map(|a| a.name.as_str()).collect();
            bail!("several apps were brought up from {}; name one with -a: {}", folder.display(), names.join(", "))
        }
    }
}

/// The name that an app gets by itself: app.json's, else the folder's own.
fn suggested(folder: &Path) -> Option<AppName> {
    // What is wrong with the file is told when it is read for good.
    let declared = std::fs::read(folder.join("app.json")).ok().and_then(|bytes| app_json::parse_bytes(&bytes).0.name);
    let own = folder.file_name().map(|n| n.to_string_lossy().into_owned());
    [declared, own].into_iter().flatten().find_map(|name| AppName::suggest(&name))
}

/// An app's only deploy, or its default one. An error where it has several and none is the default.
fn only(deploys: &[DeployRef], app: &AppName) -> Result<Option<DeployRef>> {
    let mine: Vec<&DeployRef> = deploys.iter().filter(|d| d.app == *app).collect();
    match mine.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).clone())),
        several => match [DEFAULT_DEPLOY, PRODUCTION].iter().find_map(|name| several.iter().find(|d| d.deploy.as_str() == *name)) {
            Some(default) => Ok(Some((*default).clone())),
            None => {
                let names: Vec<String> = several.iter().map(ToString::to_string).collect();
                bail!("{app} has several deploys; name one with -a: {}", names.join(", "))
            }
        },
    }
}

fn unknown(name: &str, deploys: &[DeployRef]) -> String {
    let names: Vec<String> = deploys.iter().map(ToString::to_string).collect();
    let short: Vec<&str> = deploys.iter().map(|d| d.app.as_str()).collect();
    let near = dozen_core::diagnostic::nearest(name, names.iter().map(String::as_str).chain(short));
    match near {
        Some(near) => format!("there is no deploy {name}; did you mean {near}?"),
        None if names.is_empty() => format!("there is no deploy {name}; nothing was brought up yet"),
        None => format!("there is no deploy {name}; there are {}", names.join(", ")),
    }
}
