//! `dozen server install` and `uninstall`, and a server that is given its sockets.

use super::{Server, get, released, until};
use crate::deployed::{DOZEN, Place, finish, is_root};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;

const UNITS: [&str; 3] = ["dozen.service", "dozen-http.socket", "dozen-https.socket"];

#[test]
fn what_is_installed_is_what_systemd_reads_and_is_taken_back() {
    let place = Place::new(&[]);
    let root = place.beside("root");
    let root_text = root.to_str().expect("text");
    let install = |more: &[&str]| {
        let asked =
            ["server", "install", "--root", root_text, "--domain", "apps.example.com", "--ssh", "ssh://dozen@example.com", "--json"];
        place.dozen(&[&asked[..], more].concat())
    };
    let first = install(&[]).ok().json();
    assert_eq!(first["written"].as_array().map(Vec::len), Some(5), "{first}");
    assert_eq!((&first["token"], &first["started"]), (&Value::Null, &json!(false)));
    // systemd's own opinion, beside the units that it has itself.
    let verify = place.beside("verify");
    finish(place.program("cp").arg("-r").arg(&root).arg(&verify)).ok();
    std::fs::create_dir_all(verify.join("usr/lib/systemd")).expect("made");
    finish(place.program("cp").args(["-r", "/usr/lib/systemd/system"]).arg(verify.join("usr/lib/systemd"))).ok();
    let units = UNITS.map(|unit| format!("/etc/systemd/system/{unit}"));
    let analyze = ["verify".to_owned(), "--man=no".to_owned(), format!("--root={}", verify.display())];
    let verified = finish(place.program("systemd-analyze").args(analyze).args(&units)).ok();
    let ours: Vec<String> = verified.all().lines().filter(|line| line.contains("dozen")).map(str::to_owned).collect();
    assert_eq!(ours, Vec::<String>::new(), "{}", verified.all());
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("written");
    let service = read("etc/systemd/system/dozen.service");
    for line in ["User=dozen", "KillMode=process", "Delegate=yes", "Environment=\"DOZEN_DOMAIN=apps.example.com\""] {
        assert!(service.lines().any(|l| l == line), "{line}\n{service}");
    }
    assert!(read("etc/systemd/system/dozen-http.socket").contains("\nListenStream=80\n"));
    assert!(read("etc/ssh/sshd_config.d/dozen.conf").contains("AuthorizedKeysFile \"/var/lib/dozen/ssh/authorized_keys\""));
    let binary = root.join("usr/local/bin/dozen");
    assert_eq!(std::fs::metadata(&binary).expect("there").permissions().mode() & 0o777, 0o755);
    finish(place.program(binary.to_str().expect("text")).arg("--version")).ok();
    // Once more changes nothing; another setting changes what it is about.
    assert_eq!(install(&[]).ok().json()["written"], json!([]));
    let other = install(&["--listen", "127.0.0.1:8080"]).ok().json();
    let changed = ["/etc/systemd/system/dozen-http.socket", "/etc/systemd/system/dozen-https.socket"];
    assert_eq!(other["written"], json!(changed));
    assert!(read("etc/systemd/system/dozen-https.socket").contains("\nListenStream=127.0.0.1:443\n"));
    // What somebody has changed is theirs.
    std::fs::write(root.join("etc/systemd/system/dozen.service"), "[Service]\n").expect("written");
    install(&[]).coded(1).has(&["is not as dozen wrote it", "nothing was installed"]);
    assert!(read("etc/systemd/system/dozen-http.socket").contains("127.0.0.1"), "nothing was");
    let gone = place.dozen(&["server", "uninstall", "--root", root_text, "--json"]).ok().json();
    assert_eq!(gone["left"], json!(["/etc/systemd/system/dozen.service"]));
    let left = finish(place.program("find").arg(&root).args(["-type", "f"])).ok().out;
    assert_eq!(left.trim(), root.join("etc/systemd/system/dozen.service").to_str().expect("text"));
    place.dozen(&["server", "uninstall", "--root", root_text]).coded(1).has(&["no server was installed here"]);
}

#[test]
fn what_would_be_installed_is_shown_and_what_is_no_setting_is_refused() {
    let place = Place::new(&[]);
    let shown = place.dozen(&["server", "install", "--print"]).ok();
    shown.has(&["# /etc/systemd/system/dozen.service", "KillMode=process", "ListenStream=443", "FileDescriptorName=https"]);
    place.dozen(&["server", "install", "--print", "--https-port", "0"]).ok().lacks("https");
    for wrong in [["--user", "root"], ["--user", "-x"], ["--domain", "a b"], ["--ssh", "https://x"], ["--home", "relative"]] {
        place.dozen(&[&["server", "install", "--print"][..], &wrong].concat()).coded(2);
    }
}

