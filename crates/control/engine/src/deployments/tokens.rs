//! Tokens that a deployment is sent for its repositories: taken out of the request before anything else sees it, and sealed in the transaction that stores the
//! deployment. One for each repository, as git in a sandbox is told of one.

use postern_model::ids::{DeploymentId, DeploymentResourceId, WorkspaceId};
use postern_model::resource::{AuthorizationToken, ResourceParam};
use postern_model::{Problem, Timestamp};
use postern_policy::RepositoryUrl;
use postern_secret::SecretBytes;
use postern_secret::seal::Binding;
use postern_store::Tx;
use postern_store::deployments::tokens;

use crate::problem;
use crate::repositories::{admitted, sealed};

/// What a list of resources says of tokens.
pub(super) struct Tokens {
    /// The repositories of the list: what a token is kept for.
    urls: Vec<String>,
    sent: Vec<Sent>,
}

struct Sent {
    index: usize,
    url: RepositoryUrl,
    token: SecretBytes,
}

impl Tokens {
    /// Takes the tokens out of a list of resources.
    ///
    /// # Errors
    /// 400 naming the place: one that cannot be kept secret, or two different ones for one repository.
    pub(super) fn taken_out(resources: &mut [ResourceParam]) -> Result<Self, Problem> {
        let (mut urls, mut brought) = (Vec::new(), Vec::<(usize, RepositoryUrl, AuthorizationToken)>::new());
        for (index, resource) in resources.iter_mut().enumerate() {
            let ResourceParam::GithubRepository { url, authorization_token, .. } = resource else { continue };
            let token = authorization_token.take();
            // What is no URL is refused where a session is begun with it.
            let Ok(parsed) = url.parse::<RepositoryUrl>() else { continue };
            // Kept and shown as it is fetched: what else was written, an SSH user say, is not.
            *url = parsed.to_string();
            urls.push(url.clone());
            let url = parsed;
            let Some(token) = token else { continue };
            match brought.iter().find(|(_, other, _)| *other == url) {
                None => brought.push((index, url, token)),
                Some((_, _, other)) if *other == token => {}
                Some((first, ..)) => return Err(two_tokens(index, *first)),
            }
        }
        let admit = |(index, url, token)| {
            let token = admitted(token).map_err(|problem| at(index, problem))?;
            Ok(Sent { index, url, token })
        };
        Ok(Self { urls, sent: brought.into_iter().map(admit).collect::<Result<_, _>>()? })
    }

    /// Whether it brings one, known or not.
    pub(super) fn brings(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Seals and stores what was brought, each in place of a former one, keeps what is there for the other repositories, and nothing else.
    ///
    /// # Errors
    /// 400 naming the place, where nothing can be sealed; or the database failed.
    pub(super) async fn keep(
        self,
        tx: &mut Tx,
        workspace: &WorkspaceId,
        deployment: &DeploymentId,
        now: Timestamp,
    ) -> Result<(), Problem> {
        tokens::keep_only(tx, deployment, &self.urls).await.map_err(problem)?;
        for Sent { index, url, token } in self.sent {
            let (host, url) = (url.host().to_string(), url.to_string());
            let known = tokens::find(tx, deployment, &url).await.map_err(problem)?;
            let id = known.unwrap_or_else(DeploymentResourceId::generate);
            let binding = Binding::of_deployment(workspace.as_str(), deployment.as_str(), id.as_str(), &host, &url);
            let sealed = sealed(tx, workspace, &binding, &token).await.map_err(|problem| at(index, problem))?;
            tokens::put(tx, &binding, &sealed, now).await.map_err(problem)?;
        }
        Ok(())
    }
}

fn at(index: usize, problem: Problem) -> Problem {
    Problem { message: format!("resources[{index}]: {}", problem.message), ..problem }
}

fn two_tokens(index: usize, first: usize) -> Problem {
    let place = format!("resources[{index}].authorization_token");
    let message = format!(
        "is another than that of resources[{first}], which has the same URL: send one token for each repository"
    );
    Problem::invalid_at(&place, message)
}
