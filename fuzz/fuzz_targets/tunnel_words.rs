//! Fuzz target: words of the carrying connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_tunnel::fuzzing::words(bytes));
