//! Where sessions live on this host: `<data>/perimeter/work/<session id>/{workspace,packages,given,outputs,memory,journal,manifest,repositories,skills,sent,stores,kernel_uid,lease,variables,coming,results,frozen,revoked}`. Workspaces
//! outlive the worker, and so does its name (`<data>/perimeter/work/.worker/name`).
//! Never makes a path from a name it did not check: session ids come from a server that may be hostile.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use postern_sandbox::LOWEST_KERNEL_UID;
use postern_secret::seal::SealedVariable;
use serde::{Deserialize, Serialize};

use crate::kernel_users::KernelUsers;
use crate::session::random;

/// The directory of all sessions.
#[derive(Debug)]
pub struct Places {
    root: PathBuf,
    kernel_uids: KernelUids,
    users: KernelUsers,
    allocating: Mutex<()>,
}

/// Whether sandboxes get kernel users of their own: only root can give them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KernelUids {
    PerSession,
    Ours,
}

/// One session's directory.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) workspace: PathBuf,
    pub(crate) journal: PathBuf,
    /// The layer over the system into which packages are installed, where the zone has one.
    pub(crate) packages: PathBuf,
    /// What was written to the workspace for the control plane.
    pub(crate) results: PathBuf,
    /// What the session was given, and what of it is there.
    pub(crate) given: PathBuf,
    pub(crate) manifest: PathBuf,
    /// Which repositories were cloned.
    pub(crate) repositories: PathBuf,
    /// Which skills are there.
    pub(crate) skills: PathBuf,
    /// A file on its way, and what lay in it.
    pub(crate) incoming: PathBuf,
    pub(crate) unpacked: PathBuf,
    /// What the session puts out, and what of it was sent.
    pub(crate) outputs: PathBuf,
    pub(crate) sent: PathBuf,
    /// The directories of memory stores, and what is known of these.
    pub(crate) memory: PathBuf,
    pub(crate) stores: PathBuf,
    kernel_uid: PathBuf,
    lease: PathBuf,
    /// The variables of its vaults and the tokens of its repositories, sealed.
    variables: PathBuf,
    /// The same of an item that waits for its turn.
    coming: PathBuf,
    directory: PathBuf,
}

/// What came with an item that waits for its turn.
#[derive(Serialize, Deserialize)]
struct Coming {
    #[serde(default)]
    handout: String,
    variables: Vec<SealedVariable>,
}

/// What stays of a command, so that a worker that is started again still obeys it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing of the session runs.
    Frozen,
    /// The session has no grants any more.
    Revoked,
}

impl Mark {
    fn file(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Revoked => "revoked",
        }
    }
}

/// A lease as it is remembered beside its session, so that a worker that is started again goes on at once. It holds no credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldLease {
    pub(crate) work: String,
    /// Which time it was handed out, as this worker calls it: the same item may come again while its first time is taken down.
    #[serde(default)]
    pub(crate) handout: String,
    pub(crate) session: String,
    /// Of the last heartbeat that was answered.
    pub(crate) last_heartbeat: String,
    /// Whether the server is a Postern.
    pub(crate) ours: bool,
}

impl Place {
    fn at(directory: PathBuf) -> Self {
        Self {
            workspace: directory.join("workspace"),
            packages: directory.join("packages"),
            journal: directory.join("journal"),
            results: directory.join("results"),
            given: directory.join("given"),
            manifest: directory.join("manifest"),
            repositories: directory.join("repositories"),
            skills: directory.join("skills"),
            incoming: directory.join("incoming"),
            unpacked: directory.join("unpacked"),
            outputs: directory.join("outputs"),
            sent: directory.join("sent"),
            memory: directory.join("memory"),
            stores: directory.join("stores"),
            kernel_uid: directory.join(KERNEL_UID),
            lease: directory.join("lease"),
            variables: directory.join("variables"),
            coming: directory.join("coming"),
            directory,
        }
    }

