//! Measurements, not checks. `sandbox_start start ROUNDS [PROGRAM]`: from asking for a sandbox to the result of its first command, beside `bwrap` with the
//! same namespaces and `runc` with a minimal bundle, and as near as they can with the same mounts. `sandbox_start idle COUNT [PROGRAM]`: what sandboxes take
//! of memory that wait for their first command. The spawner and the tool server are PROGRAM, else the `postern` that was built beside this example, else
//! this example itself. The last line printed is JSON.
#![expect(
    clippy::print_stdout,
    reason = "what was measured is for the person who asked, and for the last line's reader"
)]

mod idle;
mod ours;
mod peers;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use postern_exec::role::Starter;
use postern_sandbox::{Settings, Spawner};
use serde_json::json;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Rounds that are thrown away: caches and pools fill.
const WARM_UP: usize = 3;
/// Between measurements, so that no side pays for what another one's end leaves to the kernel, nor for what our spawner prepares ahead.
const QUIET: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == postern_sandbox::TOOLS_NAME) {
        return postern_tools::server::main();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|role| role == "spawner") {
        return postern_sandbox::spawner_main();
    }
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &[String]) -> Outcome {
    let [what, count, program @ ..] = arguments else { return Err("say start or idle, and a number".into()) };
    let program = program.first().map_or_else(program_beside, |given| Ok(given.into()))?;
    println!("spawner and tool server: {}", program.display());
    let directory = Directory::make()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let settings = Settings { forbidden_mounts: Vec::new(), shared: directory.0.join("shared") };
    let spawner = runtime.block_on(Spawner::start(&Starter::itself(program.clone()), &settings))?;
    match what.as_str() {
        "idle" => runtime.block_on(idle::measure(&spawner, &directory.0, count.parse()?)),
        "start" => starts(&runtime, &spawner, &directory, count.parse()?),
        other => Err(format!("nothing to measure is called {other}").into()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a pause between measurements, the same before each, lets the machine settle"
)]
fn starts(runtime: &tokio::runtime::Runtime, spawner: &Spawner, directory: &Directory, rounds: usize) -> Outcome {
    let bundle = peers::Bundle::make(&directory.0)?;
    let (mut ours, mut bwrap, mut runc) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UP + rounds {
        std::thread::sleep(QUIET);
        ours.push(runtime.block_on(ours::start(spawner, &directory.0, round))?);
        std::thread::sleep(QUIET);
        bwrap.push(peers::bwrap(&directory.0)?);
        std::thread::sleep(QUIET);
        runc.extend(bundle.as_ref().map(peers::Bundle::run).transpose()?);
    }
    let counted = |mut times: Vec<f64>| times.split_off(WARM_UP.min(times.len()));
    println!("{}", json!({"ours": counted(ours), "bwrap": counted(bwrap), "runc": counted(runc)}));
    Ok(())
}

/// The binary that people run, where it was built; it is larger than this one.
fn program_beside() -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let built = own.parent().and_then(std::path::Path::parent).map(|release| release.join("postern"));
    Ok(built.filter(|postern| postern.exists()).unwrap_or(own))
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
