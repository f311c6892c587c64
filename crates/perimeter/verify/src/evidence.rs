//! What is seen without the attack program: answers of the file tools, the perimeter's processes while they stand, and afterwards the audit log,
//! the upstreams' view and every byte that is left. Each check has its control: the same check where it must find something.

mod chain;
mod worn;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_audit::{Decision, Entry, Kind};
use postern_runner::Outcome as Told;
use postern_testkit::private_api::{GIT_USER, Seen};

use chain::{chain, one_letter, one_line_less, one_line_twice, two_lines_swapped};

use crate::attempt::check;
use crate::catalogue::{Outcome, Probe};
use crate::judge::Evidence;
use crate::stand::{Ended, Stand, processes, text};
use crate::zone;

/// The outcome of a tool's use, in one word. Of the shell's, whether all it printed came back.
pub(crate) fn of_tool(name: &str, told: &Told) -> Outcome {
    let text = text(told);
    Outcome::new(match told.is_error {
        true if text.contains("outside the session's working directory") => "outside",
        true => "error",
        false if name == "bash" && text.len() <= LONG => "bounded",
        false => "made",
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
    note(probes, seen, |name| match name {
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
        "outcomes-recorded" => Some(outcomes_recorded(records)),
        "left-behind" => Some(left_behind(ended, printed)),
        "placeholder-upstream" => Some(placeholder_upstream(ended)),
        "foreign-key-upstream" => Some(foreign_key_upstream(ended)),
        "outside-rule" => Some(outside_rule(ended)),
        "names-early" => Some(names_early(ended)),
        "names-collected" => Some(names_collected(ended)),
        "vault-granted" => Some(vault_granted(ended)),
        "injected" => Some(injected(ended)),
        "repository-sent" => Some(repository_sent(ended)),
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
    let roles = processes().into_values().any(|pid| has_socket(pid, &listening));
    (word(roles, "made", "none"), word(has_socket(std::process::id(), &listening), "made", "none"))
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

fn has_socket(pid: u32, sockets: &[String]) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
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
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &Path| fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0);
    let perimeter = directory.join("perimeter");
    let ours = below(&perimeter).into_iter().filter(|path| !path.components().any(is_shown));
    let any = ours.into_iter().any(|path| open(&path)) || open(&perimeter.join("shared"));
    (word(any, "made", "none"), word(open(&directory.join("attack.py")) || open(Path::new("/usr")), "made", "none"))
}

/// What lies in them is for sandboxes to see, behind a directory that is closed to others.
fn is_shown(part: std::path::Component<'_>) -> bool {
    part.as_os_str() == "workspace" || part.as_os_str() == "shared"
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

/// Whether a placeholder reached an upstream; the honest request's credential did.
fn placeholder_upstream(ended: &Ended) -> Pair {
    let seen = ended.hosts.seen().into_iter().filter(|seen| from_inside(&seen.headers));
    let placeholder = seen.into_iter().any(|seen| seen.headers.contains("pstn") || seen.line.contains("pstn"));
    (word(placeholder, "made", "none"), word(arrived(ended, "authorization"), "made", "none"))
}

/// Whether the attacker's own key reached an upstream: the control runs sent it without the boundary, and marked themselves.
fn foreign_key_upstream(ended: &Ended) -> Pair {
    let carried = |inside: bool| {
        ended.hosts.api.seen().iter().any(|seen| {
            let key = seen.headers.contains("attackers-own-key") || seen.line.contains("attackers-own-key");
            key && from_inside(&seen.headers) == inside
        })
    };
    (word(carried(true), "made", "none"), word(carried(false), "made", "none"))
}

/// Whether a request that no rule covers reached an upstream from inside; from outside some did.
fn outside_rule(ended: &Ended) -> Pair {
    let seen = || ended.hosts.seen().into_iter();
    let covered = |line: &str| line.starts_with("GET /v1/") || line.starts_with("POST /v1/");
    let reached = |inside: bool| seen().any(|seen| from_inside(&seen.headers) == inside && !covered(&seen.line));
    (word(reached(true), "made", "none"), word(reached(false), "made", "none"))
}

/// Requests of the control runs say of themselves that they come from outside; a smuggled one says nothing.
fn from_inside(headers: &str) -> bool {
    !headers.contains("x-side: outside")
}

fn arrived(ended: &Ended, header: &str) -> bool {
    ended.hosts.api.seen().iter().any(|seen| seen.headers.contains(header))
}

/// Whether what the neighbour's vaults have was sent for the attacker; for the neighbour it was.
fn vault_granted(ended: &Ended) -> Pair {
    let sent_for =
        |who: &str| ended.hosts.vault.seen().iter().any(|seen| seen.authorized && seen.headers.contains(who));
    (word(sent_for("x-note: another-session"), "made", "none"), word(sent_for("x-note: own-session"), "made", "none"))
}

/// Whether the credential reached the host it is for, and no other.
fn injected(ended: &Ended) -> Pair {
    let secret = ended.secrets.last().map(String::as_str).unwrap_or_default();
    let other = ended.hosts.other.seen();
    let elsewhere = other.iter().any(|seen| from_inside(&seen.headers) && seen.headers.contains(secret));
    let at_home = ended.hosts.api.seen().iter().any(|seen| from_inside(&seen.headers) && seen.authorized);
    (word(elsewhere, "made", "none"), word(at_home, "made", "none"))
}

/// Whether a repository's token was sent elsewhere than to its own URL, or for another session; to its own URL it was.
fn repository_sent(ended: &Ended) -> Pair {
    let basic = |token: &String| STANDARD.encode(format!("{GIT_USER}:{token}"));
    let carried = |seen: &Seen| ended.tokens.iter().any(|token| holds(seen, token) || holds(seen, &basic(token)));
    let own = |seen: &Seen| seen.authorized && seen.line.starts_with("GET /v1/repository/info/refs");
    let home = ended.hosts.git.seen();
    let elsewhere = ended.hosts.seen().iter().any(|seen| carried(seen) && !own(seen));
    (word(elsewhere, "made", "none"), word(home.iter().any(|seen| own(seen) && carried(seen)), "made", "none"))
}

fn holds(seen: &Seen, text: &str) -> bool {
    seen.headers.contains(text) || seen.line.contains(text)
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

/// Whether the log holds a payload: what the attacks sent and wrote has words of its own.
fn payload_free(ended: &Ended) -> Pair {
    let log: Vec<u8> = below(&ended.audit()).iter().filter_map(|path| fs::read(path).ok()).flatten().collect();
    let log = String::from_utf8_lossy(&log).into_owned();
    (word(log.contains("stolen-payload"), "made", "none"), word(log.contains("tool_use"), "made", "none"))
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
