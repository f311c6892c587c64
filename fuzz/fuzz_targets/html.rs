//! Fuzz target: a page as text.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_upstream::fuzzing::html(bytes));
