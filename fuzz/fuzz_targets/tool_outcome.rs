//! Fuzz target: what a sandbox answers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_tools::fuzzing::outcome(bytes));
