//! `dozen releases diff vN [vM]`.

use super::info::size;
use crate::api::wire::{self, FileChange, Names, ReleaseDiff, TextChange};
use crate::client::Client;
use crate::printer::Printer;
use anyhow::Result;

/// So many files and packages are named where not all are asked for.
const MOST: usize = 20;

/// Compares two.
pub(super) async fn run(client: &mut Client, from: String, to: Option<String>, all: bool, printer: &Printer) -> Result<i32> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("from", &from);
    if let Some(to) = &to {
        query.append_pair("to", to);
    }
    let answer: wire::ReleaseDiff = client.get(&format!("/diffs?{}", query.finish())).await?;
    if printer.is_json() {
        printer.json(&answer);
    } else {
        printer.line(&text(&answer, if all { usize::MAX } else { MOST }));
    }
    Ok(0)
}

fn text(diff: &ReleaseDiff, most: usize) -> String {
    let mut out = vec![format!("=== {} {} → {}", diff.deploy, diff.from, diff.to)];
    if diff.same {
        out.push("Nothing differs.".to_owned());
        return out.join("\n");
    }
    for version in &diff.without_slug {
        out.push(format!("The slug of {version} is gone from the slug store: files and packages cannot be compared."));
    }
    section(&mut out, "Config vars", names(&diff.config), usize::MAX);
    section(&mut out, "Process types", diff.processes.iter().flat_map(command).collect(), usize::MAX);
    section(&mut out, "Attachments", names(&diff.attachments), usize::MAX);
    let facts = diff.runtime.iter().chain(&diff.console);
    section(&mut out, "Runtime and console", facts.map(|c| format!("~ {}: {}", c.name, arrow(c))).collect(), usize::MAX);
    section(&mut out, "Scratch folders", names(&diff.scratch), usize::MAX);
    let packages = diff.packages.iter().flatten().map(|c| match (&c.before, &c.after) {
        (None, Some(new)) => format!("+ {} {new}", c.name),
        (Some(old), None) => format!("- {} {old}", c.name),
        _ => format!("~ {} {}", c.name, arrow(c)),
    });
    let mut dependencies: Vec<String> = packages.collect();
    if let Some(count) = diff.dependency_files.filter(|n| *n > 0 && dependencies.is_empty()) {
        dependencies.push(format!("~ {count} files of dependencies, and no version"));
    }
    section(&mut out, "Dependencies", dependencies, most);
    section(&mut out, "Files", diff.files.iter().flatten().map(file).collect(), most);
    out.join("\n")
}

/// A titled list, where there is anything to list.
fn section(out: &mut Vec<String>, title: &str, mut lines: Vec<String>, most: usize) {
    if lines.is_empty() {
        return;
    }
    let beyond = lines.len().saturating_sub(most);
    // One line more is no longer than the line that would say so.
    if beyond > 1 {
        lines.truncate(most);
        lines.push(format!("… and {beyond} more; --files shows all"));
    }
    out.push(format!("\n{title}"));
    out.extend(lines.into_iter().map(|line| format!("  {line}")));
}

fn names(names: &Names) -> Vec<String> {
    let list = [("+", &names.added), ("-", &names.removed), ("~", &names.changed)];
    list.iter().flat_map(|(sign, names)| names.iter().map(move |name| format!("{sign} {name}"))).collect()
}

/// The lines of a process type: one, or the old and the new.
fn command(change: &TextChange) -> Vec<String> {
    let line = |sign: &str, command: &Option<String>| command.as_ref().map(|c| format!("{sign} {}: {c}", change.name));
    [line("-", &change.before), line("+", &change.after)].into_iter().flatten().collect()
}

fn arrow(change: &TextChange) -> String {
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    format!("{} → {}", word(&change.before), word(&change.after))
}

fn file(change: &FileChange) -> String {
    match (change.before, change.after) {
        (None, Some(new)) => format!("+ {} ({})", change.path, size(new)),
        (Some(old), None) => format!("- {} ({})", change.path, size(old)),
        (Some(old), Some(new)) if old != new => format!("~ {} ({} → {})", change.path, size(old), size(new)),
        _ => format!("~ {}", change.path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_fits_a_screen_unless_all_is_asked_for() {
        let change = |n: usize| FileChange { path: format!("f{n:02}"), before: None, after: Some(1500) };
        let packages = vec![
            TextChange { name: "python django".into(), before: Some("5.0".into()), after: Some("5.1".into()) },
            TextChange { name: "node ws".into(), before: None, after: Some("8.0.0".into()) },
        ];
        let diff = ReleaseDiff {
            deploy: "shop/dev".into(),
            from: "v1".into(),
            to: "v2".into(),
            same: false,
            without_slug: vec![],
            files: Some((0..30).map(change).collect()),
            dependency_files: Some(7),
            packages: Some(packages),
            runtime: Some(TextChange { name: "runtime".into(), before: Some("Python 3.11.7".into()), after: Some("Python 3.12.1".into()) }),
            processes: vec![TextChange { name: "web".into(), before: Some("a".into()), after: Some("b".into()) }],
            console: None,
            scratch: Names::default(),
            config: Names { added: vec!["A".into()], removed: vec!["B".into()], changed: vec!["C".into()] },
            attachments: Names::default(),
        };
        let shown = text(&diff, MOST);
        let head = "=== shop/dev v1 → v2\n\nConfig vars\n  + A\n  - B\n  ~ C\n\nProcess types\n  - web: a\n  + web: b\n\n\
            Runtime and console\n  ~ runtime: Python 3.11.7 → Python 3.12.1\n\n\
            Dependencies\n  ~ python django 5.0 → 5.1\n  + node ws 8.0.0\n\nFiles\n  + f00 (1.5 kB)\n";
        assert!(shown.starts_with(head), "{shown}");
        assert!(shown.ends_with("  + f19 (1.5 kB)\n  … and 10 more; --files shows all"), "{shown}");
        assert!(text(&diff, usize::MAX).ends_with("+ f29 (1.5 kB)"));
    }
}
