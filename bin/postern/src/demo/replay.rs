//! Somebody who holds an identity that is not theirs: what was captured is sent again, altered, and borrowed.
//!
//! Against the real gateway and connector of the run, over its own data directory, after the stack has ended.

use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use postern_net::client::HttpClient;
use postern_tunnel::identity::Signer;
use postern_tunnel::wire::Lane;
use serde_json::{Value, json};

use super::report::{Row, Verdict};
use super::scene::Stage;
use crate::config;
use crate::data::Data;
use crate::failure::{Failure, Or};
use crate::rig::{Rig, message, send};

/// The row.
///
/// # Errors
/// The rig does not start.
pub(super) async fn row(stage: &Stage) -> Result<Row, Failure> {
    let started = Instant::now();
    let configuration = config::read_file(&stage.directory().join("postern.toml"))?;
    let rig = Rig::start(&configuration, &Data::open(&stage.data_dir())?).await?;
    let before = calls(stage);
    let tried = Attempts::new(&rig).all().await;
    rig.end().await?;
    let (mut broken, details) = tried?;
    let ran = calls(stage) - before;
    if ran != 1 {
        broken.push(format!("{ran} calls reached the MCP server instead of the one honest call"));
    }
    let verdict = if broken.is_empty() { Verdict::Held } else { Verdict::Failed };
    let details = broken.into_iter().map(|text| format!("! {text}")).chain(details).collect();
    Ok(Row { title: "replay and borrow another session's identity".into(), verdict, took: started.elapsed(), details })
}

fn calls(stage: &Stage) -> usize {
    stage.wiki.seen()["calls"].as_array().map_or(0, Vec::len)
}

struct Attempts<'a> {
    rig: &'a Rig,
    client: HttpClient,
    broken: Vec<String>,
    details: Vec<String>,
}

impl<'a> Attempts<'a> {
    fn new(rig: &'a Rig) -> Self {
        Self { rig, client: rig.client("wiki", Lane::Interactive), broken: vec![], details: vec![] }
    }

    async fn all(mut self) -> Result<(Vec<String>, Vec<String>), Failure> {
        let (victim, thief) = (self.rig.caller("sesn_victim"), self.rig.caller("sesn_thief"));
        let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "demo", "version": "1"}}});
        let (status, _, session) = self.answer(message(&hello, &victim.identity(&bytes(&hello))?)?).await?;
        if status != 200 {
            self.broken.push(format!("the honest session was not begun: {status}"));
        }
        let session = session.unwrap_or_default();
        let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "once"}}});
        let other = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "twice"}}});
        let captured = victim.identity(&bytes(&call))?;
        let (status, _, _) = self.answer(within(&session, message(&call, &captured)?)).await?;
        if status != 200 {
            self.broken.push(format!("the honest call was not carried out: {status}"));
        }
        self.refused("the same request again", "identity_replayed", within(&session, message(&call, &captured)?))
            .await?;
        let fresh = victim.identity(&bytes(&call))?;
        self.refused("another body under it", "identity_invalid", within(&session, message(&other, &fresh)?)).await?;
        let forged = Signer::generate().or_misused("make a key")?;
        let forged = self.rig.caller_with(forged, "sesn_victim").identity(&bytes(&other))?;
        self.refused("one signed by another key", "identity_invalid", within(&session, message(&other, &forged)?))
            .await?;
        let mut none = message(&other, "x")?;
        none.headers_mut().remove("postern-identity");
        self.refused("none at all", "identity_missing", within(&session, none)).await?;
        let own = thief.identity(&bytes(&other))?;
        self.refused("the victim's MCP session", "mcp_session_unknown", within(&session, message(&other, &own)?))
            .await?;
        Ok((self.broken, self.details))
    }

    async fn refused(&mut self, what: &str, reason: &str, request: Request<Full<Bytes>>) -> Result<(), Failure> {
        let (status, found, _) = self.answer(request).await?;
        // A refused tool call is answered with a result that says so, everything else with an error status.
        if found.as_deref() != Some(reason) {
            self.broken.push(format!("{what}: answered {status} with {found:?} instead of {reason}"));
        } else {
            self.details.push(format!("{what}: {reason}"));
        }
        Ok(())
    }

    /// Status, reason and MCP session of an answer.
    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<(u16, Option<String>, Option<String>), Failure> {
        let response = send(&self.client, request).await.or_unreachable("call through the tunnel")?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (reason, session) = (header("postern-reason"), header("mcp-session-id"));
        let status = response.status().as_u16();
        // Read to its end, so that the next request finds the connection free; what it says was said in its head.
        let _ = response.into_body().bytes(1 << 20).await;
        Ok((status, reason, session))
    }
}

fn bytes(message: &Value) -> Vec<u8> {
    message.to_string().into_bytes()
}

fn within(session: &str, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    if let Ok(session) = session.parse() {
        request.headers_mut().insert("mcp-session-id", session);
    }
    request
}
