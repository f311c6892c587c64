//! Fuzz target: segments of a path as places.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_policy::fuzzing::path_places(bytes));
