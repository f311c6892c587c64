//! Memory stores of a session, kept in step with directories of its sandbox: fetched before its first tool use, what it changed is sent after each.
//!
//! The server decides between two writers: a change is sent with what it was made to, and where that is not there any more the server's text is
//! put in its place and the agent is told. A store that is to be read only is shown read-only and nothing of it is ever sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use postern_model::memory::{Access, MAX_CONTENT, MemoryPath};
use postern_model::resource::MemoryStoreResource;
use serde::{Deserialize, Serialize};

use super::walk::{self, Bounds, Found, Version};
use super::{Parcels, hex, leaving, make_readable, no_room, not_fetched, not_on_record, patiently, read, write};
use crate::hands::{Hands, Passage, Refused, Way};
use crate::remote::{Memory, RemoteError};
use crate::session::{Subject, chain};

/// What is looked at of a store's directory: more than a store may hold.
const BOUNDS: Bounds = Bounds { bytes: MAX_CONTENT as u64, entries: 5000 };

/// A store as it is here, by its id in the session's notes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Store {
    /// Its directory, by name.
    pub(crate) directory: String,
    pub(crate) access: Access,
    /// By path below its directory.
    memories: BTreeMap<String, Known>,
    /// What the server does not take, as it was: it is not sent again until it changes, or with the next item. A store that is full may have room then.
    left: BTreeMap<String, Version>,
}

/// The stores of a session.
pub(crate) type Stores = BTreeMap<String, Store>;

/// The stores that were brought.
///
/// # Errors
/// The notes do not read.
pub(crate) fn stores(notes: &Path) -> io::Result<Stores> {
    read(notes)
}

/// A memory as the server and the directory both had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    id: String,
    sha256: String,
    version: Version,
}

impl Parcels {
    /// Fetches the stores that the session was given, and sends what an earlier turn left unsent. Each line says of one memory what became of it otherwise.
    pub(super) async fn bring_memories<H: Hands>(
        &self,
        subject: Subject<'_>,
        wanted: Vec<MemoryStoreResource>,
        hands: &mut H,
    ) -> Result<Vec<String>, Refused> {
        let mut lines = Vec::new();
        let mut stores: Stores = read(&self.place.stores).map_err(|error| no_room(&error))?;
        for resource in wanted {
            let id = resource.memory_store_id.to_string();
            let is_new = !stores.contains_key(&id);
            if !self.reaches_memories {
                if is_new {
                    return Err(not_fetched(&id, &RemoteError::Credential));
                }
                continue;
            }
            let store = stores.entry(id.clone()).or_insert_with(|| Store {
                directory: resource.mount_path.rsplit('/').next().unwrap_or_default().to_owned(),
                access: resource.access,
                memories: BTreeMap::new(),
                left: BTreeMap::new(),
            });
            self.make_directory(store).map_err(|error| no_room(&error))?;
            if !is_new {
                // What an earlier turn left unsent, or the server did not take then.
                store.left.clear();
                lines.extend(self.push(subject, hands, &id, store).await);
            }
            let pulled = self.pull(subject, hands, &id, store).await;
            write(&self.place.stores, &stores).map_err(|error| no_room(&error))?;
            lines.extend(pulled?);
        }
        Ok(lines)
    }

    /// Sends what the session changed. Each line says of one memory what became of it otherwise.
    pub(super) async fn take_memories<H: Hands>(&self, subject: Subject<'_>, hands: &mut H) -> Vec<String> {
        let stores = read::<Stores>(&self.place.stores);
        let Ok(mut stores) = stores.inspect_err(|error| tracing::error!(%error, "a session's memories are not known"))
        else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        if !self.reaches_memories {
            return lines;
        }
        for (id, store) in &mut stores {
            lines.extend(self.push(subject, hands, id, store).await);
        }
        if !stores.is_empty()
            && let Err(error) = write(&self.place.stores, &stores)
        {
            tracing::error!(session = subject.session, %error, "what was sent of memories is not noted");
        }
        lines
    }

    fn make_directory(&self, store: &Store) -> io::Result<()> {
        make_readable(&self.place.memory)?;
        let directory = self.place.memory.join(&store.directory);
        match store.access {
            Access::ReadOnly => make_readable(&directory),
            Access::ReadWrite => postern_sandbox::workspace::prepare_outputs(&directory, self.kernel_uid),
        }
    }

