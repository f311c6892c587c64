//! Fuzz target: the URLs that a text shows.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_policy::fuzzing::shown_urls(bytes));
