//! Whether a vault's OAuth credential works: `initialize` and `tools/list` at the MCP server that it is sealed for, and a refresh where the server does not
//! accept the access token. No tool is called, and nothing of a success is shown.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use postern_audit::{Decision, Destination, Kind, Record};
use postern_custody::{RouteGrant, RoutePurpose};
use postern_model::{
    control::OauthValidated,
    vault::{CapturedResponse, McpProbe, Verdict},
};
use postern_net::sse::Decoder;
use postern_policy::{
    Denial, Reason, RoutePermit,
    gateway::{HeaderFormat, Route, RouteCredential, normalise_mcp_url},
};
use postern_secret::{SecretBytes, seal::SealedCredential};
use serde_json::{Value, json};

use super::{
    Credential, captured,
    once::{self, Answer, is_plain},
    refused,
    renew::{self, Outcome},
};
use crate::{
    body,
    gateway::{Gateway, Rules},
    keyring::Keyring,
    limits,
    phases::{credential::render, forward::MCP_SESSION, record},
};

/// A step that did not succeed.
struct Failed {
    method: &'static str,
    why: Why,
}

enum Why {
    /// The server said something else than a result.
    Answered(StatusCode, CapturedResponse),
    /// Nobody answered, or nobody was asked.
    Denied(Denial),
}

impl Failed {
    fn is_unauthorized(&self) -> bool {
        matches!(self.why, Why::Answered(StatusCode::UNAUTHORIZED, _))
    }

    /// What the failed step says of the credential (contract 8.2).
    fn verdict(&self) -> Verdict {
        match &self.why {
            Why::Answered(status, _) if status.is_client_error() && !is_passing(*status) => Verdict::Invalid,
            Why::Answered(..) | Why::Denied(_) => Verdict::Unknown,
        }
    }

