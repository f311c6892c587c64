//! What a session is given: looked up and copied in the transaction that stores it.

use postern_model::file::FileMetadata;
use postern_model::ids::{MemoryStoreId, ResourceId, SessionId, WorkspaceId};
use postern_model::memory::Access;
use postern_model::problem::Kind;
use postern_model::resource::{
    FileResource, MAX_INSTRUCTIONS, MAX_MEMORY_STORES, MAX_RESOURCES, MemoryStoreResource, MountPath, Resource,
    ResourceParam, UPLOADS, memory_mount,
};
use postern_model::{Field, Problem, Timestamp};
use postern_session::Input;
use postern_store::answers::Once;
use postern_store::{Tx, files, memory_stores};

use crate::actor::{Actor, Failure};
use crate::create::{self, now};
use crate::deployments::Run;
use crate::problem;
use crate::repositories;

/// Whose resources are looked up.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) workspace: &'a WorkspaceId,
    pub(crate) session: &'a SessionId,
    /// Of which run of a deployment the session is begun.
    pub(crate) run: Option<&'a Run>,
}

/// The resources of a new session, each its own copy.
///
/// # Errors
/// 400 naming the place, 404 `file_not_found`.
pub(crate) async fn resolve(
    tx: &mut Tx,
    owner: Owner<'_>,
    sent: Vec<ResourceParam>,
    now: Timestamp,
) -> Result<Vec<Resource>, Problem> {
    let mut resources = Vec::with_capacity(sent.len().min(MAX_RESOURCES));
    for (index, param) in sent.into_iter().enumerate() {
        let at = |problem: Problem| Problem { message: format!("resources[{index}]: {}", problem.message), ..problem };
        let resource = add(tx, owner, &resources, param, now).await.map_err(at)?;
        resources.push(resource);
    }
    Ok(resources)
}

/// One resource more.
async fn add(
    tx: &mut Tx,
    owner: Owner<'_>,
    present: &[Resource],
    param: ResourceParam,
    now: Timestamp,
) -> Result<Resource, Problem> {
    if present.len() >= MAX_RESOURCES {
        return Err(Problem::invalid_at("resources", format!("at most {MAX_RESOURCES} are allowed")));
    }
    match param {
        ResourceParam::File { file_id, mount_path } => {
            file(tx, owner, present, &file_id, mount_path.as_deref(), now).await.map(Resource::File)
        }
        ResourceParam::GithubRepository { url, authorization_token: token, checkout, mount_path } => {
            let asked = repositories::Asked { url, token, checkout, mount_path };
            repositories::add(tx, owner, present, asked, now).await.map(Resource::GithubRepository)
        }
        ResourceParam::MemoryStore { memory_store_id, access, instructions } => {
            let access = access.unwrap_or(Access::ReadWrite);
            memory_store(tx, owner, present, &memory_store_id, (access, instructions)).await.map(Resource::MemoryStore)
        }
    }
}

async fn file(
    tx: &mut Tx,
    owner: Owner<'_>,
    present: &[Resource],
    file: &str,
    mount_path: Option<&str>,
    now: Timestamp,
) -> Result<FileResource, Problem> {
    let sent = mount_path.map(MountPath::parse).transpose()?;
    let FileMetadata { id: copy, .. } =
        files::copy(tx, owner.workspace, file, owner.session, now).await.map_err(problem)?;
    // Named after the upload: that is the id a caller can write into a prompt before the session is there.
    let mount_path = match sent {
        Some(path) => path,
        None => MountPath::parse(&format!("{UPLOADS}{file}"))?,
    };
    let collides = |other: &&FileResource| other.mount_path.collides(&mount_path);
    let others = present.iter().filter_map(|resource| match resource {
        Resource::File(file) => Some(file),
        Resource::MemoryStore(_) | Resource::GithubRepository(_) => None,
    });
    if let Some(other) = others.into_iter().find(collides) {
        let message = format!("{} lies where {} does", mount_path.as_str(), other.mount_path.as_str());
        return Err(Problem::invalid_at("mount_path", message));
    }
    Ok(FileResource { id: ResourceId::generate(), file_id: copy, mount_path, created_at: now, updated_at: now })
}

