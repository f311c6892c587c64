//! Fuzz target: what is sealed.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_secret::fuzzing::sealed(bytes));
