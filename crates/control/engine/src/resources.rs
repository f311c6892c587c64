//! What a session is given: looked up and copied in the transaction that stores it.

use postern_model::file::FileMetadata;
use postern_model::ids::{ResourceId, SessionId, WorkspaceId};
use postern_model::problem::Kind;
use postern_model::resource::{FileResource, MAX_RESOURCES, MountPath, Resource, ResourceParam};
use postern_model::{Problem, Timestamp};
use postern_session::Input;
use postern_store::{Tx, files};

use crate::actor::{Actor, Failure};
use crate::create::now;
use crate::problem;

/// Whose resources are looked up.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) workspace: &'a WorkspaceId,
    pub(crate) session: &'a SessionId,
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
    let ResourceParam::File { file_id, mount_path } = param;
    let sent = mount_path.as_deref().map(MountPath::parse).transpose()?;
    let FileMetadata { id: copy, .. } =
        files::copy(tx, owner.workspace, &file_id, owner.session, now).await.map_err(problem)?;
    // Named after the upload: that is the id a caller can write into a prompt before the session is there.
    let mount_path = match sent {
        Some(path) => path,
        None => MountPath::parse(&format!("{}{file_id}", postern_model::resource::UPLOADS))?,
    };
    if let Some(other) = present.iter().find(|other| other.mount_path().collides(&mount_path)) {
        let message = format!("{} lies where {} does", mount_path.as_str(), other.mount_path().as_str());
        return Err(Problem::invalid_at("mount_path", message));
    }
    Ok(Resource::File(FileResource {
        id: ResourceId::generate(),
        file_id: copy,
        mount_path,
        created_at: now,
        updated_at: now,
    }))
}

impl Actor {
    /// Gives the session one more file. A worker that serves it learns it before its next tool call.
    pub(crate) async fn add_resource(&mut self, param: ResourceParam) -> Result<Resource, Failure> {
        self.takes_resources()?;
        let now = now();
        let mut tx = self.write().await?;
        let owner = Owner { workspace: &self.record.workspace_id, session: &self.record.id };
        let resource = add(&mut tx, owner, &self.record.resources, param, now).await?;
        self.record.resources.push(resource.clone());
        // Told as an update: whoever serves the session reads it again.
        self.perform_with_record_in(tx, Input::Updated { agent: None, metadata: None, title: None }).await?;
        Ok(resource)
    }

    /// Takes a resource away from the session, and its copy with it.
    pub(crate) async fn remove_resource(&mut self, id: &ResourceId) -> Result<(), Failure> {
        self.takes_resources()?;
        let position = self.record.resources.iter().position(|resource| resource.id() == id);
        let position = position.ok_or_else(|| unknown(id))?;
        let Resource::File(file) = &self.record.resources[position];
        let mut tx = self.write().await?;
        match files::delete(&mut tx, &self.record.workspace_id, &file.file_id).await.map_err(problem) {
            // Deleted by itself before.
            Err(problem) if problem.kind == Kind::NotFound => {}
            other => other?,
        }
        self.record.resources.remove(position);
        self.perform_with_record_in(tx, Input::Updated { agent: None, metadata: None, title: None }).await?;
        self.shared.litter.notify_one();
        Ok(())
    }

    fn takes_resources(&self) -> Result<(), Problem> {
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
