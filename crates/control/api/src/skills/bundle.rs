//! The files of an upload: plain relative paths in one directory, few and small enough, with instructions at its root.

use std::collections::{BTreeMap, BTreeSet};

use postern_model::Problem;
use postern_model::problem::Kind;
use postern_model::skill::{INSTRUCTIONS, MemberPath, SkillName};

use super::archive;
use super::frontmatter;

/// The most files of a skill.
const MAX_FILES: usize = 500;
/// The most bytes of all of them.
const MAX_BYTES: usize = 30_000_000;

/// Files as they arrive.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    top: Option<String>,
    files: BTreeMap<MemberPath, Vec<u8>>,
    bytes: usize,
}

/// A whole skill.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) name: SkillName,
    pub(crate) description: String,
    files: BTreeMap<MemberPath, Vec<u8>>,
}

impl Collector {
    /// Begins a file, named as sent; its bytes follow: [`Collector::write`].
    ///
    /// # Errors
    /// 400 for a path that is none, that is taken, or that lies in another directory than the first.
    pub(crate) fn begin(&mut self, sent: &str) -> Result<MemberPath, Problem> {
        let shown: String = sent.chars().filter(|character| !character.is_control()).take(200).collect();
        let refused = |why: &str| Problem::invalid_at("files", format!("`{shown}` cannot be a skill's file: {why}"));
        if self.files.len() >= MAX_FILES {
            return Err(Problem::invalid_at("files", format!("at most {MAX_FILES} files are allowed")));
        }
        let path = MemberPath::parse(sent).map_err(refused)?;
        let Some((top, path)) = path.split() else {
            return Err(refused("it lies in no directory; send each file as `my-skill/...`, all in one directory"));
        };
        match &self.top {
            None => self.top = Some(top.to_owned()),
            Some(first) if first != top => {
                return Err(refused(&format!("all files lie in one directory, and the first lies in `{first}`")));
            }
            Some(_) => {}
        }
        if self.files.contains_key(&path) {
            return Err(refused("it was sent twice"));
        }
        self.files.insert(path.clone(), Vec::new());
        Ok(path)
    }

