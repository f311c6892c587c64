//! Sandboxes: how long one takes to its first command, and what many take of memory.

use super::figures::{Aim, Report, Times};
use super::{Plan, example, json};
use crate::run::{Outcome, command, found, is_root};

/// Beside bubblewrap and runc.
pub(super) fn start(plan: &Plan, report: &mut Report) -> Outcome {
    for peer in ["bwrap", "runc"] {
        if !found(peer) {
            return Err(format!("{peer} is missing"));
        }
    }
    let program = example("postern-runner", "sandbox_start")?;
    let measured = json(command(program).args(["start", &plan.rounds.to_string()]).arg(&plan.binary))?;
    println!("\nsandbox start to the end of the first `bash -c true`, the same namespaces on all sides");
    let ours = Times::of(&measured, "ours")?.show("ours");
    for (peer, aim) in [("bwrap", Aim::AtMost(0.8)), ("runc", Aim::AtMost(0.15))] {
        if peer == "runc" && !is_root() {
            println!("  runc       not measured: not run as root");
            continue;
        }
        let theirs = Times::of(&measured, peer)?.show(peer);
        let what = format!("sandbox start to its first command, beside {peer}");
        report.compare(what, format!("{ours:.1} ms"), format!("{theirs:.1} ms"), ours / theirs, aim);
    }
    Ok(())
}

/// A thousand of them that wait; fewer in a run that is shorter.
pub(super) fn idle(plan: &Plan, report: &mut Report) -> Outcome {
    let count = plan.rounds.saturating_mul(10).min(1000);
    let program = example("postern-runner", "sandbox_start")?;
    let measured = json(command(program).args(["idle", &count.to_string()]).arg(&plan.binary))?;
    let kib = |name: &str| measured[name].as_f64().unwrap_or(f64::NAN);
    let each = kib("each_kib");
    println!("\n{count} sandboxes that wait for their first command");
    println!("  each takes {each:.0} KiB of what the machine has available, kernel memory included");
    println!("  of the first process {:.0} KiB (PSS)", kib("first_process_pss_kib"));
    println!("  a session's shell, once it runs, takes {:.0} KiB more", kib("each_shell_kib"));
    let what = format!("memory of each of {count} idle sandboxes, MiB");
    report.compare(what, format!("{each:.0} KiB"), String::new(), each / 1024.0, Aim::AtMost(0.5));
    Ok(())
}
