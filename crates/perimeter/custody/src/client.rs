//! The three faces of custody: the worker's, which has no way to ask for a secret, the egress proxy's, and the gateway's.

use std::os::fd::{AsFd, OwnedFd};

use postern_exec::asynchronous::Channel;
use postern_exec::role::{self, Starter};
use postern_exec::rpc::{CallError, Caller};
use postern_secret::seal::{Recipient, SealedCredential, SealedVariable, Wrap};
use postern_secret::{Secret, SecretBytes};

use crate::kept::Kept;
use crate::message::{
    Answer, Ask, CallerKind, Configuration, FreshTokens, KeptAnswer, KnownPlaceholder, OpenSession, Opened, Purpose,
    Ready, RefreshGrant, Reload, Renewed, RouteGrant, VaultGrant, Withheld,
};
use crate::process::ROLE;
use crate::refusal::Refusal;

/// Why custody did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustodyError {
    /// It refused, and says why.
    #[error("custody refused: {0}")]
    Refused(#[from] Refusal),
    /// The process is gone; without it no session can go on.
    #[error("the custody process is gone")]
    Gone,
    /// No answer in time, or one that does not fit the question.
    #[error("the custody process did not answer as it should")]
    Misanswered,
}

/// The worker's connection. Clones share it.
#[derive(Clone)]
pub struct Client {
    caller: Caller<Ask, Answer>,
}

/// The egress proxy's connection. Clones share it.
#[derive(Clone)]
pub struct EgressClient {
    caller: Caller<Ask, Answer>,
}

/// The gateway's connection. Clones share it.
#[derive(Clone)]
pub struct GatewayClient {
    caller: Caller<Ask, Answer>,
}

/// A secret for one credential of a session; zeroed when dropped.
pub type Grant = SecretBytes;

/// What a gateway gets to refresh a credential's tokens.
#[derive(Debug)]
pub enum Refreshing {
    /// The secrets of one exchange with the token endpoint.
    Granted {
        /// The refresh token.
        refresh_token: SecretBytes,
        /// The client's secret.
        client_secret: Option<SecretBytes>,
    },
    /// These parts were used before, and this came of it: nothing is sent again.
    Kept(Box<Renewed>),
}

/// A secret for the egress proxy.
#[derive(Debug)]
pub struct UseGrant {
    /// The secret.
    pub secret: SecretBytes,
    /// By what further uses are granted with this one; each is to be recorded before it is made. `None`: each is to be asked for.
    pub kept: Option<Kept>,
    /// Of a vault's: which, and how far it may go.
    pub vault: Option<VaultGrant>,
}

/// Starts the role with its connection to the audit process. The answer says whether it can work: [`Ready::problems`].
///
/// # Errors
/// [`role::StartError`].
pub async fn start(
    starter: &Starter,
    configuration: &Configuration,
    audit: &OwnedFd,
) -> Result<(role::Child, Client, Ready), role::StartError> {
    let (child, channel, ready) = role::start_and_wait(ROLE, configuration, starter, &[audit.as_fd()]).await?;
    Ok((child, Client::new(channel), ready))
}

