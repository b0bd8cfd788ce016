//! Whether what a home holds fits together: the ledger, the slugs that it names, and what was pushed. Nothing is changed.

use crate::codebase::repository::Repository;
use crate::home::Home;
use crate::ledger::{Fault, Ledger, LedgerError};
use crate::release::{collect, store};
use dozen_core::codebase::push;
use dozen_core::ids::{AppName, DeployRef, SlugId};
use dozen_core::release::Status;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What was looked at, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sound {
    /// Deploys of the ledger.
    pub deploys: usize,
    /// Releases of them.
    pub releases: usize,
    /// Slugs of the store.
    pub slugs: usize,
    /// Bytes of their files, each of which was read.
    pub bytes: u64,
    /// Repositories.
    pub repositories: usize,
    /// What is wrong; empty where nothing is.
    pub faults: Vec<Fault>,
}

/// Looks at everything. `held` are the deploys that a dozen runs now: what is under way there is no fault.
///
/// # Errors
/// The ledger cannot be read at all.
pub async fn sound(ledger: &Ledger, held: &[DeployRef]) -> Result<Sound, LedgerError> {
    let mut found = look(ledger, held).await?;
    if !found.faults.is_empty() && !held.is_empty() {
        // Ledger and files are not of one moment: what a push or a collection has changed in between is as it should be by now.
        let again = look(ledger, held).await?;
        found.faults.retain(|fault| again.faults.contains(fault));
    }
    Ok(found)
}

async fn look(ledger: &Ledger, held: &[DeployRef]) -> Result<Sound, LedgerError> {
    let mut found = Sound { faults: ledger.faults(held).await?, ..Sound::default() };
    // Which slugs there must be: what serves, or would, and what a rollback of a few releases goes to.
    let kept = ledger.wanted_slugs(collect::RELEASES).await?;
    let mut wanted: BTreeMap<SlugId, String> = BTreeMap::new();
    let mut commits: BTreeMap<DeployRef, BTreeSet<String>> = BTreeMap::new();
    for deploy in ledger.deploys().await? {
        let (rows, current) = (ledger.releases(&deploy).await?, ledger.current(&deploy).await?);
        let shares = ledger.split(&deploy).await?.map(|split| split.shares).unwrap_or_default();
        found.deploys += 1;
        commits.entry(deploy.clone()).or_default();
        found.releases += rows.len();
        let serves = |version| current == Some(version) || shares.iter().any(|(share, _)| *share == version);
        for row in rows {
            if serves(row.version) || (kept.contains(&row.slug) && row.status == Status::Succeeded) {
                wanted.entry(row.slug).or_insert_with(|| format!("{deploy} {}", row.version));
            }
            if let Some(commit) = row.commit.filter(|commit| row.status == Status::Succeeded && !commit.dirty) {
                commits.entry(deploy.clone()).or_default().insert(commit.hash);
            }
        }
    }
    let home = ledger.home().clone();
    let looked = tokio::task::spawn_blocking(move || {
        look_at_slugs(&home, &wanted, &mut found);
        look_at_repositories(&home, &commits, &mut found);
        found
    });
    looked.await.map_err(|_| LedgerError::Stopped)
}

fn look_at_slugs(home: &Home, wanted: &BTreeMap<SlugId, String>, found: &mut Sound) {
    let there = names(&home.slugs()).into_iter().filter_map(|name| name.parse::<SlugId>().ok());
    let there: BTreeSet<SlugId> = there.collect();
    for (id, release) in wanted.iter().filter(|(id, _)| !there.contains(id)) {
        found.faults.push(Fault::new(release, format!("its slug {} is missing; a new deploy of its code builds it again", id.short())));
    }
    for id in there {
        found.slugs += 1;
        match store::inspect(home, &id) {
            Ok(whole) => found.bytes += whole.size,
            Err(flaw) => {
                let cure = format!("remove {} and deploy the code again", home.slug(&id).display());
                found.faults.push(Fault::new(format!("slug {}", id.short()), format!("it is torn: {flaw}; {cure}")));
            }
        }
    }
}

fn look_at_repositories(home: &Home, commits: &BTreeMap<DeployRef, BTreeSet<String>>, found: &mut Sound) {
    let apps = names(&home.repositories()).into_iter().filter_map(|name| name.strip_suffix(".git")?.parse::<AppName>().ok());
    for app in apps {
        found.repositories += 1;
        let about = home.repository(&app);
        let about = about.display();
        let deploys: Vec<&DeployRef> = commits.keys().filter(|deploy| deploy.app == app).collect();
        let any = DeployRef { app: app.clone(), deploy: dozen_core::ids::PRODUCTION.parse().expect("a literal deploy name is valid") };
        // Opened, not made: nothing is written.
        let repository = Repository::at(home, &any);
        match repository.fsck() {
            Ok(()) => {}
            Err(why) => found.faults.push(Fault::new(about, format!("git finds it broken: {why}"))),
        }
        for deploy in deploys {
            for branch in push::BRANCHES {
                let released = |tip: &String| commits.get(deploy).is_some_and(|all| all.contains(tip));
                match Repository::at(home, deploy).tip(branch) {
                    Ok(Some(tip)) if !released(&tip) => {
                        let what = format!("{branch} is at {}, which no release of it was made of", tip.get(..8).unwrap_or(&tip));
                        found.faults.push(Fault::new(deploy, what));
                    }
                    Ok(_) => {}
                    Err(e) => found.faults.push(Fault::new(deploy, format!("git cannot say where {branch} is: {e}"))),
                }
            }
        }
    }
}

/// What lies in a folder, in order. One that there is not has nothing.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}
