//! Fuzz target: answers of upstreams.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::http_answer(bytes));
