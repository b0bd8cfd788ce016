//! II. Explicitly declare and isolate dependencies.
//! A pack looks at a source and answers a plan: build steps as data, which the engine runs. A pack runs nothing.
//!
//! **Invariant:** nothing here reads the disk; the engine hands in the few files that a pack asks for.

use crate::codebase::Source;
use crate::ids::TypeName;
use std::fmt;

pub mod aptfile;
pub mod node;
pub mod procfile;
pub mod python;
pub mod static_files;
pub mod system;

/// Counted up when a pack's output for one and the same source changes: part of every cache key.
pub const PACK_VERSION: u32 = 5;

/// A language and what runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The pack's name: `python`, `node`, `procfile`.
    pub pack: String,
    /// For people: `Python 3.11.7`.
    pub runtime: Option<String>,
}

/// What is to be done to make a slug of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The pack's name: `python`, `node`, `procfile`.
    pub pack: &'static str,
    /// The language, as a person reads it: `Python`. `None`: no language, the tree as it is.
    pub language: Option<&'static str>,
    /// What is to run the app; `None` where the system's own programs do.
    pub runtime: Option<Runtime>,
    /// The dependencies, installed once for all builds that declare the same.
    pub layer: Option<Layer>,
    /// What is done for each source, after the layer is in place.
    pub steps: Vec<Step>,
    /// Environment for every process; `{app}` in a value stands for the folder that the slug is seen at, `{runtime}` for that of the
    /// interpreter.
    pub env: Vec<(String, String)>,
    /// Types for an app without a Procfile, by name and command.
    pub processes: Vec<(TypeName, String)>,
    /// The language's interactive shell with the app's code at hand: what `console` runs where the app names nothing else.
    pub console: Option<String>,
    /// Folders that apps of this kind write beside their code, relative.
    pub scratch: Vec<String>,
    /// What to do when there is neither a Procfile nor a default type.
    pub cure: String,
    /// What a person should know, as sentences without a full stop.
    pub notes: Vec<String>,
}

/// The language version that a source asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Which versions will do.
    pub versions: Versions,
    /// Where it is said, as `file:line`; `None` where nothing is.
    pub pinned: Option<String>,
}

/// A language whose interpreters are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// CPython.
    Python,
    /// Node.
    Node,
}

impl Language {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "Python",
            Self::Node => "Node",
        }
    }

    /// The option that overrules the app's files.
    pub fn option(self) -> &'static str {
        match self {
            Self::Python => "--use-python",
            Self::Node => "--use-node",
        }
    }

    /// The file that pins a version where nothing else does.
    pub fn file(self) -> &'static str {
        match self {
            Self::Python => ".python-version",
            Self::Node => "package.json (engines)",
        }
    }

    /// The oldest version that packages can be installed for.
    pub fn oldest(self) -> [u32; 3] {
        match self {
            Self::Python => [3, 8, 0],
            Self::Node => [14, 0, 0],
        }
    }

    /// How many of a version's numbers name its series.
    pub fn series(self) -> usize {
        match self {
            Self::Python => 2,
            Self::Node => 1,
        }
    }

    /// Reads a version as a person gives it.
    pub fn pin(self, text: &str) -> Option<Versions> {
        match self {
            Self::Python => python::version::Constraint::pin(text).map(Versions::Python),
            Self::Node => node::range::Range::parse(text).map(Versions::Node),
        }
    }
}

/// Which versions of a language will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Versions {
    /// By PEP 440.
    Python(python::version::Constraint),
    /// By npm's ranges.
    Node(node::range::Range),
}

impl Versions {
    /// Of which language.
    pub fn language(&self) -> Language {
        match self {
            Self::Python(_) => Language::Python,
            Self::Node(_) => Language::Node,
        }
    }

    /// Whether this version will do.
    pub fn admits(&self, version: [u32; 3]) -> bool {
        match self {
            Self::Python(c) => c.admits(version),
            Self::Node(r) => r.admits(version),
        }
    }

