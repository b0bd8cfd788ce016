//! Feeds the property `manners` with whatever libFuzzer comes upon.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dozen_fuzz::port::manners(data));
