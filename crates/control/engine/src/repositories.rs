//! Repositories that a session is given: their URL and place checked, their token sealed in the transaction that stores it. A token is in the clear here
//! between the body that brings it and the seal, and nowhere else.

use postern_model::ids::{ResourceId, WorkspaceId};
use postern_model::resource::{
    AuthorizationToken, Checkout, ClonePath, MAX_REPOSITORIES, RepositoryResource, Resource,
};
use postern_model::{Problem, Timestamp};
use postern_policy::RepositoryUrl;
use postern_secret::seal::{Binding, Recipient, SealError, Sealed, seal};
use postern_secret::{SecretBytes, Weak, admit};
use postern_store::{Tx, perimeters, repositories};

use crate::actor::{Actor, Failure};
use crate::create::now;
use crate::deployments::Run;
use crate::problem;
use crate::resources::{Owner, nothing_said, unknown};

/// A repository as a caller asks for it.
pub(crate) struct Asked {
    pub(crate) url: String,
    pub(crate) token: Option<AuthorizationToken>,
    pub(crate) checkout: Option<Checkout>,
    pub(crate) mount_path: Option<String>,
}

/// One repository more.
pub(crate) async fn add(
    tx: &mut Tx,
    owner: Owner<'_>,
    present: &[Resource],
    asked: Asked,
    now: Timestamp,
) -> Result<RepositoryResource, Problem> {
    let Asked { url, token, checkout, mount_path } = asked;
    let url: RepositoryUrl = url.parse().map_err(|why| Problem::invalid_at("url", why))?;
    let checkout = checkout.map(Checkout::checked).transpose()?;
    let mount_path = match mount_path {
        Some(path) => ClonePath::parse(&path)?,
        None => ClonePath::of_repository(url.name())?,
    };
    check_place(present, &mount_path)?;
    let id = ResourceId::generate();
    match token {
        Some(token) => keep(tx, owner, &id, &url, admitted(token)?, now).await?,
        None => lend(tx, owner, &id, &url, now).await?,
    }
    Ok(RepositoryResource { id, url: url.to_string(), mount_path, checkout, created_at: now, updated_at: now })
}

fn check_place(present: &[Resource], mount_path: &ClonePath) -> Result<(), Problem> {
    let others: Vec<&RepositoryResource> = present
        .iter()
        .filter_map(|resource| match resource {
            Resource::GithubRepository(repository) => Some(repository),
            Resource::File(_) | Resource::MemoryStore(_) => None,
        })
        .collect();
    if others.len() >= MAX_REPOSITORIES {
        return Err(Problem::invalid_at("resources", format!("at most {MAX_REPOSITORIES} repositories are allowed")));
    }
    match others.iter().find(|other| other.mount_path.collides(mount_path)) {
        Some(other) => {
            let message = format!("{} lies where {} does", mount_path.as_str(), other.mount_path.as_str());
            Err(Problem::invalid_at("mount_path", message))
        }
        None => Ok(()),
    }
}

/// The token, when it fits a header as one word and is strong enough to be scrubbed from answers.
pub(crate) fn admitted(token: AuthorizationToken) -> Result<SecretBytes, Problem> {
    let refused = |why: &str| Problem::invalid_at("authorization_token", why).with_code("secret_weak");
    let bytes = token.into_bytes();
    if bytes.len() > LONGEST_TOKEN || !bytes.iter().all(u8::is_ascii_graphic) {
        let message = format!("must be printable ASCII without blanks, of at most {LONGEST_TOKEN} characters");
        // Taken over as a secret, so that it is zeroed.
        drop(SecretBytes::new(bytes));
        return Err(Problem::invalid_at("authorization_token", message));
    }
    admit(bytes, false).map_err(|weak| match weak {
        Weak::Unscrubbable | Weak::TooShort => {
            refused("must have at least 16 bytes, or answers cannot be scrubbed of it")
        }
        Weak::TooUniform => refused("must have at least 8 different bytes, or answers cannot be scrubbed of it"),
        Weak::TooLong => refused("is longer than any secret that a request could carry"),
        Weak::Guessable => refused("is a well-known sample or guess"),
    })
}

