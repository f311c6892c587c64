//! What the attacks are made against: a perimeter of its own over a private directory, two sessions of the zone under test, upstreams on loopback,
//! and on the host a process, a listener and files that must be out of reach. Everything ends with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_custody::store::Store;
use postern_exec::WireBytes;
use postern_exec::program::Running;
use postern_exec::role::STARTER;
use postern_model::ids::SessionId;
use postern_policy::document::DocumentText;
use postern_runner::{KernelUsers, OpenSession, Outcome as Told, SessionFacts, Standing, ToolCall, WorkerConfig};
use postern_sandbox::ControlStatus;
use postern_testkit::private_api::GIT_USER;
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Map, Value, json};

use crate::attempt::{INSIDE_PATH, Names, PROGRAM};
use crate::catalogue::Probe;
use crate::lends::Lends;
use crate::outside;
use crate::race;
use crate::run::{Settings, VerifyError};
use crate::upstreams::{Hosts, Keys};
use crate::vault::{self, Given};
use crate::zone::{
    self, API_HOST, BARE_HOST, CERTIFIED_HOST, ENVIRONMENT, GIT_HOST, IMPOSTOR_HOST, MEMORY_MIB, OTHER_HOST, UnderTest,
    VAULT_HOST,
};

/// The session that attacks.
const ATTACKER: &str = "sesn_verify";
/// The one beside it.
const NEIGHBOUR: &str = "sesn_verify_neighbour";

/// Everything that runs.
pub(crate) struct Stand {
    directory: Directory,
    pub(crate) perimeter: Standing,
    /// What holds for the sandbox that is attacked.
    pub(crate) controls: Vec<ControlStatus>,
    pub(crate) zone: String,
    pub(crate) document: DocumentText,
    pub(crate) attacker: OpenSession,
    pub(crate) neighbour: OpenSession,
    pub(crate) hosts: Hosts,
    /// The canary of the API's credential, last, and all others: of the zone's own credentials, of the client certificate, of the vaults.
    pub(crate) secrets: Vec<String>,
    /// What the vaults of the attacker have, and those of the neighbour: both are among the secrets.
    pub(crate) vaults: [String; 2],
    /// The token of the attacker's repository, and that of the neighbour's: both are among the secrets.
    pub(crate) tokens: [String; 2],
    /// The neighbour's placeholder of the API's credential.
    pub(crate) stolen: String,
    /// Every placeholder that the two sandboxes were shown.
    pub(crate) placeholders: Vec<String>,
    /// A word that is nobody's secret, and that no record is to hold.
    pub(crate) payload: String,
    pub(crate) names: Names,
    pub(crate) lends: Lends,
    /// The share of processor time that the zone gives.
    pub(crate) cpus: f64,
    /// The names of this command's own variables, without those that every sandbox sets.
    pub(crate) variables: Vec<String>,
    served: Running,
}

