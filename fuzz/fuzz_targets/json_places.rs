//! Fuzz target: strings of a JSON body as places.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_policy::fuzzing::json_places(bytes));
