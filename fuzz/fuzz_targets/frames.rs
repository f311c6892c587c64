//! Fuzz target: frames between processes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_exec::fuzzing::frames(bytes));