/// A private directory that goes away.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing is left to do about a directory that cannot be removed; it holds canaries alone.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Stand {
    /// Sets everything up for these probes.
    ///
    /// # Errors
    /// Names the part that does not stand.
    pub(crate) async fn set(settings: &Settings, probes: &[Probe]) -> Result<Self, VerifyError> {
        let directory = Directory(fresh_directory(&settings.scratch, "")?);
        let private = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        let made = private(&directory.0.join("perimeter"));
        made.map_err(|error| VerifyError::stand("make a private directory", &error))?;
        let lends = Lends::prepare(Directory(fresh_directory(&settings.scratch, "lent-")?), &directory.0, probes)?;
        let keys = Keys::fresh(canary)?;
        let doing = |what: &'static str| move |error: &dyn std::error::Error| VerifyError::stand(what, error);
        let hosts = Hosts::start(&keys).await?;
        let chosen = zone::choose(&settings.document, &settings.selection)?;
        let under_test = zone::rewrite(chosen, &settings.document, &hosts.in_zone());
        let (store, secrets) = fill_store(&directory.0, &under_test, &keys)?;
        let program = directory.0.join("attack.py");
        fs::write(&program, PROGRAM).map_err(|error| doing("write the attack program")(&error))?;
        let perimeter = Standing::start(configuration(
            settings,
            &directory.0,
            &lends.beside(&under_test.document),
            hosts.names.address,
        ))
        .await;
        let perimeter = perimeter.map_err(|problems| VerifyError::Perimeter(problems.join("; ")))?;
        let watch = perimeter.watch();
        let ground = Ground { directory, lends, keys, hosts, under_test, store, secrets, program, perimeter };
        let (variables, place) = (own_variables(&settings.variables), ground.directory.0.clone());
        let opened = tokio::select! {
            biased;
            part = watch.gone() => Err(VerifyError::Perimeter(format!("{part} ended"))),
            stand = ground.opened(variables) => stand,
        };
        if opened.is_err() {
            drop(watch);
            remove(&place).await;
        }
        opened
    }

    /// The run's directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// The attack program on the host.
    pub(crate) fn program(&self) -> PathBuf {
        self.directory.0.join("attack.py")
    }

    /// The client certificate and its key on the host.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.0.join(CERTIFICATE)
    }

    /// How many marks a program that works on has left.
    pub(crate) fn marks(&self) -> u64 {
        let marks = self.directory.0.join("perimeter/work").join(ATTACKER).join("workspace/.marks");
        fs::metadata(marks).map_or(0, |about| about.len())
    }

    /// Removes what an attempt that was ended with its sandbox left of the disk: the next sandbox would be over its limit from the start.
    pub(crate) fn clear_what_was_taken(&self) {
        let workspace = self.directory.0.join("perimeter/work").join(ATTACKER).join("workspace");
        let entries = fs::read_dir(workspace).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(TAKEN)) {
            if let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(%error, "a file that fills the disk could not be removed");
            }
        }
    }

    /// Closes the sessions and ends the processes, of which some may have ended already; the directory stays until this is dropped.
    pub(crate) async fn end(self) -> Ended {
        let Self { directory, perimeter, attacker, neighbour, served, secrets, vaults, tokens, hosts, .. } = self;
        let (placeholders, payload) = (self.placeholders, self.payload);
        let in_order = async {
            attacker.close().await;
            neighbour.close().await;
            perimeter.end().await;
        };
        waited_for(in_order).await;
        outside::end(served).await;
        Ended { directory, secrets, vaults, tokens, hosts, placeholders, payload }
    }
}

/// What stands before a session is opened.
struct Ground {
    directory: Directory,
    lends: Lends,
    keys: Keys,
    hosts: Hosts,
    under_test: UnderTest,
    store: Store,
    secrets: Vec<String>,
    program: PathBuf,
    perimeter: Standing,
}

impl Ground {
    /// Opens the sessions and plants what is to be found nowhere.
    async fn opened(self, variables: Vec<String>) -> Result<Stand, VerifyError> {
        let Self { directory, lends, keys, hosts, under_test, store, mut secrets, program, perimeter } = self;
        let (own, refresh) = (canary()?, canary()?);
        let sessions = [(ATTACKER, &own), (NEIGHBOUR, &keys.vault)];
        for ((session, variable), token) in sessions.into_iter().zip(&keys.repositories) {
            vault::bring(&perimeter, &store, session, &Given { variable, token, refresh: &refresh })?;
        }
        let tokens = keys.repositories.clone();
        let vaults = [own.clone(), keys.vault.clone()];
        let ours = [keys.client.key_line().to_owned(), own, refresh, keys.vault.clone()];
        secrets.splice(..0, ours.into_iter().chain(tokens));
        let mut attacker = open_in(&perimeter, ATTACKER, ENVIRONMENT).await?;
        let mut neighbour = open_in(&perimeter, NEIGHBOUR, ENVIRONMENT).await?;
        for session in [&mut attacker, &mut neighbour] {
            let input = json!({"file_path": INSIDE_PATH, "content": PROGRAM});
            call(session, "setup", "write", input).await;
        }
        let controls = attacker.controls().unwrap_or(perimeter.controls()).to_vec();
        plant_keys(&directory.0, &keys)?;
        let (mut names, served) = serve_on_host(&directory.0, &program).await?;
        names.put("collector", hosts.collector.address.port());
        names.put("changing", hosts.changing.port());
        names.put("api", API_HOST);
        names.put("other", OTHER_HOST);
        names.put("certified", CERTIFIED_HOST);
        names.put("bare", BARE_HOST);
        names.put("vault", VAULT_HOST);
        names.put("git", GIT_HOST);
        names.put("impostor", IMPOSTOR_HOST);
        names.put("deep", race::deep());
        names.put("names_port", hosts.names.address.port());
        let (head, tail) = keys.client.key_line().split_at(keys.client.key_line().len() / 2);
        names.put("certificate_head", head);
        names.put("certificate_tail", tail);
        names.put("memory", MEMORY_MIB + 64);
        names.put("cpus", under_test.cpus);
        names.put("variables", variables.join(" "));
        names.put("devices", under_test.devices.join(" "));
        let payload = format!("payload-{}", random()?);
        names.put("payload", &payload);
        let settled = settle_neighbour(&mut neighbour, &mut names).await;
        let placeholders = shown_to(&mut attacker).await.into_iter().chain(settled.placeholders).collect();
        Ok(Stand {
            directory,
            perimeter,
            controls,
            zone: under_test.name,
            document: under_test.document,
            attacker,
            neighbour,
            hosts,
            secrets,
            vaults,
            tokens: keys.repositories,
            stolen: settled.stolen,
            placeholders,
            payload,
            names,
            lends,
            cpus: under_test.cpus,
            variables,
            served,
        })
    }
}

