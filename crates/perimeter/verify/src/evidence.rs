//! What is seen without the attack program: answers of the file tools, the perimeter's processes while they stand, and afterwards the audit log,
//! the upstreams' view and every byte that is left. Each check has its control: the same check where it must find something.

mod chain;
mod upstream;
mod worn;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use postern_audit::{Decision, Entry, Kind};
use postern_runner::Outcome as Told;

use chain::{chain, cut_back, keep_earlier, no_end, one_letter, one_line_less, one_line_twice, two_lines_swapped};

use crate::attempt::check;
use crate::catalogue::{Outcome, Probe};
use crate::judge::Evidence;
use crate::run::SANDBOX_ENDED;
use crate::stand::{Ended, Stand, processes, text};
use crate::zone;

/// The outcome of a tool's use, in one word: what it says it was refused for, so that a sandbox that ended or a deadline is taken for no refusal. Of the
/// shell's, whether what it printed was cut, and is said to be.
pub(crate) fn of_tool(name: &str, told: &Told) -> Outcome {
    let text = text(told);
    let said = |words: &&(&str, &str)| text.contains(words.0);
    Outcome::new(match told.is_error {
        true => REFUSALS.iter().find(said).map_or("error", |(_, word)| word),
        false if name != "bash" || text.len() > LONG => "made",
        false if text.starts_with(CUT) => "bounded",
        false => "short",
    })
}

/// What a tool use was refused for, or `made`.
pub(crate) fn of_refusal(told: &Told) -> Outcome {
    let text = text(told);
    let reason = text.split("reason=").nth(1).and_then(|after| after.split_whitespace().next());
    Outcome::new(match (told.is_error, reason) {
        (true, Some(reason)) => format!("refused {reason}"),
        (true, None) => "error".to_owned(),
        (false, _) => "made".to_owned(),
    })
}

/// The inside and the control outcome of each check, as words.
type Pair = (&'static str, &'static str);

/// The checks that need the perimeter's processes.
pub(crate) fn while_it_stands(stand: &Stand, probes: &[Probe], seen: &mut BTreeMap<String, Evidence>) {
    keep_earlier(&stand.directory().join("perimeter/audit"));
    let all_there = processes().len() >= ROLES_THAT_RUN;
    note(probes, seen, |name| match name {
        "listeners" | "dumpable" | "filtered" | "capabilities" if !all_there => Some((FEWER, FEWER)),
        "listeners" => Some(listeners()),
        "dumpable" => Some(memory_is_closed()),
        "filtered" => Some(worn::filtered()),
        "capabilities" => Some(worn::powerless()),
        "private-files" => Some(files_are_private(stand.directory())),
        _ => None,
    });
}

/// The checks that need the end.
pub(crate) fn afterwards(
    ended: &Ended,
    records: &[Entry],
    printed: &str,
    probes: &[Probe],
    seen: &mut BTreeMap<String, Evidence>,
) {
    note(probes, seen, |name| match name {
        "chain" => Some(chain(&ended.audit(), "changed", one_letter)),
        "chain-removed" => Some(chain(&ended.audit(), "removed", one_line_less)),
        "chain-swapped" => Some(chain(&ended.audit(), "swapped", two_lines_swapped)),
        "chain-doubled" => Some(chain(&ended.audit(), "doubled", one_line_twice)),
        "chain-cut" => Some(chain(&ended.audit(), "cut", no_end)),
        "chain-cut-back" => Some(cut_back(&ended.audit())),
        "outcomes-recorded" => Some(outcomes_recorded(records)),
        "left-behind" => Some(left_behind(ended, printed)),
        "placeholder-upstream" => Some(upstream::placeholder_upstream(ended)),
        "foreign-key-upstream" => Some(upstream::foreign_key_upstream(ended)),
        "outside-rule" => Some(upstream::outside_rule(ended)),
        "names-early" => Some(names_early(ended)),
        "names-collected" => Some(names_collected(ended)),
        "vault-granted" => Some(upstream::vault_granted(ended)),
        "injected" => Some(upstream::injected(ended)),
        "repository-sent" => Some(upstream::repository_sent(ended)),
        "collector" => Some(collected(ended)),
        "record-before-act" => Some(record_before_act(records)),
        "denials-explained" => Some(denials_explained(records)),
        "payload-free" => Some(payload_free(ended)),
        "controls-recorded" => Some(controls_recorded(records)),
        _ => None,
    });
}

fn note(probes: &[Probe], seen: &mut BTreeMap<String, Evidence>, mut made: impl FnMut(&str) -> Option<Pair>) {
    for probe in probes {
        let Some((inside, outside)) = check(probe).and_then(&mut made) else { continue };
        let evidence = seen.entry(probe.id.clone()).or_default();
        (evidence.inside, evidence.outside) = (Some(Outcome::new(inside)), Some(Outcome::new(outside)));
    }
}