    /// Whether every version will do.
    pub fn is_any(&self) -> bool {
        match self {
            Self::Python(c) => *c == python::version::Constraint::Any,
            Self::Node(r) => r.is_any(),
        }
    }

    /// The release that is meant, where nothing that is admitted can be had.
    pub fn names(&self) -> Option<[u32; 3]> {
        match self {
            Self::Python(c) => c.names(),
            Self::Node(r) => r.names(),
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Python(c) => c.fmt(f),
            Self::Node(r) => r.fmt(f),
        }
    }
}

/// Installed dependencies, kept and shared by what [`Layer::key_files`] say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The file that declares them: `uv.lock`.
    pub from: String,
    /// The files that decide what is installed.
    pub key_files: Vec<String>,
    /// What installs them.
    pub tool: Tool,
}

/// What installs a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// uv, into a virtual environment.
    Uv {
        /// How the list of what to install comes about.
        lock: Lock,
        /// Arguments for uv. `{venv}` is the environment, `{source}` a scratch copy of the source, `{lock}` the list.
        install: Vec<String>,
    },
    /// npm, pnpm or yarn, into `node_modules`.
    Node(Box<node::Install>),
}

/// How a layer's list of what to install comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    /// uv reads the file that declares them.
    Own,
    /// This text, in the form of a requirements file.
    Made(String),
    /// poetry exports its lock as a requirements file.
    Poetry,
    /// The declared ones are resolved once and the result is kept.
    Resolved {
        /// The file to resolve.
        input: String,
        /// Names that the input pins with `==`: when nothing else was resolved, the input was a lock already.
        pinned: Vec<String>,
        /// How a person makes a real lock.
        advice: String,
    },
}

/// Something done for each source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Installs the source's own packages with uv; placeholders as in [`Tool::Uv`].
    Project {
        /// Arguments for uv.
        args: Vec<String>,
    },
    /// Django's static files, where Django is installed.
    CollectStatic {
        /// The path of `manage.py`.
        manage: String,
    },
    /// A script of a package.json.
    Script(node::Script),
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No pack knows the source.
    #[error(
        "no pack knows this app: it has none of {}, no Procfile and no index.html. \
         Add a Procfile (`web: ./server --port $PORT`) to run it as it is, or declare its dependencies in one of those files",
        python::KNOWN_BY.join(", ") + ", " + node::KNOWN_BY
    )]
    Unknown,
    /// There are no files at all.
    #[error("there is nothing to build: the folder has no files that would go into a slug")]
    Empty,
    /// A file cannot be used.
    #[error("{file} cannot be used: {problem}. {cure}")]
    File {
        /// Its path.
        file: String,
        /// What is wrong, as a fragment.
        problem: String,
        /// What to do, as a sentence without a full stop.
        cure: String,
    },
}

/// Asks the packs in turn; the first that knows the source answers.
pub fn plan(source: &Source, read: &dyn Fn(&str) -> Option<String>) -> Result<Plan, PlanError> {
    if source.files.is_empty() {
        return Err(PlanError::Empty);
    }
    // A pyproject.toml that only configures tools makes no Python app of one in another language.
    let python = || python::plan(source, read);
    let python = if source.has(node::KNOWN_BY) && !python::declares(source, read) { None } else { python() };
    // A site may keep tools in a package.json that neither builds nor starts anything.
    let idle = |p: &Result<Plan, PlanError>| p.as_ref().is_ok_and(|p| p.processes.is_empty() && p.steps.is_empty());
    let node = || {
        node::plan(source, read)
            .map(|p| if idle(&p) && !source.has("Procfile") { static_files::plan(source, read).unwrap_or(p) } else { p })
    };
    let plan = python.or_else(node).or_else(|| procfile::plan(source)).or_else(|| static_files::plan(source, read));
    plan.unwrap_or(Err(PlanError::Unknown))
}

/// What frameworks write beside their code, by a file that tells them.
const WRITTEN: [(&str, &[&str]); 2] = [("config/application.rb", &["log", "tmp"]), ("artisan", &["bootstrap/cache", "storage"])];