/// What is left of a stand, to be looked through.
pub(crate) struct Ended {
    directory: Directory,
    pub(crate) secrets: Vec<String>,
    pub(crate) vaults: [String; 2],
    pub(crate) tokens: [String; 2],
    pub(crate) hosts: Hosts,
    pub(crate) placeholders: Vec<String>,
    pub(crate) payload: String,
}

impl Ended {
    /// Removes what is left, for good.
    pub(crate) async fn removed(self) {
        remove(self.directory()).await;
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory.0
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.directory.0.join("perimeter/audit")
    }
}

/// Removes a directory. What ended just now may write a last word meanwhile: what is half removed then is removed again.
pub(crate) async fn remove(directory: &Path) {
    for _ in 0..REMOVALS {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => tokio::time::sleep(PAUSE).await,
            Ok(()) | Err(_) => return,
        }
    }
}

/// Waits until sessions and processes have ended, and no longer than [`END_PATIENCE`].
async fn waited_for(ending: impl Future<Output = ()>) {
    if tokio::time::timeout(END_PATIENCE, ending).await.is_err() {
        tracing::warn!("the perimeter of the run did not end in order");
    }
}

/// The session that is attacked from.
pub(crate) fn attacker_id() -> SessionId {
    ATTACKER.parse().expect("it is an id of a session: it is one of ours")
}

/// One tool use, with the id by which its records are found.
pub(crate) async fn call(session: &mut OpenSession, id: &str, tool: &str, input: Value) -> Told {
    let input = match input {
        Value::Object(input) => input,
        _ => Map::new(),
    };
    let call = ToolCall { id: id.to_owned(), name: tool.to_owned(), input, thread: None, asked: false };
    session.call(&call).await
}

/// The text of a tool use.
pub(crate) fn text(told: &Told) -> String {
    let blocks = told.content.iter().filter_map(|block| match block {
        postern_tools::Block::Text { text } => Some(text.as_str()),
        _ => None,
    });
    blocks.collect::<Vec<_>>().join("\n")
}

fn fresh_directory(scratch: &Path, what: &str) -> Result<PathBuf, VerifyError> {
    let doing = |error: std::io::Error| VerifyError::stand("make a private directory", &error);
    // By its real path: no other is lent.
    let scratch = fs::canonicalize(scratch).map_err(doing)?;
    let directory = scratch.join(format!("postern-verify-{what}{}-{}", std::process::id(), random()?));
    fs::DirBuilder::new().mode(0o700).create(&directory).map_err(doing)?;
    Ok(directory)
}

/// What other roles keep where they run; here they do not, and something must lie there for those who must not open it.
fn plant_keys(directory: &Path, keys: &Keys) -> Result<(), VerifyError> {
    let plant = |name: &str, content: &str| {
        let path = directory.join(name);
        path.parent().map_or(Ok(()), |parent| fs::DirBuilder::new().recursive(true).mode(0o700).create(parent))?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content.as_bytes())
    };
    let planted = PLANTED.iter().try_for_each(|name| plant(name, ""));
    let planted = planted.and_then(|()| plant(CERTIFICATE, &keys.client.pem));
    planted.map_err(|error| VerifyError::stand("plant files of other roles", &error))
}

