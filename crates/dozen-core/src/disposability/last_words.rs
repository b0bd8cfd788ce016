//! What a process's last lines tell of why it ended, and what cures that: the handful of causes that most apps fail of on their first start.
//!
//! **Invariant:** an answer quotes names only (a variable, a module, a file), never a whole line, which may hold a secret.

use crate::dependencies::system;

mod node;

/// Why a process most likely ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// As a fragment: `the config var SECRET_KEY is not set`.
    pub what: String,
    /// What to do, as a sentence.
    pub cure: String,
}

/// How many of the last lines may hold it; a chained traceback of a web framework has about a hundred.
pub const LINES: usize = 200;

/// The cause that the last telling line names. `lines` is what one process said, oldest first.
pub fn cause(lines: &[String]) -> Option<Cause> {
    let from = lines.len().saturating_sub(LINES);
    (from..lines.len()).rev().find_map(|i| of_line(&lines[i], i.checked_sub(1).map_or("", |before| &lines[before])))
}

fn of_line(line: &str, before: &str) -> Option<Cause> {
    let lower = line.to_ascii_lowercase();
    database(&lower)
        .or_else(|| service(&lower))
        .or_else(|| variable(line, before))
        .or_else(|| module(line))
        .or_else(|| node::cause(line))
        .or_else(|| program(line))
        .or_else(|| library(line))
}

fn database(lower: &str) -> Option<Cause> {
    let refused = lower.contains("unable to open database file") || lower.contains("attempt to write a readonly database");
    refused.then(|| Cause {
        what: "its SQLite file lies in the app's folder, which is read-only: a slug never changes".into(),
        cure: "Let the settings read DATABASE_URL, and put `\"addons\": [\"sqlite\"]` in app.json: dozen then keeps a SQLite database \
               for it; or give a database of your own with `dozen config set DATABASE_URL=…`"
            .into(),
    })
}

/// What every message of a write that a read-only file system refused has in it, whatever its beginning is spelt like: libc, Node, Ruby, Go.
pub const READ_ONLY: &str = "ead-only file system";

/// The path that a line says could not be written, since it lies in the app's folder, which is read-only.
///
/// The line is an app's own and may be anything: what is answered has no control characters and at most 300 bytes.
pub fn refused_path(line: &str) -> Option<&str> {
    let at = line.find(READ_ONLY)?;
    let after = &line[at + READ_ONLY.len()..];
    // Python and Node quote it after the words, Ruby has it after ` - `, Go and shells write it before them.
    let path = quoted(after)
        .or_else(|| after.strip_prefix(" @ ").and_then(|rest| rest.split_once(" - ")).map(|(_, path)| path))
        .or_else(|| before_words(line[..at].trim_end_matches(['R', 'r'])))?
        .trim();
    let inside = path.strip_prefix("/app").map_or(!path.starts_with('/'), |rest| rest.starts_with('/'));
    let sound = !path.is_empty() && path.len() <= 300 && !path.chars().any(char::is_control);
    (inside && sound).then_some(path)
}

/// `open /app/x: `, `mkdir: cannot create directory 'x': `, `sh: 1: cannot create logs/x: `
fn before_words(head: &str) -> Option<&str> {
    let head = head.trim_end().strip_suffix(':')?;
    if let Some(rest) = head.strip_suffix(['\'', '\u{2019}']) {
        return rest.rsplit_once(['\'', '\u{2018}']).map(|(_, path)| path);
    }
    head.rsplit(' ').next()
}

