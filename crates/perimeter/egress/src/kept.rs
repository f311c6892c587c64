//! A session's secrets that custody granted for more than one use: what a permitted request may take without asking again, for as long as custody's word
//! counts. Whoever takes one has the use recorded before the request goes out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use postern_custody::Kept;
use postern_policy::CredentialName;

use crate::recognise::Key;

/// One secret, granted under one version of the zone.
pub(crate) struct KeptGrant {
    /// The secret and its placeholder.
    pub(crate) key: Arc<Key>,
    /// Digest of the zone that it was granted under.
    pub(crate) policy_digest: String,
    /// Custody's word.
    pub(crate) word: Kept,
}

/// Those of a session.
#[derive(Default)]
pub(crate) struct KeptGrants(Mutex<HashMap<CredentialName, Arc<KeptGrant>>>);

impl KeptGrants {
    /// The grant of a credential, if the next use may be made with it. One that counts no more is dropped, and its copy zeroed.
    pub(crate) fn take(&self, credential: &CredentialName, policy_digest: &str) -> Option<Arc<KeptGrant>> {
        let mut kept = self.lock();
        let grant = kept.get(credential)?;
        if grant.policy_digest == policy_digest && grant.word.counts() {
            return Some(Arc::clone(grant));
        }
        kept.remove(credential);
        None
    }

    /// Keeps a grant in place of a former one.
    pub(crate) fn keep(&self, grant: KeptGrant) {
        self.lock().insert(grant.key.credential.clone(), Arc::new(grant));
    }

    /// Drops them all.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CredentialName, Arc<KeptGrant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