fn random() -> Result<String, VerifyError> {
    let mut bytes = [0u8; 20];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty());
    filled.map_err(|error| VerifyError::stand("draw random bytes", &error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A secret that nobody else has, and whose beginning can be searched for.
fn canary() -> Result<String, VerifyError> {
    Ok(format!("{CANARY_HEAD}{}", random()?))
}

/// A canary for each secret that the zone names, ours last.
fn fill_store(directory: &Path, under_test: &UnderTest, keys: &Keys) -> Result<(Store, Vec<String>), VerifyError> {
    let store = Store::open(&directory.join("perimeter/custody"));
    let store = store.map_err(|error| VerifyError::stand("open a store", &error))?;
    let mut secrets = Vec::new();
    for _ in 1..under_test.secrets.len() {
        secrets.push(canary()?);
    }
    secrets.push(keys.api.clone());
    let certificate = (&under_test.certificate, &keys.client.pem);
    for (name, secret) in under_test.secrets.iter().zip(&secrets).chain([certificate]) {
        let set = store.set(name, secret.clone().into_bytes(), false);
        set.map_err(|error| VerifyError::stand("store a canary", &error))?;
    }
    Ok((store, secrets))
}

fn configuration(settings: &Settings, directory: &Path, document: &DocumentText, names: SocketAddr) -> WorkerConfig {
    WorkerConfig {
        exe: settings.exe.clone(),
        server_url: String::new(),
        ca_file: None,
        environment_id: ENVIRONMENT.to_owned(),
        environment_key: WireBytes::new(Vec::new()),
        document: document.clone(),
        environments: zone::environments(),
        data_dir: directory.to_owned(),
        audit_dir: directory.join("perimeter/audit"),
        custody_dir: directory.join("perimeter/custody"),
        kept: Vec::new(),
        sessions: 2,
        drain_seconds: 1,
        variables: BTreeMap::new(),
        names: Some(names),
        degraded: Vec::new(),
        kernel_users: KernelUsers::default(),
    }
}

/// Opens a session in the zone of an environment.
///
/// # Errors
/// Why the perimeter does not serve it.
pub(crate) async fn open_in(
    perimeter: &Standing,
    session: &str,
    environment: &str,
) -> Result<OpenSession, VerifyError> {
    let facts = SessionFacts {
        session: session.to_owned(),
        environment: environment.to_owned(),
        agent_id: "agent_verify".to_owned(),
        agent_version: 1,
        definition_digest: "sha256:verify".to_owned(),
    };
    perimeter.open(facts).await.map_err(|refused| VerifyError::Perimeter(refused.to_string()))
}

/// On the host: a process with a word of its own in its command line, which listens and shares memory, and a file of the user's.
async fn serve_on_host(directory: &Path, program: &Path) -> Result<(Names, Running), VerifyError> {
    let mut names = Names::default();
    let (marker, key) = (format!("marker-{}", random()?), std::process::id() | 0x5000_0000);
    let port = free_port()?;
    let word = ["serve", &format!("{marker}-socket"), &port.to_string(), &key.to_string(), &marker].map(str::to_owned);
    let started = outside::start(program, word.to_vec(), Vec::new());
    let mut served = started.map_err(|error| VerifyError::stand("start a process on the host", &error))?;
    let _listening = tokio::time::timeout(std::time::Duration::from_secs(10), served.line()).await;
    fs::write(directory.join("canary"), &marker).map_err(|error| VerifyError::stand("write a canary", &error))?;
    names.put("directory", directory.display());
    names.put("marker", &marker);
    names.put("host_socket", format!("{marker}-socket"));
    names.put("host_port", port);
    names.put("host_memory", key);
    for (role, pid) in processes() {
        names.put(&format!("pid_{role}"), pid);
    }
    names.put("pid_host", served.id().unwrap_or_default());
    names.put("pid_worker", std::process::id());
    names.put("canary_head", &CANARY_HEAD[..CANARY_HEAD.len() / 2]);
    names.put("canary_tail", &CANARY_HEAD[CANARY_HEAD.len() / 2..]);
    let trimmed = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    names.put("host_name", trimmed("/proc/sys/kernel/hostname"));
    Ok((names, served))
}

fn free_port() -> Result<u16, VerifyError> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| VerifyError::stand("find a free port", &error))
}

/// The perimeter's processes by their role: the starter is this process's child, the others are the starter's.
pub(crate) fn processes() -> BTreeMap<String, u32> {
    let ours = roles_of("self");
    let theirs = ours.get(STARTER).map(|pid| roles_of(&pid.to_string()));
    ours.into_iter().chain(theirs.into_iter().flatten()).collect()
}

/// The children of a process.
pub(crate) fn children_of(parent: &str) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    children.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn roles_of(parent: &str) -> BTreeMap<String, u32> {
    let roles = children_of(parent).into_iter().filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let role = line.split(|byte| *byte == 0).nth(1)?;
        let role = std::str::from_utf8(role).ok().filter(|role| role.bytes().all(|byte| byte.is_ascii_lowercase()))?;
        Some((role.to_owned(), pid))
    });
    roles.collect()
}

/// Those that nothing but this command's own environment could have given to a sandbox.
fn own_variables(all: &[String]) -> Vec<String> {
    let plain = |name: &&String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let others = |name: &&String| !SET_INSIDE.contains(&name.as_str()) && !name.starts_with("GIT_CONFIG_");
    all.iter().filter(plain).filter(others).take(OWN_VARIABLES).cloned().collect()
}

