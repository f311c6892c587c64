//! Fuzz target: identities of calls.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_tunnel::fuzzing::identity(bytes));
