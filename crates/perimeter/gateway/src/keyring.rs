//! The secrets that one session's calls were granted, to be recognised in what it sends and taken out of what it gets.
//! A secret that was replaced stays known: an upstream may still hold it and hand it back.

use std::sync::Arc;

use postern_secret::{Placeholder, SecretBytes, detect::Detector, scrub::Plan};

use crate::limits;

/// One session's secrets; dropping the last reference zeroes them.
pub(crate) struct Keyring {
    /// The youngest first.
    keys: Vec<Key>,
    detector: Detector,
    plan: Arc<Plan>,
}

struct Key {
    secret: SecretBytes,
    /// What stands for the secret in answers: of no use anywhere.
    instead: Placeholder,
}

impl Default for Keyring {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl Keyring {
    fn of(keys: Vec<Key>) -> Self {
        let pairs: Vec<_> = keys.iter().map(|key| (key.secret.duplicate(), key.instead.clone())).collect();
        Self { detector: Detector::new(keys.iter().map(|key| exposed(&key.secret))), plan: Plan::new(&pairs), keys }
    }

    /// Whether this secret is known.
    pub(crate) fn has(&self, secret: &SecretBytes) -> bool {
        self.keys.iter().any(|key| exposed(&key.secret) == exposed(secret))
    }

    /// The same with more; `None` where too many would have to be remembered.
    pub(crate) fn with(&self, added: Vec<SecretBytes>) -> Option<Self> {
        let new = added.into_iter().filter(|secret| !self.has(secret));
        let new = new.map(|secret| Key { instead: Placeholder::issue(secret.len(), None), secret });
        let known = self.keys.iter().map(|key| Key { secret: key.secret.duplicate(), instead: key.instead.clone() });
        let keys: Vec<_> = new.chain(known).collect();
        (keys.len() <= limits::FORMER_SECRETS).then(|| Self::of(keys))
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether any secret stands in the text, in any rendering.
    pub(crate) fn is_in(&self, text: &[u8]) -> bool {
        self.detector.is_in(text)
    }

    /// What takes secrets out of answers.
    pub(crate) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// A text without secrets.
    pub(crate) fn clean(&self, text: &[u8]) -> (Vec<u8>, u64) {
        self.plan.scrub(text)
    }
}

#[expect(clippy::disallowed_methods, reason = "what is to be recognised must be compared with what is sent")]
fn exposed(secret: &SecretBytes) -> &[u8] {
    secret.expose()
}
