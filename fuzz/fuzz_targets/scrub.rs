//! Fuzz target: streams from which secrets are taken.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_secret::fuzzing::scrub(bytes));
