//! `postern verify`: does the boundary of the deployed zone hold here? Attempts the catalogue in a perimeter of its own and says what it found.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use postern_verify::catalogue::Catalogue;
use postern_verify::{Detail, Report, Selection, Settings, Verdict, VerifyError};
use tokio::sync::Notify;
use tracing::level_filters::LevelFilter;

use crate::check;
use crate::cli::VerifyArguments;
use crate::config;
use crate::failure::{Failure, Or};
use crate::roles::keep_memory_private;
use crate::up::Signals;

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
    // What an earlier run found is not to be taken for this one's.
    for path in [&arguments.junit, &arguments.html].into_iter().flatten() {
        remove(path)?;
    }
    check::every_sandbox_can_be_built()?;
    keep_memory_private();
    let configuration = config::read_optional(arguments.config.as_deref())?;
    let (stop, tunnel) = (Arc::new(Notify::new()), Rigged::new(std::env::temp_dir()));
    let left = tunnel.left();
    let settings = Settings {
        exe: postern_exec::program::own_executable().or_misused("find this executable")?,
        document: configuration.document.text().clone(),
        selection: Selection { zone: arguments.zone.clone(), environment: arguments.environment.clone() },
        only: arguments.only.clone(),
        variables: own_variables(),
        scratch: std::env::temp_dir(),
        tunnel: Box::new(tunnel),
        stop: Arc::clone(&stop),
    };
    // Whoever asks for the log gets it where logs go; else it would stand in the middle of the table.
    let aside = if log.is_none() { Some(Aside::begin(&settings.scratch)?) } else { None };
    let report = told_to_end(&stop, postern_verify::run(&settings)).await?;
    left.removed().await;
    let ended = match &report {
        Ok(report) if verdict(report, arguments).is_ok() => Ended::Held,
        Err(VerifyError::NoSuchProbe(_) | VerifyError::Zone(_)) => Ended::NotBegun,
        Ok(_) | Err(_) => Ended::Failed,
    };
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

/// Runs to its end, which comes soon when somebody interrupts this command.
async fn told_to_end<T>(stop: &Notify, run: impl Future<Output = T>) -> Result<T, Failure> {
    let mut signals = Signals::listen()?;
    let mut run = std::pin::pin!(run);
    loop {
        tokio::select! {
            ended = &mut run => return Ok(ended),
            () = signals.next() => stop.notify_one(),
        }
    }
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).or_misused(&format!("remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
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
    fs::write(path, text()).or_misused(&format!("write {}", path.display()))
}

fn verdict(report: &Report, arguments: &VerifyArguments) -> Result<ExitCode, Failure> {
    let counts = report.counts();
    if counts.not_held > 0 {
        return Err(Failure::NotHeld(match counts.not_held {
            1 => "1 probe did not hold".to_owned(),
            many => format!("{many} probes did not hold"),
        }));
    }
    if let Some(what) = &report.broken_off {
        return Err(Failure::NotHeld(format!("the run was broken off: {what}")));
    }
    if counts.held == 0 {
        return Err(Failure::NotHeld("no probe held: nothing was shown".to_owned()));
    }
    // What a machine or a user has nothing for is said; what went wrong is no answer to the question.
    let missed = if arguments.strict { counts.not_run } else { counts.not_run - counts.not_here };
    if missed > 0 {
        let first = report.findings.iter().find_map(|finding| match &finding.verdict {
            Verdict::NotRun { kind, cause } if arguments.strict || !kind.is_not_here() => Some((&finding.id, cause)),
            Verdict::Held | Verdict::NotHeld { .. } | Verdict::NotRun { .. } => None,
        });
        let first = first.map(|(id, cause)| format!("; the first, {id}: {cause}")).unwrap_or_default();
        return Err(Failure::NotHeld(format!("{missed} probes did not run, and none of these is a pass{first}")));
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
