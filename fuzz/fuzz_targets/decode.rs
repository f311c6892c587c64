//! Fuzz target: encoded bodies.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_secret::fuzzing::decode(bytes));
