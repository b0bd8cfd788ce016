//! Feeds the property `framing` with whatever libFuzzer comes upon.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dozen_fuzz::framing::framing(data));
