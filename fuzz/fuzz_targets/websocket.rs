//! Fuzz target: WebSocket frames, in both directions.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::websocket(bytes));
