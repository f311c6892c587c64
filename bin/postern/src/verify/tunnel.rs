//! What `postern verify` asks a gateway for: a rig with the real gateway and connector, and MCP servers and a token endpoint on loopback that are as careless as some
//! are. Each message is sent through the gateway and once more to the server itself, each renewal asked for over the control stream and made once more by hand.

mod messages;
mod renewals;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use http_body_util::Full;
use postern_audit::{Decision, Kind, Record};
use postern_custody::store::Store;
use postern_model::control::CommandBody;
use postern_net::client::HttpClient;
use postern_net::tls::TlsRoots;
use postern_policy::{Endpoint, configured};
use postern_testkit::private_mcp::{Manner, PrivateMcp};
use postern_tunnel::identity::Signer;
use postern_tunnel::wire::Lane;
use postern_upstream::mcp::CREDENTIAL_HEADER;
use postern_verify::catalogue::Outcome;
use postern_verify::gateway::{Ask, Attempted, Call, Called, Caller, Calls, Carried, Route, Tunnel};
use postern_verify::{ALLOWED, OwnRules};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Value, json};

use messages::{OWN_ENVIRONMENT, Places, body, bytes, configuration, dressed, hello, name};
use renewals::{Left, Login, is_a_renewals};

use crate::config;
use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::rig::{self, Rig, message};

/// Makes the calls over a rig that stands for as long as they take.
pub(crate) struct Rigged {
    /// Where its directory is made.
    scratch: PathBuf,
    left: LeftOver,
}

/// The directory of a rig. One that was broken off still writes to it while it ends.
#[derive(Clone, Default)]
pub(crate) struct LeftOver(Arc<Mutex<Option<PathBuf>>>);

impl LeftOver {
    fn note(&self, directory: &Path) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.to_owned());
    }

    /// Removes it, if anything of it is left.
    pub(crate) async fn removed(&self) {
        let directory = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(directory) = directory {
            remove(&directory).await;
        }
    }
}

impl Tunnel for Rigged {
    fn attempt(&self, attempts: Vec<Attempted>, own: OwnRules) -> Calls<'_> {
        Box::pin(async move { self.all(attempts, own).await.map_err(|failure| failure.to_string()) })
    }
}

impl Rigged {
    /// One whose directory is made there.
    pub(crate) fn new(scratch: PathBuf) -> Self {
        Self { scratch, left: LeftOver::default() }
    }

    /// What may be left of it.
    pub(crate) fn left(&self) -> LeftOver {
        self.left.clone()
    }

    async fn all(&self, attempts: Vec<Attempted>, own: OwnRules) -> Result<BTreeMap<String, Called>, Failure> {
        let stand = Stand::set(&self.scratch, &self.left, own).await?;
        let audit = stand.audit();
        let renewals = stand.login.renewals(&stand.rig, &audit, &attempts);
        let (mut called, renewed) = tokio::join!(stand.calls(&attempts), renewals);
        called.extend(renewed);
        let Stand { directory, rig, login, .. } = stand;
        rig.end().await?;
        let left = Left { directory: &directory.0, login: &login };
        called.extend(attempts.iter().filter_map(|attempt| match attempt.ask {
            Ask::Aftermath(looked) => Some((attempt.id.clone(), left.seen(looked))),
            Ask::Call(_) | Ask::Renewal(_) => None,
        }));
        remove(&directory.0).await;
        Ok(called)
    }
}

struct Stand {
    rig: Rig,
    token: String,
    own: OwnRules,
    login: Login,
    places: Places,
    directory: Directory,
}

/// A private directory that goes away.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // It holds a canary alone.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes it. The gateway's own processes end after it, and the audit log's writes a last checkpoint: what is half removed then is removed again.
async fn remove(directory: &Path) {
    for _ in 0..REMOVALS {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => tokio::time::sleep(PAUSE).await,
            Ok(()) | Err(_) => return,
        }
    }
}

/// What came back, by either way.
struct Answer {
    outcome: Outcome,
    mcp_session: Option<String>,
}

