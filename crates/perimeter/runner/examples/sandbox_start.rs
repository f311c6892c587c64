//! A measurement, not a check: from asking for a sandbox to the result of its first command, beside `bwrap` with the same namespaces and, as near as it
//! can, the same mounts. `sandbox_start ROUNDS [PROGRAM]`: the spawner and the tool server are PROGRAM, else the `postern` that was built beside this
//! example, else this example itself. The last line printed is JSON: `{"ours": [ms], "bwrap": [ms]}`.
#![expect(
    clippy::print_stdout,
    reason = "what was measured is for the person who asked, and for the last line's reader"
)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use postern_exec::role::Starter;
use postern_sandbox::{LOWEST_KERNEL_UID, Root, Settings, Spawner, Spec};
use postern_tools::ToolClient;
use postern_tools::client::CALL_DEADLINE;
use serde_json::{Map, Value, json};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Rounds that are thrown away: caches and pools fill.
const WARM_UP: usize = 3;
/// Between measurements, so that neither side pays for what the other one's end leaves to the kernel, nor for what our spawner prepares ahead.
const QUIET: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == postern_sandbox::TOOLS_NAME) {
        return postern_tools::server::main();
    }
    if std::env::args_os().nth(1).is_some_and(|role| role == "spawner") {
        return postern_sandbox::spawner_main();
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a pause between measurements, the same before both, lets the machine settle"
)]
fn measure() -> Outcome {
    let mut arguments = std::env::args_os().skip(1);
    let rounds: usize = arguments.next().and_then(|rounds| rounds.to_str()?.parse().ok()).unwrap_or(100);
    let program = arguments.next().map_or_else(program, |given| Ok(given.into()))?;
    println!("spawner and tool server: {}", program.display());
    let directory = Directory::make()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let spawner = runtime.block_on(Spawner::start_with(&Starter::itself(program), &Settings::default()))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + rounds {
        std::thread::sleep(QUIET);
        ours.push(runtime.block_on(start_ours(&spawner, &directory.0, round))?);
        std::thread::sleep(QUIET);
        theirs.push(start_bwrap(&directory.0)?);
    }
    println!("{}", json!({"ours": ours.split_off(WARM_UP), "bwrap": theirs.split_off(WARM_UP)}));
    Ok(())
}

/// The binary that people run, where it was built; it is larger than this one.
fn program() -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let built = own.parent().and_then(Path::parent).map(|release| release.join("postern"));
    Ok(built.filter(|postern| postern.exists()).unwrap_or(own))
}

/// Milliseconds from the question to the first command's result. Making the workspace before and destroying after are not counted.
async fn start_ours(spawner: &Spawner, directory: &Path, round: usize) -> Outcome<f64> {
    let spec = spec(directory, round)?;
    let session = spec.session.clone();
    let start = Instant::now();
    let sandbox = spawner.build(spec).await?;
    let mut tools = ToolClient::new(sandbox.tools)?;
    let input = Map::from_iter([("command".to_owned(), Value::from("true"))]);
    let outcome = tools.call("first", "bash", input, CALL_DEADLINE).await?;
    let passed = milliseconds(start);
    spawner.destroy(&session).await?;
    if outcome.is_error { Err(format!("the command failed: {:?}", outcome.content).into()) } else { Ok(passed) }
}

/// A sandbox as the worker asks for it: with variables and a certificate authority, all limits set.
fn spec(directory: &Path, round: usize) -> Outcome<Spec> {
    let is_root = rustix::process::geteuid().is_root();
    let kernel_uid = if is_root { Some(LOWEST_KERNEL_UID + u32::try_from(round)?) } else { None };
    let session = format!("sesn_{round}");
    let workspace = directory.join(&session);
    postern_sandbox::workspace::prepare(&workspace, kernel_uid)?;
    Ok(Spec {
        session,
        workspace,
        kernel_uid,
        memory_bytes: 2 << 30,
        cpus: 2.0,
        processes: 512,
        disk_bytes: 4 << 30,
        system: Root::default(),
        packages: None,
        mounts: Vec::new(),
        devices: Vec::new(),
        environment: vec![("LEDGER_API_KEY".to_owned(), "pstn-0123456789abcdef0123456789ab".to_owned())],
        ca_certificate_pem: format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", AUTHORITY.repeat(12)),
        require: Vec::new(),
    })
}

/// A line of a certificate: nobody reads it here, its length is what counts.
const AUTHORITY: &str = "MIIBszCCAVmgAwIBAgIUQGdlbmVyYXRlZCBmb3IgYSBtZWFzdXJlbWVudCBvbmx5\n";

/// Milliseconds from the start of `bwrap` to its exit. What the kernel does after that is not counted.
#[expect(clippy::disallowed_methods, reason = "a peer to compare with, started by a measurement")]
fn start_bwrap(directory: &Path) -> Outcome<f64> {
    let workspace = directory.join("peer");
    std::fs::create_dir_all(&workspace)?;
    let mut command = Command::new("bwrap");
    command.args([
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup",
    ]);
    command.args(["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    for link in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(target) = std::fs::read_link(Path::new("/").join(link)) {
            command.arg("--symlink").arg(target).arg(Path::new("/").join(link));
        }
    }
    command.arg("--bind").arg(&workspace).arg("/workspace");
    command.args(["--die-with-parent", "--", "/bin/bash", "-c", "true"]);
    let start = Instant::now();
    let status = command.status()?;
    let passed = milliseconds(start);
    if status.success() { Ok(passed) } else { Err(format!("bwrap ended with {status}").into()) }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// A directory for workspaces, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn make() -> std::io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("postern-sandbox-start-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        Ok(Self(std::fs::canonicalize(directory)?))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Left-overs in the temporary directory are not worth failing a measurement for.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
