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

/// The types, or none and what to do about it.
pub(super) fn types(app: &App<'_>) -> (Vec<(TypeName, String)>, String) {
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
            (wsgi, _) => {
                let wsgi = wsgi.unwrap_or_else(|| "PROJECT.wsgi".into());
                (Vec::new(), format!("Add gunicorn to {from}, or a Procfile with a line like `web: gunicorn {wsgi} --bind 0.0.0.0:$PORT`"))
            }
        };
    }
    let asgi = app.object(&["FastAPI(", "Starlette(", "Litestar(", "Quart("]);
    let wsgi = app.object(&["Flask(", "Bottle(", "create_app("]);
    if let Some((folder, object)) = &asgi {
        let folder = folder.as_ref().map(|f| format!(" --app-dir {f}")).unwrap_or_default();
        if uvicorn {
            return web(format!("uvicorn{folder} {object} --host 0.0.0.0 --port $PORT"));
        }
        return (
            Vec::new(),
            format!("Add uvicorn to {from}, or a Procfile with a line like `web: uvicorn {object} --host 0.0.0.0 --port $PORT`"),
        );
    }
    if let Some((folder, object)) = &wsgi {
        let chdir = folder.as_ref().map(|f| format!(" --chdir {f}")).unwrap_or_default();
        if has("gunicorn") {
            return web(format!("gunicorn{chdir} {object} --bind 0.0.0.0:$PORT"));
        }
        if has("waitress") && folder.is_none() {
            return web(format!("waitress-serve --listen=0.0.0.0:$PORT {object}"));
        }
        return (
            Vec::new(),
            format!("Add gunicorn to {from}, or a Procfile with a line like `web: gunicorn {object} --bind 0.0.0.0:$PORT`"),
        );
    }
    (Vec::new(), declare)
}

impl App<'_> {
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
                let made = makers.iter().any(|m| value.trim_start().starts_with(m) || value.contains(&format!(".{m}")));
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

/// Whether it is safe and sensible as a module's name in a command.
fn is_dotted(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|p| {
            p.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
}
