//! Tunnels and their tokens (contract 1.9), and what is ours about them: revoking, status, probing.

use std::time::Duration;

use http::HeaderValue;
use postern_engine::control::{ControlHub, Target};
use postern_model::Problem;
use postern_model::control::{
    CommandBody, ErrorNote, GatewayStanding, PerimeterStatus, Reply as ControlReply, RouteStanding,
};
use postern_model::ids::TunnelId;
use postern_model::tunnel::{
    CertificateStatus, CreateTunnel, ProbeTunnel, RotateToken, TokenStatus, TunnelCertificate, TunnelConnection,
    TunnelError, TunnelGateway, TunnelRoute, TunnelStatus, TunnelStatusTag,
};
use postern_secret::key::TunnelToken;
use postern_store::list::{ListQuery, page};
use postern_store::tunnels::{NewToken, NewTunnel, TokenRecord};
use postern_store::{certificates, tunnels};
use serde::Serialize;

use super::list_query;
use crate::app::problem;
use crate::dispatch::Call;
use crate::reply::Reply;
use crate::tunnels::{TunnelFacts, TunnelService};

const LIST: &str = "tunnels";
/// The most that a page of tunnels or certificates holds.
pub(super) const MOST: u32 = 1000;

/// A token, shown.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    tunnel_token: &'a str,
}

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let display_name = call.optional_body::<CreateTunnel>()?.checked()?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_query()?;
    let service = app.tunnels()?;
    let id = TunnelId::generate();
    let (domain, digest) = (service.fresh_domain(), service.token(&id, 1).digest());
    let new = NewTunnel {
        id: &id,
        display_name: display_name.as_deref(),
        domain: &domain,
        token_digest: digest.as_str(),
        now: app.now(),
    };
    let mut change = app.change_tunnel().await?;
    let tunnel = tunnels::create(&mut change.tx, &workspace, &new).await.map_err(problem)?;
    call.remember(&mut change.tx, &tunnel).await?;
    change.commit(&id).await?;
    tracing::info!(tunnel = %id, %domain, who, "tunnel created");
    Reply::json(&tunnel)
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id: TunnelId = call.id("tunnel", "Tunnel")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    Reply::json(&tunnels::required(&mut connection, &call.workspace, &id).await.map_err(problem)?)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let mut query = list_query(&mut call.query, LIST, MOST)?;
    query.include_archived = call.query.flag("include_archived")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = tunnels::list(&mut connection, &call.workspace, &query).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, LIST, |tunnel| (tunnel.created_at.as_microsecond(), tunnel.id.to_string())))
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    let id: TunnelId = call.id("tunnel", "Tunnel")?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut change = app.change_tunnel().await?;
    let archived = tunnels::archive(&mut change.tx, &workspace, &id, app.now()).await.map_err(problem)?;
    change.commit_and_sever(&id).await?;
    tracing::info!(tunnel = %id, who, "tunnel archived");
    Reply::json(&archived)
}

pub(crate) async fn reveal_token(call: Call) -> Result<Reply, Problem> {
    let id: TunnelId = call.id("tunnel", "Tunnel")?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let service = app.tunnels()?;
    let mut connection = app.store.read().await.map_err(problem)?;
    tunnels::active(&mut connection, &workspace, &id).await.map_err(problem)?;
    let record = tunnels::token(&mut connection, &id).await.map_err(problem)?;
    let token = live_token(service, &id, &record)?;
    tracing::info!(tunnel = %id, token_id = %record.id, who, "tunnel token revealed");
    shown(&record, &token)
}

pub(crate) async fn rotate_token(call: Call) -> Result<Reply, Problem> {
    let id: TunnelId = call.id("tunnel", "Tunnel")?;
    let reason = call.optional_body::<RotateToken>()?.checked()?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.query.finish()?;
    let service = app.tunnels()?;
    let mut change = app.change_tunnel().await?;
    tunnels::active(&mut change.tx, &workspace, &id).await.map_err(problem)?;
    let generation = tunnels::token(&mut change.tx, &id).await.map_err(problem)?.generation.saturating_add(1);
    let token = service.token(&id, generation);
    let digest = token.digest();
    let new = NewToken { generation, digest: digest.as_str(), reason: reason.as_deref(), now: app.now() };
    let record = tunnels::rotate_token(&mut change.tx, &workspace, &id, &new).await.map_err(problem)?;
    change.commit(&id).await?;
    tracing::info!(tunnel = %id, token_id = %record.id, generation, who, ?reason, "tunnel token rotated");
    shown(&record, &token)
}

pub(crate) async fn revoke_token(call: Call) -> Result<Reply, Problem> {
    let id: TunnelId = call.id("tunnel", "Tunnel")?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut change = app.change_tunnel().await?;
    let revoked = tunnels::revoke_token(&mut change.tx, &workspace, &id, app.now()).await.map_err(problem)?;
    change.commit_and_sever(&id).await?;
    tracing::info!(tunnel = %id, token_id = %revoked.id, who, "tunnel token revoked");
    Reply::json(&revoked)
}

