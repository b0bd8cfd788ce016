//! End to end: what README and `docs/` show is what happens. Their `console` blocks are run, a page against a deploy of its own.
//!
//! In a block `$ …` is run by a shell in the app's folder and the lines after it are its output; `...` stands for any text, alone on a line for
//! any lines. Times and the router's port are not compared.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const DOZEN: &str = env!("CARGO_BIN_EXE_dozen");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

const PROCFILE: &str = "web: python3 server.py\nworker: while :; do echo working; sleep 5; done\nrelease: echo migrating\n";
const SERVER: &str = r#"import http.server, os, signal, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("answering", self.path, flush=True)
        body = (os.environ["GREETING"] + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

/// A deploy in a DOZEN_HOME of its own; it is stopped when this is dropped, also by a panic.
struct Stage {
    dir: tempfile::TempDir,
    app: PathBuf,
    port: String,
    /// Of a page about a server: it, and its first token.
    server: Option<(Child, String)>,
}

impl Stage {
    /// The app that the pages speak of: `hello`, without a language.
    fn hello() -> Self {
        Self::folder().up()
    }

    /// The same app, and a server instead of a deploy.
    fn server() -> Self {
        let mut stage = Self::folder();
        let mut server = stage.command("exec dozen server --listen 0 --json").stdout(Stdio::piped()).spawn().expect("a shell");
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().expect("piped")).read_line(&mut line).expect("read");
        let said: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let text = |name: &str| said[name].as_str().expect("said").to_owned();
        stage.port = text("url").rsplit(':').next().expect("a port").to_owned();
        stage.server = Some((server, text("token")));
        stage
    }

    fn folder() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let app = dir.path().join("hello");
        fs::create_dir(&app).expect("made");
        for (file, text) in [("Procfile", PROCFILE), ("server.py", SERVER), (".env", "GREETING=Hello\n")] {
            fs::write(app.join(file), text).expect("written");
        }
        Self { dir, app, port: String::new(), server: None }
    }

    /// The example. What was built of it and uv are kept for all runs of the tests; everything else is new.
    fn guestbook() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for (link, to) in [("tools", "python/tools"), ("cache", "guestbook/cache"), ("slugs", "guestbook/slugs")] {
            let (link, to) = (dir.path().join("home").join(link), kept.join(to));
            fs::create_dir_all(&to).expect("made");
            fs::create_dir_all(link.parent().expect("a parent")).expect("made");
            std::os::unix::fs::symlink(to, link).expect("linked");
        }
        Self { dir, app: Path::new(ROOT).join("examples/guestbook"), port: String::new(), server: None }.up()
    }

    fn up(mut self) -> Self {
        let came = self.run("dozen up --detach --port 0");
        let port = came.split(".localhost:").nth(1).unwrap_or_default();
        self.port = port.chars().take_while(char::is_ascii_digit).collect();
        assert!(came.contains("runs in the background"), "it did not come up:\n{came}");
        self
    }

    /// What a person would see.
    fn run(&self, command: &str) -> String {
        let Output { stdout, .. } = self.command(command).output().expect("a shell");
        String::from_utf8_lossy(&stdout).into_owned()
    }

    fn command(&self, command: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("exec 2>&1; {command}")]).current_dir(&self.app).stdin(Stdio::null());
        let own = Path::new(DOZEN).parent().expect("a folder");
        shell.env("PATH", format!("{}:{}", own.display(), std::env::var("PATH").expect("set")));
        shell.env("DOZEN_HOME", self.dir.path().join("home")).env("XDG_CONFIG_HOME", self.dir.path().join("config")).env("NO_COLOR", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            shell.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@example.com");
        }
        shell.envs(self.server.iter().map(|(_, token)| ("TOKEN", token)));
        shell
    }

    /// Runs the page's blocks; what differs, for people.
    fn play(&self, page: &str, text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for (command, wanted) in examples(text) {
            let port = format!(":{}", self.port);
            let said = self.run(&command.replace(":8000", &port)).replace(&port, ":8000");
            let (wanted, said): (Vec<_>, Vec<_>) = (wanted.iter().map(|l| timeless(l)).collect(), said.lines().map(timeless).collect());
            if !lines_match(&wanted, &said) {
                wrong.push(format!("{page}: $ {command}\n--- is to say\n{}\n--- said\n{}\n", wanted.join("\n"), said.join("\n")));
            }
        }
        wrong
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let Some((server, _)) = &mut self.server else {
            self.run("dozen down");
            return;
        };
        let pid = i32::try_from(server.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        // One that has ended already has nothing left.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = server.wait();
    }
}

