//! Attempts to be lent what must not be lent: zones beside the one under test, each of which lends one thing, are loaded, and a session of each is opened. And
//! attacks on what may be lent, from the sandbox of a zone that lends it. The control run is the same with something harmless. What is lent lies in a
//! private directory of its own: the run's own is never lent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use postern_policy::document::DocumentText;
use postern_policy::{Document, Zones};
use postern_runner::OpenSession;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde_json::{Value as Json, json};
use toml::{Table, Value};

use crate::attempt::{self, INSIDE_PATH, Names, PROGRAM, Planned, command};
use crate::catalogue::{Against, Attempt, Outcome, Probe};
use crate::judge::Evidence;
use crate::run::{VerifyError, bash, plan};
use crate::stand::{Directory, Stand, call, open_in, text};
use crate::toml_text::inline;
use crate::zone;

/// What a zone lends, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lend {
    /// `read`, `write`, `cache`, `system` or `device`.
    how: String,
    path: String,
}

impl Lend {
    /// What an attempt of the form `[KIND, HOW, PATH]` wants to be lent.
    fn of(attempt: &Attempt, kind: &str) -> Option<Self> {
        match &attempt.0[..] {
            [Json::String(named), Json::String(how), Json::String(path)] if named == kind => {
                Some(Self { how: how.clone(), path: path.clone() })
            }
            _ => None,
        }
    }

    fn sandbox(&self) -> Table {
        let path = Value::from(self.path.as_str());
        match self.how.as_str() {
            "device" => Table::from_iter([("devices".to_owned(), Value::Array(vec![path]))]),
            "system" => {
                let system = Table::from_iter([("directories".to_owned(), Value::Array(vec![path]))]);
                Table::from_iter([("system".to_owned(), Value::Table(system))])
            }
            access => mounts(&[(&self.path, "/lent", access)]),
        }
    }

    /// Whether a zone that lends it loads: by names alone.
    fn loads(&self) -> bool {
        let zones = Table::from_iter([("lends".to_owned(), zone_of(0, self.sandbox()))]);
        let text = document(zones);
        let read =
            Document::from_text(DocumentText { file: "postern.toml".into(), text, attachments: BTreeMap::new() });
        read.is_ok_and(|document| Zones::load(&document, &BTreeMap::new()).is_ok())
    }
}

/// Everything that is to be lent, as it lies on the host before the perimeter starts.
pub(crate) struct Lends {
    directory: Directory,
    /// Whether anything in there may be lent, by its name.
    lendable: bool,
    /// What loads, each with a zone of its own.
    lent: Vec<Lend>,
    /// Whether attacks on what is lent are made.
    attacked: bool,
}

impl Lends {
    /// Lays out what the attempts of these probes are about. `own` is the run's directory.
    ///
    /// # Errors
    /// The directory cannot be filled.
    pub(crate) fn prepare(directory: Directory, own: &Path, probes: &[Probe]) -> Result<Self, VerifyError> {
        let laid = lay_out(directory.path());
        laid.map_err(|error| VerifyError::stand("lay out what is to be lent", &error))?;
        let names = names(directory.path(), own);
        let wanted = probes.iter().flat_map(|probe| std::iter::once(&probe.attempt).chain(&probe.twin));
        let wanted: BTreeSet<Lend> = wanted.filter_map(|attempt| Lend::of(&names.fill(attempt), "lend")).collect();
        let lent = wanted.into_iter().filter(Lend::loads).collect();
        let plain = directory.path().join("plain").display().to_string();
        let lendable = Lend { how: "read".to_owned(), path: plain }.loads();
        let attacked = lendable && probes.iter().any(|probe| attempt::lent(&probe.attempt).is_some());
        Ok(Self { directory, lendable, lent, attacked })
    }

    /// The document under test with a zone for each thing that is to be lent.
    pub(crate) fn beside(&self, under_test: &DocumentText) -> DocumentText {
        let mut root: Table = toml::from_str(&under_test.text).unwrap_or_default();
        let mut zones = match root.remove("zone") {
            Some(Value::Table(zones)) => zones,
            _ => Table::new(),
        };
        let each = self.lent.iter().map(Lend::sandbox).chain(self.attacked.then(|| self.all()));
        for (number, sandbox) in each.enumerate() {
            zones.insert(format!("postern-verify-lends-{number}"), zone_of(number, sandbox));
        }
        DocumentText { text: document(zones), ..under_test.clone() }
    }

    /// What may be lent, in each way.
    fn all(&self) -> Table {
        let host = |name: &str| self.directory.path().join(name).display().to_string();
        let each = ["read", "cache", "write"].map(|access| (host(access), format!("/lent/{access}"), access));
        mounts(&each.each_ref().map(|(host, at, access)| (host.as_str(), at.as_str(), *access)))
    }

    fn names(&self, own: &Path) -> Names {
        names(self.directory.path(), own)
    }
}

