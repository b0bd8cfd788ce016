//! Pushes over SSH: a real sshd, told what dozen prints, and real clients. Each connection has an sshd of its own, which needs no port.

use crate::deployed::{DOZEN, Place, Said, finish, finish_with};
use crate::server::{Server, WEB};
use serde_json::{Value, json};
use std::path::PathBuf;

/// An sshd for a place's home, and clients of it.
struct Ssh<'p> {
    place: &'p Place,
    config: PathBuf,
    account: String,
}

impl<'p> Ssh<'p> {
    fn new(place: &'p Place) -> Self {
        if rustix::process::geteuid().is_root() {
            // Where Debian's has it from its unit; without it sshd does not start as root.
            std::fs::create_dir_all("/run/sshd").expect("made");
        }
        let account = finish(place.program("id").arg("-un")).ok().out.trim().to_owned();
        let ssh = Self { place, config: place.beside("sshd_config"), account };
        ssh.keygen("host");
        let told = finish(place.program(DOZEN).args(["server", "sshd-config"])).ok().out;
        assert!(told.contains(&format!("Match User {}", ssh.account)) && told.contains(" .ssh/authorized_keys "), "{told}");
        let host = place.beside("host");
        let own = format!("HostKey {}\nPidFile none\nUsePAM no\nStrictModes no\n", host.display());
        std::fs::write(&ssh.config, format!("{own}Subsystem sftp internal-sftp\n{told}")).expect("written");
        ssh
    }

    /// Makes a key of this name; answers its public half.
    fn keygen(&self, name: &str) -> PathBuf {
        let file = self.place.beside(name);
        finish(self.place.program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&file)).ok();
        file.with_extension("pub")
    }

    /// What a client is started with.
    fn options(&self, key: &str) -> Vec<String> {
        let proxy = format!("ProxyCommand=/usr/sbin/sshd -i -f {}", self.config.display());
        let options = [&proxy, "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes", "BatchMode=yes"];
        let options = options.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]);
        let key = self.place.beside(key).to_string_lossy().into_owned();
        ["-F", "none", "-o", "LogLevel=ERROR", "-i", &key].map(str::to_owned).into_iter().chain(options).collect()
    }

    fn ssh(&self, key: &str, more: &[&str], command: &[&str]) -> Said {
        let mut ssh = self.place.program("ssh");
        finish_with(ssh.args(self.options(key)).args(more).arg(format!("{}@shop.test", self.account)).args(command), b"")
    }

    fn git(&self, key: &str, args: &[&str]) -> Said {
        let command = format!("ssh {}", self.options(key).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "));
        let mut git = self.place.program("git");
        for (name, value) in [("NAME", "a"), ("EMAIL", "a@example.com")] {
            git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        finish(git.env("GIT_SSH_COMMAND", command).env("GIT_CONFIG_GLOBAL", "/dev/null").args(args))
    }

    fn url(&self, path: &str) -> String {
        format!("ssh://{}@shop.test/{path}", self.account)
    }

    /// A user with a key of the same name.
    fn user(&self, server: &Server<'_>, name: &str, role: &str) -> String {
        server.call("POST", "/v1/users", &json!({ "name": name }));
        server.call("PUT", &format!("/v1/apps/shop/grants/{name}"), &json!({ "role": role }));
        let file = self.keygen(name);
        let file = file.to_str().expect("text");
        let added = self.place.dozen(&["ssh-keys", "add", file, "--user", name, "--json"]).ok().json();
        assert_eq!((&added["user"], &added["kind"], &added["label"]), (&json!(name), &json!("ssh-ed25519"), &json!(name)));
        added["fingerprint"].as_str().expect("a fingerprint").to_owned()
    }
}

/// An app `shop` in the place's folder, committed.
fn shop(ssh: &Ssh<'_>, server: &Server<'_>) {
    server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    server.call("PATCH", "/v1/apps/shop/deploys/production/config", &json!({"set": {"GREETING": "first"}}));
    for args in [&["init", "-qb", "main"][..], &["add", "-A"], &["commit", "-qm", "one"]] {
        ssh.git("none", args).ok();
    }
}

#[test]
fn what_is_pushed_over_ssh_runs_and_is_known_as_its_users() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB)]);
    let server = Server::start(&place);
    let ssh = Ssh::new(&place);
    shop(&ssh, &server);
    let key = ssh.user(&server, "ada", "deployer");
    ssh.ssh("ada", &[], &[]).coded(1).has(&["Hello ada", &key, "no shell"]);
    let url = ssh.url("shop.git");
    ssh.git("ada", &["push", &url, "main"]).ok().has(&["Procfile declares types", "Released v1", "http://shop.localhost"]);
    assert!(server.get("shop.localhost").body.starts_with("first "));
    // What does not come up is refused, and said.
    place.write("Procfile", "web: exit 3\n");
    ssh.git("ada", &["commit", "-qam", "two"]).ok();
    ssh.git("ada", &["push", &url, "main"]).coded(1).has(&["v1 keeps serving", "pre-receive hook declined"]);
    // In both versions of git's protocol, by both ways to write where.
    for (version, from) in [("1", url.clone()), ("2", format!("{}@shop.test:shop/production", ssh.account))] {
        let clone = place.beside(&format!("clone{version}"));
        let protocol = format!("protocol.version={version}");
        ssh.git("ada", &["-c", &protocol, "clone", "-q", &from, clone.to_str().expect("text")]).ok();
        assert_eq!(std::fs::read_to_string(clone.join("Procfile")).expect("cloned"), "web: exec python3 web.py\n");
    }
    let events = server.call("GET", "/v1/events?app=shop&who=ada&n=50", &Value::Null);
    let whats: Vec<&str> = events["events"].as_array().expect("a list").iter().filter_map(|e| e["what"].as_str()).collect();
    assert!(whats.contains(&"make a release"), "{whats:?}");
    let keys = place.dozen(&["ssh-keys", "--json"]).ok().json();
    assert!(keys["keys"][0]["used"].is_string(), "{keys}");
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn a_key_opens_git_for_its_user_and_nothing_else() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB)]);
    let server = Server::start(&place);
    let ssh = Ssh::new(&place);
    shop(&ssh, &server);
    ssh.user(&server, "viewer", "viewer");
    let key = ssh.user(&server, "ada", "deployer");
    ssh.keygen("nobody");
    let url = ssh.url("shop.git");
    ssh.git("viewer", &["push", &url, "main"]).coded(128).has(&["viewer may not push to a deploy", "a deployer of shop"]);
    ssh.git("viewer", &["ls-remote", &url]).coded(128);
    ssh.git("nobody", &["push", &url, "main"]).coded(128).has(&["Permission denied"]);
    ssh.git("ada", &["push", &ssh.url("secret.git"), "main"]).coded(128).has(&["there is no app secret"]);

    let marker = place.beside("marker");
    let touch = format!("touch {}", marker.display());
    for command in
        ["id", "bash -i", "sh -c id", &touch, "scp -t /tmp", "git-upload-archive shop.git", "git-receive-pack 'shop.git' x", "dozen ps"]
    {
        ssh.ssh("ada", &[], &[command]).coded(1).has(&["only git is answered here"]);
    }
    for path in ["../../etc", "$(id)", "`id`", "shop.git;id", "--help", "~", "/etc/ssh/ssh_config", "shop/../shop", "shop\\nx"] {
        ssh.ssh("ada", &[], &[&format!("git-upload-pack '{path}'")]).coded(1).has(&["there is no such repository"]);
    }
    ssh.ssh("ada", &[], &[&format!("git-upload-pack 'shop.git'; {touch}")]).coded(1);
    ssh.ssh("ada", &[], &[&format!("git-upload-pack $({touch})")]).coded(1);
    assert!(!marker.exists());
    // No files, no terminal, no way through.
    ssh.ssh("ada", &["-s"], &["sftp"]).coded(1);
    ssh.ssh("ada", &["-tt"], &[]).has(&["PTY allocation request failed"]);
    ssh.ssh("ada", &["-W", &format!("127.0.0.1:{}", server.port)], &[]).coded(255).has(&["stdio forwarding failed"]);
    ssh.ssh("ada", &["-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1"], &[]).coded(255).has(&["remote port forwarding failed"]);

    // A key that was removed opens nothing, also where sshd still has it.
    let file = place.home().join("ssh/authorized_keys");
    let before = std::fs::read_to_string(&file).expect("written");
    assert_eq!(before.lines().count(), 2);
    place.dozen(&["ssh-keys", "remove", &key]).ok();
    ssh.git("ada", &["ls-remote", &url]).coded(128).has(&["Permission denied"]);
    std::fs::write(&file, before).expect("written");
    ssh.git("ada", &["ls-remote", &url]).coded(128).has(&["is not known here"]);
    server.call("DELETE", "/v1/users/viewer", &Value::Null);
    assert_eq!(std::fs::read_to_string(&file).expect("written"), "", "it follows from the ledger");
    // And without a server nobody is let in.
    place.dozen(&["ssh-keys", "remove", &key]).coded(1).has(&["there is no key"]);
    let shown = place.beside("nobody.pub");
    place.dozen(&["ssh-keys", "add", shown.to_str().expect("text"), "--user", "admin"]).ok();
    server.stop();
    ssh.git("nobody", &["ls-remote", &url]).coded(128).has(&["the server does not answer"]);
    place.assert_nothing_left();
}

