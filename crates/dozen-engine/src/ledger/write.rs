//! What each intent does to the ledger.

use super::apps::{self, Occasion};
use super::hosts::{self, Reserved};
use super::people::{self, Wanted};
use super::{Intent, Principal, Problem, builds, certificates, gates, keys, split};
use crate::config::Vault;
use dozen_core::codebase::Commit;
use dozen_core::ids::DeployRef;
use dozen_core::port::Sticky;
use dozen_core::release::{Slug, Status};
use jiff::Timestamp;
use rusqlite::{Connection, params};
use std::path::Path;

pub(super) fn write(
    c: &Connection,
    vault: &Vault,
    reserved: Option<&Reserved>,
    principal: &Principal,
    intent: Intent,
    at: Timestamp,
) -> Result<u32, Problem> {
    let (who, now) = (principal.name.as_str(), at.to_string());
    match intent {
        Intent::Adopt { deploy, folder } => {
            let folder = folder.map(|f| f.to_string_lossy().into_owned());
            c.execute(
                "INSERT INTO apps (name, folder, created_at) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET folder = ifnull(?2, folder)",
                params![deploy.app.as_str(), folder, now],
            )?;
            apps::add_deploy(c, &deploy, &Occasion::default(), &now)?;
            Ok(0)
        }
        Intent::Recover { deploy, running, building } => {
            let name = deploy.to_string();
            c.execute(
                "UPDATE releases SET status = 'failed', failure = 'interrupted: dozen ended before it was concluded'
                 WHERE deploy = ?1 AND status = 'pending'",
                [&name],
            )?;
            // 137: a lost parent ends its one-offs with SIGKILL at the latest.
            let running = serde_json::to_string(&running).expect("numbers are JSON");
            c.execute(
                "UPDATE one_offs SET ended_at = ?2, exit_code = 137
                 WHERE deploy = ?1 AND ended_at IS NULL AND number NOT IN (SELECT value FROM json_each(?3))",
                [&name, &now, &running],
            )?;
            builds::interrupt(c, &deploy, &building, &now).map(|()| 0)
        }
        Intent::Require { deploy, gates: wanted } => gates::require(c, &deploy, &wanted).map(|()| 0),
        Intent::Tested { slug, passed, .. } => gates::tested(c, slug, passed, (&now, who)).map(|()| 0),
        Intent::Build { deploy, change } => builds::write(c, &deploy, &change, (&now, who)),
        Intent::Configure { deploy, config } => {
            let version = next(c, "SELECT ifnull(max(version), 0) + 1 FROM configs WHERE deploy = ?1", &deploy)?;
            let names = serde_json::to_string(&config.vars.keys().collect::<Vec<_>>()).expect("strings are JSON");
            let sealed = vault.seal(&deploy, version, &config);
            c.execute(
                "INSERT INTO configs (deploy, version, names, sealed, created_at, created_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![deploy.to_string(), version, names, sealed, now, who],
            )?;
            Ok(version)
        }
        Intent::Attach { deploy, name, kind, folder } => {
            c.execute(
                "INSERT INTO resources (deploy, kind, folder, created_at) VALUES (?1, ?2, ?3, ?4)",
                params![deploy.to_string(), kind.as_str(), folder.to_string_lossy(), now],
            )?;
            let id = u32::try_from(c.last_insert_rowid()).map_err(|_| Problem::Inconsistent("resource ids ran out".into()))?;
            c.execute("INSERT INTO attachments (deploy, name, resource) VALUES (?1, ?2, ?3)", params![deploy.to_string(), name, id])?;
            Ok(id)
        }
        Intent::Release { deploy, slug, config_version, like, python, node, description } => {
            record_slug(c, &slug, &now)?;
            let config_version = match config_version {
                Some(version) => version,
                None => next(c, "SELECT ifnull(max(version), 0) FROM configs WHERE deploy = ?1", &deploy)?,
            };
            let attachments: String = match like {
                Some(v) => c.query_row(
                    "SELECT attachments FROM releases WHERE deploy = ?1 AND version = ?2",
                    params![deploy.to_string(), v.0],
                    |r| r.get(0),
                )?,
                None => c.query_row(
                    "SELECT json_group_object(name, resource) FROM (SELECT name, resource FROM attachments WHERE deploy = ?1 ORDER BY name)",
                    [deploy.to_string()],
                    |r| r.get(0),
                )?,
            };
            let version = next(c, "SELECT ifnull(max(version), 0) + 1 FROM releases WHERE deploy = ?1", &deploy)?;
            c.execute(
                "INSERT INTO releases (deploy, version, slug, config_version, attachments, commit_hash, python, description, status, created_at, created_by,
                 node) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', ?9, ?10, ?11)",
                params![
                    deploy.to_string(),
                    version,
                    slug.id.to_string(),
                    config_version,
                    attachments,
                    slug.commit.as_ref().map(Commit::record),
                    python,
                    description,
                    now,
                    who,
                    node
                ],
            )?;
            Ok(version)
        }
        Intent::Conclude { deploy, version, status, failure } => {
            c.execute(
                "UPDATE releases SET status = ?3, failure = ?4 WHERE deploy = ?1 AND version = ?2 AND status = 'pending'",
                params![deploy.to_string(), version.0, status.as_str(), failure],
            )?;
            if status == Status::Succeeded {
                c.execute("UPDATE deploys SET current_release = ?2 WHERE name = ?1", params![deploy.to_string(), version.0])?;
                // A split was between the releases before it.
                split::declare(c, &deploy, &[], (&Sticky::No, None), &now)?;
            }
            Ok(version.0)
        }
        Intent::CameUp { deploy, version } => {
            c.execute(
                "UPDATE releases SET up_at = ?3 WHERE deploy = ?1 AND version = ?2 AND up_at IS NULL",
                params![deploy.to_string(), version.0, now],
            )?;
            Ok(version.0)
        }
        Intent::Keep { deploy, port, https_port } => {
            let sql = "UPDATE deploys SET kept_port = ?2, kept_https_port = ?3 WHERE name = ?1";
            c.execute(sql, params![deploy.to_string(), port, https_port])?;
            Ok(0)
        }
        Intent::Lead { deploy, domains } => {
            domains.iter().try_for_each(|domain| hosts::lead(c, reserved, &deploy, domain, (&now, who)))?;
            Ok(0)
        }
        Intent::Unlead { deploy, domains } => {
            for domain in domains {
                let gone =
                    c.execute("DELETE FROM domains WHERE domain = ?1 AND deploy = ?2", params![domain.to_string(), deploy.to_string()])?;
                if gone == 0 {
                    return Err(Problem::NotFound(format!("{domain} was not added to {deploy}; `dozen domains` lists what was")));
                }
            }
            Ok(0)
        }
        Intent::Treat { deploy, manners, paused_until } => {
            let (paused_until, hsts) = (paused_until.map(|at| at.to_string()), manners.hsts.map(|d| d.as_secs()));
            let trusted = manners.trusted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            c.execute(
                "UPDATE deploys SET maintenance = ?2, paused = ?3, paused_until = ?4, https_only = ?5, hsts = ?6, trusted = ?7
                 WHERE name = ?1",
                params![deploy.to_string(), manners.maintenance, manners.paused, paused_until, manners.https_only, hsts, trusted],
            )?;
            Ok(0)
        }
        Intent::Certify { deploy, certificate, source } => certificates::write(c, vault, &deploy, &certificate, source, (&now, who)),
        Intent::Uncertify { deploy, id } => certificates::remove(c, &deploy, id),
        Intent::Automate { deploy, acme } => certificates::automate(c, &deploy, acme.as_deref()),
        Intent::Account { directory, credentials, .. } => certificates::keep_account(c, vault, &directory, &credentials, &now),
        Intent::Unobtained { deploy, directory, host, failure } => {
            certificates::write_failure(c, &deploy, &directory, &host, &failure, &now)
        }
        Intent::Split { deploy, shares, sticky, abort_above, .. } => {
            split::declare(c, &deploy, &shares, (&sticky, abort_above), &now)?;
            Ok(0)
        }
        Intent::Scale { deploy, formation } => {
            c.execute("DELETE FROM formations WHERE deploy = ?1", [deploy.to_string()])?;
            let mut insert = c.prepare("INSERT INTO formations (deploy, process_type, quantity, size) VALUES (?1, ?2, ?3, ?4)")?;
            for (kind, quantity) in formation.iter() {
                let size = formation.size(kind).map(|size| size.to_string());
                insert.execute(params![deploy.to_string(), kind.as_str(), quantity, size])?;
            }
            Ok(0)
        }
        Intent::Stop { deploy, types } => {
            c.execute("DELETE FROM stopped WHERE deploy = ?1", [deploy.to_string()])?;
            let mut insert = c.prepare("INSERT INTO stopped (deploy, process_type) VALUES (?1, ?2)")?;
            for kind in types {
                insert.execute(params![deploy.to_string(), kind.as_str()])?;
            }
            Ok(0)
        }
        Intent::Run { deploy, release, command } => {
            let number = next(c, "SELECT ifnull(max(number), 0) + 1 FROM one_offs WHERE deploy = ?1", &deploy)?;
            c.execute(
                "INSERT INTO one_offs (deploy, number, release, command, started_at, started_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![deploy.to_string(), number, release.0, command, now, who],
            )?;
            Ok(number)
        }
        Intent::CreateApp { app } => {
            apps::create(c, &app, &now)?;
            hosts::is_free(c, reserved, &hosts::production(app)).map(|()| 0)
        }
        Intent::CreateDeploy { deploy, like, expires, branch } => {
            let occasion = Occasion { expires, branch: branch.as_deref() };
            apps::create_deploy(c, vault, &deploy, like.as_ref(), &occasion, (&now, who))?;
            hosts::is_free(c, reserved, &deploy).map(|()| 0)
        }
        Intent::DestroyDeploy { deploy } => apps::destroy_deploy(c, &deploy, &now).map(|()| 0),
        Intent::DestroyApp { app } => apps::destroy(c, &app).map(|()| 0),
        Intent::Grant { user, app, role } => people::grant(c, &user, &app, role).map(|()| 0),
        Intent::Ungrant { user, app } => people::ungrant(c, &user, &app).map(|()| 0),
        Intent::AddUser { user, admin } => people::add(c, &user, admin, (&now, who)).map(|()| 0),
        Intent::RemoveUser { user } => people::remove(c, &user, &now).map(|()| 0),
        Intent::IssueToken { user, label, hash, expires } => {
            people::issue(c, principal, &Wanted { user: &user, label: &label, hash, expires }, at)
        }
        Intent::RevokeToken { user, id } => people::revoke(c, &user, id, &now).map(|()| 0),
        Intent::AddKey { user, key } => keys::add(c, principal, &user, &key, at).map(|()| 0),
        Intent::RemoveKey { user, fingerprint } => keys::remove(c, &user, &fingerprint).map(|()| 0),
        Intent::Restore { from, to, .. } => relocate(c, &from, &to).map(|()| 0),
        Intent::FirstToken { hash } => people::first(c, principal, hash, at),
        Intent::Ran { deploy, number, exit_code } => {
            // Whoever ran it knows best, also where it was taken for lost meanwhile.
            c.execute(
                "UPDATE one_offs SET ended_at = ?3, exit_code = ?4 WHERE deploy = ?1 AND number = ?2",
                params![deploy.to_string(), number, now, exit_code],
            )?;
            Ok(number)
        }
    }
}

