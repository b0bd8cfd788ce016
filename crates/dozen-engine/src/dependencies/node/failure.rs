//! What npm, pnpm, yarn or a script said when it failed: the lines that tell, and what to do.

use crate::dependencies::interpreters::Interpreter;
use dozen_core::dependencies::node::{KNOWN_BY, Manager};
use dozen_core::dependencies::system;
use dozen_core::disposability::last_words;

/// At most so many lines are repeated, each cut to so many characters: all of it has been shown.
const TELLING: usize = 10;
const WIDTH: usize = 200;

/// Beginnings of lines that say nothing about a cause.
const NOISE: [&str; 12] = [
    "npm error A complete log",
    "npm error path ",
    "npm error command ",
    "npm error Lifecycle script",
    "npm error workspace ",
    "npm error location ",
    "npm error For a full report",
    "npm warn",
    "npm error code ",
    "npm notice",
    "info Visit",
    "error Command failed",
];

/// Of what was said the lines that name an error, else the last.
pub(super) fn telling(said: &[String]) -> Vec<String> {
    let told = |l: &str| {
        let t = l.trim_start();
        !NOISE.iter().any(|n| t.starts_with(n))
            && ([
                "npm error ",
                "npm ERR! ",
                "error ",
                "Error: ",
                "ERROR",
                "ERR_PNPM",
                " ERR_PNPM",
                "✘",
                "[vite]",
                "Failed to compile",
                "Type error",
            ]
            .iter()
            .any(|h| t.starts_with(h))
                || t.contains("error TS")
                || t.contains("error: ")
                || t.contains("YN0028")
                || t.contains("Module not found")
                || t.split_once(':').is_some_and(|(kind, _)| kind.ends_with("Error") && !kind.contains(' ')))
    };
    let mut out: Vec<String> = Vec::new();
    for line in said.iter().filter(|l| told(l)) {
        let line: String = line.trim_end().chars().take(WIDTH).collect();
        if !out.contains(&line) && line.trim() != "npm error" {
            out.push(line);
        }
    }
    if out.is_empty() {
        return said[said.len().saturating_sub(TELLING)..].to_vec();
    }
    out.truncate(TELLING);
    out
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// Installing packages.
    Install,
    /// A script of the app's.
    Script,
}

