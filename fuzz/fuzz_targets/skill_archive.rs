//! Fuzz target: the archive of a skill.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| postern_runner::fuzzing::skill_archive(bytes));
