//! From a source to a secret: the local store, the snapshot of the operator's environment, a file. Read anew for each session.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use postern_policy::{Credential, Routes, Source, Zones};
use postern_secret::{Exposed, Secret, SecretBytes, admit, guarded};
use zeroize::Zeroizing;

use crate::refusal::{Refusal, RefusalReason};
use crate::store::{Store, StoreError};

/// The variables of the operator's environment that zones name as sources: what a snapshot needs to hold, and no more.
#[must_use]
pub fn variables(zones: &Zones) -> Vec<String> {
    named(zones.iter().flat_map(|zone| zone.credentials()).map(|credential| &credential.source))
}

/// As [`variables`], of the gateway's routes. Custody has one instance for worker and gateway, so whoever starts it needs both.
#[must_use]
pub fn route_variables(routes: &Routes) -> Vec<String> {
    named(routes.sources().map(|(_, source)| source))
}

/// The files that zones name as sources: where custody has to be able to read.
#[must_use]
pub fn files(zones: &Zones) -> Vec<PathBuf> {
    paths(zones.iter().flat_map(|zone| zone.credentials()).map(|credential| &credential.source))
}

/// As [`files`], of the gateway's routes.
#[must_use]
pub fn route_files(routes: &Routes) -> Vec<PathBuf> {
    paths(routes.sources().map(|(_, source)| source))
}

fn paths<'a>(sources: impl Iterator<Item = &'a Source>) -> Vec<PathBuf> {
    sources
        .filter_map(|source| match source {
            Source::File(path) => Some(PathBuf::from(path)),
            Source::Store(_) | Source::Env(_) | Source::Api(_) => None,
        })
        .collect()
}

/// Whether custody was confined without this file: its user may read it, and it does not open.
pub(crate) fn out_of_reach(path: &Path) -> bool {
    let permitted = rustix::fs::access(path, rustix::fs::Access::READ_OK).is_ok();
    permitted && open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn named<'a>(sources: impl Iterator<Item = &'a Source>) -> Vec<String> {
    let mut names: Vec<_> = sources
        .filter_map(|source| match source {
            Source::Env(name) => Some(name.clone()),
            Source::Store(_) | Source::File(_) | Source::Api(_) => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Where secrets come from.
pub(crate) struct Sources {
    pub(crate) store: Store,
    pub(crate) snapshot: BTreeMap<String, SecretBytes>,
}

impl Sources {
    /// Resolves a credential's secret. Blocks on the file system.
    pub(crate) fn resolve(&self, credential: &Credential) -> Result<SecretBytes, Refusal> {
        self.resolve_for(credential.name.as_str(), &credential.source)
    }

    /// As [`Self::resolve`], for whatever bears that name. Blocks on the file system.
    pub(crate) fn resolve_for(&self, name: &str, source: &Source) -> Result<SecretBytes, Refusal> {
        let (value, danger_short) = match source {
            Source::Store(name) => self.stored(name),
            Source::Env(name) => self.in_snapshot(name).map(|value| (value, false)),
            Source::File(path) => in_file(path).map(|value| (value, false)),
            // Of a session's own, which opens it; nothing of the perimeter's has it.
            Source::Api(name) => Err(in_no_vault(name)),
        }
        .map_err(|refusal| refusal.about(name))?;
        strong(value, danger_short, name, source)
    }

    fn stored(&self, name: &str) -> Result<(SecretBytes, bool), Refusal> {
        match self.store.read(name) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Refusal::new(
                RefusalReason::SourceMissing,
                format!("the local store has no {name}: run `postern secrets set {name}`"),
            )),
            Err(error @ StoreError::RowChanged { .. }) => {
                Err(Refusal::new(RefusalReason::StoreRowChanged, error.to_string()))
            }
            Err(error) => Err(Refusal::new(RefusalReason::StoreUnusable, error.to_string())),
        }
    }

    fn in_snapshot(&self, name: &str) -> Result<SecretBytes, Refusal> {
        self.snapshot.get(name).map(SecretBytes::duplicate).ok_or_else(|| {
            Refusal::new(
                RefusalReason::SourceMissing,
                format!("the variable {name} was not set where `postern` was started: set it and start again"),
            )
        })
    }
}

/// What to say of a variable that the session's vaults have not, or not any more.
pub(crate) fn in_no_vault(name: &str) -> Refusal {
    let next =
        format!("no vault of the session has the variable {name} any more: put it into one, and start another session");
    Refusal::new(RefusalReason::SourceMissing, next)
}

/// A whole file, without one line end at its end. Waits for nothing: a pipe in its place is refused.
fn in_file(path: &Path) -> Result<SecretBytes, Refusal> {
    read_file(path).map(Secret::new).map_err(|error| {
        let exposed = error.get_ref().and_then(|cause| cause.downcast_ref::<Exposed>());
        let reason = match error.kind() {
            io::ErrorKind::NotFound => RefusalReason::SourceMissing,
            _ if exposed.is_some() => RefusalReason::SourceExposed,
            _ => RefusalReason::SourceUnreadable,
        };
        let next = if let Some(exposed) = exposed {
            exposed.to_string()
        } else if out_of_reach(path) {
            outside(path)
        } else {
            format!(
                "the file {} cannot be read ({}): make it a file that this user can read",
                path.display(),
                error.kind()
            )
        };
        Refusal::new(reason, next)
    })
}

/// What to say of such a file.
pub(crate) fn outside(path: &Path) -> String {
    format!(
        "the file {} lies where custody named no source when it started and confined itself: start the worker and the gateway again",
        path.display()
    )
}

/// Does not wait for whoever writes into a pipe.
fn open(path: &Path) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(nonblocking).open(path)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    guarded(&file, path)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST_FILE + 1));
    file.take(LARGEST_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LARGEST_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    if bytes.pop_if(|byte| *byte == b'\n').is_some() {
        bytes.pop_if(|byte| *byte == b'\r');
    }
    Ok(std::mem::take(&mut *bytes))
}

/// Judged at each use: a file or variable may have become weak, and the list of guesses grows.
fn strong(value: SecretBytes, danger_short: bool, credential: &str, source: &Source) -> Result<SecretBytes, Refusal> {
    admit(into_bytes(&value), danger_short).map_err(|weak| {
        let name = match source {
            Source::Store(name) => name.as_str(),
            Source::Env(_) | Source::File(_) | Source::Api(_) => credential,
        };
        let next = format!(
            "{weak}: use a stronger secret, or store it knowingly with `postern secrets set {name} --danger-short` and `source = \"store:{name}\"`"
        );
        Refusal::new(RefusalReason::SecretWeak, next).about(credential)
    })
}

#[expect(clippy::disallowed_methods, reason = "its strength is judged from its bytes")]
fn into_bytes(value: &SecretBytes) -> Vec<u8> {
    value.expose().clone()
}

const LARGEST_FILE: usize = 64 << 10;

#[cfg(test)]
mod tests;
