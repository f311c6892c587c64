//! Fuzz target: request heads.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::http_request(bytes));