    /// Whether the workspace is there.
    pub(crate) fn has_workspace(&self) -> bool {
        fs::symlink_metadata(&self.workspace).is_ok_and(|about| about.is_dir())
    }

    /// Makes the workspace where there is none: from then on a workspace that is missing is one that was lost.
    pub(crate) fn make_workspace(&self) -> Result<(), PlaceError> {
        match fs::DirBuilder::new().mode(0o700).create(&self.workspace) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(PlaceError::Make { path: self.workspace.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// Whether the session bears this mark. One that cannot be looked for is borne: better held than let go.
    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.directory.join(mark.file()).try_exists().unwrap_or(true)
    }

    /// Marks the session; on disk when this returns. Blocks.
    pub(crate) fn mark(&self, mark: Mark) -> io::Result<()> {
        let options = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).clone();
        options.open(self.directory.join(mark.file()))?.sync_all()?;
        self.sync()
    }

    /// Takes a mark away; on disk when this returns. Blocks.
    pub(crate) fn unmark(&self, mark: Mark) -> io::Result<()> {
        match fs::remove_file(self.directory.join(mark.file())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.directory)?.sync_all()
    }

    /// Remembers the lease. Losing it costs time and nothing else, so it is not synced.
    pub(crate) fn remember(&self, lease: &HeldLease) -> io::Result<()> {
        replace(&self.lease, &serde_json::to_vec(lease)?)
    }

    /// Keeps what the session's vaults have, sealed as it came, in place of what was kept before. Blocks.
    pub(crate) fn keep_variables(&self, sealed: &[SealedVariable]) -> io::Result<()> {
        replace(&self.variables, &serde_json::to_vec(sealed)?)
    }

    /// The same, said later than what came with any item, one that waits for its turn included. Blocks.
    pub(crate) fn renew_variables(&self, sealed: &[SealedVariable]) -> io::Result<()> {
        if let Some(coming) = self.read_coming()? {
            self.keep_coming(&coming.handout, sealed.to_vec())?;
        }
        self.keep_variables(sealed)
    }

    /// The same of an item that waits for its turn. Blocks.
    pub(crate) fn keep_coming(&self, handout: &str, variables: Vec<SealedVariable>) -> io::Result<()> {
        replace(&self.coming, &serde_json::to_vec(&Coming { handout: handout.to_owned(), variables })?)
    }

    /// It is this item's turn: what came with it takes the place of what was kept before. What it had already taken, before its worker was killed,
    /// stays. Blocks.
    pub(crate) fn take_coming(&self, handout: &str) -> io::Result<()> {
        if let Some(coming) = self.coming(handout)? {
            self.keep_variables(&coming.variables)?;
            forget(&self.coming);
        }
        Ok(())
    }

    /// Forgets what came with an item that never had its turn.
    pub(crate) fn forget_coming(&self, handout: &str) {
        if !matches!(self.coming(handout), Ok(None)) {
            forget(&self.coming);
        }
    }

    fn coming(&self, handout: &str) -> io::Result<Option<Coming>> {
        Ok(self.read_coming()?.filter(|coming| coming.handout == handout))
    }

    fn read_coming(&self) -> io::Result<Option<Coming>> {
        match fs::read(&self.coming) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What was kept. Blocks.
    pub(crate) fn variables(&self) -> io::Result<Vec<SealedVariable>> {
        match fs::read(&self.variables) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Forgets the lease, where it is this item's: an item of the session that waits for its turn remembers its own.
    pub(crate) fn forget_lease(&self, handout: &str) {
        let held = fs::read(&self.lease).ok().and_then(|text| serde_json::from_slice::<HeldLease>(&text).ok());
        if held.is_none_or(|held| held.handout == handout) {
            forget(&self.lease);
        }
    }

    /// Forgets what came with the item whose turn it is.
    pub(crate) fn forget_variables(&self) {
        forget(&self.variables);
    }
}

fn forget(file: &Path) {
    if let Err(error) = fs::remove_file(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, ?file, "what belonged to an item could not be forgotten");
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("the session id is not one that can name a directory")]
    Name,
    #[error("make the session's directory {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("{} does not hold a kernel user: remove the session's directory to start it anew", path.display())]
    KernelUid { path: PathBuf },
    #[error(
        "no kernel user is left for a sandbox: each was given once, or /etc/subuid, /etc/subgid and the map of this user namespace leave none"
    )]
    NoKernelUser,
}

