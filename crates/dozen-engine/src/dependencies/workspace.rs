//! A folder that is one package of a JavaScript workspace: it is told so, since the folder alone lacks what decides its packages.

use super::BuildError;
use dozen_core::codebase::Source;
use std::fs;
use std::path::Path;

/// Lock files, and what starts one package from the workspace's root.
const LOCKS: [&str; 4] = ["pnpm-lock.yaml", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock"];

/// What to say of a source without a lock file that lies in a workspace with one; `None` for every other.
pub(super) fn member(source: &Source) -> Option<BuildError> {
    if LOCKS.iter().chain(&["bun.lock", "bun.lockb"]).any(|l| source.has(l)) {
        return None;
    }
    // A work tree ends where its repository does.
    let mut above = source.folder.as_path();
    while !above.join(".git").exists() {
        above = above.parent()?;
        let Some(lock) = LOCKS.into_iter().find(|l| above.join(l).is_file()).filter(|_| is_workspace(above)) else { continue };
        let member = source.folder.strip_prefix(above).ok()?.to_string_lossy().into_owned();
        let own = fs::read_to_string(source.folder.join("package.json")).ok()?;
        let own: serde_json::Value = serde_json::from_str(&own).ok()?;
        let name = own["name"].as_str().unwrap_or(&member).to_owned();
        let command = match lock {
            "pnpm-lock.yaml" => format!("pnpm --filter {name} start"),
            "yarn.lock" => format!("yarn workspace {name} start"),
            _ => format!("npm start -w {member}"),
        };
        return Some(BuildError::Member { member, root: above.to_owned(), lock: lock.to_owned(), command });
    }
    None
}

fn is_workspace(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("package.json")).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    json.get("workspaces").is_some() || folder.join("pnpm-workspace.yaml").is_file()
}
