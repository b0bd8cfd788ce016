//! What people see: every command in a pipe, on a terminal of 80 columns and on one of 40, as snapshots of what it printed and its exit code.
//!
//! What differs from run to run and from machine to machine is replaced by a word in angle brackets.

use crate::deployed::{Place, WEB};
use crate::terminal::Session;

/// In this order, on a deploy that runs; `release` gives it something to say.
const SESSION: &[&str] = &[
    "ps",
    "ps scale",
    "ps scale clock=2",
    "ps scale clokc=1",
    "config set HI=Hello TOKEN=correct-horse",
    "config",
    "config get TOKEN",
    "config get TOKNE",
    "config export",
    "config set DOZEN_X=1",
    "config set HI",
    "config unset HI",
    "releases",
    "releases info v2",
    "releases diff v1 v2",
    "releases info v99",
    "releases split",
    "releases split v2=90",
    "releases split v1=90 v2=10",
    "releases split off",
    "rollback v1",
    "rollback v99",
    "run -- echo said",
    "run no-such-program",
    "runs",
    "logs -p release.1",
    "logs -p nope",
    "restart clock.1",
    "restart clokc",
    "stop clock",
    "start clock",
    "stop clock.1",
    "domains",
    "domains add a.test *.a.test",
    "domains add a.test:80",
    "domains remove b.test",
    "maintenance on",
    "maintenance",
    "maintenance off",
    "https",
    "pause --for soon",
    "pause off",
    "open /about",
    "-q restart clock.1",
    "-q ps scale",
    "-a shpo ps",
    "psx",
    "up",
    "down",
    "resume",
    "ps",
    "ps scale clock=1",
    "restart",
    "open",
    "console --help",
    "up --once --port 0",
    "build",
    "man --to /proc/nowhere",
    "completions tcsh",
];

fn place() -> Place {
    let procfile = "web: python3 web.py\nclock: sleep 999\nrelease: echo migrating\n";
    let place = Place::new(&[("Procfile", procfile), ("web.py", WEB)]);
    place.write("app.json", r#"{"env": {"COLOUR": "blue"}}"#);
    place
}

/// Which of two processes is up first, or down, is chance.
fn without_chance(args: &str, said: &str) -> String {
    let is_up = args.starts_with("up ");
    said.lines().filter(|l| !(is_up && (l.contains("dozen[web.1]") || l.contains("dozen[clock.1]")))).map(|l| format!("{l}\n")).collect()
}

/// `$ dozen ARGS`, what it said, and its exit code where that is not 0.
fn shown(args: &str, said: &str, code: i32) -> String {
    let end = if code == 0 { String::new() } else { format!("[exit code {code}]\n") };
    format!("$ dozen {args}\n{}{end}\n", without_chance(args, said))
}

fn compare(name: &str, text: &str) {
    let filters = vec![
        // Times, ids and numbers of this run.
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?", "<time>"),
        (r"\b(just now|\d+m \d+s|\d+\.\d+s|\d+s)\b", "<span>"),
        (r"localhost:\d+", "localhost:<port>"),
        (r"\b[0-9a-f]{64}\b", "<id>"),
        (r"\b([0-9a-f]{8}|[0-9a-f]{12})\b", "<slug>"),
        (r"\b\d+(\.\d+)?%", "<cpu>"),
        (r"\b\d+(\.\d+)?[KMG]\b", "<size>"),
        // Columns of numbers: the port and the process id.
        (r" +\d{4,7}\b", " <n>"),
        // Who, and how strong: of the machine. Whether the latter has room depends on how long its process ids are.
        (r" +(ISOLATION|user-namespaces|namespaces|session)(\r?\n)", "$2"),
        (r"(\r?\n)?(\r?\nNot enforced here: [^\r\n]*)+", ""),
        // Process ids begin anew from small ones on a machine that has given out all.
        (r"(-|<n>) +\d{1,3}(\r?\n)", "$1 <n>$2"),
        (r"with pid \d{1,3}\b", "with pid <n>"),
        (r"\b(root|uid \d+)\b", "<who>"),
        // The widths of columns follow from all of these.
        (r" {2,}", "  "),
        (r" +\r?\n", "\n"),
    ];
    insta::with_settings!({ filters => filters, omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn in_a_pipe() {
    let place = place();
    let up = place.up();
    let mut text = String::new();
    for args in SESSION {
        let said = place.dozen(&args.split(' ').collect::<Vec<_>>());
        let errors: String = said.err.lines().map(|l| format!("2> {l}\n")).collect();
        text += &shown(args, &(said.out + &errors), said.code);
    }
    assert!(!text.contains('\u{1b}'), "an escape sequence in a pipe");
    up.wait();
    compare("pipe", &text);
}

fn on_a_terminal(name: &str, columns: u16) {
    let place = place();
    let up = place.up();
    let mut text = String::new();
    for args in SESSION {
        let session = Session::sized(&place, &args.split(' ').collect::<Vec<_>>(), columns);
        let (code, said) = session.end();
        text += &shown(args, &said.replace('\r', "").replace('\u{1b}', "<esc>"), code);
    }
    up.wait();
    compare(name, &text);
}

#[test]
fn on_a_terminal_of_80_columns() {
    on_a_terminal("terminal", 80);
}

#[test]
fn on_a_narrow_terminal() {
    on_a_terminal("narrow", 40);
}
