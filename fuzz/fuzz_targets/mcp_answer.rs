//! Fuzz target: answers of MCP servers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_gateway::fuzzing::answer(bytes));