fn word(found: bool, yes: &'static str, no: &'static str) -> &'static str {
    if found { yes } else { no }
}

/// Whether a process of the perimeter listens on TCP. This process does: its upstreams and listener.
fn listeners() -> Pair {
    let listening = listening_inodes();
    let outside = word(has_socket(std::process::id(), &listening) == Some(true), "made", "none");
    let each = processes().into_values().map(|pid| has_socket(pid, &listening)).collect::<Option<Vec<_>>>();
    (each.map_or(CLOSED, |each| word(each.contains(&true), "made", "none")), outside)
}

fn listening_inodes() -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let listening = lines.filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(3) == Some(&"0A")).then(|| fields.get(9).map(|inode| format!("socket:[{inode}]"))).flatten()
    });
    listening.collect()
}

/// Nothing where what the process holds open cannot be looked at.
fn has_socket(pid: u32, sockets: &[String]) -> Option<bool> {
    let mut links = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()? {
        match fs::read_link(entry.ok()?.path()) {
            Ok(link) => links.push(link),
            // Closed since.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    Some(links.iter().any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str())))
}

/// Whether the processes that hold secrets belong to root in /proc, which is how an undumpable one looks, and leave no core file.
fn memory_is_closed() -> Pair {
    use std::os::unix::fs::MetadataExt;
    let owned_by_root = |pid: u32| fs::metadata(format!("/proc/{pid}/environ")).is_ok_and(|about| about.uid() == 0);
    let limits = |pid: u32| fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    // Now, and as much as it may ask for.
    let none = |limit: &str| limit.split_whitespace().take(2).eq(["0", "0"]);
    let no_core = |pid: u32| limits(pid).lines().any(|line| line.strip_prefix("Max core file size").is_some_and(none));
    let held: Vec<_> = processes().into_iter().filter(|(role, _)| role != "spawner").map(|(_, pid)| pid).collect();
    let closed = held.len() >= 3 && held.iter().all(|pid| owned_by_root(*pid) && no_core(*pid));
    (word(closed, "closed", "open"), "open")
}

/// Whether others than their owner may read a file of the perimeter's.
fn files_are_private(directory: &Path) -> Pair {
    let perimeter = directory.join("perimeter");
    let any = shows_a_file(&perimeter) || open_to_others(&perimeter.join("shared"));
    let outside = open_to_others(&directory.join("attack.py")) || open_to_others(Path::new("/usr"));
    (word(any, "made", "none"), word(outside, "made", "none"))
}

fn open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

/// Whether a file below is open to others, without those that are for sandboxes to see, behind a directory that is closed to others.
fn shows_a_file(perimeter: &Path) -> bool {
    let shown = |path: &Path| {
        let within = path.strip_prefix(perimeter).unwrap_or(path);
        within.components().any(|part| part.as_os_str() == "workspace" || part.as_os_str() == "shared")
    };
    below(perimeter).iter().any(|path| !shown(path) && open_to_others(path))
}

/// Whether each tool use on record that was allowed has its outcome there.
fn outcomes_recorded(records: &[Entry]) -> Pair {
    let uses = records.iter().filter(|entry| entry.record.kind == Kind::ToolUse);
    let allowed: Vec<u64> =
        uses.filter(|entry| entry.record.decision == Decision::Allow).map(|entry| entry.seq).collect();
    let outcomes: Vec<u64> = records
        .iter()
        .filter(|entry| entry.record.kind == Kind::ToolOutcome)
        .filter_map(|entry| entry.record.caused_by)
        .collect();
    let each = |outcomes: &[u64]| !allowed.is_empty() && allowed.iter().all(|seq| outcomes.contains(seq));
    (word(each(&outcomes), "all", "some"), word(each(outcomes.get(1..).unwrap_or_default()), "all", "some"))
}

/// Whether a canary lies in what is left: workspaces, logs, stores, and the outcomes that are printed.
fn left_behind(ended: &Ended, printed: &str) -> Pair {
    let needles: Vec<&[u8]> = ended.secrets.iter().map(String::as_bytes).collect();
    let holds = |bytes: &[u8]| !postern_secret::canary::search(bytes, &needles).is_empty();
    let files = below(&ended.directory().join("perimeter"));
    let found = files.iter().any(|path| fs::read(path).is_ok_and(|bytes| holds(&bytes))) || holds(printed.as_bytes());
    let planted = ended.secrets.first().is_some_and(|secret| holds(format!("before {secret} after").as_bytes()));
    (word(found, "leaked", "clean"), word(planted, "leaked", "clean"))
}

/// Whether anything from inside reached a listener on the host; the control runs did.
fn collected(ended: &Ended) -> Pair {
    let text = String::from_utf8_lossy(&ended.hosts.collector.received().bytes).into_owned();
    (
        word(text.contains("from-inside"), "made", "none"),
        word(ended.hosts.collector.received().connections > 0, "made", "none"),
    )
}

/// Whether anything from inside reached the address that names lead to and no rule allows; the control runs did.
fn names_collected(ended: &Ended) -> Pair {
    let text = String::from_utf8_lossy(&ended.hosts.forbidden.received().bytes).into_owned();
    (word(text.contains("from-inside"), "made", "none"), word(text.contains("from-outside"), "made", "none"))
}

/// Whether a name that no rule allows was looked up; one that a rule allows was, after its permit.
fn names_early(ended: &Ended) -> Pair {
    let asked = ended.hosts.names.asked();
    let any = |of: &str| asked.iter().any(|name| name.ends_with(of) && !name.starts_with(postern_testkit::names::TWIN));
    (word(any(STRANGERS), "made", "none"), word(any(zone::CHANGING), "made", "none"))
}

/// Whether an outcome stands in the log before the decision it follows from.
fn record_before_act(records: &[Entry]) -> Pair {
    let outcomes = records.iter().filter(|entry| matches!(entry.record.kind, Kind::EgressOutcome | Kind::ToolOutcome));
    let ordered =
        |entry: &Entry| entry.record.caused_by.is_some_and(|cause| cause < entry.seq && decided(records, cause));
    let all = outcomes.clone().count() > 0 && outcomes.clone().all(ordered);
    let reversed = outcomes.clone().next().is_some_and(|entry| {
        let mut entry = entry.clone();
        entry.record.caused_by = Some(entry.seq + 1);
        ordered(&entry)
    });
    (word(all, "before", "after"), word(reversed, "before", "after"))
}

fn decided(records: &[Entry], seq: u64) -> bool {
    let kinds = [Kind::EgressRequest, Kind::EgressConnect, Kind::ToolUse];
    records
        .iter()
        .any(|entry| entry.seq == seq && entry.record.decision == Decision::Allow && kinds.contains(&entry.record.kind))
}

/// Whether each denial on record has a reason and a next step.
fn denials_explained(records: &[Entry]) -> Pair {
    let denials = records.iter().map(|entry| &entry.record).filter(|record| record.decision == Decision::Deny);
    let explained = |reason: &Option<String>, next: &Option<String>| reason.is_some() && next.is_some();
    let all = denials.clone().count() > 0 && denials.clone().all(|record| explained(&record.reason, &record.next_step));
    (word(all, "all", "some"), word(explained(&None, &None), "all", "some"))
}

/// Whether the log holds what was sent, printed and written as a payload; the upstream and the workspace have it.
fn payload_free(ended: &Ended) -> Pair {
    let payload = ended.payload.as_bytes();
    let in_workspace = ended.directory().join("perimeter/work");
    let arrived = upstream::has(&ended.hosts.api.seen(), payload) && holds(&in_workspace, payload);
    (word(holds(&ended.audit(), payload), "made", "none"), word(arrived, "made", "none"))
}

/// Whether a file below holds these bytes, in any rendering.
fn holds(directory: &Path, needle: &[u8]) -> bool {
    let found = |bytes: Vec<u8>| !postern_secret::canary::search(&bytes, &[needle]).is_empty();
    below(directory).iter().any(|path| fs::read(path).is_ok_and(found))
}

/// Whether the sandbox's controls are on record.
fn controls_recorded(records: &[Entry]) -> Pair {
    let built = records.iter().filter(|entry| entry.record.kind == Kind::SandboxBuilt);
    let told = |outcome: &Option<String>| outcome.as_ref().is_some_and(|text| text.contains("seccomp="));
    let all = built.clone().count() >= 2 && built.clone().all(|entry| told(&entry.record.outcome));
    (word(all, "recorded", "silent"), word(told(&None), "recorded", "silent"))
}

fn below(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(below(&entry.path())),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

/// What the names of hosts end with that no rule allows.
const STRANGERS: &str = "collector.example";
/// A tool's text that is longer than a shell's output may be.
const LONG: usize = 200 * 1024;
/// What a shell's output begins with of which not all came back.
const CUT: &str = "[output truncated]\n";
/// What tools say of what they do not do, and what is no refusal, each with its word.
const REFUSALS: [(&str, &str); 5] = [
    ("outside the session's working directory", "outside"),
    ("not a regular file", "not regular"),
    ("not a tool of this sandbox", "no such tool"),
    (SANDBOX_ENDED, "ended"),
    ("timed out", "timed out"),
];
/// Starter, spawner, custody, egress, audit.
const ROLES_THAT_RUN: usize = 5;
const FEWER: &str = "skip fewer processes of the perimeter are to be found than it has";
const CLOSED: &str =
    "skip not here: what the perimeter's processes hold open is closed to this user; a run as root shows it";

#[cfg(test)]
mod tests;
