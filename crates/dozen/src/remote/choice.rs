//! Which server a command is about: the one that is named, else the one that the current folder is pushed to, else none but this machine.
//!
//! **Invariant:** a folder's git remote leads only to a server that one is logged in to, and what `DOZEN_TOKEN` says is not for it: whoever
//! wrote a repository's configuration decides about nobody's token.

use super::logins::Logins;
use super::{Remote, ServerUrl};
use crate::cli::Usage;
use crate::client::Told;
use crate::house::PRODUCTION;
use crate::programs;
use anyhow::{Context, Result, anyhow, bail};
use dozen_core::ids::DeployRef;
use std::path::Path;
use url::Url;

/// The server's name that is none: this machine.
const LOCAL: &str = "local";
/// What git calls the server; the remote of another deploy than the first is called after it, too, `dozen-staging`.
const REMOTE: &str = "dozen";

/// What was said of servers, by flags and by the environment.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// `--server`, `DOZEN_SERVER`
    pub(crate) server: Option<String>,
    /// `DOZEN_TOKEN`
    pub(crate) token: Option<String>,
    /// `--ca`, `DOZEN_CA`: certificates as PEM.
    pub(crate) authority: Option<String>,
    /// Whether `-a` names the app.
    pub(crate) app: bool,
    /// Whether a server is meant, though nothing names one.
    pub(crate) only: bool,
}

/// Chooses it; `None` is this machine.
///
/// # Errors
/// A server is named that one is not logged in to, or a folder is pushed to several.
pub(crate) fn choose(said: Said, logins: &Logins, folder: &Path) -> Result<Option<Remote>> {
    let chosen = match said.server.as_deref() {
        Some(LOCAL) => None,
        Some(named) => {
            let url: ServerUrl = named.parse().map_err(|why| Usage(format!("{named:?} is no server: {why}, or `{LOCAL}`")))?;
            let kept = logins.find(&url)?;
            Some(match (said.token, kept) {
                (Some(text), kept) => Remote { authority: kept.and_then(|k| k.authority), ..Remote::new(url, &text, None)? },
                (None, Some(kept)) => kept.remote(url)?,
                (None, None) => {
                    let hint = format!("`dozen login {url}` asks for your token; DOZEN_TOKEN gives one for this command.");
                    bail!(Told::failed(format!("you are not logged in to {url}"), Some(hint)))
                }
            })
        }
        None => match by_folder(logins, folder, said.app)? {
            None if said.only => only(logins)?,
            found => found,
        },
    };
    Ok(chosen.map(|remote| Remote { authority: said.authority.or(remote.authority.clone()), ..remote }))
}

/// The server that one is logged in to, where it is one alone.
fn only(logins: &Logins) -> Result<Option<Remote>> {
    let mut known = logins.all()?;
    if known.len() > 1 {
        let names: Vec<String> = known.iter().map(|(url, _)| url.to_string()).collect();
        let hint = format!("Name one: --server {}, or `--server {LOCAL}` for this machine.", names[0]);
        bail!(Told::failed(format!("you are logged in to several servers: {}", names.join(", ")), Some(hint)))
    }
    known.pop().map(|(url, login)| login.remote(url)).transpose()
}

fn by_folder(logins: &Logins, folder: &Path, named: bool) -> Result<Option<Remote>> {
    let known = logins.all()?;
    if known.is_empty() {
        return Ok(None);
    }
    let mut found: Vec<(ServerUrl, DeployRef)> = Vec::new();
    for (name, url) in programs::git_remotes(folder) {
        if !is_ours(&name) {
            continue;
        }
        let Ok(at) = Url::parse(&url) else { continue };
        let Some((server, _)) = known.iter().find(|(server, _)| server.is_origin_of(&at)) else { continue };
        let app = at.path().trim_matches('/');
        let app = app.strip_suffix(".git").unwrap_or(app);
        // As the server reads it: /shop.git is production, /shop/staging.git staging.
        let deploy = if app.contains('/') { app.to_owned() } else { format!("{app}/{PRODUCTION}") };
        let deploy = deploy.parse().map_err(|e| anyhow!("{e}"));
        found.push((server.clone(), deploy.with_context(|| format!("git's remote {name} is {url}, which is no app's"))?));
    }
    let first = found.iter().position(|(_, deploy)| deploy.deploy.as_str() == PRODUCTION);
    let (url, deploy) = match (first, found.as_slice()) {
        (Some(n), all) => all[n].clone(),
        (None, []) => return Ok(None),
        (None, [one]) => one.clone(),
        // With -a only the server is asked for.
        (None, [(url, deploy), more @ ..]) if named && more.iter().all(|(other, _)| other == url) => (url.clone(), deploy.clone()),
        (None, several) => {
            let names: Vec<String> = several.iter().map(|(_, deploy)| deploy.to_string()).collect();
            let hint = format!("Name one: --server {} -a {}.", several[0].0, names[0]);
            bail!(Told::failed(format!("this folder is pushed to several deploys: {}", names.join(", ")), Some(hint)))
        }
    };
    let login = known.into_iter().find(|(known, _)| *known == url).context("a server that was found is known")?.1;
    Ok(Some(Remote { deploy: Some(deploy), ..login.remote(url)? }))
}

