//! What the run's two sessions were given: one variable of a vault and the token of one repository, each with a value of its own, sealed to the run's own
//! perimeter as a server would; and a refresh token, sealed as one, that is brought as if it were a variable too.

use postern_custody::store::Store;
use postern_runner::Standing;
use postern_secret::SecretBytes;
use postern_secret::seal::{Binding, Places, Recipient, SealedCredential, SealedVariable, seal};

use crate::run::VerifyError;
use crate::zone::{GIT_HOST, REFRESH_HOST, REFRESH_VARIABLE, VAULT_HOST, VAULT_VARIABLE};

/// What one session is given.
pub(crate) struct Given<'a> {
    /// The variable's value.
    pub(crate) variable: &'a str,
    /// Its repository's token.
    pub(crate) token: &'a str,
    /// A refresh token.
    pub(crate) refresh: &'a str,
}

/// Gives it to a session that is not open yet.
pub(crate) fn bring(perimeter: &Standing, store: &Store, session: &str, given: &Given<'_>) -> Result<(), VerifyError> {
    let public_key =
        store.perimeter_public_key().map_err(|error| VerifyError::stand("read the perimeter's key", &error))?;
    let to = Recipient { perimeter_id: "pmtr_verify".to_owned(), public_key };
    let repository = Binding::of_repository(WORKSPACE, session, "sesrsc_verify", GIT_HOST, REPOSITORY);
    let refresh = Binding {
        credential: format!("vcrd_to_refresh_of_{session}"),
        hosts: vec![REFRESH_HOST.to_owned()],
        kind: "mcp_oauth.refresh_token".to_owned(),
        secret_name: Some(REFRESH_VARIABLE.to_owned()),
        ..binding(session)
    };
    let given = [(binding(session), given.variable), (repository, given.token), (refresh, given.refresh)];
    let sealed = given.map(|(binding, value)| sealed(binding, value, &to));
    let given = sealed.into_iter().collect::<Result<Vec<_>, _>>()?;
    perimeter.bring(session, &given).map_err(|error| VerifyError::stand("bring what a session was given", &error))
}

fn sealed(binding: Binding, value: &str, to: &Recipient) -> Result<SealedVariable, VerifyError> {
    let sealed = seal(&SecretBytes::new(value.as_bytes().to_vec()), &binding, std::slice::from_ref(to));
    let sealed = sealed.map_err(|error| VerifyError::stand("seal what a session was given", &error))?;
    let hosts = binding.hosts.clone();
    Ok(SealedVariable { credential: SealedCredential { binding, sealed }, hosts, places: HEADER, run: None })
}

fn binding(session: &str) -> Binding {
    Binding {
        client_id: None,
        credential: format!("vcrd_of_{session}"),
        hosts: vec![VAULT_HOST.to_owned()],
        injection: Some(HEADER),
        kind: "environment_variable".to_owned(),
        mcp_url: None,
        refresh: None,
        secret_name: Some(VAULT_VARIABLE.to_owned()),
        token_endpoint: None,
        vault: format!("vlt_of_{session}"),
        workspace: WORKSPACE.to_owned(),
    }
}

const WORKSPACE: &str = "wrkspc_verify";
/// The one repository, which each session has a token of its own for.
const REPOSITORY: &str = "https://git.postern-verify.internal/v1/repository";
const HEADER: Places = Places { body: false, header: true };
