//! Slug files: raw bytes, tar files, and files that a script makes of a real one.
//!
//! An input begins with `r` (a slug file, as it is), `t` (a tar file, packed here) or `s` (a script). A script's lines make a slug, and then change
//! the members of its file: see [`Script`].

use dozen_core::dependencies::Stack;
use dozen_core::processes::ProcessType;
use dozen_engine::home::Home;
use dozen_engine::release::archive::{self, Limits};
use dozen_engine::release::scratch::Scratch;
use dozen_engine::release::store::{self, Facts};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use tar::{EntryType, Header};

const LIMITS: Limits = Limits { packed: 1 << 20, unpacked: 1 << 20, entries: 100, manifest: 64 << 10 };

/// Whatever the file: nothing is written beside the store, nothing is kept of what is refused, and what is kept is a slug that leads nowhere.
pub fn slug(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = match kind {
        b'r' => rest.to_vec(),
        b't' => packed(rest),
        b's' => match String::from_utf8_lossy(rest).lines().try_fold(Script::default(), Script::line) {
            Some(script) => match script.file(&dir.path().join("maker")) {
                Some(file) => file,
                None => return,
            },
            None => return,
        },
        _ => return,
    };
    let canary = dir.path().join("canary");
    fs::create_dir(&canary).expect("made");
    fs::write(canary.join("file"), "as it was").expect("written");
    let home = Home::at(dir.path().join("home"));
    home.make().expect("made");
    let before = names(dir.path());

    let result = archive::unpack(&home, file.as_slice(), &LIMITS, |_, _| vec![]);

    assert_eq!(names(dir.path()), before, "something was written beside the home");
    assert_eq!(names(&canary), ["file"], "something was written into a neighbour");
    assert_eq!(fs::read_to_string(canary.join("file")).expect("readable"), "as it was");
    assert_eq!(names(home.root()), ["cache", "logs", "resources", "slugs"]);
    match result {
        Err(e) => {
            assert_eq!(names(&home.slugs()), Vec::<String>::new(), "something is left of what was refused: {e}");
            assert!(!e.to_string().chars().any(|c| c.is_control() && c != '\n'), "{e:?}");
        }
        Ok(taken) => {
            assert_eq!(names(&home.slugs()), [taken.slug.id.to_string()]);
            let tree = home.slug(&taken.slug.id).join("tree");
            stays_within(&tree, &tree);
            // What is taken in can be passed on, unless it needs an interpreter that is not here.
            if taken.slug.stack.runtime.is_none() {
                let mut copy = Vec::new();
                archive::pack(&home, &taken.slug, &taken.app, &mut copy, &|| true).expect("packed");
                let third = Home::at(dir.path().join("third"));
                third.make().expect("made");
                let again = archive::unpack(&third, copy.as_slice(), &LIMITS, |_, _| vec![]).expect("what was written is read");
                assert_eq!(again.slug, taken.slug);
            }
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

/// Every link of a tree leads to somewhere within, to nothing, or to an interpreter.
fn stays_within(folder: &Path, tree: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let meta = fs::symlink_metadata(&path).expect("there");
        assert!(meta.is_dir() || meta.is_file() || meta.is_symlink(), "{path:?}");
        if meta.is_dir() {
            stays_within(&path, tree);
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).expect("a link");
            let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let interpreter = target.is_absolute() && (name.starts_with("python") || name.starts_with("node"));
            let real = fs::canonicalize(&path).ok();
            let within = real.as_ref().is_none_or(|real| real.starts_with(fs::canonicalize(tree).expect("there")));
            let by_way =
                real.as_ref().and_then(|r| r.file_name()).is_some_and(|n| n.to_string_lossy().starts_with("python") || n == "node");
            assert!(within || interpreter || by_way, "{path:?} leads to {target:?}");
        }
    }
}

fn packed(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 1).expect("packed")
}

/// One member of a file.
struct Member {
    name: Vec<u8>,
    kind: u8,
    mode: u32,
    link: Vec<u8>,
    content: Vec<u8>,
    /// What the header says, where that is another size.
    size: Option<u64>,
}

/// A slug and what is done to its file.
#[derive(Default)]
struct Script {
    files: BTreeMap<String, (char, String)>,
    facts: BTreeMap<&'static str, Vec<String>>,
    changes: Vec<(char, usize, String)>,
}

impl Script {
    /// `f PATH TEXT`, `x PATH TEXT`, `l PATH TARGET` are files, `process NAME COMMAND`, `env NAME VALUE`, `scratch PATH`, `needs PATH`, `runtime TEXT`,
    /// `program PATH`, `console TEXT`, `app NAME` facts. `drop N`, `twice N`, `swap N` change the order of members; `name N TEXT`, `link N TEXT`, `text N TEXT`, `type N C`,
    /// `size N NUMBER`, `mode N NUMBER` change one, `add N TEXT` puts one before it, `cut N` the packed file. Any other line ends it.
    fn line(mut self, line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        let fact = ["process", "env", "scratch", "needs", "runtime", "program", "console", "app"].into_iter().find(|f| *f == word);
        match (word, fact) {
            ("", _) => {}
            ("f" | "x" | "l", _) => {
                self.files.insert(first.to_owned(), (word.chars().next()?, second.to_owned()));
            }
            (_, Some(fact)) => self.facts.entry(fact).or_default().push(rest.to_owned()),
            _ => {
                let changes = ["drop", "twice", "swap", "name", "link", "text", "type", "size", "mode", "add", "cut", "json"];
                let at = changes.iter().position(|c| *c == word)?;
                self.changes.push((char::from(b'a' + u8::try_from(at).ok()?), first.parse().ok()?, second.to_owned()));
            }
        }
        (self.files.len() + self.changes.len() < 64).then_some(self)
    }