    fn owner(&self, store: &Store) -> Option<u32> {
        self.kernel_uid.filter(|_| store.access == Access::ReadWrite)
    }

    /// Takes away what the server has no more, and puts what it has where it is not yet. Each line says of one memory why it is not there.
    async fn pull<H: Hands>(
        &self,
        subject: Subject<'_>,
        hands: &mut H,
        id: &str,
        store: &mut Store,
    ) -> Result<Vec<String>, Refused> {
        let there = patiently(subject, || subject.remote.memories(subject.key, id)).await;
        let there = there.map_err(|error| not_fetched(id, &error))?;
        let bytes = there.iter().filter_map(|memory| memory.content.as_ref()).map(|text| text.len() as u64).sum();
        let passage = Passage { way: Way::In, path: format!("/mnt/memory/{}", store.directory), digest: None, bytes };
        hands.passes(passage).await.map_err(|why| not_on_record(id, &why))?;
        let (there, nowhere): (Vec<_>, Vec<_>) = there.into_iter().partition(|memory| relative(&memory.path).is_some());
        if let Some(memory) = nowhere.first() {
            let (session, count) = (subject.session, nowhere.len());
            tracing::warn!(session, first = memory.id, count, "memories whose path is none are left out");
        }
        let there: BTreeMap<&str, &Memory> =
            there.iter().filter_map(|memory| Some((relative(&memory.path)?, memory))).collect();
        let gone: Vec<String> = store.memories.keys().filter(|path| !there.contains_key(&***path)).cloned().collect();
        for path in gone {
            match walk::remove(&self.place.memory.join(&store.directory), &path) {
                // What the session put in its place is the session's.
                Err(error) if !walk::is_of_the_path(&error) => return Err(no_room(&error)),
                _ => store.memories.remove(&path),
            };
        }
        let mut lines = Vec::new();
        for (path, memory) in there {
            if store.memories.get(path).is_some_and(|known| known.sha256 == memory.content_sha256) {
                continue;
            }
            match self.place(store, memory, path) {
                Ok(()) => {}
                Err(error) if walk::is_of_the_path(&error) => {
                    if lines.is_empty() {
                        let (session, first) = (subject.session, &memory.id);
                        tracing::warn!(session, first, %error, "memories without a place are left out");
                    }
                    lines.push(line(store, path, &format!("its path has no place among the others here ({error})")));
                }
                Err(error) => return Err(no_room(&error)),
            }
        }
        Ok(lines)
    }

    fn place(&self, store: &mut Store, memory: &Memory, path: &str) -> io::Result<()> {
        let content = memory.content.as_deref().unwrap_or_default();
        let directory = self.place.memory.join(&store.directory);
        let version = walk::put(&directory, path, content.as_bytes(), self.owner(store))?;
        store
            .memories
            .insert(path.to_owned(), Known { id: memory.id.clone(), sha256: memory.content_sha256.clone(), version });
        Ok(())
    }

