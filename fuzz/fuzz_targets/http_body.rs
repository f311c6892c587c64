//! Fuzz target: request bodies.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::http_body(bytes));
