//! A run: the stand, the attempts inside, the control runs, the records, the judgement. Bounded in time, and nothing of it is left.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::slice::Chunks;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use postern_policy::document::DocumentText;
use postern_runner::OpenSession;
use postern_sandbox::State;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::attempt::{self, Ended, Plan, Planned, command, race, tool};
use crate::catalogue::{Against, Attempt, Catalogue, CatalogueError, Outcome, Probe};
use crate::evidence;
use crate::gateway::{self, Tunnel};
use crate::going::Going;
use crate::holds;
use crate::judge::{Evidence, Lacking, User, judge};
use crate::lends;
use crate::outside;
use crate::own_rules::OwnRules;
use crate::race;
use crate::recorded;
use crate::report::{ControlRow, Finding, Report};
use crate::roles;
use crate::shares;
use crate::stand::{Stand, call, text};
use crate::zone::{self, Selection, VARIABLE, ZoneError};

/// What to run, over what.
pub struct Settings {
    /// This binary, from which the perimeter's processes are started.
    pub exe: PathBuf,
    /// The configuration in force.
    pub document: DocumentText,
    /// Which of its zones.
    pub selection: Selection,
    /// Ids, areas, promises or controls; empty for every probe.
    pub only: Vec<String>,
    /// Where the run's private directory is made.
    pub scratch: PathBuf,
    /// The names of the variables that this command was started with.
    pub variables: Vec<String>,
    /// Who calls MCP servers through a tunnel.
    pub tunnel: Box<dyn Tunnel>,
    /// Notified where the run is to end before it is over.
    pub stop: Arc<Notify>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The catalogue itself.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// No zone to test.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// `only` means nothing.
    #[error("no probe is called {0}; `postern verify --list` names all of them")]
    NoSuchProbe(String),
    /// A part of the stand.
    #[error("{doing}: {cause}")]
    Stand {
        /// What was being done.
        doing: &'static str,
        /// The chain of causes.
        cause: String,
    },
    /// The perimeter did not start, did not open a session, or ended before there was anything to report.
    #[error("the perimeter does not stand: {0}")]
    Perimeter(String),
}

impl VerifyError {
    pub(crate) fn stand(doing: &'static str, error: &dyn std::error::Error) -> Self {
        let mut cause = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            cause = format!("{cause}: {error}");
            source = error.source();
        }
        Self::Stand { doing, cause }
    }
}

