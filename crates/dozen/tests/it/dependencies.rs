//! End to end: dependencies. Real packages from a real index, through uv.

use dozen_core::config::Mask;
use dozen_core::ids::AppName;
use dozen_core::processes::ProcessType;
use dozen_engine::codebase;
use dozen_engine::dependencies::{BuildError, Built, Request, build};
use dozen_engine::home::Home;
use dozen_engine::output::{Event, Output};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Output for Heard {
    fn emit(&self, event: Event) {
        let line = match event {
            Event::Step(t) => format!("-----> {t}"),
            Event::Detail(t) => format!("       {t}"),
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
        for (link, to) in [(home.tools(), shared.join("tools")), (home.cache(&app).join("uv"), shared.join("uv"))] {
            fs::create_dir_all(&to).expect("made");
            fs::create_dir_all(link.parent().expect("a parent")).expect("made");
            std::os::unix::fs::symlink(to, link).expect("linked");
        }
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
        let heard = Arc::new(Heard::default());
        let processes = fs::read_to_string(self.folder().join("Procfile")).unwrap_or_default();
        let processes = processes
            .lines()
            .filter_map(|l| l.split_once(": "))
            .map(|(n, c)| ProcessType { name: n.parse().expect("a name"), command: c.to_owned() });
        let request = Request {
            home: &self.home,
            app: &self.app,
            source: &reading.source,
            processes: processes.collect(),
            config: &config,
            placeholders: &[],
            mask: &Mask::default(),
            use_python,
            last_python: None,
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
}

const FLASK: [(&str, &str); 3] = [
    ("requirements.txt", "flask==3.0.3\ngunicorn==23.0.0\n"),
    ("app.py", "from flask import Flask\napp = Flask(__name__)\n"),
    ("static/site.css", "body {}\n"),
];

#[tokio::test]
async fn a_flask_app_becomes_a_slug_that_runs_anywhere() {
    let bench = Bench::new(&FLASK);
    let (built, text) = bench.build().await;
    println!("{text}");
    let tree = bench.tree(&built);
    let out = Command::new(tree.join(".venv/bin/gunicorn")).arg("--version").output().expect("runs");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "gunicorn (version 23.0.0)");
}
