//! End to end: Node apps. Real packages from a real registry, through npm, pnpm and yarn.

use crate::dependencies::Heard;
use crate::deployed::{DOZEN, PATIENCE, Place, are_a_builders, children, kill, pause};
use dozen_core::config::Mask;
use dozen_core::ids::AppName;
use dozen_core::processes::ProcessType;
use dozen_engine::codebase;
use dozen_engine::dependencies::{BuildError, Built, Request, build};
use dozen_engine::home::Home;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// An app's folder and a DOZEN_HOME. Package managers and downloads are shared by all tests, as if fetched before.
struct Bench {
    dir: tempfile::TempDir,
    home: Home,
    app: AppName,
}

fn shared(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node").join(name);
    fs::create_dir_all(&folder).expect("made");
    folder
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("dozen-node-").tempdir().expect("temp dir");
        let home = Home::at(dir.path().join("home"));
        let app: AppName = "shop".parse().expect("a name");
        for (link, to) in [(home.tools(), shared("tools")), (home.cache(&app).join("downloads"), shared("downloads"))] {
            fs::create_dir_all(link.parent().expect("a parent")).expect("made");
            std::os::unix::fs::symlink(to, link).expect("linked");
        }
        are_a_builders(&home.cache(&app).join("downloads"));
        let bench = Self { dir, home, app };
        fs::create_dir(bench.folder()).expect("made");
        files.iter().for_each(|(path, text)| bench.write(path, text));
        bench
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("app")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    async fn build_as(&self, folder: &Path, config: &[(&str, &str)], use_node: Option<&str>) -> (Result<Built, BuildError>, String) {
        let reading = codebase::read(folder).expect("readable");
        let config: Vec<(String, String)> = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let heard = Arc::new(Heard::default());
        let processes = fs::read_to_string(folder.join("Procfile")).unwrap_or_default();
        let processes = processes
            .lines()
            .filter_map(|l| l.split_once(": "))
            .map(|(n, c)| ProcessType { name: n.parse().expect("a name"), command: c.to_owned() });
        let request = Request {
            console: None,
            scratch: &[],
            rules: &std::collections::BTreeMap::new(),
            exe: Path::new(DOZEN),
            home: &self.home,
            app: &self.app,
            source: &reading.source,
            processes: processes.collect(),
            config: &config,
            placeholders: &[],
            mask: &Mask::of(&[]),
            use_python: None,
            last_python: None,
            use_node,
            last_node: None,
            development: false,
            waits: &tokio::sync::watch::Sender::new(false),
            buildpacks: &[],
            stack: None,
            folders: false,
            output: heard.clone(),
        };
        let result = build(request).await;
        let lines = heard.0.lock().expect("no panic").join("\n");
        (result, lines)
    }

    async fn build(&self) -> (Built, String) {
        let (built, text) = self.build_as(&self.folder(), &[], None).await;
        (built.unwrap_or_else(|e| panic!("{e}\n{text}")), text)
    }

    async fn fails(&self) -> String {
        let (built, text) = self.build_as(&self.folder(), &[], None).await;
        let error = built.err().unwrap_or_else(|| panic!("it was built\n{text}"));
        format!("{text}\n{error}")
    }

    fn tree(&self, built: &Built) -> PathBuf {
        self.home.slug(&built.slug.id).join("tree")
    }
}

/// Everything in a folder: path, mode, bytes or target.
fn contents(root: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let mut out = Vec::new();
    let mut queue = vec![root.to_owned()];
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(&folder).expect("readable").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("there"));
            let name = path.strip_prefix(root).expect("inside").to_string_lossy().into_owned();
            if meta.is_dir() {
                queue.push(path);
            } else if meta.is_symlink() {
                out.push((name, 0, fs::read_link(&path).expect("a link").as_os_str().as_encoded_bytes().to_vec()));
            } else {
                out.push((name, meta.permissions().mode(), fs::read(&path).expect("readable")));
            }
        }
    }
    out.sort();
    out
}

