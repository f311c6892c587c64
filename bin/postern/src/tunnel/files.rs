//! The files of one tunnel's inner end: its name, its token, its CA and its certificate. Private, and made here.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use postern_secret::Secret;
use postern_tunnel::certificate::{self, OwnCa, RENEW_DAYS};
use serde_json::{Value, json};

use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::secret_file;

/// A directory with a tunnel's files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    id: String,
    domain: String,
}

/// What became of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// It is good for so many days.
    Good(i64),
    /// A new one was made.
    Renewed,
    /// It ends soon, and the CA's key is not here to renew it.
    Ends(i64),
}

impl Files {
    /// The tunnel whose files lie in a directory, if there is one.
    pub(crate) fn find(directory: &Path) -> Result<Option<Self>, Failure> {
        let path = directory.join("tunnel.json");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let about: Value = serde_json::from_str(&text).or_misused(&format!("read {}", path.display()))?;
        match (about["id"].as_str(), about["domain"].as_str()) {
            (Some(id), Some(domain)) => Ok(Some(Self::of(directory, id, domain))),
            _ => Err(Failure::Misused(format!("{} names no tunnel; remove the directory", path.display()))),
        }
    }

    /// Makes the directory where there is none, and refuses one that holds a tunnel or that others may write.
    pub(crate) fn expect_none(directory: &Path) -> Result<(), Failure> {
        match Self::find(directory)? {
            None => own(directory),
            Some(files) => Err(Failure::Misused(format!("{} holds tunnel {} already", directory.display(), files.id))),
        }
    }

    fn of(directory: &Path, id: &str, domain: &str) -> Self {
        Self { directory: directory.to_owned(), id: id.to_owned(), domain: domain.to_owned() }
    }

    /// Makes CA and certificate for a new tunnel.
    pub(crate) fn make(directory: &Path, id: &str, domain: &str) -> Result<Self, Failure> {
        own(directory)?;
        let files = Self::of(directory, id, domain);
        let authority = certificate::new_ca(domain, SystemTime::now()).or_misused("make the tunnel's CA")?;
        files.write("ca.pem", &authority.certificate_pem)?;
        files.write_key("ca.key", &authority.key_pem)?;
        files.renew(&authority)?;
        Ok(files)
    }

    /// Says that the directory holds a whole tunnel: the last file to be written.
    pub(crate) fn keep(&self) -> Result<(), Failure> {
        self.write("tunnel.json", &json!({"id": self.id, "domain": self.domain}).to_string())
    }

    /// The tunnel's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its domain.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// The file with its token.
    pub(crate) fn token(&self) -> PathBuf {
        self.directory.join("token")
    }

    /// The directory itself.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The CA's certificate, PEM.
    pub(crate) fn ca_certificate(&self) -> Result<String, Failure> {
        self.read("ca.pem")
    }

    /// Makes a new leaf where the old one ends soon. A running gateway notices by itself.
    pub(crate) fn renew_if_due(&self) -> Result<Leaf, Failure> {
        let left = certificate::days_left(&self.read("leaf.pem")?, SystemTime::now())
            .or_misused("read the tunnel's certificate")?;
        if left >= RENEW_DAYS {
            return Ok(Leaf::Good(left));
        }
        let key = self.directory.join("ca.key");
        if !key.exists() {
            return Ok(Leaf::Ends(left));
        }
        let key_pem = secret_file::text(&key)?;
        self.renew(&OwnCa { certificate_pem: self.read("ca.pem")?, key_pem: Secret::new(key_pem) })?;
        Ok(Leaf::Renewed)
    }

    fn renew(&self, authority: &OwnCa) -> Result<(), Failure> {
        let leaf = certificate::new_leaf(authority, &self.domain, SystemTime::now())
            .or_misused("make the tunnel's certificate")?;
        // The key first: a reader that sees the pair half changed finds that they do not fit, and looks again.
        self.write_key("leaf.key", &leaf.key_pem)?;
        self.write("leaf.pem", &leaf.certificate_pem)
    }

    fn read(&self, name: &str) -> Result<String, Failure> {
        let path = self.directory.join(name);
        fs::read_to_string(&path).or_misused(&format!("read {}", path.display()))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a key of the tunnel is kept in a file that its owner alone may read"
    )]
    fn write_key(&self, name: &str, key: &Secret<String>) -> Result<(), Failure> {
        self.write(name, key.expose())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.directory.join(name);
        Data::write_private(&path, text).or_misused(&format!("write {}", path.display()))
    }
}

/// Makes the directory where there is none. Who may write one that is there could take the place of what is put into it.
fn own(directory: &Path) -> Result<(), Failure> {
    let path = directory.display();
    DirBuilder::new().mode(0o700).recursive(true).create(directory).or_misused(&format!("make {path}"))?;
    let about = fs::metadata(directory).or_misused(&format!("look at {path}"))?;
    if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0 {
        return Err(Failure::Misused(format!(
            "{path} would hold keys and others may write there: chown it to you and chmod 700 {path}, or name another directory"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_tunnel_has_a_certificate_that_need_not_be_renewed() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("tunnel");
        let files = Files::make(&directory, "tnl_x", "abc.tunnel.localhost").unwrap();
        assert!(matches!(files.renew_if_due().unwrap(), Leaf::Good(80..=90)));
        assert!(Files::find(&directory).unwrap().is_none());
        files.keep().unwrap();
        assert_eq!(Files::find(&directory).unwrap().unwrap().domain(), "abc.tunnel.localhost");
        assert!(Files::expect_none(&directory).is_err());
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused_before_a_server_is_asked() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        for (mode, is_taken) in [(0o700, true), (0o755, true), (0o770, false), (0o1777, false)] {
            fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Files::expect_none(place.path()).is_ok(), is_taken, "{mode:o}");
            assert_eq!(Files::make(place.path(), "tnl_x", "abc.tunnel.localhost").is_ok(), is_taken, "{mode:o}");
        }
    }

    #[test]
    fn a_certificate_that_is_gone_is_an_error_and_not_renewed_silently() {
        let place = tempfile::tempdir().unwrap();
        let files = Files::make(place.path(), "tnl_x", "abc.tunnel.localhost").unwrap();
        fs::remove_file(place.path().join("leaf.pem")).unwrap();
        assert!(files.renew_if_due().is_err());
    }

    #[test]
    fn a_certificate_with_less_than_thirty_days_left_is_renewed_where_the_authoritys_key_is() {
        let place = tempfile::tempdir().unwrap();
        let files = Files::make(place.path(), "tnl_x", "abc.tunnel.localhost").unwrap();
        let key_pem = Secret::new(files.read("ca.key").unwrap());
        let authority = OwnCa { certificate_pem: files.ca_certificate().unwrap(), key_pem };
        let ends_in = |days: u64| {
            let made = SystemTime::now() - std::time::Duration::from_secs((90 - days) * 86_400 - 3600);
            let leaf = certificate::new_leaf(&authority, "abc.tunnel.localhost", made).unwrap();
            files.write("leaf.pem", &leaf.certificate_pem).unwrap();
        };
        ends_in(30);
        assert!(matches!(files.renew_if_due().unwrap(), Leaf::Good(30)));
        ends_in(29);
        assert!(matches!(files.renew_if_due().unwrap(), Leaf::Renewed));
        assert!(matches!(files.renew_if_due().unwrap(), Leaf::Good(80..=90)));
        ends_in(29);
        fs::remove_file(place.path().join("ca.key")).unwrap();
        assert!(matches!(files.renew_if_due().unwrap(), Leaf::Ends(29)));
    }
}
