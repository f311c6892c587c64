//! Fuzz target: messages with their length before them.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::grpc_messages(bytes));
