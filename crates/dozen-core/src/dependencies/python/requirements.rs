//! Requirements files: what they name, pin and include. Resolving them is uv's.

use std::collections::BTreeSet;

/// What a requirements file and the files that it includes say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirements {
    /// The files read, the first one first.
    pub files: Vec<String>,
    /// Normalised names of all requirements.
    pub names: BTreeSet<String>,
    /// Names pinned with `==`.
    pub pinned: BTreeSet<String>,
    /// Whether every requirement carries a hash, so that the list is complete by pip's own rule.
    pub hashed: bool,
    /// Extras asked for, as `fastapi[standard]`.
    pub extras: BTreeSet<String>,
    /// Folders of the source that are to be installed: `.`, `libs/shop`.
    pub local: Vec<String>,
}

/// The most files that one may include, itself among them.
const MAX_FILES: usize = 32;

/// Why the files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Which file.
    pub file: String,
    /// What is wrong, as a fragment.
    pub problem: String,
}

/// Reads `file` and what it includes with `-r` and `-c`. Includes stay within the source.
pub fn read(file: &str, read_file: &dyn Fn(&str) -> Option<String>) -> Result<Requirements, Unusable> {
    let mut out = Requirements::default();
    let mut queue = vec![(file.to_owned(), false)];
    let mut entries = 0usize;
    let mut hashed = 0usize;
    while let Some((file, constraints)) = queue.pop() {
        if out.files.contains(&file) {
            continue;
        }
        let unusable = |problem: String| Unusable { file: file.clone(), problem };
        if out.files.len() == MAX_FILES {
            return Err(unusable(format!("more than {MAX_FILES} files include each other")));
        }
        let text = read_file(&file).ok_or_else(|| unusable("it is included but not among the source's files, or is not text".into()))?;
        out.files.push(file.clone());
        for line in logical_lines(&text) {
            match classify(&line) {
                Line::Include { path, constraints: c } => {
                    let path =
                        join(&file, &path).ok_or_else(|| unusable(format!("it includes {path}, which lies outside the app's folder")))?;
                    queue.push((path, constraints || c));
                }
                Line::Local(path) if !constraints => {
                    // pip takes paths from where it was called, not from the file: the root.
                    let path = join("", &path).ok_or_else(|| unusable(format!("it names {path}, which lies outside the app's folder")))?;
                    out.local.push(path);
                }
                Line::Requirement { name, pinned, hash, extras } if !constraints => {
                    entries += 1;
                    hashed += usize::from(hash);
                    if pinned {
                        out.pinned.insert(name.clone());
                    }
                    out.extras.extend(extras.into_iter().map(|e| format!("{name}[{e}]")));
                    out.names.insert(name);
                }
                _ => {}
            }
        }
    }
    out.hashed = entries > 0 && hashed == entries && out.local.is_empty();
    Ok(out)
}

/// A resolved list without entries of the source's own folders, which are installed for each source anew.
pub fn without_local(resolved: &str) -> String {
    let mut out = String::new();
    let mut skipping = false;
    for line in resolved.lines() {
        if !line.starts_with([' ', '\t']) {
            let bare = line.trim();
            skipping = bare.starts_with("-e ") || bare.starts_with('.') || bare.starts_with('/') || bare.contains("file://");
        }
        if !skipping && !line.trim_start().starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The names of a resolved list.
pub fn names(resolved: &str) -> BTreeSet<String> {
    let of = |line: &String| match classify(line) {
        Line::Requirement { name, .. } => Some(name),
        _ => None,
    };
    logical_lines(resolved).iter().filter_map(of).collect()
}

/// The name at the start of a requirement (PEP 508), normalised by PEP 503.
pub fn name(requirement: &str) -> Option<String> {
    let end = requirement.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))).unwrap_or(requirement.len());
    let raw = &requirement[..end];
    raw.starts_with(|c: char| c.is_ascii_alphanumeric()).then(|| normalise(raw))
}

/// Lower case, runs of `-`, `_` and `.` as one dash.
pub fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

enum Line {
    Requirement { name: String, pinned: bool, hash: bool, extras: Vec<String> },
    Include { path: String, constraints: bool },
    Local(String),
    Other,
}

