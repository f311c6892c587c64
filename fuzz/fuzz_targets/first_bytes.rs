//! Fuzz target: the first bytes of a connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::first_bytes(bytes));
