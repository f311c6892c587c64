//! Fuzz target: arguments of an MCP call against a rule.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_policy::fuzzing::arguments(bytes));