impl Places {
    /// Sessions below `<data>/perimeter/work`.
    pub fn new(data_dir: &Path) -> Self {
        let kernel_uids = if rustix::process::geteuid().is_root() { KernelUids::PerSession } else { KernelUids::Ours };
        let (root, users) = (data_dir.join("perimeter").join("work"), KernelUsers::default());
        Self { root, kernel_uids, users, allocating: Mutex::new(()) }
    }

    /// The same, whose sandboxes get these kernel users.
    pub(crate) fn giving(self, users: KernelUsers) -> Self {
        Self { users, ..self }
    }

    /// The session's directory, made when it is not there.
    pub(crate) fn of(&self, session: &str) -> Result<Place, PlaceError> {
        if !names_a_directory(session) {
            return Err(PlaceError::Name);
        }
        let directory = self.root.join(session);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| PlaceError::Make { path: directory.clone(), source })?;
        Ok(Place::at(directory))
    }

    /// The session's directory, where it has one: asking makes none.
    pub(crate) fn existing(&self, session: &str) -> Option<Place> {
        let directory = self.root.join(names_a_directory(session).then_some(session)?);
        let stands = fs::symlink_metadata(&directory).is_ok_and(|about| about.is_dir());
        stands.then(|| Place::at(directory))
    }

    /// The sessions that bear a mark.
    pub(crate) fn marked(&self) -> Vec<(String, Place)> {
        let sessions = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let places = sessions.filter_map(|entry| {
            let session = entry.file_name().into_string().ok()?;
            let place = self.existing(&session)?;
            Some((session, place))
        });
        places.filter(|(_, place)| place.has(Mark::Frozen) || place.has(Mark::Revoked)).collect()
    }

    /// The random part of the worker's name. It stays for as long as the sessions' directory does: a server with several
    /// workers keeps a session for the one that has its files.
    pub(crate) fn name(&self) -> io::Result<String> {
        let path = self.own()?.join("name");
        let is_name = |text: &String| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match fs::read_to_string(&path) {
            Ok(text) if is_name(&text) => return Ok(text),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let name = format!("{:012x}", random() & 0xffff_ffff_ffff);
        replace(&path, name.as_bytes())?;
        Ok(name)
    }

    /// The leases that an earlier run of the worker held.
    pub(crate) fn leases(&self) -> Vec<HeldLease> {
        let sessions = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let texts = sessions.filter_map(|session| fs::read(session.path().join("lease")).ok());
        texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect()
    }

    /// The session's kernel user: the same for as long as its directory stands, nobody else's before or after. None for an ordinary user. Blocks.
    pub(crate) fn kernel_uid(&self, place: &Place) -> Result<Option<u32>, PlaceError> {
        if self.kernel_uids == KernelUids::Ours {
            return Ok(None);
        }
        let _one_at_a_time = self.allocating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = read_uid(&place.kernel_uid)? {
            return Ok(Some(known));
        }
        let failed = |source| PlaceError::Make { path: place.kernel_uid.clone(), source };
        let mut highest = None;
        let others = fs::read_dir(&self.root).map_err(failed)?.flatten();
        for entry in others.filter(|_| !postern_danger::off!("distinct-uid")) {
            // Of the worker's own directory too: what it remembers of sessions that are gone.
            highest = highest.max(read_uid(&entry.path().join(KERNEL_UID))?);
        }
        let next = self.users.after(highest).ok_or(PlaceError::NoKernelUser)?;
        let own = self.own().map_err(failed)?;
        for directory in [&own, &place.directory] {
            replace_for_good(directory, KERNEL_UID, next.to_string().as_bytes()).map_err(failed)?;
        }
        Ok(Some(next))
    }

    /// The worker's own directory. No session is called like this.
    fn own(&self) -> io::Result<PathBuf> {
        let own = self.root.join(".worker");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&own)?;
        Ok(own)
    }
}

