//! End to end: apps in languages whose own tools build them. Real modules from real registries.

use crate::deployed::{Place, are_a_builders};
use std::fs;
use std::path::{Path, PathBuf};

mod go;
mod java;
mod php;
mod ruby;
mod rust;

/// What a language's tools keep is shared by all tests, as if the app had been built here before.
fn place(language: &str, files: &[(&str, &str)]) -> Place {
    let place = Place::new(files);
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("languages").join(language);
    let downloads = place.home().join("cache/shop/downloads");
    fs::create_dir_all(&shared).expect("made");
    fs::create_dir_all(downloads.parent().expect("a parent")).expect("made");
    std::os::unix::fs::symlink(shared, &downloads).expect("linked");
    are_a_builders(&downloads);
    place
}

/// The trees of all slugs of a place.
fn trees(place: &Place) -> Vec<PathBuf> {
    let slugs = fs::read_dir(place.home().join("slugs")).into_iter().flatten().flatten();
    slugs.map(|s| s.path().join("tree")).filter(|t| t.is_dir()).collect()
}

/// The one slug's tree.
fn tree(place: &Place) -> PathBuf {
    let all = trees(place);
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().expect("one")
}
