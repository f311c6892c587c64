//! A new credential: which fields its kind needs, what of it is shown, what is secret.

use postern_model::ids::CredentialId;
use postern_model::metadata::MetadataPatch;
use postern_model::vault::{
    CredentialAuth, CredentialKind, InjectionLocation, Networking, OauthRefresh, SecretPart, TokenEndpointAuth,
};
use postern_model::{Field, Metadata, Problem, Timestamp};
use postern_policy::gateway::normalise_mcp_url;
use serde::Deserialize;

use super::parts::{AuthInput, Given, Plain, RefreshInput, future, needed, required, text};

/// The body that creates a credential.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateCredential {
    auth: AuthInput,
    /// The id that a value was sealed with before it came here.
    #[serde(default)]
    pub(crate) id: Option<CredentialId>,
    #[serde(default)]
    pub(crate) display_name: Option<String>,
    #[serde(default)]
    pub(crate) metadata: Option<Metadata>,
}

/// The body that updates a credential.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateCredential {
    #[serde(default)]
    pub(crate) auth: Field<AuthInput>,
    #[serde(default)]
    pub(crate) display_name: Field<String>,
    #[serde(default)]
    pub(crate) metadata: Field<MetadataPatch>,
}

/// A new credential's `auth`, taken apart.
#[derive(Debug)]
pub(crate) struct NewAuth {
    /// What is shown.
    pub(crate) auth: CredentialAuth,
    /// What only one active credential of a vault may have.
    pub(crate) key: String,
    /// The hosts its value is bound to.
    pub(crate) hosts: Vec<String>,
    /// The normalised URL it is bound to.
    pub(crate) mcp_url: Option<String>,
    /// The token endpoint it is bound to.
    pub(crate) token_endpoint: Option<String>,
    /// What is to be sealed.
    pub(crate) secrets: Vec<(SecretPart, Given)>,
}

impl CreateCredential {
    /// The `auth` taken apart.
    ///
    /// # Errors
    /// 400 naming the place; no value is repeated.
    pub(crate) fn auth(&mut self, now: Timestamp) -> Result<NewAuth, Problem> {
        let kind = kind(&self.auth.kind)?;
        match kind {
            CredentialKind::StaticBearer => static_bearer(&mut self.auth),
            CredentialKind::McpOauth => mcp_oauth(&mut self.auth, now),
            CredentialKind::EnvironmentVariable => environment_variable(&mut self.auth),
        }
    }
}

pub(super) fn kind(word: &str) -> Result<CredentialKind, Problem> {
    CredentialKind::parse(word).ok_or_else(|| {
        Problem::invalid_at("auth.type", "must be `mcp_oauth`, `static_bearer` or `environment_variable`")
    })
}

fn static_bearer(input: &mut AuthInput) -> Result<NewAuth, Problem> {
    input.only(&["mcp_server_url", "token"])?;
    let (mcp_server_url, url) = server_url(input)?;
    let token = std::mem::take(&mut input.token);
    let token = required(input.value(token, "auth.token", Plain::token)?, "auth.token")?;
    Ok(NewAuth {
        auth: CredentialAuth::StaticBearer { mcp_server_url },
        key: url_key(&url),
        hosts: Vec::new(),
        mcp_url: Some(url),
        token_endpoint: None,
        secrets: vec![(SecretPart::Value, token)],
    })
}

fn mcp_oauth(input: &mut AuthInput, now: Timestamp) -> Result<NewAuth, Problem> {
    input.only(&["mcp_server_url", "access_token", "expires_at", "refresh"])?;
    let (mcp_server_url, url) = server_url(input)?;
    let access_token = std::mem::take(&mut input.access_token);
    let access_token = required(input.value(access_token, "auth.access_token", Plain::token)?, "auth.access_token")?;
    let expires_at = std::mem::take(&mut input.expires_at).value().map(|text| future(&text, now)).transpose()?;
    let mut secrets = vec![(SecretPart::Value, access_token)];
    let refresh = std::mem::take(&mut input.refresh).value();
    let refresh = refresh.map(|refresh| oauth_refresh(refresh, &mut secrets)).transpose()?;
    Ok(NewAuth {
        key: url_key(&url),
        hosts: Vec::new(),
        mcp_url: Some(url),
        token_endpoint: refresh.as_ref().map(|refresh| refresh.token_endpoint.clone()),
        secrets,
        auth: CredentialAuth::McpOauth { mcp_server_url, expires_at, refresh },
    })
}

