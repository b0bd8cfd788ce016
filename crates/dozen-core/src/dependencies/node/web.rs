//! Default process types: how an app without a Procfile is most likely served.

use super::manager::Manager;
use super::manifest::{Manifest, join};
use crate::codebase::Source;
use crate::ids::TypeName;

/// What is looked at.
pub(super) struct App<'a> {
    pub(super) source: &'a Source,
    pub(super) read: &'a dyn Fn(&str) -> Option<String>,
    pub(super) root: &'a Manifest,
    pub(super) members: &'a [Manifest],
    pub(super) manager: Manager,
}

/// How an app is served.
#[derive(Default)]
pub(super) struct Served {
    /// Its types; none where nothing is certain.
    pub(super) types: Vec<(TypeName, String)>,
    /// What to do where there are none.
    pub(super) cure: String,
    /// What a person should know of the choice.
    pub(super) note: Option<String>,
    /// The program of `start` that a package for development brings.
    pub(super) development: Option<String>,
}

/// Programs and the packages that bring them, where the names differ.
const BROUGHT_BY: [(&str, &str); 8] = [
    ("nest", "@nestjs/cli"),
    ("ng", "@angular/cli"),
    ("vue-cli-service", "@vue/cli-service"),
    ("tsc", "typescript"),
    ("webpack-dev-server", "webpack-dev-server"),
    ("babel-node", "@babel/node"),
    ("remix-serve", "@remix-run/serve"),
    ("eleventy", "@11ty/eleventy"),
];
/// Commands that serve a program's source while it is written, not what was built of it.
const DEVELOPMENT: [&str; 22] = [
    "react-scripts start",
    "vue-cli-service serve",
    "ng serve",
    "webpack serve",
    "webpack-dev-server",
    "vite",
    "vite dev",
    "vite serve",
    "parcel",
    "astro dev",
    "gatsby develop",
    "docusaurus start",
    "next dev",
    "nuxt dev",
    "nuxi dev",
    "remix dev",
    "nx serve",
    "nx run",
    "turbo dev",
    "turbo run dev",
    "vite preview",
    "astro preview",
];
/// Programs that run a script of JavaScript's anew whenever it changes.
const WATCHERS: [&str; 3] = ["nodemon", "node-dev", "supervisor"];
/// Scripts by which apps start where `start` is for development.
const PRODUCTION: [&str; 3] = ["start:prod", "start:production", "serve:prod"];
/// Tools that only make files, where they put them, and whether one page answers every path.
const STATIC: [(&str, &str, bool); 9] = [
    ("react-scripts", "build", true),
    ("@vue/cli-service", "dist", true),
    ("astro", "dist", false),
    ("gatsby", "public", false),
    ("@docusaurus/core", "build", false),
    ("@11ty/eleventy", "_site", false),
    ("parcel", "dist", true),
    ("vite", "dist", true),
    ("@rsbuild/core", "dist", true),
];
/// So many packages are named in an error.
const NAMED: usize = 8;

/// How an app without a Procfile is served.
pub(super) fn served(app: &App<'_>) -> Served {
    let made = app.built(app.root);
    let start = app.root.script("start");
    if app.root.has("@sveltejs/kit") && app.root.script("build").is_some() && start.is_none_or(|s| app.develops(app.root, s)) {
        return app.svelte();
    }
    if let Some(start) = start {
        let program = program(start);
        let develops = program.is_some_and(|p| app.only_develops(app.root, p));
        if let (true, Some(command)) = (is_development(start), &made) {
            let note = format!("`start` runs a development server ({start}): what `build` makes is served instead");
            return web(command.clone(), Some(note), None);
        }
        let because = format!("`start` runs {}, which is for development only", program.unwrap_or_default());
        if let (true, Some(production)) = (develops, PRODUCTION.iter().find(|s| app.root.script(s).is_some())) {
            let note = format!("{because}: `{production}` is used");
            return web(format!("{} run {production}", app.manager.command()), Some(note), None);
        }
        if let (true, Some(file)) = (develops, app.watched(app.root, start)) {
            return web(format!("node {file}"), Some(format!("{because}: `node {file}` is used")), None);
        }
        if develops && is_development(start) && !app.members.is_empty() {
            return Served { cure: app.cure(), ..Served::default() };
        }
        return web(format!("{} start", app.manager.command()), None, program.filter(|_| develops).map(str::to_owned));
    }
    if app.root.has("next") && app.root.script("build").is_some() {
        let command = if app.exports() { "dozen static out" } else { "next start -p $PORT" };
        return web(command.into(), None, None);
    }
    if let Some(command) = made {
        return web(command, None, None);
    }
    if let Some(file) = app.file(app.root) {
        return web(format!("node {file}"), None, None);
    }
    Served { cure: app.cure(), ..Served::default() }
}