/// Has what lay below one folder lie below another.
fn relocate(c: &Connection, from: &Path, to: &Path) -> Result<(), Problem> {
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or_else(|| Problem::Conflict(format!("{} is not UTF-8", path.display())));
    let (from, to) = (text(from)?, text(to)?);
    let sql = "UPDATE resources SET folder = ?2 || substr(folder, length(?1) + 1) WHERE substr(folder, 1, length(?1) + 1) = ?1 || '/'";
    c.execute(sql, [from, to])?;
    Ok(())
}

fn next(c: &Connection, sql: &str, deploy: &DeployRef) -> Result<u32, Problem> {
    Ok(c.query_row(sql, [deploy.to_string()], |r| r.get(0))?)
}

fn record_slug(c: &Connection, slug: &Slug, now: &str) -> Result<(), Problem> {
    let processes: serde_json::Map<String, serde_json::Value> =
        slug.processes.iter().map(|p| (p.name.to_string(), p.command.clone().into())).collect();
    c.execute(
        "INSERT INTO slugs (id, pack, runtime, processes, size, files, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
        params![
            slug.id.to_string(),
            slug.stack.pack,
            slug.stack.runtime,
            serde_json::Value::Object(processes).to_string(),
            slug.size,
            slug.files,
            now
        ],
    )?;
    Ok(())
}
