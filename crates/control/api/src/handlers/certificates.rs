//! CA certificates of tunnels (contract 1.9, 7.2).

use std::time::SystemTime;

use postern_model::ids::{CertificateId, TunnelId};
use postern_model::tunnel::RegisterCertificate;
use postern_model::{Problem, Timestamp};
use postern_store::certificates::{self, NewCertificate};
use postern_store::list::page;
use postern_tunnel::certificate::{CertificateError, accept_ca};

use super::list_query;
use super::tunnels::MOST;
use crate::app::problem;
use crate::dispatch::Call;
use crate::reply::Reply;

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let tunnel: TunnelId = call.id("tunnel", "Tunnel")?;
    // By mistake it may hold a private key.
    let body = call.confidential_body::<RegisterCertificate>()?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_query()?;
    let now = app.now();
    let ca = accept_ca(&body.ca_certificate_pem, SystemTime::from(now)).map_err(|error| refused(&error))?;
    let new = NewCertificate {
        fingerprint: &ca.fingerprint_sha256_hex,
        pem: &body.ca_certificate_pem,
        expires_at: Timestamp::try_from(ca.not_after).ok(),
        now,
    };
    let mut change = app.change_tunnel().await?;
    let certificate = certificates::create(&mut change.tx, &workspace, &tunnel, &new).await.map_err(problem)?;
    call.remember(&mut change.tx, &certificate).await?;
    change.commit(&tunnel).await?;
    tracing::info!(%tunnel, certificate = %certificate.id, fingerprint = certificate.fingerprint, who, "CA registered");
    Reply::json(&certificate)
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let tunnel: TunnelId = call.id("tunnel", "Tunnel")?;
    let id: CertificateId = call.id("certificate", "Certificate")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    Reply::json(&certificates::required(&mut connection, &call.workspace, &tunnel, &id).await.map_err(problem)?)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let tunnel: TunnelId = call.id("tunnel", "Tunnel")?;
    let list = format!("tunnel_certificates:{tunnel}");
    let mut query = list_query(&mut call.query, &list, MOST)?;
    query.include_archived = call.query.flag("include_archived")?;
    call.query.finish()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let found = certificates::list(&mut connection, &call.workspace, &tunnel, &query).await.map_err(problem)?;
    Reply::json(&page(found, query.limit, &list, |certificate| {
        (certificate.created_at.as_microsecond(), certificate.id.to_string())
    }))
}

pub(crate) async fn archive(call: Call) -> Result<Reply, Problem> {
    let tunnel: TunnelId = call.id("tunnel", "Tunnel")?;
    let id: CertificateId = call.id("certificate", "Certificate")?;
    let (app, workspace, who) = (call.app.clone(), call.workspace.clone(), call.caller.log_name());
    call.finish_without_body()?;
    let mut change = app.change_tunnel().await?;
    let archived = certificates::archive(&mut change.tx, &workspace, &tunnel, &id, app.now()).await.map_err(problem)?;
    change.commit(&tunnel).await?;
    tracing::info!(%tunnel, certificate = %id, who, "CA archived");
    Reply::json(&archived)
}

fn refused(error: &CertificateError) -> Problem {
    Problem::invalid_at("ca_certificate_pem", error).with_code(error.code())
}