impl Stand {
    async fn set(scratch: &Path, left: &LeftOver, own: OwnRules) -> Result<Self, Failure> {
        let directory = Directory(scratch.join(format!("postern-verify-tunnel-{}", random()?)));
        left.note(&directory.0);
        let data = Data::open(&directory.0)?;
        let token = canary()?;
        let store = Store::open(&data.perimeter().join("custody")).or_misused("open a store")?;
        store.set("token", token.clone().into_bytes(), false).or_misused("store a canary")?;
        let login = Login::start().await?;
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = async |token: &str, manner| {
            let started = PrivateMcp::start(loopback, token, manner).await;
            started.map(|server| server.address).or_misused("start an MCP server")
        };
        let places = Places {
            wiki: server(&token, Manner::default()).await?,
            refusing: server(&token, Manner { refuses: true, ..Manner::default() }).await?,
            moved: server(&token, Manner { moved: true, ..Manner::default() }).await?,
            vault: server(&login.issued, Manner::default()).await?,
            taker: server(&login.refresh, Manner::default()).await?,
        };
        let file = directory.0.join("postern.toml");
        let text = configuration(&places, &own, &login);
        Data::write_private(&file, &text).or_misused("write a configuration")?;
        let ca = directory.0.join(messages::LOGIN_CA);
        Data::write_private(&ca, &login.endpoint.ca_pem).or_misused("write a certificate")?;
        let rig = Rig::start(&config::read_file(&file)?, &data).await?;
        Ok(Self { directory, rig, token, own, login, places })
    }

    /// Makes the calls, one after the other. One that cannot be made is missing, and so did not run.
    async fn calls(&self, attempts: &[Attempted]) -> BTreeMap<String, Called> {
        let mut called = BTreeMap::new();
        for attempt in attempts {
            let Ask::Call(call) = &attempt.ask else { continue };
            match self.one(attempt, call).await {
                Ok(one) => drop(called.insert(attempt.id.clone(), one)),
                Err(failure) => tracing::warn!(probe = attempt.id, %failure, "a call was not made"),
            }
        }
        called
    }

    async fn one(&self, attempt: &Attempted, call: &Call) -> Result<Called, Failure> {
        let (inside, records) = match self.nothing_to_try(call) {
            Some(cause) => (Outcome::new(format!("skip not here: {cause}")), Vec::new()),
            None => self.through(attempt, call).await?,
        };
        let outside = self.direct(attempt, call).await?;
        let alarms = records.iter().filter_map(postern_verify::alarm).map(str::to_owned).collect();
        let reasons = records.iter().filter(|record| is_of(record, call)).filter_map(reason).collect();
        Ok(Called { inside, outside, reasons, alarms })
    }

    /// Why a call that the zone's own rules are to refuse would be allowed by them.
    fn nothing_to_try(&self, call: &Call) -> Option<&str> {
        let whole = if call.tool.is_some() { &self.own.every_tool } else { &self.own.every_method };
        whole.as_deref().filter(|_| call.route == Route::Own)
    }

    /// The route as hosts name it.
    fn name(&self, route: Route) -> &str {
        match route {
            Route::Own => self.own.servers.first().map_or(name(Route::Unnamed), String::as_str),
            route => name(route),
        }
    }

    /// Through edge, connector and gateway, in the name that the attempt says; and what the log gained of the message itself, after those that prepare it.
    async fn through(&self, attempt: &Attempted, call: &Call) -> Result<(Outcome, Vec<Record>), Failure> {
        let session = format!("sesn_{}", attempt.id.replace(['/', '-'], "_"));
        let client = self.rig.client(self.name(call.route), Lane::Interactive);
        let whose = match call.caller {
            Caller::ForeignSession => "sesn_of_another",
            _ => &session,
        };
        let carried = self.carried(call).await?;
        let hello = body(&hello());
        let begun = carrying(message(&hello, &self.rig.caller(whose).identity(&bytes(&hello))?)?, carried.as_deref())?;
        let begun = if calls_a_tool(call) { self.answer(&client, begun, attempt).await?.mcp_session } else { None };
        let sent = self.body_of(call);
        let identity = self.identity(call.caller, &session, &bytes(&sent))?;
        let request = || {
            let request = carrying(message(&sent, &identity)?, carried.as_deref())?;
            dressed(request, call, &self.host_of(call), begun.as_deref())
        };
        if call.caller == Caller::Again {
            self.answer(&client, request()?, attempt).await?;
        }
        self.hold(call.caller, &session).await?;
        let before = self.records().len();
        let outcome = self.answer(&client, request()?, attempt).await?.outcome;
        Ok((outcome, self.records().split_off(before)))
    }

