//! The server's own keys: the one that tunnel tokens are derived under, and the one that signs callers' identities.
//! Files in the control plane's directory, 0600, made at the first start.

use std::path::Path;

use postern_secret::{Secret, SecretBytes};
use postern_store::EventKeys;
use postern_tunnel::identity::Signer;

use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::secret_file;

const SERVER_KEY_BYTES: usize = 32;

/// The key that tunnel tokens are derived under.
///
/// # Errors
/// The file cannot be read or made, or holds something else.
pub(super) fn server_key(directory: &Path) -> Result<SecretBytes, Failure> {
    let path = directory.join("server_key");
    let doing = format!("read {}", path.display());
    let key = match std::fs::read(&path) {
        Ok(key) => key,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut key = vec![0; SERVER_KEY_BYTES];
            aws_lc_rs::rand::fill(&mut key).map_err(|_| Failure::Misused("the system gave no random bytes".into()))?;
            Data::write_private_bytes(&path, &key).or_misused(&format!("write {}", path.display()))?;
            key
        }
        Err(error) => return Err(error).or_misused(&doing),
    };
    if key.len() == SERVER_KEY_BYTES {
        Ok(Secret::new(key))
    } else {
        Err(Failure::Misused(format!("{doing}: it must hold {SERVER_KEY_BYTES} bytes; restore it from a backup")))
    }
}

/// The keys that what sessions say is encrypted under, from the operator's file.
///
/// # Errors
/// The file cannot be read, is not closed to others, or holds something else.
pub(super) fn event_keys(file: &Path) -> Result<EventKeys, Failure> {
    let doing = format!("read {}", file.display());
    EventKeys::parse(&Secret::new(secret_file::bytes(file)?)).or_misused(&doing)
}

/// The key that signs callers' identities.
///
/// # Errors
/// As [`server_key`].
pub(super) fn identity(directory: &Path) -> Result<Signer, Failure> {
    let path = directory.join("identity.pk8");
    let doing = format!("read {}", path.display());
    match std::fs::read(&path) {
        Ok(key) => Signer::from_pkcs8(Secret::new(key)).or_misused(&doing),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let signer = Signer::generate().or_misused("make the key for identities")?;
            #[expect(clippy::disallowed_methods, reason = "the key is kept in a file that its owner alone may read")]
            let written = Data::write_private_bytes(&path, signer.to_pkcs8().expose());
            written.or_misused(&format!("write {}", path.display()))?;
            Ok(signer)
        }
        Err(error) => Err(error).or_misused(&doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once() {
        let place = tempfile::tempdir().unwrap();
        let (key, signer) = (server_key(place.path()).unwrap(), identity(place.path()).unwrap());
        #[expect(clippy::disallowed_methods, reason = "the test compares a key with itself")]
        let same = server_key(place.path()).unwrap().expose() == key.expose();
        assert!(same);
        assert_eq!(identity(place.path()).unwrap().key(), signer.key());
    }

    #[test]
    fn keys_of_events_are_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("events.key");
        assert!(event_keys(&file).is_err(), "none is made: whoever loses it loses what it opens");
        std::fs::write(&file, "ab".repeat(32)).unwrap();
        for (mode, is_taken) in [(0o600, true), (0o400, true), (0o640, true), (0o604, false), (0o620, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(event_keys(&file).is_ok(), is_taken, "{mode:o}");
        }
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("server_key"), b"short").unwrap();
        std::fs::write(place.path().join("identity.pk8"), b"short").unwrap();
        assert!(server_key(place.path()).is_err() && identity(place.path()).is_err());
    }
}