/// On this machine, with its own account and folders, in an overlay that is gone afterwards.
#[test]
fn a_fresh_machine_gets_account_state_and_token_and_is_as_before_afterwards() {
    const SCRIPT: &str = r#"
set -e
for at in etc usr/local var/lib; do
    mkdir -p "$1/$at/up" "$1/$at/work"
    mount -t overlay overlay -o "lowerdir=/$at,upperdir=$1/$at/up,workdir=$1/$at/work" "/$at"
done
cp /etc/passwd "$1/passwd"
"$2" server install --no-start --json
stat -c '%U %a' /var/lib/dozen /var/lib/dozen/ledger.db /var/lib/dozen/key
"$2" server install --no-start --json
"$2" server uninstall --with-data /somewhere/else 2>/dev/null && exit 9
"$2" server uninstall --with-data /var/lib/dozen --json
test ! -e /var/lib/dozen -a ! -e /usr/local/bin/dozen -a ! -e /etc/dozen
cmp /etc/passwd "$1/passwd" && echo as before
"#;
    if !is_root() {
        return;
    }
    let place = Place::new(&[]);
    // An overlay's upper folder is on a disk of its own.
    let disk = place.beside("disk");
    std::fs::create_dir(&disk).expect("made");
    let inside = format!("mount -t tmpfs none {0} && sh -c '{1}' sh {0} {DOZEN}", disk.display(), SCRIPT.replace('\'', "'\\''"));
    let said = finish(place.program("unshare").args(["--mount", "sh", "-c", &inside]).env_remove("DOZEN_HOME")).ok();
    let lines: Vec<&str> = said.out.lines().collect();
    let installed: Value = serde_json::from_str(lines[0]).expect("JSON");
    let token = installed["token"].as_str().expect("a token");
    assert!(token.starts_with("dozen_") && installed["home"] == "/var/lib/dozen", "{installed}");
    assert_eq!(lines[1..4], ["dozen 700", "dozen 600", "dozen 600"]);
    let again: Value = serde_json::from_str(lines[4]).expect("JSON");
    assert_eq!((&again["written"], &again["token"]), (&json!([]), &Value::Null));
    assert_eq!(lines.last(), Some(&"as before"), "{}", said.out);
}

#[test]
fn a_server_answers_on_sockets_that_it_is_given_and_the_next_one_goes_on_with_them() {
    // As systemd does it, with a connection that was made before.
    const GIVE: &str = r#"
import os, socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
open(sys.argv[1], "w").write(" ".join(str(s.getsockname()[1]) for s in sockets))
early = socket.create_connection(sockets[0].getsockname())
early.sendall(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n")
if os.fork() == 0:
    for s in sockets: s.close()
    answer = b""
    while piece := early.recv(65536): answer += piece
    open(sys.argv[1] + ".answer", "wb").write(answer)
    os._exit(0)
early.close()
for at, s in enumerate(sockets):
    os.dup2(s.fileno(), 100 + at, inheritable=True)
for at in range(2):
    os.dup2(100 + at, 3 + at, inheritable=True)
    os.close(100 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="http:https")
os.execv(sys.argv[2], sys.argv[2:])
"#;
    let place = Place::new(&[]);
    released(&place, "shop");
    let ports = place.beside("ports");
    let script = place.beside("give.py");
    std::fs::write(&script, GIVE).expect("written");
    let mut given = place.program("python3");
    given.arg(&script).arg(&ports).args([DOZEN, "server", "--listen", "1", "--json", "--no-color"]);
    let server = Server::of(&place, &mut given);
    let said = std::fs::read_to_string(&ports).expect("written");
    let (http, https) = said.split_once(' ').expect("two");
    assert_eq!(server.port.to_string(), http, "not the one that it would have bound");
    let answer = ports.with_extension("answer");
    until("the answer to who came first", || std::fs::read_to_string(&answer).is_ok_and(|text| text.starts_with("HTTP/1.1 ")));
    let accounted = server.call("GET", "/v1/apps", &Value::Null);
    assert!(accounted["apps"][0]["deploys"][0]["https_url"].as_str().is_some_and(|url| url.ends_with(https)), "{accounted}");
    until("its page", || server.get("shop.localhost").status == 200);
    let port = server.port;
    server.kill();
    assert_eq!(get(port, "shop.localhost").status, 200);
    let again = Server::with(&place, &port.to_string());
    assert_eq!(again.get("shop.localhost").status, 200);
    again.stop();
    place.assert_nothing_left();
    // What is no socket is told, and nothing else is opened in its place.
    let wrong = "import os, sys; os.dup2(0, 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[1], sys.argv[1:])";
    finish(place.program("python3").args(["-c", wrong, DOZEN, "server"])).coded(2).has(&["LISTEN_FDS"]);
}
