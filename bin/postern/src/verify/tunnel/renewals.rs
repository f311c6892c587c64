//! New tokens for a vault's OAuth credential, asked of the gateway by a control plane that may lie, and the same exchange made at the token endpoint itself. The tokens are
//! canaries; their parts are sealed here as a server seals them, to the gateway's own perimeter.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::LOCATION;
use http::{Request, StatusCode};
use http_body_util::Full;
use postern_audit::{Entry, Record};
use postern_engine::control::CommandFailure;
use postern_model::control::{CommandBody, OauthParts, OauthRefreshParts, Reply};
use postern_net::client::HttpClient;
use postern_net::tls::TlsRoots;
use postern_policy::{Endpoint, configured};
use postern_secret::SecretBytes;
use postern_secret::seal::{Binding, PerimeterPublicKey, Recipient, RefreshTerms, Sealed, SealedCredential, seal};
use postern_testkit::token_endpoint::{SLOW, TokenEndpoint};
use postern_verify::catalogue::Outcome;
use postern_verify::gateway::{Aftermath, Ask, Attempted, Called, Forgery, Renewal};

use super::{canary, messages};
use crate::failure::{Failure, Or};
use crate::rig::Rig;

/// The token endpoint and what it deals in.
pub(super) struct Login {
    pub(super) endpoint: TokenEndpoint,
    /// Another one, with a certificate of another authority than the one that the gateway's file names for it.
    pub(super) impostor: TokenEndpoint,
    /// The access token that the credential has.
    pub(super) access: String,
    /// The refresh token that it has.
    pub(super) refresh: String,
    /// The client's secret.
    secret: String,
    /// The access token that the endpoint issues.
    pub(super) issued: String,
}

impl Login {
    pub(super) async fn start() -> Result<Self, Failure> {
        let issued = canary()?;
        let start = async || TokenEndpoint::start(&issued).await.or_misused("start a token endpoint");
        let (endpoint, impostor) = (start().await?, start().await?);
        Ok(Self { endpoint, impostor, access: canary()?, refresh: canary()?, secret: canary()?, issued })
    }

    /// The endpoint that has this manner.
    fn having(&self, manner: &str) -> &TokenEndpoint {
        if manner == IMPOSTOR { &self.impostor } else { &self.endpoint }
    }

    /// Everything that nobody may see.
    pub(super) fn canaries(&self) -> [&str; 4] {
        [&self.access, &self.refresh, &self.secret, &self.issued]
    }

    /// Makes the renewals, one after the other. One that cannot be made is missing.
    pub(super) async fn renewals(&self, rig: &Rig, audit: &Path, attempts: &[Attempted]) -> Vec<(String, Called)> {
        let mut called = Vec::new();
        for attempt in attempts {
            let Ask::Renewal(renewal) = &attempt.ask else { continue };
            let name = format!("{OURS}{}_", attempt.id);
            let (inside, outside) =
                tokio::join!(self.asked(rig, &name, renewal, attempt.leak), self.by_hand(renewal, attempt.leak));
            match inside.and_then(|inside| Ok((inside, outside?))) {
                Ok((inside, outside)) => {
                    let records = records(audit, &name);
                    let reasons = records.iter().filter_map(super::reason).collect();
                    let alarms = records.iter().filter_map(postern_verify::alarm).map(str::to_owned).collect();
                    called.push((attempt.id.clone(), Called { inside, outside, reasons, alarms }));
                }
                Err(failure) => tracing::warn!(probe = attempt.id, %failure, "a renewal was not made"),
            }
        }
        called
    }

    /// Over the control stream.
    async fn asked(&self, rig: &Rig, name: &str, renewal: &Renewal, leak: bool) -> Result<Outcome, Failure> {
        let parts = self.parts(rig, name, renewal).await?;
        let answer = rig.command(CommandBody::OauthRefresh { parts: Box::new(parts) }).await;
        let refreshed = match answer {
            Ok(Reply::OauthRefreshed(refreshed)) => refreshed,
            Err(CommandFailure::Refused(refusal)) => return Ok(Outcome::new(format!("refused {}", refusal.code))),
            Ok(_) => return Err(Failure::Unreachable("the gateway answered another question".into())),
            Err(failure) => return Err(failure).or_unreachable("have tokens renewed"),
        };
        let shown = serde_json::to_string(&refreshed).or_misused("read what the gateway answered")?;
        Ok(Outcome::new(match &refreshed.reason {
            _ if leak && self.is_in(shown.as_bytes()) => "leaked".to_owned(),
            Some(refusal) => format!("refused {}", refusal.code),
            None if leak => "clean".to_owned(),
            None => "made".to_owned(),
        }))
    }

