//! Fuzz target: what a sandbox is asked.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_tools::fuzzing::request(bytes));