/// What a neighbour shows of itself.
struct Settled {
    stolen: String,
    placeholders: Vec<String>,
}

/// The neighbour shows its placeholder, and listens in the background.
async fn settle_neighbour(neighbour: &mut OpenSession, names: &mut Names) -> Settled {
    let (socket, port, key) = ("neighbours-socket", 8099, 0x5150_0001u32);
    let script = format!(
        "echo neighbours-own > /workspace/own; setsid {} -I -S {INSIDE_PATH} serve {socket} {port} {key} neighbours-word > /tmp/served 2>&1 & for i in $(seq 100); do grep -q listening /tmp/served && break; sleep 0.05; done; while read -r inside outside count; do echo \"user=$outside\"; done < /proc/self/uid_map",
        crate::attempt::INTERPRETER,
    );
    let told = text(&call(neighbour, "setup-neighbour", "bash", json!({"command": script})).await);
    names.put("neighbour_socket", socket);
    names.put("neighbour_port", port);
    names.put("neighbour_memory", key);
    names.put("neighbour_user", told.lines().find_map(|line| line.strip_prefix("user=")).unwrap_or_default());
    let [stolen, vault, repository] = shown_to(neighbour).await;
    names.put("neighbour_vault_basic", STANDARD.encode(format!("reporting:{vault}")));
    names.put("neighbour_vault", &vault);
    names.put("neighbour_repository_basic", STANDARD.encode(format!("{GIT_USER}:{repository}")));
    Settled { stolen: stolen.clone(), placeholders: vec![stolen, vault, repository] }
}

/// The placeholders that a session's sandbox shows: of the API's credential, of its vaults, of its repository's token.
async fn shown_to(session: &mut OpenSession) -> [String; 3] {
    let script = format!(
        "echo \"placeholder=${}\"; echo \"vault=${}\"; echo \"repository=$GIT_CONFIG_VALUE_0\"",
        zone::VARIABLE,
        zone::VAULT_VARIABLE
    );
    let told = text(&call(session, "setup-shown", "bash", json!({"command": script})).await);
    let said = |word: &str| told.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_default().to_owned();
    // As git sends it: Basic, with the placeholder as the password.
    let repository = said("repository=");
    let pair = STANDARD.decode(repository.rsplit(' ').next().unwrap_or_default()).unwrap_or_default();
    let pair = String::from_utf8_lossy(&pair).into_owned();
    let password = pair.split_once(':').map(|(_, password)| password.to_owned()).unwrap_or_default();
    [said("placeholder="), said("vault="), password]
}

/// How long sessions and processes may take to end.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// How often a directory is removed in which somebody still writes, and how long after.
const REMOVALS: usize = 60;
const PAUSE: Duration = Duration::from_millis(50);

/// The client certificate with its key, as an operator would have brought it.
const CERTIFICATE: &str = "certificate.pem";

/// What the attack program calls files with which it fills a disk.
const TAKEN: &str = "taken-";

const PLANTED: [&str; 4] =
    ["control/postern.sqlite", "perimeter/gateway/key", "perimeter/tunnel/leaf.key", "perimeter/environment_key"];

/// What a sandbox, its shell or the control run sets itself.
const SET_INSIDE: &[&str] = &[
    "PATH",
    "HOME",
    "LANG",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TERM",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "PIP_BREAK_SYSTEM_PACKAGES",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NODE_EXTRA_CA_CERTS",
];
/// So many of them are looked for.
const OWN_VARIABLES: usize = 200;

/// What every canary begins with; halves of it are searched for from inside, so that the search does not find itself.
pub(crate) const CANARY_HEAD: &str = "postern-canary-";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_waited_for_thirty_seconds_and_what_cannot_be_removed_tried_for_three() {
        let began = tokio::time::Instant::now();
        waited_for(std::future::pending()).await;
        assert_eq!(began.elapsed().as_secs(), 30);
        remove(Path::new("/dev/null/nothing")).await;
        assert_eq!(began.elapsed().as_secs(), 33);
    }

    #[test]
    fn so_many_variables_are_looked_for_and_none_that_every_sandbox_has() {
        let theirs =
            SET_INSIDE.iter().map(ToString::to_string).chain(["GIT_CONFIG_COUNT".to_owned(), "a b".to_owned()]);
        let own = |number: usize| format!("OWN_{number}");
        let all: Vec<String> = theirs.chain((0..300).map(own)).collect();
        assert_eq!(own_variables(&all), (0..200).map(own).collect::<Vec<_>>());
    }
}