    /// Has a session held whose calls are to be refused for it.
    async fn hold(&self, caller: Caller, session: &str) -> Result<(), Failure> {
        let session = session.parse().or_misused("name a session")?;
        let command = match caller {
            Caller::Frozen => CommandBody::Freeze { session },
            Caller::Revoked => CommandBody::RevokeGrants { session },
            _ => return Ok(()),
        };
        self.rig.command(command).await.map(drop).or_unreachable("hold a session")
    }

    /// What of the vault credential goes along.
    async fn carried(&self, call: &Call) -> Result<Option<String>, Failure> {
        Ok(match call.carries {
            None => None,
            Some(Carried::Renewed) => Some(self.login.renewed(&self.rig).await?),
            Some(Carried::RefreshToken) => Some(self.login.refresh_token_for(&self.rig, self.name(call.route)).await?),
        })
    }

    fn identity(&self, caller: Caller, session: &str, body: &[u8]) -> Result<String, Failure> {
        let honest = self.rig.caller(session);
        match caller {
            Caller::Honest
            | Caller::Nobody
            | Caller::Again
            | Caller::ForeignSession
            | Caller::Frozen
            | Caller::Revoked => honest.identity(body),
            Caller::ForeignKey => {
                let signer = Signer::generate().or_misused("make a key")?;
                self.rig.caller_with(signer, session).identity(body)
            }
            Caller::ForeignBody => honest.identity(b"{}"),
            Caller::ForeignTunnel => honest.identity_claiming(body, |claims| claims.aud = "tnl_other".to_owned()),
            Caller::ForeignEnvironment => {
                honest.identity_claiming(body, |claims| claims.environment = "env_other".to_owned())
            }
            Caller::OwnZone => honest.identity_claiming(body, |claims| claims.environment = OWN_ENVIRONMENT.to_owned()),
            Caller::Expired => honest.identity_claiming(body, |claims| {
                (claims.iat, claims.exp) = (claims.iat.saturating_sub(100), claims.iat.saturating_sub(50));
            }),
            Caller::LongLived => honest.identity_claiming(body, |claims| claims.exp = claims.iat + 3600),
        }
    }

    /// To the server itself, with its token.
    async fn direct(&self, attempt: &Attempted, call: &Call) -> Result<Outcome, Failure> {
        let at = |address: SocketAddr| {
            let endpoint: Endpoint = format!("http://{address}").parse().or_misused("read a server's address")?;
            HttpClient::new(configured(&endpoint), &TlsRoots::Platform).or_misused("prepare a client")
        };
        let (client, token) = match call.route {
            Route::Refusing => (at(self.places.refusing)?, &self.token),
            Route::Moved => (at(self.places.moved)?, &self.token),
            Route::Impostor => (renewals::client(&self.login.impostor)?, &self.token),
            Route::Vault => (at(self.places.vault)?, &self.login.issued),
            Route::Taker => (at(self.places.taker)?, &self.login.refresh),
            Route::Wiki | Route::Unnamed | Route::Own | Route::Rebound | Route::Nowhere => {
                (at(self.places.wiki)?, &self.token)
            }
        };
        let hello = authorized(message(&body(&hello()), "-")?, token)?;
        let careful = matches!(call.route, Route::Refusing | Route::Moved | Route::Impostor);
        let begins = !careful && call.method.as_deref() != Some("initialize");
        let begun = if begins { self.answer(&client, hello, attempt).await?.mcp_session } else { None };
        let request = dressed(message(&self.body_of(call), "-")?, call, "", begun.as_deref())?;
        Ok(self.answer(&client, authorized(request, token)?, attempt).await?.outcome)
    }

