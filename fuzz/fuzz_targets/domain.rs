//! Feeds the property `domain` with whatever libFuzzer comes upon.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dozen_fuzz::port::domain(data));
