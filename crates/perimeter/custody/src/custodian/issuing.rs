//! What a session begins with: the secrets of its zone, and a placeholder for each that stands for something in its sandbox.

use std::collections::HashMap;

use postern_policy::{Credential, CredentialName, RepositoryToken, Source, Zone};
use postern_secret::{Placeholder, SecretBytes};

use super::variables::Variables;
use crate::message::Issued;
use crate::refusal::Refusal;
use crate::source::Sources;

/// The secrets that the zone's own sources have.
pub(super) fn resolve_all(sources: &Sources, zone: &Zone) -> Result<HashMap<CredentialName, SecretBytes>, Refusal> {
    let ours = zone.credentials().iter().filter(|credential| !matches!(credential.source, Source::Api(_)));
    ours.map(|credential| Ok((credential.name.clone(), sources.resolve(credential)?))).collect()
}

/// What stands for each secret of a session in its sandbox.
pub(super) fn issue(zone: &Zone, secrets: &HashMap<CredentialName, SecretBytes>, variables: &Variables) -> Vec<Issued> {
    let issue = |credential: &Credential| {
        let length = secrets.get(&credential.name)?.len();
        let placeholder = Placeholder::issue(length, None);
        let (credential, env) = (credential.name.to_string(), credential.env.clone());
        Some(Issued { credential, env, placeholder, repository: None })
    };
    let for_repository = |token: &RepositoryToken| {
        let placeholder = Placeholder::issue(secrets.get(token.credential())?.len(), None);
        let (credential, repository) = (token.credential().to_string(), Some(token.clone()));
        Some(Issued { credential, env: None, placeholder, repository })
    };
    // Nothing in a sandbox stands for a client certificate.
    let named = zone.credentials().iter().filter(|credential| !credential.is_client_certificate());
    named.filter_map(issue).chain(variables.repositories().filter_map(for_repository)).collect()
}
