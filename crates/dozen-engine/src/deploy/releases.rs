//! Releases that were made: what one is, what differs between two, and the way back to an earlier one.

use super::{DeployError, Floor, Wanted, Way};
use crate::ledger::{Principal, ReleaseRow, SlugRow};
use crate::output::Output;
use crate::release::store;
use dozen_core::backing::Attachment;
use dozen_core::config::Config;
use dozen_core::ids::Version;
use dozen_core::release::diff::{Contents, Diff, File, Names, Side, distribution, node_package};
use dozen_core::release::{Cause, Part, Status};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// A package.json of more says nothing that is looked for here.
const MAX_PACKAGE: u64 = 1 << 20;

/// All that is known of one release.
#[derive(Debug)]
pub struct Described {
    /// As it was made.
    pub row: ReleaseRow,
    /// Whether it is the one that serves, or would.
    pub current: bool,
    /// Its code.
    pub slug: SlugRow,
    /// Whether that is still in the slug store.
    pub present: bool,
    /// Its variables.
    pub config: Config,
    /// Its resources.
    pub attachments: Vec<Attachment>,
    /// The release before it that succeeded, and which variables differ from that one's.
    pub before: Option<(Version, Names)>,
}

impl Floor {
    /// A release, or the current one.
    pub async fn describe(&self, version: Option<Version>) -> Result<Described, DeployError> {
        let current = self.ledger.current(&self.deploy).await?;
        let version = version.or(current).ok_or_else(|| DeployError::NoRelease(self.deploy.clone()))?;
        let row = self.ledger.release(&self.deploy, version).await?;
        let config = self.ledger.config_at(&self.deploy, row.config_version).await?;
        let earlier = self.ledger.releases(&self.deploy).await?;
        let before = match earlier.into_iter().find(|r| r.version < version && r.status == Status::Succeeded) {
            Some(r) => {
                let old = self.ledger.config_at(&self.deploy, r.config_version).await?;
                Some((r.version, Names::of_configs(&old, &config)))
            }
            None => None,
        };
        Ok(Described {
            current: current == Some(version),
            slug: self.ledger.slug(row.slug).await?,
            present: store::has(self.home(), &row.slug),
            attachments: self.ledger.resolve(row.attachments.clone()).await?,
            row,
            config,
            before,
        })
    }

    /// What differs between two releases.
    pub async fn diff(&self, before: &Described, after: &Described) -> Result<Diff, DeployError> {
        let home = self.home().clone();
        let ids = [before.row.slug, after.row.slug];
        // Thousands of small files: not on a thread that others wait for.
        let read = tokio::task::spawn_blocking(move || ids.map(|id| contents(&home, &id)));
        let [old, new] = read.await.unwrap_or_default();
        let side = |of: &'_ Described| (of.slug.runtime.clone(), of.slug.processes.clone());
        let ((old_runtime, old_types), (new_runtime, new_types)) = (side(before), side(after));
        Ok(Diff::between(
            &Side {
                runtime: old_runtime.as_deref(),
                processes: &old_types,
                contents: old.as_ref(),
                config: &before.config,
                attachments: &before.row.attachments,
            },
            &Side {
                runtime: new_runtime.as_deref(),
                processes: &new_types,
                contents: new.as_ref(),
                config: &after.config,
                attachments: &after.row.attachments,
            },
        ))
    }

    /// Makes an earlier release, or a part of it, current again, as a new release. `None` goes to the one before the current that was up.
    pub async fn rollback(
        &self,
        who: &Principal,
        to: Option<Version>,
        part: Part,
        output: &dyn Output,
    ) -> Result<(Version, Version), DeployError> {
        let _turn = self.turn.lock().await;
        self.go_back(who, to, part, output).await
    }

