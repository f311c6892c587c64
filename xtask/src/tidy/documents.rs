//! Documents tell the truth: paths they name exist, and every claim of the security model, and every bound in a table
//! with a column for it, names a test that exists.

use std::path::{Path, PathBuf};

use regex::Regex;

use crate::run::{Outcome, command, output, root};

const CLAIMS: &str = "docs/security-model.md";
const LIMITS: &str = "docs/limits.md";
/// What stands where a bound has no test.
const NONE_YET: &str = "*none yet*";

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

/// Rows of tables that end in a column `test` name one, in the same way, or say that there is none yet.
fn untested_bounds(tests: &Tests) -> Vec<String> {
    let Ok(body) = read(Path::new(LIMITS)) else { return vec![format!("{LIMITS} does not exist")] };
    let mut findings = Vec::new();
    let mut in_table = false;
    for line in body.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells.as_slice() {
            ["", .., "test", ""] => in_table = true,
            ["", first, .., last, ""] if in_table => {
                if !first.starts_with("---") && *last != NONE_YET {
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
    sources: Vec<Source>,
    name: Regex,
}

/// A file in which tests may stand.
struct Source {
    file: PathBuf,
    /// Of Rust: the crate as paths name it, and the modules that the file's own place says.
    place: Option<(String, Vec<String>)>,
    text: String,
}

impl Tests {
    fn read() -> Outcome<Self> {
        let name = Regex::new(r"`((?:[A-Za-z0-9_./-]+::)+[a-z0-9_]+)`").expect("the pattern is valid");
        let files = tracked("*.rs")?.into_iter().chain(tracked("*.py")?);
        Ok(Self { sources: files.map(Source::read).collect::<Outcome<_>>()?, name })
    }

    /// What is wrong with the tests that a line names for `what`.
    fn missing(&self, what: &str, line: &str) -> Vec<String> {
        let names: Vec<_> = self.name.captures_iter(line).map(|found| found[1].to_owned()).collect();
        if names.is_empty() {
            return vec![format!("{what} names no test")];
        }
        let missing = names.iter().filter(|name| !self.sources.iter().any(|source| source.has(name)));
        missing.map(|name| format!("{what} names the test {name}, which does not exist there")).collect()
    }
}

impl Source {
    fn read(file: PathBuf) -> Outcome<Self> {
        Ok(Self { place: place_of(&file)?, text: read(&file)?, file })
    }

    /// Whether a test stands here under its whole name.
    fn has(&self, name: &str) -> bool {
        let parts: Vec<&str> = name.split("::").collect();
        let (Some((first, rest)), Some(test)) = (parts.split_first(), parts.last()) else { return false };
        match &self.place {
            None => Path::new(first) == self.file && self.text.contains(&format!("def {test}(")),
            Some((krate, modules)) => {
                first == krate
                    && self.text.contains(&format!("fn {test}("))
                    && self.leads_to(modules, &rest[..rest.len() - 1])
            }
        }
    }

    /// The file's own place, then modules that are written in it.
    fn leads_to(&self, modules: &[String], named: &[&str]) -> bool {
        let Some(inline) = named.get(modules.len()..) else { return false };
        modules.iter().zip(named).all(|(own, named)| own == named)
            && inline.iter().all(|module| self.text.contains(&format!("mod {module} {{")))
    }
}

/// The crate and modules of a Rust file; an integration test's binary counts as a module.
fn place_of(file: &Path) -> Outcome<Option<(String, Vec<String>)>> {
    if file.extension().is_none_or(|extension| extension != "rs") {
        return Ok(None);
    }
    let parts: Vec<&str> = file.iter().filter_map(|part| part.to_str()).collect();
    let Some(at) = parts.iter().position(|part| ["src", "tests", "examples", "benches", "fuzz_targets"].contains(part))
    else {
        return Ok(None);
    };
    let manifest = parts[..at].iter().collect::<PathBuf>().join("Cargo.toml");
    let text = read(&manifest)?;
    let Some(name) = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')) else {
        return Ok(None);
    };
    let modules = parts[at + 1..].iter().map(|part| part.trim_end_matches(".rs"));
    let mut modules: Vec<_> =
        modules.filter(|part| !["mod", "lib", "main"].contains(part)).map(str::to_owned).collect();
    // A test's binary and the module in it that is called as it is.
    modules.dedup();
    Ok(Some((name.replace('-', "_"), modules)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn source(file: &str, place: Option<(&str, &[&str])>, text: &str) -> Source {
        let place =
            place.map(|(krate, modules)| (krate.to_owned(), modules.iter().map(|&part| part.to_owned()).collect()));
        Source { file: file.into(), place, text: text.to_owned() }
    }

    #[test]
    fn a_test_counts_where_its_whole_name_leads_and_nowhere_else() {
        let rust = source("crates/a/src/b.rs", Some(("a", &["b"])), "mod tests {\n fn holds() {} }");
        for (name, there) in [
            ("a::b::tests::holds", true),
            ("a::tests::holds", false),
            ("a::b::others::holds", false),
            ("c::b::tests::holds", false),
            ("a::b::tests::other", false),
            ("holds", false),
        ] {
            assert_eq!(rust.has(name), there, "{name}");
        }
        let python = source("tests/sdk/test_a.py", None, "def test_holds():\n");
        assert!(python.has("tests/sdk/test_a.py::test_holds"));
        assert!(!python.has("tests/cli/test_a.py::test_holds"));
    }

    #[test]
    fn a_files_place_is_its_crate_and_modules() {
        let place = |file: &str| place_of(Path::new(file)).unwrap().unwrap();
        assert_eq!(place("xtask/src/tidy/documents.rs"), ("xtask".into(), vec!["tidy".into(), "documents".into()]));
        let boundary = place("crates/perimeter/sandbox/tests/boundary/boundary/lent.rs");
        assert_eq!(boundary, ("postern_sandbox".into(), vec!["boundary".into(), "lent".into()]));
        assert_eq!(place("crates/perimeter/sandbox/src/lib.rs"), ("postern_sandbox".into(), vec![]));
    }
}