const MANIFEST: &str = r#"{"name": "shop", "version": "1.0.0", "private": true,
"scripts": {"build": "json5 data.json5 -o made.json", "start": "node index.js"},
"dependencies": {"ms": "2.1.3"}, "devDependencies": {"json5": "2.2.3"}}"#;
const INDEX: &str = "const ms = require('ms'), made = require('./made.json');\n\
    require('http').createServer((_, r) => r.end(ms(made.wait) + process.env.NODE_ENV)).listen(process.env.PORT);\n";
const MS: &str = "sha512-6FlzubTLZG3J2a/NVCAleEhjzq5oxgHyaCU9yYXvcLsvoVaHJq/s5xXI6/XXP6tz7R9xAOtHnSO/tXtF3WRTlA==";
const JSON5: &str = "sha512-XmOWe7eyHYH14cLdVPoyg+GOH3rYX++KpzrylJwSW98t3Nk+U8XOl8FWKOgwtzdb8lXGf6zYwDUzeHMWfxasyg==";

/// The lock files are npm's, pnpm's and yarn's own, but for the host that packages come from: it is this machine's.
fn npm_lock() -> String {
    format!(
        r#"{{"name": "shop", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": {{
        "": {{"name": "shop", "version": "1.0.0", "dependencies": {{"ms": "2.1.3"}}, "devDependencies": {{"json5": "2.2.3"}}}},
        "node_modules/json5": {{"version": "2.2.3", "integrity": "{JSON5}", "dev": true, "bin": {{"json5": "lib/cli.js"}}}},
        "node_modules/ms": {{"version": "2.1.3", "integrity": "{MS}"}}}}}}"#
    )
}

fn pnpm_lock() -> String {
    format!(
        "lockfileVersion: '9.0'\n\nsettings:\n  autoInstallPeers: true\n  excludeLinksFromLockfile: false\n\nimporters:\n\n  .:\n    dependencies:\n\
        \x20     ms:\n        specifier: 2.1.3\n        version: 2.1.3\n    devDependencies:\n      json5:\n        specifier: 2.2.3\n        version: 2.2.3\n\n\
        packages:\n\n  json5@2.2.3:\n    resolution: {{integrity: {JSON5}}}\n    hasBin: true\n\n  ms@2.1.3:\n    resolution: {{integrity: {MS}}}\n\n\
        snapshots:\n\n  json5@2.2.3: {{}}\n\n  ms@2.1.3: {{}}\n"
    )
}

fn yarn_lock() -> String {
    let registry = Command::new("npm").args(["config", "get", "registry"]).output().expect("npm").stdout;
    let registry = String::from_utf8_lossy(&registry).trim().trim_end_matches('/').to_owned();
    let entry = |name: &str, version: &str, integrity: &str| {
        format!(
            "{name}@{version}:\n  version \"{version}\"\n  resolved \"{registry}/{name}/-/{name}-{version}.tgz\"\n  integrity {integrity}\n\n"
        )
    };
    format!("# yarn lockfile v1\n\n\n{}{}", entry("json5", "2.2.3", JSON5), entry("ms", "2.1.3", MS))
}

