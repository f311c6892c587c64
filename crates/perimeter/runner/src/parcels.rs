//! What goes into a session and comes out of it besides its tool uses: files and repositories it was given, and files it puts out.
//!
//! Given files lie in a directory that is the worker's; the sandbox shows it read-only, so what is brought later appears at once. What is put out
//! lies in a directory of the agent's: read as a stranger's, never through a link.

pub(crate) mod memories;
mod outgoing;
mod repositories;
mod skills;
mod unpack;
mod walk;

pub(crate) use skills::has_skills;
pub(crate) use unpack::promised as promised_of_archives;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use postern_model::resource::{MAX_REPOSITORIES, MAX_RESOURCES, MemoryStoreResource, MountPath, Resource};
use postern_net::Backoff;
use postern_sandbox::GIVEN;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::hands::{Hands, Passage, Refused, Way};
use crate::place::{Place, replace};
use crate::remote::{Fetched, RemoteError};
use crate::session::{Subject, chain, random};

/// The most bytes that all files of a session take on the worker's disk.
const MAX_GIVEN: u64 = 8 << 30;
/// How often a transfer is tried.
const TRANSFERS: u32 = 4;

/// A session's files in and out.
#[derive(Debug, Clone)]
pub(crate) struct Parcels {
    place: Place,
    /// The sandbox's user, where it is another than ours.
    kernel_uid: Option<u32>,
    /// Whether the credential at hand is the session's own: no other reaches memories.
    reaches_memories: bool,
    server: Server,
    /// Repositories that may not be there yet.
    waiting: Arc<Mutex<Vec<repositories::Wanted>>>,
}

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// Ours: it hands out files and takes what a session puts out.
    Ours,
    /// Another: it hands out skills.
    Another,
}

/// What lies in the directory of given files: by path below it, the file that was fetched.
type Manifest = BTreeMap<String, String>;

impl Parcels {
    /// Of the session at this place; the directories are there when this returns.
    pub(crate) fn new(
        place: Place,
        kernel_uid: Option<u32>,
        reaches_memories: bool,
        server: Server,
    ) -> io::Result<Self> {
        make_readable(&place.given)?;
        for (name, _) in GIVEN {
            make_readable(&place.given.join(name))?;
        }
        Ok(Self { place, kernel_uid, reaches_memories, server, waiting: Arc::default() })
    }

    /// Brings what the session is given and takes away what it is not given any more. What is there already is not fetched again. Each line
    /// says what is missing for good.
    pub(crate) async fn bring<H: Hands>(
        &self,
        subject: Subject<'_>,
        session: &Value,
        hands: &mut H,
    ) -> Result<Vec<String>, Refused> {
        match self.server {
            Server::Ours => {
                let mut lines = self.bring_resources(subject, session, hands).await?;
                lines.extend(self.bring_skills(subject, session, hands).await?);
                Ok(lines)
            }
            Server::Another => {
                nothing_given(session)?;
                self.bring_skills(subject, session, hands).await
            }
        }
    }

    async fn bring_resources<H: Hands>(
        &self,
        subject: Subject<'_>,
        session: &Value,
        hands: &mut H,
    ) -> Result<Vec<String>, Refused> {
        let Wanted { files: wanted, stores, repositories } = wanted(session)?;
        *self.waiting() = repositories;
        let lines = self.bring_memories(subject, stores, hands).await?;
        let mut manifest: Manifest = read(&self.place.manifest).map_err(|error| no_room(&error))?;
        let uploads = self.place.given.join(GIVEN[0].0);
        let stale: Vec<String> = manifest
            .iter()
            .filter(|(path, file)| wanted.get(*path) != Some(*file))
            .map(|(path, _)| path.clone())
            .collect();
        for path in stale {
            remove(&uploads, &path).map_err(|error| no_room(&error))?;
            manifest.remove(&path);
            write(&self.place.manifest, &manifest).map_err(|error| no_room(&error))?;
        }
        let mut room = MAX_GIVEN.saturating_sub(size_of(&uploads, manifest.keys()));
        for (path, file) in wanted {
            if manifest.get(&path) == Some(&file) {
                continue;
            }
            let Fetched { bytes, digest } = self.fetch(subject, &file, room).await?;
            let shown = format!("{}/{path}", GIVEN[0].1);
            let passage = Passage { way: Way::In, path: shown, digest: Some(digest), bytes };
            hands.passes(passage).await.map_err(|why| not_on_record(&file, &why))?;
            self.show(&uploads.join(&path)).map_err(|error| no_room(&error))?;
            room = room.saturating_sub(bytes);
            manifest.insert(path, file);
            write(&self.place.manifest, &manifest).map_err(|error| no_room(&error))?;
        }
        Ok(lines)
    }

