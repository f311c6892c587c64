//! `postern zone check`: is this configuration one that could be started?

use std::path::Path;

use crate::cli::ZoneVerb;
use crate::config;
use crate::failure::Failure;

/// Runs the verb.
///
/// # Errors
/// Every error of the file.
#[expect(clippy::print_stdout, reason = "the verdict is the command's result")]
pub(crate) fn run(verb: &ZoneVerb) -> Result<(), Failure> {
    let ZoneVerb::Check { file } = verb;
    let file = file.as_deref().unwrap_or(Path::new("postern.toml"));
    let configuration = config::read_file(file)?;
    for warning in &configuration.warnings {
        println!("warning: {warning}");
    }
    let zones = if configuration.has_zones { "" } else { "; no zone is written, so every session gets deny-all" };
    println!("{}: the configuration is valid{zones}", file.display());
    Ok(())
}
