//! `dozen server`: many deploys behind one address.

mod backup;
mod install;
mod pushes;
mod soundness;
mod upgrade;

use crate::deployed::{Answer, DOZEN, Deployed, PATIENCE, Place, ask, finish, pause};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub(crate) const WEB: &str = r#"
import http.server, os

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{os.environ['GREETING']} {os.getppid()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"#;

/// A server of a place's home, on any port.
pub(crate) struct Server<'p> {
    run: Deployed<'p>,
    pub(crate) port: u16,
    /// Of the user admin; empty where the home had users already.
    pub(crate) token: String,
}

impl<'p> Server<'p> {
    /// Once it answers.
    pub(crate) fn start(place: &'p Place) -> Self {
        Self::with(place, "0")
    }

    /// The same where it is told to listen.
    pub(crate) fn with(place: &'p Place, listen: &str) -> Self {
        Self::of(place, place.program(DOZEN).args(["server", "--listen", listen, "--json", "--no-color"]))
    }

    /// The same by a command of the test's own.
    pub(crate) fn of(place: &'p Place, command: &mut std::process::Command) -> Self {
        let run = place.started(command);
        let said = run.event("serving");
        run.family();
        let port = said["url"].as_str().and_then(|url| url.rsplit(':').next()?.parse().ok()).expect("a port");
        Self { run, port, token: said["token"].as_str().unwrap_or_default().to_owned() }
    }

    /// A request to the API with this token.
    pub(crate) fn ask_as(&self, token: Option<&str>, method: &str, path: &str, body: &Value) -> Answer {
        let shown = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: dozen.localhost:{}\r\nConnection: close\r\n{shown}", self.port);
        let typed = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        ask(self.port, format!("{head}{typed}").as_bytes())
    }

    /// One of the first user that goes well.
    #[track_caller]
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask_as(Some(&self.token), method, path, body);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        serde_json::from_str(&answer.body).expect("JSON")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        self.run.pid()
    }

    /// A page of a host.
    pub(crate) fn get(&self, host: &str) -> Answer {
        get(self.port, host)
    }

    /// Kills it, and nothing that it runs.
    pub(crate) fn kill(self) {
        self.run.family();
        // Nobody waits for the end of its output: what it runs may still have that.
        drop(self.run);
    }

    /// Ctrl-C, to its good end.
    pub(crate) fn stop(self) {
        self.run.stop();
    }
}

/// Says that it is over when it is dropped.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn get(port: u16, host: &str) -> Answer {
    ask(port, format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
}

#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "no {what}");
        pause();
    }
}

/// An app beside the others, released once as its production.
pub(crate) fn released(place: &Place, app: &str) {
    let folder = place.beside(app);
    std::fs::create_dir_all(&folder).expect("made");
    for (name, text) in [("Procfile", "web: exec python3 web.py\n"), ("web.py", WEB), (".env", &format!("GREETING={app}\n"))] {
        std::fs::write(folder.join(name), text).expect("written");
    }
    let up = ["up", "-a", &format!("{app}/production"), "--port", "0", "--once"];
    finish(place.program(DOZEN).args(up).current_dir(&folder)).ok();
}

#[test]
fn it_serves_every_deploy_of_its_home_by_its_own_name_and_outlives_its_own_death() {
    let place = Place::new(&[]);
    released(&place, "shop");
    released(&place, "blog");
    let server = Server::start(&place);
    let page = |server: &Server<'_>, host: &str| {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = server.get(host);
            if answer.status == 200 || Instant::now() > end {
                return answer.body;
            }
            pause();
        }
    };
    let (shop, blog) = (page(&server, "shop.localhost"), page(&server, "blog.localhost"));
    assert!(shop.starts_with("shop ") && blog.starts_with("blog "), "{shop:?} {blog:?}");
    assert_eq!(server.get("nobody.localhost").status, 404);
    let (port, token) = (server.port, server.token.clone());

    // Whoever asks meanwhile is answered: the router goes on leading to both until the next server has said what leads to them.
    let stop = AtomicBool::new(false);
    let again = std::thread::scope(|threads| {
        let askers = ["shop.localhost", "blog.localhost"].map(|host| {
            let stop = &stop;
            threads.spawn(move || {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(get(port, host).status, 200, "{host}");
                    count += 1;
                }
                count
            })
        });
        // Whatever fails here ends them too.
        let asking = Until(&stop);
        server.kill();
        let again = Server::with(&place, &port.to_string());
        // Applied, and asked once more by it.
        assert_eq!(again.ask_as(Some(&token), "GET", "/v1/apps", &Value::Null).status, 200);
        drop(asking);
        assert!(askers.into_iter().all(|asker| asker.join().expect("all answered") > 0));
        again
    });
    assert_eq!(again.port, port);
    // The same processes, which nobody has started again.
    assert_eq!((page(&again, "shop.localhost"), page(&again, "blog.localhost")), (shop, blog));
    assert_eq!(again.token, "", "the first token is made once");
    assert_eq!(again.ask_as(Some(&token), "GET", "/v1/apps", &Value::Null).status, 200);
    again.stop();
    place.assert_nothing_left();
}