/// The commands of a page's `console` blocks, each with the lines after it.
fn examples(page: &str) -> Vec<(&str, Vec<&str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut fence: Option<bool> = None;
    for line in page.lines() {
        match (fence, line.strip_prefix("```")) {
            (None, Some(info)) => fence = Some(info == "console"),
            (Some(_), Some(_)) => fence = None,
            (Some(true), None) => match line.strip_prefix("$ ") {
                Some(command) => all.push((command, Vec::new())),
                None => all.last_mut().expect("a console block begins with a command").1.push(line),
            },
            _ => {}
        }
    }
    all
}

/// The line with its times made alike: `2026-11-21T13:36:31.162055`, `2026-11-21 13:36:31`.
fn timeless(line: &str) -> String {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let is_time = |at: &[u8]| {
        at.len() >= SHAPE.len()
            && at.iter().zip(SHAPE).all(|(b, s)| match s {
                b'0' => b.is_ascii_digit(),
                b'T' => matches!(b, b'T' | b' '),
                _ => b == s,
            })
    };
    let mut out = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if is_time(rest.as_bytes()) {
            out.push_str("<time>");
            rest = rest[SHAPE.len()..].trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out.trim_end().to_owned()
}

fn lines_match(wanted: &[String], said: &[String]) -> bool {
    match wanted.split_first() {
        None => said.is_empty(),
        Some((any, more)) if any == "..." => (0..=said.len()).any(|skip| lines_match(more, &said[skip..])),
        Some((first, more)) => said.split_first().is_some_and(|(line, others)| line_matches(first, line) && lines_match(more, others)),
    }
}

fn line_matches(wanted: &str, said: &str) -> bool {
    match wanted.split_once("...") {
        None => wanted == said,
        Some((before, after)) => said.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(i, _)| i).chain([rest.len()]);
            ends.into_iter().any(|i| line_matches(after, &rest[i..]))
        }),
    }
}

#[test]
fn the_pages_are_true() {
    let mut pages: Vec<PathBuf> = fs::read_dir(Path::new(ROOT).join("docs")).expect("docs").map(|e| e.expect("an entry").path()).collect();
    pages.retain(|p| p.extension().is_some_and(|e| e == "md"));
    pages.sort();
    let texts = pages.iter().map(|page| (page.file_name().expect("a name").to_string_lossy(), fs::read_to_string(page).expect("text")));
    let with_examples: Vec<_> = texts.filter(|(_, text)| !examples(text).is_empty()).collect();
    assert!(with_examples.len() >= 12, "each factor's page shows something that runs");
    let wrong: Vec<String> = with_examples
        .iter()
        .flat_map(|(page, text)| if page == "server.md" { Stage::server() } else { Stage::hello() }.play(page, text))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_readmes_walk_is_true() {
    let text = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("a README");
    assert!(!examples(&text).is_empty());
    let wrong = Stage::guestbook().play("README.md", &text);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_differs_is_found() {
    let check = |wanted: &str, said: &str| {
        let lines = |t: &str| t.lines().map(timeless).collect::<Vec<_>>();
        lines_match(&lines(wanted), &lines(said))
    };
    assert!(check("a ... d\n...\nend", "a b c d\nx\ny\nend"));
    assert!(check("2026-01-02T03:04:05.123456+00:00 app[web.1]: x", "2027-11-12T13:14:15.6+00:00 app[web.1]: x"));
    assert!(!check("a ... d", "a b c"));
    assert!(!check("a\n...\nend", "a\nx"));
    assert!(!check("v2", "v3") && !check("", "x") && !check("x", ""));
    let page = "```text\n$ no\n```\n```console\n$ one\nsaid\n$ two\n```\n$ no\n";
    assert_eq!(examples(page), [("one", vec!["said"]), ("two", vec![])]);
}
