//! The fields of a credential's `auth`, all kinds in one: which belong to which is checked after parsing, so that an
//! error names its place and no derived parser keeps a copy of a secret.

use postern_model::vault::{InjectionLocation, Networking, TokenEndpointAuth, allowed_hosts};
use postern_model::{Field, Problem, Timestamp};
use postern_secret::seal::Sealed;
use postern_secret::{Secret, SecretBytes, Weak, admit};
use serde::{Deserialize, Deserializer};

/// A secret of a body.
#[derive(Debug)]
pub(crate) struct Plain(SecretBytes);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text.into_bytes())))
    }
}

/// A secret as it came.
#[derive(Debug)]
pub(crate) enum Given {
    /// In the clear, to be sealed at once.
    Plain(SecretBytes),
    /// Sealed by the client: nobody here could say what it is.
    Sealed(Box<Sealed>),
}

impl Plain {
    /// The secret, when it is strong enough to be scrubbed from answers.
    #[expect(clippy::disallowed_methods, reason = "its strength shows in its bytes alone")]
    pub(crate) fn admitted(self, place: &str) -> Result<SecretBytes, Problem> {
        let weak = |why: &str| Problem::invalid_at(place, why).with_code("secret_weak");
        match admit(self.0.expose().clone(), false) {
            Ok(secret) => Ok(secret),
            Err(Weak::Unscrubbable | Weak::TooShort) => {
                Err(weak("must have at least 16 bytes, or answers cannot be scrubbed of it"))
            }
            Err(Weak::TooLong) => Err(weak("is longer than any secret that a request could carry")),
            Err(Weak::TooUniform) => {
                Err(weak("must have at least 8 different bytes, or answers cannot be scrubbed of it"))
            }
            Err(Weak::Guessable) => Err(weak("is a well-known sample or guess")),
        }
    }

    /// The secret, when it is strong and fits a header as one word.
    #[expect(clippy::disallowed_methods, reason = "whether it fits a header shows in its bytes alone")]
    pub(crate) fn token(self, place: &str) -> Result<SecretBytes, Problem> {
        if !self.0.expose().iter().all(u8::is_ascii_graphic) {
            return Err(Problem::invalid_at(place, "must be printable ASCII without blanks: it goes into a header"));
        }
        self.admitted(place)
    }
}

