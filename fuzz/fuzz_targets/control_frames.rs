//! Fuzz target: frames of the control stream.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_net::fuzzing::control_frames(bytes));
