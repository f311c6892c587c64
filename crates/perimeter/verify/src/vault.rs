//! What the vaults of the run's two sessions have: one variable, with a value of its own for each, sealed to the run's own perimeter as a server would.

use postern_custody::store::Store;
use postern_runner::Standing;
use postern_secret::SecretBytes;
use postern_secret::seal::{Binding, Places, Recipient, SealedCredential, SealedVariable, seal};

use crate::run::VerifyError;
use crate::zone::{VAULT_HOST, VAULT_VARIABLE};

/// Gives a session that is not open yet a value of the variable.
pub(crate) fn bring(perimeter: &Standing, store: &Store, session: &str, value: &str) -> Result<(), VerifyError> {
    let public_key =
        store.perimeter_public_key().map_err(|error| VerifyError::stand("read the perimeter's key", &error))?;
    let to = Recipient { perimeter_id: "pmtr_verify".to_owned(), public_key };
    let binding = binding(session);
    let sealed = seal(&SecretBytes::new(value.as_bytes().to_vec()), &binding, &[to]);
    let sealed = sealed.map_err(|error| VerifyError::stand("seal a variable of a vault", &error))?;
    let hosts = binding.hosts.clone();
    let variable = SealedVariable { credential: SealedCredential { binding, sealed }, hosts, places: HEADER };
    perimeter.bring(session, &[variable]).map_err(|error| VerifyError::stand("bring a variable of a vault", &error))
}

fn binding(session: &str) -> Binding {
    Binding {
        client_id: None,
        credential: format!("vcrd_of_{session}"),
        hosts: vec![VAULT_HOST.to_owned()],
        injection: Some(HEADER),
        kind: "environment_variable".to_owned(),
        mcp_url: None,
        secret_name: Some(VAULT_VARIABLE.to_owned()),
        token_endpoint: None,
        vault: format!("vlt_of_{session}"),
        workspace: "wrkspc_verify".to_owned(),
    }
}

const HEADER: Places = Places { body: false, header: true };
