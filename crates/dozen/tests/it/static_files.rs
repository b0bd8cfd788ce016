//! VII. Port binding, end to end: static sites are served by `dozen static`, as a process type and for a person.

use crate::deployed::{Answer, DOZEN, PATIENCE, Place, ask, kill};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// One request with these further headers.
#[track_caller]
fn request(port: u16, method: &str, path: &str, headers: &[&str]) -> Answer {
    let more: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    ask(port, format!("{method} {path} HTTP/1.1\r\nHost: shop.localhost\r\n{more}Connection: close\r\n\r\n").as_bytes())
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let find = |line: &'a str| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    answer.head.lines().find_map(find).unwrap_or_default()
}

/// `dozen static` without any environment but what is given; killed when it is dropped.
struct Server {
    child: Child,
    port: u16,
    /// What it says after its first line.
    out: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(DOZEN);
        command.arg("static").args(args).current_dir(folder).env_clear().envs(env.iter().copied());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("dozen starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("text");
        let port = line.trim().rsplit(':').next().and_then(|p| p.parse().ok()).unwrap_or_else(|| panic!("no port: {line:?}"));
        Self { child, port, out }
    }

    fn signal(&self, signal: Signal) {
        kill(self.child.id().try_into().expect("a pid"), signal);
    }

    /// Its end, which its closed output tells.
    fn wait(mut self) -> Option<i32> {
        let mut rest = Vec::new();
        self.out.read_to_end(&mut rest).expect("read");
        self.child.wait().expect("waited for").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_folder_with_an_index_is_an_app() {
    let script = "console.log('hello')\n".repeat(20);
    let place = Place::new(&[
        ("index.html", "<h1>home</h1>\n"),
        ("404.html", "<h1>lost</h1>\n"),
        ("about.html", "about\n"),
        ("blog/index.html", "blog\n"),
        ("assets/index-BKJHS81a.js", &script),
        ("assets/index-BKJHS81a.js.br", "brotli"),
        ("assets/index-BKJHS81a.js.gz", "gz"),
        ("style.css", "b{}\n"),
        (".secret", "no\n"),
        (".well-known/security.txt", "Contact: me\n"),
        ("app.json", "{}"),
    ]);
    std::os::unix::fs::symlink("about.html", place.folder().join("link.html")).expect("linked");
    let mut up = place.start(&[]);
    up.ready();
    assert!(up.said().iter().any(|e| e["text"] == "Static site app detected"), "{:?}", up.said());
    let port = up.port();
    let get = |path: &str, headers: &[&str]| request(port, "GET", path, headers);

    let home = get("/", &[]);
    assert_eq!((home.status, home.body.as_str()), (200, "<h1>home</h1>\n"));
    assert_eq!(header(&home, "content-type"), "text/html; charset=utf-8");
    assert_eq!(header(&home, "cache-control"), "no-cache");
    assert_eq!(header(&home, "x-content-type-options"), "nosniff");
    assert_eq!((get("/about", &[]).body.as_str(), get("/link", &[]).body.as_str()), ("about\n", "about\n"));
    let blog = get("/blog?page=2", &[]);
    assert_eq!((blog.status, header(&blog, "location")), (301, "/blog/?page=2"));
    assert_eq!(get("/blog/", &[]).body, "blog\n");
    assert_eq!(get("/.well-known/security.txt", &[]).status, 200);

    // What a client has already is not sent again.
    let (tag, date) = (header(&home, "etag").to_owned(), header(&home, "last-modified").to_owned());
    let same = get("/", &[&format!("If-None-Match: {tag}")]);
    assert_eq!((same.status, same.body.as_str(), header(&same, "etag")), (304, "", tag.as_str()));
    assert_eq!(get("/", &[&format!("If-Modified-Since: {date}")]).status, 304);
    assert_eq!(get("/", &["If-None-Match: \"other\"", &format!("If-Modified-Since: {date}")]).status, 200);
    assert_eq!(get("/", &["If-Match: \"other\""]).status, 412);

    // A part of a file.
    let part = get("/style.css", &["Range: bytes=1-2"]);
    assert_eq!((part.status, part.body.as_str(), header(&part, "content-range")), (206, "{}", "bytes 1-2/4"));
    assert_eq!(get("/style.css", &["Range: bytes=-1"]).body, "\n");
    let beyond = get("/style.css", &["Range: bytes=4-"]);
    assert_eq!((beyond.status, header(&beyond, "content-range")), (416, "bytes */4"));
    assert_eq!(get("/style.css", &["Range: bytes=1-2", "If-Range: \"other\""]).status, 200);
    assert_eq!(get("/style.css", &["Range: bytes=0-0,2-2"]).body, "b{}\n");

    // Compressed beside itself.
    let of = |accept: &str| {
        let answer = get("/assets/index-BKJHS81a.js", &[&format!("Accept-Encoding: {accept}")]);
        assert_eq!(header(&answer, "vary"), "Accept-Encoding", "{accept}");
        assert_eq!(header(&answer, "content-type"), "text/javascript; charset=utf-8", "{accept}");
        assert_eq!(header(&answer, "cache-control"), "public, max-age=31536000, immutable", "{accept}");
        (header(&answer, "content-encoding").to_owned(), answer.body.clone(), header(&answer, "etag").to_owned())
    };
    let (br, gzip, plain) = (of("gzip, br"), of("gzip, br;q=0"), of("zstd"));
    assert_eq!((br.0.as_str(), br.1.as_str()), ("br", "brotli"));
    assert_eq!((gzip.0.as_str(), gzip.1.as_str()), ("gzip", "gz"));
    assert_eq!((plain.0.as_str(), &plain.1), ("", &script));
    assert!(br.2 != gzip.2 && gzip.2 != plain.2, "each has a tag of its own");
    assert_eq!(header(&get("/style.css", &[]), "vary"), "");

    // What is not there, or not for visitors.
    for path in ["/nothing", "/blog/nothing/", "/about/", "/style.css/"] {
        let answer = get(path, &["If-None-Match: *"]);
        assert_eq!((answer.status, answer.body.as_str(), header(&answer, "etag")), (404, "<h1>lost</h1>\n", ""), "{path}");
    }
    for path in ["/.secret", "/%2esecret", "/app.json", "/.git/config"] {
        assert_eq!(get(path, &[]).status, 404, "{path}");
    }
    for path in ["/../../etc/passwd", "/blog/..%2f..%2fetc/passwd", "/%2e%2e/etc/passwd", "/blog\\..\\x", "/a%00", "/%zz"] {
        let answer = get(path, &[]);
        assert!([400, 404].contains(&answer.status) && !answer.body.contains("root:"), "{path}: {answer:?}");
    }

    let head = request(port, "HEAD", "/style.css", &["Range: bytes=0-0"]);
    assert_eq!((head.status, head.body.as_str(), header(&head, "content-length")), (200, "", "4"));
    let post = request(port, "POST", "/", &["Content-Length: 0"]);
    assert_eq!((post.status, header(&post, "allow")), (405, "GET, HEAD"));
    up.stop();
    place.assert_nothing_left();
}

#[test]
fn an_app_in_the_browser_gets_its_page_for_its_own_paths() {
    let files = [("Procfile", "web: dozen static dist --spa\n"), ("dist/index.html", "app\n"), ("dist/app.js", "code\n")];
    let place = Place::new(&files);
    let up = place.up();
    assert_eq!((up.page("/").as_str(), up.page("/users/7?x").as_str(), up.page("/app.js").as_str()), ("app\n", "app\n", "code\n"));
    assert_eq!(up.get("/gone.js").status, 404);
    assert_eq!(request(up.port(), "GET", "/jane.doe", &["Accept: text/html,*/*"]).body, "app\n");
    // The binary is at hand in every process, after the system's own programs.
    up.dozen(&["run", "--", "dozen --version && echo $PATH"]).ok().has(&["dozen 0.", "/bin:/.dozen/bin"]);
    up.stop();
}

#[test]
fn static_json_is_heeded() {
    let settings = r#"{"root": "out", "routes": {"/shop/**": "shop.html"}, "error_page": "oops.html", "https_only": true,
        "headers": {"/**": {"X-Frame-Options": "DENY"}, "/shop/*": {"Cache-Control": "max-age=5"}}}"#;
    let place = Place::new(&[("static.json", settings), ("out/index.html", "i"), ("out/shop.html", "shop"), ("out/oops.html", "oops")]);
    let mut up = place.start(&[]);
    up.ready();
    assert!(up.said().iter().any(|e| e["text"].as_str().is_some_and(|t| t.contains("https_only is understood and not applied"))));
    let shop = up.get("/shop/7");
    assert_eq!((shop.status, shop.body.as_str(), header(&shop, "x-frame-options")), (200, "shop", "DENY"));
    assert_eq!(header(&shop, "cache-control"), "max-age=5");
    let lost = up.get("/x.js");
    assert_eq!((lost.status, lost.body.as_str()), (404, "oops"));
    up.stop();
    place.write("static.json", "{\n \"root\": 3}");
    place.once().coded(1).has(&["static.json cannot be used: 2:", "expected a string"]);
}

#[test]
fn the_example_is_a_site() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/site");
    let server = Server::start(&folder, &["--port", "0"], &[]);
    let get = |path: &str| ask(server.port, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
    let (page, lost) = (get("/"), get("/lost"));
    assert_eq!((page.status, lost.status, get("/style.css").status), (200, 404, 200));
    assert!(page.body.contains("<h1>A site</h1>") && lost.body.contains("<h1>Not here</h1>"));
}

/// More than socket buffers on both sides hold.
const LARGE: usize = 64 << 20;

#[test]
fn sigterm_finishes_what_is_being_sent() {
    let place = Place::new(&[("index.html", "x")]);
    let large: Vec<u8> = (0..LARGE).map(|i| (i % 251) as u8).collect();
    place.write("large.bin", &large);
    let server = Server::start(place.folder(), &["--port", "0"], &[]);
    let port = server.port;
    let connect = || {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket
    };
    // One that asks nothing, one that has been answered and is kept, one that downloads.
    let (mut unused, mut kept, mut slow) = (connect(), connect(), connect());
    kept.write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut first = [0; 12];
    kept.read_exact(&mut first).expect("answered");
    slow.write_all(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut got = vec![0; 1000];
    slow.read_exact(&mut got).expect("begun");
    server.signal(Signal::TERM);
    // Both idle ones are closed, which tells that the signal has arrived; so is the port.
    let mut rest = Vec::new();
    unused.read_to_end(&mut rest).expect("closed");
    assert_eq!(rest, b"");
    kept.read_to_end(&mut rest).expect("closed");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    slow.read_to_end(&mut got).expect("the rest");
    let body = got.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    assert!(got[body..] == large, "{} bytes of {LARGE}", got.len() - body);
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_file_that_is_cut_off_while_it_is_sent_ends_the_connection() {
    let place = Place::new(&[("index.html", "x")]);
    place.write("large.bin", vec![7; LARGE]);
    let server = Server::start(place.folder(), &[".", "--port", "0"], &[]);
    let mut socket = TcpStream::connect(("127.0.0.1", server.port)).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.write_all(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut got = vec![0; 1000];
    socket.read_exact(&mut got).expect("begun");
    std::fs::File::options().write(true).open(place.folder().join("large.bin")).expect("open").set_len(10).expect("cut");
    // A reset is an end as well.
    let _ = socket.read_to_end(&mut got);
    assert!(got.len() < LARGE, "{}", got.len());
    assert_eq!(ask(server.port, b"GET /large.bin HTTP/1.0\r\n\r\n").body.len(), 10);
}

#[test]
fn a_person_needs_neither_home_nor_port() {
    let place = Place::new(&[("index.html", "x"), ("sub/a.txt", "a")]);
    std::os::unix::fs::symlink("/etc/passwd", place.folder().join("sub/out.txt")).expect("linked");
    std::os::unix::fs::symlink("../index.html", place.folder().join("sub/up.html")).expect("linked");
    // PORT is what a platform says and wins over the command line.
    let server = Server::start(place.folder(), &["sub", "--port", "1"], &[("PORT", "0")]);
    assert_eq!(ask(server.port, b"GET /a.txt HTTP/1.0\r\n\r\n").body, "a");
    for out in ["out.txt", "up.html", "up"] {
        assert_eq!(ask(server.port, format!("GET /{out} HTTP/1.0\r\n\r\n").as_bytes()).status, 404, "{out}");
    }
    // Another folder in the place of the first, as tools make one.
    std::fs::rename(place.folder().join("sub"), place.beside("old")).expect("moved");
    place.write("sub/a.txt", "another");
    assert_eq!(ask(server.port, b"GET /a.txt HTTP/1.0\r\n\r\n").body, "another");
    std::fs::remove_dir_all(place.beside("old")).expect("removed");
    // A head that does not end is not collected: the connection is closed.
    let mut endless = TcpStream::connect(("127.0.0.1", server.port)).expect("it listens");
    endless.set_write_timeout(Some(PATIENCE)).expect("set");
    endless.write_all(b"GET / HTTP/1.1\r\nX: ").expect("sent");
    assert!((0..1000).any(|_| endless.write_all(&[b'x'; 64 << 10]).is_err()));
    server.signal(Signal::INT);
    assert_eq!(server.wait(), Some(0));
    assert_eq!(std::fs::read_dir(place.folder().parent().expect("a folder")).expect("listed").count(), 1, "nothing was made");
    place.dozen(&["static", "gone"]).coded(2).has(&["cannot serve gone: No such file"]);
    finish_with_port(&place, "web").coded(2).has(&["PORT in the environment is not a port"]);
    place.write("static.json", "{\"routes\": []}");
    place.dozen(&["static"]).coded(1).has(&["static.json", "expected an object"]);
}

fn finish_with_port(place: &Place, port: &str) -> crate::deployed::Said {
    crate::deployed::finish(place.program(DOZEN).args(["static"]).env("PORT", port))
}

#[test]
fn a_binary_that_was_replaced_is_still_found() {
    let place = Place::new(&[("index.html", "still here\n")]);
    let binary = place.beside("dozen");
    std::fs::copy(DOZEN, &binary).expect("copied");
    let mut up = place.started(place.program(&binary.to_string_lossy()).args(["up", "--port", "0", "--json", "--no-color"]));
    up.ready();
    std::fs::remove_file(&binary).expect("removed");
    std::fs::write(&binary, "another").expect("written");
    up.dozen(&["ps", "restart", "web"]).ok();
    up.until_ps(&["web.1 up"]);
    assert_eq!(up.page("/"), "still here\n");
    up.stop();
    place.assert_nothing_left();
}
