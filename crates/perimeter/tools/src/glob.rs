//! `glob` with the semantics of Python 3.11's `Path.glob`. Lists names only; what a link leads out of the root is dropped.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::arguments::{Arguments, ToolError};
use crate::deadline::Deadline;
use crate::paths::{self, PathPolicy};
use crate::pattern::{self, NamePattern};
use crate::python;
use crate::wire::Block;

const MAX_MATCHES: usize = 50_000;
const MAX_RESULTS: usize = 200;
/// Deeper trees than this are not descended: the walk recurses, and a path this long cannot be opened anyway.
const MAX_DEPTH: usize = 2_048;

/// Runs `glob`.
pub(crate) fn glob(policy: &PathPolicy, input: &Map<String, Value>, deadline: &Deadline) -> Result<Block, ToolError> {
    let arguments = Arguments::new("glob", input, &["pattern", "path"])?;
    let (text, path) = (arguments.text("pattern")?, arguments.optional_text("path")?);
    if text.starts_with('/') {
        return Err(ToolError::new(
            "glob: absolute pattern not permitted; pass a relative pattern (and optionally path)",
        ));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(ToolError::new("glob: '..' is not permitted in the pattern"));
    }
    let root = match path.filter(|path| !path.is_empty()) {
        Some(path) => policy.resolve(path).map_err(|error| ToolError(format!("glob: {error}")))?.full(),
        None => policy.workdir().to_owned(),
    };
    let steps = steps(text)?;
    let mut walk = Walk { matches: Vec::new(), deadline, expired: false };
    if root.is_dir() {
        walk.select(&root, &steps, 0);
    }
    if walk.expired {
        return Err(ToolError::new("tool 'glob' timed out"));
    }
    Ok(Block::text(newest(walk.matches, &root)))
}

/// One component of the pattern.
#[derive(Debug)]
enum Step {
    Exact(String),
    Wildcard(NamePattern),
    Recursive,
    /// A slash at the end: only directories are left.
    DirectoryOnly,
}

fn steps(pattern: &str) -> Result<Vec<Step>, ToolError> {
    let mut steps =
        pattern.split('/').filter(|part| !matches!(*part, "" | ".")).map(step).collect::<Result<Vec<_>, _>>()?;
    if steps.is_empty() {
        return Err(ToolError(format!("glob: Unacceptable pattern: {}", python::repr(pattern))));
    }
    if pattern.ends_with('/') {
        steps.push(Step::DirectoryOnly);
    }
    Ok(steps)
}

fn step(part: &str) -> Result<Step, ToolError> {
    Ok(match part {
        "**" => Step::Recursive,
        part if part.contains("**") => {
            return Err(ToolError::new("glob: Invalid pattern: '**' can only be an entire path component"));
        }
        part if pattern::has_wildcard(part) => Step::Wildcard(NamePattern::new(part)),
        part => Step::Exact(part.to_owned()),
    })
}

struct Walk<'a> {
    matches: Vec<PathBuf>,
    deadline: &'a Deadline,
    expired: bool,
}

impl Walk<'_> {
    fn select(&mut self, at: &Path, steps: &[Step], depth: usize) {
        if self.full() {
            return;
        }
        let Some((step, rest)) = steps.split_first() else {
            self.matches.push(at.to_owned());
            return;
        };
        match step {
            Step::DirectoryOnly => self.matches.push(at.to_owned()),
            Step::Exact(name) => {
                let path = at.join(name);
                if if rest.is_empty() { path.exists() } else { path.is_dir() } {
                    self.select(&path, rest, depth);
                }
            }
            Step::Wildcard(pattern) => {
                for entry in entries(at) {
                    if pattern.matches(&entry.file_name().to_string_lossy())
                        && (rest.is_empty() || entry.path().is_dir())
                    {
                        self.select(&entry.path(), rest, depth);
                    }
                }
            }
            Step::Recursive => self.recurse(at, rest, depth),
        }
    }

    fn recurse(&mut self, at: &Path, rest: &[Step], depth: usize) {
        if self.full() || depth > MAX_DEPTH {
            return;
        }
        let before = self.matches.len();
        self.select(at, rest, depth);
        self.forget_repeats(before, rest);
        for entry in entries(at) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.recurse(&entry.path(), rest, depth + 1);
            }
        }
    }

    /// A second `**` reaches the same path by several ways; each is listed once.
    fn forget_repeats(&mut self, before: usize, rest: &[Step]) {
        if !rest.iter().any(|step| matches!(step, Step::Recursive)) {
            return;
        }
        let mut seen: std::collections::HashSet<PathBuf> = self.matches[..before].iter().cloned().collect();
        let mut position = 0;
        self.matches.retain(|path| {
            position += 1;
            position <= before || seen.insert(path.clone())
        });
    }

    fn full(&mut self) -> bool {
        self.expired |= self.deadline.passed();
        self.expired || self.matches.len() >= MAX_MATCHES
    }
}

fn entries(directory: &Path) -> Vec<fs::DirEntry> {
    fs::read_dir(directory).map(|entries| entries.flatten().collect()).unwrap_or_default()
}

fn newest(matches: Vec<PathBuf>, root: &Path) -> String {
    let mut inside: Vec<(f64, PathBuf)> = matches
        .into_iter()
        .filter(|path| paths::canonicalize(path).is_ok_and(|canonical| canonical.starts_with(root)))
        .map(|path| (modified(&path), path))
        .collect();
    if inside.is_empty() {
        return "no matches".to_owned();
    }
    inside.sort_by(|(left, _), (right, _)| right.total_cmp(left));
    let lines: Vec<_> = inside.iter().take(MAX_RESULTS).map(|(_, path)| path.to_string_lossy()).collect();
    lines.join("\n")
}

/// Seconds as a float, like Python's `st_mtime`: two times that it cannot tell apart keep their order here too.
#[expect(clippy::cast_precision_loss, reason = "the reference loses the same precision")]
fn modified(path: &Path) -> f64 {
    fs::metadata(path).map_or(0.0, |metadata| metadata.mtime() as f64 + 1e-9 * metadata.mtime_nsec() as f64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_walk_ends_with_so_many_matches_and_at_such_a_depth() {
        let place = tempfile::tempdir().expect("a directory");
        for name in ["a", "b", "c"] {
            fs::write(place.path().join(name), "").expect("written");
        }
        let deadline = Deadline::after(Duration::from_secs(60));
        let walk = |found: usize| Walk { matches: vec![PathBuf::new(); found], deadline: &deadline, expired: false };
        let (all, below) = (steps("*").expect("a pattern"), steps("**/*").expect("a pattern"));
        let mut full = walk(49_999);
        full.select(place.path(), &all, 0);
        assert_eq!(full.matches.len(), 50_000);
        for (depth, found) in [(2_048, 3), (2_049, 0)] {
            let mut walk = walk(0);
            walk.select(place.path(), &below, depth);
            assert_eq!(walk.matches.len(), found, "{depth}");
        }
    }
}
