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
const DEVELOPMENT: [&str; 12] = [
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
];
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
    let made = app.built();
    if let Some(start) = app.root.script("start") {
        let program = program(start);
        let develops = program.is_some_and(|p| app.only_develops(p));
        if let (true, Some(command)) = (is_development(start), &made) {
            let note = format!("`start` runs a development server ({start}): what `build` makes is served instead");
            return web(command.clone(), Some(note), None);
        }
        if let (true, Some(production)) =
            (develops, ["start:prod", "start:production", "serve:prod"].iter().find(|s| app.root.script(s).is_some()))
        {
            let note = format!("`start` runs {}, which is for development only: `{production}` is used", program.unwrap_or_default());
            return web(format!("{} run {production}", app.manager.command()), Some(note), None);
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
    let files = ["server.js", "server.mjs", "server.cjs", "index.js", "index.mjs"];
    let main = app.root.text("main").map(|m| m.trim_start_matches("./")).filter(|m| crate::dependencies::python::plain(m).is_some());
    if let Some(file) = files.into_iter().take(3).chain(main).chain(files.into_iter().skip(3)).find(|f| app.source.has(f)) {
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
    /// The command that serves what `build` makes, where that is only files.
    fn built(&self) -> Option<String> {
        self.root.script("build").or_else(|| self.root.script("heroku-postbuild"))?;
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
        if renders.iter().any(|n| self.root.needs(n)) || self.root.has("@sveltejs/kit") {
            return None;
        }
        let (tool, folder, single) = STATIC.into_iter().find(|(n, ..)| self.root.has(n))?;
        if tool == "astro" && ["@astrojs/node", "@astrojs/netlify", "@astrojs/vercel"].iter().any(|n| self.root.has(n)) {
            return None;
        }
        let configured = || {
            let files = ["vite.config.ts", "vite.config.js", "vite.config.mts", "vite.config.mjs", "astro.config.mjs", "astro.config.ts"];
            let text = files.into_iter().filter(|f| self.source.has(f)).find_map(self.read)?;
            let (_, rest) = text.split_once("outDir:")?;
            let quote = rest.trim_start().chars().next().filter(|c| "'\"`".contains(*c))?;
            let value = rest.trim_start()[1..].split(quote).next()?.trim_start_matches("./").to_owned();
            (crate::dependencies::python::plain(&value).is_some() && !value.contains("..") && !value.is_empty()).then_some(value)
        };
        let folder = configured().unwrap_or_else(|| folder.to_owned());
        Some(format!("dozen static {folder}{}", if single { " --spa" } else { "" }))
    }

    /// Whether Next is told to write files only.
    fn exports(&self) -> bool {
        let files = ["next.config.js", "next.config.mjs", "next.config.ts", "next.config.cjs"];
        let text = files.into_iter().filter(|f| self.source.has(f)).find_map(self.read).unwrap_or_default();
        text.lines().map(|l| l.replace([' ', '"', '\''], "")).any(|l| !l.starts_with("//") && l.contains("output:export"))
    }

    /// Whether a program is brought by a package that is for development only.
    fn only_develops(&self, program: &str) -> bool {
        let package = BROUGHT_BY.iter().find(|(p, _)| *p == program).map_or(program, |(_, package)| package);
        self.root.has(package) && !self.root.needs(package)
    }

    /// The line for the Procfile.
    fn cure(&self) -> String {
        let can: Vec<&Manifest> = self.members.iter().filter(|m| m.script("start").is_some()).collect();
        let line = |m: &Manifest| {
            let name = m.name().unwrap_or(&m.folder);
            match self.manager {
                Manager::Npm => format!("web: npm start -w {}", m.folder),
                Manager::Pnpm => format!("web: pnpm --filter {name} start"),
                Manager::Yarn | Manager::Berry => format!("web: yarn workspace {name} start"),
            }
        };
        match can.as_slice() {
            [] if self.members.is_empty() => {
                "Add a `start` script to package.json, or a Procfile with a line like `web: node server.js`; it listens on $PORT".into()
            }
            [] => {
                let names: Vec<&str> = self.members.iter().map(|m| m.folder.as_str()).take(NAMED).collect();
                format!(
                    "This is a workspace ({}), and none of its packages has a `start` script. Add a Procfile at the root with a line like `web: node {}`",
                    names.join(", "),
                    join(names[0], "server.js")
                )
            }
            several => {
                let lines: Vec<String> = several.iter().take(NAMED).map(|m| format!("\n  {}", line(m))).collect();
                format!("This is a workspace: add a Procfile at the root that says what runs, with such a line:{}", lines.join(""))
            }
        }
    }
}

/// The program that a script runs first, past assignments and what only sets variables.
fn program(script: &str) -> Option<&str> {
    let mut words = script.split_whitespace().filter(|w| !w.contains('='));
    let first = words.next()?;
    if matches!(first, "cross-env" | "env-cmd" | "dotenv" | "npx" | "exec") { words.find(|w| !w.starts_with('-')) } else { Some(first) }
}

/// Whether a script serves source while it is written.
fn is_development(script: &str) -> bool {
    let words: Vec<&str> =
        script.split_whitespace().filter(|w| !w.contains('=') && *w != "cross-env").take_while(|w| !w.starts_with('-')).collect();
    let command = words.join(" ");
    DEVELOPMENT.iter().any(|d| command == *d || (d.contains(' ') && command.starts_with(&format!("{d} "))))
}