/// Runs the catalogue, or a part of it. Where it is broken off, there is a report of what was seen until then.
///
/// # Errors
/// [`VerifyError`]: there is no report then.
pub async fn run(settings: &Settings) -> Result<Report, VerifyError> {
    let (began, started) = (Instant::now(), Timestamp::now());
    let going = Going::begin(&settings.stop);
    let Chosen { probes, companions, catalogue } = chosen(settings)?;
    let attempted: Vec<Probe> = probes.iter().chain(&companions).cloned().collect();
    let stand = going.on(pending(), Stand::set(settings, &attempted)).await;
    let mut stand = stand.map_err(VerifyError::Perimeter)??;
    let mut seen: BTreeMap<String, Evidence> =
        attempted.iter().map(|probe| (probe.id.clone(), Evidence::default())).collect();
    let watch = stand.perimeter.watch();
    let made = going.on(watch.gone(), make(settings, &mut stand, &attempted, &mut seen)).await;
    // It would hold open what is to end.
    drop(watch);
    let broken_off = match made {
        Ok(made) => made.map(|()| None)?,
        Err(what) => Some(what),
    };
    let mut report = begun(settings, &stand, started);
    if broken_off.is_none() {
        evidence::while_it_stands(&stand, &probes, &mut seen);
    }
    let ended = stand.end().await;
    let records = recorded::records(&ended.audit());
    let printed: String =
        seen.values().filter_map(|evidence| evidence.inside.as_ref()).map(Outcome::to_string).collect();
    if broken_off.is_none() {
        evidence::afterwards(&ended, &records, &printed, &probes, &mut seen);
    }
    for (id, evidence) in &mut seen {
        recorded::note(&records, id, evidence);
        evidence.broken_off.clone_from(&broken_off);
    }
    ended.removed().await;
    let lacking = lacking(&report);
    report.findings = probes.iter().map(|probe| finding(probe, &seen[&probe.id], &lacking)).collect();
    (report.only, report.catalogue, report.broken_off) = (settings.only.clone(), catalogue, broken_off);
    report.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// Every attempt and every control run.
async fn make(
    settings: &Settings,
    stand: &mut Stand,
    attempted: &[Probe],
    seen: &mut BTreeMap<String, Evidence>,
) -> Result<(), VerifyError> {
    for (id, ended) in control_runs(stand, attempted).await? {
        let probe = attempted.iter().find(|probe| probe.id == id);
        if let (Some(probe), Some(evidence)) = (probe, seen.get_mut(&id)) {
            evidence.outside = Some(outcome(probe, &ended, &stand.secrets));
        }
    }
    attack(stand, attempted, seen).await;
    gateway::attack(&*settings.tunnel, OwnRules::of(&stand.document), attempted, seen).await;
    roles::attack(&settings.exe, stand, attempted, seen).await;
    lends::attack(stand, attempted, seen).await;
    holds::attack(stand, attempted, seen).await;
    Ok(())
}

fn lacking(report: &Report) -> Lacking {
    let of = |state: &str| {
        let rows = report.controls.iter().filter(|row| row.state == state);
        rows.map(|row| (row.name.clone(), row.cause.clone())).collect()
    };
    Lacking { missing: of("missing"), weaker: of("degraded") }
}

struct Chosen {
    /// Those that are meant.
    probes: Vec<Probe>,
    /// Those that must be attempted besides because a check looks at what they leave.
    companions: Vec<Probe>,
    /// How many there are in all.
    catalogue: usize,
}

fn chosen(settings: &Settings) -> Result<Chosen, VerifyError> {
    let probes = Catalogue::shipped()?.probes;
    if let Some(word) = settings.only.iter().find(|word| !probes.iter().any(|probe| probe.is_meant_by(word))) {
        return Err(VerifyError::NoSuchProbe(word.clone()));
    }
    let catalogue = probes.len();
    let meant = |probe: &Probe| settings.only.is_empty() || settings.only.iter().any(|word| probe.is_meant_by(word));
    let (meant, others): (Vec<Probe>, Vec<Probe>) = probes.into_iter().partition(meant);
    let checks = meant.iter().any(|probe| attempt::check(probe).is_some());
    let companions = others.into_iter().filter(|probe| checks && COMPANIONS.contains(&probe.id.as_str())).collect();
    Ok(Chosen { probes: meant, companions, catalogue })
}

/// Every control run that is made outside, together.
async fn control_runs(stand: &Stand, probes: &[Probe]) -> Result<BTreeMap<String, Ended>, VerifyError> {
    let mut ended = BTreeMap::new();
    for (against, namespace) in [(Against::Host, false), (Against::Namespace, true)] {
        let planned = probes.iter().filter(|probe| probe.against == against && attempt::check(probe).is_none());
        let planned: Vec<_> = planned.map(|probe| planned_twin(stand, probe)).collect();
        if planned.is_empty() {
            continue;
        }
        let secret = stand.secrets.last().cloned().unwrap_or_default();
        let (hosts, certificate) = (stand.hosts.outside(), stand.certificate().display().to_string());
        let names = stand.hosts.names.address.to_string();
        let plan = Plan { hosts, certificate, names, side: "outside", ..plan(stand, namespace, planned) };
        let program = stand.program();
        let own = stand.variables.iter().map(|name| (name.clone(), "1".to_owned()));
        let environment = own.chain([(VARIABLE.to_owned(), secret)]).collect();
        let run = outside::run(&program, &plan, environment).await;
        ended.extend(run.map_err(|error| VerifyError::stand("make the control runs", &error))?);
    }
    Ok(ended)
}

fn planned_twin<'a>(stand: &Stand, probe: &'a Probe) -> Planned<'a> {
    Planned { id: &probe.id, attempt: stand.names.fill(probe.twin.as_ref().unwrap_or(&probe.attempt)) }
}

