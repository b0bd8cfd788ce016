//! PHP: packages of the app's own folders, by a real Composer, and pages without any.

use super::{place, tree};

const COMPOSER: &str = r#"{
    "name": "acme/shop",
    "require": { "php": ">=7.4", "acme/greeting": "1.0.0" },
    "require-dev": { "acme/testing": "1.0.0" },
    "repositories": [{ "type": "path", "url": "packages/*" }, { "packagist.org": false }],
    "autoload": { "psr-4": { "Shop\\": "src/" } },
    "scripts": { "compile": "@php -r 'file_put_contents(\"public/made.txt\", getenv(\"COLOUR\") . getenv(\"PORT\"));'" }
}
"#;
const PAGE: &str = r#"<?php
require __DIR__ . "/../vendor/autoload.php";
echo Shop\Page::say(), " ", trim(file_get_contents(__DIR__ . "/made.txt")), " ", $_SERVER["REQUEST_URI"];
"#;

fn package(name: &str) -> String {
    format!(r#"{{"name": "acme/{name}", "version": "1.0.0", "autoload": {{"files": ["word.php"]}}}}"#)
}

#[test]
fn an_app_gets_its_packages_and_is_served() {
    let (greeting, testing) = (package("greeting"), package("testing"));
    let files = [
        ("composer.json", COMPOSER),
        ("packages/greeting/composer.json", greeting.as_str()),
        ("packages/greeting/word.php", "<?php function greeting() { return 'hello'; }\n"),
        ("packages/testing/composer.json", testing.as_str()),
        ("packages/testing/word.php", "<?php\n"),
        ("src/Page.php", "<?php namespace Shop; class Page { static function say() { return greeting(); } }\n"),
        ("public/index.php", PAGE),
        (".env", "COLOUR=green\n"),
    ];
    let place = place("php", &files);
    place.dozen(&["build"]).coded(1).has(&["there is no composer.lock beside it", "`composer update`"]);
    let mut composer = std::process::Command::new("composer");
    composer.args(["update", "--no-install", "--no-interaction", "--quiet"]).current_dir(place.folder());
    let locked = composer.env("COMPOSER_ALLOW_SUPERUSER", "1").env("COMPOSER_HOME", place.beside("composer")).output().expect("runs");
    assert!(locked.status.success(), "{}", String::from_utf8_lossy(&locked.stderr));

    let up = place.up();
    // Its length is not told, so that it comes in chunks.
    assert!(up.page("/a/b?c=d").contains("\r\nhello green /a/b?c=d\r\n"));
    up.stop();
    let kept = tree(&place);
    assert!(kept.join("vendor/acme/greeting/word.php").is_file() && !kept.join("vendor/acme/testing").exists());
    assert!(!std::fs::symlink_metadata(kept.join("vendor/acme/greeting")).expect("there").is_symlink());

    place.write("src/Page.php", "<?php namespace Shop; class Page { static function say() { return 'changed'; } }\n");
    place.dozen(&["build"]).ok().has(&[
        "PHP app detected",
        "built-in server serves it",
        "$ composer install --no-dev",
        "$ composer compile",
        "Default types for PHP -> web",
    ]);
    place.write("composer.json", COMPOSER.replace("\"acme/greeting\": \"1.0.0\"", "\"acme/greeting\": \"1.0.0\", \"acme/more\": \"^2\""));
    place.dozen(&["build"]).coded(1).has(&["composer.lock does not fit composer.json"]);
    place.write("composer.json", COMPOSER.replace(">=7.4", "^99.1"));
    place.dozen(&["build"]).coded(1).has(&["the app asks for PHP ^99.1", "Found:", "`apt install php-cli composer`"]);
}

#[test]
fn pages_alone_are_served_and_a_procfile_says_by_what() {
    let place = place("php", &[("index.php", "<?php echo 'page ', getenv('WHO') ?: 'alone';\n")]);
    let up = place.up();
    assert!(up.page("/").contains("page alone"));
    up.stop();
    place.write("Procfile", "web: WHO=declared exec php -S 127.0.0.1:$PORT index.php\n");
    let up = place.up();
    assert!(up.page("/").contains("page declared"));
    assert!(!up.stop().text().contains("built-in server"));
    // A page that lies about makes no PHP app of another one.
    place.write("Procfile", "web: python3 -m http.server $PORT\n");
    place.dozen(&["build"]).ok().has(&["Procfile app detected"]);
}
