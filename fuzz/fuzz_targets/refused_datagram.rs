//! Fuzz target: the kernel's reports of refused datagrams.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_egress::fuzzing::refused_datagram(bytes));
