//! End to end: admin processes. One-offs, and what a person reads of a deploy: its logs.

use crate::deployed::{DOZEN, Place, finish, finish_with};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const CLOCK: &str = "clock: sleep 1000\n";

#[test]
fn a_one_offs_exit_code_is_ours_beside_an_up_and_without_one() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.dozen(&["run", "--", "true"]).coded(2).has(&["dozen up"]);
    let up = place.up();
    let check = || {
        for (command, code) in [("true", 0), ("exit 3", 3), ("no-such-program", 127), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
            place.dozen(&["run", "--", command]).coded(code);
        }
        place.dozen(&["run", "--", "/etc/passwd"]).coded(126);
        // Several words are a program and its arguments, each as it is.
        assert_eq!(place.dozen(&["run", "printf", "%s|", "a b", "$HOME", "'"]).ok().out, "a b|$HOME|'|");
        let both = place.dozen(&["run", "--", "echo out; echo err >&2"]).ok();
        assert_eq!((both.out.as_str(), both.err.as_str()), ("out\n", "err\n"));
    };
    check();
    up.stop();
    check();
    assert_eq!(place.ledger("select count(*) from one_offs where ended_at is null"), "0");
    assert_eq!(place.ledger("select group_concat(exit_code) from one_offs where number <= 5"), "0,3,127,137,143");
    place.assert_nothing_left();
}

#[test]
fn standard_input_arrives_and_comes_back_unchanged() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(5 << 20);
    while bytes.len() < 5 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    let cat = || finish_with(place.program(DOZEN).args(["run", "--", "cat"]), &bytes).ok();
    place.once().ok();
    assert!(cat().bytes == bytes, "changed on the way without an up");
    let up = place.up();
    let back = cat();
    assert!(back.bytes == bytes, "changed on the way: {} of {} bytes", back.bytes.len(), bytes.len());
    // A program that does not read all of it ends it all the same.
    assert_eq!(finish_with(place.program(DOZEN).args(["run", "--", "head -c 3"]), &bytes).ok().bytes, bytes[..3]);
    up.stop();
}

