//! What of the host a zone may never lend, by the names written in it. What lies there really is looked at when a sandbox is built: this knows no disk.

use std::path::Path;

const PATHS: &str = include_str!("../../../data/sensitive_paths.txt");
const DEVICES: &str = include_str!("../../../data/sensitive_devices.txt");

/// Why a path may not be lent, if it may not.
pub(super) fn path(path: &Path) -> Option<&'static str> {
    if postern_danger::off!("lent-mounts") {
        return None;
    }
    entries(PATHS).find_map(|(words, reason)| {
        let (how, sensitive) = words.split_once(' ')?;
        hits(how, Path::new(sensitive), path).then_some(reason)
    })
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

/// Why the device of this name, as below `/dev`, may not be lent, if it may not.
pub(super) fn device(name: &str) -> Option<&'static str> {
    if postern_danger::off!("lent-devices") {
        return None;
    }
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
            ("/home/ann", true),
            ("/home/ann/project", false),
            ("/home/ann/.ssh", true),
            ("/home/ann/.ssh/id_ed25519", true),
            ("/srv/people/ann/.aws", true),
            ("/srv/people/ann/.config/gcloud/legacy", true),
            ("/srv/people/ann/.config", false),
            ("/srv/app/.docker", false),
            ("/srv/app/.docker/config.json", true),
            ("/srv/app/.netrc", true),
            ("/srv/app/x.netrc", false),
            ("/root/project", true),
            ("/srv/data", false),
            ("/etcetera", false),
        ];
        for (given, sensitive) in table {
            assert_eq!(path(Path::new(given)).is_some(), sensitive, "{given}");
        }
    }

    #[test]
    fn every_line_says_how_it_is_meant_and_none_is_dead() {
        let lines: Vec<(&str, &str)> = entries(PATHS).filter_map(|(words, _)| words.split_once(' ')).collect();
        for (number, (how, listed)) in lines.iter().enumerate() {
            assert!(["exact", "each", "tree", "name"].contains(how), "{how} {listed}");
            assert_eq!(*how == "name", !listed.starts_with('/'), "{how} {listed}");
            let beside = lines.iter().enumerate().filter(|(other, _)| *other != number);
            for (_, (how, other)) in beside.filter(|(_, (how, _))| *how == "tree" || *how == "name") {
                let covered =
                    Path::new("/").join(listed).starts_with(other) || (*how == "name" && listed.ends_with(other));
                assert!(!covered, "{how} {other} says of {listed} what its own line says");
            }
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