pub(crate) async fn status(call: Call) -> Result<Reply, Problem> {
    let id: TunnelId = call.id("tunnel", "Tunnel")?;
    call.query.finish()?;
    let service = call.app.tunnels()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let tunnel = tunnels::required(&mut connection, &call.workspace, &id).await.map_err(problem)?;
    let token = tunnels::token(&mut connection, &id).await.map_err(problem)?;
    let query = ListQuery { limit: MOST, ..ListQuery::default() };
    let trusted = certificates::list(&mut connection, &call.workspace, &id, &query).await.map_err(problem)?;
    drop(connection);
    let carried = service.parts.edge.status(id.as_str()).await;
    let gateway = gateway(&call.app.control, &id).await;
    let now = call.app.now();
    Reply::json(&TunnelStatus {
        kind: TunnelStatusTag::TunnelStatus,
        tunnel_id: id,
        domain: tunnel.domain,
        archived_at: tunnel.archived_at,
        token: TokenStatus { id: token.id, generation: token.generation, revoked_at: token.revoked_at },
        connections: carried.connections.into_iter().map(connection_status).collect(),
        certificates: trusted.into_iter().map(|certificate| certificate_status(certificate, now)).collect(),
        gateway,
        last_errors: carried
            .last_errors
            .into_iter()
            .map(|note| TunnelError {
                at: instant(note.at),
                code: said_words(&note.code),
                message: said_words(&note.message),
            })
            .collect(),
    })
}

pub(crate) async fn probe(call: Call) -> Result<Reply, Problem> {
    let id: TunnelId = call.id("tunnel", "Tunnel")?;
    let route = call.body::<ProbeTunnel>()?.checked()?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.query.finish()?;
    let service = app.tunnels()?;
    let tunnel = {
        let mut connection = app.store.read().await.map_err(problem)?;
        tunnels::active(&mut connection, &workspace, &id).await.map_err(problem)?
    };
    let prober = service.parts.prober.as_ref().ok_or_else(|| {
        Problem::new(postern_model::problem::Kind::Unavailable, "This server was started without a prober.")
    })?;
    Reply::json(&prober.probe(TunnelFacts { id, workspace, domain: tunnel.domain }, route).await?)
}

/// The token behind the record. A server key that was replaced derives another one, which nobody issued.
fn live_token(service: &TunnelService, id: &TunnelId, record: &TokenRecord) -> Result<TunnelToken, Problem> {
    let token = service.token(id, record.generation);
    let next_step = "Rotate it to issue another.";
    if record.revoked_at.is_some() {
        let message = format!("The token of tunnel {id} is revoked. {next_step}");
        return Err(Problem::conflict(message).with_code("tunnel_token_revoked"));
    }
    if token.digest().as_str() != record.digest {
        tracing::error!(tunnel = %id, "the server key is not the one this tunnel's token was derived from");
        let message = format!("The token of tunnel {id} cannot be shown: the server's key was replaced. {next_step}");
        return Err(Problem::conflict(message).with_code("tunnel_token_lost"));
    }
    Ok(token)
}

#[expect(clippy::disallowed_methods, reason = "these two routes exist to show the token")]
fn shown(record: &TokenRecord, token: &TunnelToken) -> Result<Reply, Problem> {
    let token = Shown { id: record.id.as_str(), kind: "tunnel_token", tunnel_token: token.secret().expose() };
    Reply::json_with(&token, ("cache-control", HeaderValue::from_static("no-store")))
}

/// How the tunnel's gateway stands. One that says nothing in time is as one that is not there: the answer does not wait.
async fn gateway(hub: &ControlHub, id: &TunnelId) -> Option<TunnelGateway> {
    let target = Target::Tunnel(id.clone());
    let said = hub.command(&target, CommandBody::Status, GATEWAY_PATIENCE).await;
    let Ok(ControlReply::Status(status)) = said else { return None };
    let PerimeterStatus { name, version, gateway, .. } = *status;
    let GatewayStanding { connections, leaf_days_left, mut routes, mut last_errors, .. } = gateway?;
    routes.truncate(MOST_ROUTES);
    last_errors.drain(..last_errors.len().saturating_sub(MOST_ERRORS));
    let route = |route: RouteStanding| TunnelRoute {
        host: said_words(&route.name),
        upstream: said_words(&route.upstream),
        credential: said_words(&route.credential),
    };
    let error =
        |note: ErrorNote| TunnelError { at: note.at, code: said_words(&note.code), message: said_words(&note.message) };
    Some(TunnelGateway {
        name: said_words(&name),
        version: said_words(&version),
        connections,
        leaf_days_left,
        routes: routes.into_iter().map(route).collect(),
        last_errors: last_errors.into_iter().map(error).collect(),
    })
}

/// Words of a process that has a tunnel's token and nothing more, or of an edge, which hears strangers.
fn said_words(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MOST_CHARACTERS).collect()
}

fn connection_status(connection: postern_edge::ConnectionStatus) -> TunnelConnection {
    TunnelConnection {
        id: connection.id,
        connector: said_words(&connection.connector),
        lane: connection.lane.as_str().to_owned(),
        since: instant(connection.since),
        peer: connection.peer.to_string(),
        open_streams: connection.open_streams as u64,
        carried_bytes: connection.carried_bytes,
    }
}

fn certificate_status(certificate: TunnelCertificate, now: postern_model::Timestamp) -> CertificateStatus {
    let days = |at: postern_model::Timestamp| (at.as_second() - now.as_second()).div_euclid(SECONDS_A_DAY);
    CertificateStatus {
        days_left: certificate.expires_at.map(days),
        id: certificate.id,
        fingerprint: certificate.fingerprint,
        expires_at: certificate.expires_at,
    }
}

/// A time of the edge; one outside the calendar reads as its beginning.
fn instant(at: std::time::SystemTime) -> postern_model::Timestamp {
    postern_model::Timestamp::try_from(at).unwrap_or(postern_model::Timestamp::UNIX_EPOCH)
}

const SECONDS_A_DAY: i64 = 86_400;
/// How long a gateway has to say how it stands.
const GATEWAY_PATIENCE: Duration = Duration::from_millis(500);
const MOST_ROUTES: usize = 256;
const MOST_ERRORS: usize = 32;
const MOST_CHARACTERS: usize = 500;