/// What to tell of a [`refused_path`]: the path, why, and the setting that cures it.
pub fn refused(path: &str) -> String {
    let within = path.strip_prefix("/app/").unwrap_or(path).trim_start_matches("./").trim_end_matches('/');
    let (folder, name) = within.rsplit_once('/').unwrap_or(("", within));
    // A name without a dot directly in the app's folder is most likely a folder that was to be made.
    let folder = if folder.is_empty() && !name.contains('.') { name } else { folder };
    let lost = if folder.is_empty() || folder.contains(['"', '\\']) || folder.split('/').any(|p| p == "..") {
        "Write what may be lost to /tmp".to_owned()
    } else {
        format!("If it may be lost with the process, let dozen.toml say `[scratch]` and `folders = [\"{folder}\"]`")
    };
    format!(
        "Refused to write {path}: the app's folder is read-only, since a slug never changes. {lost}; what must last belongs in a backing service."
    )
}

/// What a connection was refused to, by its usual port or scheme, and the variable that usually names it.
const SERVICES: [(&[&str], &str, &str); 7] = [
    (&["6379", "redis"], "Redis", "REDIS_URL"),
    (&["5432", "postgres", "psycopg"], "PostgreSQL", "DATABASE_URL"),
    (&["3306", "mysql"], "MySQL", "DATABASE_URL"),
    (&["5672", "amqp"], "the message broker", "CLOUDAMQP_URL"),
    (&["27017", "mongo"], "MongoDB", "MONGODB_URI"),
    (&["9200", "elastic"], "Elasticsearch", "ELASTICSEARCH_URL"),
    (&["11211", "memcache"], "memcached", "MEMCACHIER_SERVERS"),
];

fn service(lower: &str) -> Option<Cause> {
    let refused = ["connection refused", "econnrefused", "can't connect to mysql", "could not translate host name"];
    // The first is PostgreSQL's second line of a refusal, below one without an end to look at.
    let asked = lower.contains("is the server running on that host") || refused.iter().any(|r| lower.contains(r));
    if !asked && !lower.contains("name or service not known") {
        return None;
    }
    let known = SERVICES.iter().find(|(signs, ..)| signs.iter().any(|s| lower.contains(s)));
    let (name, variable) = match known {
        Some((_, name, variable)) => (*name, *variable),
        None if lower.contains("could not translate host name") || lower.contains("is the server running on that host") => {
            ("PostgreSQL", "DATABASE_URL")
        }
        None => ("a backing service", "ITS_URL"),
    };
    Some(Cause {
        what: format!("{name} does not answer at the address that the app uses"),
        cure: format!("Start it, and give the app its address by the variable that it reads, as in `dozen config set {variable}=…`"),
    })
}

fn variable(line: &str, before: &str) -> Option<Cause> {
    let words = |start: &str, end: &str| line.split_once(start).and_then(|(_, rest)| rest.split_once(end)).map(|(name, _)| name);
    let name = line
        .strip_prefix("KeyError: ")
        .and_then(quoted)
        .or_else(|| words("UndefinedValueError: ", " not found"))
        .or_else(|| words("Set the ", " environment variable"))
        // pydantic writes the name on a line of its own.
        .or_else(|| line.trim_start().to_ascii_lowercase().starts_with("field required").then(|| before.trim()))?;
    let is_variable = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && (name.bytes().any(|b| b.is_ascii_uppercase()) || line.trim_start().to_ascii_lowercase().starts_with("field required"));
    let name = name.to_ascii_uppercase();
    is_variable.then(|| Cause {
        what: format!("the config var {name} is not set"),
        cure: format!("Give it with `dozen config set {name}=…` or in .env"),
    })
}

/// Modules that left Python's library, and the last version that has them.
const GONE: [(&[&str], &str); 3] = [
    (&["distutils", "imp", "asynchat", "asyncore", "smtpd"], "3.11"),
    (&["cgi", "cgitb", "crypt", "imghdr", "pipes", "telnetlib", "audioop"], "3.12"),
    (&["parser", "symbol", "formatter"], "3.9"),
];