fn web(command: String, note: Option<String>, development: Option<String>) -> Served {
    Served {
        types: TypeName::WEB.parse().into_iter().map(|name| (name, command.clone())).collect(),
        cure: String::new(),
        note,
        development,
    }
}

impl App<'_> {
    /// The file that node most likely runs for a package.
    fn file(&self, m: &Manifest) -> Option<String> {
        let files = ["server.js", "server.mjs", "server.cjs", "index.js", "index.mjs"];
        let main = m.text("main").map(|m| m.trim_start_matches("./"));
        files.into_iter().take(3).chain(main).chain(files.into_iter().skip(3)).find_map(|f| self.script_at(m, f))
    }

    /// A file of a package, where it is in the source and its path is one word of a shell's.
    fn script_at(&self, m: &Manifest, file: &str) -> Option<String> {
        let path = join(&m.folder, file);
        (crate::dependencies::python::plain(&path).is_some() && self.source.has(&path)).then_some(path)
    }

    /// The file that `nodemon index.js` runs.
    fn watched(&self, m: &Manifest, start: &str) -> Option<String> {
        let mut words = start.split_whitespace().skip_while(|w| !WATCHERS.contains(w)).skip(1);
        if !WATCHERS.contains(&program(start)?) || words.clone().any(|w| ["--exec", "-x", "&&", "||", "|", ";", "&"].contains(&w)) {
            return None;
        }
        let named = |w: &str| {
            let w = w.trim_start_matches("./");
            let is_script = [".js", ".mjs", ".cjs"].iter().any(|e| w.ends_with(e));
            if is_script { self.script_at(m, w) } else { self.script_at(m, &format!("{w}.js")) }
        };
        let found = words.clone().filter(|w| !w.starts_with('-')).find_map(named);
        found.or_else(|| words.all(|w| w == ".").then(|| self.file(m))?)
    }

    /// The command that serves what SvelteKit makes, which its adapter decides.
    fn svelte(&self) -> Served {
        let settings = |file: &str| (self.read)(file).filter(|_| self.source.has(file));
        let text = settings("svelte.config.js").or_else(|| settings("svelte.config.ts")).unwrap_or_default();
        let adapter = |name: &str| {
            let name = format!("@sveltejs/adapter-{name}");
            self.root.has(&name) && (text.is_empty() || text.contains(&name))
        };
        let folder = |key: &str| quoted(&text, key).unwrap_or_else(|| "build".into());
        if adapter("node") {
            return web(format!("node {}", folder("out:")), None, None);
        }
        if adapter("static") {
            let single = if quoted(&text, "fallback:").as_deref() == Some("index.html") { " --spa" } else { "" };
            return web(format!("dozen static {}{single}", folder("pages:")), None, None);
        }
        let add = match self.manager {
            Manager::Npm => "npm install --save-dev",
            Manager::Pnpm => "pnpm add --save-dev",
            Manager::Yarn | Manager::Berry => "yarn add --dev",
        };
        let cure = format!(
            "What SvelteKit builds is made for a place by its adapter, and here that is adapter-node: run `{add} @sveltejs/adapter-node`, import it in \
             svelte.config.js in place of the other, and commit; the app is then run by `web: node build`"
        );
        Served { cure, ..Served::default() }
    }

    /// The command that serves what a package's `build` makes, where that is only files.
    fn built(&self, m: &Manifest) -> Option<String> {
        m.script("build").or_else(|| m.script("heroku-postbuild"))?;
        // What is rendered on a server has its own way to start.
        let renders = [
            "express",
            "fastify",
            "koa",
            "@hapi/hapi",
            "@nestjs/core",
            "@sveltejs/kit",
            "nuxt",
            "@remix-run/node",
            "@react-router/node",
            "vike",
        ];
        if renders.iter().any(|n| m.needs(n)) || m.has("@sveltejs/kit") {
            return None;
        }
        let (tool, folder, single) = STATIC.into_iter().find(|(n, ..)| m.has(n))?;
        if tool == "astro" && ["@astrojs/node", "@astrojs/netlify", "@astrojs/vercel"].iter().any(|n| m.has(n)) {
            return None;
        }
        let configured = || {
            let files = ["vite.config.ts", "vite.config.js", "vite.config.mts", "vite.config.mjs", "astro.config.mjs", "astro.config.ts"];
            let text = files.into_iter().map(|f| join(&m.folder, f)).filter(|f| self.source.has(f)).find_map(|f| (self.read)(&f))?;
            quoted(&text, "outDir:")
        };
        let folder = join(&m.folder, &configured().unwrap_or_else(|| folder.to_owned()));
        crate::dependencies::python::plain(&folder)?;
        Some(format!("dozen static {folder}{}", if single { " --spa" } else { "" }))
    }

    /// Whether Next is told to write files only.
    fn exports(&self) -> bool {
        let files = ["next.config.js", "next.config.mjs", "next.config.ts", "next.config.cjs"];
        let text = files.into_iter().filter(|f| self.source.has(f)).find_map(self.read).unwrap_or_default();
        text.lines().map(|l| l.replace([' ', '"', '\''], "")).any(|l| !l.starts_with("//") && l.contains("output:export"))
    }

    /// Whether a program is brought by a package that is for development only.
    fn only_develops(&self, m: &Manifest, program: &str) -> bool {
        let package = BROUGHT_BY.iter().find(|(p, _)| *p == program).map_or(program, |(_, package)| package);
        (m.has(package) || self.root.has(package)) && !m.needs(package) && !self.root.needs(package)
    }

    /// Whether `start` is for development, by what it runs or by who brings that.
    fn develops(&self, m: &Manifest, start: &str) -> bool {
        is_development(start) || program(start).is_some_and(|p| self.only_develops(m, p))
    }

    /// The command that runs a script of a workspace's package.
    fn calls(&self, m: &Manifest, script: &str) -> String {
        let name = m.name().unwrap_or(&m.folder);
        match self.manager {
            Manager::Npm if script == "start" => format!("npm start -w {}", m.folder),
            Manager::Npm => format!("npm run {script} -w {}", m.folder),
            Manager::Pnpm => format!("pnpm --filter {name} {script}"),
            Manager::Yarn | Manager::Berry => format!("yarn workspace {name} {script}"),
        }
    }

    /// The command that serves a package of a workspace.
    fn command(&self, m: &Manifest) -> Option<String> {
        let Some(start) = m.script("start") else { return self.built(m) };
        if !self.develops(m, start) {
            return Some(self.calls(m, "start"));
        }
        let production = || PRODUCTION.iter().find(|s| m.script(s).is_some()).map(|s| self.calls(m, s));
        self.built(m).or_else(production).or_else(|| Some(format!("node {}", self.watched(m, start)?)))
    }

    /// The line for the Procfile.
    fn cure(&self) -> String {
        if self.members.is_empty() {
            let files = ["app.js", "main.js", "src/index.js", "src/server.js", "src/app.js", "src/main.js", "app/index.js", "lib/index.js"];
            let line = match files.into_iter().find(|f| self.source.has(f)) {
                Some(file) => format!("line like `web: node {file}`"),
                None => "`web:` line that says what runs".into(),
            };
            return format!("Add a `start` script to package.json, or a Procfile with a {line}; it listens on $PORT");
        }
        let mut commands: Vec<String> = self.members.iter().filter_map(|m| self.command(m)).collect();
        if commands.is_empty() {
            commands = self.members.iter().filter_map(|m| Some(format!("node {}", self.file(m)?))).collect();
        }
        if commands.is_empty() {
            let names: Vec<&str> = self.members.iter().map(|m| m.folder.as_str()).take(NAMED).collect();
            return format!(
                "This is a workspace ({}), and none of its packages has a `start` script that runs without packages for development. Add one to the \
                 package that serves, and a Procfile at the root with a `web:` line that calls it",
                names.join(", ")
            );
        }
        let lines: Vec<String> = commands.iter().take(NAMED).map(|c| format!("\n  web: {c}")).collect();
        let unbuilt = commands.iter().any(|c| c.starts_with("dozen static ")) && self.root.script("build").is_none();
        let build = if unbuilt { ", and a `build` script to the root's package.json that builds it" } else { "" };
        format!("This is a workspace: add a Procfile at the root that says what runs{build}, with such a line:{}", lines.join(""))
    }
}