pub(crate) fn plan<'a>(stand: &Stand, namespace: bool, probes: Vec<Planned<'a>>) -> Plan<'a> {
    Plan {
        namespace,
        side: "inside",
        variable: VARIABLE,
        taken: &["status 200", "status 201", "status 302", "status 401", "status 404", "status 500", "made"],
        hosts: BTreeMap::new(),
        certificate: String::new(),
        names: String::new(),
        outer_uid: rustix::process::geteuid().as_raw().to_string(),
        neighbour: stand.stolen.clone(),
        real: stand.secrets.last().map(|secret| secret.chars().rev().collect()).unwrap_or_default(),
        probes,
    }
}

/// Every attempt inside, and the control runs that are made inside.
async fn attack(stand: &mut Stand, probes: &[Probe], seen: &mut BTreeMap<String, Evidence>) {
    let attempts = probes.iter().filter(|probe| attempt::made_inside(probe));
    let (alone, together): (Vec<&Probe>, Vec<&Probe>) = attempts.partition(|probe| needs_its_own_tool_use(probe));
    for (number, batch) in batches(&together).enumerate() {
        let planned = batch.iter().map(|probe| Planned { id: &probe.id, attempt: stand.names.fill(&probe.attempt) });
        let plan = plan(stand, false, planned.collect());
        let printed = bash(&mut stand.attacker, &format!("batch-{number}"), command(&plan)).await;
        note(batch, &printed, &stand.secrets, seen, |evidence| &mut evidence.inside);
    }
    for probe in alone {
        alone_inside(stand, probe, seen).await;
    }
    if probes.iter().any(|probe| attempt::check(probe) == Some("payload-free")) {
        bring_payload(stand).await;
    }
    twins(stand, probes, seen).await;
}

/// Sends and writes a word that is nobody's: in a body, in a query, in a command and in a file.
async fn bring_payload(stand: &mut Stand) {
    let exchange = json!(["http", "https", "{api}", 443, PAYLOAD_HEAD, "note={payload}"]);
    let Value::Array(attempt) = exchange else { return };
    let attempt = stand.names.fill(&Attempt(attempt));
    let sent = plan(stand, false, vec![Planned { id: "payload", attempt }]);
    bash(&mut stand.attacker, "payload-sent", command(&sent)).await;
    let command = stand.names.fill_text("echo {payload} > payload; cat payload");
    bash(&mut stand.attacker, "payload-printed", command).await;
    let input = json!({"file_path": "payload-written", "content": stand.names.fill_text("{payload}\n")});
    call(&mut stand.attacker, "payload-written", "write", input).await;
}

/// Its records are found by the tool use, or it is one, or what prepares it or it itself would disturb others.
fn needs_its_own_tool_use(probe: &Probe) -> bool {
    let is_one = tool(&probe.attempt).is_some() || race(&probe.attempt).is_some();
    is_one || probe.alone || !probe.record.is_empty() || probe.setup.is_some()
}

async fn alone_inside(stand: &mut Stand, probe: &Probe, seen: &mut BTreeMap<String, Evidence>) {
    if let Some(setup) = &probe.setup {
        let setup = stand.names.fill_text(setup);
        bash(&mut stand.attacker, "setup", setup).await;
    }
    let attempt = stand.names.fill(&probe.attempt);
    if let Some((name, input)) = tool(&attempt) {
        let told = call(&mut stand.attacker, &probe.id, name, input.clone()).await;
        let outcome = evidence::of_tool(name, &told);
        seen.entry(probe.id.clone()).or_default().inside = Some(outcome);
        if input["command"].as_str().is_some_and(|command| command.contains(" & sleep")) {
            // What it left running prints into no other answer.
            bash(&mut stand.attacker, &format!("{}-settled", probe.id), "wait".to_owned()).await;
        }
        return;
    }
    if let Some((tool, path)) = race(&attempt) {
        let outcome = race::run(stand, &probe.id, tool, path).await;
        seen.entry(probe.id.clone()).or_default().inside = Some(outcome);
        return;
    }
    let takes_processors = attempt.0.first().and_then(Value::as_str) == Some("take_processors");
    let plan = plan(stand, false, vec![Planned { id: &probe.id, attempt }]);
    let command = command(&plan);
    let mut printed = bash(&mut stand.attacker, &probe.id, command.clone()).await;
    if attempt::read(&printed).is_empty() && taken_down(&printed).is_none() {
        // What an earlier command still printed may have taken its answer's place.
        printed = bash(&mut stand.attacker, &format!("{}-again", probe.id), command).await;
    }
    if probe.alone
        && let Some(word) = taken_down(&printed)
    {
        seen.entry(probe.id.clone()).or_default().inside = Some(Outcome::new(word));
        stand.clear_what_was_taken();
        return;
    }
    note(&[probe], &printed, &stand.secrets, seen, |evidence| &mut evidence.inside);
    if takes_processors && !shares::smallest().is_none_or(|share| share <= stand.cpus) {
        // Whoever got no more has the machine to thank, which was busy.
        seen.entry(probe.id.clone()).or_default().inside = Some(Outcome::new("unlimited"));
    }
}