    async fn push<H: Hands>(&self, subject: Subject<'_>, hands: &mut H, id: &str, store: &mut Store) -> Vec<String> {
        if store.access == Access::ReadOnly {
            return Vec::new();
        }
        let Found { files, refused, .. } = match walk::look(&self.place.memory.join(&store.directory), BOUNDS) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(session = subject.session, %error, "a store's directory cannot be looked through");
                return vec![line(store, "", "its directory cannot be read")];
            }
        };
        let mut lines: Vec<String> = refused.iter().map(|(path, why)| line(store, path, why)).collect();
        let here: BTreeSet<String> = files.iter().map(|(path, _)| path.clone()).collect();
        for (path, version) in files {
            let is_known = store.memories.get(&path).is_some_and(|known| known.version == version);
            if is_known || store.left.get(&path) == Some(&version) {
                continue;
            }
            let Err(NotSent { why, is_final }) = self.send_memory(subject, hands, id, store, &path, version).await
            else {
                continue;
            };
            if is_final {
                store.left.insert(path.clone(), version);
            }
            lines.push(line(store, &path, &why));
        }
        lines.extend(self.forget(subject, hands, id, store, &here, !refused.is_empty()).await);
        lines
    }

    async fn send_memory<H: Hands>(
        &self,
        subject: Subject<'_>,
        hands: &mut H,
        id: &str,
        store: &mut Store,
        path: &str,
        version: Version,
    ) -> Result<(), NotSent> {
        let known = store.memories.get(path).cloned();
        let bytes = walk::contents(&self.place.memory.join(&store.directory), path, BOUNDS.bytes);
        let bytes = bytes.map_err(|error| NotSent::of_file(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| NotSent::for_good("it is not UTF-8 text"))?;
        let sha256 = hex(digest(&SHA256, text.as_bytes()).as_ref());
        if let Some(same) = known.clone().filter(|known| known.sha256 == sha256) {
            store.memories.insert(path.to_owned(), Known { version, ..same });
            return Ok(());
        }
        let passage = leaving(format!("/mnt/memory/{}/{path}", store.directory), text.as_bytes());
        hands.passes(passage).await.map_err(NotSent::for_now)?;
        let of = known.as_ref().map(|known| (known.id.as_str(), known.sha256.as_str()));
        let at = format!("/{path}");
        let sent = match patiently(subject, || subject.remote.write_memory(subject.key, id, of, &at, &text)).await {
            Err(error) if error.status() == Some(404) && of.is_some() => {
                patiently(subject, || subject.remote.write_memory(subject.key, id, None, &at, &text)).await
            }
            sent => sent,
        };
        match sent {
            Ok(memory) => {
                store.left.remove(path);
                store.memories.insert(path.to_owned(), Known { id: memory.id, sha256: memory.content_sha256, version });
                Ok(())
            }
            Err(error) if error.status() == Some(409) => {
                let pulled = self.pull(subject, hands, id, store).await;
                pulled.map_err(|refused| NotSent::for_now(refused.message))?;
                Err(NotSent::for_now("somebody else changed it meanwhile: the file has their text now"))
            }
            Err(error) => {
                tracing::warn!(session = subject.session, error = chain(&error), "a memory could not be sent");
                Err(NotSent { why: error.to_string(), is_final: error.is_fatal() && !error.is_of_the_credential() })
            }
        }
    }

    /// Has the server forget what the session removed; never everything at once, and nothing when not everything was looked at.
    async fn forget<H: Hands>(
        &self,
        subject: Subject<'_>,
        hands: &mut H,
        id: &str,
        store: &mut Store,
        here: &BTreeSet<String>,
        incomplete: bool,
    ) -> Option<String> {
        let gone: Vec<(String, Known)> = store
            .memories
            .iter()
            .filter(|(path, _)| !here.contains(*path))
            .map(|(path, known)| (path.clone(), known.clone()))
            .collect();
        if gone.is_empty() || incomplete {
            return None;
        }
        if here.is_empty() && gone.len() > 1 {
            store.memories.clear();
            let _told = self.pull(subject, hands, id, store).await;
            return Some(line(
                store,
                "",
                "all of its memories were removed at once: they are put back; remove them one by one",
            ));
        }
        for (path, known) in gone {
            let shown = format!("/mnt/memory/{}/{path}", store.directory);
            let passage = Passage { way: Way::Out, path: shown, digest: None, bytes: 0 };
            if let Err(why) = hands.passes(passage).await {
                return Some(line(store, &path, &why));
            }
            match subject.remote.forget_memory(subject.key, id, &known.id, &known.sha256).await {
                Err(error) if !matches!(error.status(), Some(404 | 409)) => {
                    tracing::warn!(session = subject.session, error = chain(&error), "a memory could not be removed");
                    return Some(line(store, &path, &error.to_string()));
                }
                // Changed or gone meanwhile: the server's word counts, and the next fetch brings it.
                _ => drop(store.memories.remove(&path)),
            }
        }
        None
    }
}

/// Why a memory was not sent.
struct NotSent {
    why: String,
    /// Nothing but another text changes that. Otherwise it is sent again.
    is_final: bool,
}

impl NotSent {
    fn for_good(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_final: true }
    }

    fn for_now(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_final: false }
    }

    /// Trouble of the system passes; what we refuse ourselves does not.
    fn of_file(error: &io::Error) -> Self {
        Self { why: error.to_string(), is_final: error.raw_os_error().is_none() }
    }
}

/// A memory's path below its store's directory.
fn relative(path: &str) -> Option<&str> {
    MemoryPath::parse(path).ok()?;
    path.strip_prefix('/')
}

fn line(store: &Store, path: &str, why: &str) -> String {
    let path: String = path.chars().take(200).collect();
    format!("[postern] memory not kept path=/mnt/memory/{}/{path} because {why}", store.directory)
}

#[cfg(test)]
mod tests;