/// Puts a whole file in the place of another, readable by us alone.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (written, _) = written(path, content)?;
    fs::rename(written, path)
}

fn written(path: &Path, content: &[u8]) -> io::Result<(PathBuf, fs::File)> {
    let written = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&written)?;
    file.write_all(content)?;
    Ok((written, file))
}

/// The same, on disk when this returns.
fn replace_for_good(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let path = directory.join(name);
    let (written, file) = written(&path, content)?;
    file.sync_all()?;
    fs::rename(written, path)?;
    fs::File::open(directory)?.sync_all()
}

fn read_uid(path: &Path) -> Result<Option<u32>, PlaceError> {
    let broken = || PlaceError::KernelUid { path: path.to_owned() };
    match fs::read_to_string(path) {
        Ok(text) => match text.trim().parse() {
            Ok(uid) if uid >= LOWEST_KERNEL_UID => Ok(Some(uid)),
            _ => Err(broken()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(_) => Err(broken()),
    }
}

/// The name of the file with a session's kernel user, and of the worker's with the last that it gave.
const KERNEL_UID: &str = "kernel_uid";

fn names_a_directory(session: &str) -> bool {
    (1..=128).contains(&session.len())
        && session.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_worker_is_called_the_same_after_a_restart_and_no_session_sees_its_name() {
        let data = tempfile::tempdir().unwrap();
        let places = Places::new(data.path());
        let name = places.name().unwrap();
        assert_eq!(Places::new(data.path()).name().unwrap(), name);
        assert_ne!(Places::new(tempfile::tempdir().unwrap().path()).name().unwrap(), name);
        assert!(places.of(".worker").is_err());
        assert!(places.kernel_uid(&places.of("sesn_1").unwrap()).is_ok(), "the next session finds its user");
        fs::write(data.path().join("perimeter/work/.worker/name"), "\n../x").unwrap();
        assert_eq!(places.name().unwrap().len(), 12, "what is no name is replaced by one");
    }

    fn places(kernel_uids: KernelUids) -> (tempfile::TempDir, Places) {
        let directory = tempfile::tempdir().expect("a directory");
        let places = Places { kernel_uids, ..Places::new(directory.path()) };
        (directory, places)
    }

    #[test]
    fn a_session_id_that_is_a_path_is_refused() {
        let (_directory, places) = places(KernelUids::Ours);
        for hostile in ["", ".", "..", "../x", "a/b", "a\0b", "sesn .", &"x".repeat(129)] {
            assert!(matches!(places.of(hostile), Err(PlaceError::Name)), "{hostile:?}");
        }
        assert!(places.of("sesn_011CZkZAtmR3yMPDzynEDxu7").is_ok());
    }

    #[test]
    fn kernel_users_are_remembered_and_never_shared() {
        let (directory, places) = places(KernelUids::PerSession);
        let uid =
            |places: &Places, session: &str| places.kernel_uid(&places.of(session).expect("made")).expect("allocated");
        assert_eq!(uid(&places, "a"), Some(2_100_000_000));
        assert_eq!(uid(&places, "b"), Some(2_100_000_001));
        assert_eq!(uid(&places, "a"), Some(2_100_000_000));
        let after_restart = Places { kernel_uids: KernelUids::PerSession, ..Places::new(directory.path()) };
        assert_eq!(uid(&after_restart, "b"), Some(2_100_000_001));
        assert_eq!(uid(&after_restart, "c"), Some(2_100_000_002));
    }

    #[test]
    fn the_kernel_user_of_a_session_that_is_gone_is_given_to_no_other() {
        let (directory, places) = places(KernelUids::PerSession);
        let uid = |places: &Places, session: &str| places.kernel_uid(&places.of(session).expect("made"));
        assert_eq!(uid(&places, "a").expect("allocated"), Some(2_100_000_000));
        fs::remove_dir_all(directory.path().join("perimeter/work/a")).expect("removed");
        let after_restart = Places { kernel_uids: KernelUids::PerSession, ..Places::new(directory.path()) };
        assert_eq!(uid(&after_restart, "a").expect("allocated"), Some(2_100_000_001));
        // Of an earlier version, which began elsewhere.
        let older = places.of("older").expect("made");
        fs::write(&older.kernel_uid, "100007").expect("written");
        assert_eq!(uid(&after_restart, "older").expect("kept"), Some(100_007));
        assert_eq!(uid(&after_restart, "b").expect("allocated"), Some(2_100_000_002));
        let none: KernelUsers = serde_json::from_str("[]").expect("a list");
        let error = uid(&after_restart.giving(none), "c").expect_err("nothing is left");
        assert!(matches!(error, PlaceError::NoKernelUser), "{error}");
    }

    #[test]
    fn what_came_with_an_item_waits_for_its_turn_and_what_is_said_later_takes_its_place() {
        let (_directory, places) = places(KernelUids::Ours);
        let place = places.of("sesn_1").expect("made");
        let sealed = |host: &str| -> Vec<SealedVariable> {
            let binding = serde_json::json!({"credential": "vcrd_1", "hosts": [host], "kind": "environment_variable", "vault": "v", "workspace": "w"});
            let sealed = serde_json::json!({"version": 1, "nonce": "", "ciphertext": "", "wraps": []});
            let credential = serde_json::json!({"binding": binding, "sealed": sealed});
            let places = serde_json::json!({"body": false, "header": true});
            let one = serde_json::json!({"credential": credential, "hosts": [host], "places": places});
            vec![serde_json::from_value(one).expect("a sealed value")]
        };
        place.keep_variables(&sealed("first")).expect("written");
        place.keep_coming("second", sealed("second")).expect("written");
        place.take_coming("first").expect("it is another's");
        place.forget_coming("first");
        assert_eq!(place.variables().expect("read"), sealed("first"));
        place.renew_variables(&sealed("later")).expect("written");
        place.take_coming("second").expect("written");
        assert_eq!(place.variables().expect("read"), sealed("later"));
        place.renew_variables(&sealed("last")).expect("written");
        place.take_coming("second").expect("it was taken, and stays");
        assert_eq!(place.variables().expect("read"), sealed("last"));
    }

    #[test]
    fn a_lease_is_remembered_until_it_is_forgotten() {
        let (directory, places) = places(KernelUids::Ours);
        let place = places.of("sesn_1").expect("made");
        assert_eq!(places.leases(), []);
        let held = HeldLease {
            work: "w".into(),
            handout: "h".into(),
            session: "sesn_1".into(),
            last_heartbeat: "t".into(),
            ours: true,
        };
        place.remember(&held).expect("written");
        assert_eq!(Places::new(directory.path()).leases(), std::slice::from_ref(&held));
        let mode = fs::metadata(&place.lease).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(place.variables().expect("none is no error"), []);
        place.keep_variables(&[]).expect("written");
        place.forget_lease("w");
        assert_eq!(places.leases(), [held], "it is not that item's");
        for _ in 0..2 {
            place.forget_lease("h");
            place.forget_variables();
        }
        assert_eq!(places.leases(), []);
        assert!(!place.variables.exists(), "what came with the item goes with it");
    }

    #[test]
    fn a_broken_kernel_user_is_an_error_and_not_a_new_one() {
        let (_directory, places) = places(KernelUids::PerSession);
        for content in ["", "0", "99999", "root"] {
            let place = places.of("a").expect("made");
            fs::write(&place.kernel_uid, content).expect("written");
            assert!(matches!(places.kernel_uid(&place), Err(PlaceError::KernelUid { .. })), "{content:?}");
        }
    }

    #[test]
    fn an_ordinary_user_has_none_to_give() {
        let (_directory, places) = places(KernelUids::Ours);
        assert_eq!(places.kernel_uid(&places.of("a").expect("made")).expect("none"), None);
    }
}