/// The folders that an instance may write: those of the pack, of a framework that is known by its files, and those that the app declares.
/// Sorted, each once, none within another.
pub fn scratch(source: &Source, plan: &Plan, declared: &[String]) -> Vec<String> {
    let known = WRITTEN.iter().filter(|(file, _)| source.has(file)).flat_map(|(_, folders)| folders.iter().map(|f| (*f).to_owned()));
    let clean = |f: &String| f.split('/').filter(|p| !p.is_empty() && *p != ".").collect::<Vec<_>>().join("/");
    let mut all: Vec<String> = plan.scratch.iter().cloned().chain(known).chain(declared.iter().cloned()).map(|f| clean(&f)).collect();
    all.sort();
    let mut out: Vec<String> = Vec::new();
    for folder in all {
        if !folder.is_empty() && out.iter().all(|outer| folder != *outer && !folder.starts_with(&format!("{outer}/"))) {
            out.push(folder);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codebase::{FileKind, SourceFile};

    fn of(files: &[(&str, &str)]) -> Result<Plan, PlanError> {
        let mut all: Vec<SourceFile> =
            files.iter().map(|(p, t)| SourceFile { path: (*p).into(), kind: FileKind::Plain, size: t.len() as u64 }).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        let source = Source { folder: "/x".into(), commit: None, files: all };
        plan(&source, &|path| files.iter().find(|(p, _)| *p == path).map(|(_, t)| (*t).to_owned()))
    }

    /// A plan in a few lines: runtime, layer, steps, types or the cure, notes.
    fn summary(files: &[(&str, &str)]) -> String {
        let plan = match of(files) {
            Ok(plan) => plan,
            Err(e) => return format!("error: {e}"),
        };
        let mut out = vec![plan.pack.to_owned()];
        out.extend(plan.runtime.map(|r| format!("runtime {} at {}", r.versions, r.pinned.unwrap_or_else(|| "nowhere".into()))));
        out.extend(plan.layer.map(|l| match l.tool {
            Tool::Uv { lock, install } => format!("layer {} [{}] {lock:?}: uv {}", l.from, l.key_files.join(" "), install.join(" ")),
            Tool::Node(i) => format!("layer {} [{}]: {:?}", l.from, l.key_files.join(" "), i),
        }));
        out.extend(plan.steps.into_iter().map(|s| match s {
            Step::Project { args } => format!("project: uv {}", args.join(" ")),
            Step::CollectStatic { manage } => format!("collectstatic: {manage}"),
            Step::Script(s) => format!("script: {s:?}"),
        }));
        if plan.processes.is_empty() {
            out.push(format!("cure: {}", plan.cure));
        }
        out.extend(plan.processes.into_iter().map(|(name, command)| format!("{name}: {command}")));
        out.extend(plan.notes.into_iter().map(|n| format!("note: {n}")));
        out.join("\n")
    }

    const FLASK: &str = "from flask import Flask\n\napp = Flask(__name__)\n";

    #[test]
    fn python_apps_are_planned() {
        let flask = [("requirements.txt", "flask==3.0.0\ngunicorn\n"), ("app.py", FLASK), ("runtime.txt", "python-3.11.7\n")];
        insta::assert_snapshot!(summary(&flask), @r#"
        python
        runtime 3.11.7 at runtime.txt:1
        layer requirements.txt [requirements.txt] Resolved { input: "requirements.txt", pinned: ["flask"], advice: "uv pip compile --generate-hashes requirements.in -o requirements.txt" }: uv pip install --no-deps -r {lock}
        web: gunicorn app:app --bind 0.0.0.0:$PORT
        "#);
        let hashed = [
            ("requirements.txt", "flask==3.0.0 --hash=sha256:00\nwaitress==3 --hash=sha256:11\n"),
            ("src/app.py", FLASK),
            (".python-version", "# ours\n3.12\n"),
        ];
        insta::assert_snapshot!(summary(&hashed), @r"
        python
        runtime 3.12 at .python-version:2
        layer requirements.txt [requirements.txt] Own: uv pip install --no-deps --require-hashes -r requirements.txt
        web: cd src && waitress-serve --listen=0.0.0.0:$PORT app:app
        ");
        let fastapi = [
            ("requirements.txt", "-r reqs/base.txt\n"),
            ("reqs/base.txt", "fastapi[standard]\n"),
            ("app/main.py", "from fastapi import FastAPI\napi: FastAPI = FastAPI(title='x')\n"),
            ("app/__init__.py", ""),
        ];
        insta::assert_snapshot!(summary(&fastapi), @r#"
        python
        runtime any version at nowhere
        layer requirements.txt [requirements.txt reqs/base.txt] Resolved { input: "requirements.txt", pinned: [], advice: "uv pip compile --generate-hashes requirements.in -o requirements.txt" }: uv pip install --no-deps -r {lock}
        web: uvicorn app.main:api --host 0.0.0.0 --port $PORT
        "#);
        let django = [
            ("requirements.txt", "Django\nuvicorn\n"),
            ("site/manage.py", ""),
            ("site/shop/wsgi.py", ""),
            ("site/shop/asgi.py", ""),
            ("deep/er/still/manage.py", ""),
        ];
        insta::assert_snapshot!(summary(&django), @r#"
        python
        runtime any version at nowhere
        layer requirements.txt [requirements.txt] Resolved { input: "requirements.txt", pinned: [], advice: "uv pip compile --generate-hashes requirements.in -o requirements.txt" }: uv pip install --no-deps -r {lock}
        collectstatic: site/manage.py
        web: uvicorn --app-dir site shop.asgi:application --host 0.0.0.0 --port $PORT
        "#);
        let uv = [
            (
                "uv.lock",
                "version = 1\n[[package]]\nname = \"shop\"\nsource = { editable = \".\" }\n[[package]]\nname = \"Django\"\n[[package]]\nname = \"gunicorn\"\n",
            ),
            ("pyproject.toml", "[project]\nname = \"shop\"\nrequires-python = \">=3.11,<4\"\n"),
            ("libs/x/pyproject.toml", ""),
            ("manage.py", ""),
            ("shop/wsgi.py", ""),
            ("requirements.txt", "x"),
        ];
        insta::assert_snapshot!(summary(&uv), @r"
        python
        runtime >=3.11,<4 at pyproject.toml:3
        layer uv.lock [uv.lock libs/x/pyproject.toml pyproject.toml] Own: uv sync --frozen --no-dev --no-editable --no-install-local
        project: uv sync --frozen --no-dev --no-editable --inexact
        collectstatic: manage.py
        web: gunicorn shop.wsgi --bind 0.0.0.0:$PORT
        note: uv.lock is used; requirements.txt is not
        ");
        let virtual_uv = [
            ("uv.lock", "[[package]]\nname = \"shop\"\nsource = { virtual = \".\" }\n"),
            ("pyproject.toml", "[project]\nname = \"shop\"\n"),
        ];
        insta::assert_snapshot!(summary(&virtual_uv), @r"
        python
        runtime any version at nowhere
        layer uv.lock [uv.lock pyproject.toml] Own: uv sync --frozen --no-dev --no-editable --no-install-local
        cure: Add a Procfile with a line like `web: COMMAND`, which listens on $PORT; COMMAND's program must be in uv.lock
        ");
        let poetry = [
            ("poetry.lock", "[[package]]\nname = \"Flask\"\n[[package]]\nname = \"gunicorn\"\n"),
            (
                "pyproject.toml",
                "[tool.poetry]\nname = \"my-shop\"\n[tool.poetry.dependencies]\npython = \"^3.11\"\n[build-system]\nrequires = []\n",
            ),
            ("my_shop/__init__.py", ""),
            ("wsgi.py", "from my_shop import create_app\napp = create_app()\n"),
        ];
        insta::assert_snapshot!(summary(&poetry), @r"
        python
        runtime ^3.11 at pyproject.toml:4
        layer poetry.lock [poetry.lock pyproject.toml] Poetry: uv pip install --no-deps -r {lock}
        project: uv pip install --no-deps {source}
        web: gunicorn wsgi:app --bind 0.0.0.0:$PORT
        ");
        let pipfile = [(
            "Pipfile.lock",
            r#"{"_meta": {"requires": {"python_version": "3.11"}, "sources": [{"url": "https://index.invalid/simple"}, {"url": "https://${T}@x"}]},
            "default": {"flask": {"hashes": ["sha256:00"], "version": "==3.0.0", "markers": "python_version >= '3.8'", "extras": ["async"]},
            "mine": {"git": "https://host/mine", "ref": "abc"}, "here": {"path": "./libs/here", "editable": true}}, "develop": {"pytest": {"version": "==8"}}}"#,
        )];
        insta::assert_snapshot!(summary(&pipfile), @r#"
        python
        runtime 3.11 at Pipfile.lock:1
        layer Pipfile.lock [] Made("--index-url https://index.invalid/simple\nflask[async]==3.0.0 ; python_version >= '3.8' --hash=sha256:00\nmine @ git+https://host/mine@abc\n"): uv pip install --no-deps -r {lock}
        project: uv pip install --no-deps {source}/libs/here
        cure: Add a Procfile with a line like `web: COMMAND`, which listens on $PORT; COMMAND's program must be in Pipfile.lock
        "#);
        let pyproject = [
            ("pyproject.toml", "[project]\nname = \"x\"\ndependencies = [\"starlette[full]>1\"]\n[build-system]\nrequires = []\n"),
            ("main.py", "app = Starlette()\n"),
        ];
        insta::assert_snapshot!(summary(&pyproject), @r#"
        python
        runtime any version at nowhere
        layer pyproject.toml [pyproject.toml] Resolved { input: "pyproject.toml", pinned: [], advice: "uv lock" }: uv pip install --no-deps -r {lock}
        project: uv pip install --no-deps {source}
        web: uvicorn main:app --host 0.0.0.0 --port $PORT
        "#);
        let tools_only = [("pyproject.toml", "[tool.ruff]\nline-length = 100\n"), ("Procfile", "web: ./x")];
        insta::assert_snapshot!(summary(&tools_only), @r#"
        python
        runtime any version at nowhere
        layer pyproject.toml [pyproject.toml] Made(""): uv pip install --no-deps -r {lock}
        cure: Add a Procfile with a line like `web: COMMAND`, which listens on $PORT; COMMAND's program must be in pyproject.toml
        "#);
    }

    #[test]
    fn an_app_that_declares_no_server_gets_its_frameworks_own() {
        let web = |files: &[(&str, &str)]| {
            let plan = of(files).expect("a plan");
            let note = plan.notes.iter().any(|n| n.contains("development server"));
            (plan.processes.first().map(|(_, c)| c.clone()), note)
        };
        let django = [("requirements.txt", "Django==4.2\n"), ("manage.py", ""), ("shop/wsgi.py", "")];
        assert_eq!(web(&django), (Some("python manage.py runserver --noreload 0.0.0.0:$PORT".into()), true));
        let flask = [("requirements.txt", "flask\n"), ("app.py", FLASK)];
        assert_eq!(web(&flask), (Some("flask --app app:app run --host 0.0.0.0 --port $PORT".into()), true));
        // What stands in a Procfile needs no such note.
        let own = [("requirements.txt", "flask\n"), ("app.py", FLASK), ("Procfile", "web: python app.py")];
        assert!(!web(&own).1);
        let odd = [("requirements.txt", "django\n"), ("my site/manage.py", "")];
        assert_eq!(web(&odd), (None, false), "a path that a shell would take apart is no certain answer");
    }

    #[test]
    fn apps_made_by_a_function_are_found() {
        let command = |files: &[(&str, &str)]| of(files).expect("a plan").processes.first().map(|(_, c)| c.clone());
        let factory = ("flaskr/__init__.py", "def create_app(test_config=None):\n    app = Flask(__name__)\n");
        let gunicorn = ("requirements.txt", "flask\ngunicorn\n");
        assert_eq!(command(&[gunicorn, factory]), Some("gunicorn 'flaskr:create_app()' --bind 0.0.0.0:$PORT".into()));
        let src = ("src/tasks/__init__.py", factory.1);
        assert_eq!(
            command(&[("requirements.txt", "flask"), src]),
            Some("cd src && flask --app 'tasks:create_app()' run --host 0.0.0.0 --port $PORT".into())
        );
        assert_eq!(command(&[gunicorn, factory, ("tests/__init__.py", factory.1)]), None, "two are no certain answer");
        let fastapi = "from fastapi import FastAPI\ndef get_application() -> FastAPI:\n    return FastAPI()\napp = get_application()\n";
        let uvicorn = ("requirements.txt", "fastapi\nuvicorn\n");
        assert_eq!(command(&[uvicorn, ("app/main.py", fastapi)]), Some("uvicorn app.main:app --host 0.0.0.0 --port $PORT".into()));
    }

    #[test]
    fn the_procfile_pack_takes_any_tree() {
        insta::assert_snapshot!(summary(&[("Procfile", "web: ./serve"), ("serve", "")]), @r"
        procfile
        cure: Declare at least one process type in the Procfile, as `web: ./server --port $PORT`
        ");
    }

    #[test]
    fn plans_that_cannot_be_made_say_why() {
        insta::assert_snapshot!(summary(&[]), @"error: there is nothing to build: the folder has no files that would go into a slug");
        insta::assert_snapshot!(summary(&[("README", "")]), @"error: no pack knows this app: it has none of uv.lock, poetry.lock, Pipfile.lock, requirements.txt, pyproject.toml, package.json, no Procfile and no index.html. Add a Procfile (`web: ./server --port $PORT`) to run it as it is, or declare its dependencies in one of those files");
        insta::assert_snapshot!(summary(&[("requirements.txt", ""), (".python-version", "pypy3.10\n")]), @r#"error: .python-version:1 cannot be used: "pypy3.10" is not a version of CPython. Write `3.12` or `3.12.1`, or name an interpreter with `--use-python`"#);
        insta::assert_snapshot!(summary(&[("pyproject.toml", "[project\n")]), @"error: pyproject.toml:1 cannot be used: unclosed table, expected `]`. Correct that line; it is no TOML");
        insta::assert_snapshot!(summary(&[("Pipfile.lock", "{")]), @"error: Pipfile.lock cannot be used: EOF while parsing an object at line 1 column 1. Make it anew with `pipenv lock`");
        insta::assert_snapshot!(summary(&[("Pipfile.lock", r#"{"default": {"x": {}}}"#)]), @"error: Pipfile.lock cannot be used: the entry of x has neither version nor source. Make it anew with `pipenv lock`");
        insta::assert_snapshot!(summary(&[("uv.lock", "")]), @"error: uv.lock cannot be used: there is no pyproject.toml beside it. Make it anew with `uv init`");
        insta::assert_snapshot!(summary(&[("requirements.txt", "-r ../../etc/passwd")]), @"error: requirements.txt cannot be used: it includes ../../etc/passwd, which lies outside the app's folder. Correct that line or add the file");
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_a_pack_panic(file in 0usize..9, text in "\\PC{0,80}|[-a-z0-9=.@:/\\[\\]{}\"' \n\\\\]{0,200}") {
            let names = ["uv.lock", "poetry.lock", "Pipfile.lock", "requirements.txt", "pyproject.toml", ".python-version", "runtime.txt", "app.py", "manage.py"];
            let _ = of(&[("requirements.txt", "flask\n"), (names[file], &text)]);
            let _ = of(&[("pyproject.toml", "[project]\nname = 'x'\n"), (names[file], &text)]);
        }
    }
}
