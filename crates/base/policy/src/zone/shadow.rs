//! Candidates: a zone in `mode = "shadow"` is asked about everything that the zone it is a candidate of decides, and decides nothing. Where its
//! answer differs, what it would have done stands beside the decision, for the record. It is never selected for a session, never granted a
//! secret, and no permit comes out of it.

use super::Zone;
use crate::permit::{McpPermit, Permit, ToolPermit};
use crate::reason::{Denial, Reason};
use serde::{Deserialize, Serialize};

/// What a candidate would have done instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    /// The candidate's name.
    pub zone: String,
    /// Why it would have refused; none where it would have allowed.
    pub reason: Option<Reason>,
    /// The rule that would have allowed or refused, or came nearest.
    pub rule: Option<String>,
}

/// A permit that can say what a candidate would have done.
pub(crate) trait Shadowed {
    /// The rule that allows.
    fn by(&self) -> &str;
    /// Where the word stands.
    fn shadow(&mut self) -> &mut Option<Box<Shadow>>;
}

macro_rules! shadowed {
    ($($permit:ty),*) => {$(
        impl Shadowed for $permit {
            fn by(&self) -> &str {
                &self.rule
            }

            fn shadow(&mut self) -> &mut Option<Box<Shadow>> {
                &mut self.shadow
            }
        }
    )*};
}

shadowed!(Permit, McpPermit, ToolPermit);

/// The decision, with the candidate's word where it is another one. The decision itself is never changed.
pub(super) fn beside<P: Shadowed>(
    decided: Result<P, Denial>,
    candidate: Option<&Zone>,
    ask: impl FnOnce(&Zone) -> Result<P, Denial>,
) -> Result<P, Denial> {
    let Some(candidate) = candidate else { return decided };
    let word = |reason, rule| Some(Box::new(Shadow { zone: candidate.name.clone(), reason, rule }));
    match (decided, ask(candidate)) {
        (Ok(mut permit), Err(denial)) => {
            *permit.shadow() = word(Some(denial.reason), denial.rule);
            Ok(permit)
        }
        (Err(denial), Ok(permit)) => Err(Denial { shadow: word(None, Some(permit.by().to_owned())), ..denial }),
        (decided, _) => decided,
    }
}