/// What to do. `from` is the file that it is about.
pub(super) fn cure(said: &[String], from: &str, manager: Manager, node: &Interpreter, failed: Failed) -> String {
    let has = |words: &[&str]| said.iter().any(|l| words.iter().any(|w| l.contains(w)));
    let command = manager.command();
    let host =
        said.iter().find_map(|l| l.split_once("getaddrinfo ")?.1.split_whitespace().nth(1)).map(|h| h.trim_end_matches([']', ',', '"']));
    if has(&["No space left on device", "ENOSPC", "Disk quota exceeded"]) {
        "Free some space and run the command again".into()
    } else if has(&["heap out of memory"]) {
        "The build needs more memory: `dozen config set NODE_OPTIONS=--max-old-space-size=4096`".into()
    } else if has(&[
        "can only install packages when your package.json and",
        "ERR_PNPM_OUTDATED_LOCKFILE",
        "Your lockfile needs to be updated",
        "YN0028",
        "The lockfile would have been",
        "ERR_PNPM_LOCKFILE_CONFIG_MISMATCH",
    ]) {
        if from == KNOWN_BY {
            format!(
                "npm does not take what it resolved itself. Run `npm install`, correct {KNOWN_BY} where it complains, and commit package-lock.json"
            )
        } else {
            format!("{from} does not fit package.json. Run `{command} install` and commit {from}")
        }
    } else if has(&["ERESOLVE"]) {
        "The versions that package.json asks for do not fit together. Correct them, or put `legacy-peer-deps=true` into .npmrc".into()
    } else if let Some(git) = git(said).filter(|_| failed == Failed::Install) {
        git
    } else if has(&["EBADENGINE", "ERR_PNPM_UNSUPPORTED_ENGINE", "The engine \"node\" is incompatible", "Unsupported engine"]) {
        format!(
            "A package does not work with Node {}. Name one that all of them work with in package.json's `engines.node`, or with `dozen up --use-node VERSION`",
            node.number()
        )
    } else if has(&["E401", "E403", "code E401", "ERR_PNPM_FETCH_401", "ERR_PNPM_FETCH_403", "YN0041"]) {
        "The package registry does not let you in. Name a token in .npmrc, as `//host/:_authToken=${NPM_TOKEN}`, and `dozen config set NPM_TOKEN=…`".into()
    } else if has(&[
        "ENOTFOUND",
        "EAI_AGAIN",
        "ECONNREFUSED",
        "ETIMEDOUT",
        "ECONNRESET",
        "ERR_SOCKET_TIMEOUT",
        "network request to",
        "fetch failed",
        "UNABLE_TO_GET_ISSUER_CERT",
        "SELF_SIGNED_CERT",
    ]) && has(&[
        "npm error",
        "npm ERR!",
        "ERR_PNPM",
        "ERR_SOCKET",
        "YN00",
        "error An unexpected error",
        "registry",
        "download",
        "fetch",
    ]) {
        let from = host.map(|h| format!(" from {h}")).unwrap_or_default();
        format!(
            "Something could not be fetched{from}. Is there a network, or a registry, proxy or certificate to name (`npm config set registry`, \
             HTTPS_PROXY, NODE_EXTRA_CA_CERTS)?"
        )
    } else if has(&["E404", "ERR_PNPM_FETCH_404", "ETARGET", "No matching version found", "ERR_PNPM_NO_MATCHING_VERSION"]) {
        format!("A package or its version is not on the registry; correct package.json, run `{command} install` and commit {from}")
    } else if has(&["gyp ERR!", "node-gyp"]) {
        gyp(said, &has, node)
    } else if has(&["EINTEGRITY", "ERR_PNPM_TARBALL_INTEGRITY", "YN0018"]) {
        format!("A package is not the one that {from} was made with. Make the lock anew if you trust it")
    } else if let Some(name) = missing_program(said) {
        format!(
            "The program {name} is in none of the packages that package.json declares. Declare the one that brings it, and run `{command} install`"
        )
    } else if has(&["Missing script", "ERR_PNPM_NO_SCRIPT", "Command \"build\" not found"]) {
        "Add that script to package.json, or call another".into()
    } else if has(&["error TS"]) {
        "TypeScript finds errors in the source; correct them and run the command again".into()
    } else if let Some(c) = last_words::cause(said).filter(|_| failed == Failed::Script) {
        format!("Likely cause: {}. {}", c.what, c.cure)
    } else if has(&["ERR_OSSL_EVP_UNSUPPORTED", "digital envelope routines::unsupported"]) {
        "The build tool is older than this Node: `dozen config set NODE_OPTIONS=--openssl-legacy-provider`, or update it".into()
    } else {
        format!("Make that command work, in {from}, and run the command again")
    }
}

/// Of a dependency on a git repository that could not be had.
fn git(said: &[String]) -> Option<String> {
    const FAILED: [&str; 12] = [
        "An unknown git error",
        "git ls-remote",
        "ls-remote -h",
        "ls-remote --tags",
        "git --no-replace-objects ls-remote",
        "git dep preparation failed",
        "Command: git",
        "Failed listing refs",
        "Failed cloning the repository",
        "Could not read from remote repository",
        "fatal: unable to access",
        "fatal: could not read Username",
    ];
    if said.iter().any(|l| l.contains("spawn git ENOENT") || l.contains("git: not found") || l.contains("No git binary found")) {
        return Some("A package comes from a git repository, and there is no git here: `apt install git`".into());
    }
    // Of GitHub's repositories pnpm and yarn fetch archives.
    let archive = |l: &str| l.contains("https://codeload.github.com/") && ["ERR", "rror", "fail"].iter().any(|w| l.contains(w));
    said.iter().find(|l| archive(l) || FAILED.iter().any(|f| l.contains(f)))?;
    let address = |l: &str| {
        let (_, rest) = l.split_once("://").or_else(|| l.split_once("git@"))?;
        let host = rest.split(['/', ' ', '\'', '"']).next()?;
        let host = host.rsplit('@').next().unwrap_or(host).split(':').next()?;
        (host.contains('.') && !host.contains("npmjs")).then(|| host.to_owned())
    };
    let about_git = |l: &&String| l.contains("git");
    let host = said.iter().filter(about_git).find_map(|l| address(l)).map(|h| format!(" from {h}")).unwrap_or_default();
    Some(format!(
        "A package that comes from a git repository could not be fetched{host}. Is there a network, is the address right, and may this machine read \
         it without a password? Else name a release of it on the registry"
    ))
}