    fn into_probe(self) -> (McpProbe, Option<Denial>) {
        let (http_response, denial) = match self.why {
            Why::Answered(_, response) => (Some(response), None),
            Why::Denied(denial) => (None, Some(denial)),
        };
        (McpProbe { method: self.method.to_owned(), http_response }, denial)
    }
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// Finds out.
pub(super) async fn validate(gateway: &Gateway, credential: &Credential) -> OauthValidated {
    let Err(failed) = probe(gateway, &credential.access).await else {
        return OauthValidated { status: Verdict::Valid, mcp_probe: None, refresh: None, reason: None };
    };
    if !failed.is_unauthorized() {
        return ended(failed, None);
    }
    let outcome = renew::renew(gateway, credential).await;
    let refreshed = match &outcome {
        Outcome::Renewed(renewed) => {
            let access = SealedCredential { sealed: renewed.access.clone(), ..credential.access.clone() };
            Some(probe(gateway, &access).await)
        }
        Outcome::Refused(..) | Outcome::Unasked(_) | Outcome::NoRefreshToken => None,
    };
    match refreshed {
        Some(Ok(())) => OauthValidated {
            status: Verdict::Valid,
            mcp_probe: None,
            refresh: Some(outcome.into_report()),
            reason: None,
        },
        Some(Err(again)) => ended(again, Some(outcome)),
        None => ended(failed, Some(outcome)),
    }
}

fn ended(failed: Failed, outcome: Option<Outcome>) -> OauthValidated {
    let status = match &outcome {
        // That the access token is refused says little where nobody could be asked for another.
        Some(Outcome::Unasked(_)) => Verdict::Unknown,
        Some(Outcome::Refused(denial, _)) if !renew::is_lasting(denial) => Verdict::Unknown,
        Some(_) | None => failed.verdict(),
    };
    let (mcp_probe, denial) = failed.into_probe();
    let refresh = outcome.map(Outcome::into_report);
    let reason = denial.as_ref().map(refused).or_else(|| refresh.as_ref().and_then(|refresh| refresh.reason.clone()));
    OauthValidated { status, mcp_probe: Some(mcp_probe), refresh, reason }
}

/// Both requests, with what custody opens for them.
async fn probe(gateway: &Gateway, access: &SealedCredential) -> Result<(), Failed> {
    let name = &access.binding.credential;
    // No session's: what custody remembers under it is forgotten at the end.
    let session = format!("validation of {name}");
    let rules = gateway.rules();
    let begun = begin(gateway, &rules, &session, access).await;
    let (server, record) = begun.map_err(|denial| Failed { method: INITIALIZE, why: Why::Denied(denial) })?;
    let ended = server.probe(gateway).await;
    let mut outcome = Record { kind: Kind::McpOutcome, decision: Decision::Info, ..record };
    outcome.outcome = Some(match &ended {
        Ok(()) => "the credential was accepted".to_owned(),
        Err(Failed { method, why: Why::Answered(status, _) }) => format!("{method} was answered with {status}"),
        Err(Failed { method, why: Why::Denied(denial) }) => format!("{method}: {}", denial.reason.code()),
    });
    let _logged = record::write(gateway, outcome).await;
    if let Err(denial) = gateway.custody.close(&session).await {
        tracing::warn!(credential = name, reason = %denial.reason, "custody did not hear that a validation is over");
    }
    ended
}

/// The MCP server of a credential, and its access token.
struct Server {
    route: Arc<Route>,
    permit: RoutePermit,
    bearer: HeaderValue,
    keyring: Keyring,
}

async fn begin(
    gateway: &Gateway,
    rules: &Rules,
    session: &str,
    access: &SealedCredential,
) -> Result<(Server, Record), Denial> {
    let url = access.binding.mcp_url.as_deref().unwrap_or_default();
    let url = normalise_mcp_url(url).map_err(|_| Denial::new(Reason::RouteUnknown))?;
    let route = route_of(gateway, rules, &url).ok_or_else(|| Denial::new(Reason::RouteUnknown))?;
    if route.credential != Some(RouteCredential::Api) {
        return Err(Denial::new(Reason::CredentialNotForRoute));
    }
    let permit = route.permit(&rules.routes.probe(&route, INITIALIZE)?)?;
    let record = record_of(&route, access, rules);
    if !postern_danger::off!("audit-before-act") {
        record::write(gateway, record.clone()).await?;
    }
    let grant = RouteGrant {
        route: route.name.clone(),
        routes_digest: rules.routes.digest().to_owned(),
        session: session.to_owned(),
        agent: None,
        tool_use: None,
        purpose: RoutePurpose::Validation,
        mcp_url: url,
        sealed: Some(access.clone()),
    };
    let secret = gateway.custody.grant(grant).await?;
    let bearer = render(&HeaderFormat::bearer(), &secret)?;
    let keyring = Keyring::default().with(vec![SecretBytes::duplicate(&secret)]);
    let keyring = keyring.expect("one secret is fewer than a keyring holds");
    Ok((Server { route, permit, bearer, keyring }, record))
}

/// The route that stands for a public URL, or whose name is the label before the tunnel's domain.
fn route_of(gateway: &Gateway, rules: &Rules, url: &str) -> Option<Arc<Route>> {
    if let Some(route) = rules.routes.by_url(url) {
        return Some(Arc::clone(route));
    }
    let domain = gateway.link().domain?;
    let host = url.strip_prefix("https://")?.split(['/', '?', ':']).next()?;
    let label = host.strip_suffix(domain.as_str())?.strip_suffix('.')?;
    rules.routes.by_host_label(label).map(Arc::clone)
}

fn record_of(route: &Route, access: &SealedCredential, rules: &Rules) -> Record {
    let mut record = Record::new(Kind::McpCall, Decision::Allow);
    record.credential = Some(access.binding.credential.clone());
    record.rule = Some(postern_policy::gateway::PROBE_RULE.to_owned());
    record.digests.insert("policy".to_owned(), rules.routes.digest().to_owned());
    record.destination = Some(Destination {
        scheme: Some("mcp".to_owned()),
        host: Some(route.name.clone()),
        method: Some("initialize, tools/list".to_owned()),
        ..Destination::default()
    });
    record
}

impl Server {
    async fn probe(&self, gateway: &Gateway) -> Result<(), Failed> {
        let hello = json!({"jsonrpc": "2.0", "id": 1, "method": INITIALIZE, "params": {
            "protocolVersion": PROTOCOL, "capabilities": {},
            "clientInfo": {"name": "postern-validation", "version": env!("CARGO_PKG_VERSION")}}});
        let answer = self.ask(gateway, INITIALIZE, &hello, None).await?;
        let session = answer.headers.get(MCP_SESSION).cloned();
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        // A server that minds says so to the next request.
        let _answer = self.post(gateway, &initialized, session.as_ref()).await;
        let list = json!({"jsonrpc": "2.0", "id": 2, "method": TOOLS_LIST});
        let listed = self.ask(gateway, TOOLS_LIST, &list, session.as_ref()).await.map(drop);
        if let Some(session) = session {
            let request = self.request(Method::DELETE, Bytes::new(), Some(&session));
            let (patience, most) = (gateway.bounds.validation, limits::SHOWN_BYTES);
            if let Ok(request) = request {
                // Servers that end no sessions refuse it.
                let _ended = once::send(gateway, &self.permit, request, patience, most, |_, _| true).await;
            }
        }
        listed
    }