#[test]
fn ctrl_c_reaches_a_one_off() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    let up = place.up();
    let mut run = place.program(DOZEN).args(["run", "--", "echo ready; exec sleep 1000"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut line = String::new();
    BufReader::new(run.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    assert_eq!(line, "ready\n");
    crate::deployed::kill(run.id().cast_signed(), Signal::INT);
    assert_eq!(run.wait().expect("waited for").code(), Some(130));
    // Whoever is killed hangs up: the one-off ends with it.
    let mut run = place.program(DOZEN).args(["run", "--", "echo ready; exec sleep 1000"]).stdout(Stdio::piped()).spawn().expect("started");
    BufReader::new(run.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    run.kill().expect("killed");
    run.wait().expect("waited for");
    up.line("run.2", "Process exited with status 129");
    // One that still runs when the deploy ends goes with it.
    let mut run = place.program(DOZEN).args(["run", "--", "echo ready; exec sleep 1000"]).stdout(Stdio::piped()).spawn().expect("started");
    BufReader::new(run.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    up.stop();
    assert_ne!(run.wait().expect("waited for").code(), Some(0));
    place.assert_nothing_left();
    assert_eq!(place.ledger("select group_concat(exit_code) from one_offs"), "130,129,143");
}

/// Says which signal it gets, each time, and ends after the last of them in its own way.
const TELLER: &str = "import signal, sys
def told(number, _):
    print(number, flush=True)
    if number == signal.SIGTERM: sys.exit(7)
for s in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM): signal.signal(s, told)
print('ready', flush=True)
while True: signal.pause()
";

#[test]
fn a_signal_to_run_is_the_programs_to_answer_and_comes_once() {
    let place = Place::new(&[("Procfile", CLOCK), ("teller.py", TELLER), (".profile", "export SOURCED=1\n")]);
    place.once().ok();
    let mut run = place.program(DOZEN).args(["run", "python3", "teller.py"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(run.stdout.take().expect("piped")).lines().map(|l| l.expect("read"));
    assert_eq!(lines.next().expect("a line"), "ready");
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM] {
        crate::deployed::kill(run.id().cast_signed(), signal);
        assert_eq!(lines.next(), Some(signal.as_raw().to_string()));
    }
    assert_eq!((lines.next(), run.wait().expect("waited for").code()), (None, Some(7)));
    // What is announced and recorded is what was typed; a variable before the program is the program's.
    let said = place.dozen(&["run", "NAME=given", "python3", "-c", "import os; print(os.environ['NAME'], os.environ['SOURCED'])"]);
    assert_eq!(said.ok().out, "given 1\n");
    place.dozen(&["run", "no-such-program", "x"]).coded(127);
    place.dozen(&["run", "/etc/passwd", "x"]).coded(126);
    place.dozen(&["runs"]).ok().has(&["  python3 teller.py\n", "  NAME=given python3 -c "]).lacks("exec");
    place.dozen(&["logs", "-n", "all"]).ok().has(&["command `python3 teller.py`"]).lacks("exec");
}

#[test]
fn a_command_is_as_long_as_the_kernel_takes_and_shown_shortly() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.once().ok();
    let long = |n: usize| "a".repeat(n);
    let script = |n: usize| format!("printf %s {} | wc -c", long(n - 18));
    let check = || {
        assert_eq!(place.dozen(&["run", "--", "printf", "%s", &long(66_000)]).ok().out.len(), 66_000);
        assert_eq!(place.dozen(&["run", "--", &script(131_071)]).ok().out, "131053\n");
        let controls = "\u{1}".repeat(100_000);
        place.dozen(&["run", "--", "true", &controls]).ok();
    };
    check();
    let up = place.up();
    check();
    for words in [&["true", &long(131_062)][..], &["true", &long(70_000), &long(70_000)]] {
        place.dozen(&[&["run", "--"], words].concat()).coded(2).has(&["131071"]);
        place.dozen(&[&["run", "--detach", "--"], words].concat()).coded(2).has(&["131071"]);
    }
    let env = format!("A={}", "\u{1}".repeat(100_000));
    place.dozen(&["run", "-e", &env, "-e", &env.replace("A=", "B="), "true"]).coded(2).has(&["KiB"]);
    for blank in ["", " ", "\n\t"] {
        place.dozen(&["run", blank]).coded(2).has(&["no command was given", "dozen console"]);
        place.dozen(&["run", "--detach", "--", blank]).coded(2).has(&["no command was given"]);
    }
    assert_eq!(place.ledger("select count(*) from one_offs"), "6");
    let said = place.dozen(&["run", "--detach", "--", "true", &long(66_000)]).ok();
    assert!(said.out.starts_with("Running true aaa") && said.out.len() < 250, "{said:?}");
    // Only the name, for scripts.
    let said = place.dozen(&["-q", "run", "--detach", "--", "true"]).ok();
    assert_eq!((said.out.as_str(), said.err.as_str()), ("run.8\n", ""));
    up.stop();
}

#[test]
fn a_one_off_has_the_current_releases_code_and_config() {
    let place = Place::new(&[("Procfile", CLOCK), ("version", "one"), (".env", "LEVEL=info\n")]);
    place.once().ok();
    place.write("version", "two");
    place.write(".env", "LEVEL=debug\n");
    // Not released yet.
    assert_eq!(place.dozen(&["run", "--", "cat version; echo \" $LEVEL $DYNO $PWD $HOME\""]).ok().out, "one info run.1 /app /app\n");
    place.once().ok();
    assert_eq!(place.dozen(&["run", "--", "cat version; echo \" $LEVEL $DYNO $HEROKU_RELEASE_VERSION\""]).ok().out, "two debug run.2 v2\n");
    place.dozen(&["run", "--", "touch x"]).coded(1).has(&["Read-only file system"]);
}

#[test]
fn a_one_off_beside_a_starting_up_is_recorded_as_it_ended() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.once().ok();
    let mut run = place
        .program(DOZEN)
        .args(["run", "--", "echo ready; read line; exit 5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    BufReader::new(run.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    place.once().ok();
    // It was not taken for lost, since somebody runs it.
    assert_eq!(place.ledger("select count(*) from one_offs where ended_at is null"), "1");
    drop(run.stdin.take());
    assert_eq!(run.wait().expect("waited for").code(), Some(5));
    assert_eq!(place.ledger("select exit_code from one_offs"), "5");
}

#[test]
fn a_one_off_ends_with_the_run_that_was_killed() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.once().ok();
    let mut run = place.program(DOZEN).args(["run", "--", "echo ready; exec sleep 1000"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut line = String::new();
    BufReader::new(run.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    assert!(place.left().len() > 1, "{:?}", place.left());
    run.kill().expect("killed");
    run.wait().expect("waited for");
    place.until_nothing_left(std::time::Duration::from_secs(2));
    // Nobody was left to record it; the next `up` does.
    assert_eq!(place.dozen(&["runs", "--json"]).ok().json()["runs"][0]["state"], "lost");
    place.once().ok();
    assert_eq!(place.ledger("select exit_code from one_offs"), "137");
}

#[test]
fn a_signal_is_not_behind_input_that_nobody_reads() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.once().ok();
    let mut yes = std::process::Command::new("yes").stdout(Stdio::piped()).spawn().expect("started");
    let mut run = place
        .program(DOZEN)
        .args(["run", "--", "echo ready; exec sleep 1000"])
        .stdin(yes.stdout.take().expect("piped"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut line = String::new();
    BufReader::new(run.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    // All that can be under way is: `yes` waits to write more.
    let waits = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|w| w.contains("pipe"));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !waits(yes.id()) && std::time::Instant::now() < end {
        crate::deployed::pause();
    }
    crate::deployed::kill(run.id().cast_signed(), Signal::INT);
    assert_eq!(run.wait().expect("waited for").code(), Some(130));
    yes.wait().expect("it ended with its reader");
}

#[test]
fn a_hundred_megabytes_go_through_unchanged() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    let up = place.up();
    let run = format!("head -c 100000000 /dev/urandom > ../random && '{DOZEN}' run -- cat < ../random | cmp - ../random");
    finish(place.program("/bin/sh").args(["-c", &run])).ok();
    up.stop();
}

#[test]
fn a_detached_one_off_runs_on_and_is_stopped_by_name() {
    let place = Place::new(&[("Procfile", CLOCK), (".env", "TOKEN=the-config-value\n")]);
    place.once().ok();
    // It says that it has started once it heeds what ends it.
    let script = "trap 'echo stopping; exit 9' TERM; echo started with $TOKEN; while :; do sleep 0.05; done";
    let detach = |dozen: &dyn Fn(&[&str]) -> crate::deployed::Said, run: &str| {
        let said = dozen(&["run", "-e", "TOKEN=only-for-this-run", "--detach", "--", script]).ok();
        assert!(said.out.ends_with(&format!("on shop... done, {run} (v1)\n")), "{said:?}");
        said.has(&[&format!("dozen logs -p {run} -t"), &format!("dozen runs stop {run}")]);
    };
    // Where no up runs the lasting half holds it; no secret is in anyone's arguments.
    detach(&|args| place.dozen(args), "run.1");
    let lasting: Vec<String> = place.left().into_iter().map(|(_, line)| line).filter(|l| l.contains("--lasting")).collect();
    assert!(lasting.len() == 1 && !lasting[0].contains("only-for-this-run"), "{lasting:?}");
    let state = |n: usize| {
        let all = place.dozen(&["runs", "--json"]).ok().json();
        let run = all["runs"].as_array().expect("a list").iter().rev().nth(n - 1).expect("a run").clone();
        (run["state"].as_str().expect("text").to_owned(), run["exit_code"].as_i64())
    };
    assert_eq!(state(1), ("running".into(), None));
    // An `up` that starts meanwhile does not take it for lost, and holds the next.
    let up = place.up();
    assert_eq!(state(1), ("running".into(), None));
    detach(&|args| up.dozen(args), "run.2");
    up.line("run.2", "started with only-for-this-run");
    assert_eq!(place.dozen(&["runs", "stop", "run.1"]).ok().out, "Stopping run.1... done, exit code 9\n");
    place.dozen(&["runs", "stop", "run.1"]).coded(1).has(&["no run.1 that runs"]);
    place.dozen(&["runs", "stop", "clock.1"]).coded(2);
    assert_eq!(place.dozen(&["runs", "stop", "run.2", "--json"]).ok().json()["exit_code"], 9);
    up.line("run.2", "Stopping all processes with SIGTERM");
    // What is still there when the up ends, ends with it.
    detach(&|args| up.dozen(args), "run.3");
    up.line("run.3", "started with only-for-this-run");
    up.stop();
    assert_eq!(state(3), ("ended".into(), Some(9)));
    let logged = place.dozen(&["logs", "-p", "run.1", "-n", "all"]).ok();
    logged.has(&["app[run.1]: started with only-for-this-run", "app[run.1]: stopping", "dozen[run.1]: Process exited with status 9"]);
    // One that is attached is stopped like the others.
    let mut run = place.program(DOZEN).args(["run", "--", "echo ready; exec sleep 1000"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut line = String::new();
    BufReader::new(run.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    place.dozen(&["runs", "stop", "run.4"]).ok().has(&["exit code 143"]);
    assert_eq!(run.wait().expect("waited for").code(), Some(143));
    // And one whose lasting half is told to end is recorded.
    detach(&|args| place.dozen(args), "run.5");
    while !place.dozen(&["logs", "-p", "run.5"]).ok().out.contains("app[run.5]: started") {
        crate::deployed::pause();
    }
    let lasting = place.left().into_iter().find(|(_, line)| line.contains("--lasting")).expect("it runs").0;
    crate::deployed::kill(lasting, Signal::TERM);
    place.until_nothing_left(std::time::Duration::from_secs(10));
    assert_eq!(state(5), ("ended".into(), Some(9)));
    place.assert_nothing_left();
}

#[test]
fn what_cannot_be_run_is_refused_before_it_starts() {
    let place = Place::new(&[("Procfile", "release: exit ${BROKEN:-0}\nclock: sleep 1000\n")]);
    place.once().ok();
    place.dozen(&["run"]).coded(2).has(&["dozen console"]);
    place.dozen(&["run", "--bogus"]).coded(2).has(&["--bogus"]);
    place.dozen(&["run", "--timeout", "25h", "true"]).coded(2).has(&["24 hours"]);
    place.dozen(&["run", "--timeout", "soon", "true"]).coded(2).has(&["90s"]);
    place.dozen(&["run", "--release", "latest", "true"]).coded(2).has(&["v12"]);
    for (given, needle) in [("DOZEN_X=1", "reserved"), ("1A=1", "not valid"), ("NOT_SET_HERE", "-e NOT_SET_HERE=VALUE")] {
        place.dozen(&["run", "-e", given, "true"]).coded(2).has(&[needle]);
    }
    for detach in [&["run"][..], &["run", "--detach"]] {
        place.dozen(&[detach, &["--release", "v9", "true"]].concat()).coded(1).has(&["no release v9"]);
    }
    place.write(".env", "BROKEN=3\n");
    place.once().coded(1);
    place.dozen(&["run", "--release", "v2", "true"]).coded(1).has(&["v2 failed", "dozen releases"]);
    place.dozen(&["run", "--", "true"]).ok();
    assert_eq!(place.ledger("select count(*) from one_offs"), "1");
    std::fs::remove_dir_all(place.home().join("slugs")).expect("removed");
    place.dozen(&["run", "--release", "v1", "true"]).coded(1).has(&["is not kept any more"]);
}

#[test]
fn a_one_off_may_be_of_an_earlier_release_and_have_variables_of_its_own() {
    let place = Place::new(&[("Procfile", CLOCK), ("version", "one"), (".env", "LEVEL=info\n")]);
    place.once().ok();
    place.write("version", "two");
    place.write(".env", "LEVEL=debug\n");
    place.once().ok();
    let show = "cat version; echo \" $LEVEL $DOZEN_RELEASE_VERSION $FROM_HERE\"";
    let said = finish(place.program(DOZEN).env("FROM_HERE", "here").args(["run", "--release", "v1", "-e", "FROM_HERE", "--", show]));
    assert_eq!(said.ok().out, "one info v1 here\n");
    let said = place.dozen(&["run", "-e", "LEVEL=a=b c", "-e", "FROM_HERE=", "--", show]).ok();
    assert_eq!((said.out.as_str(), said.err.as_str()), ("two a=b c v2 \n", ""));
    // For that run only, and recorded nowhere.
    assert_eq!(place.dozen(&["run", "--", "echo $LEVEL"]).ok().out, "debug\n");
    place.dozen(&["run", "-e", "PASS=correct horse", "--", "echo correct horse > /dev/null"]).ok();
    let said = place.dozen(&["runs"]).ok().has(&["run.4  exit 0", "echo ******** > /dev/null", "run.1", "  v1  ", "  v2  "]);
    said.lacks("correct horse");
    place.dozen(&["logs", "-n", "all"]).ok().has(&["Starting process with command `echo ********"]).lacks("correct horse");
    assert_eq!(place.dozen(&["runs", "-n", "2"]).ok().out.lines().count(), 4);
    let json = place.dozen(&["runs", "--json", "-n", "1"]).ok().json()["runs"][0].clone();
    assert_eq!(
        (&json["run"], &json["exit_code"], &json["release"], &json["state"]),
        (&"run.4".into(), &0.into(), &"v2".into(), &"ended".into())
    );
    // The words after the command are the command's.
    let said = finish(place.program(DOZEN).args(["run", "echo", "-a", "x", "-e", "Y=1", "--json", "--detach"]));
    assert_eq!(said.ok().out, "-a x -e Y=1 --json --detach\n");
}

#[test]
fn a_one_off_has_only_so_long() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    place.once().ok();
    let said = place.dozen(&["-q", "run", "--timeout", "1s", "--", "sleep", "1000"]).coded(143);
    assert_eq!(said.err, " !     run.1 was stopped: it ran for its 1s\n");
    let said = place.dozen(&["logs", "-p", "run.1"]).ok();
    said.has(&["dozen[run.1]: Stopping: it was given 1s at most", "dozen[run.1]: Process exited with status 143"]).lacks("Likely cause");
}

#[test]
fn who_waits_for_a_one_off_is_told_why_it_was_stopped() {
    let place = Place::new(&[("Procfile", CLOCK)]);
    let up = place.up();
    let attached = |number: u32| {
        let mut dozen = place.program(DOZEN);
        let mut run = dozen
            .args(["run", "--", "echo ready; exec sleep 1000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut line = String::new();
        BufReader::new(run.stdout.as_mut().expect("piped")).read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n", "run.{number}");
        run
    };
    let told = |run: std::process::Child| {
        let output = run.wait_with_output().expect("ended");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let run = attached(1);
    place.dozen(&["runs", "stop", "run.1"]).ok();
    assert_eq!(told(run), (Some(143), " !     run.1 was stopped by `dozen runs stop`\n".into()));
    let run = attached(2);
    place.dozen(&["down"]).ok();
    assert_eq!(told(run), (Some(143), " !     run.2 was stopped: shop/dev was stopped\n".into()));
    up.stop();
    // One that was not stopped has nothing to say, however it ends.
    assert_eq!(place.dozen(&["run", "--", "kill -TERM $$"]).coded(143).err, "");
}

#[test]
fn logs_are_chosen_counted_and_outlive_dozen() {
    let place = Place::web("web: python3 web.py\nworker: for i in 1 2 3 4 5; do echo line $i; done; sleep 1000\n");
    let up = place.up();
    up.line("worker.1", "line 5");
    let lines = |args: &[&str]| -> Vec<String> {
        let all = [&["logs"], args].concat();
        place.dozen(&all).ok().out.lines().map(|l| l.split_once(' ').map_or(l, |(_, rest)| rest).to_owned()).collect()
    };
    assert_eq!(lines(&["-p", "worker", "-s", "app", "-n", "2"]), ["app[worker.1]: line 4", "app[worker.1]: line 5"]);
    assert_eq!(lines(&["-p", "worker.1", "-s", "app", "-n", "all"]).len(), 5);
    assert_eq!(lines(&["-n", "0"]), Vec::<String>::new());
    up.page("/say/marker");
    up.line("web.1", "marker");
    assert_eq!(lines(&["-p", "web", "-s", "app"]), ["app[web.1]: marker"]);
    up.line("router", "path=\"/say/marker\"");
    let router = lines(&["-p", "router"]);
    assert!(router.iter().any(|l| l.starts_with("dozen[router]: at=info method=GET path=\"/say/marker\" ")), "{router:?}");
    assert!(lines(&["-s", "dozen", "-n", "all"]).iter().all(|l| l.starts_with("dozen[")));
    place.dozen(&["logs", "-s", "heroku"]).coded(2).has(&["app, dozen"]);
    place.dozen(&["logs", "-n", "many"]).coded(2).has(&["a number"]);
    // RFC 3339 with an offset before each.
    let out = place.dozen(&["logs", "-n", "1"]).ok().out;
    assert!(out.split(' ').next().is_some_and(|t| t.len() == 32 && t.ends_with("+00:00")), "{out}");
    up.stop();
    // Nothing runs, and they are still there; so they are for the next.
    assert_eq!(lines(&["-p", "worker", "-s", "app"]).len(), 5);
    let up = place.up();
    up.line("worker.1", "line 5");
    assert_eq!(lines(&["-p", "worker", "-s", "app"]).len(), 10);
    let json = place.dozen(&["logs", "--json", "-n", "1", "-p", "worker", "-s", "app"]).ok().json();
    assert_eq!((&json["ps"], &json["message"]), (&"worker.1".into(), &"line 5".into()));
    up.stop();
}

#[test]
fn a_tail_goes_on_with_each_new_line() {
    let place = Place::web("web: python3 web.py\n");
    let up = place.up();
    let mut tail = place.program(DOZEN).args(["logs", "-t", "-n", "0", "-p", "web"]).stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    // Said again until the tail is there to hear it.
    let done = std::sync::atomic::AtomicBool::new(false);
    let heard = std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                up.page("/say/heard");
                crate::deployed::pause();
            }
        });
        let heard = lines.next().expect("a line").expect("text");
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        heard
    });
    assert!(heard.ends_with("app[web.1]: heard"), "{heard}");
    // It ends when the deploy does.
    up.stop();
    lines.for_each(drop);
    assert!(tail.wait().expect("waited for").code().is_some());
}

#[test]
fn output_that_is_no_text_is_kept_byte_by_byte() {
    let place = Place::new(&[("Procfile", "clock: printf 'a\\377\\376b\\033[31mred\\n'; printf 'no newline'; sleep 1000\n")]);
    let up = place.up();
    up.line("clock.1", "red");
    up.stop();
    let said = place.dozen(&["logs", "-p", "clock", "-s", "app"]).ok();
    let wanted = b"app[clock.1]: a\xff\xfeb";
    assert!(said.bytes.windows(wanted.len()).any(|w| w == wanted), "{said:?}");
    assert!(said.out.contains("no newline"), "{said:?}");
    let run = finish(place.program(DOZEN).args(["run", "--", "printf '\\377\\376'"])).ok();
    assert_eq!(run.bytes, b"\xff\xfe");
}

#[test]
fn a_one_off_whose_reader_has_gone_is_hung_up_on() {
    let place = Place::new(&[("Procfile", "clock: sleep 1000\n")]);
    let up = place.up();
    let mut run =
        place.program(crate::deployed::DOZEN).args(["run", "--", "yes"]).stdout(std::process::Stdio::piped()).spawn().expect("started");
    let mut first = [0; 2];
    std::io::Read::read_exact(run.stdout.as_mut().expect("piped"), &mut first).expect("read");
    assert_eq!(&first, b"y\n");
    // As `| head -1` does.
    drop(run.stdout.take());
    assert_eq!(run.wait().expect("ended").code(), Some(141));
    up.line("run.1", "Process exited with status 129");
    up.stop();
}
