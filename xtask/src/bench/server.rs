//! What the server adds to a model turn and to its first token, beside the model server asked directly; and what a long session
//! costs, beside a short one.

use super::figures::{Aim, Report, Times};
use super::{Plan, json};
use crate::prepare;
use crate::run::{Outcome, command, root};

pub(super) fn measure(plan: &Plan, report: &mut Report) -> Outcome {
    let python = prepare::venv()?;
    let script = root().join("xtask/bench/server_speed.py");
    let rounds = plan.rounds.div_ceil(10).to_string();
    let measured = json(command(python).env("POSTERN_BINARY", &plan.binary).arg(script).arg(rounds))?;
    let many = measured["events"].as_u64().unwrap_or_default();
    println!(
        "\nTurns of a scripted model without delay, durable commits: from a message sent to what the client reads"
    );
    let of = |name: &str| Times::of(&measured, name);
    let shown = |ms: f64| format!("{ms:.2} ms");
    let (turn, direct) = (of("turn_ours")?, of("turn_direct")?);
    let (ours, theirs) = (turn.show("turn"), direct.show("direct"));
    let added = |ms: f64| ms - theirs;
    report.compare("added to a turn, p50, ms", shown(ours), shown(theirs), added(ours), Aim::AtMost(2.0));
    let slow = turn.at(99);
    report.compare(
        "added to a turn, p99 beside p50 direct, ms",
        shown(slow),
        shown(theirs),
        added(slow),
        Aim::AtMost(10.0),
    );
    let (ours, theirs) = (of("first_ours")?.show("first"), of("first_direct")?.show("direct"));
    report.compare(
        "first token, p50, ms later than direct",
        shown(ours),
        shown(theirs),
        ours - theirs,
        Aim::AtMost(1.0),
    );
    println!("\nA session of {many} events beside one of 500");
    for (name, what) in [
        ("append", "append an event, with its commit"),
        ("page", "the last 100 events"),
        ("next_page", "the 100 before them"),
        ("resume", "the first message after a restart"),
    ] {
        let (long, short) = (of(&format!("{name}_many"))?.show(name), of(&format!("{name}_few"))?.show("beside"));
        let what = format!("{what}: {many} events beside 500");
        report.compare(what, shown(long), shown(short), long / short, Aim::AtMost(1.5));
    }
    Ok(())
}
