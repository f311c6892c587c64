//! Documents tell the truth: paths they name exist, and every claim of the security model, and every bound in a table
//! with a column for it, names a test that exists.

use std::path::{Path, PathBuf};

use regex::Regex;

use crate::run::{Outcome, command, output, root};

const CLAIMS: &str = "docs/security-model.md";
const LIMITS: &str = "docs/limits.md";

/// Every path or test a document names in vain.
pub(crate) fn findings() -> Outcome<Vec<String>> {
    let mut findings = Vec::new();
    for document in tracked("*.md")? {
        findings.extend(missing_paths(&document)?);
    }
    let tests = Tests::read()?;
    findings.extend(missing_tests(&tests));
    findings.extend(untested_bounds(&tests));
    Ok(findings)
}

fn missing_paths(document: &Path) -> Outcome<Vec<String>> {
    let code = Regex::new(r"`([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)+/?)`").expect("the pattern is valid");
    let link = Regex::new(r"\]\(([^)#:]+)(?:#[^)]*)?\)").expect("the pattern is valid");
    let body = read(document)?;
    let here = document.parent().unwrap_or(Path::new(""));
    let named = code.captures_iter(&body).map(|found| (found[1].to_owned(), false));
    let linked = link.captures_iter(&body).map(|found| (found[1].to_owned(), true));
    let missing = named.chain(linked).filter(|(path, is_link)| {
        let from_root = root().join(path);
        let from_here = root().join(here).join(path);
        (*is_link || looks_like_ours(path)) && !from_root.exists() && !from_here.exists()
    });
    Ok(missing.map(|(path, _)| format!("{} names {path}, which does not exist", document.display())).collect())
}

fn looks_like_ours(path: &str) -> bool {
    ["bin/", "crates/", "docs/", "xtask/", "tests/", ".ci/", "fuzz/"].iter().any(|top| path.starts_with(top))
}

/// Claims name tests as `crate::path::test_name` or `tests/file.py::test_name` in code quotes in the last table column.
fn missing_tests(tests: &Tests) -> Vec<String> {
    let Ok(body) = read(Path::new(CLAIMS)) else { return vec![format!("{CLAIMS} does not exist")] };
    let claim = Regex::new(r"^\|\s*(P[1-8]\.[0-9]+)\s*\|").expect("the pattern is valid");
    let claims = body.lines().filter_map(|line| Some((claim.captures(line)?[1].to_owned(), line)));
    claims.flat_map(|(id, line)| tests.missing(&format!("claim {id} of {CLAIMS}"), line)).collect()
}

/// Rows of tables that end in a column `test` name one, in the same way.
fn untested_bounds(tests: &Tests) -> Vec<String> {
    let Ok(body) = read(Path::new(LIMITS)) else { return vec![format!("{LIMITS} does not exist")] };
    let mut findings = Vec::new();
    let mut in_table = false;
    for line in body.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells.as_slice() {
            ["", .., "test", ""] => in_table = true,
            ["", first, .., last, ""] if in_table => {
                if !first.starts_with("---") {
                    findings.extend(tests.missing(&format!("the bound '{first}' of {LIMITS}"), last));
                }
            }
            _ => in_table = false,
        }
    }
    findings
}

/// What documents may name.
struct Tests {
    sources: String,
    name: Regex,
}

impl Tests {
    fn read() -> Outcome<Self> {
        let name = Regex::new(r"`(?:[A-Za-z0-9_./-]+::)+([a-z0-9_]+)`").expect("the pattern is valid");
        Ok(Self { sources: all_sources()?, name })
    }

    /// What is wrong with the tests that a line names for `what`.
    fn missing(&self, what: &str, line: &str) -> Vec<String> {
        let names: Vec<_> = self.name.captures_iter(line).map(|found| found[1].to_owned()).collect();
        if names.is_empty() {
            return vec![format!("{what} names no test")];
        }
        let there = |name: &str| {
            self.sources.contains(&format!("fn {name}(")) || self.sources.contains(&format!("def {name}("))
        };
        let missing = names.iter().filter(|name| !there(name));
        missing.map(|name| format!("{what} names the test {name}, which does not exist")).collect()
    }
}

fn all_sources() -> Outcome<String> {
    let mut all = String::new();
    for file in tracked("*.rs")?.into_iter().chain(tracked("*.py")?) {
        all.push_str(&read(&file)?);
    }
    Ok(all)
}

fn tracked(pattern: &str) -> Outcome<Vec<PathBuf>> {
    Ok(output(command("git").args(["ls-files", pattern]))?
        .lines()
        .map(PathBuf::from)
        .filter(|path| root().join(path).exists())
        .collect())
}

fn read(file: &Path) -> Outcome<String> {
    std::fs::read_to_string(root().join(file)).map_err(|cause| format!("read {}: {cause}", file.display()))
}
