//! `dozen releases info [vN]`.

use super::when;
use crate::api::wire;
use crate::cli::segment;
use crate::client::Client;
use crate::printer::Printer;
use anyhow::Result;

/// Shows one.
pub(super) async fn run(client: &mut Client, version: Option<&str>, printer: &Printer) -> Result<i32> {
    let answer: wire::ReleaseInfo = client.get(&format!("/releases/{}", segment(version.unwrap_or("current")))).await?;
    if printer.is_json() {
        printer.json(&answer);
    } else {
        printer.line(&text(&answer));
    }
    Ok(0)
}

fn text(r: &wire::ReleaseInfo) -> String {
    let mut lines = vec![format!("=== {} {}", r.deploy, r.version)];
    let mut add = |name: &str, value: String| lines.push(format!("{:<13}{value}", format!("{name}:")));
    let why = r.failure.as_ref().map(|f| format!(": {}", f.replace('\n', &format!("\n{:13}", "")))).unwrap_or_default();
    add("Status", format!("{}{why}", if r.current { "current" } else { &r.status }));
    add("Description", r.description.clone());
    add("Created", format!("{} UTC by {}", when(&r.created_at), r.created_by));
    add("Came up", r.came_up_at.as_deref().map_or_else(|| "never".to_owned(), |at| format!("{} UTC", when(at))));
    if let Some(commit) = &r.commit {
        let changes = if r.uncommitted_changes { " with uncommitted changes" } else { "" };
        add("Commit", format!("{commit}{changes}"));
    }
    let gone = if r.slug.present { "" } else { "; gone from the slug store" };
    add("Slug", format!("{}, {} in {} files{gone}", r.slug.id.get(..12).unwrap_or(&r.slug.id), size(r.slug.size), r.slug.files));
    add("Runtime", r.slug.runtime.clone().unwrap_or_else(|| format!("none ({})", r.slug.pack)));
    for p in &r.processes {
        add("Process", format!("{}: {}", p.name, p.command));
    }
    add("Config vars", if r.config.is_empty() { "none".to_owned() } else { r.config.join(", ") });
    if let Some(changes) = &r.config_changes {
        let list = [("set", &changes.names.added), ("changed", &changes.names.changed), ("unset", &changes.names.removed)];
        let list: Vec<String> =
            list.iter().filter(|(_, names)| !names.is_empty()).map(|(verb, names)| format!("{verb} {}", names.join(", "))).collect();
        add("", format!("since {}: {}", changes.since, if list.is_empty() { "the same".to_owned() } else { list.join("; ") }));
    }
    for a in &r.attachments {
        add("Attachment", format!("{} ({}) as {}", a.name, a.kind, a.variable));
    }
    // A line without a name goes on with the one before.
    lines.iter().map(|line| line.strip_prefix(':').map_or_else(|| line.clone(), |rest| format!(" {rest}"))).collect::<Vec<_>>().join("\n")
}

/// `512 B`, `24.3 kB`, `1.2 MB`: powers of a thousand, as disks are sold.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
