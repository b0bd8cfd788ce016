//! Plans, as the packs make them.

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
        Step::Run(r) if r.apart => {
            format!("run apart: {} -> {}", r.argv.join(" "), r.makes.iter().map(|(_, to)| to.as_str()).collect::<Vec<_>>().join(" "))
        }
        Step::Run(r) => {
            format!("run: {} [{}]", r.argv.join(" "), r.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", "))
        }
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
    let virtual_uv =
        [("uv.lock", "[[package]]\nname = \"shop\"\nsource = { virtual = \".\" }\n"), ("pyproject.toml", "[project]\nname = \"shop\"\n")];
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
fn go_apps_are_planned() {
    let one = [
        ("go.mod", "module example.org/shop\n\ngo 1.22\n"),
        ("go.sum", ""),
        ("main.go", "package main\n"),
        ("store/store.go", "package store\n"),
    ];
    insta::assert_snapshot!(summary(&one), @r"
    go
    runtime >=1.22 at go.mod:3
    run: {program} build -o {app}/bin/ . [GOTOOLCHAIN=local, GOFLAGS=-mod=readonly -trimpath -modcacherw -buildvcs=false, GOPATH={keep}/path, GOMODCACHE={keep}/mod, GOCACHE={keep}/build]
    web: bin/shop
    ");
    let several = [
        ("go.mod", "module shop/v2\n"),
        ("vendor/modules.txt", ""),
        ("vendor/x/main.go", "package main\n"),
        ("cmd/web/main.go", "package main\n"),
        ("cmd/work/main.go", "package main\n"),
        ("gen.go", "//go:build ignore\n\npackage main\n"),
        ("other/go.mod", "module other\n"),
        ("other/main.go", "package main\n"),
    ];
    insta::assert_snapshot!(summary(&several), @r"
    go
    runtime any version at nowhere
    run: {program} build -o {app}/bin/ ./cmd/web ./cmd/work [GOTOOLCHAIN=local, GOFLAGS=-mod=vendor -trimpath -modcacherw -buildvcs=false, GOPATH={keep}/path, GOMODCACHE={keep}/mod, GOCACHE={keep}/build]
    web: bin/web
    ");
    let named = [
        ("go.mod", "module shop\n// +heroku install ./cmd/work ./cmd/tell\n"),
        several[3],
        several[4],
        ("cmd/tell/main.go", "package main\n"),
    ];
    insta::assert_snapshot!(summary(&named), @r"
    go
    runtime any version at nowhere
    run: {program} build -o {app}/bin/ ./cmd/tell ./cmd/work [GOTOOLCHAIN=local, GOFLAGS=-mod=readonly -trimpath -modcacherw -buildvcs=false, GOPATH={keep}/path, GOMODCACHE={keep}/mod, GOCACHE={keep}/build]
    cure: Add a Procfile with one of these lines: `web: bin/tell`, `web: bin/work`; it must listen on $PORT
    ");
}

#[test]
fn go_apps_that_cannot_be_planned_say_why() {
    insta::assert_snapshot!(summary(&[("go.mod", "go 1.22\n"), ("main.go", "package main\n")]), @"error: go.mod cannot be used: it names no module. Make it anew with `go mod init`");
    let none = [("go.mod", "module shop\n// +heroku install ./cmd/none\n"), ("main.go", "package main\n")];
    insta::assert_snapshot!(summary(&none), @"error: go.mod cannot be used: `+heroku install ./cmd/none` names no main package. Correct that line, or leave it out to have all main packages built");
    let same = [("go.mod", "module shop\n"), ("a/web/main.go", "package main\n"), ("b/web/main.go", "package main\n")];
    insta::assert_snapshot!(summary(&same), @"error: go.mod cannot be used: ./a/web and ./b/web make one program, web. Name those to build, with a line `// +heroku install ./PATH`");
    // A library is no app.
    assert_eq!(
        of(&[("go.mod", "module shop\n"), ("shop.go", "package shop\n"), ("Procfile", "web: ./x")]).expect("a plan").pack,
        "procfile"
    );
}

#[test]
fn rust_apps_are_planned() {
    let manifest = "[package]\nname = \"shop\"\nrust-version = \"1.80\"\n";
    let one = [("Cargo.toml", manifest), ("Cargo.lock", ""), ("src/main.rs", ""), ("src/lib.rs", "")];
    insta::assert_snapshot!(summary(&one), @r"
    rust
    runtime >=1.80 at Cargo.toml:3
    run apart: {program} build --release --locked --bins -> bin/shop
    web: bin/shop
    ");
    let workspace = [
        ("Cargo.toml", "[workspace]\nmembers = [\"crates/*\"]\nexclude = [\"crates/old\"]\n"),
        ("Cargo.lock", ""),
        (
            "crates/a/Cargo.toml",
            "[package]\nname = \"a\"\n[[bin]]\nname = \"one\"\npath = \"src/main.rs\"\n[[bin]]\nname = \"extra\"\nrequired-features = [\"x\"]\n",
        ),
        ("crates/a/src/main.rs", ""),
        ("crates/a/src/bin/extra.rs", ""),
        ("crates/b/Cargo.toml", "[package]\nname = \"b\"\n"),
        ("crates/b/src/bin/two.rs", ""),
        ("crates/b/src/bin/three/main.rs", ""),
        ("crates/b/src/bin/three/more.rs", ""),
        ("crates/old/Cargo.toml", "[package]\nname = \"old\"\n"),
        ("crates/old/src/main.rs", ""),
        ("rust-toolchain.toml", "[toolchain]\nchannel = \"1.85\"\n"),
    ];
    insta::assert_snapshot!(summary(&workspace), @r"
    rust
    runtime 1.85 at rust-toolchain.toml:2
    run apart: {program} build --release --locked --bins -> bin/one bin/three bin/two
    cure: Add a Procfile with one of these lines: `web: bin/one`, `web: bin/three`, `web: bin/two`; it must listen on $PORT
    ");
    let several = |more: &str| {
        let manifest = format!("[package]\nname = \"shop\"\n{more}");
        let files = [("Cargo.toml", manifest.as_str()), ("Cargo.lock", ""), ("src/main.rs", ""), ("src/bin/work.rs", "")];
        of(&files).expect("a plan").processes.first().map(|(_, c)| c.clone())
    };
    assert_eq!(several("").as_deref(), Some("bin/shop"));
    assert_eq!(several("default-run = \"work\"").as_deref(), Some("bin/work"));
}

#[test]
fn rust_apps_that_cannot_be_planned_say_why() {
    let (manifest, main) = (("Cargo.toml", "[package]\nname = \"shop\"\n"), ("src/main.rs", ""));
    insta::assert_snapshot!(summary(&[manifest, main]), @"error: Cargo.toml cannot be used: there is no Cargo.lock beside it, which says what is built. Make it with `cargo generate-lockfile` and commit it");
    insta::assert_snapshot!(summary(&[("Cargo.toml", "[package\n"), main]), @"error: Cargo.toml:1 cannot be used: unclosed table, expected `]`. Correct that line; it is no TOML");
    insta::assert_snapshot!(summary(&[manifest, main, ("Cargo.lock", ""), ("rust-toolchain", "nightly-2026-01-01\n")]), @r#"error: rust-toolchain:1 cannot be used: apps are built with releases of Rust, and "nightly-2026-01-01" is none. Name a release there, as `1.85`, or `stable`"#);
    assert_eq!(of(&[manifest, ("src/lib.rs", ""), ("Procfile", "web: ./x")]).expect("a plan").pack, "procfile", "a library is no app");
}

#[test]
fn ruby_apps_are_planned() {
    let lock = "GEM\n  remote: https://rubygems.org/\n  specs:\n    propshaft (1.1.0)\n    puma (6.4.0)\n    railties (7.1.0)\n      rack (>= 2)\n";
    let rails = [
        ("Gemfile", "source 'https://rubygems.org'\nruby '~> 3.1' # ours\ngem 'rails'\n"),
        ("Gemfile.lock", lock),
        ("bin/rails", ""),
        ("config/application.rb", ""),
        ("package.json", "{}"),
    ];
    insta::assert_snapshot!(summary(&rails), @r"
    ruby
    runtime ^3.1 at Gemfile:2
    run: bundle install [BUNDLE_APP_CONFIG={keep}/settings, BUNDLE_GEMFILE={app}/Gemfile, BUNDLE_DEPLOYMENT=1, BUNDLE_WITHOUT=development:test, BUNDLE_PATH={keep}/{version}/vendor/bundle, BUNDLE_SILENCE_ROOT_WARNING=1, BUNDLE_DISABLE_VERSION_CHECK=1]
    run: bundle clean --force [BUNDLE_APP_CONFIG={keep}/settings, BUNDLE_GEMFILE={app}/Gemfile, BUNDLE_DEPLOYMENT=1, BUNDLE_WITHOUT=development:test, BUNDLE_PATH={keep}/{version}/vendor/bundle, BUNDLE_SILENCE_ROOT_WARNING=1, BUNDLE_DISABLE_VERSION_CHECK=1]
    run: cp -a {keep}/{version}/vendor {app}/ []
    run: {program} bin/rails assets:precompile [BUNDLE_GEMFILE={app}/Gemfile, BUNDLE_PATH={app}/vendor/bundle, BUNDLE_APP_CONFIG=/tmp/.bundle, BUNDLE_DEPLOYMENT=1, BUNDLE_WITHOUT=development:test, RACK_ENV=production, RAILS_ENV=production, RAILS_LOG_TO_STDOUT=enabled, RAILS_SERVE_STATIC_FILES=enabled, LANG=C.UTF-8, SECRET_KEY_BASE=placeholder, SECRET_KEY_BASE_DUMMY=1, DATABASE_URL=postgresql://placeholder@127.0.0.1/placeholder]
    web: bin/rails server -b 0.0.0.0 -p $PORT
    note: package.json is not used: commit what its scripts make, or start the app by it
    ");
    let web = |files: &[(&str, &str)]| of(files).expect("a plan").processes.first().map(|(_, c)| c.clone());
    let (gemfile, rackup) = (("Gemfile", ""), ("config.ru", ""));
    assert_eq!(web(&[gemfile, ("Gemfile.lock", lock), rackup]).as_deref(), Some("bundle exec puma -b tcp://0.0.0.0:$PORT"));
    let rack = ("Gemfile.lock", "GEM\n  specs:\n    rack (2.2.0)\n");
    assert_eq!(web(&[gemfile, rack, rackup]).as_deref(), Some("bundle exec rackup config.ru -o 0.0.0.0 -p $PORT"));
    assert_eq!(web(&[gemfile, rack]), None);
    let pinned = of(&[gemfile, rack, (".ruby-version", "ruby-3.3.1\n")]).expect("a plan").runtime.expect("a runtime");
    assert_eq!((pinned.versions.to_string().as_str(), pinned.pinned.as_deref()), ("3.3.1", Some(".ruby-version:1")));
    insta::assert_snapshot!(summary(&[gemfile, rackup]), @"error: Gemfile cannot be used: there is no Gemfile.lock beside it, which says what is installed. Make it with `bundle lock` and commit it");
    assert_eq!(of(&[gemfile, ("Procfile", "web: ./x")]).expect("a plan").pack, "procfile");
}

#[test]
fn java_apps_are_planned() {
    let spring = [("pom.xml", "<project>\n<java.version>17</java.version>\n<artifactId>spring-boot-maven-plugin</artifactId>\n")];
    insta::assert_snapshot!(summary(&spring), @r"
    java
    runtime >=17 at pom.xml:2
    run: mvn -B -ntp -DskipTests -Dmaven.repo.local={keep}/repository clean install [JAVA_HOME={prefix}, JAVA_TOOL_OPTIONS=-Duser.home={home}, MAVEN_SKIP_RC=1]
    web: java -Dserver.port=$PORT $JAVA_OPTS -jar target/*.jar
    ");
    insta::assert_snapshot!(summary(&[("pom.xml", "<project>"), ("Procfile", "web: java -jar target/x.jar")]), @r"
    java
    runtime any version at nowhere
    run: mvn -B -ntp -DskipTests -Dmaven.repo.local={keep}/repository clean install [JAVA_HOME={prefix}, JAVA_TOOL_OPTIONS=-Duser.home={home}, MAVEN_SKIP_RC=1]
    cure: Add a Procfile with a line like `web: java -jar target/APP.jar`; it must listen on $PORT
    ");
}

#[test]
fn of_two_languages_one_starts_the_app() {
    let pack = |files: &[(&str, &str)]| of(files).expect("a plan").pack;
    let (module, main) = (("go.mod", "module shop\n"), ("main.go", "package main\n"));
    let (tools, start) =
        (("package.json", r#"{"scripts": {"build": "vite build"}}"#), ("package.json", r#"{"scripts": {"start": "node x.js"}}"#));
    assert_eq!(pack(&[module, main, tools]), "go");
    assert_eq!(pack(&[module, main, start]), "node");
    assert_eq!(pack(&[module, main, start, ("Procfile", "web: bin/shop")]), "go");
    assert_eq!(pack(&[module, main, tools, ("Procfile", "web: npm run serve")]), "node");
    assert_eq!(pack(&[module, main, ("requirements.txt", "flask")]), "python");
    assert_eq!(pack(&[module, main, ("pyproject.toml", "[tool.ruff]\n")]), "go");
    assert!(of(&[module, main, tools]).expect("a plan").notes[0].starts_with("package.json is not used"));
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
    insta::assert_snapshot!(summary(&[("README", "")]), @"error: no pack knows this app: it has none of uv.lock, poetry.lock, Pipfile.lock, requirements.txt, pyproject.toml, package.json, Gemfile, go.mod, Cargo.toml, pom.xml, composer.json, no Procfile and no index.html. Add a Procfile (`web: ./server --port $PORT`) to run it as it is, or declare its dependencies in one of those files");
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

#[test]
fn php_apps_are_planned() {
    let laravel = [
        ("composer.json", r#"{"require": {"php": "^8.1", "laravel/framework": "^10"}, "scripts": {"compile": "x"}}"#),
        ("composer.lock", r#"{"packages": [{"name": "laravel/tinker"}]}"#),
        ("artisan", ""),
        ("public/index.php", ""),
        ("package.json", r#"{"scripts": {"build": "vite build"}}"#),
    ];
    insta::assert_snapshot!(summary(&laravel), @r"
    php
    runtime ^8.1 at composer.json (require.php)
    run: composer install --no-dev --prefer-dist --no-interaction --no-progress --optimize-autoloader [COMPOSER_HOME={home}/.composer, COMPOSER_CACHE_DIR={keep}/cache, COMPOSER_ALLOW_SUPERUSER=1, COMPOSER_MIRROR_PATH_REPOS=1]
    run: composer run-script --no-dev --no-interaction compile [COMPOSER_HOME={home}/.composer, COMPOSER_CACHE_DIR={keep}/cache, COMPOSER_ALLOW_SUPERUSER=1, COMPOSER_MIRROR_PATH_REPOS=1]
    web: php -S 0.0.0.0:$PORT -t public
    note: PHP's built-in server serves it, one request at a time; declare another one in a Procfile for more
    note: package.json is not used: commit what its scripts make, or start the app by it
    ");
    assert_eq!(of(&laravel).map(|p| p.console), Ok(Some("php artisan tinker".into())));
    let small = [
        ("composer.json", r#"{"require": {"ext-json": "*"}, "autoload": {"files": ["a.php"]}}"#),
        ("index.php", ""),
        ("Procfile", "web: x\n"),
    ];
    insta::assert_snapshot!(summary(&small), @r"
    php
    runtime any version at nowhere
    run: composer dump-autoload --no-dev --no-interaction --optimize [COMPOSER_HOME={home}/.composer, COMPOSER_CACHE_DIR={keep}/cache, COMPOSER_ALLOW_SUPERUSER=1, COMPOSER_MIRROR_PATH_REPOS=1]
    web: php -S 0.0.0.0:$PORT -t .
    ");
    insta::assert_snapshot!(summary(&[("index.php", ""), ("index.html", "")]), @r"
    php
    runtime any version at nowhere
    web: php -S 0.0.0.0:$PORT -t .
    note: PHP's built-in server serves it, one request at a time; declare another one in a Procfile for more
    ");
    for (files, why) in [
        (&[("composer.json", "{")][..], "composer.json:1 cannot be used"),
        (&[("composer.json", "[]")], "no JSON object"),
        (&[("composer.json", r#"{"require": {"a/b": "1"}}"#)], "there is no composer.lock"),
    ] {
        assert!(summary(files).contains(why), "{}", summary(files));
    }
    // Another app's page that lies about.
    assert_eq!(of(&[("index.php", ""), ("Procfile", "web: ./x\n")]).map(|p| p.pack), Ok("procfile"));
}

#[test]
fn tests_have_what_only_development_needs() {
    let uv = [
        ("uv.lock", "version = 1\n[[package]]\nname = \"shop\"\nsource = { editable = \".\" }\n[[package]]\nname = \"pytest\"\n"),
        ("pyproject.toml", "[project]\nname = \"shop\"\n"),
        ("Procfile", "web: x\n"),
    ];
    let plan = of(&uv).expect("a plan").with_development();
    let Some(Layer { tool: Tool::Uv { install, .. }, .. }) = &plan.layer else { panic!("{plan:?}") };
    assert!(install.starts_with(&["sync".to_owned(), "--frozen".to_owned(), "--no-editable".to_owned()]), "{install:?}");
    assert!(matches!(&plan.steps[0], Step::Project { args } if !args.iter().any(|arg| arg == "--no-dev")));
    let node = [
        ("package.json", r#"{"name": "shop", "version": "1.0.0", "devDependencies": {"mocha": "11.0.0"}}"#),
        ("package-lock.json", r#"{"lockfileVersion": 3, "packages": {"": {}, "node_modules/mocha": {"version": "11.0.0"}}}"#),
        ("Procfile", "web: node x.js\n"),
        ("x.js", ""),
    ];
    let develops = |plan: &Plan| matches!(&plan.layer, Some(Layer { tool: Tool::Node(install), .. }) if install.development);
    let plan = of(&node).expect("a plan");
    assert!(!develops(&plan) && develops(&plan.with_development()));
}
