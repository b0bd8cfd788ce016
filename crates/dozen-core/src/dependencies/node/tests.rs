//! What the pack plans, in a few lines for each app.

use crate::codebase::{FileKind, Source, SourceFile};
use crate::dependencies::node::Program;
use crate::dependencies::{Plan, PlanError, Step, Tool, plan};

fn of(files: &[(&str, &str)]) -> Result<Plan, PlanError> {
    let mut all: Vec<SourceFile> =
        files.iter().map(|(p, t)| SourceFile { path: (*p).into(), kind: FileKind::Plain, size: t.len() as u64 }).collect();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    let source = Source { folder: "/x".into(), commit: None, files: all };
    plan(&source, &|path| files.iter().find(|(p, _)| *p == path).map(|(_, t)| (*t).to_owned()))
}

/// A plan: runtime, installing, scripts, types or the cure, notes.
fn summary(files: &[(&str, &str)]) -> String {
    let plan = match of(files) {
        Ok(plan) => plan,
        Err(e) => return format!("error: {e}"),
    };
    let mut out = vec![plan.pack.to_owned()];
    out.extend(plan.runtime.map(|r| format!("runtime {} at {}", r.versions, r.pinned.unwrap_or_else(|| "nowhere".into()))));
    if let Some(layer) = plan.layer {
        let Tool::Node(i) = layer.tool else { return "not of Node".into() };
        let program = match i.program {
            Program::Own => "own".to_owned(),
            Program::Fetched { package, version } => format!("{package}@{version}"),
            Program::Vendored(path) => path,
        };
        out.push(format!("{:?} {program} by {:?}, files [{}]", i.manager, i.lock, i.files.join(" ")));
        let facts = [
            (i.development, "all for the build"),
            (i.called, "kept"),
            (i.chooses_builds, "chooses builds"),
            (!i.variables.is_empty(), "variables"),
        ];
        out.extend(facts.iter().filter(|(is, _)| *is).map(|(_, f)| format!("  {f}")));
        out.extend(i.manifests.iter().skip(1).map(|(p, _)| format!("  with {p}")));
    }
    out.extend(plan.steps.into_iter().filter_map(|s| match s {
        Step::Script(s) => Some(format!("{:?}: {} {}", s.when, s.folder, s.name)),
        _ => None,
    }));
    out.extend(plan.scratch.iter().map(|f| format!("scratch {f}")));
    if plan.processes.is_empty() {
        out.push(format!("cure: {}", plan.cure));
    }
    out.extend(plan.processes.into_iter().map(|(name, command)| format!("{name}: {command}")));
    out.extend(plan.notes.into_iter().map(|n| format!("note: {n}")));
    out.join("\n")
}

fn web(files: &[(&str, &str)]) -> String {
    of(files).map_or_else(|e| e.to_string(), |p| p.processes.first().map_or(p.cure, |(_, c)| c.clone()))
}

const EXPRESS: &str = r#"{"name": "shop", "scripts": {"start": "node index.js"}, "dependencies": {"express": "^4"}, "devDependencies": {"nodemon": "3"},
"engines": {"node": "20.x"}}"#;

