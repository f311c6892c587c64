//! `postern worker`: a perimeter on this machine that serves the queue of a server elsewhere, ours or the hosted platform's.
//!
//! It holds what `up`'s worker holds: the environment's key from a file, the zones, custody and the audit log under its own
//! data directory. Everything is dialled from here.

use std::process::ExitCode;

use postern_confine::Role;
use postern_exec::asynchronous::Channel;
use postern_exec::role::Starter;
use postern_policy::{Endpoint, configured};

use crate::cli::WorkerArguments;
use crate::config;
use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::roles::{Service, confine, keep_memory_private, lacking, worker_configuration};
use crate::up::Signals;
use crate::{asynchronously, reach, reload};

/// Serves until SIGTERM or Ctrl-C, then drains; the worker's own exit code.
///
/// # Errors
/// Configuration, data directory, key file or URL.
pub(crate) fn run(arguments: &WorkerArguments) -> Result<ExitCode, Failure> {
    keep_memory_private();
    let configuration = config::read(&arguments.place)?;
    let section = &configuration.worker;
    let url = arguments.url.clone().or_else(|| section.server.as_ref().map(ToString::to_string));
    let environment = arguments.environment.clone().or_else(|| section.environment.clone());
    let key_file = arguments.environment_key_file.clone().or_else(|| section.environment_key_file.clone());
    let (Some(url), Some(environment), Some(key_file)) = (url, environment, key_file) else {
        return Err(Failure::Misused(
            "a worker needs --url, --environment and --environment-key-file, or server, environment and environment_key_file in [worker]".into(),
        ));
    };
    let endpoint: Endpoint = url.parse().or_misused("read the server's URL")?;
    let data = Data::open(&arguments.place.data_dir)?;
    let held = data.hold()?;
    let service = Service {
        server_url: url.clone(),
        ca_file: arguments.ca_file.clone().or_else(|| section.ca_file.clone()),
        environment_id: environment,
        environment_key_file: key_file,
        sessions: section.sessions.into(),
        drain: arguments.drain,
    };
    let mut worker = worker_configuration(&configuration, &data, service)?;
    let environments = worker.environments.clone();
    let starter = Starter::beside(worker.exe.clone()).or_misused("start what starts the worker's processes")?;
    let (reach, shared) = reach::configuration(reach::worker(&worker), &configuration);
    for directory in &shared {
        let directory = directory.display();
        tracing::info!(%directory, next = REPLACED, "other files lie beside the configuration, so its own are read alone");
    }
    match confine(Role::Worker, &reach) {
        Ok(confinement) => worker.degraded.extend(lacking(&confinement)),
        Err(code) => return Ok(code),
    }
    let serving = async {
        let mut hangup = Signals::listen()?.reload;
        let (mut ours, theirs) = Channel::pair().or_misused("make the worker's channel")?;
        let theirs = Channel::new(theirs).or_misused("make the worker's channel")?;
        let serving = postern_runner::worker_main(worker, starter, configured(&endpoint), Some(theirs));
        let reloads = async {
            loop {
                hangup.wait().await;
                match config::read(&arguments.place) {
                    Ok(changed) => {
                        if let Some(order) = reload::order(&changed, &environments) {
                            let _logged = reload::worker(&mut ours, &order).await;
                        }
                    }
                    Err(failure) if !shared.is_empty() => {
                        tracing::error!(%failure, next = REPLACED, "the former configuration stays in force");
                    }
                    Err(failure) => tracing::error!(%failure, "the former configuration stays in force"),
                }
            }
        };
        tokio::select! {
            code = serving => Ok(code),
            never = reloads => never,
        }
    };
    let code = asynchronously(serving);
    drop(held);
    code
}

/// What to do about a configuration that was replaced where its directory is not this process's to read.
const REPLACED: &str = "write a change into the file itself, or start the worker again; in a directory of its own a file may be replaced by another";
