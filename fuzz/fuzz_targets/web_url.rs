//! Fuzz target: URLs of the web tools.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_policy::fuzzing::web_url(bytes));
