//! What token endpoints answered, until custody has it. A token endpoint may take a refresh token once: its answer is sealed to this perimeter and on the disk
//! before anybody is asked to do anything with it, so that neither custody's death nor this process's loses it. Ciphertext alone; custody opens it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use postern_custody::{KeptAnswer, OauthParts};
use postern_secret::{
    SecretBytes,
    seal::{Binding, PerimeterPublicKey, Recipient, SealError, Sealed, SealedCredential, seal},
};

use super::exchange::Tokens;
use crate::limits;

/// The list, in the gateway's directory.
pub(crate) struct Journal {
    file: PathBuf,
    /// To whom answers are sealed.
    perimeter: PerimeterPublicKey,
    /// The oldest first.
    kept: Mutex<Vec<KeptAnswer>>,
}

/// Why an answer is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKept {
    /// Nobody sealed the credential to this perimeter: custody would not have opened it.
    #[error("the credential is not sealed to this perimeter")]
    Foreign,
    /// It could not be sealed.
    #[error("seal the answer")]
    Seal(#[source] SealError),
    /// The directory cannot be written.
    #[error("write the list of answers")]
    Write(#[source] io::Error),
}

impl Journal {
    /// What was kept when the process before ended.
    ///
    /// # Errors
    /// The list is there and cannot be read.
    pub(crate) fn at(file: PathBuf, perimeter: PerimeterPublicKey) -> io::Result<Self> {
        let kept = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, perimeter, kept: Mutex::new(kept) })
    }

    /// The answer to an exchange with these parts that custody did not take.
    pub(super) fn of(&self, parts: &OauthParts) -> Option<KeptAnswer> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|answer| is_same(&answer.parts.refresh.sealed, &parts.refresh.sealed)).cloned()
    }

    /// Seals an answer and keeps it in place of what was kept for the credential before. On the disk when this returns.
    ///
    /// # Errors
    /// It is not kept.
    pub(super) fn keep(
        &self,
        parts: &OauthParts,
        tokens: &Tokens,
        expires_at_seconds: Option<i64>,
    ) -> Result<(), NotKept> {
        let wraps = &parts.refresh.sealed.wraps;
        let own = wraps.iter().find(|wrap| wrap.public_key.parse().is_ok_and(|key| self.perimeter == key));
        let perimeter_id = own.ok_or(NotKept::Foreign)?.perimeter_id.clone();
        let to = [Recipient { perimeter_id, public_key: self.perimeter.clone() }];
        let sealed = |token: &SecretBytes, former: &SealedCredential| {
            let binding = Binding { kind: former.binding.kind.clone(), ..parts.refresh.binding.clone() };
            let sealed = seal(&token.duplicate(), &binding, &to).map_err(NotKept::Seal)?;
            Ok(SealedCredential { sealed, binding })
        };
        let answer = KeptAnswer {
            parts: parts.clone(),
            access: sealed(&tokens.access, &parts.access)?,
            refresh: tokens.refresh.as_ref().map(|token| sealed(token, &parts.refresh)).transpose()?,
            expires_at_seconds,
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|one| one.parts.refresh.binding.credential != parts.refresh.binding.credential);
        if kept.len() >= limits::KEPT_ANSWERS {
            kept.remove(0);
        }
        kept.push(answer);
        replace(&self.file, &kept).map_err(NotKept::Write)
    }

    /// Custody has the answer to an exchange with these parts.
    ///
    /// # Errors
    /// The directory cannot be written: it is handed over once more after a restart, which changes nothing.
    pub(super) fn forget(&self, parts: &OauthParts) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.len();
        kept.retain(|one| !is_same(&one.parts.refresh.sealed, &parts.refresh.sealed));
        if kept.len() == before { Ok(()) } else { replace(&self.file, &kept) }
    }
}

/// Of the value alone: a wrap for one perimeter more makes it no other one.
fn is_same(one: &Sealed, other: &Sealed) -> bool {
    (one.version, &one.nonce, &one.ciphertext) == (other.version, &other.nonce, &other.ciphertext)
}

/// Whole or not at all, and on the disk.
fn replace(file: &Path, kept: &[KeptAnswer]) -> io::Result<()> {
    let temporary = file.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    new.write_all(&serde_json::to_vec(kept)?)?;
    new.sync_all()?;
    std::fs::rename(&temporary, file)?;
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use postern_secret::{Secret, seal::Wrap};

    use super::*;

    const PERIMETER: &str = "0909090909090909090909090909090909090909090909090909090909090909";

    fn parts(credential: &str) -> OauthParts {
        let part = |kind: &str| {
            let binding = Binding {
                client_id: None,
                credential: credential.to_owned(),
                hosts: Vec::new(),
                injection: None,
                kind: kind.to_owned(),
                mcp_url: None,
                refresh: None,
                secret_name: None,
                token_endpoint: None,
                vault: "vlt_1".to_owned(),
                workspace: "wrkspc_default".to_owned(),
            };
            let perimeter_id = "pmtr_1".to_owned();
            let wrap = Wrap { perimeter_id, public_key: PERIMETER.to_owned(), enc: String::new(), key: String::new() };
            let ciphertext = credential.to_owned();
            SealedCredential {
                sealed: Sealed { version: 3, nonce: String::new(), ciphertext, wraps: vec![wrap] },
                binding,
            }
        };
        OauthParts { access: part("mcp_oauth"), refresh: part("mcp_oauth.refresh_token"), client_secret: None }
    }

    fn keep(journal: &Journal, credential: &str) {
        let access = Secret::new(b"an-access-token-0123".to_vec());
        journal.keep(&parts(credential), &Tokens { access, refresh: None, expires_in_seconds: None }, None).unwrap();
    }

    #[test]
    fn one_answer_of_each_credential_is_kept_and_of_too_many_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("answers.json");
        let open = || Journal::at(file.clone(), PERIMETER.parse().unwrap()).unwrap();
        let journal = open();
        keep(&journal, "vcrd_0");
        keep(&journal, "vcrd_0");
        let first = journal.kept.lock().unwrap().clone();
        assert_eq!(first.len(), 1);
        // As if the others had come one by one.
        let others = (0..limits::KEPT_ANSWERS)
            .map(|number| KeptAnswer { parts: parts(&format!("vcrd_{number}")), ..first[0].clone() });
        replace(&file, &others.collect::<Vec<_>>()).unwrap();

        let journal = open();
        keep(&journal, "vcrd_last");
        let kept = open().kept.into_inner().unwrap();
        let of = |answer: &KeptAnswer| answer.parts.refresh.binding.credential.clone();
        assert_eq!(kept.len(), limits::KEPT_ANSWERS);
        assert_eq!((of(&kept[0]), of(&kept[limits::KEPT_ANSWERS - 1])), ("vcrd_1".to_owned(), "vcrd_last".to_owned()));
    }
}
