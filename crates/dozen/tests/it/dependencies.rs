//! End to end: dependencies. Real packages from a real index, through uv.

use crate::deployed::are_a_builders;
use dozen_core::config::{Mask, Origin, Var};
use dozen_core::dependencies::Language;
use dozen_core::ids::AppName;
use dozen_core::processes::ProcessType;
use dozen_engine::codebase;
use dozen_engine::dependencies::interpreters::{Found, Places, find};
use dozen_engine::dependencies::{BuildError, Built, Request, build};
use dozen_engine::home::Home;
use dozen_engine::output::{Event, Output};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// What a build said, line by line.
#[derive(Default)]
pub(crate) struct Heard(pub(crate) Mutex<Vec<String>>);

impl Output for Heard {
    fn emit(&self, event: Event) {
        let line = match event {
            Event::Step(t) => format!("-----> {t}"),
            Event::Detail(t) | Event::App(t) => format!("       {t}"),
            Event::Warning(t) => format!(" !     {t}"),
            Event::Busy(_) | Event::Done(_) => return,
        };
        self.0.lock().expect("no panic").push(line);
    }
}

/// An app's folder and a DOZEN_HOME. uv and its downloads are shared by all tests, as if fetched before.
struct Bench {
    dir: tempfile::TempDir,
    home: Home,
    app: AppName,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let home = Home::at(dir.path().join("home"));
        let app: AppName = "shop".parse().expect("a name");
        let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
        for (link, to) in [(home.tools(), shared.join("tools")), (home.cache(&app).join("downloads"), shared.join("downloads"))] {
            fs::create_dir_all(&to).expect("made");
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

    async fn build_as(&self, config: &[(&str, &str)], use_python: Option<&str>) -> (Result<Built, BuildError>, String) {
        let reading = codebase::read(&self.folder()).expect("readable");
        let config: Vec<(String, String)> = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let secrets: Vec<Var> = config.iter().map(|(_, v)| Var { value: v.clone(), origin: Origin::Set, plain: false }).collect();
        let mask = Mask::of(&secrets);
        let heard = Arc::new(Heard::default());
        let processes = fs::read_to_string(self.folder().join("Procfile")).unwrap_or_default();
        let processes = processes
            .lines()
            .filter_map(|l| l.split_once(": "))
            .map(|(n, c)| ProcessType { name: n.parse().expect("a name"), command: c.to_owned() });
        let request = Request {
            console: None,
            scratch: &[],
            rules: &std::collections::BTreeMap::new(),
            exe: Path::new(env!("CARGO_BIN_EXE_dozen")),
            home: &self.home,
            app: &self.app,
            source: &reading.source,
            processes: processes.collect(),
            config: &config,
            placeholders: &[],
            mask: &mask,
            use_python,
            last_python: None,
            use_node: None,
            last_node: None,
            development: false,
            waits: &tokio::sync::watch::Sender::new(false),
            buildpacks: &[],
            stack: None,
            folders: false,
            output: heard.clone(),
        };
        let built = build(request).await;
        let text = heard.0.lock().expect("no panic").join("\n");
        (built, text)
    }

    async fn build(&self) -> (Built, String) {
        match self.build_as(&[], None).await {
            (Ok(built), text) => (built, text),
            (Err(e), text) => panic!("{text}\n{e}"),
        }
    }

    fn tree(&self, built: &Built) -> PathBuf {
        self.home.slug(&built.slug.id).join("tree")
    }

    /// The error's text, with what was said before it.
    async fn fails(&self, config: &[(&str, &str)], use_python: Option<&str>) -> String {
        match self.build_as(config, use_python).await {
            (Ok(built), text) => panic!("{text}\nit was built: {:?}", built.slug),
            (Err(e), text) => format!("{text}\n{e}"),
        }
    }

    /// Runs Python in a slug and answers what it prints.
    fn python(&self, built: &Built, code: &str) -> String {
        let tree = self.tree(built);
        let out = Command::new(tree.join(".venv/bin/python")).args(["-c", code]).current_dir(&tree).output().expect("runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// Names of what lies in the store and under the cache's layers, folders under construction among them.
    fn kept(&self) -> Vec<String> {
        let layers = self.home.cache(&self.app).join("layers");
        let folders = [self.home.slugs(), layers].into_iter().flat_map(|f| fs::read_dir(f).into_iter().flatten().flatten());
        folders.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// Runs the uv that the tests share in a folder, to make locks. A registry's host stands in no file of this repository.
async fn uv(folder: &Path, args: &[&str]) {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python/tools");
    let find = || fs::read_dir(&tools).into_iter().flatten().flatten().map(|e| e.path().join("bin/uv")).find(|p| p.is_file());
    if find().is_none() {
        Bench::new(&FLASK).build().await;
    }
    let program = find().unwrap_or_else(|| "uv".into());
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python/uv");
    let out = Command::new(program)
        .args(args)
        .current_dir(folder)
        .env("UV_CACHE_DIR", cache)
        .env("UV_PYTHON_DOWNLOADS", "never")
        .output()
        .expect("runs");
    assert!(out.status.success(), "uv {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Every path of a tree with its mode and content.
fn contents(tree: &Path) -> Vec<(String, u32, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let mut out = Vec::new();
    let mut queue = vec![tree.to_owned()];
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(folder).expect("readable").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("there"));
            let name = path.strip_prefix(tree).expect("inside").to_string_lossy().into_owned();
            let content = if meta.is_symlink() {
                fs::read_link(&path).expect("a link").as_os_str().as_bytes().to_vec()
            } else if meta.is_dir() {
                queue.push(path);
                Vec::new()
            } else {
                fs::read(&path).expect("readable")
            };
            out.push((name, meta.mode(), content));
        }
    }
    out.sort();
    out
}

const FLASK: [(&str, &str); 3] = [
    ("requirements.txt", "flask==3.0.3\ngunicorn==23.0.0\n"),
    ("app.py", "from flask import Flask\napp = Flask(__name__)\n"),
    ("static/site.css", "body {}\n"),
];

const PYPROJECT: &str = "[project]\nname = \"shop\"\nversion = \"1\"\nrequires-python = \">=3.10\"\ndependencies = [\"flask>=3\", \"gunicorn\"]\n\
    [dependency-groups]\ndev = [\"iniconfig\"]\n[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n";

#[tokio::test]
async fn an_app_becomes_the_same_slug_anywhere_and_runs_elsewhere() {
    let (one, two) = (Bench::new(&FLASK), Bench::new(&FLASK));
    let (a, text) = one.build().await;
    for part in [
        "-----> Python app detected\n       Using Python 3",
        "(requirements.txt, resolved)",
        "versions of 7 packages open",
        "Default types for Python -> web",
        "-----> Storing slug...\n       Done: ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert_eq!(a.slug.processes[0].command, "gunicorn app:app --bind 0.0.0.0:$PORT");
    let (b, _) = two.build().await;
    let (left, right) = (contents(&one.tree(&a)), contents(&two.tree(&b)));
    for (l, r) in left.iter().zip(&right) {
        assert_eq!((&l.0, l.1), (&r.0, r.1));
        assert!(l.2 == r.2, "{} differs", l.0);
    }
    assert_eq!(a.slug.id, b.slug.id);
    assert!(!a.reused && left.iter().any(|(p, ..)| p.starts_with("__pycache__/app.")), "the app's bytecode is there");

    let moved = one.dir.path().join("elsewhere");
    fs::rename(one.tree(&a), &moved).expect("moved");
    let out = Command::new(moved.join(".venv/bin/gunicorn")).arg("--version").output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "gunicorn (version 23.0.0)");
}

#[tokio::test]
async fn what_did_not_change_is_not_built_again() {
    let bench = Bench::new(&FLASK);
    let (first, _) = bench.build().await;
    let began = std::time::Instant::now();
    let (again, text) = bench.build().await;
    assert!(again.reused && again.slug == first.slug && text.contains("Unchanged since slug"), "{text}");
    assert!(began.elapsed().as_millis() < 1000, "{:?}", began.elapsed());

    bench.write("app.py", "from flask import Flask\napp = Flask('changed')\n");
    let (changed, text) = bench.build().await;
    assert!(changed.slug.id != first.slug.id && text.contains("Restored from cache (lock unchanged)"), "{text}");
    let css = |b: &Built| fs::metadata(bench.tree(b).join("static/site.css")).and_then(|m| m.modified()).expect("there");
    assert_eq!(css(&first), css(&changed), "a file's time is its own");

    let fresh = Bench::new(&FLASK);
    fresh.write("app.py", "from flask import Flask\napp = Flask('changed')\n");
    assert_eq!(fresh.build().await.0.slug.id, changed.slug.id, "what was built before leaves no trace");

    bench.write("app.py", FLASK[1].1);
    assert_eq!(bench.build().await.0.slug.id, first.slug.id);
    fs::remove_dir_all(bench.home.slugs()).expect("removed");
    let (rebuilt, _) = bench.build().await;
    assert!(!rebuilt.reused && rebuilt.slug.id == first.slug.id, "a lost slug is built again");

    let flask =
        |root: &Path| contents(root).into_iter().map(|(p, ..)| root.join(p)).find(|p| p.ends_with("flask/__init__.py")).expect("there");
    fs::write(flask(&bench.home.cache(&bench.app).join("layers")), "raise SystemExit").expect("written");
    fs::remove_dir_all(bench.home.slugs()).expect("removed");
    let (healed, _) = bench.build().await;
    assert_eq!(healed.slug.id, first.slug.id, "a damaged layer is made again");
}

#[tokio::test]
async fn uv_lock_installs_the_project_and_no_development_tools() {
    let bench = Bench::new(&[
        ("pyproject.toml", PYPROJECT),
        ("src/shop/__init__.py", "from flask import Flask\nname = 'shop'\n"),
        ("Procfile", "web: gunicorn shop:app"),
    ]);
    uv(&bench.folder(), &["lock", "--quiet"]).await;
    let (built, text) = bench.build().await;
    assert!(text.contains("(uv.lock, hash-checked)") && text.contains("Procfile declares types -> web"), "{text}");
    assert_eq!(bench.python(&built, "import shop, importlib.util as u; print(shop.name, u.find_spec('iniconfig'))"), "shop None");
    let all = contents(&bench.tree(&built));
    assert!(!all.iter().any(|(p, ..)| p.ends_with("direct_url.json") || p.ends_with("uv_cache.json") || p.contains(".egg-info")));
    let needle = bench.dir.path().as_os_str().as_encoded_bytes();
    let leak = all.iter().find(|(_, _, c)| c.windows(needle.len()).any(|w| w == needle)).map(|(p, ..)| p);
    assert_eq!(leak, None, "no path of the build is left");
    let other = Bench::new(&[]);
    for file in ["pyproject.toml", "uv.lock", "src/shop/__init__.py", "Procfile"] {
        other.write(file, &fs::read_to_string(bench.folder().join(file)).expect("there"));
    }
    assert_eq!(other.build().await.0.slug.id, built.slug.id);
}

#[tokio::test]
async fn poetry_lock_is_read_by_poetry() {
    let pyproject = "[tool.poetry]\nname = \"shop\"\nversion = \"1\"\ndescription = \"\"\nauthors = []\npackage-mode = false\n\
        [tool.poetry.dependencies]\npython = \"^3.10\"\nblinker = \"^1\"\n[tool.poetry.group.dev.dependencies]\niniconfig = \"*\"\n";
    let bench = Bench::new(&[("pyproject.toml", pyproject), ("Procfile", "worker: python -c 1")]);
    let package = |name: &str, version: &str, group: &str, hashes: &[String]| {
        let files: Vec<String> = hashes.iter().enumerate().map(|(i, h)| format!("{{file = \"{name}-{i}\", hash = \"{h}\"}}")).collect();
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\ndescription = \"\"\noptional = false\npython-versions = \"*\"\ngroups = [\"{group}\"]\nfiles = [{}]\n\n",
            files.join(", ")
        )
    };
    let blinker = package("blinker", "1.9.0", "main", &hashes(&bench, "blinker==1.9.0").await);
    let iniconfig = package("iniconfig", "2.0.0", "dev", &hashes(&bench, "iniconfig==2.0.0").await);
    // The hash is poetry's, of what pyproject.toml declares.
    let metadata = "[metadata]\nlock-version = \"2.1\"\npython-versions = \"^3.10\"\ncontent-hash = \"348f6e9d5947284345352bbc01ff02af33cc2741335620da4d692f691cdc4b80\"\n";
    bench.write("poetry.lock", &format!("{blinker}{iniconfig}{metadata}"));
    let (built, text) = bench.build().await;
    assert!(text.contains("(poetry.lock, resolved)"), "{text}");
    assert_eq!(bench.python(&built, "import blinker, importlib.util as u; print(u.find_spec('iniconfig'))"), "None");
    bench.write("main.py", "");
    assert!(bench.build().await.1.contains("Restored from cache"));
}

/// The hashes that the index gives for a requirement.
async fn hashes(bench: &Bench, requirement: &str) -> Vec<String> {
    let folder = bench.dir.path();
    fs::write(folder.join("one.in"), requirement).expect("written");
    uv(folder, &["pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-deps", "one.in", "-o", "one.txt"]).await;
    let text = fs::read_to_string(folder.join("one.txt")).expect("made");
    text.split("--hash=").skip(1).filter_map(|h| h.split_whitespace().next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn pipfile_lock_pins_and_checks() {
    let bench = Bench::new(&[("Procfile", "worker: python -c 1")]);
    let hashes = hashes(&bench, "blinker==1.9.0").await;
    let lock = |hashes: &[String]| {
        serde_json::json!({"_meta": {"requires": {"python_version": "3.11"}}, "default": {"blinker": {"hashes": hashes, "version": "==1.9.0"}}, "develop": {"iniconfig": {"version": "==2.0.0"}}}).to_string()
    };
    bench.write("Pipfile.lock", &lock(&hashes));
    let (built, text) = bench.build().await;
    assert!(text.contains("Pipfile.lock:1") && built.python.as_deref().is_some_and(|p| p.starts_with("3.11.")), "{text}");
    assert_eq!(bench.python(&built, "import blinker, importlib.util as u; print(u.find_spec('iniconfig'))"), "None");

    bench.write("Pipfile.lock", &lock(&[format!("sha256:{}", "0".repeat(64))]));
    let error = bench.fails(&[], None).await;
    assert!(error.contains("A package is not the one that Pipfile.lock was made with"), "{error}");
}

#[tokio::test]
async fn pyproject_and_local_packages_install() {
    let bench = Bench::new(&[
        ("requirements.txt", "-e .\n./libs/price\n"),
        ("setup.py", "from setuptools import setup\nsetup(name='shop', version='1', packages=['shop'], install_requires=['blinker'])\n"),
        ("shop/__init__.py", ""),
        ("libs/price/pyproject.toml", "[project]\nname = \"price\"\nversion = \"1\"\ndependencies = [\"click\"]\n"),
        ("libs/price/price.py", "cents = 5\n"),
        ("Procfile", "worker: python -m shop"),
    ]);
    let (built, text) = bench.build().await;
    assert!(text.contains("Installing the app's own packages"), "{text}");
    assert_eq!(bench.python(&built, "import price, blinker, click; print(price.cents)"), "5");
    assert!(!bench.tree(&built).join("build").exists() && !bench.tree(&built).join("shop.egg-info").exists());

    let bench = Bench::new(&[
        ("pyproject.toml", "[project]\nname = \"x\"\nversion = \"1\"\ndependencies = [\"blinker\"]\n"),
        ("Procfile", "worker: python -c 1"),
    ]);
    let (built, text) = bench.build().await;
    assert!(text.contains("To lock them for everyone: uv lock"), "{text}");
    bench.python(&built, "import blinker");
}

const SETTINGS: &str = "import os\nSECRET_KEY = os.environ['SECRET_KEY']\nINSTALLED_APPS = ['django.contrib.staticfiles', 'shop']\nSTATIC_URL = 's/'\n\
    STATIC_ROOT = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'collected')\nROOT_URLCONF = 'shop.urls'\nprint('token', os.environ.get('TOKEN'), SECRET_KEY)\n";
const MANAGE: &str = "import os, sys\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\nfrom django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n";

#[tokio::test]
async fn django_collects_its_static_files_with_the_deploys_config() {
    let bench = Bench::new(&[
        ("requirements.txt", "django<6\ngunicorn\n"),
        ("manage.py", MANAGE),
        ("shop/__init__.py", ""),
        ("shop/settings.py", SETTINGS),
        (
            "shop/wsgi.py",
            "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\nfrom django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
        ),
        ("shop/static/shop.css", "p {}"),
    ]);
    let error = bench.fails(&[], None).await;
    assert!(error.contains("need the config var SECRET_KEY") && error.contains("DISABLE_COLLECTSTATIC=1"), "{error}");
    assert!(!bench.kept().iter().any(|n| n.starts_with(".making")), "{:?}", bench.kept());

    let (built, text) = bench.build_as(&[("SECRET_KEY", "from the config"), ("TOKEN", "tok")], None).await;
    let built = built.expect("built");
    assert!(text.contains("-----> $ python manage.py collectstatic --noinput") && text.contains("token tok ********"), "{text}");
    assert!(bench.tree(&built).join("collected/shop.css").is_file());
    assert_eq!(built.slug.processes[0].command, "gunicorn shop.wsgi --bind 0.0.0.0:$PORT");
    let (again, _) = bench.build_as(&[("SECRET_KEY", "another")], None).await;
    assert!(again.expect("built").reused, "a changed config makes a release, not a slug");

    let (skipped, text) = bench.build_as(&[("DISABLE_COLLECTSTATIC", "1")], None).await;
    assert!(!bench.tree(&skipped.expect("built")).join("collected").exists() && text.contains("collectstatic is skipped"), "{text}");
    bench.write("shop/settings.py", &SETTINGS.replace("STATIC_ROOT", "OTHER"));
    let (built, text) = bench.build_as(&[("SECRET_KEY", "x")], None).await;
    assert!(built.is_ok() && text.contains("the settings name no STATIC_ROOT"), "{text}");
}

#[tokio::test]
async fn errors_say_cause_and_cure() {
    let check = async |files: &[(&str, &str)], use_python: Option<&str>, parts: &[&str]| {
        let bench = Bench::new(files);
        let error = bench.fails(&[], use_python).await;
        parts.iter().for_each(|p| assert!(error.contains(p), "{p}\n{error}"));
        assert!(!bench.kept().iter().any(|n| n.starts_with(".making")), "{:?}", bench.kept());
    };
    let worker = ("Procfile", "worker: python -c 1");
    check(&[], None, &["nothing to build"]).await;
    check(&[("README", "x")], None, &["no pack knows this app", "Add a Procfile"]).await;
    check(
        &[(".python-version", "3.99\n"), ("requirements.txt", ""), worker],
        None,
        &["Python 3.99 (.python-version:1)", "--use-python PATH"],
    )
    .await;
    check(&[("requirements.txt", ""), worker], Some("/bin/sh"), &["/bin/sh is no CPython"]).await;
    check(
        &[("requirements.txt", "fastapi\n"), ("main.py", "from fastapi import FastAPI\napp = FastAPI()\n")],
        None,
        &["Add uvicorn to requirements.txt"],
    )
    .await;
    check(&[("requirements.txt", "blinker==99.1\n"), worker], None, &["`uv pip compile` failed", "do not fit together"]).await;
    check(
        &[("requirements.txt", "--index-url http://user:sesame-word@127.0.0.1:9/simple\nblinker\n"), worker],
        None,
        &["No package index could be reached"],
    )
    .await;
}

#[tokio::test]
async fn credentials_of_an_index_are_never_shown() {
    let bench =
        Bench::new(&[("requirements.txt", "--index-url http://user:sesame-word@127.0.0.1:9/simple\nblinker\n"), ("Procfile", "w: x")]);
    let error = bench.fails(&[], None).await;
    assert!(!error.contains("sesame-word"), "{error}");
}

#[tokio::test]
async fn a_procfile_alone_is_enough() {
    let bench = Bench::new(&[("Procfile", "web: ./serve"), ("serve", "#!/bin/sh\n")]);
    let (built, text) = bench.build().await;
    assert!(text.starts_with("-----> Procfile app detected"), "{text}");
    assert_eq!((built.slug.stack.pack.as_str(), built.slug.stack.runtime, built.slug.files), ("procfile", None, 2));
}

#[tokio::test]
async fn a_build_that_is_given_up_leaves_nothing_behind() {
    let bench = Bench::new(&[("requirements.txt", "slow @ file:///nowhere\n-e .\n"), ("Procfile", "w: x")]);
    bench.write("setup.py", "import time, os\nopen(os.environ['HOME'] + '/../started', 'w').close()\ntime.sleep(600)\n");
    bench.write("requirements.txt", "-e .\n");
    let slugs = bench.home.slugs();
    let started = || fs::read_dir(&slugs).into_iter().flatten().flatten().any(|e| e.path().join("build/started").exists());
    tokio::select! {
        (built, text) = bench.build_as(&[], None) => panic!("{text} {built:?}"),
        () = async { while !started() { tokio::time::sleep(std::time::Duration::from_millis(20)).await } } => {}
    }
    assert_eq!(bench.kept(), Vec::<String>::new());
}

#[tokio::test]
async fn interpreters_of_this_machine_are_found_without_shims_and_remembered() {
    let (dir, exe) = (tempfile::tempdir().expect("temp dir"), Path::new(env!("CARGO_BIN_EXE_dozen")));
    let cache = dir.path().join("interpreters.json");
    let first = find(exe, &Places::here(Language::Python), &cache).await;
    assert!(!first.all.is_empty(), "the tests need a python3");
    assert!(first.all.iter().all(|i| i.prefix.is_dir() && !i.executable.starts_with("/root/.pyenv/shims")));
    // Nobody is asked again.
    assert_eq!(find(Path::new("/nowhere"), &Places::here(Language::Python), &cache).await, first);
    let nowhere = Places { path: vec![dir.path().to_owned()], ..Places::none(Language::Python) };
    assert_eq!(find(exe, &nowhere, &dir.path().join("other.json")).await, Found::default());
}

/// Packages nothing but a file that says what came of its attempts: it goes for the packages that slugs share.
const BACKEND: &str = r#"
import glob, json, os, zipfile
found = {}
def attempt(name, act):
    try:
        found[name] = act() or "done"
    except OSError as error:
        found[name] = type(error).__name__
def overwrite(path):
    time = os.stat(path)
    with open(path, "r+b") as file:
        file.write(b"hostile!")
    os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))
site = glob.glob("/app/.venv/lib/python3*/site-packages")
def build_wheel(folder, config=None, metadata=None):
    for path in glob.glob(site[0] + "/blinker/*.py") if site else []:
        attempt("overwrite", lambda: overwrite(path))
    attempt("uid", lambda: str(os.geteuid()))
    name = "shop-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        info = "shop-1.0.dist-info/"
        wheel.writestr("shop_found.json", json.dumps(found))
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "shop_found.json,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n")
    return name
"#;

#[tokio::test]
async fn a_hostile_package_does_not_change_what_slugs_share() {
    let pyproject = "[project]\nname = \"shop\"\nversion = \"1.0\"\nrequires-python = \">=3.8\"\ndependencies = [\"blinker==1.8.2\"]\n\
        [build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n";
    let honest = BACKEND.replace("overwrite(path))", "None)");
    let bench = Bench::new(&[("pyproject.toml", pyproject), ("shop/__init__.py", ""), ("Procfile", "w: x")]);
    bench.write("backend.py", &honest);
    let (first, text) = bench.build().await;
    assert!(text.contains("Installing the app's own packages"), "{text}");
    let blinker = |tree: &Path| {
        let all = contents(tree).into_iter().filter(|(p, ..)| p.contains("site-packages/blinker/") && p.ends_with(".py"));
        all.map(|(p, _, bytes)| (p, bytes)).collect::<Vec<_>>()
    };
    let before = blinker(&bench.tree(&first));
    assert!(before.len() > 1, "{before:?}");

    bench.write("backend.py", BACKEND);
    let (second, _) = bench.build().await;
    assert_ne!(second.slug.id, first.slug.id);
    let found = contents(&bench.tree(&second)).into_iter().find(|(p, ..)| p.ends_with("shop_found.json")).expect("installed").2;
    let found: serde_json::Value = serde_json::from_slice(&found).expect("JSON");
    let root = rustix::process::geteuid().is_root();
    // As root they are another's; for an ordinary user these are copies, and the slug gets the layer's own in their place.
    assert_eq!(found["overwrite"], if root { "PermissionError" } else { "done" }, "{found}");
    assert_ne!(found["uid"], "0", "{found}");
    assert_eq!(blinker(&bench.tree(&first)), before, "a sealed slug was changed");
    assert_eq!(blinker(&bench.tree(&second)), before);
}
