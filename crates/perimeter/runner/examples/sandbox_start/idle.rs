//! What many sandboxes take of memory while they wait: the drop of what the machine has available, kernel memory included, and the share that their first
//! processes have of what they map.

use std::fs;
use std::path::Path;
use std::time::Duration;

use postern_sandbox::{Sandbox, Spawner};
use postern_tools::ToolClient;
use rustix::process::{Resource, Rlimit};
use serde_json::json;

use crate::ours::{first_command, spec};
use crate::{Outcome, WARM_UP};

/// Longer than a tool server waits for a call before it counts as idle.
const AT_REST: Duration = Duration::from_secs(7);
/// How many of them get a first command in the end: a shell that stays is another weight.
const WITH_SHELL: usize = 100;

#[expect(clippy::print_stdout, reason = "what was measured is for the last line's reader")]
pub(crate) async fn measure(spawner: &Spawner, directory: &Path, count: usize) -> Outcome {
    raise_open_files()?;
    for number in 0..WARM_UP {
        spawner.build(spec(directory, number)?).await?;
        spawner.destroy(&format!("sesn_{number}")).await?;
    }
    let before = settled().await?;
    let mut sandboxes = Vec::new();
    for number in 0..count {
        sandboxes.push(spawner.build(spec(directory, number)?).await?);
    }
    tokio::time::sleep(AT_REST).await;
    let after = settled().await?;
    let shares: Option<Vec<u64>> = sandboxes.iter().map(share_kib).collect();
    let share = shares.map(|shares| shares.iter().sum::<u64>() / count.max(1) as u64);
    let mut shells = Vec::new();
    for sandbox in sandboxes.drain(..WITH_SHELL.min(count)) {
        let Sandbox { tools, network, .. } = sandbox;
        let mut tools = ToolClient::new(tools)?;
        first_command(&mut tools).await?;
        shells.push((tools, network));
    }
    let with_shells = settled().await?;
    let each = |kib: u64, of: usize| kib as f64 / of.max(1) as f64;
    println!(
        "{}",
        json!({
            "sandboxes": count,
            "each_kib": each(before.saturating_sub(after), count),
            "first_process_pss_kib": share,
            "each_shell_kib": each(after.saturating_sub(with_shells), shells.len()),
        })
    );
    Ok(())
}

/// Each sandbox's sockets are held by the spawner's asker.
fn raise_open_files() -> Outcome {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// What the machine has available, in KiB, once it no longer changes much: the kernel frees what ended a while later.
async fn settled() -> Outcome<u64> {
    let mut last = available_kib()?;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = available_kib()?;
        if now.abs_diff(last) < 512 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

fn available_kib() -> Outcome<u64> {
    field(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:")
        .ok_or("the kernel does not say what is available".into())
}

/// The first process's proportional share; none where it may not be looked at.
fn share_kib(sandbox: &Sandbox) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{}/smaps_rollup", sandbox.pid)).ok()?, "Pss:")
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}
