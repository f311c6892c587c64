//! Reading a log: a directory's files in order, or one file, line by line, each line checked for itself. The chain is the verifier's part.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::vec;

use crate::line::{self, Entry, LONGEST_RECORD, Malformed};
use crate::log::files;
use crate::verify::Problem;

/// A line that could not be read as a record.
#[derive(Debug, thiserror::Error)]
#[error("{} line {line}: {problem}", file.display())]
pub struct ReadError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: Problem,
}

/// The records of a log, in order. After an error it goes on with the next line.
pub struct Entries {
    lines: Lines,
}

/// Reads the log of a directory, or one of its files.
///
/// # Errors
/// The system's, when the directory or file cannot be read.
pub fn entries(path: &Path) -> io::Result<Entries> {
    Ok(Entries { lines: Lines::of(path)? })
}

impl Iterator for Entries {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.lines.next().map(|line| {
            let Line { file, number, content } = line;
            content.and_then(|bytes| parse(&bytes)).map_err(|problem| ReadError { file, line: number, problem })
        })
    }
}

/// Reads one line as a record.
pub(crate) fn parse(line: &[u8]) -> Result<Entry, Problem> {
    line::read(line).map_err(|malformed| match malformed {
        Malformed::Shape | Malformed::Record => Problem::NotARecord,
        Malformed::Hash => Problem::Changed,
    })
}

fn stands_before(line: &Line, seq: u64) -> bool {
    line.content.as_ref().ok().and_then(|bytes| parse(bytes).ok()).is_some_and(|entry| entry.seq < seq)
}

/// One line with its place.
pub(crate) struct Line {
    pub(crate) file: PathBuf,
    pub(crate) number: u64,
    pub(crate) content: Result<Vec<u8>, Problem>,
}

/// The lines of a log's files.
pub(crate) struct Lines {
    files: vec::IntoIter<PathBuf>,
    current: Option<(PathBuf, BufReader<File>, u64)>,
}

impl Lines {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let files = if path.is_dir() {
            files(path)?.into_iter().map(|(_, file)| file).collect()
        } else {
            File::open(path)?;
            vec![path.to_owned()]
        };
        Ok(Self { files: files.into_iter(), current: None })
    }

    /// The lines of a log from some line on that stands before a record, or is it, without what lies long before; `None` where no file begins early enough.
    /// They are counted from where the reading begins.
    pub(crate) fn not_long_before<'a>(
        files: impl DoubleEndedIterator<Item = &'a PathBuf>,
        seq: u64,
    ) -> io::Result<Option<Self>> {
        let mut later = Vec::new();
        for file in files.rev() {
            if Self::of(file)?.next().is_some_and(|first| stands_before(&first, seq + 1)) {
                later.reverse();
                return Self::near(file, &later, seq).map(Some);
            }
            later.push(file.clone());
        }
        Ok(None)
    }

    /// Looks further back from a file's end, twice as far each time, until a line stands before the record.
    fn near(path: &Path, later: &[PathBuf], seq: u64) -> io::Result<Self> {
        let mut back = NEAR_BYTES;
        loop {
            let mut file = File::open(path)?;
            let start = file.metadata()?.len().saturating_sub(back);
            file.seek(SeekFrom::Start(start))?;
            let current = Some((path.to_owned(), BufReader::new(file), 0));
            let mut lines = Self { files: Vec::from(later).into_iter(), current };
            if start == 0 {
                return Ok(lines);
            }
            // What is left of a line that begins before, and then a whole one.
            if lines.nth(1).is_some_and(|line| stands_before(&line, seq)) {
                return Ok(lines);
            }
            back *= 2;
        }
    }

    fn read_line(path: &Path, reader: &mut BufReader<File>, number: &mut u64) -> Option<Line> {
        let content = match line_of(reader, pause) {
            Ok(bytes) if bytes.is_empty() => return None,
            Ok(mut bytes) => match bytes.pop() {
                Some(b'\n') => Ok(bytes),
                _ if bytes.len() == LONGEST_RECORD - 1 => Err(Problem::NotARecord),
                _ => Err(Problem::Unterminated),
            },
            Err(error) => Err(Problem::Unreadable(error.to_string())),
        };
        *number += 1;
        Some(Line { file: path.to_owned(), number: *number, content })
    }
}

impl Iterator for Lines {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        loop {
            if let Some((path, reader, number)) = &mut self.current
                && let Some(line) = Self::read_line(path, reader, number)
            {
                if matches!(line.content, Err(Problem::Unreadable(_))) {
                    self.current = None;
                }
                return Some(line);
            }
            let path = self.files.next()?;
            match File::open(&path) {
                Ok(file) => self.current = Some((path, BufReader::new(file), 0)),
                Err(error) => {
                    self.current = None;
                    return Some(Line { file: path, number: 0, content: Err(Problem::Unreadable(error.to_string())) });
                }
            }
        }
    }
}

/// The next line with its end, or what there is of it. The end of a line that is being written is waited for: whoever reads beside the writer may come in
/// the middle of a write.
fn line_of(reader: &mut impl BufRead, mut pause: impl FnMut()) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for look in 0..=LOOKS {
        if look > 0 {
            pause();
        }
        reader.by_ref().take((LONGEST_RECORD - bytes.len()) as u64).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() || bytes.ends_with(b"\n") || bytes.len() == LONGEST_RECORD {
            break;
        }
    }
    Ok(bytes)
}

#[expect(clippy::disallowed_methods, reason = "a file says nothing when more of it is written")]
fn pause() {
    std::thread::sleep(AGAIN);
}

/// How often more of a line is looked for, and how long after each look.
const LOOKS: usize = 10;
const AGAIN: Duration = Duration::from_millis(20);
/// How far from a file's end a record near it is looked for first.
const NEAR_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_that_is_being_written_is_read_whole_and_one_that_stays_torn_is_given_as_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = file.reopen().unwrap();
        writer.write_all(b"whole\nha").unwrap();
        let mut reader = BufReader::new(File::open(file.path()).unwrap());
        let mut rest = [&b"lf"[..], b" and half\n"].into_iter();
        let mut more = || writer.write_all(rest.next().unwrap_or_default()).unwrap();
        assert_eq!(line_of(&mut reader, &mut more).unwrap(), b"whole\n");
        assert_eq!(line_of(&mut reader, &mut more).unwrap(), b"half and half\n");
        assert_eq!(line_of(&mut reader, &mut more).unwrap(), b"");
        writer.write_all(b"torn").unwrap();
        let mut waited = 0;
        assert_eq!(line_of(&mut reader, || waited += 1).unwrap(), b"torn");
        assert_eq!(waited, 10);
    }
}
