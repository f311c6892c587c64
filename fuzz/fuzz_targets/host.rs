//! Fuzz target: hosts and patterns.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_policy::fuzzing::host(bytes));