    /// The next bytes of a file that was begun.
    ///
    /// # Errors
    /// 413 when all together are too many.
    pub(crate) fn write(&mut self, path: &MemberPath, bytes: &[u8]) -> Result<(), Problem> {
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > MAX_BYTES {
            let message = format!("The skill's files have more than {} MB together.", MAX_BYTES / 1_000_000);
            return Err(Problem::new(Kind::TooLarge, message));
        }
        if let Some(file) = self.files.get_mut(path) {
            file.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// The skill that these files are.
    ///
    /// # Errors
    /// 400 when they are none.
    pub(crate) fn finish(self) -> Result<Bundle, Problem> {
        let Self { top, files, .. } = self;
        let top = top.ok_or_else(|| {
            Problem::invalid_at(
                "files",
                "are missing: send each file as a part of this name, with its path as filename",
            )
        })?;
        let directories: BTreeSet<&str> = files.keys().flat_map(MemberPath::directories).collect();
        if let Some(both) = files.keys().find(|path| directories.contains(path.as_str())) {
            let message = format!("`{top}/{}` is a file and a directory at once", both.as_str());
            return Err(Problem::invalid_at("files", message));
        }
        let instructions = MemberPath::parse(INSTRUCTIONS).ok().and_then(|path| files.get(&path));
        let instructions = instructions.ok_or_else(|| {
            Problem::invalid_at(
                "files",
                format!("`{top}/{INSTRUCTIONS}` is missing: a skill has its instructions there"),
            )
        })?;
        let in_instructions = |why: String| Problem::invalid_at("files", format!("`{top}/{INSTRUCTIONS}`: {why}"));
        let said = frontmatter::read(instructions).map_err(in_instructions)?;
        // The directory names what its instructions do not.
        let name = said.name.as_deref().unwrap_or(&top);
        let name = SkillName::parse(name).map_err(|error| in_instructions(format!("`name` {error}")))?;
        Ok(Bundle { name, description: said.description, files })
    }
}

impl Bundle {
    /// Its archive.
    ///
    /// # Errors
    /// 500.
    pub(crate) fn archive(&self) -> Result<Vec<u8>, Problem> {
        archive::pack(&self.name, &self.files)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use super::*;

    const SKILL: &str = "---\nname: pdf\ndescription: Fills forms.\n---\nRead.\n";

    fn collected(files: &[(&str, &str)]) -> Result<Bundle, Problem> {
        let mut collector = Collector::default();
        for (path, text) in files {
            let path = collector.begin(path)?;
            collector.write(&path, text.as_bytes())?;
        }
        collector.finish()
    }

    #[test]
    fn files_of_one_directory_with_instructions_are_a_skill() {
        let bundle = collected(&[("any/scripts/a.sh", "#!/bin/sh\n"), ("any/SKILL.md", SKILL)]).unwrap();
        assert_eq!((bundle.name.as_str(), bundle.description.as_str()), ("pdf", "Fills forms."));
        let named_by_directory = collected(&[("ledger/SKILL.md", "---\ndescription: d\n---\n")]).unwrap();
        assert_eq!(named_by_directory.name.as_str(), "ledger");
    }

    #[test]
    fn whatever_else_is_sent_is_refused_with_what_to_do() {
        let skill = ("s/SKILL.md", SKILL);
        let many: Vec<String> = (0..=MAX_FILES).map(|number| format!("s/{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|path| (path.as_str(), "")).collect();
        for (files, expected) in [
            (&[][..], "are missing"),
            (&[("SKILL.md", SKILL)], "it lies in no directory"),
            (&[("s/a.md", "x")], "`s/SKILL.md` is missing"),
            (&[("s/sub/SKILL.md", SKILL)], "`s/SKILL.md` is missing"),
            (&[skill, ("t/a", "")], "the first lies in `s`"),
            (&[skill, ("s/../a", "")], "`..`"),
            (&[skill, ("/etc/passwd", "")], "absolute"),
            (&[skill, ("s\\a", "")], "backslash"),
            (&[skill, ("s/a\nb", "")], "control characters"),
            (&[skill, ("s//a", "")], "empty segment"),
            (&[skill, skill], "sent twice"),
            (&[skill, ("s/a", ""), ("s/a/b", "")], "`s/a` is a file and a directory"),
            (&[skill, ("s/a/b", ""), ("s/a", "")], "`s/a` is a file and a directory"),
            (&[("s/SKILL.md", "no front matter")], "`s/SKILL.md`: "),
            (&[("S/SKILL.md", "---\ndescription: d\n---\n")], "`name` must have"),
            (&many, "at most 500 files"),
        ] {
            let problem = collected(files).unwrap_err();
            assert_eq!(problem.status(), 400);
            assert!(problem.message.contains(expected), "{expected}: {problem}");
        }
        let mut collector = Collector::default();
        let path = collector.begin("s/large").unwrap();
        assert_eq!(collector.write(&path, &vec![0; MAX_BYTES]), Ok(()));
        assert_eq!(collector.write(&path, &[0]).unwrap_err().status(), 413);
    }

    #[test]
    fn the_same_files_make_the_same_archive_under_the_skills_name() {
        let files = [("x/SKILL.md", SKILL), ("x/a.txt", "text"), ("x/b/run.sh", "#!/bin/sh\n")];
        let archive = collected(&files).unwrap().archive().unwrap();
        let reversed: Vec<_> = files.iter().rev().copied().collect();
        assert!(collected(&reversed).unwrap().archive().unwrap() == archive, "the order and the moment leave no trace");
        let mut zip = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
        let mut found = Vec::new();
        for index in 0..zip.len() {
            let mut file = zip.by_index(index).unwrap();
            let (name, mode) = (file.name().unwrap().into_owned(), file.unix_mode().unwrap() & 0o777);
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            found.push((name, mode, text));
        }
        assert_eq!(
            found,
            [
                ("pdf/SKILL.md".to_owned(), 0o644, SKILL.to_owned()),
                ("pdf/a.txt".to_owned(), 0o644, "text".to_owned()),
                ("pdf/b/run.sh".to_owned(), 0o755, "#!/bin/sh\n".to_owned()),
            ]
        );
    }
}
