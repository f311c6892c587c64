//! What the compiler does not check: which crate may reach which, that documents tell the truth, that sources keep
//! to the house rules. Every finding is printed; any finding fails.

mod dependencies;
mod documents;
mod sources;

use crate::run::Outcome;

/// Runs every check.
pub(crate) fn all() -> Outcome {
    let mut findings = dependencies::findings()?;
    findings.extend(documents::findings()?);
    findings.extend(sources::findings()?);
    for finding in &findings {
        println!("tidy: {finding}");
    }
    if findings.is_empty() { Ok(()) } else { Err(format!("{} findings", findings.len())) }
}
