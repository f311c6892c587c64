//! Fuzz target: the worker's journal.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_runner::fuzzing::journal(bytes));
