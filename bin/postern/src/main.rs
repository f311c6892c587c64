//! The composition root: chooses a role or a command, reads configuration and environment, and wires the parts.
//! Nothing is decided here about sessions, requests or secrets.

// With switches there is the binary of the other name alone.
#[cfg(feature = "danger-switches")]
const _: () = assert!(env!("CARGO_BIN_NAME").len() > "postern".len(), "build with `--bin postern-danger`");

mod agent;
mod audit;
mod check;
mod cli;
mod client;
mod config;
mod confined;
mod credential;
mod data;
mod demo;
mod descriptors;
mod edge;
mod failure;
mod gateway;
mod greeting;
mod keys;
mod listening;
mod logging;
mod ours;
mod perimeter;
mod private_mcp;
mod reach;
mod rehearsal;
mod reload;
mod rig;
mod roles;
mod run;
mod secret_file;
mod secrets;
mod server;
mod session;
mod tunnel;
mod up;
mod verify;
mod worker;
mod workspace;
mod zone;

use std::process::ExitCode;

use clap::Parser;

use cli::{Arguments, Command};
use failure::{Failure, Or};

fn main() -> ExitCode {
    // Inside a sandbox this binary is the tool server: nothing else of it may run there.
    if std::env::args_os().next().is_some_and(|name| name == "postern-tools") {
        return postern_tools::server::main();
    }
    // What we write is ours alone; a role that builds for others sets its own mask.
    let others = if postern_danger::off!("private-files") { 0o022 } else { 0o077 };
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(others));
    descriptors::raise();
    if let Some(role) = roles::asked_for() {
        return role.run();
    }
    let arguments = Arguments::parse();
    logging::start(arguments.level(), arguments.log_format);
    if matches!(arguments.command, Command::Up(_) | Command::Server(_) | Command::Worker(_) | Command::Gateway(_)) {
        descriptors::warn_if_few();
    }
    match command(&arguments) {
        Ok(code) => code,
        Err(failure) => {
            #[expect(clippy::print_stderr, reason = "why the command failed is for the person who typed it")]
            {
                eprintln!("postern: {failure}");
            }
            failure.exit_code()
        }
    }
}

fn command(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let done = match &arguments.command {
        Command::Up(up) => asynchronously(up::run(up)),
        Command::Run(run) => asynchronously(run::run(run)),
        Command::Secrets(secrets) => secrets::run(&secrets.verb),
        Command::Zone(zone) => zone::run(&zone.verb),
        Command::Audit(audit) => audit::run(&audit.verb),
        Command::Agent(agent) => asynchronously(agent::run(&agent.verb)),
        Command::Worker(worker) if worker.check => check::run(),
        Command::Worker(worker) => return worker::run(worker),
        Command::Server(server) => return server::run(server),
        Command::Gateway(gateway) => return asynchronously(gateway::run(gateway)),
        Command::Session(session) => asynchronously(session::run(&session.verb)),
        Command::Tunnel(tunnel) => asynchronously(tunnel::run(&tunnel.verb)),
        Command::Key(key) => asynchronously(keys::run(&key.verb)),
        Command::Workspace(workspace) => asynchronously(workspace::run(&workspace.verb)),
        Command::Perimeter(perimeter) => asynchronously(perimeter::run(&perimeter.verb)),
        Command::Credential(credential) => asynchronously(credential::run(&credential.verb)),
        Command::TunnelRig(rig) => asynchronously(rig::run(rig)),
        Command::PrivateMcp(server) => asynchronously(private_mcp::run(server)),
        Command::Verify(verify) => return asynchronously(verify::run(verify, arguments.log)),
        Command::Confined(confined) => confined::run(confined),
        Command::Demo(demo) => asynchronously(demo::run(demo)),
        Command::Rehearsal(rehearsal) => asynchronously(rehearsal::run(rehearsal)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// On a runtime of its own.
pub(crate) fn asynchronously<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.or_misused("start the runtime")?.block_on(work)
}
