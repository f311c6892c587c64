//! A changed credential: secrets are replaced, the binding stays or narrows. What a sealed value is bound to cannot
//! widen, because nobody here could seal it again.

use postern_model::vault::{CredentialAuth, OauthRefresh, SecretPart, TokenEndpointAuth, covers};
use postern_model::{Field, Problem, Timestamp};
use postern_secret::seal::Places;
use postern_store::credentials::Bound;

use super::auth::{bound_hosts, kind, scope};
use super::parts::{AuthInput, Given, Plain, RefreshInput, future, unless_null};

/// A credential's `auth` after an update.
#[derive(Debug)]
pub(crate) struct ChangedAuth {
    /// What is shown.
    pub(crate) auth: CredentialAuth,
    /// The hosts its value is bound to.
    pub(crate) hosts: Vec<String>,
    /// The places its value is bound to.
    pub(crate) injection: Option<Places>,
    /// What is to be sealed.
    pub(crate) secrets: Vec<(SecretPart, Given)>,
}

/// What the stored value is bound to and an update can narrow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed<'a> {
    pub(crate) hosts: &'a [String],
    pub(crate) injection: Option<Places>,
}

impl ChangedAuth {
    /// Applies what was sent to what is stored.
    ///
    /// # Errors
    /// 400 naming the place; no value is repeated.
    pub(crate) fn new(
        stored: &CredentialAuth,
        sealed: Sealed<'_>,
        input: Field<AuthInput>,
        now: Timestamp,
    ) -> Result<Self, Problem> {
        let Sealed { hosts, injection } = sealed;
        let mut changed = Self { auth: stored.clone(), hosts: hosts.to_vec(), injection, secrets: Vec::new() };
        let Some(mut input) = unless_null(input, "auth")? else { return Ok(changed) };
        if kind(&input.kind)? != stored.kind() {
            let message = format!("the credential is of type `{}`, which cannot change", stored.kind().as_str());
            return Err(Problem::invalid_at("auth.type", message));
        }
        match stored {
            CredentialAuth::StaticBearer { .. } => changed.static_bearer(&mut input)?,
            CredentialAuth::McpOauth { .. } => changed.mcp_oauth(&mut input, now)?,
            CredentialAuth::EnvironmentVariable { .. } => changed.environment_variable(&mut input)?,
        }
        Ok(changed)
    }

    fn static_bearer(&mut self, input: &mut AuthInput) -> Result<(), Problem> {
        input.only(&["token"])?;
        let token = std::mem::take(&mut input.token);
        let token = input.value(token, "auth.token", Plain::token)?;
        self.secrets.extend(token.map(|token| (SecretPart::Value, token)));
        Ok(())
    }

    fn mcp_oauth(&mut self, input: &mut AuthInput, now: Timestamp) -> Result<(), Problem> {
        input.only(&["access_token", "expires_at", "refresh"])?;
        let place = "auth.access_token";
        let token = std::mem::take(&mut input.access_token);
        let token = input.value(token, place, Plain::token)?;
        self.secrets.extend(token.map(|token| (SecretPart::Value, token)));
        let CredentialAuth::McpOauth { expires_at, refresh, .. } = &mut self.auth else { return Ok(()) };
        match std::mem::take(&mut input.expires_at) {
            Field::Absent => {}
            Field::Null => *expires_at = None,
            Field::Value(text) => *expires_at = Some(future(&text, now)?),
        }
        if let Some(input) = unless_null(std::mem::take(&mut input.refresh), "auth.refresh")? {
            let refresh = refresh.as_mut().ok_or_else(|| {
                Problem::invalid_at("auth.refresh", "this credential was created without refresh; create another one")
            })?;
            change_refresh(refresh, input, &mut self.secrets)?;
        }
        Ok(())
    }

    fn environment_variable(&mut self, input: &mut AuthInput) -> Result<(), Problem> {
        input.only(&["secret_value", "networking", "injection_location"])?;
        let CredentialAuth::EnvironmentVariable { networking, injection_location, .. } = &mut self.auth else {
            return Ok(());
        };
        if let Some(sent) = unless_null(std::mem::take(&mut input.networking), "auth.networking")? {
            *networking = sent.checked()?;
        }
        if let Some(location) = unless_null(std::mem::take(&mut input.injection_location), "auth.injection_location")? {
            *injection_location = location.over(*injection_location)?;
        }
        let hosts = bound_hosts(networking);
        let place = "auth.secret_value";
        let value = std::mem::take(&mut input.secret_value);
        if let Some(value) = input.value(value, place, Plain::admitted)? {
            self.secrets.push((SecretPart::Value, value));
            self.hosts = hosts;
            self.injection = Bound::new(&self.auth).injection;
            return Ok(());
        }
        self.narrows(&hosts)
    }

    /// A value that is sealed already goes no further than it was sealed for: whoever wants that sends it again.
    fn narrows(&self, hosts: &[String]) -> Result<(), Problem> {
        if !covers(&self.hosts, hosts) {
            let message = "the stored secret is sealed to fewer hosts than these; send `secret_value` again with them";
            return Err(Problem::invalid_at("auth.networking", message).with_code("credential_widened"));
        }
        match (Bound::new(&self.auth).injection, self.injection) {
            (Some(asked), Some(sealed)) if !asked.within(sealed) => {
                let message =
                    "the stored secret is sealed to fewer places than these; send `secret_value` again with them";
                Err(Problem::invalid_at("auth.injection_location", message).with_code("credential_widened"))
            }
            _ => Ok(()),
        }
    }
}

fn change_refresh(
    stored: &mut OauthRefresh,
    input: RefreshInput,
    secrets: &mut Vec<(SecretPart, Given)>,
) -> Result<(), Problem> {
    for (name, absent) in [
        ("client_id", input.client_id.is_absent()),
        ("token_endpoint", input.token_endpoint.is_absent()),
        ("resource", input.resource.is_absent()),
    ] {
        if !absent {
            return Err(Problem::invalid_at(&format!("auth.refresh.{name}"), "is fixed at creation"));
        }
    }
    let place = "auth.refresh.refresh_token";
    if let Some(token) = unless_null(input.refresh_token, place)? {
        secrets.push((SecretPart::RefreshToken, Given::Plain(token.admitted(place)?)));
    }
    if !input.scope.is_absent() {
        stored.scope = scope(input.scope)?;
    }
    let place = "auth.refresh.token_endpoint_auth";
    let Some(sent) = unless_null(input.token_endpoint_auth, place)? else { return Ok(()) };
    let none = TokenEndpointAuth::None {};
    if sent.kind()? == none || stored.token_endpoint_auth == none {
        return Err(Problem::invalid_at(place, "`none` has no secret to change, and the type is fixed at creation"));
    }
    // The stored type stays, whichever of the two was sent with the secret.
    let place = "auth.refresh.token_endpoint_auth.client_secret";
    if let Some(secret) = unless_null(sent.client_secret, place)? {
        secrets.push((SecretPart::ClientSecret, Given::Plain(secret.admitted(place)?)));
    }
    Ok(())
}