    /// The slug is made by the store itself, so that its id is right; then its members are changed.
    fn file(self, maker: &Path) -> Option<Vec<u8>> {
        let home = Home::at(maker);
        home.make().expect("made");
        let scratch = Scratch::new(&home.slugs()).expect("made");
        let tree = scratch.path().join("tree");
        fs::create_dir(&tree).expect("made");
        for (path, (kind, text)) in &self.files {
            let plain = !path.is_empty() && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
            if !plain || path.contains('\0') || text.contains('\0') || fs::create_dir_all(tree.join(path).parent()?).is_err() {
                return None;
            }
            let place = tree.join(path);
            match kind {
                // What was made before must not lead this one out.
                _ if fs::canonicalize(place.parent()?).ok()?.strip_prefix(fs::canonicalize(&tree).ok()?).is_err() => return None,
                'l' => std::os::unix::fs::symlink(text, &place).ok()?,
                _ => fs::write(&place, text).ok()?,
            }
            if *kind == 'x' {
                fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).ok()?;
            }
        }
        let all = |name: &str| self.facts.get(name).cloned().unwrap_or_default();
        let pairs = |name: &str| {
            all(name).into_iter().filter_map(|t| t.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()))).collect::<Vec<_>>()
        };
        let processes = pairs("process").into_iter().filter_map(|(name, command)| Some(ProcessType { name: name.parse().ok()?, command }));
        let facts = Facts {
            stack: Stack { pack: "procfile".into(), runtime: all("runtime").pop() },
            processes: processes.collect(),
            env: pairs("env"),
            needs: all("needs").into_iter().map(PathBuf::from).collect(),
            console: all("console").pop(),
            scratch: all("scratch"),
            rules: std::collections::BTreeMap::new(),
            commit: None,
        };
        let (slug, _) = store::take(&home, &scratch, &facts, &HashMap::new()).ok()?;
        let folder = home.slug(&slug.id);
        let list = fs::read(folder.join("manifest.json")).expect("written");
        let own: Value = serde_json::from_slice(&fs::read(folder.join("slug.json")).expect("written")).expect("JSON");
        let app = all("app").pop().unwrap_or_else(|| "shop".into());
        let machine = json!({"arch": "x86_64", "program": all("program").pop(), "libc": null, "libraries": {}});
        let head = json!({"slug_file": 1, "app": app, "id": slug.id.to_string(), "machine": machine, "slug": own});

        let plain = |name: String, kind: u8, mode, link: String, content| Member {
            name: name.into_bytes(),
            kind,
            mode,
            link: link.into_bytes(),
            content,
            size: None,
        };
        let mut members = vec![
            plain("slug.json".into(), b'0', 0o644, String::new(), serde_json::to_vec(&head).expect("JSON")),
            plain("manifest.json".into(), b'0', 0o644, String::new(), list),
        ];
        for (path, (kind, text)) in self.files {
            let name = format!("tree/{path}");
            members.push(match kind {
                'l' => plain(name, b'2', 0o777, text, vec![]),
                'x' => plain(name, b'0', 0o755, String::new(), text.into_bytes()),
                _ => plain(name, b'0', 0o644, String::new(), text.into_bytes()),
            });
        }
        let mut cut = None;
        for (what, at, text) in self.changes {
            let count = members.len();
            let Some(at) = at.checked_rem(count) else { continue };
            match what {
                'a' => drop(members.remove(at)),
                'b' => {
                    let m = &members[at];
                    let same = Member { name: m.name.clone(), link: m.link.clone(), content: m.content.clone(), ..*m };
                    members.insert(at, same);
                }
                'c' => members.swap(at, (at + 1) % count),
                'd' => members[at].name = text.into_bytes(),
                'e' => members[at].link = text.into_bytes(),
                'f' => members[at].content = text.into_bytes(),
                'g' => members[at].kind = text.bytes().next().unwrap_or(0),
                'h' => members[at].size = text.parse().ok(),
                'i' => members[at].mode = text.parse().unwrap_or(0),
                'j' => members.insert(at, plain(text.clone(), b'0', 0o644, text, vec![1, 2, 3])),
                'k' => cut = text.parse::<usize>().ok().or(Some(at)),
                _ => {
                    // A piece of a JSON member, replaced: `OLD→NEW`.
                    let (old, new) = text.split_once('→').unwrap_or((&text, ""));
                    let changed = String::from_utf8_lossy(&members[at].content).replacen(old, new, 1);
                    members[at].content = changed.into_bytes();
                }
            }
        }
        let mut file = packed(&tar(members));
        file.truncate(cut.unwrap_or(file.len()));
        Some(file)
    }
}

/// Members as a tar file, whatever they say.
fn tar(members: Vec<Member>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |name: &[u8], kind: u8, mode: u32, link: &[u8], size: u64, content: &[u8]| {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        let fill = |field: &mut [u8], text: &[u8]| {
            let n = text.len().min(field.len());
            field[..n].copy_from_slice(&text[..n]);
        };
        fill(&mut old.name, name);
        fill(&mut old.linkname, link);
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        out.write_all(header.as_bytes()).expect("memory");
        out.write_all(content).expect("memory");
        out.resize(out.len().next_multiple_of(512), 0);
    };
    for m in members {
        for (kind, text) in [(b'L', &m.name), (b'K', &m.link)] {
            if text.len() > 100 {
                let ended = [text.as_slice(), &[0]].concat();
                put(b"././@LongLink", kind, 0o644, b"", ended.len() as u64, &ended);
            }
        }
        put(&m.name, m.kind, m.mode, &m.link, m.size.unwrap_or(m.content.len() as u64), &m.content);
    }
    out.resize(out.len() + 1024, 0);
    out
}
