//! `cargo xtask bench`: ratios against peers measured in the same run. Not a test; nothing fails because it is slow.

mod egress;
mod egress_cost;
mod figures;
mod sandbox;
mod server;
mod tools;
mod tunnel;

use std::path::PathBuf;
use std::process::Stdio;

use clap::Args;
use serde_json::Value;

use crate::prepare;
use crate::run::{Outcome, command, output, root, run};
use figures::Report;

#[derive(Args)]
pub(crate) struct Options {
    /// Rounds of each short measurement, interleaved with its peers'; longer ones have fewer in proportion.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Only the named part: sandbox, idle, tools, server, egress, egress-cost, tunnel. All of them when absent.
    #[arg(long)]
    only: Vec<String>,
    /// Measure this postern instead of a release build made now. Figures of any other build say nothing about speed.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// What a part measures with, and how often.
struct Plan {
    binary: PathBuf,
    rounds: u32,
}

type Part = (&'static str, fn(&Plan, &mut Report) -> Outcome);

const PARTS: &[Part] = &[
    ("sandbox", sandbox::start),
    ("idle", sandbox::idle),
    ("tools", tools::round_trip),
    ("server", server::measure),
    ("egress", egress::measure),
    ("egress-cost", egress_cost::measure),
    ("tunnel", |plan, _| tunnel::measure(&plan.binary, plan.rounds.div_ceil(40))),
];

/// Runs the comparisons with release builds and prints command, machine, figures, ratios and whether each aim is met.
pub(crate) fn all(options: &Options) -> Outcome {
    let unknown = options.only.iter().find(|name| PARTS.iter().all(|(part, _)| part != name));
    if let Some(name) = unknown {
        return Err(format!("no part is called {name}"));
    }
    prepare::packages()?;
    let binary = match &options.binary {
        Some(binary) => std::path::absolute(binary).map_err(|cause| format!("find {}: {cause}", binary.display()))?,
        None => {
            run(command("cargo").args(["build", "--release", "--package", "postern"]))?;
            root().join("target/release/postern")
        }
    };
    println!("machine: {}", machine()?);
    println!("command: cargo xtask bench {}", std::env::args().skip(2).collect::<Vec<_>>().join(" "));
    let plan = Plan { binary, rounds: options.rounds };
    let mut report = Report::default();
    for (_, part) in
        PARTS.iter().filter(|(name, _)| options.only.is_empty() || options.only.iter().any(|only| only == name))
    {
        part(&plan, &mut report)?;
    }
    report.print();
    Ok(())
}

/// A measuring example in release, built now.
fn example(package: &str, name: &str) -> Outcome<PathBuf> {
    run(command("cargo").args(["build", "--release", "--package", package, "--example", name]))?;
    Ok(root().join("target/release/examples").join(name))
}

/// What a measurement prints on its last line.
fn json(command: &mut std::process::Command) -> Outcome<Value> {
    let text = output(command.stdin(Stdio::null()))?;
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|cause| format!("read what the measurement printed: {cause}: {last}"))
}

fn machine() -> Outcome<String> {
    let cpus = std::thread::available_parallelism().map_err(|cause| cause.to_string())?;
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = output(command("uname").arg("-r"))?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!("{cpus} cores{}, Linux {}, load {load} at the start", model.replace('\t', " "), kernel.trim()))
}
