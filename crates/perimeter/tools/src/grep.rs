//! `grep` by ripgrep's own libraries, with the output of `rg --no-config -n --no-heading -e PATTERN -- ROOT`.
//! Files come in name order, where ripgrep's order varies. Never follows a link, never starts a program.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkMatch};
use ignore::WalkBuilder;
use rustix::fs::OFlags;
use serde_json::{Map, Value};

use crate::arguments::{Arguments, ToolError};
use crate::deadline::Deadline;
use crate::paths::PathPolicy;
use crate::wire::Block;

const MAX_OUTPUT_CHARACTERS: usize = 100 * 1024;
/// No character takes more than four bytes, so a buffer past this is certainly over the limit.
const MAX_BUFFERED_BYTES: usize = 4 * MAX_OUTPUT_CHARACTERS + 1;
/// A single line longer than this is an error for its file; it stops a file without line ends from filling the sandbox.
const MAX_LINE_BYTES: usize = 32 * 1024 * 1024;
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// Runs `grep`.
pub(crate) fn grep(policy: &PathPolicy, input: &Map<String, Value>, deadline: &Deadline) -> Result<Block, ToolError> {
    let arguments = Arguments::new("grep", input, &["pattern", "path"])?;
    let (pattern, path) = (arguments.text("pattern")?, arguments.optional_text("path")?);
    let target = match path.filter(|path| !path.is_empty()) {
        Some(path) => policy.resolve(path).map_err(|error| ToolError(format!("grep: {error}")))?,
        None => policy.workdir_target(),
    };
    let matcher = matcher(pattern)?;
    let mut search =
        Search { matcher, deadline, output: Vec::new(), errors: String::new(), matched: false, expired: false };
    search.run(&target.full());
    search.answer()
}

fn matcher(pattern: &str) -> Result<RegexMatcher, ToolError> {
    RegexMatcherBuilder::new()
        .multi_line(true)
        .line_terminator(Some(b'\n'))
        .ban_byte(Some(b'\0'))
        .build_many(&[pattern])
        .map_err(|error| ToolError(format!("grep: rg failed: rg: {}\n", suggest(&error.to_string()))))
}

/// ripgrep's advice for a pattern that can match a line end.
fn suggest(text: &str) -> String {
    if !text.contains("the literal") || !text.contains("not allowed") {
        return text.to_owned();
    }
    if text.contains("\\0") {
        return text.to_owned();
    }
    format!(
        "{text}\n\nConsider enabling multiline mode with the --multiline flag (or -U for short).\nWhen multiline mode is enabled, new line characters can be matched."
    )
}

struct Search<'a> {
    matcher: RegexMatcher,
    deadline: &'a Deadline,
    output: Vec<u8>,
    errors: String,
    matched: bool,
    expired: bool,
}

impl Search<'_> {
    fn run(&mut self, root: &Path) {
        if root.is_dir() {
            return self.directory(root);
        }
        match open(root) {
            Ok(Some(file)) => self.file(root, &file, Naming::LineOnly),
            Ok(None) => {}
            Err(error) => self.error(root, &error),
        }
    }

    fn directory(&mut self, root: &Path) {
        let mut walk = WalkBuilder::new(root);
        walk.add_custom_ignore_filename(".rgignore").sort_by_file_name(std::ffi::OsStr::cmp);
        for entry in walk.build() {
            if self.over() {
                return;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.complain(&error.to_string());
                    continue;
                }
            };
            if !entry.file_type().is_some_and(|kind| kind.is_file()) {
                continue;
            }
            match open(entry.path()) {
                Ok(Some(file)) => self.file(entry.path(), &file, Naming::WithPath),
                Ok(None) => {}
                Err(error) => self.error(entry.path(), &error),
            }
        }
    }

    fn file(&mut self, path: &Path, file: &File, naming: Naming) {
        let binary = match naming {
            Naming::WithPath => BinaryDetection::quit(0),
            Naming::LineOnly => BinaryDetection::convert(0),
        };
        let mut searcher =
            SearcherBuilder::new().line_number(true).binary_detection(binary).heap_limit(Some(MAX_LINE_BYTES)).build();
        let matcher = self.matcher.clone();
        let prefix = match naming {
            Naming::WithPath => path.as_os_str().as_encoded_bytes().to_vec(),
            Naming::LineOnly => Vec::new(),
        };
        let mut sink = Lines { search: self, prefix, matches: 0, binary_at: None };
        if let Err(error) = searcher.search_file(&matcher, file, &mut sink) {
            self.error(path, &error);
        }
    }

    fn error(&mut self, path: &Path, error: &io::Error) {
        self.complain(&format!("{}: {error}", path.display()));
    }

    fn complain(&mut self, text: &str) {
        if self.errors.len() < MAX_ERROR_BYTES {
            self.errors.push_str("rg: ");
            self.errors.push_str(text);
            self.errors.push('\n');
        }
    }

    fn over(&mut self) -> bool {
        self.expired |= self.deadline.passed();
        self.expired || self.output.len() > MAX_BUFFERED_BYTES
    }

    fn answer(self) -> Result<Block, ToolError> {
        if self.expired {
            return Err(ToolError::new("tool 'grep' timed out"));
        }
        if !self.errors.is_empty() {
            return Err(ToolError(format!("grep: rg failed: {}", self.errors)));
        }
        if !self.matched {
            return Ok(Block::text("no matches"));
        }
        let text = String::from_utf8_lossy(&self.output);
        Ok(Block::text(match text.char_indices().nth(MAX_OUTPUT_CHARACTERS) {
            Some((cut, _)) => format!("{}\n[output truncated at {MAX_OUTPUT_CHARACTERS} bytes]", &text[..cut]),
            None => text.into_owned(),
        }))
    }
}

