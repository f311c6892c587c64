//! Attempts to go on: a program in the attacker's sandbox holds a connection and leaves marks while its session is frozen, or its grants are taken back, by the
//! commands that the control plane has for it. The control run is the same program in the same session before anything is held.

use std::collections::BTreeMap;
use std::time::Duration;

use postern_model::control::CommandRefusal;

use crate::attempt::{GO_ON, held, holding};
use crate::catalogue::{Outcome, Probe};
use crate::evidence;
use crate::judge::Evidence;
use crate::run::{bash, plan};
use crate::stand::{Stand, attacker_id};
use crate::zone::API_HOST;

/// Makes the attempts. Last of all in the sandbox: grants are taken back for good.
pub(crate) async fn attack(stand: &mut Stand, probes: &[Probe], seen: &mut BTreeMap<String, Evidence>) {
    let meant: Vec<(&Probe, &str, &str)> = probes
        .iter()
        .filter_map(|probe| {
            let (hold, looked) = held(&probe.attempt)?;
            Some((probe, hold, looked))
        })
        .collect();
    if meant.is_empty() {
        return;
    }
    let id = |looked: &str| meant.iter().find(|(_, _, one)| *one == looked).map(|(probe, ..)| probe.id.clone());
    let tool_use = id("tool").unwrap_or_else(|| "held".to_owned());
    let free = round(stand, None, "held-free").await;
    let frozen = round(stand, Some(Hold::Freeze), &tool_use).await;
    let revoked = round(stand, Some(Hold::Revoke), "held-revoked").await;
    for (probe, hold, looked) in meant {
        let evidence = seen.entry(probe.id.clone()).or_default();
        let inside = if hold == "frozen" { &frozen } else { &revoked };
        match (inside, &free) {
            (Ok(inside), Ok(free)) => {
                (evidence.inside, evidence.outside) = (Some(inside.of(looked)), Some(free.of(looked)));
            }
            (Err(refusal), _) | (_, Err(refusal)) => evidence.hindrance = Some(format!("it was not held: {refusal}")),
        }
    }
}

enum Hold {
    Freeze,
    Revoke,
}

/// How each went on.
struct Round {
    tool: Outcome,
    processes: Outcome,
    connection: Outcome,
}

impl Round {
    fn of(&self, looked: &str) -> Outcome {
        match looked {
            "tool" => &self.tool,
            "processes" => &self.processes,
            _ => &self.connection,
        }
        .clone()
    }
}

async fn round(stand: &mut Stand, hold: Option<Hold>, tool_use: &str) -> Result<Round, CommandRefusal> {
    let command = holding(&plan(stand, false, Vec::new()), API_HOST);
    bash(&mut stand.attacker, "held-begin", command).await;
    let session = attacker_id();
    match hold {
        Some(Hold::Freeze) => stand.perimeter.freeze(&session).await?,
        Some(Hold::Revoke) => stand.perimeter.revoke_grants(&session).await?,
        None => {}
    }
    let processes = if grow(|| stand.marks()).await { "made" } else { "stopped" };
    let told = evidence::of_refusal(
        &crate::stand::call(&mut stand.attacker, tool_use, "bash", serde_json::json!({"command": "true"})).await,
    );
    if matches!(hold, Some(Hold::Freeze)) {
        stand.perimeter.thaw(&session).await?;
    }
    let said = bash(&mut stand.attacker, "held-end", GO_ON.to_owned()).await;
    let second = said.lines().find_map(|line| line.strip_prefix("second ")).unwrap_or("silent");
    Ok(Round { tool: told, processes: Outcome::new(processes), connection: Outcome::new(second) })
}

/// Whether there are more after a while.
async fn grow<T: PartialOrd>(marks: impl Fn() -> T) -> bool {
    let before = marks();
    tokio::time::sleep(A_WHILE).await;
    marks() > before
}

/// Long enough for many marks of a program that runs.
const A_WHILE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn marks_count_that_come_within_half_a_second() {
        for (after, counts) in [(1, true), (500, true), (501, false)] {
            let began = tokio::time::Instant::now();
            let marked = grow(|| began.elapsed() >= Duration::from_millis(after)).await;
            assert_eq!((marked, began.elapsed().as_millis()), (counts, 500), "{after}");
        }
    }
}
