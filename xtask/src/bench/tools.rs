//! The round trip of a tool use, beside the official worker on the same server.

use super::figures::{Aim, Report, Times};
use super::{Plan, json};
use crate::prepare;
use crate::run::{Outcome, command, root};

pub(super) fn round_trip(plan: &Plan, report: &mut Report) -> Outcome {
    let python = prepare::venv()?;
    let script = root().join("xtask/bench/tool_round_trip.py");
    let rounds = plan.rounds.div_ceil(10).to_string();
    let measured = json(command(python).env("POSTERN_BINARY", &plan.binary).arg(script).arg(rounds))?;
    println!("\n`bash: true` from agent.tool_use stored to its result stored");
    let ours = Times::of(&measured, "ours")?.show("ours");
    let theirs = Times::of(&measured, "official")?.show("official");
    let what = "`bash: true`, `agent.tool_use` stored to its result stored, beside the official Python worker";
    report.compare(what, format!("{ours:.1} ms"), format!("{theirs:.1} ms"), ours / theirs, Aim::AtMost(0.2));
    Ok(())
}