/// Makes the attempts.
pub(crate) async fn attack(stand: &Stand, probes: &[Probe], seen: &mut BTreeMap<String, Evidence>) {
    if !stand.lends.lendable {
        let about = |probe: &&Probe| attempt::lends(&probe.attempt) || attempt::lent(&probe.attempt).is_some();
        for probe in probes.iter().filter(about) {
            seen.entry(probe.id.clone()).or_default().inside = Some(Outcome::new(NOTHING_LENDABLE));
        }
        return;
    }
    let names = stand.lends.names(stand.directory());
    let mut known = BTreeMap::new();
    for probe in probes.iter().filter(|probe| attempt::lends(&probe.attempt)) {
        let inside = lend(stand, &names.fill(&probe.attempt), &mut known).await;
        let outside = match probe.twin.as_ref().filter(|_| probe.against == Against::Beside) {
            Some(twin) => lend(stand, &names.fill(twin), &mut known).await,
            None => None,
        };
        let evidence = seen.entry(probe.id.clone()).or_default();
        (evidence.inside, evidence.outside) = (inside, outside.or(evidence.outside.take()));
    }
    if stand.lends.attacked {
        attack_what_is_lent(stand, probes, seen).await;
    }
}

/// How it ended that a zone lends this.
async fn lend(stand: &Stand, attempt: &Attempt, known: &mut BTreeMap<Lend, Outcome>) -> Option<Outcome> {
    if let Some(named) = Lend::of(attempt, "named") {
        return Some(Outcome::new(if named.loads() { "made" } else { "not loaded" }));
    }
    let lend = Lend::of(attempt, "lend")?;
    if let Some(outcome) = known.get(&lend) {
        return Some(outcome.clone());
    }
    let outcome = match stand.lends.lent.iter().position(|lent| *lent == lend) {
        None => Outcome::new("not loaded"),
        Some(number) => built(stand, number).await,
    };
    known.insert(lend, outcome.clone());
    Some(outcome)
}

/// Whether the sandbox of a session of that zone is built.
async fn built(stand: &Stand, number: usize) -> Outcome {
    let Ok(mut session) = open(stand, number).await else { return Outcome::new("error") };
    let told = call(&mut session, "lend", "bash", json!({"command": "true"})).await;
    session.close().await;
    let said = text(&told);
    let refused = REFUSALS.iter().any(|words| said.contains(words));
    Outcome::new(match (told.is_error, refused) {
        (false, _) => "made",
        (true, true) => "not lent",
        (true, false) => "error",
    })
}

/// Attacks from inside on what is lent, and the same where writing is lent.
async fn attack_what_is_lent(stand: &Stand, probes: &[Probe], seen: &mut BTreeMap<String, Evidence>) {
    let meant: Vec<(&Probe, Attempt)> =
        probes.iter().filter_map(|probe| Some((probe, attempt::lent(&probe.attempt)?))).collect();
    let twins: Vec<(String, Attempt)> = meant
        .iter()
        .filter(|(probe, _)| probe.against == Against::Beside)
        .filter_map(|(probe, _)| Some((format!("{} beside", probe.id), attempt::lent(probe.twin.as_ref()?)?)))
        .collect();
    let printed = match open(stand, stand.lends.lent.len()).await {
        Ok(mut session) => {
            let input = json!({"file_path": INSIDE_PATH, "content": PROGRAM});
            call(&mut session, "setup", "write", input).await;
            // Only now: what holds a socket or a pipe when a sandbox is built is not lent.
            let services = serve(stand.lends.directory.path());
            let own = meant.iter().map(|(probe, attempt)| Planned { id: &probe.id, attempt: attempt.clone() });
            let beside = twins.iter().map(|(id, attempt)| Planned { id, attempt: attempt.clone() });
            let printed = bash(&mut session, "lent", command(&plan(stand, false, own.chain(beside).collect()))).await;
            session.close().await;
            match services {
                Ok(_served) => printed,
                Err(error) => format!("no service of the host's could be made: {error}"),
            }
        }
        Err(refused) => refused.to_string(),
    };
    let ended = attempt::read(&printed);
    for (probe, _) in meant {
        let evidence = seen.entry(probe.id.clone()).or_default();
        let outcome = |id: &str| ended.get(id).map(|ended| ended.outcome.clone());
        evidence.inside = not_here(stand, probe).or_else(|| outcome(&probe.id));
        if let Some(outside) = outcome(&format!("{} beside", probe.id)) {
            evidence.outside = Some(outside);
        }
        if evidence.inside.is_none() {
            evidence.hindrance = Some(format!("the attack program brought no answer; it said: {printed:.200}"));
        }
    }
}

/// A mount in which nobody is anybody is root's to make, and of a file system that knows it.
fn not_here(stand: &Stand, probe: &Probe) -> Option<Outcome> {
    if !probe.root_only {
        return None;
    }
    let kind = rustix::fs::statfs(stand.lends.directory.path()).map(|about| about.f_type);
    let mapped = kind.is_ok_and(|kind| MAPPED.iter().any(|known| *known == u128::try_from(kind).unwrap_or_default()));
    let why = match (rustix::process::geteuid().is_root(), mapped) {
        (true, true) => return None,
        (false, _) => "root alone makes mounts in which nobody is anybody; a run as root shows it",
        (true, false) => "the file system of the run's directories is not one that is known to have maps of users",
    };
    Some(Outcome::new(format!("skip not here: {why}")))
}

