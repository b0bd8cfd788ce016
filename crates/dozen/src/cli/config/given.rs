//! What `config set` is given: pairs, a `.env` from standard input or a file, a folder with a file for each variable.

use crate::api::wire;
use crate::cli::Usage;
use crate::client::Told;
use crate::printer::Printer;
use anyhow::{Context, Result, bail};
use dozen_core::config::{MAX_TOTAL, check_name, dotenv};
use dozen_core::diagnostic::{Diagnostic, MAX_FILE, Severity, has_errors};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// All of it; what is given twice is refused.
pub(super) fn read(given: &[String], env_files: &[PathBuf], plain: bool, printer: &Printer) -> Result<wire::Configure> {
    // A value, or none for what is to be unset.
    let mut all: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut add = |name: String, value: Option<String>| {
        if all.contains_key(&name) {
            bail!(Usage(format!("{name} is given twice; nothing was set")));
        }
        all.insert(name, value);
        Ok(())
    };
    let mut from_stdin = false;
    for word in given {
        if word == "-" {
            if std::mem::replace(&mut from_stdin, true) {
                bail!(Usage("standard input can be read once; give `-` once".to_owned()));
            }
            let text = limited(std::io::stdin().lock(), "standard input")?;
            parse("stdin", &text, printer)?.into_iter().try_for_each(|(name, value)| add(name, Some(value)))?;
        } else if let Some((name, value)) = word.split_once('=') {
            check_name(name).map_err(|e| Usage(e.to_string()))?;
            add(name.to_owned(), Some(value.to_owned()))?;
        } else if Path::new(word).is_dir() {
            env_dir(Path::new(word))?.into_iter().try_for_each(|(name, value)| add(name, value))?;
        } else if word.contains('/') {
            bail!(Usage(format!("there is no folder {word}; `-` reads standard input, --env-file a file")));
        } else {
            bail!(Usage(format!("`{word}` is not KEY=VALUE; to show one value use `config get KEY`")));
        }
    }
    for path in env_files {
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = limited(file, &path.display().to_string())?;
        parse(&path.display().to_string(), &text, printer)?.into_iter().try_for_each(|(name, value)| add(name, Some(value)))?;
    }
    if all.is_empty() {
        bail!(Told::failed("no variable was given; nothing was set", Some("Write one a line: NAME=value".to_owned())));
    }
    let mut body = wire::Configure { plain, ..wire::Configure::default() };
    for (name, value) in all {
        match value {
            Some(value) => drop(body.set.insert(name, value)),
            None => body.unset.push(name),
        }
    }
    Ok(body)
}

fn limited(from: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more than is allowed shows that there are too many; the parser says so.
    from.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    Ok(bytes)
}

/// The variables of a text in the .env dialect. What it dropped is told, errors end it.
fn parse(name: &str, text: &[u8], printer: &Printer) -> Result<BTreeMap<String, String>> {
    let (vars, remarks) = dotenv::parse_bytes(text);
    remarks.iter().filter(|r| r.severity > Severity::Note).for_each(|r| printer.note(&remark(name, r)));
    if has_errors(&remarks) {
        bail!(Told::failed(format!("{name} cannot be used; nothing was set"), None));
    }
    Ok(vars)
}

/// `stdin:3:1: this line is dropped: …`. Never an excerpt: a value may stand there.
pub(super) fn remark(name: &str, d: &Diagnostic) -> String {
    let help = if d.help.is_empty() { String::new() } else { format!(". {}", d.help) };
    format!(" !     {name}:{d}{help}")
}

/// A folder with a file for each variable: its first line is the value, an empty one unsets it. Hidden files and folders are none.
fn env_dir(folder: &Path) -> Result<BTreeMap<String, Option<String>>> {
    let mut all = BTreeMap::new();
    let failed = |path: &Path| format!("cannot read {}", path.display());
    for entry in std::fs::read_dir(folder).with_context(|| failed(folder))? {
        let path = entry.with_context(|| failed(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Secrets that are mounted as files are links, so what a link leads to counts.
        if name.starts_with('.') || !std::fs::metadata(&path).with_context(|| failed(&path))?.is_file() {
            continue;
        }
        check_name(&name).map_err(|e| Usage(format!("{}: {e}; nothing was set", path.display())))?;
        let file = std::fs::File::open(&path).with_context(|| failed(&path))?;
        let mut bytes = Vec::new();
        file.take(MAX_TOTAL as u64 + 1).read_to_end(&mut bytes).with_context(|| failed(&path))?;
        let empty = bytes.is_empty();
        bytes.truncate(bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len()));
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        let Ok(value) = String::from_utf8(bytes) else {
            bail!(Told::failed(format!("{} is not UTF-8 text; nothing was set", path.display()), None));
        };
        all.insert(name, (!empty).then_some(value));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit_code_of;

    fn pairs(words: &[&str]) -> Result<wire::Configure> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        read(&words, &[], false, &Printer::plain())
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign_and_given_once() {
        let body = pairs(&["A=b=c", "E="]).expect("read");
        assert_eq!(body.set, BTreeMap::from([("A".into(), "b=c".into()), ("E".into(), String::new())]));
        for (words, why) in [
            (&["A=1", "A=2"][..], "A is given twice"),
            (&["A"][..], "not KEY=VALUE"),
            (&["no/such/"][..], "no folder no/such/"),
            (&["1A=x"][..], "not valid"),
        ] {
            let error = pairs(words).err().expect("refused");
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(exit_code_of(&error), 2);
        }
    }

    #[test]
    fn a_folder_of_files_sets_and_unsets() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).expect("written");
        write("A", b"one line\nand another\n");
        write("B", b"");
        write("C", b"\n");
        write("D", b"crlf\r\n");
        write(".hidden", b"x");
        std::fs::create_dir(dir.path().join("sub")).expect("made");
        let body = pairs(&[&dir.path().to_string_lossy(), "E=5"]).expect("read");
        let want = [("A", "one line"), ("C", ""), ("D", "crlf"), ("E", "5")];
        assert_eq!(body.set, want.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        assert_eq!(body.unset, ["B"]);
        write("bad-name", b"x");
        assert!(env_dir(dir.path()).expect_err("refused").to_string().contains("bad-name"));
    }
}
