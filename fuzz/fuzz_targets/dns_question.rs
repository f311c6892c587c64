//! Fuzz target: DNS questions.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::dns_question(bytes));