fn module(line: &str) -> Option<Cause> {
    if let Some(name) = line.split_once("ModuleNotFoundError: No module named ").and_then(|(_, rest)| quoted(rest)) {
        let top = name.split('.').next().unwrap_or(name);
        if let Some((_, last)) = GONE.iter().find(|(names, _)| names.contains(&top)) {
            return Some(Cause {
                what: format!("this Python no longer has the module {top}"),
                cure: format!(
                    "Build with an older one, `dozen up --use-python {last}`, or use newer versions of the packages that import it"
                ),
            });
        }
        let cure = if matches!(top, "pkg_resources" | "setuptools") {
            "Declare `setuptools<81` among its dependencies: it is no part of Python any more".into()
        } else {
            "Declare the package that brings it among the app's dependencies".into()
        };
        return Some(Cause { what: format!("the module {name} is not installed"), cure });
    }
    if line.contains("module 'collections' has no attribute") {
        return Some(old_abstract());
    }
    let (_, rest) = line.split_once("ImportError: cannot import name ")?;
    let (name, from) = rest.split_once(" from ")?;
    if from.starts_with("'collections'") {
        return Some(old_abstract());
    }
    // One of the app's own modules is the app's own matter.
    if !from.contains("/site-packages/") {
        return None;
    }
    Some(Cause {
        what: format!("the package of {} that is installed has no {}", quoted(from)?, quoted(name)?),
        cure: "Packages that were released since do not fit: pin the versions that the app was written for".into(),
    })
}

fn old_abstract() -> Cause {
    Cause {
        what: "a package was written for Python 3.9 or older".into(),
        cure: "Build with such a one, `dozen up --use-python 3.9`, or use newer versions of the packages".into(),
    }
}

fn program(line: &str) -> Option<Cause> {
    // dash: `/bin/sh: 1: uwsgi: not found`; bash: `/bin/bash: line 1: uwsgi: command not found`.
    let (head, _) = line.strip_suffix(": not found").or_else(|| line.strip_suffix(": command not found")).map(|h| (h, ()))?;
    let (shell, name) = head.rsplit_once(": ")?;
    let name_is_plain = !name.is_empty() && !name.contains(char::is_whitespace);
    (name_is_plain && shell.contains("sh: ")).then(|| Cause {
        what: format!("the program {name} is neither in the slug nor on this machine"),
        cure: match system::of_line(line) {
            Some(missing) => missing.cure(),
            None => "Declare the package that brings it among the app's dependencies, or correct the command".into(),
        },
    })
}

/// A library or a program of the system that some code looks for by itself.
fn library(line: &str) -> Option<Cause> {
    let missing = system::of_line(line)?;
    Some(Cause {
        what: format!("{} is not on this machine", missing.what.replacen("the library", "the system library", 1)),
        cure: missing.cure(),
    })
}

