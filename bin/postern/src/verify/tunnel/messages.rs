//! The routes and rules of the gateway under test, and the messages that are sent to them. Sends nothing.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Full;
use postern_verify::OwnRules;
use postern_verify::gateway::{Call, Caller, Route};
use serde_json::{Value, json};

use super::renewals::{IMPOSTOR, Login, MANNERS};
use crate::failure::{Failure, Or};
use crate::rig::Rig;

/// Where the servers are.
pub(super) struct Places {
    pub(super) wiki: SocketAddr,
    pub(super) refusing: SocketAddr,
    pub(super) moved: SocketAddr,
    pub(super) vault: SocketAddr,
    pub(super) taker: SocketAddr,
}

/// The request with what the attempt changes of it.
pub(super) fn dressed(
    mut request: Request<Full<Bytes>>,
    call: &Call,
    host: &str,
    mcp_session: Option<&str>,
) -> Result<Request<Full<Bytes>>, Failure> {
    let value = |text: &str| HeaderValue::try_from(text).or_misused("make a header");
    if let Some(path) = &call.path {
        *request.uri_mut() = path.parse().or_misused("make a path")?;
    }
    for (name, text) in &call.headers {
        request.headers_mut().insert(HeaderName::try_from(name).or_misused("make a header")?, value(text)?);
    }
    if let Some(session) = mcp_session {
        request.headers_mut().insert("mcp-session-id", value(session)?);
    }
    if !host.is_empty() {
        request.headers_mut().insert(HOST, value(host)?);
    }
    if call.caller == Caller::Nobody {
        request.headers_mut().remove("postern-identity");
    }
    Ok(request)
}

pub(super) fn name(route: Route) -> &'static str {
    match route {
        Route::Wiki => "wiki",
        Route::Unnamed | Route::Own => "unnamed",
        Route::Rebound => "rebound",
        Route::Refusing => "refusing",
        Route::Moved => "moved",
        Route::Impostor => "impostor",
        Route::Vault => "vault",
        Route::Taker => "taker",
        Route::Nowhere => "nowhere",
    }
}

/// The URL of a route's server as the control plane has it.
pub(super) fn url_of(rig: &Rig, route: &str) -> String {
    format!("https://{route}.{}/mcp", rig.domain())
}

/// The file of the token endpoint's authority, beside the configuration.
pub(super) const LOGIN_CA: &str = "login.pem";

/// The environment of the zone that has the rules of the zone under test.
pub(super) const OWN_ENVIRONMENT: &str = "env_own";

pub(super) fn configuration(places: &Places, own: &OwnRules, login: &Login) -> String {
    let Places { wiki, refusing, moved, vault, taker } = places;
    let credential = r#"credential = { source = "store:token", header = "authorization", format = "Bearer {secret}" }"#;
    let route_to = |host: &str, upstream: &str, more: &str| {
        format!("[[gateway.route]]\nhost = \"{host}\"\nupstream = \"{upstream}/mcp\"\n{credential}\n{more}")
    };
    let route = |host: &str, upstream: &str, more: &str| route_to(host, &format!("http://{upstream}"), more);
    let loopback = "addresses = [\"127.0.0.0/8\"]\n";
    let of_vaults = |host: &str, upstream: &SocketAddr| {
        format!(
            "[[gateway.route]]\nhost = \"{host}\"\nupstream = \"http://{upstream}/mcp\"\ncredential = {{ source = \"api:\" }}\n{loopback}"
        )
    };
    let signed = format!("{loopback}ca_file = \"{LOGIN_CA}\"\n");
    let listed = |url: String| format!("[[gateway.token_endpoint]]\nurl = \"{url}\"\n{signed}");
    let rule = |server: &str, more: &str| format!("[[zone.verify.mcp]]\nserver = \"{server}\"\n{more}\n");
    let ours = ["wiki", "unnamed", "rebound", "refusing", "moved", "impostor", "vault", "taker"];
    let others = own.servers.iter().filter(|server| !ours.contains(&server.as_str()));
    [
        "config = 1\n[zone.verify]\nenvironment = \"default\"\n".to_owned(),
        rule("wiki", r#"tools = ["search", "server_info", "reflect_headers"]"#),
        rule("wiki", "tools = [\"read_page\"]\narguments = { path = { glob = \"/runbooks/**\" } }"),
        ["rebound", "refusing", "moved", "impostor", "vault", "taker"]
            .map(|server| rule(server, r#"tools = ["*"]"#))
            .concat(),
        format!("[zone.own]\nenvironment = \"{OWN_ENVIRONMENT}\"\nmcp = {}\n", own.mcp),
        others.map(|server| route(server, &wiki.to_string(), loopback)).collect(),
        route("wiki", &wiki.to_string(), loopback),
        route("unnamed", &wiki.to_string(), loopback),
        route("rebound", &format!("localhost:{}", wiki.port()), "addresses = [\"10.0.0.0/8\"]\n"),
        route("refusing", &refusing.to_string(), loopback),
        route("moved", &moved.to_string(), loopback),
        route_to("impostor", &format!("https://{}", login.impostor.address), &signed),
        of_vaults("vault", vault),
        of_vaults("taker", taker),
        MANNERS.map(|manner| listed(login.endpoint.url(manner))).concat(),
        listed(login.impostor.url(IMPOSTOR)),
    ]
    .concat()
}

pub(super) fn hello() -> Value {
    json!({"method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "verify", "version": "1"}}})
}

pub(super) fn body(message: &Value) -> Value {
    let mut whole = json!({"jsonrpc": "2.0", "id": 1});
    if let (Value::Object(whole), Value::Object(message)) = (&mut whole, message) {
        whole.extend(message.clone());
    }
    whole
}

pub(super) fn bytes(message: &Value) -> Vec<u8> {
    message.to_string().into_bytes()
}
