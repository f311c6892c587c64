//! Fuzz target: strict JSON.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_gateway::fuzzing::strict_json(bytes));