impl Client {
    /// Speaks to custody as the worker; must be called inside a runtime.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { caller: Caller::new(channel, ANSWER_LIMIT) }
    }

    /// Opens a session: resolves every secret its zone names, and issues a placeholder for each. A variable that the zone names and no vault of the session
    /// has is passed over.
    ///
    /// # Errors
    /// [`CustodyError`]; a refused session is not open.
    pub async fn open(&self, session: OpenSession) -> Result<Opened, CustodyError> {
        match ask(&self.caller, Ask::Open(Box::new(session)), Vec::new()).await? {
            Answer::Opened(opened) => Ok(opened),
            other => Err(unfitting(other)),
        }
    }

    /// Tells custody what an open session's vaults have now, all of it: a value that was replaced counts from the next use on, behind the placeholder that
    /// stands for it; one that is gone is used no more. Answers what the session does not get.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn refresh(&self, session: &str, variables: Vec<SealedVariable>) -> Result<Vec<Withheld>, CustodyError> {
        match ask(&self.caller, Ask::Refresh { session: session.to_owned(), variables }, Vec::new()).await? {
            Answer::Refreshed { withheld } => Ok(withheld),
            other => Err(unfitting(other)),
        }
    }

    /// Has the keys of sealed values wrapped for another perimeter that the operator of this machine approved: `None` for what does not open here. The values
    /// stay where they are.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn rewrap(
        &self,
        values: Vec<SealedCredential>,
        to: Recipient,
    ) -> Result<Vec<Option<Wrap>>, CustodyError> {
        match ask(&self.caller, Ask::Rewrap { values, to }, Vec::new()).await? {
            Answer::Rewrapped { wraps } => Ok(wraps),
            other => Err(unfitting(other)),
        }
    }

    /// Closes a session: its secrets are zeroed, its placeholders dead. Closing one that is not open is fine.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn close(&self, session: &str) -> Result<(), CustodyError> {
        match ask(&self.caller, Ask::Close { session: session.to_owned() }, Vec::new()).await? {
            Answer::Closed => Ok(()),
            other => Err(unfitting(other)),
        }
    }

    /// Freezes a session: until it is thawed nothing is granted for injection on its behalf, to anybody. Survives a restart.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn freeze(&self, session: &str) -> Result<(), CustodyError> {
        held(ask(&self.caller, Ask::Freeze { session: session.to_owned() }, Vec::new()).await?)
    }

    /// Ends a freeze. Thawing a session that is not frozen is fine.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn thaw(&self, session: &str) -> Result<(), CustodyError> {
        held(ask(&self.caller, Ask::Thaw { session: session.to_owned() }, Vec::new()).await?)
    }

    /// Revokes a session's grants for good: its secrets are zeroed here, and nothing is granted on its behalf again. Survives a restart.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn revoke_grants(&self, session: &str) -> Result<(), CustodyError> {
        held(ask(&self.caller, Ask::RevokeGrants { session: session.to_owned() }, Vec::new()).await?)
    }

    /// Puts another document in force, whole; answers what is wrong with it, and the former stays then. Sessions that are open keep their zones, and
    /// former documents no longer count for opening one.
    ///
    /// # Errors
    /// [`CustodyError`]; the former document stays.
    pub async fn reload(&self, reload: Reload) -> Result<Vec<String>, CustodyError> {
        reloaded(ask(&self.caller, Ask::Reload(Box::new(reload)), Vec::new()).await?)
    }

    /// The digests of the documents that a joining process may have read.
    pub(crate) async fn documents(&self) -> Result<Vec<String>, CustodyError> {
        match ask(&self.caller, Ask::Documents, Vec::new()).await? {
            Answer::Documents { digests } => Ok(digests),
            other => Err(unfitting(other)),
        }
    }

    /// Hands custody a further connection, of this kind for as long as it lives.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn attach(&self, caller: CallerKind, socket: OwnedFd) -> Result<(), CustodyError> {
        match ask(&self.caller, Ask::Attach { caller }, vec![socket]).await? {
            Answer::Attached => Ok(()),
            other => Err(unfitting(other)),
        }
    }

    /// Waits until the process is gone.
    pub async fn gone(&self) {
        self.caller.gone().await;
    }
}