/// What took the whole attempt with it: the end of the sandbox, or a kernel that chose the program itself when memory ran out, as the shell says.
fn taken_down(printed: &str) -> Option<&'static str> {
    let killed = |line: &str| line.contains(" Killed ") && line.contains(attempt::INTERPRETER);
    if printed.contains(SANDBOX_ENDED) {
        return Some("ended");
    }
    printed.lines().any(killed).then_some("killed SIGKILL")
}

/// The control runs in the sandbox itself and in the neighbour's.
async fn twins(stand: &mut Stand, probes: &[Probe], seen: &mut BTreeMap<String, Evidence>) {
    for against in [Against::Inside, Against::Neighbour] {
        let meant: Vec<&Probe> =
            probes.iter().filter(|probe| probe.against == against && attempt::check(probe).is_none()).collect();
        for (number, batch) in batches(&meant).enumerate() {
            let plan = plan(stand, false, batch.iter().map(|probe| planned_twin(stand, probe)).collect());
            let session = if against == Against::Inside { &mut stand.attacker } else { &mut stand.neighbour };
            let printed = bash(session, &format!("twins-{number}"), command(&plan)).await;
            note(batch, &printed, &stand.secrets, seen, |evidence| &mut evidence.outside);
        }
    }
}

pub(crate) async fn bash(session: &mut OpenSession, id: &str, command: String) -> String {
    text(&call(session, id, "bash", json!({"command": command})).await)
}

fn note(
    batch: &[&Probe],
    printed: &str,
    secrets: &[String],
    seen: &mut BTreeMap<String, Evidence>,
    place: fn(&mut Evidence) -> &mut Option<Outcome>,
) {
    let ended = attempt::read(printed);
    for probe in batch {
        let evidence = seen.entry(probe.id.clone()).or_default();
        match ended.get(&probe.id) {
            Some(ended) => *place(evidence) = Some(outcome(probe, ended, secrets)),
            None => evidence.hindrance = Some(hindrance(printed)),
        }
    }
}

/// Why a run of the program brought no answer: the last thing it said.
fn hindrance(printed: &str) -> String {
    let last = printed.lines().rfind(|line| !line.trim().is_empty() && !line.starts_with('@')).unwrap_or_default();
    let last: String = last.chars().take(200).collect();
    format!("the attack program brought no answer; it said: {last}")
}

/// The outcome of an attempt; of one that brings something back, whether a canary is in it.
fn outcome(probe: &Probe, ended: &Ended, secrets: &[String]) -> Outcome {
    if !probe.leak || ended.outcome != Outcome::new("made") {
        return ended.outcome.clone();
    }
    let needles: Vec<&[u8]> = secrets.iter().map(String::as_bytes).collect();
    let holds = |bytes: &[u8]| !postern_secret::canary::search(bytes, &needles).is_empty();
    let leaked = holds(&ended.detail) || attempt::decoded(&ended.detail).is_some_and(|body| holds(&body));
    Outcome::new(if leaked { "leaked" } else { "clean" })
}

fn user() -> User {
    if rustix::process::geteuid().is_root() { User::Root } else { User::Ordinary }
}