/// Of yarn 4, or of yarn 3.
fn berry_lock(release: u32) -> String {
    let (head, version, start) = if release == 4 { ("10\n  cacheKey: 10c0", "npm:", "10c0/") } else { ("6\n  cacheKey: 8", "", "") };
    let (json5, ms) = if release == 4 {
        (
            "5a04eed94810fa55c5ea138b2f7a5c12b97c3750bc63d11e511dcecbfef758003861522a070c2272764ee0f4e3e323862f386945aeb5b85b87ee43f084ba586c",
            "d924b57e7312b3b63ad21fc5b3dc0af5e78d61a1fc7cfb5457edaf26326bf62be5307cc87ffb6862ef1c2b33b0233cdb5d4f01c4c958cc0d660948b65a287a48",
        )
    } else {
        (
            "2a7436a93393830bce797d4626275152e37e877b265e94ca69c99e3d20c2b9dab021279146a39cdb700e71b2dd32a4cebd1514cd57cee102b1af906ce5040349",
            "aa92de608021b242401676e35cfa5aa42dd70cbdc082b916da7fb925c542173e36bce97ea3e804923fe92c0ad991434e4a38327e15a1b5b5f945d66df615ae6d",
        )
    };
    let entry = |name: &str, version: &str, bin: &str, checksum: &str| {
        format!(
            "\"{name}@npm:{version}\":\n  version: {version}\n  resolution: \"{name}@npm:{version}\"\n{bin}  checksum: {start}{checksum}\n  \
             languageName: node\n  linkType: hard\n\n"
        )
    };
    let asked = |at: &str| if version.is_empty() { at.to_owned() } else { format!("\"{version}{at}\"") };
    format!(
        "# This file is generated by running \"yarn install\" inside your project.\n# Manual changes might be lost - proceed with caution!\n\n\
         __metadata:\n  version: {head}\n\n{}{}\"shop@workspace:.\":\n  version: 0.0.0-use.local\n  resolution: \"shop@workspace:.\"\n  \
         dependencies:\n    json5: {}\n    ms: {}\n  languageName: unknown\n  linkType: soft\n",
        entry("json5", "2.2.3", "  bin:\n    json5: lib/cli.js\n", json5),
        entry("ms", "2.1.3", "", ms),
        asked("2.2.3"),
        asked("2.1.3"),
    )
}

/// An app that needs `ms`, and `json5` to be built, in two places.
async fn alike(lock: (&str, &str), command: &str) -> (Bench, Built, String) {
    let files = [("package.json", MANIFEST), ("index.js", INDEX), ("data.json5", "{wait: 60000}"), lock];
    let (one, two) = (Bench::new(&files), Bench::new(&files));
    let (a, text) = one.build().await;
    let (b, _) = two.build().await;
    let (left, right) = (contents(&one.tree(&a)), contents(&two.tree(&b)));
    for (l, r) in left.iter().zip(&right) {
        assert_eq!((&l.0, l.1), (&r.0, r.1));
        assert!(l.2 == r.2, "{} differs", l.0);
    }
    assert_eq!((a.slug.id, a.reused), (b.slug.id, false));
    let mark = one.dir.path().file_name().expect("named").as_encoded_bytes();
    let leak = left.iter().find(|(_, _, c)| c.windows(mark.len()).any(|w| w == mark) || c.windows(8).any(|w| w == b".making-"));
    assert_eq!(leak.map(|(p, ..)| p), None, "no path of the build is left");
    let has = |part: &str| left.iter().any(|(p, ..)| p.contains(part));
    assert!(has("node_modules/ms/index.js") && has("made.json"), "{:?}", left.iter().map(|(p, ..)| p).collect::<Vec<_>>());
    assert!(!has("json5/") && !has(".bin/json5"), "what is for development only stays out");
    assert_eq!(a.slug.processes.first().map(|p| p.command.as_str()), Some(command));
    assert!(text.contains("1 packages for development are left out") || text.contains("packages for development are left out"), "{text}");
    (one, a, text)
}

/// The app answers when its slug runs elsewhere, by the command that a deploy would run.
fn answers_elsewhere(bench: &Bench, built: &Built) {
    let moved = bench.dir.path().join("elsewhere");
    fs::rename(bench.tree(built), &moved).expect("moved");
    let app = moved.to_string_lossy().into_owned();
    let command = &built.slug.processes[0].command;
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("bound").port();
    let env = built.slug.env.iter().map(|(k, v)| (k.clone(), v.replace("{app}", &app)));
    let mut child = Command::new("/bin/sh")
        .args(["-c", &format!("exec {command}")])
        .current_dir(&moved)
        .env_clear()
        .envs(env)
        .env("HOME", &app)
        .env("PORT", port.to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("runs");
    let end = std::time::Instant::now() + PATIENCE;
    let answer = loop {
        assert!(child.try_wait().expect("waited").is_none() && std::time::Instant::now() < end, "{command} does not listen");
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("answered");
            break text;
        }
        pause();
    };
    let mut tree = vec![child.id().try_into().expect("a pid")];
    let mut next = 0;
    while next < tree.len() {
        tree.extend(children(tree[next]));
        next += 1;
    }
    tree.iter().for_each(|pid| kill(*pid, rustix::process::Signal::KILL));
    child.wait().expect("waited");
    assert!(answer.ends_with("1mproduction"), "{answer}");
}