fn classify(line: &str) -> Line {
    for (flag, constraints) in [("--requirement", false), ("-r", false), ("--constraint", true), ("-c", true)] {
        if let Some(path) = line.strip_prefix(flag) {
            return Line::Include { path: path.trim_start_matches([' ', '\t', '=']).to_owned(), constraints };
        }
    }
    let editable = ["--editable", "-e"].iter().find_map(|f| line.strip_prefix(f)).map(|p| p.trim_start_matches([' ', '\t', '=']));
    let target = editable.unwrap_or(line);
    if target.starts_with('.') || (editable.is_some() && !target.contains("://")) {
        let path = target.split([' ', ';', '[']).next().unwrap_or(target);
        return if [".whl", ".tar.gz", ".zip"].iter().any(|e| path.ends_with(e)) { Line::Other } else { Line::Local(path.to_owned()) };
    }
    if line.starts_with('-') {
        return Line::Other;
    }
    let Some(name) = name(line) else { return Line::Other };
    let rest = line.split(" --hash").next().unwrap_or(line);
    let extras = rest
        .split_once('[')
        .and_then(|(_, r)| r.split_once(']'))
        .map(|(list, _)| list.split(',').map(|e| e.trim().to_owned()).collect())
        .unwrap_or_default();
    let version = rest.split(';').next().unwrap_or(rest);
    let pinned = version.contains("==") && !version.contains('*') && !version.contains(',');
    Line::Requirement { name, pinned, hash: line.contains("--hash"), extras }
}

/// Lines without comments, continued ones joined, empty ones dropped.
fn logical_lines(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out: Vec<String> = Vec::new();
    let mut continued = false;
    for line in text.lines() {
        let comment = if line.trim_start().starts_with('#') { Some(0) } else { line.find(" #").or_else(|| line.find("\t#")) };
        let line = &line[..comment.unwrap_or(line.len())];
        let (body, more) = match line.trim_end().strip_suffix('\\') {
            Some(body) => (body, true),
            None => (line, false),
        };
        match out.last_mut() {
            Some(last) if continued => {
                last.push(' ');
                last.push_str(body.trim());
            }
            _ => out.push(body.trim().to_owned()),
        }
        continued = more;
    }
    out.retain(|l| !l.is_empty());
    out
}

/// `path` as seen from the folder of `from`; `None` where it leaves the root.
pub(super) fn join(from: &str, path: &str) -> Option<String> {
    if path.starts_with('/') || path.contains("://") {
        return None;
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.trim().split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            p => parts.push(p),
        }
    }
    Some(if parts.is_empty() { ".".into() } else { parts.join("/") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files<'a>(files: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |path| files.iter().find(|(p, _)| *p == path).map(|(_, t)| (*t).to_owned())
    }

    #[test]
    fn names_pins_hashes_and_includes_are_seen() {
        let tree = [
            (
                "requirements.txt",
                "# top\n-r requirements/base.txt\nFlask==3.0.0  # web\ngunicorn>=21 ; python_version > '3'\n-e .\n./libs/shop[pg]\n",
            ),
            ("requirements/base.txt", "-c limits.txt\nfastapi[standard, all]\nDjango_Thing.x==1.*\nuvicorn @ git+https://host/x@abc\n"),
            ("requirements/limits.txt", "zope<9\n"),
        ];
        let r = read("requirements.txt", &files(&tree)).expect("readable");
        assert_eq!(r.files, ["requirements.txt", "requirements/base.txt", "requirements/limits.txt"]);
        assert_eq!(r.names.iter().map(String::as_str).collect::<Vec<_>>(), ["django-thing-x", "fastapi", "flask", "gunicorn", "uvicorn"]);
        assert_eq!(r.pinned.iter().map(String::as_str).collect::<Vec<_>>(), ["flask"]);
        assert!(r.extras.contains("fastapi[standard]") && !r.hashed);
        assert_eq!(r.local, [".", "libs/shop"]);
    }

    #[test]
    fn a_hash_on_every_line_makes_a_complete_list() {
        let all = "a==1 \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\nb==2 --hash=sha256:2\n";
        assert!(read("r", &files(&[("r", all)])).expect("readable").hashed);
        let some = format!("{all}c==3\n");
        assert!(!read("r", &files(&[("r", &some)])).expect("readable").hashed);
        assert!(!read("r", &files(&[("r", "")])).expect("readable").hashed);
    }

    #[test]
    fn includes_stay_within_the_source() {
        let fail = |text: &str| read("r.txt", &files(&[("r.txt", text)])).expect_err(text).problem;
        assert!(fail("-r ../x.txt\n").contains("outside"));
        assert!(fail("-r/etc/passwd\n").contains("outside"));
        assert!(fail("-e ../lib\n").contains("outside"));
        assert!(fail("-r gone.txt\n").contains("not among"));
        assert!(read("r.txt", &files(&[("r.txt", "-r r.txt\n-r ./r.txt\n")])).is_ok(), "a file that includes itself is read once");
    }

    #[test]
    fn local_entries_leave_a_resolved_list() {
        let text = "a==1 \\\n    --hash=sha256:0\n    # via x\n-e file:///tmp/x\n    # via -r r.in\n./libs/shop\nb==2\n";
        assert_eq!(without_local(text), "a==1 \\\n    --hash=sha256:0\nb==2\n");
    }
}
