//! What the fuzz targets assert, asserted of each input in `fuzz/corpus`: on the stable compiler, in every run of the tests.

use std::fs;
use std::path::Path;

#[allow(unreachable_pub, reason = "for the fuzz targets it is a library")]
#[path = "../../../../fuzz/src/lib.rs"]
pub(crate) mod properties;

#[allow(unreachable_pub, reason = "for the fuzz target it is the same")]
#[path = "../../../../fuzz/src/slug.rs"]
mod slug;

/// Each input by itself, so that a failure names it.
fn all_of(target: &str, holds: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for input in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = input.expect("an entry").path();
        let data = fs::read(&path).expect("readable");
        // What is wrong is told by the panic itself; here, with what.
        assert!(std::panic::catch_unwind(|| holds(&data)).is_ok(), "with {}", path.display());
        count += 1;
    }
    assert!(count >= 5, "{} has {count} inputs", folder.display());
}

#[test]
fn procfiles() {
    all_of("procfile", properties::procfile);
}

#[test]
fn dotenvs() {
    all_of("dotenv", properties::dotenv);
}

#[test]
fn app_jsons() {
    all_of("app_json", properties::app_json);
}

#[test]
fn dozen_tomls() {
    all_of("dozen_toml", properties::dozen_toml);
}

#[test]
fn routes() {
    all_of("route", properties::route);
}

#[test]
fn framings() {
    all_of("framing", properties::framing::framing);
}

#[test]
fn domains() {
    all_of("domain", properties::port::domain);
}

#[test]
fn manners() {
    all_of("manners", properties::port::manners);
}

#[test]
fn sites() {
    all_of("site", properties::port::site);
}

#[test]
fn slug_files() {
    all_of("slug", slug::slug);
}