fn begun(settings: &Settings, stand: &Stand, started: Timestamp) -> Report {
    let known = Catalogue::shipped().map(|catalogue| catalogue.controls).unwrap_or_default();
    let does = |name: &str| known.iter().find(|control| control.name == name).map(|control| control.does.clone());
    // The run's own directory is gone when somebody reads of it.
    let directory = stand.directory().display().to_string();
    let degraded = stand.perimeter.degraded().iter().map(|what| what.replace(&directory, "(the run's own directory)"));
    let controls = stand.controls.iter().map(|status| ControlRow {
        name: status.control.name().to_owned(),
        does: does(status.control.name()).unwrap_or_default(),
        state: match status.state {
            State::Active => "active",
            State::Degraded => "degraded",
            State::Missing => "missing",
        },
        cause: [status.cause.as_str(), status.fix.as_str(), status.control.held_by().unwrap_or_default()]
            .map(str::trim)
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("; "),
    });
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        took_ms: 0,
        zone: stand.zone.clone(),
        deployed_digest: zone_digest(&settings.document, &stand.zone),
        zone_digest: zone_digest(&stand.document, &stand.zone),
        user: match user() {
            User::Root => "root".to_owned(),
            User::Ordinary => format!("user {}", rustix::process::geteuid().as_raw()),
        },
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        controls: controls.collect(),
        degraded: degraded.collect(),
        notes: NOTES.iter().map(ToString::to_string).collect(),
        only: Vec::new(),
        catalogue: 0,
        broken_off: None,
        findings: Vec::new(),
    }
}

/// The digest of the zone of this name, or of the only one.
fn zone_digest(document: &DocumentText, name: &str) -> String {
    let document = postern_policy::Document::from_text(document.clone());
    let zones = document.and_then(|document| postern_policy::Zones::load(&document, &zone::environments()));
    let Ok(zones) = zones else { return String::new() };
    let mut all = zones.iter();
    let found = zones.iter().find(|zone| zone.name() == name).or_else(|| all.next().filter(|_| all.next().is_none()));
    found.map(|zone| zone.digest().to_owned()).unwrap_or_default()
}

fn finding(probe: &Probe, evidence: &Evidence, lacking: &Lacking) -> Finding {
    let recorded = probe.record.iter().find(|reason| evidence.reasons.contains(reason)).cloned();
    Finding {
        id: probe.id.clone(),
        promise: probe.promise,
        controls: probe.controls.clone(),
        tries: probe.tries.clone(),
        shown_by: probe.shown_by(),
        against: probe.against,
        expected: probe.inside.clone(),
        inside: evidence.inside.clone(),
        outside: evidence.outside.clone(),
        recorded,
        verdict: judge(probe, evidence, user(), lacking),
    }
}

/// What leaves a record of each kind, and something at each upstream and listener.
const COMPANIONS: &[&str] = &[
    "credentials/honest",
    "credentials/other-host",
    "credentials/foreign-bearer",
    "credentials/vault-neighbours",
    "repositories/honest",
    "names/later",
    "names/mixed",
    "credentials/path-outside",
    "network/host-collector",
    "network/name-http",
];

/// What the worker says of a tool use whose sandbox was taken down.
pub(crate) const SANDBOX_ENDED: &str = "the sandbox ended during the call";

/// How a payload is sent to the host that has the canary credential.
const PAYLOAD_HEAD: &str = "POST /v1/entries?note={payload} HTTP/1.1\nhost: {api}\nauthorization: Bearer {key}\ncontent-type: text/plain\ncontent-length: {length}\nx-side: {side}\nconnection: close";

fn batches<T>(attempts: &[T]) -> Chunks<'_, T> {
    attempts.chunks(BATCH)
}

/// Attempts in one tool use; each waits nine seconds for an answer, and a tool use has two minutes.
const BATCH: usize = 12;

const NOTES: &[&str] = &[
    "memory, processes, processor time and disk of the zone were lowered for the run, so that reaching their limits costs little",
    "the zone's secrets were replaced by canaries and its own hosts were not contacted",
    "the gateway was attacked over a tunnel and routes of the run's own, by rules of the run's own and by the zone's mcp rules",
    "this command is the run's worker and makes the control runs as well, so it is not confined as a worker is; the probes roles/worker-... try what a worker's confinement forbids",
];

#[cfg(test)]
mod tests {
    #[test]
    fn so_many_attempts_share_a_tool_use() {
        let sizes: Vec<_> = super::batches(&[(); 25]).map(<[()]>::len).collect();
        assert_eq!(sizes, [12, 12, 1]);
    }
}