#[test]
fn while_there_is_no_server_nobody_is_asked_in_its_place() {
    let place = Place::new(&[]);
    released(&place, "shop");
    let server = Server::start(&place);
    until("its page", || server.get("shop.localhost").status == 200);
    let (port, token) = (server.port, server.token.clone());
    let api = || {
        ask(
            port,
            format!("GET /v1/account HTTP/1.1\r\nHost: dozen.localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n")
                .as_bytes(),
        )
    };
    assert_eq!(api().status, 200);
    server.kill();
    // What would listen now where it did is not told anybody's token.
    until("word that it is gone", || api().body.contains("H99"));
    assert_eq!((api().status, get(port, "shop.localhost").status), (503, 200));
    // What it ran is its successor's.
    place.dozen(&["restart", "-a", "shop/production"]).coded(1).has(&["`dozen server`, started again"]);
    let folder = place.beside("shop");
    let up = ["up", "--detach", "-a", "shop/production", "--port", "0"];
    finish(place.program(DOZEN).args(up).current_dir(folder)).coded(1).has(&["is one of `dozen server`'s"]);
    let again = Server::with(&place, &port.to_string());
    assert_eq!(api().status, 200);
    again.stop();
    place.assert_nothing_left();
}

#[test]
fn apps_and_deploys_are_made_and_destroyed_while_it_runs() {
    let place = Place::new(&[]);
    let server = Server::start(&place);
    for token in [None, Some("dozen_nonsense")] {
        let answer = server.ask_as(token, "GET", "/v1/apps", &Value::Null);
        assert_eq!((answer.status, answer.body.contains("dozen login")), (401, true), "{}", answer.body);
    }
    let app = server.call("POST", "/v1/apps", &json!({"name": "shop"}));
    assert_eq!(app["deploys"][0]["url"], format!("http://shop.localhost:{}", server.port));
    server.call("PATCH", "/v1/apps/shop/deploys/production/config", &json!({"set": {"GREETING": "hello you"}}));
    let staging = server.call("POST", "/v1/apps/shop/deploys", &json!({"name": "staging", "from": "production"}));
    assert_eq!(staging["url"], format!("http://shop-staging.localhost:{}", server.port));
    let config = server.call("GET", "/v1/apps/shop/deploys/staging/config", &Value::Null);
    assert_eq!(config["vars"]["GREETING"]["value"], "hello you");
    // An app of that name would have that host.
    for name in ["shop-staging", "dozen", "shop"] {
        let answer = server.ask_as(Some(&server.token), "POST", "/v1/apps", &json!({ "name": name }));
        assert_eq!(answer.status, 409, "{name}: {}", answer.body);
    }
    server.call("DELETE", "/v1/apps/shop/deploys/staging", &Value::Null);
    assert_eq!(server.ask_as(Some(&server.token), "GET", "/v1/apps/shop/deploys/staging/config", &Value::Null).status, 404);
    server.call("DELETE", "/v1/apps/shop", &Value::Null);
    assert_eq!(server.call("GET", "/v1/apps", &Value::Null), json!({"apps": []}));
    server.stop();
    place.assert_nothing_left();
}

#[test]
fn what_is_destroyed_is_destroyed_though_nobody_waits_and_holds_up_nothing_else() {
    const DEAF: &str =
        "web: exec python3 -c \"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); exec(open('web.py').read())\"\n";
    let place = Place::new(&[]);
    let folder = place.beside("slow");
    std::fs::create_dir_all(&folder).expect("made");
    let files = [("Procfile", DEAF), ("web.py", WEB), (".env", "GREETING=x\n"), ("dozen.toml", "[process.web]\nstop-timeout = \"3s\"\n")];
    files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).expect("written"));
    let up = ["up", "-a", "slow/production", "--port", "0", "--once"];
    finish(place.program(DOZEN).args(up).current_dir(&folder)).ok();
    let server = Server::start(&place);
    let there = || !server.call("GET", "/v1/apps/slow/deploys", &Value::Null)["deploys"].as_array().expect("a list").is_empty();
    until("its page", || server.get("slow.localhost").status == 200);
    // Whoever asks goes at once.
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", server.port)).expect("the router listens");
    let request = format!(
        "DELETE /v1/apps/slow/deploys/production HTTP/1.1\r\nHost: dozen.localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        server.token
    );
    std::io::Write::write_all(&mut socket, request.as_bytes()).expect("sent");
    until("the end of its page", || server.get("slow.localhost").status != 200);
    drop(socket);
    server.call("POST", "/v1/apps", &json!({"name": "another"}));
    assert!(there(), "it was waited for");
    until("its end", || !there());
    server.stop();
    place.assert_nothing_left();
}
