//! What the tests of pushing share: a home with a repository, and git as people use it.
#![expect(clippy::disallowed_methods, reason = "tests run git as its users do")]

use super::repository::Repository;
use crate::home::Home;
use dozen_core::ids::DeployRef;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A home in a folder of its own, with the repository of one deploy.
pub(super) struct Place {
    pub(super) folder: tempfile::TempDir,
    pub(super) home: Home,
    pub(super) repository: Repository,
}

impl Place {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        // Names that some list or quotation could part.
        let home = Home::at(folder.path().join("a \"home\": its 'own'"));
        home.make().expect("made");
        let repository = Repository::make(&home, &shop()).expect("git is installed");
        Self { folder, home, repository }
    }

    /// An object of the repository, of whatever bytes.
    pub(super) fn object(&self, kind: &str, content: &[u8]) -> String {
        let mut git = git(self.repository.path());
        git.args(["hash-object", "-w", "--stdin", "--literally", "-t", kind]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = git.spawn().expect("git runs");
        child.stdin.take().expect("a pipe").write_all(content).expect("taken");
        let out = child.wait_with_output().expect("ends");
        assert!(out.status.success());
        String::from_utf8(out.stdout).expect("text").trim().to_owned()
    }

    /// A tree with these entries, which git itself would not all make.
    pub(super) fn tree(&self, entries: &[(&str, &[u8], &str)]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, hash) in entries {
            bytes.extend([mode.as_bytes(), b" ", name, b"\0"].concat());
            let digit = |at: usize| u8::from_str_radix(&hash[at..at + 2], 16).expect("hexadecimal");
            bytes.extend((0..hash.len()).step_by(2).map(digit));
        }
        self.object("tree", &bytes)
    }

    pub(super) fn commit(&self, tree: &str) -> String {
        let text = format!("tree {tree}\nauthor t <t@localhost> 0 +0000\ncommitter t <t@localhost> 0 +0000\n\none\n");
        self.object("commit", text.as_bytes())
    }

    /// A work tree with these files and a commit of them, whose remote `dozen` is the repository.
    pub(super) fn work(&self, name: &str, files: &[(&str, &str)]) -> Work {
        let work = Work(self.folder.path().join(name));
        fs::create_dir_all(&work.0).expect("made");
        work.git(&["init", "-q"]);
        work.git(&["remote", "add", "dozen", &self.repository.path().to_string_lossy()]);
        work.commit(files);
        work
    }
}

pub(super) fn shop() -> DeployRef {
    "shop/production".parse().expect("valid")
}

/// A work tree of somebody who pushes.
pub(super) struct Work(pub(super) PathBuf);

impl Work {
    /// Writes files and commits all there is. Answers the commit.
    pub(super) fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "one"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Answers what git printed.
    pub(super) fn git(&self, args: &[&str]) -> String {
        let out = git(&self.0).args(args).output().expect("git runs");
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

/// git in a folder, with an identity and nobody's settings.
pub(super) fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main", "-c", "safe.directory=*"]);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C").current_dir(folder);
    git
}
