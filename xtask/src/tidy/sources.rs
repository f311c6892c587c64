//! House rules over source text: where unsafe may stand, what unfinished code looks like, how long a file may grow.

use std::path::Path;

use crate::run::{Outcome, command, output, root};

const LONGEST_FILE_LINES: usize = 600;
const UNSAFE_MODULE: &str = "crates/perimeter/sandbox/src/sys.rs";

/// Every source line that breaks a rule.
pub(crate) fn findings() -> Outcome<Vec<String>> {
    let mut findings = Vec::new();
    for file in output(command("git").args(["ls-files", "*.rs"]))?.lines().filter(|file| root().join(file).exists()) {
        let body = std::fs::read_to_string(root().join(file)).map_err(|cause| format!("read {file}: {cause}"))?;
        findings.extend(in_file(file, &body));
    }
    Ok(findings)
}

fn in_file(file: &str, body: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !is_test(file) && body.lines().count() > LONGEST_FILE_LINES {
        findings.push(format!("{file} has more than {LONGEST_FILE_LINES} lines: is it still one idea?"));
    }
    if !is_test(file) && !body.starts_with("//!") {
        findings.push(format!("{file} does not open with what it is for"));
    }
    for (number, line) in body.lines().enumerate() {
        for problem in in_line(file, line) {
            findings.push(format!("{file}:{}: {problem}", number + 1));
        }
    }
    findings
}

fn in_line(file: &str, line: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let code = line.trim_start();
    if file != UNSAFE_MODULE && (code.contains(concat!("unsafe", " {")) || code.starts_with(concat!("unsafe", " "))) {
        problems.push(format!("unsafe stands outside {UNSAFE_MODULE}"));
    }
    let unfinished = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("TO", "DO"), concat!("FIX", "ME")];
    if unfinished.iter().any(|mark| code.contains(mark)) {
        problems.push("unfinished code".to_owned());
    }
    if code.contains(concat!("#[ign", "ore")) {
        problems.push("an ignored test".to_owned());
    }
    if is_test(file) && code.contains(concat!("thread::sl", "eep(")) {
        problems.push("a sleep as synchronisation in a test".to_owned());
    }
    problems
}

fn is_test(file: &str) -> bool {
    Path::new(file).components().any(|part| part.as_os_str() == "tests") || file.ends_with("tests.rs")
}
