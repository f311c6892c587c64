//! `postern verify`: does the boundary of the deployed zone hold here? Attempts the catalogue in a perimeter of its own and says what it found.

use std::path::Path;
use std::process::ExitCode;

use postern_verify::catalogue::Catalogue;
use postern_verify::{Detail, Report, Selection, Settings};
use tracing::level_filters::LevelFilter;

use crate::check;
use crate::cli::VerifyArguments;
use crate::config;
use crate::failure::{Failure, Or};
use crate::roles::keep_memory_private;

mod aside;
mod tunnel;

use aside::{Aside, Ended};
use tunnel::Rigged;

/// Runs the command.
///
/// # Errors
/// Configuration or stand; [`Failure::ControlMissing`] where no sandbox can be built; [`Failure::NotHeld`].
#[expect(clippy::print_stdout, reason = "the report is the command's result")]
pub(crate) async fn run(arguments: &VerifyArguments, log: Option<LevelFilter>) -> Result<ExitCode, Failure> {
    if arguments.list {
        print!("{}", list()?);
        return Ok(ExitCode::SUCCESS);
    }
    check::every_sandbox_can_be_built()?;
    keep_memory_private();
    let configuration = config::read_optional(arguments.config.as_deref())?;
    let settings = Settings {
        exe: postern_exec::program::own_executable().or_misused("find this executable")?,
        document: configuration.document.text().clone(),
        selection: Selection { zone: arguments.zone.clone(), environment: arguments.environment.clone() },
        only: arguments.only.clone(),
        variables: own_variables(),
        scratch: std::env::temp_dir(),
        tunnel: Box::new(Rigged { scratch: std::env::temp_dir() }),
    };
    // Whoever asks for the log gets it where logs go; else it would stand in the middle of the table.
    let aside = if log.is_none() { Some(Aside::begin(&settings.scratch)?) } else { None };
    let report = postern_verify::run(&settings).await;
    let held = report.as_ref().is_ok_and(|report| report.counts().not_held == 0);
    let ended = if held { Ended::Held } else { Ended::Failed };
    aside.map_or(Ok(()), |aside| aside.end(ended))?;
    let report = report.or_misused("verify")?;
    write(arguments.junit.as_deref(), || postern_verify::junit(&report))?;
    write(arguments.html.as_deref(), || postern_verify::html(&report))?;
    match arguments.json {
        true => println!("{}", report.json()),
        false => print!("{}", postern_verify::table(&report, detail(arguments))),
    }
    verdict(&report, arguments)
}

/// The names, and none of the values, of what this command was started with.
#[expect(clippy::disallowed_methods, reason = "environment variables are read in this crate")]
fn own_variables() -> Vec<String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
}

fn detail(arguments: &VerifyArguments) -> Detail {
    if arguments.verbose { Detail::EveryProbe } else { Detail::Brief }
}

fn write(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text()).or_misused(&format!("write {}", path.display()))
}

fn verdict(report: &Report, arguments: &VerifyArguments) -> Result<ExitCode, Failure> {
    let counts = report.counts();
    if counts.not_held > 0 {
        return Err(Failure::NotHeld(match counts.not_held {
            1 => "1 probe did not hold".to_owned(),
            many => format!("{many} probes did not hold"),
        }));
    }
    if counts.held == 0 {
        return Err(Failure::NotHeld("no probe held: nothing was shown".to_owned()));
    }
    if counts.not_run > 0 && arguments.strict {
        return Err(Failure::NotHeld(format!("{} probes did not run, and none of these is a pass", counts.not_run)));
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each probe.
fn list() -> Result<String, Failure> {
    let catalogue = Catalogue::shipped().or_misused("read the catalogue")?;
    let line = |probe: &postern_verify::catalogue::Probe| {
        format!("{}  {:<36} {:<40} {}\n", probe.promise, probe.id, probe.controls.join(","), probe.tries)
    };
    Ok(catalogue.probes.iter().map(line).collect())
}