impl EgressClient {
    /// Speaks to custody as the egress proxy; must be called inside a runtime.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { caller: Caller::new(channel, ANSWER_LIMIT) }
    }

    /// The secret of a credential of an open session; custody has recorded the use when it answers.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn grant(
        &self,
        session: &str,
        credential: &str,
        policy_digest: &str,
        purpose: Purpose,
    ) -> Result<UseGrant, CustodyError> {
        let question = Ask::Grant {
            session: session.to_owned(),
            credential: credential.to_owned(),
            policy_digest: policy_digest.to_owned(),
            purpose,
        };
        match ask_with(&self.caller, question, Vec::new()).await? {
            (Answer::Granted { secret, kept, vault }, descriptors) => {
                let kept = kept.and_then(|kept| Kept::received(&kept, descriptors));
                Ok(UseGrant { secret: Secret::new(secret.into_bytes()), kept, vault })
            }
            (other, _) => Err(unfitting(other)),
        }
    }

    /// Says that a grant ended and its copy was dropped.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn revoke(&self, session: &str, credential: &str) -> Result<(), CustodyError> {
        let question = Ask::Revoke { session: session.to_owned(), credential: credential.to_owned() };
        match ask(&self.caller, question, Vec::new()).await? {
            Answer::Revoked => Ok(()),
            other => Err(unfitting(other)),
        }
    }

    /// Every placeholder to recognise: of open sessions, and of those that ended within 24 h.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn placeholders(&self) -> Result<Vec<KnownPlaceholder>, CustodyError> {
        match ask(&self.caller, Ask::Placeholders, Vec::new()).await? {
            Answer::Placeholders { known } => Ok(known),
            other => Err(unfitting(other)),
        }
    }

    /// Waits until the process is gone.
    pub async fn gone(&self) {
        self.caller.gone().await;
    }
}

impl GatewayClient {
    /// Speaks to custody as the gateway; must be called inside a runtime.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { caller: Caller::new(channel, ANSWER_LIMIT) }
    }

    /// The secret for one MCP call: the route's own, or the vault credential that came with the call where the route says so. Custody has recorded the
    /// use when it answers. To be asked for each call; the copy lives no longer than the call needs it.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn grant(&self, grant: RouteGrant) -> Result<Grant, CustodyError> {
        match ask(&self.caller, Ask::GrantRoute(Box::new(grant)), Vec::new()).await? {
            Answer::Granted { secret, .. } => Ok(Secret::new(secret.into_bytes())),
            other => Err(unfitting(other)),
        }
    }

    /// What one refresh at the credential's token endpoint takes, on record before it is answered; or the tokens of a former one with these very parts that
    /// nobody has taken up. To be asked for each refresh.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn refresh(&self, grant: RefreshGrant) -> Result<Refreshing, CustodyError> {
        match ask(&self.caller, Ask::GrantRefresh(Box::new(grant)), Vec::new()).await? {
            Answer::RefreshGranted { refresh_token, client_secret } => Ok(Refreshing::Granted {
                refresh_token: Secret::new(refresh_token.into_bytes()),
                client_secret: client_secret.map(|secret| Secret::new(secret.into_bytes())),
            }),
            Answer::Renewed(renewed) => Ok(Refreshing::Kept(renewed)),
            other => Err(unfitting(other)),
        }
    }

    /// Seals the tokens that an endpoint answered for this perimeter and those that it approved among the former recipients, and keeps them until the control
    /// plane has taken them up. When this answers they are on the disk.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn seal(&self, fresh: FreshTokens) -> Result<Renewed, CustodyError> {
        match ask(&self.caller, Ask::SealFresh(Box::new(fresh)), Vec::new()).await? {
            Answer::Renewed(renewed) => Ok(*renewed),
            other => Err(unfitting(other)),
        }
    }

    /// The same for an answer that the gateway sealed to this perimeter and kept.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn seal_kept(&self, routes_digest: String, answer: KeptAnswer) -> Result<Renewed, CustodyError> {
        match ask(&self.caller, Ask::SealKept { routes_digest, answer: Box::new(answer) }, Vec::new()).await? {
            Answer::Renewed(renewed) => Ok(*renewed),
            other => Err(unfitting(other)),
        }
    }

    /// Puts another document in force, whole; answers what is wrong with it, and the former stays then. Grants of routes whose credential is the same stay,
    /// and calls that were decided by the former document get theirs for a moment more. A worker that has not read the new document goes on with the
    /// zones it knows.
    ///
    /// # Errors
    /// [`CustodyError`]; the former document stays.
    pub async fn reload(&self, reload: Reload) -> Result<Vec<String>, CustodyError> {
        reloaded(ask(&self.caller, Ask::Reload(Box::new(reload)), Vec::new()).await?)
    }

    /// Every secret that this gateway was granted for a session and that is not zeroed yet: what its answers are scrubbed of and its arguments are
    /// searched for.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn known_for_scrubbing(&self, session: &str) -> Result<Vec<SecretBytes>, CustodyError> {
        match ask(&self.caller, Ask::Known { session: session.to_owned() }, Vec::new()).await? {
            Answer::Known { secrets } => {
                Ok(secrets.into_iter().map(|secret| Secret::new(secret.into_bytes())).collect())
            }
            other => Err(unfitting(other)),
        }
    }

    /// Ends a session's grants here: custody zeroes its copies. A later call is granted anew. Closing what is not open is fine.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn close(&self, session: &str) -> Result<(), CustodyError> {
        match ask(&self.caller, Ask::Close { session: session.to_owned() }, Vec::new()).await? {
            Answer::Closed => Ok(()),
            other => Err(unfitting(other)),
        }
    }

    /// Freezes a session: until it is thawed nothing is granted for injection on its behalf, to anybody. Survives a restart.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn freeze(&self, session: &str) -> Result<(), CustodyError> {
        held(ask(&self.caller, Ask::Freeze { session: session.to_owned() }, Vec::new()).await?)
    }

    /// Ends a freeze. Thawing a session that is not frozen is fine.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn thaw(&self, session: &str) -> Result<(), CustodyError> {
        held(ask(&self.caller, Ask::Thaw { session: session.to_owned() }, Vec::new()).await?)
    }

    /// Revokes a session's grants for good: its secrets are zeroed here, and nothing is granted on its behalf again. Survives a restart.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn revoke_grants(&self, session: &str) -> Result<(), CustodyError> {
        held(ask(&self.caller, Ask::RevokeGrants { session: session.to_owned() }, Vec::new()).await?)
    }

    /// Every placeholder to recognise: of open sessions, and of those that ended within 24 h.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn placeholders(&self) -> Result<Vec<KnownPlaceholder>, CustodyError> {
        match ask(&self.caller, Ask::Placeholders, Vec::new()).await? {
            Answer::Placeholders { known } => Ok(known),
            other => Err(unfitting(other)),
        }
    }

    /// Waits until the process is gone.
    pub async fn gone(&self) {
        self.caller.gone().await;
    }
}

