//! `dozen config edit`: the variables as a text in an editor, and what was changed there in one release.

use super::given::remark;
use super::own;
use crate::api::wire::{self, ProblemKind};
use crate::client::{Client, Told};
use crate::printer::Printer;
use crate::programs;
use anyhow::{Context, Result, bail};
use dozen_core::config::{check_name, dotenv};
use dozen_core::diagnostic::{Diagnostic, Severity};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

/// Memory that looks like a folder: what is written there never reaches a disk, but for swapping.
const IN_MEMORY: &str = "/dev/shm";

/// Opens the editor until what is saved can be read; sets and unsets what differs.
pub(super) async fn run(client: &mut Client, names: &[String], printer: &Printer) -> Result<i32> {
    for name in names {
        check_name(name).map_err(|e| crate::cli::Usage(e.to_string()))?;
    }
    let config: wire::Config = client.get("/config").await?;
    let mut before = own(&config);
    before.retain(|name, _| names.is_empty() || names.iter().any(|n| n == name));
    let folder = private_folder()?;
    let path = folder.path().join(format!("{}-{}.env", client.deploy.app, client.deploy.deploy));
    write(&path, &text(&client.deploy.to_string(), &before, names)).with_context(|| format!("cannot write {}", path.display()))?;
    let after = loop {
        programs::edit(&path).await?;
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {} again; nothing was changed", path.display()))?;
        let (vars, remarks) = dotenv::parse_bytes(&bytes);
        let faults: Vec<&Diagnostic> = remarks.iter().filter(|r| r.severity > Severity::Note).collect();
        if faults.is_empty() {
            break vars;
        }
        faults.iter().for_each(|r| printer.note(&remark("line", r)));
        if !again(printer)? {
            bail!(Told::failed("what was saved cannot be used as it is; nothing was changed", None));
        }
    };
    let set: BTreeMap<String, String> =
        after.iter().filter(|(k, v)| before.get(k.as_str()).is_none_or(|b| b.value != **v)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let unset: Vec<String> = before.keys().filter(|k| !after.contains_key(**k)).map(|k| (*k).to_owned()).collect();
    if after.is_empty() && unset.len() > 1 {
        let hint = format!("To remove all: `dozen config unset {}`", unset.join(" "));
        bail!(Told::failed("no variable is left in what was saved; nothing was changed", Some(hint)));
    }
    if set.is_empty() && unset.is_empty() {
        if printer.is_json() {
            let nothing = wire::Configured { set: vec![], marked: vec![], unset: vec![], release: None, serving: false };
            printer.json(&nothing);
        } else {
            printer.confirm("No changes");
        }
        return Ok(0);
    }
    let body = wire::Configure { set, unset, plain: false, keep_plain: true, at: Some(config.version) };
    match super::change(client, &body, printer).await {
        Err(e) if e.downcast_ref::<Told>().is_some_and(|t| t.kind == ProblemKind::Moved) => {
            let kept = folder.keep().join(path.file_name().unwrap_or_default());
            let hint = format!("Your text is in {}: look at it, `dozen config edit` again, then remove it.", kept.display());
            bail!(Told::failed(format!("{e}; nothing was changed"), Some(hint)))
        }
        done => done,
    }
}

/// A folder that only its owner can enter, removed when this is dropped.
fn private_folder() -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("dozen-config-").permissions(std::fs::Permissions::from_mode(0o700));
    builder.tempdir_in(IN_MEMORY).or_else(|_| builder.tempdir()).context("cannot make a folder for the text to edit")
}

fn write(path: &PathBuf, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// The variables, under a line for each place that they came from.
fn text(deploy: &str, vars: &BTreeMap<&str, &wire::Var>, names: &[String]) -> String {
    let mut text = format!(
        "# Config vars of {deploy}: one NAME=value a line, as in a .env file.\n\
         # What you change is set, what you remove is unset, when you save and close. Quote values with '…' or \"…\".\n"
    );
    let groups = [
        ("set", "Set by hand"),
        ("dotenv", "From .env; what is changed here stays, what is removed comes back with the next `dozen up`"),
        ("generated", "Generated once"),
        ("app.json", "From app.json; what is removed comes back with the next `dozen up`"),
    ];
    for (origin, title) in groups {
        let mine: Vec<_> = vars.iter().filter(|(_, v)| v.origin == origin).collect();
        if !mine.is_empty() {
            // A String takes whatever is written.
            let _ = writeln!(text, "\n# {title}.");
        }
        for (name, var) in mine {
            let _ = writeln!(text, "{name}={}", dotenv::quote(&var.value));
        }
    }
    let missing: BTreeSet<&str> = names.iter().map(String::as_str).filter(|n| !vars.contains_key(n)).collect();
    for (i, name) in missing.into_iter().enumerate() {
        let _ = writeln!(text, "{}# {name}=", if i == 0 { "\n# Not set yet; remove the `#` before the name.\n" } else { "" });
    }
    text
}

/// Asks whether to open the editor once more. Where nobody can answer it is no.
fn again(printer: &Printer) -> Result<bool> {
    let input = std::io::stdin();
    if printer.is_json() || !input.is_terminal() {
        return Ok(false);
    }
    printer.note("Edit it again? [Y/n]");
    let mut answer = String::new();
    let read = input.lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(read > 0 && !answer.trim().to_ascii_lowercase().starts_with('n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_reads_back_as_it_was() {
        let var = |value: &str, origin: &str| wire::Var { value: value.to_owned(), origin: origin.to_owned(), secret: false };
        let (a, b, c) = (var("l1\nl2\r\n'\"$X ${Y} # \\n é", "set"), var(" x ", "dotenv"), var("", "app.json"));
        let vars = BTreeMap::from([("A", &a), ("B", &b), ("C", &c)]);
        let text = text("shop/dev", &vars, &["A".into(), "NEW".into()]);
        let (read, remarks) = dotenv::parse(&text);
        assert!(remarks.iter().all(|r| r.severity == Severity::Note), "{remarks:?}\n{text}");
        let want: BTreeMap<String, String> = vars.iter().map(|(k, v)| ((*k).to_owned(), v.value.clone())).collect();
        assert_eq!(read, want, "{text}");
        assert!(text.contains("\n# NEW=\n"), "{text}");
    }

    #[test]
    fn the_folder_is_private_and_goes() {
        let folder = private_folder().expect("made");
        let mode = std::fs::metadata(folder.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let path = folder.path().join("x.env");
        write(&path, "A=1\n").expect("written");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        drop(folder);
        assert!(!path.exists());
    }
}
