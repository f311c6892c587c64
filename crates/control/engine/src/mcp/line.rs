//! One session's line to one server: opened when it is needed, opened anew when the credential for it has changed or a
//! call broke it. A call goes out once.

use std::sync::Arc;
use std::time::Duration;

use postern_model::agent::McpServer;
use postern_model::ids::EventId;
use postern_policy::normalise_mcp_url;
use postern_session::{McpNews, ServerTool};
use postern_store::credentials::{self, StoredCredential};
use postern_upstream::mcp::{
    CallerFacts, McpConnection, McpFailure, McpFailureKind, McpServer as Address, ToolResult, VaultCredential,
};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::{error, info};

use super::Caller;
use crate::oauth::{self, Wanted};

pub(super) struct Line {
    server: McpServer,
    facts: CallerFacts,
    open: Mutex<Option<Open>>,
}

/// A connection and the credential it was made with.
#[derive(Clone)]
struct Open {
    connection: Arc<dyn McpConnection>,
    credential: Option<VaultCredential>,
}

impl Line {
    pub(super) fn new(server: McpServer, facts: CallerFacts) -> Self {
        Self { server, facts, open: Mutex::new(None) }
    }

    pub(super) fn is_for(&self, server: &McpServer, facts: &CallerFacts) -> bool {
        self.server == *server && self.facts == *facts
    }

    /// Connects, unless it is connected, and says which tools there are.
    pub(super) async fn tools(&self, caller: &Caller) -> McpNews {
        let tools = match self.connection(caller).await {
            Ok(open) => Ok(open.connection.tools().iter().map(server_tool).collect()),
            Err(failure) => {
                info!(session = %caller.session, server = self.server.name, code = failure.code, "an MCP server failed");
                Err(news_of(&failure))
            }
        };
        McpNews { server: self.server.name.clone(), tools }
    }

    /// Calls a tool, once.
    pub(super) async fn call(
        &self,
        caller: &Caller,
        call: &EventId,
        tool: &str,
        input: Map<String, Value>,
    ) -> Result<ToolResult, McpFailure> {
        let Open { connection, credential } = self.connection(caller).await?;
        let deadline = caller.shared.settings.mcp.call;
        let called = timeout(deadline, connection.call(call.to_string(), tool.to_owned(), input)).await;
        let result = called.unwrap_or_else(|_| Err(late("the tool", deadline, true)));
        let Err(failure) = result else { return result };
        // Whatever broke it, the next call starts from a clean connection.
        self.give_up(&connection).await;
        match failure.code == UNAUTHORIZED {
            true => Err(self.refused(caller, credential, failure).await),
            false => Err(failure),
        }
    }

    /// The connection, made with what the vaults hold for the server now.
    async fn connection(&self, caller: &Caller) -> Result<Open, McpFailure> {
        let deadline = caller.shared.settings.mcp.connect;
        let connected = timeout(deadline, async {
            let mut stored = self.credential(caller).await?;
            let mut open = self.open.lock().await;
            let credential = stored.as_ref().map(vault_credential);
            if let Some(open) = open.as_ref().filter(|open| open.credential == credential) {
                return Ok(open.clone());
            }
            *open = None;
            let mcp = caller.shared.surroundings.mcp.as_ref().ok_or_else(no_client)?;
            let address = Address { name: self.server.name.clone(), url: self.server.url.clone() };
            let connect = |stored: &Option<StoredCredential>| {
                mcp.connect(self.facts.clone(), address.clone(), stored.as_ref().map(vault_credential))
            };
            let connection = match connect(&stored).await {
                Err(failure) if failure.code == UNAUTHORIZED && stored.as_ref().is_some_and(has_refresh) => {
                    // Nothing but a greeting was refused: it may be said again with another token.
                    stored = self.renewed(caller, stored).await?;
                    connect(&stored).await?
                }
                connected => connected?,
            };
            let credential = stored.as_ref().map(vault_credential);
            let made = Open { connection, credential };
            *open = Some(made.clone());
            Ok(made)
        });
        connected.await.unwrap_or_else(|_| Err(late("the server", deadline, false)))
    }