fn gyp(said: &[String], has: &dyn Fn(&[&str]) -> bool, node: &Interpreter) -> String {
    if has(&["find Python", "Could not find any Python"]) {
        "A package is compiled here and needs Python: `apt install python3`".into()
    } else if has(&["not found: make", "make: not found", "spawn make ENOENT", "g++: No such file", "cc: not found"]) {
        "A package is compiled here and there is no C++ compiler: `apt install build-essential`".into()
    } else if let Some(missing) = system::missing(said) {
        format!("A package is compiled here and needs {}: {}", missing.what, missing.cure())
    } else {
        format!(
            "A package has no ready-made binary for Node {} and could not be compiled. Name a newer version of it, or build with an older \
             Node: `dozen up --use-node VERSION`",
            node.number()
        )
    }
}

/// `sh: 1: tsc: not found`.
fn missing_program(said: &[String]) -> Option<&str> {
    said.iter().rev().find_map(|l| {
        let head = l.trim_end().strip_suffix(": not found").or_else(|| l.trim_end().strip_suffix(": command not found"))?;
        let (shell, name) = head.rsplit_once(": ")?;
        (shell.contains("sh") && !name.contains(char::is_whitespace)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_failure_has_a_cure_that_can_be_tried() {
        let node = Interpreter { version: [20, 1, 0], prefix: "/p".into(), executable: "/p/bin/node".into() };
        let cases = [
            (
                "npm error `npm ci` can only install packages when your package.json and package-lock.json or",
                "Run `npm install` and commit package-lock.json",
            ),
            ("npm error code ERESOLVE", "do not fit together"),
            ("npm error code EBADENGINE", "does not work with Node 20.1.0"),
            ("npm error code E401", "NPM_TOKEN"),
            ("npm error code ENOTFOUND\nnpm error network request to https://r/x failed", "Is there a network"),
            ("npm error notarget No matching version found for x@99", "not on the registry"),
            ("gyp ERR! find Python", "apt install python3"),
            ("gyp ERR! build error\ngyp ERR! not found: make", "build-essential"),
            ("x.cc:1: fatal error: cairo.h: No such file or directory\ngyp ERR! build error", "cairo.h"),
            ("gyp ERR! build error", "no ready-made binary for Node 20.1.0"),
            ("sh: 1: tsc: not found", "program tsc"),
            ("src/a.ts(1,2): error TS2304: Cannot find name 'x'.", "TypeScript finds errors"),
            ("FATAL ERROR: JavaScript heap out of memory", "NODE_OPTIONS"),
            ("anything", "Make that command work"),
        ];
        for (said, want) in cases {
            let got = cure(&lines(said), "package-lock.json", Manager::Npm, &node, Failed::Script);
            assert!(got.contains(want), "{said}: {got}");
        }
        let installing = [
            (
                "npm error code 128\nnpm error An unknown git error occurred\nnpm error command git --no-replace-objects ls-remote ssh://git@github.com/vercel/ms.git\n\
                 npm error ssh: connect to host github.com port 22: Connection refused\nnpm error fatal: Could not read from remote repository.",
                "could not be fetched from github.com. Is there a network",
            ),
            (
                "error Command failed.\nExit code: 128\nCommand: git\nArguments: ls-remote --tags --heads https://github.com/vercel/ms.git",
                "could not be fetched from github.com.",
            ),
            (
                "ERR_PNPM  Command failed with exit code 128: git ls-remote https://u:p@git.example.org:8443/x.git HEAD",
                "from git.example.org.",
            ),
            (
                "npm error code ENOENT\nnpm error syscall spawn git\nnpm error enoent An unknown git error occurred, spawn git ENOENT",
                "apt install git",
            ),
            ("ConnectionRefusedError: [Errno 111] Connection refused", "Make that command work"),
        ];
        for (said, want) in installing {
            let got = cure(&lines(said), "package-lock.json", Manager::Npm, &node, Failed::Install);
            assert!(got.contains(want), "{said}: {got}");
        }
        let own = cure(&lines(cases[0].0), "package.json", Manager::Npm, &node, Failed::Install);
        assert!(own.starts_with("npm does not take what it resolved itself"), "{own}");
    }

    #[test]
    fn the_lines_that_tell_are_few() {
        let said = "> x@1 build\n> tsc\n\nsrc/a.ts(1,2): error TS2304: Cannot find name 'x'.\nnpm error Lifecycle script `build` failed with error:\nnpm error code 2\nnpm error path /app";
        assert_eq!(telling(&lines(said)), ["src/a.ts(1,2): error TS2304: Cannot find name 'x'."]);
        assert_eq!(telling(&lines("a\nb")), ["a", "b"]);
    }
}