async fn open(stand: &Stand, number: usize) -> Result<OpenSession, VerifyError> {
    open_in(&stand.perimeter, &format!("sesn_verify_lends_{number}"), &environment(number)).await
}

fn environment(number: usize) -> String {
    format!("env_verify_lends_{number}")
}

fn zone_of(number: usize, mut sandbox: Table) -> Value {
    zone::lower(&mut sandbox);
    Value::Table(Table::from_iter([
        ("environment".to_owned(), environment(number).into()),
        ("sandbox".to_owned(), Value::Table(sandbox)),
    ]))
}

fn document(zones: Table) -> String {
    format!("config = 1\nzone = {}\n", inline(&Value::Table(zones)))
}

fn mounts(each: &[(&str, &str, &str)]) -> Table {
    let mount = |(host, at, access): &(&str, &str, &str)| {
        let members = [("host", *host), ("at", *at), ("access", *access)];
        Value::Table(members.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
    };
    Table::from_iter([("mounts".to_owned(), Value::Array(each.iter().map(mount).collect()))])
}

/// The places that attempts name.
fn names(lent: &Path, own: &Path) -> Names {
    let mut names = Names::default();
    names.put("lent", lent.display());
    names.put("directory", own.display());
    names
}

/// What is lent and what must not be: of each kind one.
fn lay_out(at: &Path) -> std::io::Result<()> {
    for name in ["plain", "read", "cache", "write", "services/inner", "pipes", "people/ann/.ssh", "keys/.aws"] {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(at.join(name))?;
    }
    // Whoever the kernel user of a sandbox is, and whatever this process withholds from files that it makes.
    for (name, mode) in [("read", 0o755), ("cache", 0o755), ("write", 0o777)] {
        fs::set_permissions(at.join(name), Permissions::from_mode(mode))?;
    }
    symlink("/etc", at.join("link"))?;
    // It stays when nobody listens any more.
    drop(listen(&at.join("services/inner"))?);
    pipe(&at.join("pipes/pipe"))
}

/// A service in this directory, by a short way to it: an address has room for a hundred bytes of a path.
fn listen(directory: &Path) -> std::io::Result<UnixListener> {
    let directory = fs::File::open(directory)?;
    UnixListener::bind(format!("/proc/self/fd/{}/service", directory.as_raw_fd()))
}

fn pipe(at: &Path) -> std::io::Result<()> {
    rustix::fs::mknodat(CWD, at, FileType::Fifo, Mode::from_raw_mode(0o666), 0)?;
    fs::set_permissions(at, Permissions::from_mode(0o666))
}

/// Services of the host that come later, where reading and where writing is lent; each listens until it is dropped.
fn serve(at: &Path) -> std::io::Result<Vec<(UnixListener, OwnedFd)>> {
    let serve = |name: &str| {
        let service: PathBuf = at.join(name).join("service");
        let listener = listen(&at.join(name))?;
        fs::set_permissions(&service, Permissions::from_mode(0o777))?;
        pipe(&at.join(name).join("pipe"))?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let reader = rustix::fs::open(at.join(name).join("pipe"), flags, Mode::empty())?;
        Ok((listener, reader))
    };
    ["read", "write"].into_iter().map(serve).collect()
}

/// Where the run's directories lie in a place that is never lent.
const NOTHING_LENDABLE: &str =
    "skip not here: nothing below the temporary directory is ever lent; a run with another TMPDIR shows it";

/// How the spawner says that it does not lend something.
const REFUSALS: [&str; 4] = [" would show ", " is never lent", " is really ", " is not one below /dev"];

/// File systems that are known to have maps of users: ext4, xfs, btrfs, tmpfs.
const MAPPED: [u128; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_lent_is_laid_out_below_a_long_path_too() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("a".repeat(120));
        fs::create_dir(&long).unwrap();
        lay_out(&long).unwrap();
        assert!(long.join("services/inner/service").exists());
        let services = serve(&long).unwrap();
        assert_eq!(services.len(), 2);
        assert!(["read", "write"].iter().all(|name| long.join(name).join("service").exists()));
    }

    #[test]
    fn what_a_zone_may_not_lend_by_its_name_is_not_loaded_and_what_it_may_is_a_zone_of_its_own() {
        let lend = |how: &str, path: &str| Lend { how: how.into(), path: path.into() };
        for (how, path, loads) in [
            ("read", "/etc", false),
            ("system", "/root", false),
            ("device", "/dev/kmsg", false),
            ("read", "/srv/data", true),
            ("write", "/srv/data", true),
            ("cache", "/srv/data", true),
            ("system", "/opt/tools", true),
            ("device", "/dev/fuse", true),
        ] {
            assert_eq!(lend(how, path).loads(), loads, "{how} {path}");
        }
    }
}
