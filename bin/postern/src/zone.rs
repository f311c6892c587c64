//! `postern zone`: is the configuration sound, what does it decide and why, what does a change of it open.
//! Reads files and answers; starts nothing and asks no server.

mod diff;
mod explain;
mod learn;
mod question;
mod record;
mod replay;
mod selection;

use std::path::Path;

use crate::cli::ZoneVerb;
use crate::failure::Failure;
use crate::{audit, config};

/// Runs the verb.
///
/// # Errors
/// Every error of the file, and each verb's own verdict as an exit code.
pub(crate) fn run(verb: &ZoneVerb) -> Result<(), Failure> {
    match verb {
        ZoneVerb::Check { file, config } => {
            check(file.as_deref().or(config.as_deref()).unwrap_or(Path::new("postern.toml")))
        }
        ZoneVerb::Explain(arguments) => explain::run(arguments),
        ZoneVerb::Diff { old, new, json } => diff::run(old, new, *json),
        ZoneVerb::Learn { agent, shadow, path, place } => {
            let log = path.clone().map_or_else(|| audit::log_of(place), Ok)?;
            let whose = if *shadow { learn::Whose::Candidate } else { learn::Whose::Enforced };
            learn::run(agent, whose, &log, place.config.as_deref().unwrap_or(Path::new("postern.toml")))
        }
        ZoneVerb::Replay { path, config, json } => replay::run(path, config, *json),
    }
}

#[expect(clippy::print_stdout, reason = "the verdict is the command's result")]
fn check(file: &Path) -> Result<(), Failure> {
    let configuration = config::read_file(file)?;
    for warning in &configuration.warnings {
        println!("warning: {warning}");
    }
    let zones = if configuration.has_zones { "" } else { "; no zone is written, so every session gets deny-all" };
    println!("{}: the configuration is valid{zones}", file.display());
    Ok(())
}
