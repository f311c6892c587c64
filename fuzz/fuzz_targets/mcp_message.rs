//! Fuzz target: MCP messages.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_gateway::fuzzing::message(bytes));