/// Every field that the `auth` of some kind has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthInput {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) mcp_server_url: Field<String>,
    #[serde(default)]
    pub(crate) token: Field<Plain>,
    #[serde(default)]
    pub(crate) access_token: Field<Plain>,
    #[serde(default)]
    pub(crate) expires_at: Field<String>,
    #[serde(default)]
    pub(crate) refresh: Field<RefreshInput>,
    #[serde(default)]
    pub(crate) secret_name: Field<String>,
    #[serde(default)]
    pub(crate) secret_value: Field<Plain>,
    #[serde(default)]
    pub(crate) networking: Field<NetworkingInput>,
    #[serde(default)]
    pub(crate) injection_location: Field<LocationInput>,
    /// The token, access token or value, in place of the field that has it in the clear.
    #[serde(default)]
    pub(crate) sealed: Field<Sealed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefreshInput {
    #[serde(default)]
    pub(crate) client_id: Field<String>,
    #[serde(default)]
    pub(crate) refresh_token: Field<Plain>,
    #[serde(default)]
    pub(crate) token_endpoint: Field<String>,
    #[serde(default)]
    pub(crate) token_endpoint_auth: Field<EndpointAuthInput>,
    #[serde(default)]
    pub(crate) resource: Field<String>,
    #[serde(default)]
    pub(crate) scope: Field<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointAuthInput {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    pub(crate) client_secret: Field<Plain>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkingInput {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    allowed_hosts: Field<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocationInput {
    #[serde(default)]
    header: Field<bool>,
    #[serde(default)]
    body: Field<bool>,
}

impl AuthInput {
    /// Refuses what was sent and is not among `fields`.
    pub(crate) fn only(&self, fields: &[&str]) -> Result<(), Problem> {
        let sent = [
            ("mcp_server_url", self.mcp_server_url.is_absent()),
            ("token", self.token.is_absent()),
            ("access_token", self.access_token.is_absent()),
            ("expires_at", self.expires_at.is_absent()),
            ("refresh", self.refresh.is_absent()),
            ("secret_name", self.secret_name.is_absent()),
            ("secret_value", self.secret_value.is_absent()),
            ("networking", self.networking.is_absent()),
            ("injection_location", self.injection_location.is_absent()),
        ];
        // `sealed` belongs to every kind.
        match sent.iter().find(|(name, absent)| !absent && !fields.contains(name)) {
            Some((name, _)) => Err(Problem::invalid_at(
                &format!("auth.{name}"),
                "this field does not belong here: it is another type's, or fixed at creation",
            )),
            None => Ok(()),
        }
    }
}

impl AuthInput {
    /// The kind's own secret: sealed by the client, or in the clear in its field.
    pub(crate) fn value(
        &mut self,
        plain: Field<Plain>,
        place: &str,
        admit: impl Fn(Plain, &str) -> Result<SecretBytes, Problem>,
    ) -> Result<Option<Given>, Problem> {
        let sealed = unless_null(std::mem::take(&mut self.sealed), "auth.sealed")?;
        match (sealed, unless_null(plain, place)?) {
            (Some(_), Some(_)) => {
                Err(Problem::invalid_at("auth.sealed", format!("stands in place of `{place}`; send one of them")))
            }
            (Some(sealed), None) => Ok(Some(Given::Sealed(Box::new(sealed)))),
            (None, plain) => Ok(plain.map(|plain| admit(plain, place)).transpose()?.map(Given::Plain)),
        }
    }
}

/// What must be there.
pub(crate) fn required<T>(value: Option<T>, place: &str) -> Result<T, Problem> {
    value.ok_or_else(|| Problem::invalid_at(place, "is required"))
}

impl EndpointAuthInput {
    pub(crate) fn kind(&self) -> Result<TokenEndpointAuth, Problem> {
        match self.kind.as_str() {
            "none" => Ok(TokenEndpointAuth::None {}),
            "client_secret_basic" => Ok(TokenEndpointAuth::ClientSecretBasic {}),
            "client_secret_post" => Ok(TokenEndpointAuth::ClientSecretPost {}),
            _ => Err(Problem::invalid_at(
                "auth.refresh.token_endpoint_auth.type",
                "must be `none`, `client_secret_basic` or `client_secret_post`",
            )),
        }
    }
}

impl NetworkingInput {
    pub(crate) fn checked(self) -> Result<Networking, Problem> {
        match (self.kind.as_str(), self.allowed_hosts) {
            ("unrestricted", Field::Absent) => Ok(Networking::Unrestricted {}),
            ("unrestricted", _) => {
                Err(Problem::invalid_at("auth.networking.allowed_hosts", "belongs to `limited` networking"))
            }
            ("limited", Field::Value(hosts)) => Ok(Networking::Limited { allowed_hosts: allowed_hosts(hosts)? }),
            ("limited", _) => Err(Problem::invalid_at("auth.networking.allowed_hosts", "is required with `limited`")),
            _ => Err(Problem::invalid_at("auth.networking.type", "must be `unrestricted` or `limited`")),
        }
    }
}

impl LocationInput {
    /// The places after this body: a field that was left out reads `otherwise`.
    pub(crate) fn over(self, otherwise: InjectionLocation) -> Result<InjectionLocation, Problem> {
        let location = InjectionLocation {
            header: place("auth.injection_location.header", self.header, otherwise.header)?,
            body: place("auth.injection_location.body", self.body, otherwise.body)?,
        };
        if !location.header && !location.body {
            return Err(Problem::invalid_at("auth.injection_location", "at least one location must be enabled"));
        }
        Ok(location)
    }
}

fn place(name: &str, sent: Field<bool>, otherwise: bool) -> Result<bool, Problem> {
    match sent {
        Field::Absent => Ok(otherwise),
        Field::Null => Err(Problem::invalid_at(name, "must not be null; leave it out")),
        Field::Value(value) => Ok(value),
    }
}

/// A field that must be there.
pub(crate) fn needed<T>(field: Field<T>, place: &str) -> Result<T, Problem> {
    field.value().ok_or_else(|| Problem::invalid_at(place, "is required"))
}

/// A field that may be left out and never be null.
pub(crate) fn unless_null<T>(field: Field<T>, place: &str) -> Result<Option<T>, Problem> {
    match field {
        Field::Null => Err(Problem::invalid_at(place, "cannot be cleared; leave it out, or archive the credential")),
        other => Ok(other.value()),
    }
}

/// A text within its limits.
pub(crate) fn text(text: String, place: &str) -> Result<String, Problem> {
    if (1..=MAX_TEXT).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        return Ok(text);
    }
    Err(Problem::invalid_at(place, format!("must have 1 to {MAX_TEXT} characters and no control characters")))
}

/// An instant after `now`.
pub(crate) fn future(text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    let at: Timestamp =
        text.parse().map_err(|_| Problem::invalid_at("auth.expires_at", "must be an RFC 3339 time with an offset"))?;
    if at <= now {
        return Err(Problem::invalid_at("auth.expires_at", "must be in the future"));
    }
    Ok(at)
}

const MAX_TEXT: usize = 2048;
