use std::path::PathBuf;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

/// A directory with an archive of these members, each with its mode; a name that ends with `/` is a directory's.
struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn archive(&self) -> PathBuf {
        self.directory.path().join("archive")
    }

    fn to(&self) -> PathBuf {
        self.directory.path().join("to")
    }

    fn pack(&self, members: &[(&str, u32, &[u8])]) {
        let mut zip = ZipWriter::new(fs::File::create(self.archive()).unwrap());
        for (name, mode, bytes) in members {
            let options =
                SimpleFileOptions::DEFAULT.unix_permissions(*mode).compression_method(CompressionMethod::Deflated);
            match name.strip_suffix('/') {
                Some(name) => zip.add_directory(name, options).unwrap(),
                None => {
                    zip.start_file(*name, options).unwrap();
                    zip.write_all(bytes).unwrap();
                }
            }
        }
        zip.finish().unwrap();
    }

    /// Writes over what the archive says, as no library would: equal lengths, everywhere.
    fn forge(&self, from: &[u8], to: &[u8]) {
        assert_eq!(from.len(), to.len());
        let mut bytes = fs::read(self.archive()).unwrap();
        let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
        assert!(!places.is_empty(), "there is nothing to forge");
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        fs::write(self.archive(), bytes).unwrap();
    }

    fn refused(&self) -> String {
        let error = unpack(&self.archive(), &self.to()).unwrap_err();
        assert!(!matches!(error, UnpackError::Disk(_)), "{error:?}");
        let beside = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(beside.into_iter().all(|name| name == "archive" || name == "to"), "it wrote beside its place");
        crate::session::chain(&error)
    }
}

const SKILL: (&str, u32, &[u8]) = ("pdf/SKILL.md", 0o644, b"read me");

#[test]
fn the_top_directory_is_taken_off_and_modes_are_one_of_two() {
    let scene = Scene::new();
    scene.pack(&[("pdf/", 0o777, b""), SKILL, ("pdf/a/b/run.sh", 0o4711, b"#!/bin/sh"), ("pdf/empty/", 0o700, b"")]);
    unpack(&scene.archive(), &scene.to()).unwrap();
    for (path, mode) in [("", 0o755), ("SKILL.md", 0o644), ("a/b", 0o755), ("a/b/run.sh", 0o755), ("empty", 0o755)] {
        let about = fs::symlink_metadata(scene.to().join(path)).unwrap();
        assert_eq!(about.permissions().mode() & 0o7777, mode, "{path}");
    }
    assert_eq!(fs::read(scene.to().join("SKILL.md")).unwrap(), b"read me");
}

#[test]
fn a_member_that_leads_elsewhere_refuses_the_whole_archive() {
    for (name, expected) in [
        ("../../escape", "`.` or `..`"),
        ("/etc/cron.d/x", "absolute"),
        ("pdf/../../x", "`.` or `..`"),
        ("pdf/./x", "`.` or `..`"),
        ("pdf//x", "empty segment"),
        ("pdf\\..\\x", "backslash"),
        ("C:\\x", "backslash"),
        ("pdf/a\nb", "control characters"),
        ("other/x", "no directory that all of it lies in"),
        ("loose", "no directory that all of it lies in"),
    ] {
        let scene = Scene::new();
        // Of the same length, so that the name can be written over what the library would have mended.
        let plain = format!("pdf/{}", "q".repeat(name.len().saturating_sub(4)));
        let plain = if name.len() < 5 { "q".repeat(name.len()) } else { plain };
        scene.pack(&[SKILL, (&plain, 0o644, b"x")]);
        scene.forge(plain.as_bytes(), name.as_bytes());
        let why = scene.refused();
        assert!(why.contains(expected), "{name:?} should be refused for {expected:?}: {why}");
        assert!(!scene.to().exists(), "{name:?}: everything is looked at before anything is written");
    }
}