/// `dozen`, `dozen-staging`
fn is_ours(remote: &str) -> bool {
    remote.strip_prefix(REMOTE).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stage {
        dir: tempfile::TempDir,
        logins: Logins,
    }

    impl Stage {
        fn new(remotes: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let config: String = remotes.iter().map(|(name, url)| format!("[remote \"{name}\"]\n\turl = {url}\n")).collect();
            let git = dir.path().join("app/.git");
            for sub in ["objects", "refs", "../deep"] {
                std::fs::create_dir_all(git.join(sub)).expect("made");
            }
            std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").expect("written");
            std::fs::write(git.join("config"), format!("[core]\n\trepositoryformatversion = 0\n{config}")).expect("written");
            let logins = Logins::of(Some(dir.path().join("config")));
            logins.keep(&"http://dozen.localhost:8000".parse().expect("a URL"), "ada", "dozen_kept", None).expect("kept");
            Self { dir, logins }
        }

        fn choose(&self, server: Option<&str>, token: Option<&str>) -> Result<Option<(String, String, String)>> {
            let said = Said { server: server.map(str::to_owned), token: token.map(str::to_owned), ..Said::default() };
            let chosen = choose(said, &self.logins, &self.dir.path().join("app/deep"))?;
            Ok(chosen.map(|r| {
                let deploy = r.deploy.map_or_else(String::new, |d| d.to_string());
                (r.url.to_string(), r.token.to_str().expect("text").trim_start_matches("Bearer ").to_owned(), deploy)
            }))
        }
    }

    fn is(url: &str, token: &str, deploy: &str) -> Option<(String, String, String)> {
        Some((url.to_owned(), token.to_owned(), deploy.to_owned()))
    }

    const HERE: &str = "http://dozen.localhost:8000";

    #[test]
    fn a_server_that_is_named_wins_and_a_token_goes_to_it_alone() {
        let stage = Stage::new(&[("dozen", "http://dozen.localhost:8000/shop.git")]);
        assert_eq!(stage.choose(Some("local"), Some("dozen_said")).expect("chosen"), None);
        assert_eq!(stage.choose(Some(HERE), None).expect("chosen"), is(HERE, "dozen_kept", ""));
        assert_eq!(stage.choose(Some("https://b.test"), Some("dozen_said")).expect("chosen"), is("https://b.test", "dozen_said", ""));
        assert!(stage.choose(Some("https://b.test"), None).is_err());
        assert!(stage.choose(Some("b.test"), Some("dozen_said")).is_err());
        // The folder's server gets what was given for it.
        assert_eq!(stage.choose(None, Some("dozen_said")).expect("chosen"), is(HERE, "dozen_kept", "shop/production"));
    }

    #[test]
    fn a_folder_leads_to_where_it_is_pushed() {
        let of = |remotes: &[(&str, &str)]| Stage::new(remotes).choose(None, None);
        let url = "http://ada@dozen.localhost:8000/shop.git";
        assert_eq!(of(&[]).expect("chosen"), None);
        assert_eq!(of(&[("origin", url)]).expect("chosen"), None);
        assert_eq!(of(&[("dozen", "http://elsewhere.test/shop.git")]).expect("chosen"), None, "one is not logged in there");
        assert_eq!(of(&[("dozen", "https://dozen.localhost:8000/shop.git")]).expect("chosen"), None, "another scheme is another server");
        let staging = "http://dozen.localhost:8000/shop/staging.git";
        assert_eq!(of(&[("dozen-staging", staging)]).expect("chosen"), is(HERE, "dozen_kept", "shop/staging"));
        assert_eq!(of(&[("dozen-staging", staging), ("dozen", url)]).expect("chosen"), is(HERE, "dozen_kept", "shop/production"));
        assert!(of(&[("dozen-a", staging), ("dozen-b", "http://dozen.localhost:8000/shop/b.git")]).is_err());
        assert!(of(&[("dozen", "http://dozen.localhost:8000/a/b/c.git")]).is_err());
    }
}