    async fn answer(
        &self,
        client: &HttpClient,
        request: Request<Full<Bytes>>,
        attempt: &Attempted,
    ) -> Result<Answer, Failure> {
        let response = rig::send(client, request).await.or_unreachable("call an MCP server")?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (reason, mcp_session) = (header("postern-reason"), header("mcp-session-id"));
        let status = response.status().as_u16();
        let mut said: Vec<u8> =
            response.headers().values().flat_map(|value| value.as_bytes().iter().copied()).collect();
        said.extend(response.into_body().bytes(LONGEST).await.or_unreachable("read an answer")?);
        let canaries: Vec<&[u8]> =
            self.login.canaries().into_iter().chain([self.token.as_str()]).map(str::as_bytes).collect();
        let found = !postern_secret::canary::search(&said, &canaries).is_empty();
        let word = match (attempt.leak, reason, status) {
            (true, _, _) if found => "leaked".to_owned(),
            (_, Some(reason), _) => format!("refused {reason}"),
            (true, None, 200) => "clean".to_owned(),
            (false, None, 200) => "made".to_owned(),
            (_, None, status) => format!("status {status}"),
        };
        Ok(Answer { outcome: Outcome::new(word), mcp_session })
    }

    fn body_of(&self, call: &Call) -> Value {
        let message = match &call.tool {
            Some(tool) => json!({"method": "tools/call", "params": {"name": tool, "arguments": call.arguments}}),
            None if call.method.as_deref() == Some("initialize") => hello(),
            None => json!({"method": call.method}),
        };
        let text = body(&message).to_string().replace("{token}", &self.token);
        serde_json::from_str(&text).unwrap_or(message)
    }

    fn host_of(&self, call: &Call) -> String {
        call.host.map(|route| format!("{}.{}", self.name(route), self.rig.domain())).unwrap_or_default()
    }

    /// What the gateway has on record of calls so far. Renewals are asked for meanwhile.
    fn records(&self) -> Vec<Record> {
        let entries = postern_audit::entries(&self.audit()).into_iter().flatten().flatten();
        entries.filter(|entry| !is_a_renewals(entry)).map(|entry| entry.record).collect()
    }

    fn audit(&self) -> PathBuf {
        self.directory.0.join("perimeter/audit")
    }
}

/// What a record says of a decision.
fn reason(record: &Record) -> Option<String> {
    let allowed = || (record.decision == Decision::Allow).then(|| ALLOWED.to_owned());
    record.reason.clone().filter(|_| record.decision == Decision::Deny).or_else(allowed)
}

/// Whether what a record allows is this message, and not another one or the use of a credential for it. A refusal is whatever it came to.
fn is_of(record: &Record, call: &Call) -> bool {
    let asked = match &call.tool {
        Some(_) => "tools/call",
        None => call.method.as_deref().unwrap_or_default(),
    };
    let method = record.destination.as_ref().and_then(|destination| destination.method.as_deref());
    record.decision != Decision::Allow || record.kind == Kind::McpCall && method == Some(asked)
}

fn calls_a_tool(call: &Call) -> bool {
    call.tool.is_some() && matches!(call.route, Route::Wiki | Route::Vault | Route::Taker)
}

fn authorized(mut request: Request<Full<Bytes>>, token: &str) -> Result<Request<Full<Bytes>>, Failure> {
    let value = HeaderValue::try_from(format!("Bearer {token}")).or_misused("make a header")?;
    request.headers_mut().insert(AUTHORIZATION, value);
    request.headers_mut().remove("postern-identity");
    Ok(request)
}

/// With a sealed credential, as the server sends one along.
fn carrying(mut request: Request<Full<Bytes>>, sealed: Option<&str>) -> Result<Request<Full<Bytes>>, Failure> {
    if let Some(sealed) = sealed {
        let value = HeaderValue::try_from(sealed).or_misused("make a header")?;
        request.headers_mut().insert(CREDENTIAL_HEADER, value);
    }
    Ok(request)
}

/// A secret that nobody else has.
fn canary() -> Result<String, Failure> {
    Ok(format!("postern-canary-{}", random()?))
}

fn random() -> Result<String, Failure> {
    let mut bytes = [0u8; 16];
    getrandom(&mut bytes, GetRandomFlags::empty()).or_misused("draw random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How often a directory is removed in which somebody still writes, and how long after.
const REMOVALS: usize = 60;
const PAUSE: Duration = Duration::from_millis(50);
/// Of an answer.
const LONGEST: usize = 1 << 20;
