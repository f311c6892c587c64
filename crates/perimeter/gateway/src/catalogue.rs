//! Every placeholder that the perimeter remembers, of any session: none of them has any business in an MCP call. Asked of
//! custody again and again, and at once where something carries the mark of one that is not known yet.

use std::sync::{Arc, PoisonError, RwLock};

use postern_custody::KnownPlaceholder;
use postern_policy::{Denial, Reason};
use postern_secret::{MARKER, detect::Detector};

use crate::custodian::Custodian;

/// The list, replaced whole.
#[derive(Default)]
pub(crate) struct Catalogue(RwLock<Arc<Listed>>);

/// The placeholders at one time.
pub(crate) struct Listed {
    known: Vec<KnownPlaceholder>,
    detector: Detector,
    lower_case: Detector,
}

impl Default for Listed {
    fn default() -> Self {
        Self::of(Vec::new())
    }
}

impl Listed {
    fn of(known: Vec<KnownPlaceholder>) -> Self {
        let lower: Vec<_> = known.iter().map(|one| one.placeholder.as_bytes().to_ascii_lowercase()).collect();
        Self {
            detector: Detector::new(known.iter().map(|one| one.placeholder.as_bytes())),
            lower_case: Detector::new(lower.iter().map(Vec::as_slice)),
            known,
        }
    }

    /// The refusal of a text with a placeholder in it.
    pub(crate) fn refusal(&self, session: &str, text: &[u8]) -> Option<Denial> {
        let hit = self.detector.find(text).into_iter().next()?;
        let known = &self.known[hit.index];
        let own = known.alive && known.session == session;
        Some(Denial::new(if own { Reason::PlaceholderWrongLocation } else { Reason::PlaceholderWrongSession }))
    }

    /// Whether a header's name, which arrives in lower case, holds one.
    pub(crate) fn names(&self, lower_case: &str) -> bool {
        self.lower_case.is_in(lower_case.as_bytes()) || self.detector.is_in(lower_case.as_bytes())
    }
}

impl Catalogue {
    /// The list as it stands.
    pub(crate) fn listed(&self) -> Arc<Listed> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks custody again. Without an answer there is no list to trust.
    pub(crate) async fn refresh(&self, custodian: &dyn Custodian) -> Result<(), Denial> {
        let known = custodian.placeholders().await?;
        if self.listed().known != known {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Listed::of(known));
        }
        Ok(())
    }
}

/// Whether the text carries the mark of a placeholder, plain.
pub(crate) fn marked(text: &[u8]) -> bool {
    text.windows(MARKER.len()).enumerate().any(|(at, window)| {
        let after = || text[at + MARKER.len()..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        window == MARKER.as_bytes() && after() >= AFTER_MARKER
    })
}

/// Random characters that follow the mark in the shortest placeholder that bears one.
const AFTER_MARKER: usize = 4;