async fn ask(caller: &Caller<Ask, Answer>, ask: Ask, descriptors: Vec<OwnedFd>) -> Result<Answer, CustodyError> {
    ask_with(caller, ask, descriptors).await.map(|(answer, _)| answer)
}

async fn ask_with(
    caller: &Caller<Ask, Answer>,
    ask: Ask,
    descriptors: Vec<OwnedFd>,
) -> Result<(Answer, Vec<OwnedFd>), CustodyError> {
    match caller.call_with_fds(ask, descriptors).await {
        Ok(answered) => Ok(answered),
        Err(CallError::Gone) => Err(CustodyError::Gone),
        Err(CallError::Late(_) | CallError::Misread(_) | CallError::Channel(_)) => Err(CustodyError::Misanswered),
    }
}

fn held(answer: Answer) -> Result<(), CustodyError> {
    match answer {
        Answer::Held => Ok(()),
        other => Err(unfitting(other)),
    }
}

fn reloaded(answer: Answer) -> Result<Vec<String>, CustodyError> {
    match answer {
        Answer::Reloaded { problems } => Ok(problems),
        other => Err(unfitting(other)),
    }
}

fn unfitting(answer: Answer) -> CustodyError {
    match answer {
        Answer::Refused(refusal) => CustodyError::Refused(refusal),
        Answer::Opened(_)
        | Answer::Refreshed { .. }
        | Answer::Rewrapped { .. }
        | Answer::Closed
        | Answer::Attached
        | Answer::Granted { .. }
        | Answer::Known { .. }
        | Answer::RefreshGranted { .. }
        | Answer::Renewed(_)
        | Answer::Held
        | Answer::Revoked
        | Answer::Reloaded { .. }
        | Answer::Documents { .. }
        | Answer::Placeholders { .. } => CustodyError::Misanswered,
    }
}

/// The list of placeholders is the longest answer: [`crate::ledger::MOST`] of them fit.
const ANSWER_LIMIT: usize = 64 << 20;
