//! What of the host a zone may never lend, by the names written in it. What lies there really is looked at when a sandbox is built: this knows no disk.

use std::path::Path;

const PATHS: &str = include_str!("../../../data/sensitive_paths.txt");
const DEVICES: &str = include_str!("../../../data/sensitive_devices.txt");

/// Why a path may not be lent, if it may not.
pub(super) fn path(path: &Path) -> Option<&'static str> {
    entries(PATHS).find_map(|(words, reason)| {
        let (how, sensitive) = words.split_once(' ')?;
        let sensitive = Path::new(sensitive);
        let hit = sensitive.starts_with(path) || (how == "tree" && path.starts_with(sensitive));
        hit.then_some(reason)
    })
}

/// Why the device of this name, as below `/dev`, may not be lent, if it may not.
pub(super) fn device(name: &str) -> Option<&'static str> {
    entries(DEVICES).find_map(|(listed, reason)| {
        let hit = match listed.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == listed,
        };
        hit.then_some(reason)
    })
}

fn entries(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    crate::data::lines(text).filter_map(|line| line.split_once(" -- "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_both_lists_has_a_reason() {
        for text in [PATHS, DEVICES] {
            assert_eq!(entries(text).count(), crate::data::lines(text).count());
            assert!(entries(text).all(|(words, reason)| !words.is_empty() && !reason.is_empty()));
        }
    }

    #[test]
    fn what_holds_or_lies_in_a_sensitive_place_is_sensitive() {
        let table = [
            ("/", true),
            ("/etc", true),
            ("/etc/ssl/private", true),
            ("/var", true),
            ("/var/run/docker.sock", true),
            ("/home", true),
            ("/home/ann/project", false),
            ("/srv/data", false),
            ("/etcetera", false),
        ];
        for (given, sensitive) in table {
            assert_eq!(path(Path::new(given)).is_some(), sensitive, "{given}");
        }
    }

    #[test]
    fn devices_are_named_whole_or_by_their_beginning() {
        for (name, sensitive) in [
            ("mem", true),
            ("ttyS0", true),
            ("tty", true),
            ("vfio/vfio", true),
            ("nvme0n1", true),
            ("memory", false),
            ("nvidia0", false),
            ("dri/renderD128", false),
            ("kvm", false),
        ] {
            assert_eq!(device(name).is_some(), sensitive, "{name}");
        }
    }
}