#[tokio::test]
async fn npm_makes_the_same_slug_anywhere_and_it_runs_elsewhere() {
    let (bench, built, text) = alike(("package-lock.json", &npm_lock()), "npm start").await;
    for part in [
        "-----> Node app detected\n       Using Node ",
        "(package-lock.json, locked)",
        "-----> $ npm run build",
        "Default types for Node -> web",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(built.slug.stack.runtime.as_deref().is_some_and(|r| r.starts_with("Node ")) && built.slug.console.as_deref() == Some("node"));
    answers_elsewhere(&bench, &built);
}

#[tokio::test]
async fn pnpm_makes_the_same_slug_anywhere_and_it_runs_elsewhere() {
    let (bench, built, text) = alike(("pnpm-lock.yaml", &pnpm_lock()), "pnpm start").await;
    assert!(text.contains("with pnpm 10.") && bench.tree(&built).join(".dozen/bin/pnpm").is_file(), "{text}");
    answers_elsewhere(&bench, &built);
}

/// pnpm's commands let a program find what only others declare: some rely on it.
#[tokio::test]
async fn a_pnpm_command_finds_what_its_neighbours_declare() {
    let lock = format!(
        "lockfileVersion: '9.0'\n\nsettings:\n  autoInstallPeers: true\n  excludeLinksFromLockfile: false\n\nimporters:\n\n  .:\n    dependencies:\n\
        \x20     tool:\n        specifier: workspace:*\n        version: link:libs/tool\n\n  libs/tool: {{}}\n\n  libs/wait:\n    dependencies:\n\
        \x20     ms:\n        specifier: 2.1.3\n        version: 2.1.3\n\npackages:\n\n  ms@2.1.3:\n    resolution: {{integrity: {MS}}}\n\n\
        snapshots:\n\n  ms@2.1.3: {{}}\n"
    );
    let root = r#"{"name": "all", "private": true, "dependencies": {"tool": "workspace:*"}, "scripts": {"build": "tool > made"}}"#;
    let files = [
        ("package.json", root),
        ("Procfile", "web: node_modules/.bin/tool"),
        ("pnpm-workspace.yaml", "packages: ['libs/*']\n"),
        ("pnpm-lock.yaml", lock.as_str()),
        ("libs/tool/package.json", r#"{"name": "tool", "version": "1.0.0", "bin": "cli.js"}"#),
        ("libs/tool/cli.js", "#!/usr/bin/env node\nconsole.log(require('ms')(60000))"),
        ("libs/wait/package.json", r#"{"name": "wait", "version": "1.0.0", "dependencies": {"ms": "2.1.3"}}"#),
    ];
    let (one, two) = (Bench::new(&files), Bench::new(&files));
    let (built, _) = one.build().await;
    assert_eq!(fs::read_to_string(one.tree(&built).join("made")).expect("made"), "1m\n");
    assert_eq!(two.build().await.0.slug.id, built.slug.id, "the same slug anywhere");
    let command = fs::read_to_string(one.tree(&built).join("node_modules/.bin/tool")).expect("there");
    assert!(command.contains("/app/node_modules/.pnpm/node_modules") && !command.contains(".making-"), "{command}");
    // Another interpreter is another command.
    one.write("libs/tool/cli.js", "#!/bin/sh\necho of the shell");
    let (built, _) = one.build().await;
    assert_eq!(fs::read_to_string(one.tree(&built).join("made")).expect("made"), "of the shell\n");
}

#[tokio::test]
async fn yarn_makes_the_same_slug_anywhere_and_it_runs_elsewhere() {
    let (bench, built, text) = alike(("yarn.lock", &yarn_lock()), "yarn start").await;
    assert!(text.contains("with yarn 1."), "{text}");
    answers_elsewhere(&bench, &built);
}

#[tokio::test]
async fn later_yarns_install_into_node_modules() {
    let (bench, built, text) = alike(("yarn.lock", &berry_lock(4)), "yarn start").await;
    assert!(text.contains("with yarn 4.") && text.contains("Plug'n'Play is not used"), "{text}");
    answers_elsewhere(&bench, &built);

    let lock = berry_lock(3);
    let bench = Bench::new(&[("package.json", MANIFEST), ("index.js", INDEX), ("data.json5", "{wait: 60000}"), ("yarn.lock", &lock)]);
    let (built, text) = bench.build().await;
    assert!(text.contains("with yarn 3."), "{text}");
    answers_elsewhere(&bench, &built);
}

#[tokio::test]
async fn what_did_not_change_is_not_installed_again() {
    let lock = npm_lock();
    let bench = Bench::new(&[("package.json", MANIFEST), ("index.js", INDEX), ("data.json5", "{wait: 1}"), ("package-lock.json", &lock)]);
    let (first, _) = bench.build().await;
    let (again, text) = bench.build().await;
    assert!(again.reused && again.slug == first.slug && text.contains("Unchanged since slug"), "{text}");

    bench.write("index.js", "// changed\n");
    let (changed, text) = bench.build().await;
    assert!(changed.slug.id != first.slug.id && text.matches("Restored from cache (lock unchanged)").count() == 2, "{text}");
    bench.write("package.json", &MANIFEST.replace("node index.js", "node ./index.js"));
    assert_eq!(bench.build().await.1.matches("Restored from cache").count(), 2, "a script decides nothing of what is installed");

    // A script that writes into a package changes this slug and nothing that is shared.
    let patching = MANIFEST.replace("json5 data.json5 -o made.json", "echo 'module.exports = 7' > node_modules/ms/index.js");
    bench.write("package.json", &patching);
    let (patched, _) = bench.build().await;
    let ms = |b: &Built| fs::read_to_string(bench.tree(b).join("node_modules/ms/index.js")).expect("there");
    assert!(ms(&patched) == "module.exports = 7\n" && ms(&first).len() > 1000, "the slug before it never changes");
    bench.write("package.json", MANIFEST);
    bench.write("index.js", INDEX);
    assert_eq!(bench.build().await.0.slug.id, first.slug.id);
}

#[tokio::test]
async fn without_a_lock_npm_resolves_once() {
    let bench = Bench::new(&[("package.json", r#"{"dependencies": {"ms": "^2.1.2"}}"#), ("index.js", "require('ms')")]);
    let (built, text) = bench.build().await;
    assert!(text.contains("(package.json, resolved)") && text.contains("commit package-lock.json"), "{text}");
    assert!(built.slug.processes[0].command == "node index.js" && bench.tree(&built).join("node_modules/ms").is_dir());
    bench.write("index.js", "require('ms') // again");
    assert!(bench.build().await.1.contains("Restored from cache"));
}

#[tokio::test]
async fn a_workspace_is_one_slug_whose_packages_find_each_other() {
    let root =
        r#"{"name": "all", "private": true, "workspaces": ["apps/*", "libs/*"], "scripts": {"build": "npm run build -ws --if-present"}}"#;
    let lock = format!(
        r#"{{"name": "all", "lockfileVersion": 3, "requires": true, "packages": {{"": {{"name": "all", "workspaces": ["apps/*", "libs/*"]}},
        "apps/api": {{"name": "api", "version": "1.0.0", "dependencies": {{"wait": "1.0.0"}}, "devDependencies": {{"json5": "2.2.3"}}}}, "libs/wait": {{"name": "wait", "version": "1.0.0", "dependencies": {{"ms": "2.1.3"}}, "bin": {{"say": "bin/say"}}}},
        "node_modules/api": {{"resolved": "apps/api", "link": true}}, "node_modules/wait": {{"resolved": "libs/wait", "link": true}},
        "node_modules/json5": {{"version": "2.2.3", "integrity": "{JSON5}", "dev": true, "bin": {{"json5": "lib/cli.js"}}}},
        "node_modules/ms": {{"version": "2.1.3", "integrity": "{MS}"}}}}}}"#
    );
    let api = r#"{"name": "api", "version": "1.0.0", "scripts": {"start": "node api.js", "build": "json5 in.json5 -o made.json && say", "postinstall": "echo hello > said"},
        "dependencies": {"wait": "1.0.0"}, "devDependencies": {"json5": "2.2.3"}}"#;
    let bench = Bench::new(&[
        ("package.json", root),
        ("package-lock.json", &lock),
        ("apps/api/package.json", api),
        ("apps/api/in.json5", "{}"),
        ("apps/api/api.js", "console.log(require('wait')(60000), require('./made.json'))"),
        (
            "libs/wait/package.json",
            r#"{"name": "wait", "version": "1.0.0", "main": "wait.js", "dependencies": {"ms": "2.1.3"}, "bin": {"say": "bin/say"}}"#,
        ),
        // Not executable in the work tree: package managers see to that.
        ("libs/wait/bin/say", "#!/usr/bin/env node\nconsole.log('says', require('ms')(1000))"),
        ("libs/wait/wait.js", "module.exports = require('ms')"),
    ]);
    let error = bench.fails().await;
    assert!(error.contains("This is a workspace") && error.contains("\n  web: npm start -w apps/api"), "{error}");

    bench.write("Procfile", "web: npm start -w apps/api");
    let (built, text) = bench.build().await;
    assert!(text.contains("$ npm run postinstall (in apps/api)") && text.contains("says 1s"), "{text}");
    let moved = bench.dir.path().join("elsewhere");
    fs::rename(bench.tree(&built), &moved).expect("moved");
    let out = Command::new("node").arg("apps/api/api.js").current_dir(&moved).output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "1m {}\n", "{}", String::from_utf8_lossy(&out.stderr));
    assert!(moved.join("apps/api/said").is_file() && !moved.join("node_modules/json5").exists());

    let git = Command::new("git").args(["init", "-q"]).current_dir(bench.folder()).status().expect("git");
    assert!(git.success());
    let (member, text) = bench.build_as(&bench.folder().join("apps/api"), &[], None).await;
    let error = member.err().unwrap_or_else(|| panic!("built\n{text}")).to_string();
    assert!(error.starts_with("apps/api is a package of the workspace in ") && error.contains("`web: npm start -w apps/api`"), "{error}");
}

