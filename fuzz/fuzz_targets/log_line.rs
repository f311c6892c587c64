//! Fuzz target: lines of the audit log.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_audit::fuzzing::log_line(bytes));
