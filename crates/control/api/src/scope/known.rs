//! Which sessions and deployments a caller may know, looked up for a page of what names them.

use std::collections::{HashMap, HashSet};

use postern_model::Problem;
use postern_model::deployment::DeploymentRun;
use postern_model::ids::{DeploymentId, SessionId, VaultId, WorkspaceId};
use postern_store::sessions;

use crate::app::{App, problem};
use crate::caller::Caller;

/// What a caller may know.
pub(crate) enum Known<'a> {
    /// Everything of its workspace: whoever is no key for certain vaults.
    Everything,
    /// What uses no other vaults than its own.
    Own {
        /// Whose.
        caller: &'a Caller,
        /// The vaults of those sessions that there are.
        sessions: HashMap<SessionId, Vec<VaultId>>,
        /// The deployments that it may know.
        deployments: HashSet<DeploymentId>,
    },
}

impl<'a> Known<'a> {
    /// Looks these sessions up.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) async fn of(
        app: &App,
        caller: &'a Caller,
        workspace: &WorkspaceId,
        asked: impl IntoIterator<Item = &SessionId>,
    ) -> Result<Self, Problem> {
        if !caller.is_for_certain_vaults() {
            return Ok(Self::Everything);
        }
        let mut reader = app.store.read().await.map_err(problem)?;
        let sessions = sessions::vaults_of(&mut reader, workspace, asked).await.map_err(problem)?;
        Ok(Self::Own { caller, sessions, deployments: HashSet::new() })
    }

    /// Looks up what these runs name.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) async fn of_runs(
        app: &App,
        caller: &'a Caller,
        workspace: &WorkspaceId,
        asked: impl IntoIterator<Item = &DeploymentRun> + Clone,
    ) -> Result<Self, Problem> {
        let named = asked.clone().into_iter().filter_map(|run| run.session_id.as_ref());
        let mut known = Self::of(app, caller, workspace, named).await?;
        if let Self::Own { deployments, .. } = &mut known {
            for id in asked.into_iter().map(|run| &run.deployment_id).collect::<HashSet<_>>() {
                let deployment = app.engine.deployment(workspace, id).await?;
                deployments.extend(caller.may_use(&deployment.vault_ids).then(|| id.clone()));
            }
        }
        Ok(known)
    }

    /// Whether the caller may know this session. One that is gone is nobody's.
    pub(crate) fn has(&self, session: &SessionId) -> bool {
        match self {
            Self::Everything => true,
            Self::Own { caller, sessions, .. } => sessions.get(session).is_some_and(|vaults| caller.may_use(vaults)),
        }
    }

    /// Whether the caller may know this run: its deployment, and its session if there still is one.
    pub(crate) fn has_run(&self, run: &DeploymentRun) -> bool {
        match self {
            Self::Everything => true,
            Self::Own { caller, sessions, deployments } => {
                let vaults = run.session_id.as_ref().and_then(|session| sessions.get(session));
                deployments.contains(&run.deployment_id) && vaults.is_none_or(|vaults| caller.may_use(vaults))
            }
        }
    }
}