async fn memory_store(
    tx: &mut Tx,
    owner: Owner<'_>,
    present: &[Resource],
    id: &str,
    (access, instructions): (Access, Option<String>),
) -> Result<MemoryStoreResource, Problem> {
    let unknown =
        || Problem::not_found(format!("Memory store {id} was not found.")).with_code("memory_store_not_found");
    let id = MemoryStoreId::parse(id).map_err(|_| unknown())?;
    if instructions.as_ref().is_some_and(|text| text.chars().count() > MAX_INSTRUCTIONS) {
        return Err(Problem::invalid_at("instructions", format!("at most {MAX_INSTRUCTIONS} characters are allowed")));
    }
    let store = memory_stores::active(tx, owner.workspace, &id).await.map_err(problem)?;
    let others: Vec<&MemoryStoreResource> = present
        .iter()
        .filter_map(|resource| match resource {
            Resource::MemoryStore(store) => Some(store),
            Resource::File(_) | Resource::GithubRepository(_) => None,
        })
        .collect();
    if others.len() >= MAX_MEMORY_STORES {
        return Err(Problem::invalid_at("resources", format!("at most {MAX_MEMORY_STORES} memory stores are allowed")));
    }
    if others.iter().any(|other| other.memory_store_id == id) {
        return Err(Problem::invalid_at("memory_store_id", "the store is attached already"));
    }
    let mount_path = memory_mount(&store.name);
    if let Some(other) = others.iter().find(|other| other.mount_path == mount_path) {
        let message =
            format!("{mount_path} is the place of {} already: rename one of the stores", other.memory_store_id);
        return Err(Problem::invalid_at("memory_store_id", message));
    }
    memory_stores::attach(tx, &id, owner.session, access).await.map_err(problem)?;
    let description = Some(store.description).filter(|text| !text.is_empty());
    Ok(MemoryStoreResource { memory_store_id: id, access, description, instructions, mount_path, name: store.name })
}

impl Actor {
    /// Gives the session one more file. A worker that serves it learns it before its next tool call.
    pub(crate) async fn add_resource(
        &mut self,
        param: ResourceParam,
        once: Option<&Once>,
    ) -> Result<Resource, Failure> {
        self.takes_resources()?;
        if !matches!(param, ResourceParam::File { .. }) {
            let message =
                "only a file can be added; memory stores and repositories are given to a session when it is created";
            return Err(Problem::invalid_at("type", message).into());
        }
        let now = now();
        let mut tx = self.write().await?;
        let owner = Owner { workspace: &self.record.workspace_id, session: &self.record.id, run: None };
        let resource = add(&mut tx, owner, &self.record.resources, param, now).await?;
        create::remember(&mut tx, once, &resource).await?;
        self.record.resources.push(resource.clone());
        // Told as an update: whoever serves the session reads it again.
        self.perform_with_record_in(tx, nothing_said()).await?;
        Ok(resource)
    }

    /// Takes a resource away from the session, and its copy or its token with it. What was cloned stays where the agent has it.
    pub(crate) async fn remove_resource(&mut self, id: &ResourceId) -> Result<(), Failure> {
        self.takes_resources()?;
        let found = self.record.resources.iter().position(|resource| resource.id() == Some(id));
        let position = found.ok_or_else(|| unknown(id))?;
        let mut tx = self.write().await?;
        match &self.record.resources[position] {
            Resource::File(file) => {
                match files::delete(&mut tx, &self.record.workspace_id, &file.file_id).await.map_err(problem) {
                    // Deleted by itself before.
                    Err(problem) if problem.kind == Kind::NotFound => {}
                    other => other?,
                }
            }
            Resource::GithubRepository(_) => {
                postern_store::repositories::remove(&mut tx, id.as_str(), now()).await.map_err(problem)?;
            }
            Resource::MemoryStore(_) => return Err(unknown(id).into()),
        }
        self.record.resources.remove(position);
        self.perform_with_record_in(tx, nothing_said()).await?;
        self.shared.litter.notify_one();
        Ok(())
    }

    pub(crate) fn takes_resources(&self) -> Result<(), Problem> {
        match self.record.archived_at {
            Some(_) => Err(Problem::invalid("The session is archived and cannot be changed.")),
            None => Ok(()),
        }
    }
}

/// A resource that the session has not.
pub(crate) fn unknown(id: &ResourceId) -> Problem {
    Problem::not_found(format!("Session resource {id} was not found."))
}

/// The record changed in a way that `session.updated` has no word for.
pub(crate) fn nothing_said() -> Input {
    Input::Updated { agent: None, budget: Field::Absent, metadata: None, title: None }
}
