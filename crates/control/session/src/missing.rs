//! What a session is told that it goes without: each thing once, and only so many in its life. Who says it is a worker, whose
//! words a hijacked one makes up.

use postern_model::event::{EventBody, RetryStatus, SessionError, SessionErrorKind};
use postern_model::resource::RepositoryFault;

use crate::input::Lacking;
use crate::machine::Step;
use crate::marks::Mark;

/// Things that one session is told of; after these, once, that there are more.
const MOST_THINGS: usize = 64;

impl Step<'_> {
    /// The session goes on without something that it was promised.
    pub(crate) fn missing(&mut self, code: &str, message: &str, lacking: Lacking) {
        let error = error(code, message, lacking);
        let told = &self.session.overall.told;
        if told.contains(&fingerprint(&error)) {
            return;
        }
        let error = match told.len() {
            ..MOST_THINGS => error,
            MOST_THINGS => more(),
            _ => return,
        };
        self.append_with(EventBody::SessionError { error }, Mark::Missing.kept());
    }
}

fn error(code: &str, message: &str, lacking: Lacking) -> SessionError {
    let kind = match &lacking {
        Lacking::Something => SessionErrorKind::UnknownError,
        Lacking::Host(..) => SessionErrorKind::CredentialHostUnreachableError,
        Lacking::Repository(fault, _) => of_repository(*fault),
    };
    let (unreachable, repository_url) = match lacking {
        Lacking::Something => (None, None),
        Lacking::Host(credential, vault) => (Some((credential, vault)), None),
        Lacking::Repository(_, url) => (None, Some(url)),
    };
    let (credential_id, vault_id) = unreachable.unzip();
    SessionError {
        kind,
        repository_url,
        mcp_server_name: None,
        credential_id,
        vault_id,
        message: format!("{code}: {message}"),
        retry_status: RetryStatus::Retrying {},
    }
}

fn more() -> SessionError {
    let message = format!(
        "the session was told of {MOST_THINGS} things that it goes without, and goes without more that it is not told of. \
         Next step: look at the worker's log"
    );
    error("limit_session_notices", &message, Lacking::Something)
}

/// FNV-1a of the error as it is stored: tells errors apart, proves nothing.
pub(crate) fn fingerprint(error: &SessionError) -> u64 {
    let text = serde_json::to_vec(error).unwrap_or_default();
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn of_repository(fault: RepositoryFault) -> SessionErrorKind {
    match fault {
        RepositoryFault::RepositoryAuthenticationError => SessionErrorKind::RepositoryAuthenticationError,
        RepositoryFault::RepositoryForbiddenError => SessionErrorKind::RepositoryForbiddenError,
        RepositoryFault::RepositoryNotFoundError => SessionErrorKind::RepositoryNotFoundError,
        RepositoryFault::RepositoryCheckoutError => SessionErrorKind::RepositoryCheckoutError,
        RepositoryFault::RepositoryCloneError => SessionErrorKind::RepositoryCloneError,
    }
}
