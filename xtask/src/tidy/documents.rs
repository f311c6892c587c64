//! Documents tell the truth: paths they name exist, and every claim of the security model names a test that exists.

use std::path::{Path, PathBuf};

use regex::Regex;

use crate::run::{Outcome, command, output, root};

const CLAIMS: &str = "docs/security-model.md";

/// Every path or test a document names in vain.
pub(crate) fn findings() -> Outcome<Vec<String>> {
    let mut findings = Vec::new();
    for document in tracked("*.md")? {
        findings.extend(missing_paths(&document)?);
    }
    findings.extend(missing_tests()?);
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
fn missing_tests() -> Outcome<Vec<String>> {
    let Ok(body) = read(Path::new(CLAIMS)) else { return Ok(vec![format!("{CLAIMS} does not exist")]) };
    let test = Regex::new(r"`(?:[A-Za-z0-9_./-]+::)+([a-z0-9_]+)`").expect("the pattern is valid");
    let claim = Regex::new(r"^\|\s*(P[1-8]\.[0-9]+)\s*\|").expect("the pattern is valid");
    let sources = all_sources()?;
    let mut findings = Vec::new();
    for line in body.lines() {
        let Some(id) = claim.captures(line).map(|found| found[1].to_owned()) else { continue };
        let tests: Vec<_> = test.captures_iter(line).map(|found| found[1].to_owned()).collect();
        if tests.is_empty() {
            findings.push(format!("claim {id} of {CLAIMS} names no test"));
        }
        for name in tests
            .iter()
            .filter(|name| !sources.contains(&format!("fn {name}(")) && !sources.contains(&format!("def {name}(")))
        {
            findings.push(format!("claim {id} of {CLAIMS} names the test {name}, which does not exist"));
        }
    }
    Ok(findings)
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
