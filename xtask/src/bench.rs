//! `cargo xtask bench`: ratios against peers measured in the same run. Not a test; nothing fails because it is slow.

mod tunnel;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use serde_json::Value;

use crate::prepare;
use crate::run::{Outcome, command, found, output, root, run};

#[derive(Args)]
pub(crate) struct Options {
    /// Rounds of each measurement, interleaved with its peer's.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Only the named part: sandbox, tools, tunnel. All of them when absent.
    #[arg(long)]
    only: Vec<String>,
    /// Measure this postern instead of a release build made now. Figures of any other build say nothing about speed.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

type Part = (&'static str, fn(&Path, u32) -> Outcome);

const PARTS: &[Part] = &[
    ("sandbox", |_, rounds| sandbox_start(rounds)),
    ("tools", |binary, rounds| tool_round_trip(binary, rounds.div_ceil(10))),
    ("tunnel", |binary, rounds| tunnel::measure(binary, rounds.div_ceil(40))),
];

/// Runs the comparisons with release builds and prints command, machine, figures and ratio.
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
    for (_, part) in
        PARTS.iter().filter(|(name, _)| options.only.is_empty() || options.only.iter().any(|only| only == name))
    {
        part(&binary, options.rounds)?;
    }
    Ok(())
}

fn sandbox_start(rounds: u32) -> Outcome {
    if !found("bwrap") {
        return Err("bwrap is missing".to_owned());
    }
    run(command("cargo").args(["build", "--release", "--package", "postern-runner", "--example", "sandbox_start"]))?;
    let measured = json(command(root().join("target/release/examples/sandbox_start")).arg(rounds.to_string()))?;
    println!("\nsandbox start to the end of the first `bash -c true` (aim: at most 0.8 of bwrap, same namespaces)");
    compare(&measured, "ours", "bwrap")
}

fn tool_round_trip(binary: &Path, rounds: u32) -> Outcome {
    let python = prepare::venv()?;
    let script = root().join("xtask/bench/tool_round_trip.py");
    let measured = json(command(python).env("POSTERN_BINARY", binary).arg(script).arg(rounds.to_string()))?;
    println!(
        "\n`bash: true` from agent.tool_use stored to its result stored (aim: at most 0.3 of the official Python worker)"
    );
    compare(&measured, "ours", "official")
}

fn json(command: &mut std::process::Command) -> Outcome<Value> {
    let text = output(command.stdin(Stdio::null()))?;
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|cause| format!("read what the measurement printed: {cause}"))
}

fn compare(measured: &Value, ours: &str, peer: &str) -> Outcome {
    let (mine, theirs) = (sorted(measured, ours)?, sorted(measured, peer)?);
    for (name, times) in [(ours, &mine), (peer, &theirs)] {
        let (p50, p90, p99) = (at(times, 50), at(times, 90), at(times, 99));
        println!("  {name:<10} n={:<5} p50 {p50:>8.3} ms   p90 {p90:>8.3} ms   p99 {p99:>8.3} ms", times.len());
    }
    println!("  ratio of the p50s: {:.3}", at(&mine, 50) / at(&theirs, 50));
    Ok(())
}

fn sorted(measured: &Value, name: &str) -> Outcome<Vec<f64>> {
    let mut times: Vec<f64> = measured[name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    times.sort_by(f64::total_cmp);
    if times.is_empty() { Err(format!("nothing was measured for {name}")) } else { Ok(times) }
}

/// The nearest-rank percentile of sorted times.
fn at(times: &[f64], percent: usize) -> f64 {
    let rank = (times.len() * percent).div_ceil(100).clamp(1, times.len());
    times[rank - 1]
}

fn machine() -> Outcome<String> {
    let cpus = std::thread::available_parallelism().map_err(|cause| cause.to_string())?;
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = output(command("uname").arg("-r"))?;
    Ok(format!("{cpus} cores{}, Linux {}", model.replace('\t', " "), kernel.trim()))
}
