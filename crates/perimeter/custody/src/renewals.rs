//! Tokens that were renewed, sealed, until the control plane has taken them up. A token endpoint may take a refresh token once: what it answered must outlive
//! this process, a broken stream and a control plane that crashed, and a refresh token that was used up is not sent again.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};
use postern_secret::seal::Sealed;
use serde::{Deserialize, Serialize};

use crate::keys;
use crate::message::{OauthParts, Renewed};

/// The list, in custody's directory: ciphertext and digests of ciphertext.
#[derive(Debug)]
pub(crate) struct Renewals {
    file: PathBuf,
    /// The oldest first.
    kept: Vec<Kept>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    credential: String,
    /// Of the sealed access token that was replaced.
    access: String,
    /// Of the sealed refresh token that was used.
    refresh: String,
    at: Timestamp,
    renewed: Renewed,
}

impl Renewals {
    /// What was kept when custody ended.
    ///
    /// # Errors
    /// The list is there and cannot be read.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let file = directory.join(FILE);
        let kept = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, kept })
    }

    /// What came of these very parts before: of both tokens, or of a refresh token that was used up by it.
    pub(crate) fn of(&self, parts: &OauthParts, now: Timestamp) -> Option<Renewed> {
        let (access, refresh) = (digest_of(&parts.access.sealed), digest_of(&parts.refresh.sealed));
        let fits = |kept: &&Kept| {
            kept.credential == parts.refresh.binding.credential
                && kept.refresh == refresh
                && (kept.access == access || kept.renewed.refresh.is_some())
                && now.duration_since(kept.at) < KEPT
        };
        self.kept.iter().find(fits).map(|kept| kept.renewed.clone())
    }

    /// Keeps what came of these parts, in place of what was kept for the credential before. On the disk when this returns.
    ///
    /// # Errors
    /// The directory cannot be written; it is kept until this process ends.
    pub(crate) fn keep(&mut self, parts: &OauthParts, renewed: &Renewed, now: Timestamp) -> io::Result<()> {
        let credential = &parts.refresh.binding.credential;
        self.kept.retain(|kept| kept.credential != *credential && now.duration_since(kept.at) < KEPT);
        if self.kept.len() >= MOST {
            self.kept.remove(0);
        }
        self.kept.push(Kept {
            credential: credential.clone(),
            access: digest_of(&parts.access.sealed),
            refresh: digest_of(&parts.refresh.sealed),
            at: now,
            renewed: renewed.clone(),
        });
        self.write()
    }

    /// Drops what nobody came for.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn forget_old(&mut self, now: Timestamp) -> io::Result<()> {
        let before = self.kept.len();
        self.kept.retain(|kept| now.duration_since(kept.at) < KEPT);
        if self.kept.len() == before { Ok(()) } else { self.write() }
    }

    fn write(&self) -> io::Result<()> {
        keys::replace(&self.file, &serde_json::to_vec(&self.kept)?)
    }
}

/// Of the value alone: a wrap for one perimeter more makes it no other one.
fn digest_of(sealed: &Sealed) -> String {
    let value = format!("{} {} {}", sealed.version, sealed.nonce, sealed.ciphertext);
    digest(&SHA256, value.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Credentials whose renewed tokens are kept; over it the oldest goes.
const MOST: usize = 256;
/// How long they are kept.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
pub(crate) const FILE: &str = "renewed.json";

#[cfg(test)]
mod tests {
    use postern_secret::seal::{Binding, SealedCredential};

    use super::*;

    fn sealed(text: &str) -> Sealed {
        Sealed { version: 3, nonce: String::new(), ciphertext: text.to_owned(), wraps: Vec::new() }
    }

    fn parts(credential: usize) -> OauthParts {
        let binding = Binding {
            credential: format!("vcrd_{credential}"),
            ..Binding::of_repository("wrkspc_default", "vlt_1", "", "wiki.example", "https://wiki.example/mcp")
        };
        let part = |text: &str| SealedCredential { binding: binding.clone(), sealed: sealed(text) };
        OauthParts { access: part("access"), refresh: part("refresh"), client_secret: None }
    }

    fn renewed() -> Renewed {
        Renewed { access: sealed("new"), refresh: Some(sealed("new")), expires_at_seconds: None }
    }

    #[test]
    fn one_renewal_of_each_credential_is_kept_for_a_day_and_of_too_many_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let mut renewals = Renewals::open(directory.path()).unwrap();
        for credential in [0, 0].into_iter().chain(1..MOST) {
            renewals.keep(&parts(credential), &renewed(), now).unwrap();
        }
        assert!(renewals.of(&parts(0), now).is_some(), "what came again took no further place");
        renewals.keep(&parts(MOST), &renewed(), now).unwrap();
        let is_kept = |renewals: &Renewals, credential, at| renewals.of(&parts(credential), at).is_some();
        assert_eq!([0, 1, MOST].map(|credential| is_kept(&renewals, credential, now)), [false, true, true]);

        let almost = now + SignedDuration::from_hours(24) - SignedDuration::from_secs(1);
        let day = now + SignedDuration::from_hours(24);
        assert_eq!([almost, day].map(|at| is_kept(&renewals, 1, at)), [true, false]);
        renewals.forget_old(day).unwrap();
        assert!(Renewals::open(directory.path()).unwrap().kept.is_empty());
    }
}
