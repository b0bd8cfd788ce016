//! Feeds the property `app_json` with whatever libFuzzer comes upon.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dozen_fuzz::app_json(data));
