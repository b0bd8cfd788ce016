//! End to end: who reaches an instance's port. In a network of the test's own, so that no rule of it is the host's.

use crate::deployed::{Place, finish};
use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Child, Command, Stdio};

const APART: &str = "DOZEN_TEST_OWN_NETWORK";

/// Whether this process is the test's own run of itself.
fn apart(test: &str) -> bool {
    if std::env::var_os(APART).is_some() {
        return true;
    }
    let mut again = Command::new("unshare");
    again.args(["--net", "--kill-child"]).arg(std::env::current_exe().expect("this"));
    let said = finish(again.args(["--exact", test, "--nocapture"]).env(APART, "1"));
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    false
}

/// Another host: a process in a network of its own, which ends with the test.
struct Other(Child);

impl Other {
    fn start() -> Self {
        let mut there = Command::new("unshare");
        there.args(["--net", "sh", "-c", "echo there; exec sleep 1000 >/dev/null"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = there.spawn().expect("a host");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0; 6]).expect("it is there");
        Self(child)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(words: &str) {
    let mut words = words.split(' ');
    let said = finish(Command::new(words.next().expect("a program")).args(words));
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
}

/// curl's own code: 0 for an answer, 7 for a refusal, 28 for silence.
fn curl(before: &[&str], url: &str) -> i32 {
    let words: Vec<&str> = before.iter().copied().chain(["curl", "-s", "-o", "/dev/null", "--max-time", "2", url]).collect();
    finish(Command::new(words[0]).args(&words[1..])).code
}

#[test]
fn an_instances_port_answers_the_router_and_the_deploy_only() {
    // An ordinary user cannot; that this is said is another test.
    if !rustix::process::geteuid().is_root() || !apart("guard::an_instances_port_answers_the_router_and_the_deploy_only") {
        return;
    }
    run("ip link set lo up");
    let place = Place::web("web: python3 -m http.server $PORT --bind 0.0.0.0\n");
    let up = place.up();
    let port = up.dozen(&["ps", "--json"]).ok().json()["processes"][0]["port"].as_u64().expect("a port");
    let here = format!("http://127.0.0.1:{port}/");
    assert_eq!(curl(&["env"], up.url()), 0, "through the router");
    assert_eq!(curl(&["env"], &here), 0, "root, as the router is");
    let stranger = ["setpriv", "--reuid=61235", "--clear-groups"];
    assert_eq!(curl(&stranger, &here), 7, "another user of this host");
    let own = format!("python3 -c \"import urllib.request as r; print(r.urlopen('{here}').status)\"");
    assert_eq!(up.dozen(&["run", &own]).ok().out, "200\n", "the deploy itself");

    // A wire to another host.
    let other = Other::start();
    let pid = other.0.id().to_string();
    run("ip link add here type veth peer name there");
    run(&format!("ip link set there netns {pid}"));
    run("ip addr add 10.77.0.1/24 dev here");
    run("ip link set here up");
    let there = ["nsenter", "--net", "--target", &pid];
    run(&format!("nsenter --net --target {pid} ip addr add 10.77.0.2/24 dev there"));
    run(&format!("nsenter --net --target {pid} ip link set there up"));
    let outside = format!("http://10.77.0.1:{port}/");
    assert_eq!(curl(&["env"], &outside), 0, "the app listens on all addresses");
    assert_eq!(curl(&there, &outside), 28, "from outside");
    up.dozen(&["ps"]).ok().lacks("a guard of instance ports");

    // Those that start together are guarded together, and given up together.
    let guarded = || finish(Command::new("nft").args(["list", "set", "inet", "dozen", "guarded"])).ok().out;
    let ports = || {
        let ps = up.dozen(&["ps", "--json"]).ok().json();
        ps["processes"].as_array().expect("processes").iter().filter_map(|p| p["port"].as_u64()).collect::<Vec<u64>>()
    };
    up.dozen(&["ps", "scale", "web=4"]).ok();
    up.line("web.4", "State changed from starting to up");
    assert_eq!(ports().len(), 4);
    assert!(ports().iter().all(|port| guarded().contains(&port.to_string())), "{:?}: {}", ports(), guarded());
    up.dozen(&["ps", "scale", "web=1"]).ok();
    up.line("web.4", "State changed from stopping to down");

    // What a killed dozen leaves is swept by the next one, and what ended leaves nothing.
    run("nft add element inet dozen guarded { 20001 }");
    run("nft add element inet dozen owners { 20001 : goto deny }");
    let second = Place::web("web: python3 web.py\n");
    let second_up = second.up();
    assert!(!guarded().contains("20001") && guarded().contains(&port.to_string()), "{}", guarded());
    second_up.stop();
    up.stop();
    assert!(!guarded().contains("elements"), "{}", guarded());
}

/// Where these processes wait for packets: `tcp 0100007F:1F40`, as /proc writes it.
fn listeners(pids: &[i32]) -> Vec<String> {
    let fds = pids.iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten());
    let links: BTreeSet<String> = fds.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned())).collect();
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for words in text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            // 0A is TCP_LISTEN; a datagram's socket always waits.
            let waits = !table.starts_with("tcp") || words[3] == "0A";
            if waits && links.contains(&format!("socket:[{}]", words[9])) {
                found.insert(format!("{table} {}", words[1]));
            }
        }
    }
    found.into_iter().collect()
}

#[test]
fn dozen_itself_listens_for_the_router_alone_and_on_the_loopback() {
    let place = Place::web("web: python3 web.py\nworker: sleep 1000\n");
    let up = place.up();
    let is_dozen = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid == up.pid() || words.split(|b| *b == 0).nth(1).is_some_and(|word| word == b"__router" || word == b"__jail")
    };
    let own: Vec<i32> = up.family().into_iter().filter(is_dozen).collect();
    assert!(own.len() >= 4, "control part, router, two jails: {own:?}");
    let port = up.port();
    let loopback = [format!("tcp 0100007F:{port:04X}"), format!("tcp6 00000000000000000000000001000000:{port:04X}")];
    let found = listeners(&own);
    assert!(found.contains(&loopback[0]) && found.iter().all(|at| loopback.contains(at)), "{found:?}");
    up.stop();
}