#[test]
fn apps_are_planned() {
    insta::assert_snapshot!(summary(&[("package.json", EXPRESS), ("package-lock.json", "{}"), ("index.js", ""), (".nvmrc", "18")]), @r#"
    node
    runtime 20.x at package.json:2
    Npm own by Some("package-lock.json"), files [package-lock.json]
    web: npm start
    "#);
    let pnpm = [
        (
            "package.json",
            r#"{"scripts": {"build": "pnpm run css && next build", "start": "next start", "preinstall": "npx only-allow pnpm",
            "prepare": "husky", "heroku-cleanup": "rm -r tmp"}, "dependencies": {"next": "15"}, "devDependencies": {"typescript": "5"}}"#,
        ),
        ("pnpm-lock.yaml", "lockfileVersion: '9.0'\n"),
        (".npmrc", "//host/:_authToken=${NPM_TOKEN}\n"),
        (".nvmrc", "# ours\nlts/iron\n"),
        ("patches/x.patch", ""),
        ("app/page.js", ""),
    ];
    insta::assert_snapshot!(summary(&pnpm), @r#"
    node
    runtime lts/iron at .nvmrc:2
    Pnpm pnpm@10.34.9 by Some("pnpm-lock.yaml"), files [.npmrc patches/x.patch pnpm-lock.yaml]
      all for the build
      kept
      variables
    Build:  build
    After:  heroku-cleanup
    scratch .next/cache
    web: pnpm start
    "#);
    let yarn = [
        (
            "package.json",
            r#"{"scripts": {"start": "node ."}, "dependencies": {"ms": "2", "own": "file:./own"}, "volta": {"node": "20.1.0"}}"#,
        ),
        ("yarn.lock", "# yarn lockfile v1\n"),
        ("own/package.json", "{}"),
        ("own/i.js", ""),
    ];
    insta::assert_snapshot!(summary(&yarn), @r#"
    node
    runtime 20.1.0 at package.json:1
    Yarn yarn@1.22.22 by Some("yarn.lock"), files [own/i.js own/package.json yarn.lock]
      kept
    web: yarn start
    "#);
    let berry = [
        (
            "package.json",
            r#"{"scripts": {"start": "node .", "postinstall": "echo"}, "dependencies": {"ms": "2"}, "packageManager": "yarn@4.1.0"}"#,
        ),
        ("yarn.lock", "# This file is generated\n\n__metadata:\n  version: 8\n"),
        (".yarnrc.yml", "yarnPath: .yarn/releases/yarn-4.1.0.cjs\n"),
        (".yarn/releases/yarn-4.1.0.cjs", ""),
        (".tool-versions", "ruby 3\nnodejs 20.2.0\n"),
    ];
    insta::assert_snapshot!(summary(&berry), @r#"
    node
    runtime 20.2.0 at .tool-versions:2
    Berry .yarn/releases/yarn-4.1.0.cjs by Some("yarn.lock"), files [.yarn/releases/yarn-4.1.0.cjs .yarnrc.yml yarn.lock]
      kept
    Build:  postinstall
    web: yarn start
    note: Plug'n'Play is not used: packages are installed into node_modules
    "#);
    insta::assert_snapshot!(summary(&[("package.json", r#"{"dependencies": {"ms": "2"}}"#), ("Procfile", "worker: node w.js")]), @r"
    node
    runtime any version at nowhere
    Npm own by None, files []
    cure: Add a `start` script to package.json, or a Procfile with a `web:` line that says what runs; it listens on $PORT
    ");
    insta::assert_snapshot!(summary(&[("package.json", "{}"), ("server.js", "")]), @r"
    node
    runtime any version at nowhere
    web: node server.js
    ");
}

#[test]
fn workspaces_are_installed_as_a_whole() {
    let members = [
        ("apps/api/package.json", r#"{"name": "api", "scripts": {"start": "node ."}, "dependencies": {"lib": "*"}}"#),
        ("apps/site/package.json", r#"{"name": "site", "scripts": {"start": "next start"}, "dependencies": {"next": "15"}}"#),
        ("libs/lib/package.json", r#"{"name": "lib", "scripts": {"prepare": "tsc"}, "devDependencies": {"typescript": "5"}}"#),
        ("libs/old/package.json", "{}"),
        ("examples/x/package.json", "{}"),
    ];
    let with = |root: &'static str, more: &[(&'static str, &'static str)]| summary(&[&[("package.json", root)], more, &members].concat());
    let npm = r#"{"private": true, "workspaces": ["apps/*", "./libs/*", "!libs/old"], "scripts": {"build": "turbo build"}}"#;
    insta::assert_snapshot!(with(npm, &[("package-lock.json", "{}")]), @r#"
    node
    runtime any version at nowhere
    Npm own by Some("package-lock.json"), files [package-lock.json]
      all for the build
      with libs/lib/package.json
      with apps/api/package.json
      with package.json
    Build: libs/lib prepare
    Build:  build
    scratch apps/site/.next/cache
    cure: This is a workspace: add a Procfile at the root that says what runs, with such a line:
      web: npm start -w apps/site
      web: npm start -w apps/api
    "#);
    let pnpm = [
        ("pnpm-lock.yaml", "lockfileVersion: '6.0'\n"),
        ("pnpm-workspace.yaml", "packages:\n  - apps/*\n  - 'libs/**'\nonlyBuiltDependencies: [x]\n"),
    ];
    insta::assert_snapshot!(with(r#"{"private": true}"#, &pnpm), @r#"
    node
    runtime any version at nowhere
    Pnpm pnpm@8.15.9 by Some("pnpm-lock.yaml"), files [pnpm-lock.yaml pnpm-workspace.yaml]
      all for the build
      chooses builds
      with libs/lib/package.json
      with apps/api/package.json
      with libs/old/package.json
      with package.json
    Build: libs/lib prepare
    scratch apps/site/.next/cache
    cure: This is a workspace: add a Procfile at the root that says what runs, with such a line:
      web: pnpm --filter site start
      web: pnpm --filter api start
    "#);
    assert!(with(r#"{"workspaces": {"packages": ["apps/*"]}}"#, &[("yarn.lock", "")]).contains("\n  web: yarn workspace api start\n"));
    insta::assert_snapshot!(summary(&[("package.json", r#"{"workspaces": ["a"], "devDependencies": {"x": "workspace:*"}}"#)]), @r#"error: package.json cannot be used: x is asked for as "workspace:*", and there is no lock file that says what that is. Make one with the package manager of this repository, as `pnpm install`, and commit it"#);
}

#[test]
fn each_kind_of_app_gets_its_own_command() {
    let app = |json: &str| web(&[("package.json", json), ("package-lock.json", "{}")]);
    let check = |json: &str, want: &str| assert_eq!(app(json), want, "{json}");
    check(r#"{"scripts": {"build": "vite build"}, "devDependencies": {"vite": "5"}}"#, "dozen static dist --spa");
    check(r#"{"scripts": {"build": "vite build", "start": "vite"}, "devDependencies": {"vite": "5"}}"#, "dozen static dist --spa");
    check(
        r#"{"scripts": {"build": "react-scripts build", "start": "PORT=1 react-scripts start"}, "dependencies": {"react-scripts": "5"}}"#,
        "dozen static build --spa",
    );
    check(r#"{"scripts": {"build": "astro build"}, "dependencies": {"astro": "5"}}"#, "dozen static dist");
    check(r#"{"scripts": {"build": "next build"}, "dependencies": {"next": "15"}}"#, "next start -p $PORT");
    check(r#"{"scripts": {"build": "vite build", "start": "node server.js"}, "devDependencies": {"vite": "5"}}"#, "npm start");
    check(
        r#"{"scripts": {"build": "nest build", "start": "nest start", "start:prod": "node dist/main"}, "devDependencies": {"@nestjs/cli": "10"}}"#,
        "npm run start:prod",
    );
    let export = [
        ("next.config.mjs", "export default {\n  output: 'export',\n}\n"),
        ("package.json", r#"{"scripts": {"build": "next build"}, "dependencies": {"next": "15"}}"#),
    ];
    assert_eq!(web(&export), "dozen static out");
    let out = [
        ("vite.config.ts", "build: { outDir: \"public_html\" }"),
        ("package.json", r#"{"scripts": {"build": "vite build"}, "devDependencies": {"vite": "5"}}"#),
    ];
    assert_eq!(web(&out), "dozen static public_html --spa");
    assert_eq!(web(&[("package.json", r#"{"main": "./lib/app.js"}"#), ("lib/app.js", "")]), "node lib/app.js");
    assert!(web(&[("package.json", "{}")]).starts_with("Add a `start` script"));
}

#[test]
fn development_servers_are_not_what_runs() {
    let nodemon = r#"{"scripts": {"start": "nodemon --watch lib ./app.js"}, "devDependencies": {"nodemon": "3"}}"#;
    assert_eq!(web(&[("package.json", nodemon), ("app.js", "")]), "node app.js");
    assert_eq!(web(&[("package.json", &nodemon.replace(" --watch lib ./app.js", "")), ("index.js", "")]), "node index.js");
    assert_eq!(web(&[("package.json", &nodemon.replace("nodemon -", "nodemon --exec x -")), ("app.js", "")]), "npm start");
    assert_eq!(web(&[("package.json", &nodemon.replace("devDep", "dep")), ("app.js", "")]), "npm start");

    let kit = |adapter: &str, config: &str| {
        let json = format!(
            r#"{{"scripts": {{"build": "vite build", "start": "vite dev"}}, "devDependencies": {{"@sveltejs/kit": "2", "vite": "5", "{adapter}": "1"}}}}"#
        );
        web(&[("package.json", &json), ("svelte.config.js", config)])
    };
    assert_eq!(kit("@sveltejs/adapter-node", "import a from '@sveltejs/adapter-node'"), "node build");
    assert_eq!(
        kit("@sveltejs/adapter-static", "import a from '@sveltejs/adapter-static'; a({fallback: 'index.html'})"),
        "dozen static build --spa"
    );
    let auto = kit("@sveltejs/adapter-auto", "import a from '@sveltejs/adapter-auto'");
    assert!(auto.contains("npm install --save-dev @sveltejs/adapter-node") && auto.ends_with("`web: node build`"), "{auto}");
}

#[test]
fn lines_for_a_workspace_are_such_that_work() {
    let root = r#"{"workspaces": ["apps/*"], "scripts": {"start": "turbo dev"}, "devDependencies": {"turbo": "2"}}"#;
    let cure = |members: &[(&str, &str)]| web(&[&[("package.json", root), ("package-lock.json", "{}")], members].concat());
    let vite = r#"{"scripts": {"start": "vite", "build": "vite build"}, "devDependencies": {"vite": "5"}}"#;
    let members = [
        ("apps/web/package.json", vite),
        ("apps/api/package.json", r#"{"scripts": {"start": "nodemon index.js"}, "devDependencies": {"nodemon": "3"}}"#),
        ("apps/api/index.js", ""),
        (
            "apps/nest/package.json",
            r#"{"scripts": {"start": "nest start", "start:prod": "node x"}, "devDependencies": {"@nestjs/cli": "10"}}"#,
        ),
        ("apps/next/package.json", r#"{"scripts": {"start": "next dev"}, "dependencies": {"next": "15"}}"#),
        ("apps/nx/package.json", r#"{"scripts": {"start": "npx nx serve api"}}"#),
    ];
    insta::assert_snapshot!(cure(&members), @r"
    This is a workspace: add a Procfile at the root that says what runs, and a `build` script to the root's package.json that builds it, with such a line:
      web: node apps/api/index.js
      web: npm run start:prod -w apps/nest
      web: dozen static apps/web/dist --spa
    ");
    let nothing = cure(&[("apps/a/package.json", r#"{"main": "server.js"}"#)]);
    assert!(nothing.contains("This is a workspace (apps/a), and none") && !nothing.contains("server.js"), "{nothing}");
    assert!(cure(&[("apps/a/package.json", r#"{"main": "x.js"}"#), ("apps/a/x.js", "")]).ends_with("\n  web: node apps/a/x.js"));
}

#[test]
fn python_and_node_know_their_own() {
    let pack = |files: &[(&str, &str)]| of(files).map(|p| p.pack).expect("a plan");
    let assets = ("package.json", r#"{"scripts": {"build": "vite build"}}"#);
    assert_eq!(pack(&[("requirements.txt", "django\n"), ("manage.py", ""), assets]), "python");
    assert_eq!(pack(&[("pyproject.toml", "[tool.ruff]\n"), assets]), "node");
    assert_eq!(pack(&[("pyproject.toml", "[project]\nname = 'x'\n"), assets]), "python");
    assert_eq!(pack(&[("Procfile", "web: x"), assets]), "node");
}

#[test]
fn what_cannot_be_built_is_told() {
    let errors: Vec<String> = [
        &[("package.json", "{")] as &[(&str, &str)],
        &[("package.json", r#"{"engines": {"node": "as you like"}}"#)],
        &[("package.json", "{}"), ("bun.lock", "")],
        &[("package.json", "{}"), ("yarn.lock", ""), ("package-lock.json", "{}")],
        &[("package.json", "{}"), ("pnpm-lock.yaml", "lockfileVersion: 99\n")],
        &[("package.json", "{}"), ("pnpm-workspace.yaml", "packages: [\n")],
        &[("package.json", r#"{"packageManager": "npm@10.1.0"}"#), ("yarn.lock", "")],
        &[("package.json", r#"{"packageManager": "pnpm@9.1.0"}"#), ("yarn.lock", ""), ("package-lock.json", "{}")],
        &[("package.json", r#"{"dependencies": {"foo": "file:../other"}}"#)],
        &[("package.json", r#"{"dependencies": {"foo": "link:/srv/other"}}"#), ("yarn.lock", "")],
        &[("package.json", "{}"), ("package-lock.json", r#"{"packages": {"": {}, "../other": {}}}"#)],
        &[("package.json", r#"{"workspaces": ["a"]}"#), ("a/package.json", r#"{"devDependencies": {"foo": "../../other"}}"#)],
    ]
    .into_iter()
    .map(summary)
    .collect();
    insta::assert_snapshot!(errors.join("\n"), @r#"
    error: package.json cannot be used: EOF while parsing an object at line 1 column 1. Correct it; npm cannot read it either
    error: package.json:1 cannot be used: "as you like" is not a range of Node versions. Write `20.x` or `>=20`, or name a Node with `--use-node`
    error: bun.lock cannot be used: apps that bun installs are not built yet. Make a lock file of npm's beside it, with `npm install --package-lock-only`, and commit it
    error: package-lock.json and yarn.lock cannot be used: they are lock files of several package managers, and nothing says which is meant. Remove those that are not kept up to date, or name the manager in package.json: with `"packageManager": "yarn@1.22.22"` yarn.lock is used and package-lock.json not
    error: pnpm-lock.yaml cannot be used: no pnpm known here reads its lockfileVersion, "99". Name the one that does in package.json, as in `"packageManager": "pnpm@10.34.9"`
    error: pnpm-workspace.yaml cannot be used: while parsing a node, did not find expected node content at byte 12 line 2 column 1. Correct it; it is no YAML
    error: package.json cannot be used: its packageManager is npm@10.1.0, and there is no lock file of npm's, but yarn.lock. Name the manager whose lock file is there, as in `"packageManager": "yarn@1.22.22"`, or run `npm install`, commit the lock file that it makes, and remove yarn.lock
    error: package.json cannot be used: its packageManager is pnpm@9.1.0, and there is no lock file of pnpm's, but package-lock.json and yarn.lock. Name the manager whose lock file is there, as in `"packageManager": "yarn@1.22.22"`, or run `pnpm install`, commit the lock file that it makes, and remove package-lock.json and yarn.lock
    error: package.json cannot be used: foo is asked for as "file:../other", which is not in the app's folder, and a slug holds only what lies in the folder given. Bring up the folder above both, with a package.json there whose `workspaces` name them and a Procfile line such as `web: npm start -w x`; or publish foo to a registry
    error: package.json cannot be used: foo is asked for as "link:/srv/other", which is not in the app's folder, and a slug holds only what lies in the folder given. Bring up the folder above both, with a package.json there whose `workspaces` name them and a Procfile line such as `web: npm start -w x`; or publish foo to a registry
    error: package-lock.json cannot be used: it has a package at ../other, which is not in the app's folder, and a slug holds only what lies in the folder given. Bring up the folder above both, with a package.json there whose `workspaces` name them and a Procfile line such as `web: npm start -w x`; or publish that package to a registry
    error: a/package.json cannot be used: foo is asked for as "../../other", which is not in the app's folder, and a slug holds only what lies in the folder given. Bring up the folder above both, with a package.json there whose `workspaces` name them and a Procfile line such as `web: npm start -w x`; or publish foo to a registry
    "#);
    let two = [
        ("package.json", r#"{"packageManager": "pnpm@9.1.0", "scripts": {"start": "x"}}"#),
        ("pnpm-lock.yaml", "lockfileVersion: '6.0'"),
        ("yarn.lock", ""),
        ("bun.lock", ""),
    ];
    insta::assert_snapshot!(summary(&two), @r#"
    node
    runtime any version at nowhere
    Pnpm pnpm@9.1.0 by Some("pnpm-lock.yaml"), files [pnpm-lock.yaml]
      kept
    web: pnpm start
    note: pnpm-lock.yaml is used, as package.json's packageManager says; yarn.lock is not
    note: pnpm-lock.yaml is used; bun.lock is not
    "#);
}

#[test]
fn what_next_reads_its_settings_with_stays() {
    let json = r#"{"scripts": {"build": "next build", "start": "next start"}, "dependencies": {"next": "15"}, "devDependencies": {"typescript": "5"}}"#;
    let kept = |config: (&str, &str)| {
        summary(&[("package.json", json), ("package-lock.json", "{}"), config]).contains("note: typescript stays in")
    };
    assert!(kept(("next.config.ts", "export default {}")));
    assert!(!kept(("next.config.mjs", "export default {}")));
    let export = json.replace(r#", "start": "next start""#, "");
    let export = [("package.json", export.as_str()), ("package-lock.json", "{}"), ("next.config.ts", "output: 'export'")];
    assert!(!summary(&export).contains("typescript"));
}

#[test]
fn values_of_a_wrong_type_are_named() {
    let plan = |json: &str| summary(&[("package.json", json), ("index.js", "")]);
    assert!(plan(r#"{"engines": {"node": 18}}"#).contains("runtime 18 at package.json:1"));
    for fine in [r#"{"dependencies": []}"#, r#"{"scripts": null}"#, r#"{"engines": {"node": null}}"#] {
        assert!(plan(fine).ends_with("web: node index.js"), "{fine}");
    }
    let errors = [
        r#"{"scripts": 7}"#,
        r#"{"scripts": {"start": ["node"]}}"#,
        r#"{"dependencies": ["ms"]}"#,
        r#"{"devDependencies": {"ms": 2}}"#,
        r#"{"engines": {"node": true}}"#,
        r#"{"packageManager": 9}"#,
        r#"{"workspaces": "apps/*"}"#,
    ]
    .map(|json| plan(json).split(". Correct").next().unwrap_or_default().replace("error: package.json cannot be used: ", ""));
    insta::assert_snapshot!(errors.join("\n"), @r"
    its scripts is a number, and should be a table of names and values
    its scripts.start is a list, and should be text
    its dependencies is a list, and should be a table of names and values
    its devDependencies.ms is a number, and should be text
    its engines.node is true or false, and should be text
    its packageManager is a number, and should be text
    its workspaces is text, and should be a list of folders
    ");
}

#[test]
fn folders_within_the_source_can_be_depended_on() {
    let files = [
        ("package.json", r#"{"workspaces": ["apps/*"], "dependencies": {"own": "file:./own.tgz", "all": "link:."}}"#),
        ("apps/a/package.json", r#"{"dependencies": {"own": "file:../../own.tgz"}}"#),
    ];
    assert!(of(&files).is_ok());
    // An app of bun's has a lock file of npm's made for dozen.
    assert!(of(&[("package.json", r#"{"packageManager": "bun@1.1.0"}"#), ("bun.lock", ""), ("package-lock.json", "{}")]).is_ok());
}

proptest::proptest! {
    #[test]
    fn no_input_makes_the_pack_panic(file in 0usize..9, text in "\\PC{0,80}|[-a-z0-9=.@:/\\[\\]{}\"', *\n\\\\]{0,200}") {
        let names = ["package.json", "pnpm-lock.yaml", "yarn.lock", ".npmrc", ".nvmrc", "pnpm-workspace.yaml", ".yarnrc.yml", "vite.config.ts", ".tool-versions"];
        let vite = ("package.json", r#"{"scripts": {"build": "vite build"}, "devDependencies": {"vite": "5"}, "workspaces": ["*"]}"#);
        let _ = of(&[vite, (names[file], &text)]);
        let _ = of(&[("package.json", &text)]);
        let json = serde_json::json!({"scripts": {"start": text.clone()}, "main": text.clone(), "engines": {"node": text.clone()}, "packageManager": text.clone(), "dependencies": {"x": text.clone()}, "workspaces": [text.clone()]});
        let _ = of(&[("package.json", &json.to_string())]);
    }
}
