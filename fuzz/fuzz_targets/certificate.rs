//! Fuzz target: the text of a tunnel's authority.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_tunnel::fuzzing::certificate(bytes));
