//! Default process types: how an app without a Procfile is most likely served. Only what can be known for certain is guessed.

use crate::codebase::Source;
use crate::ids::TypeName;
use std::collections::BTreeSet;

/// What is looked at.
pub(super) struct App<'a> {
    pub(super) source: &'a Source,
    pub(super) read: &'a dyn Fn(&str) -> Option<String>,
    /// Normalised names of the dependencies.
    pub(super) names: &'a BTreeSet<String>,
    /// `fastapi[standard]`.
    pub(super) extras: &'a BTreeSet<String>,
    /// The file that declares them.
    pub(super) from: &'a str,
    /// The path of `manage.py`.
    pub(super) manage: Option<String>,
}

/// Where the application object of a small app is looked for, in this order.
const MODULES: [&str; 12] = [
    "main.py",
    "app.py",
    "wsgi.py",
    "asgi.py",
    "application.py",
    "server.py",
    "run.py",
    "app/main.py",
    "app/__init__.py",
    "src/main.py",
    "src/app.py",
    "src/app/main.py",
];

/// How an app is served.
pub(super) struct Served {
    /// Its types; none where nothing is certain.
    pub(super) types: Vec<(TypeName, String)>,
    /// What to do where there are none.
    pub(super) cure: String,
    /// What a person should know of the choice.
    pub(super) note: Option<String>,
}

/// How an app without a Procfile is served. A framework's own development server is taken, and said so, where no other is declared.
pub(super) fn served(app: &App<'_>) -> Served {
    let (types, cure) = declared(app);
    let (types, note) = if types.is_empty() { app.development().unzip() } else { (Some(types), None) };
    Served { types: types.unwrap_or_default(), cure, note }
}

/// The types, or none and what to do about it.
fn declared(app: &App<'_>) -> (Vec<(TypeName, String)>, String) {
    let from = app.from;
    let declare = format!("Add a Procfile with a line like `web: COMMAND`, which listens on $PORT; COMMAND's program must be in {from}");
    let web = |command: String| match TypeName::WEB.parse() {
        Ok(name) => (vec![(name, command)], declare.clone()),
        Err(_) => (Vec::new(), declare.clone()),
    };
    let has = |name: &str| app.names.contains(name);
    let uvicorn = has("uvicorn") || ["fastapi[standard]", "fastapi[all]", "starlette[full]"].iter().any(|e| app.extras.contains(*e));
    if let Some(manage) = app.manage.as_ref().filter(|_| has("django")) {
        let folder = manage.rsplit_once('/').map(|(f, _)| f);
        let module = |file: &str| app.module_beside(folder, file);
        let chdir = |flag: &str| folder.map(|f| format!(" {flag} {f}")).unwrap_or_default();
        return match (module("wsgi.py"), module("asgi.py")) {
            (Some(wsgi), _) if has("gunicorn") => web(format!("gunicorn{} {wsgi} --bind 0.0.0.0:$PORT", chdir("--chdir"))),
            (_, Some(asgi)) if uvicorn => web(format!("uvicorn{} {asgi}:application --host 0.0.0.0 --port $PORT", chdir("--app-dir"))),
            (_, Some(asgi)) if has("daphne") && folder.is_none() => web(format!("daphne -b 0.0.0.0 -p $PORT {asgi}:application")),
            _ => (Vec::new(), format!("Add gunicorn to {from}")),
        };
    }
    let asgi = app.object(&["FastAPI(", "Starlette(", "Litestar(", "Quart("]);
    let wsgi = app.wsgi();
    if let Some((folder, object)) = &asgi {
        let folder = folder.as_ref().map(|f| format!(" --app-dir {f}")).unwrap_or_default();
        if uvicorn {
            return web(format!("uvicorn{folder} {object} --host 0.0.0.0 --port $PORT"));
        }
        return (Vec::new(), format!("Add uvicorn to {from}"));
    }
    if let Some((folder, object)) = &wsgi {
        let chdir = folder.as_ref().map(|f| format!(" --chdir {f}")).unwrap_or_default();
        if has("gunicorn") {
            return web(format!("gunicorn{chdir} {} --bind 0.0.0.0:$PORT", quoted(object)));
        }
        if has("waitress") {
            let cd = folder.as_ref().map(|f| format!("cd {f} && ")).unwrap_or_default();
            let object = object.strip_suffix("()").map_or_else(|| object.clone(), |function| format!("--call {function}"));
            return web(format!("{cd}waitress-serve --listen=0.0.0.0:$PORT {object}"));
        }
        return (Vec::new(), format!("Add gunicorn to {from}"));
    }
    (Vec::new(), declare)
}

