//! A private MCP server, streamable HTTP on the MCP project's own SDK, that refuses requests without its bearer token.
//!
//! A wiki as organisations have them, with the carelessness they have too: its instructions and `server_info` name its
//! own token, `reflect_headers` answers with the headers of the request. `GET /seen` tells a test what reached it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

/// A running private MCP server.
pub struct PrivateMcp {
    /// Loopback address it listens on.
    pub address: SocketAddr,
    seen: Seen,
}

/// What a test asks about afterwards.
#[derive(Clone, Debug, Default)]
struct Seen {
    inner: Arc<Mutex<Record>>,
}

#[derive(Clone, Debug, Default)]
struct Record {
    refused: u64,
    headers: Vec<String>,
    calls: Vec<Value>,
}

impl Seen {
    fn note(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn told(&self) -> Value {
        let record = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        json!({"refused": record.refused, "headers": record.headers, "calls": record.calls})
    }
}

/// How the server answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Answers with JSON where it can, instead of event streams.
    pub json: bool,
    /// Refuses every request, as after a token was revoked.
    pub refuses: bool,
    /// Sends every request on to another host, with its token in the address.
    pub moved: bool,
}

impl PrivateMcp {
    /// Serves `/mcp` on an address; requests must carry the token as bearer.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(address: SocketAddr, token: &str, manner: Manner) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let seen = Seen::default();
        let wiki = Wiki { seen: seen.clone(), token: token.into() };
        let mut config = StreamableHttpServerConfig::default();
        config.json_response = manner.json;
        config.legacy_session_mode = !manner.json;
        let sessions = Arc::new(LocalSessionManager::default());
        let service = StreamableHttpService::new(move || Ok(wiki.clone()), sessions, config);
        let gate =
            Gate { right: format!("Bearer {token}"), refuses: manner.refuses, moved: manner.moved, seen: seen.clone() };
        let told = seen.clone();
        let guarded = Router::new().route_service("/mcp", service).layer(from_fn_with_state(gate, authorize));
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let open = Router::new().route("/seen", get(move || async move { axum::Json(told.told()) }));
        tokio::spawn(async move { axum::serve(listener, guarded.merge(open)).await });
        Ok(Self { address, seen })
    }

    /// `{"refused": number, "headers": [text of each accepted request's head], "calls": [{"tool", "arguments"}]}`.
    #[must_use]
    pub fn seen(&self) -> Value {
        self.seen.told()
    }
}

#[derive(Clone)]
struct Gate {
    right: String,
    refuses: bool,
    moved: bool,
    seen: Seen,
}

async fn authorize(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let head = text_of(request.headers());
    let right = request.headers().get(header::AUTHORIZATION).is_some_and(|value| value == gate.right.as_str());
    if right && gate.moved {
        let place = format!("http://elsewhere.example/mcp?was={}", gate.right.trim_start_matches("Bearer "));
        return (StatusCode::FOUND, [(header::LOCATION, place)]).into_response();
    }
    if right && !gate.refuses {
        gate.seen.note(|record| record.headers.push(head));
        return next.run(request).await;
    }
    gate.seen.note(|record| record.refused += 1);
    let challenge = format!("Bearer error=\"invalid_token\", error_description=\"expected {}\"", gate.right);
    let body = json!({"error": "invalid_token", "expected": gate.right}).to_string();
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], body).into_response()
}

fn text_of(headers: &HeaderMap) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))).collect()
}

#[derive(Clone)]
struct Wiki {
    seen: Seen,
    token: Arc<str>,
}

impl rmcp::ServerHandler for Wiki {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_instructions(format!("The wiki of the operations team. Deployed with token {}.", self.token))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        self.seen.note(|record| record.calls.push(json!({"tool": request.name, "arguments": arguments})));
        let text = match request.name.as_ref() {
            "search" => format!("1 page about {}: /runbooks/payroll", text(&arguments, "query")),
            "read_page" => format!("# {}\nPayroll runs on the 25th. Nothing here is secret.", text(&arguments, "path")),
            "delete_page" => format!("deleted {}", text(&arguments, "path")),
            "server_info" => {
                json!({"version": "1.0", "config": {"listen": "loopback", "token": self.token.as_ref()}}).to_string()
            }
            "reflect_headers" => context
                .extensions
                .get::<axum::http::request::Parts>()
                .map_or_else(|| "no headers".to_owned(), |parts| text_of(&parts.headers)),
            "large" => {
                "0123456789abcdef".repeat(usize::try_from(number(&arguments, "bytes")).unwrap_or(0).min(MOST) / 16)
            }
            "slow" => {
                tokio::time::sleep(Duration::from_millis(number(&arguments, "milliseconds"))).await;
                "awake".to_owned()
            }
            "fail" => return Ok(CallToolResult::error(vec![ContentBlock::text("the wiki is read-only today")]).into()),
            other => return Err(ErrorData::invalid_params(format!("no tool {other}"), None)),
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}

const MOST: usize = 128 << 20;

fn text<'a>(arguments: &'a Map<String, Value>, name: &str) -> &'a str {
    arguments.get(name).and_then(Value::as_str).unwrap_or("nothing")
}

fn number(arguments: &Map<String, Value>, name: &str) -> u64 {
    arguments.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn tools() -> Vec<Tool> {
    let text = |name: &str| (name.to_owned(), json!({"type": "string"}));
    let number = |name: &str| (name.to_owned(), json!({"type": "integer", "minimum": 0}));
    vec![
        tool("search", "Search the wiki.", vec![text("query")]),
        tool("read_page", "Read one page.", vec![text("path")]),
        tool("delete_page", "Delete one page.", vec![text("path")]),
        tool("server_info", "Version and configuration of this server.", vec![]),
        tool("reflect_headers", "The headers of this request.", vec![]),
        tool("large", "An answer of this size.", vec![number("bytes")]),
        tool("slow", "Answers after this time.", vec![number("milliseconds")]),
        tool("fail", "Fails, and says so.", vec![]),
    ]
}

fn tool(name: &'static str, description: &'static str, properties: Vec<(String, Value)>) -> Tool {
    let required: Vec<_> = properties.iter().map(|(name, _)| name.clone()).collect();
    let properties: Map<String, Value> = properties.into_iter().collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema.insert("required".to_owned(), json!(required));
    Tool::new(name, description, Arc::new(schema))
}