    /// The same as [`Floor::rollback`], within a turn.
    pub(super) async fn go_back(
        &self,
        who: &Principal,
        to: Option<Version>,
        part: Part,
        output: &dyn Output,
    ) -> Result<(Version, Version), DeployError> {
        if !self.serving {
            return Err(DeployError::NotServing(self.deploy.clone()));
        }
        let current = self.current_row().await?.ok_or_else(|| DeployError::NoRelease(self.deploy.clone()))?;
        let row = match to {
            Some(version) => self.ledger.release(&self.deploy, version).await?,
            None => {
                let rows = self.ledger.releases(&self.deploy).await?;
                let earlier = rows.into_iter().find(|r| r.version < current.version && r.status == Status::Succeeded && r.up_at.is_some());
                earlier.ok_or_else(|| DeployError::NoEarlier(self.deploy.clone()))?
            }
        };
        if row.status != Status::Succeeded {
            return Err(DeployError::FailedRelease(row.version));
        }
        let code = if part == Part::Config { &current } else { &row };
        let slug = self.take_up(code)?;
        let pins = (code.python.clone(), code.node.clone());
        let (latest, now) = self.ledger.config(&self.deploy).await?;
        let config = match part {
            Part::Code => now.clone(),
            Part::All | Part::Config => self.ledger.config_at(&self.deploy, row.config_version).await?,
        };
        let config = if now == config { Wanted::At(latest) } else { Wanted::Next(config) };
        // The attachments are what the config's URLs lead to, and go with it.
        let like = (part != Part::Code).then_some(row.version);
        let release = self.make(who, slug, config, like, pins, &Cause::Rollback(row.version, part)).await?;
        self.roll(who, release.clone(), Way::Changed, output).await?;
        Ok((row.version, release.version))
    }
}

/// What lies in a slug's folder. `None` where it is gone or its list cannot be read.
fn contents(home: &crate::home::Home, id: &dozen_core::ids::SlugId) -> Option<Contents> {
    let slug = store::open(home, id).ok()?;
    let tree = home.slug(id).join("tree").canonicalize().ok()?;
    let entry = |e: store::Entry| File { path: e.path, kind: e.kind, size: e.size, hash: e.hash };
    let files: Vec<File> = store::entries(home, id)?.into_iter().map(entry).collect();
    let mut packages = BTreeMap::new();
    for file in &files {
        if let Some((name, version)) = distribution(&file.path) {
            packages.insert(format!("python {name}"), version);
        } else if let Some((folder, name)) = node_package(file)
            && let Some(version) = node_version(&tree, folder)
        {
            packages.insert(format!("node {name}"), version);
        }
    }
    Some(Contents { files, packages, console: slug.console, scratch: slug.scratch })
}

/// The version that a package.json of the tree gives. A link that leads out of the tree is none of it.
fn node_version(tree: &Path, folder: &str) -> Option<String> {
    let path = tree.join(folder).join("package.json").canonicalize().ok().filter(|p| p.starts_with(tree))?;
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(MAX_PACKAGE).read_to_end(&mut text).ok()?;
    let package: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(package.get("version")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_node_package_is_its_own_and_within_the_tree() {
        let dir = tempfile::tempdir().expect("a folder");
        let tree = dir.path().canonicalize().expect("there").join("tree");
        let write = |path: &str, text: &str| {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("node_modules/ws/package.json", r#"{"name": "ws", "version": "8.1.0"}"#);
        write("node_modules/.pnpm/x@1/package.json", r#"{"version": "1.0.0"}"#);
        write("node_modules/odd/package.json", "no JSON");
        write("../outside/package.json", r#"{"version": "6.6.6"}"#);
        std::os::unix::fs::symlink(".pnpm/x@1", tree.join("node_modules/x")).expect("linked");
        std::os::unix::fs::symlink("../../outside", tree.join("node_modules/evil")).expect("linked");
        for (folder, version) in [("ws", Some("8.1.0")), ("x", Some("1.0.0")), ("odd", None), ("evil", None), ("none", None)] {
            assert_eq!(node_version(&tree, &format!("node_modules/{folder}")).as_deref(), version, "{folder}");
        }
    }
}