#[test]
fn a_person_adds_a_key_and_has_git_push_by_it() {
    let place = Place::new(&[("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB)]);
    let server = Server::start(&place);
    let ssh = Ssh::new(&place);
    shop(&ssh, &server);
    let url = format!("http://dozen.localhost:{}", server.port);
    place.dozen(&["login", &url, "--token", &server.token]).ok();
    let public = ssh.keygen("mine");
    let afar = |args: &[&str]| place.dozen(&[&["--server", &url], args].concat());
    // The half that is secret does not leave the machine.
    afar(&["ssh-keys", "add", place.beside("mine").to_str().expect("text")]).coded(2).has(&["private key"]).lacks("BEGIN");
    let text = std::fs::read(&public).expect("read");
    finish_with(place.program(DOZEN).args(["--server", &url, "ssh-keys", "add", "-", "--label", "laptop"]), &text)
        .ok()
        .has(&["of admin... done"]);
    afar(&["ssh-keys", "add", public.to_str().expect("text")]).coded(1).has(&["has this key already"]);
    afar(&["ssh-keys"]).ok().has(&["SHA256:", "laptop"]);
    afar(&["git", "remote", "-a", "shop", "--ssh"]).coded(1).has(&["does not say where", "--ssh="]);
    let said = format!("--ssh=ssh://{}@shop.test", ssh.account);
    afar(&["git", "remote", "-a", "shop", "--ssh=https://x"]).coded(2);
    let remotes = afar(&["git", "remote", "-a", "shop", &said, "--json"]).ok().json();
    assert_eq!(remotes["remotes"][0]["url"], ssh.url("shop.git"));
    ssh.git("mine", &["push", "dozen", "main"]).ok().has(&["Released v1"]);
    // The folder is about that deploy, as with any other remote.
    place.dozen(&["ps"]).ok().has(&["=== shop/production v1"]);
    server.stop();
    place.assert_nothing_left();
}