    /// Sends what the session put out and what it changed of memories. Each line says of one file what became of it otherwise.
    pub(crate) async fn take<H: Hands>(&self, subject: Subject<'_>, hands: &mut H) -> Vec<String> {
        if self.server == Server::Another {
            return Vec::new();
        }
        let mut lines = self.take_outputs(subject, hands).await;
        lines.extend(self.take_memories(subject, hands).await);
        lines
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<repositories::Wanted>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches one file to where nobody looks.
    async fn fetch(&self, subject: Subject<'_>, file: &str, room: u64) -> Result<Fetched, Refused> {
        let fetched = patiently(subject, || subject.remote.file(subject.key, file, &self.place.incoming, room));
        fetched.await.map_err(|error| not_fetched(file, &error))
    }

    /// Shows what was fetched: whole, or not at all.
    fn show(&self, at: &Path) -> io::Result<()> {
        if let Some(parent) = at.parent() {
            make_readable_below(&self.place.given, parent)?;
        }
        fs::set_permissions(&self.place.incoming, fs::Permissions::from_mode(0o644))?;
        // A directory that what lay in it left empty is in nobody's way.
        let _none = fs::remove_dir(at);
        fs::rename(&self.place.incoming, at)
    }
}

/// Asks the server with patience for trouble that passes.
async fn patiently<T, A: Future<Output = Result<T, RemoteError>>>(
    subject: Subject<'_>,
    mut ask: impl FnMut() -> A,
) -> Result<T, RemoteError> {
    let mut attempt = 0;
    loop {
        match ask().await {
            Err(error) if !error.is_fatal() && error.status() != Some(409) && attempt + 1 < TRANSFERS => {
                tracing::warn!(session = subject.session, error = chain(&error), "the server is asked again");
                tokio::time::sleep(Backoff::default().delay(attempt, error.retry_after(), random())).await;
                attempt += 1;
            }
            answered => return answered,
        }
    }
}

/// What is about to leave, with its digest.
fn leaving(path: String, bytes: &[u8]) -> Passage {
    let digest = format!("sha256:{}", hex(digest(&SHA256, bytes).as_ref()));
    Passage { way: Way::Out, path, digest: Some(digest), bytes: bytes.len() as u64 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a session is given, as the server shows it.
#[derive(Debug, Default)]
struct Wanted {
    files: Manifest,
    stores: Vec<MemoryStoreResource>,
    repositories: Vec<repositories::Wanted>,
}

/// Reads what a session is given. A kind of resource that this worker does not know is not passed over.
fn wanted(session: &Value) -> Result<Wanted, Refused> {
    let sent = session.get("resources").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if sent.len() > MAX_RESOURCES {
        return Err(unsupported(&format!("more than {MAX_RESOURCES} resources")));
    }
    let (mut wanted, mut places) = (Wanted::default(), Vec::<MountPath>::new());
    for resource in sent {
        match serde_json::from_value(resource.clone()) {
            Ok(Resource::File(file)) => {
                let at = file.mount_path;
                if let Some(other) = places.iter().find(|other| at.collides(other)) {
                    let (at, other) = (at.as_str(), other.as_str());
                    return Err(unsupported(&format!(
                        "files of which one lies where the other does: {other} and {at}"
                    )));
                }
                wanted.files.insert(at.relative().to_owned(), file.file_id.to_string());
                places.push(at);
            }
            Ok(Resource::MemoryStore(store)) if names_a_store(&store.mount_path) => wanted.stores.push(store),
            Ok(Resource::GithubRepository(repository)) if wanted.repositories.len() < MAX_REPOSITORIES => {
                let read = repositories::Wanted::read(repository);
                wanted
                    .repositories
                    .push(read.ok_or_else(|| unsupported("a repository that this worker cannot bring"))?);
            }
            Ok(Resource::MemoryStore(_) | Resource::GithubRepository(_)) | Err(_) => {
                let kind: String = resource["type"].as_str().unwrap_or("one without a type").chars().take(40).collect();
                return Err(unsupported(&format!("a resource that this worker cannot bring ({kind})")));
            }
        }
    }
    Ok(wanted)
}

/// Whether a store's place is one directory below the one for memories.
fn names_a_store(mount_path: &str) -> bool {
    let name = mount_path.strip_prefix("/mnt/memory/").unwrap_or_default();
    !name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Refuses a session that was given something, on a server whose files this worker cannot fetch.
pub(crate) fn nothing_given(session: &Value) -> Result<(), Refused> {
    match session.get("resources").and_then(Value::as_array) {
        Some(resources) if !resources.is_empty() => Err(unsupported("resources that this worker cannot bring")),
        _ => Ok(()),
    }
}

fn unsupported(what: &str) -> Refused {
    let message = format!("the session was given {what}. Next step: start it without, or update the worker.");
    Refused { code: "resource_unsupported".to_owned(), message }
}

fn not_fetched(file: &str, error: &RemoteError) -> Refused {
    let message = format!(
        "the worker could not fetch {file}: {}. Next step: look whether the file is still there and the worker's disk has room, then send a message.",
        chain(error)
    );
    Refused { code: "resource_unavailable".to_owned(), message }
}

fn not_on_record(file: &str, why: &str) -> Refused {
    Refused { code: "audit_unavailable".to_owned(), message: format!("{file} was not shown to the session: {why}.") }
}

fn no_room(error: &io::Error) -> Refused {
    tracing::error!(%error, "a session's files have no place on this host");
    Refused {
        code: "worker_storage".to_owned(),
        message: "the worker cannot keep the files that the session was given on its disk. Next step: an operator reads the worker's log, which has the cause.".to_owned(),
    }
}

fn size_of<'a>(directory: &Path, paths: impl Iterator<Item = &'a String>) -> u64 {
    paths.filter_map(|path| fs::symlink_metadata(directory.join(path)).ok()).map(|about| about.len()).sum()
}

/// Makes a directory that every user may read, whatever the worker's umask.
fn make_readable(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::set_permissions(directory, fs::Permissions::from_mode(0o755)),
    }
}

fn make_readable_below(root: &Path, directory: &Path) -> io::Result<()> {
    let mut path = PathBuf::from(root);
    for part in directory.strip_prefix(root).map_err(io::Error::other)? {
        path.push(part);
        make_readable(&path)?;
    }
    Ok(())
}

/// Removes a file below a directory of ours, and the directories on its way that it leaves empty.
fn remove(below: &Path, path: &str) -> io::Result<()> {
    let at = below.join(path);
    match fs::remove_file(&at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let on_its_way = at.ancestors().skip(1).take_while(|directory| *directory != below);
    let _emptied = on_its_way.map(fs::remove_dir).take_while(Result::is_ok).count();
    Ok(())
}

/// What was noted; nothing when nothing was.
fn read<T: DeserializeOwned + Default>(path: &Path) -> io::Result<T> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error),
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    replace(path, &serde_json::to_vec(value)?)
}

#[cfg(test)]
pub(crate) mod tests;