    /// At the endpoint itself, by a client that goes where it is sent and hears everything.
    async fn by_hand(&self, renewal: &Renewal, leak: bool) -> Result<Outcome, Failure> {
        let endpoint = self.having(&renewal.endpoint);
        let client = client(endpoint)?;
        let (manner, token) = match renewal.forged {
            Some(Forgery::Endpoint) => (SECOND, &self.refresh),
            Some(Forgery::AccessAsRefresh) => (renewal.endpoint.as_str(), &self.access),
            Some(_) | None => (renewal.endpoint.as_str(), &self.refresh),
        };
        let form = format!("grant_type=refresh_token&client_id={BY_HAND}&refresh_token={token}");
        let mut place = format!("/{manner}/token");
        loop {
            let request = Request::post(&place).header("content-type", "application/x-www-form-urlencoded");
            let request = request.body(Full::new(Bytes::from(form.clone()))).or_misused("make a request")?;
            let answer = client.request(request, PATIENCE).await.or_unreachable("ask a token endpoint")?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            if let Some(to) = headers.get(LOCATION).and_then(|to| to.to_str().ok()).filter(|_| status.is_redirection())
            {
                place = to.strip_prefix(&format!("https://{}", endpoint.address)).unwrap_or(to).to_owned();
                continue;
            }
            let mut said: Vec<u8> = headers.values().flat_map(|value| value.as_bytes().iter().copied()).collect();
            said.extend(answer.into_body().bytes(MOST).await.or_unreachable("read a token endpoint's answer")?);
            return Ok(Outcome::new(match status {
                _ if leak && self.is_in(&said) => "leaked".to_owned(),
                StatusCode::OK if leak => "clean".to_owned(),
                StatusCode::OK => "made".to_owned(),
                other => format!("status {}", other.as_u16()),
            }));
        }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        !postern_secret::canary::search(bytes, &self.canaries().map(str::as_bytes)).is_empty()
    }

    /// The credential's parts, with what the attempt changes of them.
    async fn parts(&self, rig: &Rig, name: &str, renewal: &Renewal) -> Result<OauthParts, Failure> {
        let to = rig.perimeter_public_key().await?;
        let own = Binding {
            client_id: Some(CLIENT.to_owned()),
            credential: format!("{name}own"),
            hosts: Vec::new(),
            injection: None,
            kind: ACCESS.to_owned(),
            mcp_url: Some(match renewal.forged {
                Some(Forgery::Server) => "https://mcp.nobody.example/mcp".to_owned(),
                _ => messages::url_of(rig, "vault"),
            }),
            refresh: Some(terms()),
            secret_name: None,
            token_endpoint: Some(self.having(&renewal.endpoint).url(&renewal.endpoint)),
            vault: "vlt_verify".to_owned(),
            workspace: "wrkspc_rehearsal".to_owned(),
        };
        let other =
            |vault: &str| Binding { credential: format!("{name}other"), vault: vault.to_owned(), ..own.clone() };
        let foreign = |forgery, vault| if renewal.forged == Some(forgery) { other(vault) } else { own.clone() };
        let refresh_kind = if renewal.forged == Some(Forgery::AccessAsRefresh) { ACCESS } else { REFRESH };
        let refresh = if refresh_kind == ACCESS { &self.access } else { &self.refresh };
        let refresh_of = foreign(Forgery::ForeignVault, "vlt_of_another_session");
        let secret_of = foreign(Forgery::ForeignSecret, "vlt_verify");
        let part = |binding: Binding, kind: &str, value: &str| {
            let binding = Binding { kind: kind.to_owned(), ..binding };
            let mut sealed = sealed(binding, value, &to)?;
            match renewal.forged {
                Some(Forgery::Endpoint) => sealed.binding.token_endpoint = Some(self.endpoint.url(SECOND)),
                Some(Forgery::Client) => sealed.binding.client_id = Some("another-client".to_owned()),
                Some(_) | None => {}
            }
            Ok(sealed.encode())
        };
        Ok(OauthParts {
            access: part(own.clone(), ACCESS, &self.access)?,
            refresh: Some(OauthRefreshParts {
                refresh_token: part(refresh_of, refresh_kind, refresh)?,
                client_secret: Some(part(secret_of, "mcp_oauth.client_secret", &self.secret)?),
                scope: None,
            }),
        })
    }

    /// The credential's access token as a renewal of now brings it, sealed for a call.
    pub(super) async fn renewed(&self, rig: &Rig) -> Result<String, Failure> {
        let honest = Renewal { endpoint: LISTED.to_owned(), forged: None };
        let parts = self.parts(rig, "vcrd_called_", &honest).await?;
        let former = SealedCredential::decode(&parts.access).or_misused("read what was sealed")?;
        let answer = rig.command(CommandBody::OauthRefresh { parts: Box::new(parts) }).await;
        let Ok(Reply::OauthRefreshed(refreshed)) = answer else {
            return Err(Failure::Unreachable("no tokens were renewed".into()));
        };
        let renewed = refreshed.renewed.ok_or_else(|| Failure::Unreachable("no tokens were renewed".into()))?;
        let sealed: Sealed = serde_json::from_str(&renewed.access).or_misused("read a renewed token")?;
        Ok(SealedCredential { sealed, ..former }.encode())
    }

