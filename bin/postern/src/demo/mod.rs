//! `postern demo`: the main job for real, on loopback, with an agent that turns hostile.
//!
//! It starts the same processes as `postern up`, talks to them only over the public API, and believes only what it can
//! check from outside: results, the upstream's own view, the listeners' view, the audit log, and the bytes left behind.

mod after;
mod canary;
mod replay;
mod report;
mod scene;
mod session;
mod step;
mod steps;

use std::io::Write as _;
use std::time::{Duration, Instant};

use postern_testkit::private_api::RENDERINGS;

use crate::cli::DemoArguments;
use crate::failure::Failure;
use report::{Row, Verdict};
use scene::Stage;
use session::Played;
use step::{Intent, Step, refusals};

/// Runs the demo and prints what held.
///
/// # Errors
/// [`Failure::NotHeld`] when honest work failed, an attack did not, or a canary was found.
pub(crate) async fn run(arguments: &DemoArguments) -> Result<(), Failure> {
    scene::check_host()?;
    let started = Instant::now();
    let mut stage = Stage::set(arguments).await?;
    say("Postern demo: one session through the boundary, on this machine's loopback.\n");
    say(&format!(
        "  ready   {:>7.0} ms  server, worker, gateway, private API, private MCP servers, {}",
        milliseconds(started.elapsed()),
        stage.model_name()
    ));
    let rows = match &arguments.prompt {
        Some(prompt) => with_real_model(&mut stage, prompt).await?,
        None => rehearse(&mut stage).await?,
    };
    say(&report::table(&rows));
    say(&after::audit_summary(&stage)?);
    say(&format!("{} in {:.1} s", report::summary(&rows), started.elapsed().as_secs_f64()));
    stage.clear(arguments.keep).await;
    if rows.iter().any(|row| row.verdict == Verdict::Failed) {
        return Err(Failure::NotHeld("the boundary did not hold: see the rows marked FAILED".into()));
    }
    Ok(())
}

/// Prints a line. Who reads no further does not end the run in its midst: it has things to clear away.
fn say(line: &str) {
    let _nobody_reads = writeln!(std::io::stdout(), "{line}");
}

async fn rehearse(stage: &mut Stage) -> Result<Vec<Row>, Failure> {
    let steps = steps::all(&steps::Scene {
        api_host: scene::API_HOST,
        other_host: scene::OTHER_HOST,
        server_port: stage.server_port(),
        collector_port: stage.collector.address.port(),
        data_dir: stage.data_dir().display().to_string(),
        tunnel_domain: stage.tunnel_domain.clone(),
        wiki_port: stage.wiki.address.port(),
        renderings: RENDERINGS,
    });
    let script = steps.iter().map(Step::turn).collect();
    let played = session::play(stage, script).await?;
    let mut rows: Vec<Row> =
        steps.iter().enumerate().map(|(at, step)| row(step, &played, at, &stage.secrets())).collect();
    rows.extend(after::rows(stage, &played).await?);
    Ok(rows)
}

async fn with_real_model(stage: &mut Stage, prompt: &str) -> Result<Vec<Row>, Failure> {
    let played = session::converse(stage, prompt).await?;
    after::rows(stage, &played).await
}

/// One step's row: what it shows, or what was wrong.
fn row(step: &Step, played: &Played, at: usize, secrets: &[&[u8]]) -> Row {
    let before: usize = played.uses_before(at);
    let outcomes = played.outcomes(before, step.tool_uses.len());
    let results = outcomes.iter().map(|outcome| outcome.text.as_str()).collect::<Vec<_>>().join("\n");
    let mut broken: Vec<String> =
        step.expectations.iter().filter_map(|expectation| expectation.broken(&results)).collect();
    if outcomes.len() < step.tool_uses.len() {
        broken.push(format!("{} of {} tool uses were answered", outcomes.len(), step.tool_uses.len()));
    }
    let leaked = postern_secret::canary::search(results.as_bytes(), secrets);
    broken.extend(leaked.iter().map(|found| format!("the secret came back as {:?}", found.kind)));
    let mut details: Vec<String> = broken.iter().map(|text| format!("! {text}")).collect();
    if !broken.is_empty() {
        details.extend(results.lines().take(12).map(|line| format!("| {}", shortened(line))));
    }
    if step.intent == Intent::Attack {
        details.extend(refusals(&results).iter().map(|refusal| shortened(refusal)).take(3));
    }
    Row {
        title: step.title.to_owned(),
        verdict: Verdict::of(step.intent, !broken.is_empty()),
        took: outcomes.iter().map(|outcome| outcome.took).sum(),
        details,
    }
}

fn shortened(line: &str) -> String {
    const WIDTH: usize = 140;
    if line.chars().count() <= WIDTH { line.to_owned() } else { line.chars().take(WIDTH - 1).chain(['…']).collect() }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
