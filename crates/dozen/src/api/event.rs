//! What goes on, as `--json` prints it: one event a line, told apart by `event`.
//!
//! **Invariant:** fields are only ever added. A program that reads these passes over events and fields that it does not know.

use dozen_core::diagnostic::{Diagnostic, Severity};
use serde::{Deserialize, Serialize};

/// One line of `up --json`, of `build --json`, of `logs --json`, and of any command that fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// `server` answers.
    Serving {
        /// Its API's.
        url: String,
        /// The first token, the first time.
        token: Option<String>,
    },
    /// A part of the build begins.
    Step {
        /// For people.
        text: String,
    },
    /// Something to know of the step.
    Detail {
        /// For people.
        text: String,
    },
    /// Something to do something about.
    Warning {
        /// For people.
        text: String,
    },
    /// The step has ended.
    Done {
        /// How long it took.
        seconds: f64,
    },
    /// A line of a process or of the platform.
    Log {
        /// RFC 3339, UTC.
        time: String,
        /// `app` or `dozen`.
        source: String,
        /// `web.1`, `router`, …
        ps: String,
        /// As it was written; what is not UTF-8 is replaced.
        message: String,
    },
    /// A slug was built, and is in the store; the last line of `build`.
    Built {
        /// `shop`
        app: String,
        /// Its id, in hexadecimal digits.
        slug: String,
        /// Whether it was there already.
        reused: bool,
        /// `Python 3.11.7`; absent where the app has no language.
        runtime: Option<String>,
        /// What was checked out, with `+` where the work tree differed; absent without git.
        commit: Option<String>,
        /// Bytes of all files.
        size: u64,
        /// How many files and links.
        files: u64,
        /// The slug file, where one was written.
        file: Option<String>,
        /// Its bytes.
        file_size: Option<u64>,
    },
    /// There is a release and its processes are being started.
    Released {
        /// `shop/dev`
        deploy: String,
        /// `v12`
        release: String,
        /// Whether it was made by this command.
        new: bool,
        /// Where it answers once it is ready.
        url: String,
    },
    /// Every process is up.
    Ready {
        /// `shop/dev`
        deploy: String,
        /// Where it answers; absent where the formation has no `web`.
        url: Option<String>,
        /// And where by HTTPS; absent without `--https-port`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        https_url: Option<String>,
        /// `v12`
        release: String,
    },
    /// Tests were run; the last line of `test`.
    Tested {
        /// As a shell says it; 0 where they passed.
        code: i32,
        /// The id of what they ran on, with what only development needs.
        slug: String,
    },
    /// The command failed; the last line.
    Error {
        /// What was attempted and why it failed, for people.
        message: String,
        /// What to do, where that is known.
        hint: Option<String>,
        /// What is wrong in a file that the app brings.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        diagnostics: Vec<Remark>,
    },
}

/// Something that a parser has to say about a place in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, utoipa::ToSchema))]
pub(crate) struct Remark {
    /// Relative to the app's folder.
    pub(crate) file: String,
    /// Counted from 1.
    pub(crate) line: usize,
    /// Counted from 1, in characters.
    pub(crate) column: usize,
    /// `error`, `warning` or `note`.
    pub(crate) severity: String,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do; empty where the message says it.
    pub(crate) help: String,
    /// The place in the file with all of that, for people.
    pub(crate) excerpt: String,
}

impl Remark {
    /// A parser's diagnostic of a file, and how it is shown to people.
    pub(crate) fn of(file: &str, d: &Diagnostic, excerpt: String) -> Self {
        let severity = match d.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let (message, help) = (d.message.clone(), d.help.clone());
        Self { file: file.to_owned(), line: d.line, column: d.column, severity: severity.to_owned(), message, help, excerpt }
    }
}
