//! What of the host is never lent, judged by what lies there really: paths without links, devices by their numbers. The lists are the ones that zones are
//! loaded against, by the names written in them.

use std::path::{Path, PathBuf};

use postern_confine::list::entries;

const PATHS: &str = include_str!("../../../base/policy/data/sensitive_paths.txt");
const DEVICES: &str = include_str!("../../../base/policy/data/sensitive_devices.txt");

/// Why a path may not be lent, if it may not. `forbidden` are trees of ours.
pub(crate) fn path(path: &Path, forbidden: &[PathBuf]) -> Option<String> {
    if postern_danger::off!("lent-mounts") {
        return None;
    }
    let shipped = entries(PATHS).find(|entry| hits(entry.words[0], Path::new(entry.words[1]), path));
    if let Some(entry) = shipped {
        return Some(entry.reason.to_owned());
    }
    forbidden
        .iter()
        .any(|tree| tree.starts_with(path) || path.starts_with(tree))
        .then(|| "postern's own data, keys or configuration".to_owned())
}

/// What is never lent wherever it lies: the last parts of its path, and why.
pub(crate) fn names() -> Vec<(&'static Path, &'static str)> {
    entries(PATHS)
        .filter(|entry| entry.words[0] == "name")
        .map(|entry| (Path::new(entry.words[1]), entry.reason))
        .collect()
}

fn hits(how: &str, listed: &Path, path: &Path) -> bool {
    let holds = listed.starts_with(path);
    match how {
        "name" => path.ancestors().any(|above| above.ends_with(listed)),
        "each" => holds || path.parent() == Some(listed),
        "tree" => holds || path.starts_with(listed),
        _ => holds,
    }
}

/// Why a device of this number may not be lent, whatever its name, if it may not.
pub(crate) fn device(number: u64) -> Option<&'static str> {
    if postern_danger::off!("lent-devices") {
        return None;
    }
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    entries(DEVICES).find(|entry| is_number(entry.words[0], major, minor)).map(|entry| entry.reason)
}

fn is_number(listed: &str, major: u32, minor: u32) -> bool {
    let Some((listed_major, listed_minor)) = listed.split_once(':') else { return false };
    listed_major.parse() == Ok(major) && (listed_minor == "*" || listed_minor.parse() == Ok(minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_its_number_under_any_name() {
        for (major, minor, sensitive) in [
            (1, 1, true),
            (1, 11, true),
            (4, 64, true),
            (13, 70, true),
            (10, 224, true),
            (1, 3, false),
            (1, 9, false),
            (10, 232, false),
            (195, 0, false),
            (226, 128, false),
        ] {
            assert_eq!(device(rustix::fs::makedev(major, minor)).is_some(), sensitive, "{major}:{minor}");
        }
    }

    #[test]
    fn every_numbered_line_can_be_read() {
        for entry in entries(DEVICES).filter(|entry| entry.words[0].contains(':')) {
            let (major, minor) = entry.words[0].split_once(':').expect("just looked");
            assert!(major.parse::<u32>().is_ok() && (minor == "*" || minor.parse::<u32>().is_ok()), "{entry:?}");
        }
    }
}