/// The value of a setting, as `out` of `outDir: 'out'`, where it is a plain path within the folder.
fn quoted(text: &str, key: &str) -> Option<String> {
    let (_, rest) = text.split_once(key)?;
    let rest = rest.trim_start();
    let quote = rest.chars().next().filter(|c| "'\"`".contains(*c))?;
    let value = rest[1..].split(quote).next()?.trim_start_matches("./").to_owned();
    (crate::dependencies::python::plain(&value).is_some() && !value.contains("..") && !value.is_empty()).then_some(value)
}

/// The program that a script runs first, past assignments and what only sets variables.
fn program(script: &str) -> Option<&str> {
    let mut words = script.split_whitespace().filter(|w| !w.contains('='));
    let first = words.next()?;
    if matches!(first, "cross-env" | "env-cmd" | "dotenv" | "npx" | "exec") { words.find(|w| !w.starts_with('-')) } else { Some(first) }
}

/// Whether a script serves source while it is written.
fn is_development(script: &str) -> bool {
    let words: Vec<&str> = script
        .split_whitespace()
        .filter(|w| !w.contains('=') && *w != "cross-env" && *w != "npx")
        .take_while(|w| !w.starts_with('-'))
        .collect();
    let command = words.join(" ");
    DEVELOPMENT.iter().any(|d| command == *d || (d.contains(' ') && command.starts_with(&format!("{d} "))))
}
