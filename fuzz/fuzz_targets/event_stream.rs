//! Fuzz target: server-sent events.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_net::fuzzing::event_stream(bytes));
