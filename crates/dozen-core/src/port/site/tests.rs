//! Tables and properties of what a static file server answers.

use super::*;

const FILES: [&str; 10] = [
    "index.html",
    "404.html",
    "about.html",
    "blog/index.html",
    "blog/first.html",
    "docs/a.txt",
    "docs.html",
    "app.js",
    ".env",
    ".well-known/x",
];

fn look(path: &str) -> Kind {
    if FILES.contains(&path) {
        Kind::File
    } else if FILES.iter().any(|f| f.starts_with(&format!("{path}/"))) {
        Kind::Folder
    } else {
        Kind::Nothing
    }
}

fn found(url: &str, html: bool, rules: &Rules) -> String {
    let (path, query) = url.split_once('?').map_or((url, None), |(p, q)| (p, Some(q)));
    match Place::read(path).map(|place| find(&place, query, html, rules, &look)) {
        Ok(Found::File(file)) => file,
        Ok(Found::Redirect(to)) => format!("-> {to}"),
        Ok(Found::Missing(page)) => format!("404 {}", page.unwrap_or_default()),
        Err(refused) => format!("{refused:?}"),
    }
}

#[test]
fn paths_lead_to_files() {
    let plain = Rules::default();
    let spa = Rules { spa: true, ..Rules::default() };
    let settings = |text| Rules { spa: false, settings: crate::dependencies::static_files::settings(text).0 };
    let json = settings(r#"{"clean_urls": false, "routes": {"/blog/*": "about.html", "/**": "index.html"}, "error_page": "/docs.html"}"#);
    let only_some = settings(r#"{"routes": {"/shop/**": "index.html", "/x": "gone.html"}}"#);
    let cases: &[(&str, bool, &Rules, &str)] = &[
        ("/", true, &plain, "index.html"),
        ("//", true, &plain, "index.html"),
        ("/index.html", true, &plain, "index.html"),
        ("/about", true, &plain, "about.html"),
        ("/about/", true, &plain, "404 404.html"),
        ("/blog", true, &plain, "-> /blog/"),
        ("/blog?a=b&c", true, &plain, "-> /blog/?a=b&c"),
        ("//blog", true, &plain, "-> /blog/"),
        ("/bl%6Fg", true, &plain, "-> /bl%6Fg/"),
        ("/blog/", true, &plain, "blog/index.html"),
        ("/blog/first", true, &plain, "blog/first.html"),
        // A folder without an index is no page; a file of its name is.
        ("/docs", true, &plain, "docs.html"),
        ("/docs/", true, &plain, "404 404.html"),
        ("/docs/a.txt/", true, &plain, "404 404.html"),
        ("/nothing", true, &plain, "404 404.html"),
        ("/.env", true, &spa, "Hidden"),
        ("/docs/.git/config", true, &spa, "Hidden"),
        ("/.well-known/x", false, &plain, ".well-known/x"),
        ("/docs/.well-known/x", false, &plain, "Hidden"),
        ("/Procfile", true, &spa, "Hidden"),
        ("/../x", true, &plain, "Malformed"),
        ("/a/%2e%2E/x", true, &plain, "Malformed"),
        ("/a%2fb", true, &plain, "Malformed"),
        ("/a%5Cb", true, &plain, "Malformed"),
        ("/a%00", true, &plain, "Malformed"),
        ("/%", true, &plain, "Malformed"),
        ("/%f", true, &plain, "Malformed"),
        ("/%+1", true, &plain, "Malformed"),
        ("/%ff", true, &plain, "Malformed"),
        ("*", true, &plain, "Malformed"),
        ("/users/7", false, &spa, "index.html"),
        ("/users/7/", true, &spa, "index.html"),
        ("/users/jane.doe", true, &spa, "index.html"),
        ("/gone.js", false, &spa, "404 404.html"),
        ("/app.js", false, &spa, "app.js"),
        ("/about", true, &spa, "about.html"),
        ("/about", true, &json, "index.html"),
        ("/blog/x", true, &json, "about.html"),
        ("/gone.js", false, &json, "404 docs.html"),
        ("/shop/a/b.x", false, &only_some, "index.html"),
        ("/x", true, &only_some, "404 404.html"),
    ];
    for (url, html, rules, want) in cases {
        assert_eq!(found(url, *html, rules), *want, "{url}");
    }
}

#[test]
fn patterns_match_paths() {
    let cases = [
        ("/**", "/", true),
        ("/**", "/a/b", true),
        ("/*", "/a", true),
        ("/*", "/a/b", false),
        ("/a/**/z", "/a/b/c/z", true),
        ("/a/*.js", "/a/x.js", true),
        ("/a/*.js", "/a/x.css", false),
        ("/a", "/a", true),
        ("/a", "/ab", false),
        ("", "", true),
        ("**", "", true),
    ];
    for (pattern, path, want) in cases {
        assert_eq!(matches(pattern, path), want, "{pattern} {path}");
    }
    let slow = "*a".repeat(2000);
    assert!(!matches(&slow, &"a".repeat(1000)));
}

#[test]
fn headers_are_chosen_by_pattern() {
    let text = r#"{"headers": {"/**": {"X-A": "1", "X-B": "1"}, "/blog/": {"x-a": "2"}}}"#;
    let rules = Rules { spa: false, settings: crate::dependencies::static_files::settings(text).0 };
    let of = |path| headers(&rules, &Place::read(path).expect("a path"));
    assert_eq!(of("/"), [("X-A", "1"), ("X-B", "1")]);
    assert_eq!(of("/blog/"), [("X-B", "1"), ("x-a", "2")]);
}

#[test]
fn encodings_are_negotiated() {
    let cases = [
        ("", ""),
        ("gzip, deflate, br, zstd", "br zstd gzip"),
        ("gzip;q=1.0, br;q=0.5", "gzip br"),
        ("gzip;q=0", ""),
        ("*", "br zstd gzip"),
        ("*;q=0.1, br;q=0", "zstd gzip"),
        ("identity, gzip;q=0.5", ""),
        ("identity;q=0.5, GZIP;Q=0.8", "gzip"),
        ("x-gzip", "gzip"),
        ("br;q=2, gzip;q=x", ""),
        ("deflate", ""),
    ];
    for (accept, want) in cases {
        let got: Vec<&str> = encodings(accept).into_iter().map(|e| e.0).collect();
        assert_eq!(got.join(" "), want, "{accept}");
    }
}

fn served(asked: &Conditions) -> Serve {
    let have = Validators { etag: Some("\"e\"".into()), modified: Timestamp::from_second(784_111_777).ok() };
    decide(asked, &have, 100)
}

#[test]
fn conditions_are_heeded() {
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Mon, 07 Nov 1994 08:49:37 GMT";
    let cases: &[(&[(&str, &str)], Serve)] = &[
        (&[], Serve::Whole),
        (&[("none", "\"e\"")], Serve::NotModified),
        (&[("none", "W/\"e\"")], Serve::NotModified),
        (&[("none", "\"x\", \"e\"")], Serve::NotModified),
        (&[("none", "*")], Serve::NotModified),
        (&[("none", "\"x\"")], Serve::Whole),
        // The tag decides where both are given.
        (&[("none", "\"x\""), ("since", DATE)], Serve::Whole),
        (&[("since", DATE)], Serve::NotModified),
        (&[("since", LATER)], Serve::Whole),
        (&[("since", "rubbish")], Serve::Whole),
        (&[("match", "\"e\"")], Serve::Whole),
        (&[("match", "*")], Serve::Whole),
        (&[("match", "W/\"e\"")], Serve::Failed),
        (&[("match", "\"x\"")], Serve::Failed),
        (&[("unmodified", DATE)], Serve::Whole),
        (&[("unmodified", LATER)], Serve::Whole),
        (&[("unmodified", "Sat, 05 Nov 1994 08:49:37 GMT")], Serve::Failed),
        (&[("unmodified", "rubbish")], Serve::Whole),
        (&[("none", "\"e\""), ("range", "bytes=0-1")], Serve::NotModified),
        (&[("range", "bytes=0-1"), ("if", "\"e\"")], Serve::Part(0..2)),
        (&[("range", "bytes=0-1"), ("if", "W/\"e\"")], Serve::Whole),
        (&[("range", "bytes=0-1"), ("if", "\"x\"")], Serve::Whole),
        (&[("range", "bytes=0-1"), ("if", DATE)], Serve::Part(0..2)),
        (&[("range", "bytes=0-1"), ("if", LATER)], Serve::Whole),
        (&[("range", "bytes=500-"), ("if", "\"x\"")], Serve::Whole),
    ];
    for (headers, want) in cases {
        let mut asked = Conditions::default();
        for (name, value) in *headers {
            let field = match *name {
                "none" => &mut asked.none_match,
                "since" => &mut asked.modified_since,
                "match" => &mut asked.matches,
                "unmodified" => &mut asked.unmodified_since,
                "if" => &mut asked.if_range,
                _ => &mut asked.range,
            };
            *field = Some((*value).to_owned());
        }
        assert_eq!(served(&asked), *want, "{headers:?}");
    }
    let unknown = Validators::default();
    let asked = Conditions { none_match: Some("\"\"".into()), ..Conditions::default() };
    assert_eq!(decide(&asked, &unknown, 1), Serve::Whole);
}

#[test]
fn ranges_are_cut() {
    let cases = [
        ("bytes=0-0", Serve::Part(0..1)),
        ("bytes=10-19", Serve::Part(10..20)),
        ("Bytes = 10 - 19", Serve::Part(10..20)),
        ("bytes=90-", Serve::Part(90..100)),
        ("bytes=90-999", Serve::Part(90..100)),
        ("bytes=-10", Serve::Part(90..100)),
        ("bytes=-999", Serve::Part(0..100)),
        ("bytes=-0", Serve::Unsatisfiable),
        ("bytes=100-", Serve::Unsatisfiable),
        ("bytes=99999999999999999999999-", Serve::Unsatisfiable),
        ("bytes=0-99999999999999999999999", Serve::Part(0..100)),
        ("bytes=20-10", Serve::Whole),
        ("bytes=0-1,5-6", Serve::Whole),
        ("bytes=-", Serve::Whole),
        ("bytes=a-b", Serve::Whole),
        ("bytes=+1-2", Serve::Whole),
        ("bytes", Serve::Whole),
        ("lines=1-2", Serve::Whole),
    ];
    for (range, want) in cases {
        assert_eq!(served(&Conditions { range: Some(range.into()), ..Conditions::default() }), want, "{range}");
        assert!(!matches!(part(range, 0), Serve::Part(_)), "{range} of nothing");
    }
}

#[test]
fn only_names_with_a_hash_are_kept_for_ever() {
    for path in [
        "app.3f2a91bc.js",
        "assets/index-BKJHS81a.js",
        "assets/index-BKJHS81a.js.map",
        "static/js/main.8d8e9f0a.chunk.css",
        "chunk-7ZVYJ2KX.js",
        "bundle-0a1b2c3d4e5f60718293.mjs",
        "_next/static/css/x.css",
        "_astro/hoisted.js",
    ] {
        assert_eq!(cache_control(path), FOR_EVER, "{path}");
    }
    for path in [
        "app.js",
        "report-20240115.png",
        "deadbeef.js",
        "user-userCard.js",
        "logo-Banner2x.png",
        "icon-Home24px.svg",
        "x-TEMPLATE.png",
        "x-portrait.jpg",
        "photo-DSC01234.jpg",
        "data-3f2a91bc.json",
        "sw.js",
        "é-ééé.js",
        "",
    ] {
        assert_eq!(cache_control(path), ASK_AGAIN, "{path}");
    }
    assert_eq!(cache_control("app.3f2a91bc.html"), "no-cache");
}

proptest::proptest! {
    #[test]
    fn no_path_escapes(parts in proptest::collection::vec("(%2e|%2E|\\.|%2f|%5c|%00|a|é|%c3%a9|%){0,4}", 0..6), end in "/?") {
        let path = format!("/{}{end}", parts.join("/"));
        let asked = std::cell::RefCell::new(Vec::new());
        if let Ok(place) = Place::read(&path) {
            let spy = |p: &str| { asked.borrow_mut().push(p.to_owned()); Kind::Nothing };
            find(&place, None, true, &Rules { spa: true, ..Rules::default() }, &spy);
            for p in asked.borrow().iter() {
                let fine = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0']);
                proptest::prop_assert!(p.split('/').all(fine), "{path} asks for {p:?}");
            }
        }
    }

    #[test]
    fn a_redirect_stays_on_this_host(path in "[/a-z%\\\\.@:]{0,20}") {
        if let Ok(place) = Place::read(&format!("/{path}"))
            && let Found::Redirect(to) = find(&place, Some("q"), true, &Rules::default(), &|p| if p.ends_with("index.html") { Kind::File } else { Kind::Folder }) {
            proptest::prop_assert!(to.starts_with('/') && !to.starts_with("//") && !to.contains('\\'), "{to}");
        }
    }

    #[test]
    fn nothing_makes_it_panic(text in "\\PC{0,30}", size in proptest::num::u64::ANY) {
        let _ = Place::read(&text);
        encodings(&text);
        cache_control(&format!("{text}.js"));
        matches(&text, "/é");
        let asked = Conditions {
            matches: None, none_match: Some(text.clone()), modified_since: None, unmodified_since: Some(text.clone()),
            if_range: Some(text.clone()), range: Some(format!("bytes={text}")),
        };
        decide(&asked, &Validators::default(), size);
        if let Serve::Part(range) = part(&format!("bytes={text}"), size) {
            proptest::prop_assert!(range.start < range.end && range.end <= size);
        }
    }
}