/// Seals a token for the workspace's perimeters and stores it in place of a former one.
async fn keep(
    tx: &mut Tx,
    owner: Owner<'_>,
    id: &ResourceId,
    url: &RepositoryUrl,
    token: SecretBytes,
    now: Timestamp,
) -> Result<(), Problem> {
    let Owner { workspace, session, run: _ } = owner;
    let (host, url) = (url.host().to_string(), url.to_string());
    let binding = Binding::of_repository(workspace.as_str(), session.as_str(), id.as_str(), &host, &url);
    let sealed = sealed(tx, workspace, &binding, &token).await?;
    repositories::put(tx, &repositories::Token { binding: &binding, sealed: &sealed, now }).await.map_err(problem)
}

/// A token, sealed for the workspace's perimeters.
pub(crate) async fn sealed(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    binding: &Binding,
    token: &SecretBytes,
) -> Result<Sealed, Problem> {
    let recipients = recipients(tx, workspace).await?;
    seal(token, binding, &recipients).map_err(not_sealed)
}

/// Lets the session of a deployment's run use the token that the deployment has for a repository, where it has one.
async fn lend(
    tx: &mut Tx,
    owner: Owner<'_>,
    id: &ResourceId,
    url: &RepositoryUrl,
    now: Timestamp,
) -> Result<(), Problem> {
    let Some(Run { deployment, id: run }) = owner.run else { return Ok(()) };
    let lent = repositories::Lent { deployment, run, session: owner.session, resource: id, url: &url.to_string(), now };
    repositories::lend(tx, &lent).await.map_err(problem)
}

async fn recipients(tx: &mut Tx, workspace: &WorkspaceId) -> Result<Vec<Recipient>, Problem> {
    let perimeters = perimeters::active(tx, workspace).await.map_err(problem)?;
    let recipient = |perimeter: &postern_model::perimeter::Perimeter| {
        let perimeter_id = perimeter.id.to_string();
        match perimeter.public_key.parse() {
            Ok(public_key) => Ok(Recipient { perimeter_id, public_key }),
            Err(_) => Err(not_sealed(SealError::Recipient { perimeter_id })),
        }
    };
    perimeters.iter().map(recipient).collect()
}

fn not_sealed(error: SealError) -> Problem {
    let code = match error {
        SealError::NoRecipient => "perimeter_none",
        SealError::Recipient { .. } => "perimeter_key_unusable",
        SealError::TooManyRecipients | SealError::TooLong => "secret_not_sealed",
    };
    Problem::invalid_at("authorization_token", format!("was not stored: {error}")).with_code(code)
}

impl Actor {
    /// Puts another token in place of a repository's. Whoever serves the session uses it from the next request on.
    pub(crate) async fn rotate_token(
        &mut self,
        id: &ResourceId,
        token: AuthorizationToken,
    ) -> Result<Resource, Failure> {
        self.takes_resources()?;
        let token = admitted(token)?;
        let position = self.record.resources.iter().position(|resource| resource.id() == Some(id));
        let position = position.ok_or_else(|| unknown(id))?;
        let Resource::GithubRepository(repository) = &self.record.resources[position] else {
            let message = "this resource has none: only a repository's token can be replaced";
            return Err(Problem::invalid_at("authorization_token", message).into());
        };
        let url = repository.url.parse().map_err(|why| Problem::invalid_at("url", why))?;
        let (now, mut tx) = (now(), self.write().await?);
        let owner = Owner { workspace: &self.record.workspace_id, session: &self.record.id, run: None };
        keep(&mut tx, owner, id, &url, token, now).await?;
        let changed = Resource::GithubRepository(RepositoryResource { updated_at: now, ..repository.clone() });
        self.record.resources[position] = changed.clone();
        // Told as an update: what could not be cloned without it is tried again.
        self.perform_with_record_in(tx, nothing_said()).await?;
        Ok(changed)
    }
}

/// The longest token, in bytes: with a user name and in base64 it fits a header of any host.
const LONGEST_TOKEN: usize = 2048;
