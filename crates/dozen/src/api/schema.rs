//! The shapes of `--json` as JSON Schemas, held against the files of `docs/json/`: a changed shape is a visible change there.
//!
//! `DOZEN_WRITE_SCHEMAS=1 cargo test -p dozen schemas` writes them.

use super::{event, wire};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use std::collections::BTreeMap;
use std::path::Path;

/// Each by the words of its command.
fn all() -> Vec<(&'static str, Schema)> {
    vec![
        ("apps", of::<wire::Apps>()),
        ("apps-create", of::<wire::App>()),
        ("apps-destroy", of::<wire::Destroyed>()),
        ("builds", of::<wire::Builds>()),
        ("builds-cancel", of::<wire::CancelledBuild>()),
        ("backup", of::<wire::BackedUp>()),
        ("certs", of::<wire::Certs>()),
        ("certs-add", of::<wire::Cert>()),
        ("certs-auto", of::<wire::Automated>()),
        ("certs-ca", of::<wire::LocalAuthority>()),
        ("certs-remove", of::<wire::Cert>()),
        ("config", of::<wire::ShownConfig>()),
        ("config-diff", of::<wire::ConfigDiff>()),
        ("config-edit", of::<wire::Configured>()),
        ("config-export", of::<BTreeMap<String, String>>()),
        ("config-get", of::<wire::OneVar>()),
        ("config-set", of::<wire::Configured>()),
        ("config-unset", of::<wire::Configured>()),
        ("domains", of::<wire::Domains>()),
        ("domains-add", of::<wire::ChangedDomains>()),
        ("domains-remove", of::<wire::ChangedDomains>()),
        ("deploys", of::<wire::App>()),
        ("deploys-create", of::<wire::Deploy>()),
        ("deploys-destroy", of::<wire::Destroyed>()),
        ("deploys-set", of::<wire::Gates>()),
        ("doctor", of::<wire::Diagnosis>()),
        ("down", of::<wire::Stopped>()),
        ("drill", of::<wire::Drilled>()),
        ("event", of::<event::Event>()),
        ("events", of::<wire::Events>()),
        ("git-remote", of::<wire::GitRemotes>()),
        ("https", of::<wire::Manners>()),
        ("login", of::<wire::Login>()),
        ("logout", of::<wire::LoggedOut>()),
        ("maintenance", of::<wire::Manners>()),
        ("open", of::<wire::Opened>()),
        ("pause", of::<wire::Manners>()),
        ("ps", of::<wire::Processes>()),
        ("ps-restart", of::<wire::Restarted>()),
        ("ps-scale", of::<wire::Formation>()),
        ("ps-start", of::<wire::Steered>()),
        ("ps-stop", of::<wire::Steered>()),
        ("releases", of::<wire::Releases>()),
        ("releases-diff", of::<wire::ReleaseDiff>()),
        ("releases-info", of::<wire::ReleaseInfo>()),
        ("releases-split", of::<wire::Split>()),
        ("restart", of::<wire::Restarted>()),
        ("resume", of::<Vec<wire::Resumed>>()),
        ("restore", of::<wire::BackedUp>()),
        ("rollback", of::<wire::RolledBack>()),
        ("run", of::<wire::Began>()),
        ("runs", of::<wire::Runs>()),
        ("runs-stop", of::<wire::OneOff>()),
        ("server-check", of::<wire::Soundness>()),
        ("slugs", of::<wire::Slugs>()),
        ("slugs-collect", of::<wire::Collection>()),
        ("slugs-export", of::<wire::Exported>()),
        ("server-install", of::<wire::Installed>()),
        ("server-upgrade", of::<wire::Upgraded>()),
        ("server-uninstall", of::<wire::Uninstalled>()),
        ("ssh-keys", of::<wire::Keys>()),
        ("ssh-keys-add", of::<wire::SshKey>()),
        ("ssh-keys-remove", of::<wire::RemovedKey>()),
        ("split", of::<wire::Split>()),
        ("split-abort", of::<wire::SettledSplit>()),
        ("split-promote", of::<wire::SettledSplit>()),
        ("split-status", of::<wire::SplitStatus>()),
        ("start", of::<wire::Steered>()),
        ("stop", of::<wire::Steered>()),
        ("tokens", of::<wire::Tokens>()),
        ("tokens-create", of::<wire::CreatedToken>()),
        ("tokens-revoke", of::<wire::RevokedToken>()),
        ("users", of::<wire::Users>()),
        ("users-add", of::<wire::User>()),
        ("users-grant", of::<wire::Grant>()),
        ("users-remove", of::<wire::RemovedUser>()),
        ("users-ungrant", of::<wire::Grant>()),
        ("whoami", of::<wire::Account>()),
    ]
}

/// As it is written, not as it is read: what is always there is required.
fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}

#[test]
fn the_schemas_that_are_checked_in_are_these_shapes() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/json"));
    let mut files: Vec<String> = Vec::new();
    for (name, schema) in all() {
        let file = folder.join(format!("{name}.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).expect("a schema is JSON"));
        if std::env::var_os("DOZEN_WRITE_SCHEMAS").is_some() {
            std::fs::create_dir_all(folder).expect("made");
            std::fs::write(&file, &text).expect("written");
        }
        let there = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(there, text, "{} differs; see the head of this file", file.display());
        files.push(format!("{name}.json"));
    }
    let mut there: Vec<String> =
        std::fs::read_dir(folder).expect("docs/json").map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    there.sort();
    files.sort();
    assert_eq!(there, files, "a schema without a shape");
}
