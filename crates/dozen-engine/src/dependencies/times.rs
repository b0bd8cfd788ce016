//! For tools that go by a file's time: which files are as they were when all was last built.
//!
//! A build gets a fresh copy of the source, so that its files' times say nothing. Those that did not change become old. The list of them lies
//! beside what the tools made: it means nothing without that.
//!
//! **Invariant:** a file that changed since something may have been made of it is never old. So before tools run the list loses all others.

use super::beneath::{Beneath, leads_nowhere};
use super::builder::Builder;
use crate::codebase::fingerprint::Fingerprint;
use crate::release::store::hex;
use dozen_core::codebase::{FileKind, Source};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Older than anything that is made here.
const OLD: Duration = Duration::from_secs(super::layers::EPOCH);

/// The files of a source that is being built.
pub(super) struct Times {
    now: BTreeMap<String, String>,
    /// Where downloads are, and the list below it.
    downloads: PathBuf,
    list: PathBuf,
    builder: Builder,
}

impl Times {
    /// Makes old what did not change. `copy` is a fresh one of the source; `list` is relative to `downloads`.
    pub(super) fn set(
        (source, print): (&Source, &Fingerprint),
        copy: &Path,
        downloads: &Path,
        list: PathBuf,
        builder: Builder,
    ) -> io::Result<Self> {
        let plain = |kind: &FileKind| !matches!(kind, FileKind::Link(_));
        let files = source.files.iter().zip(&print.files).filter(|(file, _)| plain(&file.kind));
        let now: BTreeMap<String, String> = files.map(|(file, hash)| (file.path.clone(), hex(hash))).collect();
        let times = Self { now, downloads: downloads.to_owned(), list, builder };
        let mut kept = match Beneath::open(downloads)?.read(&times.list) {
            Ok(bytes) => serde_json::from_slice::<BTreeMap<String, String>>(&bytes).unwrap_or_default(),
            Err(e) if leads_nowhere(&e) => BTreeMap::new(),
            Err(e) => return Err(e),
        };
        kept.retain(|path, hash| times.now.get(path) == Some(hash));
        times.write(&kept)?;
        for path in kept.keys() {
            let file = copy.join(path);
            // A file of the app that stands where an environment of ours would be is not in the copy.
            if fs::symlink_metadata(&file).is_ok_and(|m| m.is_file()) {
                fs::File::open(file)?.set_modified(SystemTime::UNIX_EPOCH + OLD)?;
            }
        }
        Ok(times)
    }

    /// All of it was built.
    pub(super) fn keep(&self) -> io::Result<()> {
        self.write(&self.now)
    }

    fn write(&self, files: &BTreeMap<String, String>) -> io::Result<()> {
        let bytes = serde_json::to_vec(files)?;
        Beneath::open(&self.downloads)?.write(&self.list, &bytes, self.builder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebase::{fingerprint, read};

    #[test]
    fn only_what_did_not_change_since_all_was_built_is_old() {
        let dir = tempfile::tempdir().expect("a folder");
        let (app, downloads) = (dir.path().join("app"), dir.path().join("downloads"));
        fs::create_dir(&app).expect("made");
        fs::create_dir(&downloads).expect("made");
        let put = |name: &str, text: &str| fs::write(app.join(name), text).expect("written");
        // The old files of a build, in a copy of the app's folder; `good`: the build came to its end.
        let build = |number: u32, good: bool| {
            let source = read(&app).expect("readable").source;
            let print = fingerprint::of(&source, &dir.path().join("stats")).expect("hashed");
            let copy = dir.path().join(format!("copy-{number}"));
            fs::create_dir(&copy).expect("made");
            for file in &source.files {
                fs::copy(app.join(&file.path), copy.join(&file.path)).expect("copied");
            }
            let times = Times::set((&source, &print), &copy, &downloads, "rust/sources.json".into(), Builder::NOBODY).expect("set");
            if good {
                times.keep().expect("kept");
            }
            let old = |name: &&str| {
                let time = fs::metadata(copy.join(name)).expect("there").modified().expect("a time");
                time == SystemTime::UNIX_EPOCH + OLD
            };
            ["a", "b", "c"].into_iter().filter(|name| copy.join(name).exists()).filter(old).collect::<String>()
        };
        put("a", "1");
        put("b", "1");
        assert_eq!(build(1, true), "");
        assert_eq!(build(2, true), "ab");
        put("b", "2");
        put("c", "1");
        assert_eq!(build(3, false), "a");
        // What was made of the failed one's b may lie there, whichever b comes next.
        put("b", "1");
        assert_eq!(build(4, true), "a");
        assert_eq!(build(5, true), "abc");
        fs::write(downloads.join("rust/sources.json"), "{").expect("written");
        assert_eq!(build(6, true), "", "a list that cannot be read is none");
    }
}