impl App<'_> {
    /// Django's or Flask's own server, for an app that declares no other.
    fn development(&self) -> Option<(Vec<(TypeName, String)>, String)> {
        let from = self.from;
        let (command, whose) = if let Some(manage) = self.manage.as_ref().filter(|_| self.names.contains("django")) {
            // Nothing changes in a slug: a reloader would only watch.
            (format!("python {} runserver --noreload 0.0.0.0:$PORT", plain(manage)?), "Django")
        } else if self.names.contains("flask") {
            let (folder, object) = self.wsgi()?;
            let chdir = folder.map(|f| format!("cd {f} && ")).unwrap_or_default();
            (format!("{chdir}flask --app {} run --host 0.0.0.0 --port $PORT", quoted(&object)), "Flask")
        } else {
            return None;
        };
        let note = format!(
            "{from} declares no web server that is known here: {whose}'s development server is used. Add gunicorn for anything but a try"
        );
        Some((vec![(TypeName::WEB.parse().ok()?, command)], note))
    }

    /// The object of a WSGI app, or the one function that makes it: `shop:create_app()`.
    fn wsgi(&self) -> Option<(Option<String>, String)> {
        self.object(&["Flask(", "Bottle(", "create_app("]).or_else(|| self.factory())
    }

    /// A package, at the root or in `src`, that defines `create_app`; none where several do.
    fn factory(&self) -> Option<(Option<String>, String)> {
        let mut found = self.source.files.iter().filter_map(|file| {
            let (folder, rest) = match file.path.strip_prefix("src/") {
                Some(rest) => (Some("src".to_owned()), rest),
                None => (None, file.path.as_str()),
            };
            let package = rest.strip_suffix("/__init__.py").filter(|p| is_dotted(p) && !p.contains('.'))?;
            let text = (self.read)(&file.path)?;
            text.lines().any(|l| l.starts_with("def create_app(")).then(|| (folder, format!("{package}:create_app()")))
        });
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// The dotted name of `*/file` in a folder just below `base`.
    fn module_beside(&self, base: Option<&str>, file: &str) -> Option<String> {
        let prefix = base.map(|b| format!("{b}/")).unwrap_or_default();
        let inside = self.source.files.iter().filter_map(|f| f.path.strip_prefix(&prefix)).filter(|p| p.rsplit('/').next() == Some(file));
        // The project's folder is beside manage.py, or one further down with settings in it.
        let best = inside.filter(|p| p.matches('/').count() <= 2).min_by_key(|p| (p.matches('/').count(), *p))?;
        let dotted = best.strip_suffix(".py")?.replace('/', ".");
        is_dotted(&dotted).then_some(dotted)
    }

    /// `module:name` of the first top-level `name = Maker(`, and the folder that the module lies in where that is no package.
    fn object(&self, makers: &[&str]) -> Option<(Option<String>, String)> {
        MODULES.iter().filter(|path| self.source.has(path)).find_map(|path| {
            let text = (self.read)(path)?;
            let name = text.lines().find_map(|line| {
                let (name, value) = line.split_once('=')?;
                let name = name.split(':').next().unwrap_or(name).trim_end();
                let value = value.trim_start();
                let made = makers.iter().any(|m| value.starts_with(m) || value.contains(&format!(".{m}")));
                // `app = get_application()`, where the file also makes one.
                let maker = value.split_once('(').is_some_and(|(f, _)| is_dotted(f) && !f.contains('.') && defines(&text, f));
                let made = made || (maker && makers.iter().any(|m| text.contains(m)));
                (made && is_dotted(name) && !name.contains('.')).then(|| name.to_owned())
            })?;
            let (folder, path) = match path.strip_prefix("src/") {
                Some(rest) => (Some("src".to_owned()), rest),
                None => (None, *path),
            };
            let module = path.strip_suffix(".py")?.replace('/', ".");
            let module = module.strip_suffix(".__init__").unwrap_or(&module);
            Some((folder, format!("{module}:{name}")))
        })
    }
}

/// Whether a file defines this function.
fn defines(text: &str, function: &str) -> bool {
    text.lines().any(|l| l.strip_prefix("def ").is_some_and(|l| l.strip_prefix(function).is_some_and(|l| l.starts_with('('))))
}

/// For the app's shell: a call needs quotes there.
fn quoted(object: &str) -> String {
    if object.ends_with(')') { format!("'{object}'") } else { object.to_owned() }
}

/// A path that a shell takes as one word.
pub(in crate::dependencies) fn plain(path: &str) -> Option<&str> {
    path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)).then_some(path)
}

/// Whether it is safe and sensible as a module's name in a command.
fn is_dotted(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|p| {
            p.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
}