fn oauth_refresh(input: RefreshInput, secrets: &mut Vec<(SecretPart, Given)>) -> Result<OauthRefresh, Problem> {
    let token = "auth.refresh.refresh_token";
    let client_id = text(needed(input.client_id, "auth.refresh.client_id")?, "auth.refresh.client_id")?;
    let refresh_token = needed(input.refresh_token, token)?.admitted(token)?;
    let token_endpoint = needed(input.token_endpoint, "auth.refresh.token_endpoint")?;
    normalise_mcp_url(&token_endpoint).map_err(|why| Problem::invalid_at("auth.refresh.token_endpoint", why))?;
    let endpoint_auth = needed(input.token_endpoint_auth, "auth.refresh.token_endpoint_auth")?;
    let token_endpoint_auth = endpoint_auth.kind()?;
    secrets.push((SecretPart::RefreshToken, Given::Plain(refresh_token)));
    let place = "auth.refresh.token_endpoint_auth.client_secret";
    match (token_endpoint_auth, endpoint_auth.client_secret) {
        (TokenEndpointAuth::None {}, Field::Absent) => {}
        (TokenEndpointAuth::None {}, _) => return Err(Problem::invalid_at(place, "does not belong to type `none`")),
        (_, client_secret) => {
            let client_secret = needed(client_secret, place)?.admitted(place)?;
            secrets.push((SecretPart::ClientSecret, Given::Plain(client_secret)));
        }
    }
    Ok(OauthRefresh {
        client_id,
        token_endpoint,
        token_endpoint_auth,
        resource: input.resource.value().map(|value| text(value, "auth.refresh.resource")).transpose()?,
        scope: scope(input.scope)?,
    })
}

/// A scope; an empty one is none.
pub(super) fn scope(sent: Field<String>) -> Result<Option<String>, Problem> {
    sent.value().filter(|scope| !scope.is_empty()).map(|scope| text(scope, "auth.refresh.scope")).transpose()
}

fn environment_variable(input: &mut AuthInput) -> Result<NewAuth, Problem> {
    input.only(&["secret_name", "secret_value", "networking", "injection_location"])?;
    let secret_name = variable(needed(std::mem::take(&mut input.secret_name), "auth.secret_name")?)?;
    let networking = needed(std::mem::take(&mut input.networking), "auth.networking")?.checked()?;
    let injection_location = match std::mem::take(&mut input.injection_location) {
        Field::Absent => InjectionLocation { header: true, body: true },
        Field::Null => {
            return Err(Problem::invalid_at("auth.injection_location", "must not be null; leave it out"));
        }
        Field::Value(location) => location.over(InjectionLocation { header: false, body: false })?,
    };
    let value = std::mem::take(&mut input.secret_value);
    let value = required(input.value(value, "auth.secret_value", Plain::admitted)?, "auth.secret_value")?;
    Ok(NewAuth {
        key: format!("variable:{secret_name}"),
        hosts: bound_hosts(&networking),
        mcp_url: None,
        token_endpoint: None,
        secrets: vec![(SecretPart::Value, value)],
        auth: CredentialAuth::EnvironmentVariable { secret_name, networking, injection_location },
    })
}

/// The hosts that a value with this networking is sealed to.
pub(super) fn bound_hosts(networking: &Networking) -> Vec<String> {
    networking.hosts()
}

/// The URL as written and as compared.
fn server_url(input: &mut AuthInput) -> Result<(String, String), Problem> {
    let written = needed(std::mem::take(&mut input.mcp_server_url), "auth.mcp_server_url")?;
    let url = normalise_mcp_url(&written).map_err(|why| Problem::invalid_at("auth.mcp_server_url", why))?;
    Ok((written, url))
}

fn url_key(url: &str) -> String {
    format!("url:{url}")
}

fn variable(name: String) -> Result<String, Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits =
        (1..=MAX_VARIABLE).contains(&name.len()) && name.bytes().all(plain) && !name.as_bytes()[0].is_ascii_digit();
    match fits {
        true => Ok(name),
        false => Err(Problem::invalid_at(
            "auth.secret_name",
            format!("must be a variable's name: 1 to {MAX_VARIABLE} letters, digits and `_`, no digit first"),
        )),
    }
}

const MAX_VARIABLE: usize = 255;