/// Whether lines carry their file's path: they do unless the search is of one file.
#[derive(Clone, Copy)]
enum Naming {
    WithPath,
    LineOnly,
}

fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("open flags fit in an int: they are the C library's");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

struct Lines<'s, 'd> {
    search: &'s mut Search<'d>,
    prefix: Vec<u8>,
    matches: u64,
    binary_at: Option<u64>,
}

impl Lines<'_, '_> {
    fn put_prefix(&mut self) {
        if !self.prefix.is_empty() {
            self.search.output.extend_from_slice(&self.prefix);
            self.search.output.push(b':');
        }
    }
}

impl Sink for Lines<'_, '_> {
    type Error = io::Error;

    fn matched(&mut self, searcher: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        self.matches += 1;
        self.search.matched = true;
        if searcher.binary_detection().convert_byte().is_some() && self.binary_at.is_some() {
            return Ok(false);
        }
        self.put_prefix();
        let number = found.line_number().map_or_else(String::new, |number| format!("{number}:"));
        self.search.output.extend_from_slice(number.as_bytes());
        let room = MAX_BUFFERED_BYTES + 1;
        let line = found.bytes();
        self.search.output.extend_from_slice(&line[..line.len().min(room)]);
        if !line.ends_with(b"\n") {
            self.search.output.push(b'\n');
        }
        Ok(!self.search.over())
    }

    fn binary_data(&mut self, _: &Searcher, offset: u64) -> Result<bool, io::Error> {
        self.binary_at = Some(offset);
        Ok(true)
    }

    fn finish(&mut self, searcher: &Searcher, _: &grep_searcher::SinkFinish) -> Result<(), io::Error> {
        let Some(offset) = self.binary_at.filter(|_| self.matches > 0) else { return Ok(()) };
        if !self.prefix.is_empty() {
            self.search.output.extend_from_slice(&self.prefix);
            self.search.output.extend_from_slice(b": ");
        }
        let what = if searcher.binary_detection().convert_byte().is_some() {
            "binary file matches"
        } else {
            "WARNING: stopped searching binary file after match"
        };
        let text = format!("{what} (found \"\\0\" byte around offset {offset})\n");
        self.search.output.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn searched(run: impl FnOnce(&mut Search<'_>)) -> (String, usize) {
        let deadline = Deadline::after(Duration::from_secs(60));
        let matcher = matcher("needle").expect("a pattern");
        let mut search = Search {
            matcher,
            deadline: &deadline,
            output: Vec::new(),
            errors: String::new(),
            matched: false,
            expired: false,
        };
        run(&mut search);
        (search.errors.clone(), search.output.len())
    }

    #[test]
    fn errors_end_and_a_line_without_end_is_one() {
        let (errors, _) = searched(|search| (0..10_000).for_each(|_| search.complain("it went wrong")));
        assert!((16 << 10..(16 << 10) + 100).contains(&errors.len()), "{}", errors.len());
        let place = tempfile::tempdir().expect("a directory");
        for (bytes, wrong) in [(1 << 20, false), (33 << 20, true)] {
            let path = place.path().join("line");
            std::fs::write(&path, vec![b'x'; bytes]).expect("written");
            let (errors, _) = searched(|search| search.run(&path));
            assert_eq!(!errors.is_empty(), wrong, "{bytes}: {errors}");
        }
    }

    #[test]
    fn what_is_found_is_shown_as_far_as_the_bound() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("many");
        std::fs::write(&path, "a needle in every line\n".repeat(100_000)).expect("written");
        let (_, output) = searched(|search| search.run(&path));
        assert!(output <= 2 * MAX_BUFFERED_BYTES, "{output}");
        let root = crate::wire::Configuration { workdir: place.path().to_owned(), roots: Vec::new() };
        let input = serde_json::json!({"pattern": "needle", "path": "many"});
        let serde_json::Value::Object(input) = input else { panic!("it is an object") };
        let shown = grep(&PathPolicy::new(&root), &input, &Deadline::after(Duration::from_secs(60)));
        let Ok(Block::Text { text }) = shown else { panic!("a text") };
        assert!(text.ends_with("[output truncated at 102400 bytes]") && text.len() < (100 << 10) + 100);
    }
}
