//! Fuzz target: values of a query or a form as places.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_policy::fuzzing::pair_places(bytes));
