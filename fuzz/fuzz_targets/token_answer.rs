//! Fuzz target: what a token endpoint answers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_gateway::fuzzing::token_answer(bytes));