#[tokio::test]
async fn what_a_build_writes_into_pages_is_part_of_it() {
    let bench = Bench::new(&[
        ("package.json", r#"{"scripts": {"build": "echo $VITE_TITLE $OTHER $NODE_ENV > page", "start": "node x"}}"#),
        ("x", ""),
    ]);
    let built = async |config: &[(&str, &str)]| {
        let (built, text) = bench.build_as(&bench.folder(), config, None).await;
        (built.unwrap_or_else(|e| panic!("{e}\n{text}")), text)
    };
    let (one, text) = built(&[("VITE_TITLE", "one"), ("OTHER", "a")]).await;
    assert!(text.contains("writes the values of VITE_TITLE into its files"), "{text}");
    let page = |b: &Built| fs::read_to_string(bench.tree(b).join("page")).expect("made");
    assert_eq!(page(&one), "one a production\n");
    assert!(built(&[("VITE_TITLE", "one"), ("OTHER", "b")]).await.0.reused, "a changed config makes a release, not a slug");
    let (two, _) = built(&[("VITE_TITLE", "two"), ("OTHER", "b")]).await;
    assert!(!two.reused && page(&two) == "two b production\n");
}

#[tokio::test]
async fn failures_say_cause_and_cure() {
    let check = async |files: &[(&str, &str)], use_node: Option<&str>, parts: &[&str]| {
        let bench = Bench::new(files);
        let (built, text) = bench.build_as(&bench.folder(), &[], use_node).await;
        let error = built.err().unwrap_or_else(|| panic!("it was built\n{text}")).to_string();
        parts.iter().for_each(|p| assert!(error.contains(p), "{p}\n{error}"));
        let left = fs::read_dir(bench.home.slugs())
            .into_iter()
            .flatten()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with(".making"));
        assert!(!left, "nothing is left behind");
    };
    let lock = npm_lock();
    let app = |json: &'static str| [("package.json", json), ("index.js", "")];
    check(
        &app(r#"{"engines": {"node": ">=18 <18.1 || 99.x"}}"#),
        None,
        &["the app asks for Node >=18 <18.1 || 99.x (package.json:1)", "/node\n", "dozen up --use-node "],
    )
    .await;
    check(&app("{}"), Some("/bin/sh"), &["/bin/sh is no Node of 14 or newer", "--use-node"]).await;
    check(&app("{}"), Some("12"), &["the app asks for Node 12 (--use-node)"]).await;
    let stale = [
        ("package.json", r#"{"name": "shop", "dependencies": {"ms": "2.1.3", "kleur": "4.1.5"}}"#),
        ("package-lock.json", lock.as_str()),
        ("index.js", ""),
    ];
    check(&stale, None, &["`npm ci` failed", "does not fit package.json. Run `npm install` and commit package-lock.json"]).await;
    check(&app(r#"{"dependencies": {"ms": "99.1.0"}}"#), None, &["not on the registry"]).await;
    check(&app(r#"{"scripts": {"build": "tsc -p ."}}"#), None, &["`npm run build` failed", "The program tsc is in none of the packages"])
        .await;
    let develops = r#"{"scripts": {"start": "json5 x", "build": "mkdir -p dist/api && echo > dist/api/main.js"}, "devDependencies": {"json5": "2.2.3"}}"#;
    check(&app(develops), None, &["runs json5, which a package for development brings", "`web: node dist/api/main.js`"]).await;
}

/// The example, and all that its page says of it.
#[test]
fn the_ticker_ticks_scales_and_stops_gracefully() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ticker");
    let place = Place::named("ticker", &[]);
    for name in ["package.json", "package-lock.json", "Procfile", "app.json", "config.js", "web.js", "worker.js", "page.html"] {
        place.write(name, fs::read(example.join(name)).expect("there"));
    }
    place.write(".env", "INTERVAL_MS=50\n");
    let lock = fs::read_to_string(example.join("package-lock.json")).expect("there");
    assert!(!lock.contains("resolved"), "a lock file that names no host works with every registry");
    let up = place.up();
    assert!(up.page("/").contains("<title>ticker</title>"));
    up.line("worker.1", "tick 3 counted");

    let mut socket = TcpStream::connect(("127.0.0.1", up.port())).expect("connected");
    let hello = "GET /ticks HTTP/1.1\r\nHost: ticker.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.write_all(hello.as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    // A frame of a server: its kind, its length, its bytes.
    let mut frame = || {
        let mut start = [0; 2];
        socket.read_exact(&mut start).expect("a frame");
        let mut body = vec![0; usize::from(start[1])];
        socket.read_exact(&mut body).expect("its bytes");
        (start[0] & 0xf, body)
    };
    let tick = |(kind, body): (u8, Vec<u8>)| {
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{kind} {body:?}: {e}"));
        assert_eq!((kind, told["from"].as_str()), (1, Some("web.1")));
        told["tick"].as_u64().expect("a number")
    };
    let first = tick(frame());
    assert_eq!(tick(frame()), first + 1);

    up.dozen(&["ps", "scale", "worker=2"]).ok();
    up.line("worker.2", "tick 1 counted");
    up.dozen(&["ps", "scale", "web=0"]).ok();
    let code = loop {
        if let (8, body) = frame() {
            break u16::from_be_bytes([body[0], body[1]]);
        }
    };
    assert_eq!(code, 1001, "visitors are told that the instance goes away");
    up.line("web.1", "Process exited with status 0");
    let ended = up.stop();
    for line in ["stopped after", "Process exited with status 0"] {
        for worker in ["worker.1", "worker.2"] {
            let said = |e: &serde_json::Value| e["ps"] == worker && e["message"].as_str().is_some_and(|m| m.contains(line));
            assert!(ended.events.iter().any(said), "{worker} says no {line:?}: {}", ended.text());
        }
    }
    place.assert_nothing_left();
}
