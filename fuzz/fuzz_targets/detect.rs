//! Fuzz target: streams in which secrets are looked for.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_secret::fuzzing::detect(bytes));