    /// Sends a request and sees whether a result came.
    async fn ask(
        &self,
        gateway: &Gateway,
        method: &'static str,
        message: &Value,
        session: Option<&HeaderValue>,
    ) -> Result<Answer, Failed> {
        let answer = self.post(gateway, message, session).await;
        let answer = answer.map_err(|denial| Failed { method, why: Why::Denied(denial) })?;
        if answer.status.is_success() && has_result(&answer.headers, &answer.body, &message["id"]) {
            return Ok(answer);
        }
        let shown = captured::of_server(&answer, &self.keyring);
        Err(Failed { method, why: Why::Answered(answer.status, shown) })
    }

    async fn post(&self, gateway: &Gateway, message: &Value, session: Option<&HeaderValue>) -> Result<Answer, Denial> {
        let request = self.request(Method::POST, Bytes::from(message.to_string()), session)?;
        let (patience, most) = (gateway.bounds.validation.min(self.route.timeout), limits::VALIDATION_BYTES);
        let enough = |headers: &HeaderMap, body: &[u8]| has_result(headers, body, &message["id"]);
        once::send(gateway, &self.permit, request, patience, most, enough).await
    }

    fn request(
        &self,
        method: Method,
        body: Bytes,
        session: Option<&HeaderValue>,
    ) -> Result<Request<body::Body>, Denial> {
        let mut request = Request::new(if body.is_empty() { body::empty() } else { body::full(body) });
        *request.method_mut() = method;
        *request.uri_mut() = self.route.path.parse().map_err(|_| Denial::new(Reason::RequestMalformed))?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert("mcp-protocol-version", HeaderValue::from_static(PROTOCOL));
        headers.insert(header::AUTHORIZATION, self.bearer.clone());
        if let Some(session) = session {
            headers.insert(MCP_SESSION, session.clone());
        }
        Ok(request)
    }
}

/// Whether a result for this request stands in what came so far, in either of MCP's two forms.
fn has_result(headers: &HeaderMap, body: &[u8], id: &Value) -> bool {
    if id.is_null() || !is_plain(headers) {
        return false;
    }
    let is_it = |text: &[u8]| {
        serde_json::from_slice::<Value>(text)
            .is_ok_and(|message| message["id"] == *id && message.get("result").is_some())
    };
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with(b"text/event-stream") {
        return is_it(body);
    }
    let mut decoder = Decoder::new(limits::VALIDATION_BYTES, limits::VALIDATION_BYTES);
    decoder.push(body).is_ok_and(|events| events.iter().any(|event| is_it(event.data.as_bytes())))
}

const INITIALIZE: &str = "initialize";
const TOOLS_LIST: &str = "tools/list";
const PROTOCOL: &str = "2025-06-18";