#[test]
fn links_and_devices_refuse_the_whole_archive() {
    for kind in [0o120_000, 0o060_000, 0o020_000, 0o010_000, 0o140_000, 0o040_000] {
        let scene = Scene::new();
        scene.pack(&[SKILL, ("pdf/odd", 0o644, b"/etc/passwd")]);
        // The kind stands in the upper half of a member's attributes, which end the fixed part of its central header.
        scene.forge(&((FILE | 0o644) << 16).to_le_bytes(), &((kind | 0o644_u32) << 16).to_le_bytes());
        let why = scene.refused();
        assert!(why.contains("neither a file nor a directory"), "{kind:o}: {why}");
    }
}

#[test]
fn what_is_twice_or_a_file_and_a_directory_is_refused() {
    for (members, expected) in [
        (&[SKILL, ("pdf/a", 0o644, &b"x"[..]), ("pdf/a/b", 0o644, b"x")][..], "as a file and as a directory"),
        (&[SKILL, ("pdf/a", 0o644, b"x"), ("pdf/a/", 0o755, b"")], "as a file and as a directory"),
        (&[("pdf/a.md", 0o644, b"x")], "has no SKILL.md"),
        (&[("pdf/sub/SKILL.md", 0o644, b"x"), ("pdf/x", 0o644, b"x")], "has no SKILL.md"),
        (&[], "no directory that all of it lies in"),
    ] {
        let scene = Scene::new();
        scene.pack(members);
        let why = scene.refused();
        assert!(why.contains(expected), "{expected:?}: {why}");
    }
    let scene = Scene::new();
    scene.pack(&[SKILL, ("pdf/aa", 0o644, b"first"), ("pdf/bb", 0o644, b"second")]);
    scene.forge(b"pdf/bb", b"pdf/aa");
    // The library reads the last of them alone, so there are never two.
    unpack(&scene.archive(), &scene.to()).unwrap();
    assert_eq!(fs::read(scene.to().join("aa")).unwrap(), b"second");
}

#[test]
fn too_much_is_refused_however_small_it_is_packed() {
    let scene = Scene::new();
    let zeros = vec![0; 1 << 20];
    scene.pack(&[SKILL, ("pdf/a", 0o644, &zeros), ("pdf/b", 0o644, &zeros)]);
    assert!(fs::metadata(scene.archive()).unwrap().len() < 8 * 1024, "a thousandfold");
    let error = unpack_within(&scene.archive(), &scene.to(), (2 << 20) + 6).unwrap_err();
    assert!(error.to_string().contains("more than a skill may"), "{error}");
    fs::remove_dir_all(scene.to()).unwrap();
    unpack_within(&scene.archive(), &scene.to(), (2 << 20) + 7).unwrap();

    let scene = Scene::new();
    let names: Vec<String> = (0..=MAX_MEMBERS).map(|number| format!("pdf/{number}")).collect();
    let many: Vec<(&str, u32, &[u8])> = names.iter().map(|name| (name.as_str(), 0o644, &b""[..])).collect();
    scene.pack(&many);
    assert!(scene.refused().contains("more than 2000 members"));
}

#[test]
fn what_is_no_archive_or_a_broken_one_is_refused() {
    let scene = Scene::new();
    for bytes in [&b""[..], b"hello", b"PK\x05\x06", &[0; 4096]] {
        fs::write(scene.archive(), bytes).unwrap();
        assert!(scene.refused().contains("cannot be read"), "{bytes:?}");
    }
    // Whatever one byte is turned into: refused or unpacked within the bounds, never a panic and nothing beside its place.
    scene.pack(&[SKILL, ("pdf/a", 0o755, b"some text that is packed")]);
    let whole = fs::read(scene.archive()).unwrap();
    for at in 0..whole.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            fs::write(scene.archive(), &bytes).unwrap();
            let _ = fs::remove_dir_all(scene.to());
            if unpack(&scene.archive(), &scene.to()).is_err() {
                let _ = fs::remove_dir_all(scene.to());
            }
            let beside = fs::read_dir(scene.directory.path()).unwrap().count();
            assert!(beside <= 2, "byte {at} ^ {change:#x}");
        }
    }
}
