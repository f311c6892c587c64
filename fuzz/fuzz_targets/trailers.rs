//! Fuzz target: what follows a request's body.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::trailers(bytes));