/// What stands between the first two quotes of a kind.
fn quoted(text: &str) -> Option<&str> {
    let at = text.find(['\'', '"'])?;
    let quote = char::from(text.as_bytes()[at]);
    let rest = &text[at + 1..];
    rest.find(quote).map(|end| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &str) -> String {
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        cause(&lines).map_or_else(|| "nothing".into(), |c| c.what)
    }

    #[test]
    fn the_usual_causes_are_known() {
        let cases = [
            ("sqlite3.OperationalError: unable to open database file\n(Background on this error)", "SQLite file lies in the app's folder"),
            ("ERROR:root:Error 111 connecting to localhost:6379. Connection refused.", "Redis does not answer"),
            (
                "connection to server at \"127.0.0.1\", port 5432 failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
                "PostgreSQL does not",
            ),
            ("psycopg2.OperationalError: could not translate host name \"db\" to address", "PostgreSQL does not"),
            ("ConnectionRefusedError: [Errno 111] Connection refused", "a backing service does not"),
            ("KeyError: 'SECRET_KEY'", "config var SECRET_KEY is not set"),
            ("decouple.UndefinedValueError: DEBUG not found. Declare it as envvar or define a default value.", "config var DEBUG is"),
            ("django.core.exceptions.ImproperlyConfigured: Set the SECRET_KEY environment variable", "config var SECRET_KEY is"),
            (
                "1 validation error for Settings\nsecret_key\n  Field required [type=missing, input_value={}]\n    For further",
                "config var SECRET_KEY is",
            ),
            ("ModuleNotFoundError: No module named 'celery.app'", "module celery.app is not installed"),
            ("ModuleNotFoundError: No module named 'distutils'", "no longer has the module distutils"),
            (
                "ImportError: cannot import name 'url_quote' from 'werkzeug.urls' (/app/.venv/lib/python3.11/site-packages/werkzeug/urls.py)",
                "werkzeug.urls that is installed has no url_quote",
            ),
            (
                "ImportError: cannot import name 'Iterator' from 'collections' (/usr/lib/python3.11/collections/__init__.py)",
                "written for Python 3.9",
            ),
            ("/bin/sh: 1: uwsgi: not found", "program uwsgi is neither"),
            ("ImportError: libGL.so.1: cannot open shared object file: No such file or directory", "library libGL.so.1 is not"),
        ];
        for (lines, want) in cases {
            assert!(said(lines).contains(want), "{lines:?} told: {}", said(lines));
        }
    }

    #[test]
    fn a_refused_write_names_its_path_and_the_setting() {
        let cases = [
            ("OSError: [Errno 30] Read-only file system: 'logs'", Some(("logs", Some("logs")))),
            ("OSError: [Errno 30] Read-only file system: '/app/data/cache/x.txt'", Some(("/app/data/cache/x.txt", Some("data/cache")))),
            ("Error: EROFS: read-only file system, open '/app/.next/cache/x'", Some(("/app/.next/cache/x", Some(".next/cache")))),
            ("Errno::EROFS: Read-only file system @ dir_s_mkdir - /app/tmp", Some(("/app/tmp", Some("tmp")))),
            ("open /app/out.log: read-only file system", Some(("/app/out.log", None))),
            ("sh: 1: cannot create logs/a.log: Read-only file system", Some(("logs/a.log", Some("logs")))),
            ("mkdir: cannot create directory '/app/uploads': Read-only file system", Some(("/app/uploads", Some("uploads")))),
            ("mkdir: cannot create directory \u{2018}up loads\u{2019}: Read-only file system", Some(("up loads", Some("up loads")))),
            ("OSError: [Errno 30] Read-only file system: '/usr/lib/x'", None),
            ("OSError: [Errno 30] Read-only file system: '/application/x'", None),
            ("Read-only file system", None),
            ("the docs say: read-only file system", Some(("say", Some("say")))),
        ];
        for (line, want) in cases {
            assert_eq!(refused_path(line), want.map(|(path, _)| path), "{line}");
            if let Some((path, folder)) = want {
                let told = refused(path);
                assert_eq!(told.contains("[scratch]"), folder.is_some(), "{told}");
                assert!(folder.is_none_or(|f| told.contains(&format!("[\"{f}\"]"))), "{told}");
            }
        }
    }

    #[test]
    fn what_tells_nothing_is_left_alone() {
        for lines in [
            "",
            "KeyError: 'id'",
            "KeyError: 3",
            "ImportError: cannot import name 'x' from 'shop' (/app/shop/__init__.py)",
            "GET /x: not found",
            "user 'a b' : not found",
            "Field required",
            "Process exited",
        ] {
            assert_eq!(said(lines), "nothing", "{lines:?}");
        }
    }

    #[test]
    fn the_last_telling_line_wins() {
        assert!(said("KeyError: 'FIRST'\nKeyError: 'LAST'\nmore").contains("LAST"));
        let far = format!("KeyError: 'FAR'\n{}", "x\n".repeat(LINES));
        assert_eq!(said(&far), "nothing");
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "(KeyError: |Read-only file system|UndefinedValueError: | cannot import name |sh: )?['\" :a-zé\\PC]{0,40}( from |: not found)?['\"é]{0,3}") {
            let _ = refused_path(&line).map(refused);
            let _ = cause(&[line.clone(), line]);
        }
    }
}
