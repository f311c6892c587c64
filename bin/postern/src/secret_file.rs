//! Files with a key or a token, as the configuration or a flag names them: read where their modes keep others out.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::failure::{Failure, Or};

/// The whole file.
///
/// # Errors
/// It cannot be read, or others than its owner can read or change it.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    read(path).or_misused(&doing(path))
}

/// The same, as text.
///
/// # Errors
/// As [`bytes`], or it is no text.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(bytes(path)?).map_err(|_| Failure::Misused(format!("{}: it is not text", doing(path))))
}

/// The key that stands in the file, without what is blank around it.
///
/// # Errors
/// As [`text`], or nothing stands there: that is no way to say that there is no key.
pub(crate) fn key(path: &Path) -> Result<String, Failure> {
    let key = text(path)?.trim().to_owned();
    if key.is_empty() {
        return Err(Failure::Misused(format!("{0} holds no key; write it into {0}, or name no file", path.display())));
    }
    Ok(key)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let opened = File::open(path)?;
    postern_secret::guarded(&opened, path)?;
    let mut bytes = Vec::new();
    opened.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// A file with a key or a token in bytes; what goes on longer is neither.
const LARGEST: u64 = 1 << 20;

fn doing(path: &Path) -> String {
    format!("read {}", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_is_no_file_is_named_as_it_is_and_nobody_is_told_to_close_a_device() {
        let place = tempfile::tempdir().unwrap();
        let directory = key(place.path()).unwrap_err().to_string();
        assert!(directory.contains("is a directory; name the file in it"), "{directory}");
        let nothing = key(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(nothing.contains("holds no key") && !nothing.contains("chmod"), "{nothing}");
        assert!(key(Path::new("/dev/zero")).is_err(), "what has no end is not read to it");
    }

    #[test]
    fn a_file_in_which_no_key_stands_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("key");
        for (written, is_key) in [(" a key \n", true), ("", false), (" \n\t\n", false)] {
            fs::write(&file, written).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            match key(&file) {
                Ok(key) => assert!(is_key && key == "a key", "{written:?}"),
                Err(refused) => {
                    assert!(!is_key && matches!(refused, Failure::Misused(_)), "{written:?}");
                    assert!(refused.to_string().contains("write it into"), "{refused}");
                }
            }
        }
    }

    #[test]
    fn a_secret_is_read_where_its_owner_alone_writes_it_and_not_everybody_reads_it() {
        let place = tempfile::tempdir().unwrap();
        let [file, link] = ["token", "link"].map(|name| place.path().join(name));
        fs::write(&file, "a token").unwrap();
        symlink(&file, &link).unwrap();
        let table = [
            (0o600, true),
            (0o400, true),
            // As Kubernetes mounts a secret for a group.
            (0o440, true),
            (0o640, true),
            (0o644, false),
            (0o604, false),
            (0o660, false),
            (0o620, false),
            (0o602, false),
        ];
        for (mode, is_read) in table {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            // What a link leads to is what is read, so its mode counts.
            for named in [&file, &link] {
                match text(named) {
                    Ok(text) => assert!(is_read && text == "a token", "{mode:o}"),
                    Err(refused) => {
                        let (said, path) = (refused.to_string(), named.display());
                        assert!(!is_read && matches!(refused, Failure::Misused(_)), "{mode:o}");
                        assert!(said.contains(&format!("{path} has mode {mode:04o}")), "{said}");
                        assert!(said.contains(&format!("run `chmod 600 {path}`")), "{said}");
                    }
                }
            }
        }
    }
}
