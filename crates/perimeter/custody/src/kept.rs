//! A grant that counts for further uses, until custody takes it back or its source has another value. The egress proxy has the secret for the length of
//! the session in any case, to recognise it; what this spares is the question whether it still counts, by an answer that cannot be late.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use postern_exec::lease::Held;
use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// What a kept grant counts by. Holds no secret.
#[derive(Debug)]
pub struct Kept {
    lease: Held,
    source: Option<Watched>,
}

/// The file that a secret was read from, as it was then; it can be looked at and not read.
#[derive(Debug)]
pub(crate) struct Watched {
    file: File,
    then: Stamp,
}

/// What comes with the answer, beside its descriptors: the lease, then the file where there is one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptBy {
    source: Option<Stamp>,
}

impl Kept {
    /// By a lease alone.
    #[must_use]
    pub fn by(lease: Held) -> Self {
        Self { lease, source: None }
    }

    /// Whether the next use needs no new grant.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.source.as_ref().is_none_or(Watched::is_the_same) && self.lease.counts()
    }

    /// Whether custody has not taken it back; its source may have another value by now.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.lease.counts()
    }

    /// As it came from custody; nothing where that does not fit together.
    pub(crate) fn received(by: &KeptBy, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let lease = Held::new(descriptors.next()?);
        let source = match by.source {
            None => None,
            Some(then) => Some(Watched { file: descriptors.next()?.into(), then }),
        };
        Some(Self { lease, source })
    }

    /// As it goes to the egress proxy.
    pub(crate) fn sent(lease: OwnedFd, source: Option<Watched>) -> (KeptBy, Vec<OwnedFd>) {
        match source {
            None => (KeptBy { source: None }, vec![lease]),
            Some(Watched { file, then }) => (KeptBy { source: Some(then) }, vec![lease, file.into()]),
        }
    }
}

impl Watched {
    /// To be taken before the file is read: one that is replaced or written in between is another then.
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        let looked_at = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(looked_at.bits().cast_signed()).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            // Of a link, where it leads is what changes.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self { file, then: Stamp::of(&metadata) })
    }

    fn is_the_same(&self) -> bool {
        self.file.metadata().is_ok_and(|now| Stamp::of(&now) == self.then)
    }
}

#[cfg(test)]
mod tests {
    use postern_exec::lease::Lease;

    use super::*;

    fn kept(lease: &Lease, file: Option<&Path>) -> Kept {
        let (by, descriptors) = Kept::sent(lease.give().unwrap(), file.map(|file| Watched::file(file).unwrap()));
        Kept::received(&by, descriptors).unwrap()
    }

    #[test]
    fn a_kept_grant_counts_until_its_lease_ends() {
        let lease = Lease::new().unwrap();
        let kept = kept(&lease, None);
        assert!(kept.counts() && kept.is_in_force());
        drop(lease);
        assert!(!kept.counts() && !kept.is_in_force());
    }

    #[test]
    fn a_kept_grant_ends_with_whatever_becomes_of_its_file() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 5] = [
            ("written", |file| std::fs::write(file, "other").unwrap()),
            ("written at the same length", |file| std::fs::write(file, "2222").unwrap()),
            ("replaced", |file| {
                std::fs::write(file.with_extension("new"), "1111").unwrap();
                std::fs::rename(file.with_extension("new"), file).unwrap();
            }),
            ("moved away", |file| std::fs::rename(file, file.with_extension("old")).unwrap()),
            ("removed", |file| std::fs::remove_file(file).unwrap()),
        ];
        let directory = tempfile::tempdir().unwrap();
        for (what, change) in changes {
            let (file, lease) = (directory.path().join(what), Lease::new().unwrap());
            std::fs::write(&file, "1111").unwrap();
            // Times of files have the kernel's own grain: one that was written long ago.
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            let kept = kept(&lease, Some(&file));
            assert!(kept.counts(), "{what}");
            change(&file);
            assert!(!kept.counts() && kept.is_in_force(), "{what}");
        }
    }

    #[test]
    fn what_came_without_its_descriptors_is_not_kept() {
        let lease = Lease::new().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let (by, mut descriptors) = Kept::sent(lease.give().unwrap(), Some(Watched::file(file.path()).unwrap()));
        descriptors.pop();
        assert!(Kept::received(&by, descriptors).is_none() && Kept::received(&by, Vec::new()).is_none());
    }
}