    /// The refresh token as it is sealed, but for the server of this route.
    pub(super) async fn refresh_token_for(&self, rig: &Rig, route: &str) -> Result<String, Failure> {
        let to = rig.perimeter_public_key().await?;
        let binding = Binding {
            client_id: Some(CLIENT.to_owned()),
            credential: "vcrd_called_own".to_owned(),
            hosts: Vec::new(),
            injection: None,
            kind: REFRESH.to_owned(),
            mcp_url: Some(messages::url_of(rig, route)),
            refresh: Some(terms()),
            secret_name: None,
            token_endpoint: Some(self.endpoint.url(LISTED)),
            vault: "vlt_verify".to_owned(),
            workspace: "wrkspc_rehearsal".to_owned(),
        };
        Ok(sealed(binding, &self.refresh, &to)?.encode())
    }
}

/// A client of an endpoint, whoever signed its certificate.
pub(super) fn client(endpoint: &TokenEndpoint) -> Result<HttpClient, Failure> {
    let address: Endpoint = format!("https://{}", endpoint.address).parse().or_misused("read an endpoint's address")?;
    let roots = TlsRoots::only_pem(endpoint.ca_pem.as_bytes()).or_misused("trust an endpoint")?;
    HttpClient::new(configured(&address), &roots).or_misused("prepare a client")
}

/// As the token endpoint is asked for a credential of ours.
fn terms() -> RefreshTerms {
    RefreshTerms { auth: "client_secret_post".to_owned(), resource: None }
}

fn sealed(binding: Binding, value: &str, to: &PerimeterPublicKey) -> Result<SealedCredential, Failure> {
    let recipient = Recipient { perimeter_id: "pmtr_verify".to_owned(), public_key: to.clone() };
    let sealed =
        seal(&SecretBytes::new(value.as_bytes().to_vec()), &binding, &[recipient]).or_misused("seal a token")?;
    Ok(SealedCredential { binding, sealed })
}

/// What is left when the gateway has ended.
pub(super) struct Left<'a> {
    pub(super) directory: &'a Path,
    pub(super) login: &'a Login,
}

impl Left<'_> {
    pub(super) fn seen(&self, looked: Aftermath) -> Called {
        let (inside, outside) = match looked {
            Aftermath::Elsewhere => (self.elsewhere(CLIENT), self.elsewhere(BY_HAND)),
            Aftermath::LeftBehind => {
                let planted = format!("before {} after", self.login.refresh);
                (self.holds_a_token(self.directory), word(self.login.is_in(planted.as_bytes()), "leaked", "clean"))
            }
        };
        Called { inside, outside, reasons: Vec::new(), alarms: Vec::new() }
    }

    fn elsewhere(&self, client: &str) -> Outcome {
        let mut seen = self.login.endpoint.seen().into_iter();
        word(seen.any(|exchange| exchange.manner == "elsewhere" && exchange.client_id == client), "made", "none")
    }

    fn holds_a_token(&self, directory: &Path) -> Outcome {
        let mut places = vec![directory.to_owned()];
        while let Some(place) = places.pop() {
            for path in fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path()) {
                match fs::symlink_metadata(&path) {
                    Ok(about) if about.is_dir() => places.push(path),
                    Ok(about) if about.is_file() && fs::read(&path).is_ok_and(|bytes| self.login.is_in(&bytes)) => {
                        return Outcome::new("leaked");
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Outcome::new("clean")
    }
}

fn word(found: bool, yes: &str, no: &str) -> Outcome {
    Outcome::new(if found { yes } else { no })
}

/// Whether a record is of a renewal that an attempt asked for.
pub(super) fn is_a_renewals(entry: &Entry) -> bool {
    entry.record.credential.as_deref().is_some_and(|name| name.starts_with(OURS))
}

/// What is on record of renewals of credentials with this name.
fn records(audit: &Path, name: &str) -> Vec<Record> {
    let entries = postern_audit::entries(audit).into_iter().flatten().flatten().map(|entry| entry.record);
    entries.filter(|record| record.credential.as_deref().is_some_and(|of| of.starts_with(name))).collect()
}

/// The manners of the endpoint that the gateway's file lists.
pub(super) const MANNERS: [&str; 11] = [
    LISTED,
    SECOND,
    "moved",
    "refusing-plain",
    "refusing-base64",
    "refusing-hex",
    "refusing-percent",
    "refusing-header",
    "reflecting",
    "long",
    "slow",
];
const LISTED: &str = "listed";
const SECOND: &str = "second";
pub(super) const IMPOSTOR: &str = "impostor";
/// What the names of credentials begin with that attempts renew.
const OURS: &str = "vcrd_renewal_";
const ACCESS: &str = "mcp_oauth";
const REFRESH: &str = "mcp_oauth.refresh_token";
/// Whom the tokens were issued to.
const CLIENT: &str = "verify";
/// What the control runs call themselves.
const BY_HAND: &str = "by-hand";
const PATIENCE: Duration = Duration::from_secs(SLOW.as_secs() + 10);
/// Of an answer.
const MOST: usize = 4 << 20;
