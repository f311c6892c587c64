//! Fuzz target: configuration documents: zones, routes, roles.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_policy::fuzzing::document(bytes));