    /// What the vaults hold for the server now, renewed where it is about to expire.
    async fn credential(&self, caller: &Caller) -> Result<Option<StoredCredential>, McpFailure> {
        let url = normalise_mcp_url(&self.server.url).map_err(|cause| failure("url_invalid", &cause, URL_NEXT))?;
        if caller.vaults.is_empty() {
            return Ok(None);
        }
        let found = async {
            let mut reader = caller.shared.store.read().await?;
            credentials::for_url(&mut reader, &caller.workspace, &caller.vaults, &url).await
        };
        let found = found.await.map_err(|cause| {
            error!(error = &cause as &dyn std::error::Error, "the credentials of a session could not be read");
            failure("credential_unreadable", &"the server could not look for a credential", "look at the server's log")
        })?;
        let Some(stored) = found else { return Ok(None) };
        if !oauth::is_expired(&stored, SOON) {
            return Ok(Some(stored));
        }
        let is_over = oauth::is_expired(&stored, Duration::ZERO);
        if !has_refresh(&stored) {
            let over = is_over.then(|| McpFailure { kind: McpFailureKind::Authentication, ..expired_token(&stored) });
            return over.map_or(Ok(Some(stored)), Err);
        }
        match oauth::renewed(&caller.shared, &caller.workspace, &stored, Wanted::Expiring).await {
            // It is still good for a moment; the next call tries again.
            Err(_) if !is_over => Ok(Some(stored)),
            renewed => renewed,
        }
    }

    /// After the server refused the token.
    async fn renewed(
        &self,
        caller: &Caller,
        refused: Option<StoredCredential>,
    ) -> Result<Option<StoredCredential>, McpFailure> {
        match refused {
            Some(refused) => oauth::renewed(&caller.shared, &caller.workspace, &refused, Wanted::Refused).await,
            None => Ok(None),
        }
    }

    /// What is said of a call that the server refused: it went out once, and goes out once more only when the model makes it again.
    async fn refused(&self, caller: &Caller, with: Option<VaultCredential>, failure: McpFailure) -> McpFailure {
        let credential = match self.credential(caller).await {
            Ok(credential) => credential.filter(has_refresh),
            Err(failure) => return failure,
        };
        if credential.is_none() {
            return failure;
        }
        // One that another call had renewed meanwhile is another one.
        let renewed = match credential.as_ref().map(vault_credential) == with {
            true => self.renewed(caller, credential).await.map(drop),
            false => Ok(()),
        };
        match renewed {
            Ok(()) => McpFailure { message: RENEWED.to_owned(), next_step: AGAIN.to_owned(), ..failure },
            Err(failure) => failure,
        }
    }

    async fn give_up(&self, broken: &Arc<dyn McpConnection>) {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|open| Arc::ptr_eq(&open.connection, broken)) {
            *open = None;
        }
    }
}

fn has_refresh(stored: &StoredCredential) -> bool {
    stored.refresh.is_some()
}

fn vault_credential(stored: &StoredCredential) -> VaultCredential {
    VaultCredential {
        vault_id: stored.vault_id.to_string(),
        credential_id: stored.id.to_string(),
        kind: stored.kind.as_str().to_owned(),
        sealed: stored.encode(),
    }
}

/// An access token that expires within this time is renewed before it is used.
const SOON: Duration = Duration::from_secs(30);
/// What an MCP server's refusal of the token is called.
const UNAUTHORIZED: &str = "upstream_unauthorized";
const RENEWED: &str = "the MCP server refused the access token, which has been renewed now";
const AGAIN: &str = "make the call again";
const URL_NEXT: &str = "correct the server's `url` in the agent's `mcp_servers`";

fn server_tool(tool: &postern_upstream::mcp::McpTool) -> ServerTool {
    let (name, description) = (tool.name.clone(), tool.description.clone());
    ServerTool { name, description, input_schema: tool.input_schema.clone() }
}

fn news_of(failure: &McpFailure) -> postern_session::McpFailure {
    let kind = match failure.kind {
        McpFailureKind::Connection => postern_session::McpFailureKind::Connection,
        McpFailureKind::Authentication => postern_session::McpFailureKind::Authentication,
    };
    postern_session::McpFailure { kind, message: super::result::told(failure) }
}

fn failure(code: &str, message: &dyn std::fmt::Display, next_step: &str) -> McpFailure {
    let (code, message, next_step) = (code.to_owned(), message.to_string(), next_step.to_owned());
    McpFailure { kind: McpFailureKind::Connection, code, message, next_step, started: false }
}

/// Not sent: the server would refuse it, and nobody would know why.
fn expired_token(stored: &StoredCredential) -> McpFailure {
    let at = stored.expires_at.map(|at| at.to_string()).unwrap_or_default();
    let message = format!("the access token of credential {} expired at {at}", stored.id);
    let next = format!(
        "send another `access_token` with its `expires_at`: POST /v1/vaults/{}/credentials/{}; it has no refresh token with which another could be got",
        stored.vault_id, stored.id
    );
    failure("credential_expired", &message, &next)
}

fn no_client() -> McpFailure {
    let next = "look at the server's log for why it has none";
    failure("mcp_unavailable", &"this server was started without a client for MCP", next)
}

fn late(who: &str, deadline: Duration, started: bool) -> McpFailure {
    let message = format!("{who} did not answer within {} s", deadline.as_secs_f64());
    McpFailure { started, ..failure("timeout", &message, "see whether it is overloaded, or ask for less at once") }
}
