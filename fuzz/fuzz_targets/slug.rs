//! Feeds the property `slug` with whatever libFuzzer comes upon.
#![no_main]

#[path = "../src/slug.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|data: &[u8]| property::slug(data));
