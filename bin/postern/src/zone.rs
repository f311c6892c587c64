//! `postern zone`: is the configuration sound, what does it decide and why, what does a change of it open.
//! Reads files and answers; starts nothing and asks no server.

mod diff;
mod explain;
mod question;
mod selection;

use std::path::Path;

use crate::cli::ZoneVerb;
use crate::config;
use crate::failure::Failure;

/// Runs the verb.
///
/// # Errors
/// Every error of the file, and each verb's own verdict as an exit code.
pub(crate) fn run(verb: &ZoneVerb) -> Result<(), Failure> {
    match verb {
        ZoneVerb::Check { file } => check(file.as_deref().unwrap_or(Path::new("postern.toml"))),
        ZoneVerb::Explain(arguments) => explain::run(arguments),
        ZoneVerb::Diff { old, new, json } => diff::run(old, new, *json),
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
