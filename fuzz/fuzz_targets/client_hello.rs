//! Fuzz target: what a TLS ClientHello asks for.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::client_hello(bytes));
