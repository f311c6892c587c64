//! A session with a server: initialized once, its tools read once, each call sent once. A session that the server forgot
//! or that broke is begun anew for the next call, never for the one that met it.

use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelledNotification, CancelledNotificationParam, ClientCapabilities,
    ClientConfig, ClientNotification, ClientRequest, Implementation, ListToolsRequest, PaginatedRequestParams,
    RequestId, ServerResult,
};
use rmcp::service::{PeerRequestOptions, RunningService, ServiceError};
use rmcp::transport::common::client_side_sse::NeverRetry;
use rmcp::transport::streamable_http_client::{StreamableHttpClientTransport, StreamableHttpClientTransportConfig};
use rmcp::{Peer, RoleClient, ServiceExt};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::failure::of_json_rpc;
use super::http::{Http, Inner, settled};
use super::reach::Via;
use super::record::{Mark, Record};
use super::{BoxFuture, Limits, McpConnection, McpFailure, McpTool, ToolResult, result};

/// How long the server may take to be told that a call is no longer wanted.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

type Service = RunningService<RoleClient, ClientConfig>;

/// Makes what a session's requests need, for the first session and for each that replaces a lost one.
pub(super) type Reopen = Box<dyn Fn() -> Inner + Send + Sync>;

/// A session with a server.
pub(super) struct Connection {
    reopen: Reopen,
    limits: Limits,
    via: Via,
    tools: Vec<McpTool>,
    live: Mutex<Option<Arc<Service>>>,
}

impl Connection {
    /// Initializes a session and reads the server's tools.
    pub(super) async fn open(reopen: Reopen, limits: Limits) -> Result<Self, McpFailure> {
        let inner = reopen();
        let via = inner.via;
        let service = initialize(inner, limits.initialize).await?;
        let (tools, _) = list_tools(service.peer(), via, &limits).await?;
        Ok(Self { reopen, limits, via, tools, live: Mutex::new(Some(Arc::new(service))) })
    }

    /// The live session, begun anew where it was lost.
    async fn live(&self) -> Result<Arc<Service>, McpFailure> {
        let mut live = self.live.lock().await;
        match &*live {
            Some(service) if !service.is_closed() => Ok(Arc::clone(service)),
            _ => {
                let service = Arc::new(initialize((self.reopen)(), self.limits.initialize).await?);
                *live = Some(Arc::clone(&service));
                Ok(service)
            }
        }
    }

    async fn lose(&self, lost: &Arc<Service>) {
        let mut live = self.live.lock().await;
        if live.as_ref().is_some_and(|live| Arc::ptr_eq(live, lost)) {
            *live = None;
        }
    }

    async fn called(
        &self,
        tool_use: String,
        tool: String,
        arguments: Map<String, Value>,
    ) -> Result<ToolResult, McpFailure> {
        let service = self.live().await?;
        let mark = Mark { record: Record::default(), tool_use: Some(tool_use) };
        let mut params = CallToolRequestParams::new(tool);
        params.arguments = Some(arguments);
        let mut request = CallToolRequest::new(params);
        request.extensions.insert(mark.clone());
        let sent = send_once(&service, ClientRequest::CallToolRequest(request), self.limits.call).await;
        match sent {
            Ok(ServerResult::CallToolResult(answer)) => Ok(result::of_result(answer)),
            Ok(_) => Err(settled(McpFailure::protocol("it is not the result of a call"), &mark)),
            Err(Unsent::Timeout) => Err(settled(mark.record.late("the call", self.limits.call), &mark)),
            Err(Unsent::Service(error)) => match (mark.record.failure(), error) {
                (Some(failure), _) => {
                    if matches!(failure.code.as_str(), "session_expired" | "mcp_session_unknown") {
                        self.lose(&service).await;
                    }
                    Err(failure)
                }
                (None, ServiceError::McpError(error)) => Ok(result::of_error(&error)),
                (None, error) => {
                    self.lose(&service).await;
                    Err(settled(of_service(self.via, &error), &mark))
                }
            },
        }
    }
}

impl McpConnection for Connection {
    fn tools(&self) -> &[McpTool] {
        &self.tools
    }

    fn call(
        &self,
        tool_use_id: String,
        tool: String,
        arguments: Map<String, Value>,
    ) -> BoxFuture<'_, Result<ToolResult, McpFailure>> {
        Box::pin(self.called(tool_use_id, tool, arguments))
    }
}

/// Begins a session. rmcp's own recovery is off: what it would send again, a caller decides to send again.
pub(super) async fn initialize(inner: Inner, patience: Duration) -> Result<Service, McpFailure> {
    let (record, via) = (inner.unmarked.clone(), inner.via);
    let mut config = StreamableHttpClientTransportConfig::with_uri("");
    config.retry_config = Arc::new(NeverRetry::default());
    config.reinit_on_expired_session = false;
    config.allow_stateless = true;
    config.max_concurrent_requests = inner.reach.limits.requests_per_host;
    let transport = StreamableHttpClientTransport::with_client(Http::new(inner), config);
    let us =
        ClientConfig::new(ClientCapabilities::default(), Implementation::new("postern", env!("CARGO_PKG_VERSION")));
    match tokio::time::timeout(patience, us.serve(transport)).await {
        Ok(Ok(service)) => Ok(service),
        Ok(Err(error)) => Err(record.failure().unwrap_or_else(|| of_initialize(via, &error))),
        Err(_) => Err(record.failure().unwrap_or_else(|| record.late("`initialize`", patience))),
    }
}

fn of_initialize(via: Via, error: &rmcp::service::ClientInitializeError) -> McpFailure {
    use rmcp::service::ClientInitializeError as E;
    match error {
        E::JsonRpcError(error) => of_json_rpc(via, error),
        E::TransportError { .. } | E::ConnectionClosed(_) => McpFailure::broken("it was closed during `initialize`"),
        _ => McpFailure::protocol("it is not the answer to `initialize`"),
    }
}

fn of_service(via: Via, error: &ServiceError) -> McpFailure {
    match error {
        ServiceError::TransportSend(_) | ServiceError::TransportClosed => McpFailure::broken("it was closed"),
        ServiceError::McpError(error) => of_json_rpc(via, error),
        _ => McpFailure::protocol("it is of another kind than was asked for"),
    }
}

/// Reads all pages of a server's tools, and what the last answer said about its time.
pub(super) async fn list_tools(
    peer: &Peer<RoleClient>,
    via: Via,
    limits: &Limits,
) -> Result<(Vec<McpTool>, Option<String>), McpFailure> {
    let (mut tools, mut cursor, mut left_bytes) = (Vec::new(), None, limits.tools_bytes);
    for _ in 0..limits.tool_pages {
        let record = Record::default();
        let mark = Mark { record: record.clone(), tool_use: None };
        let params = Some(PaginatedRequestParams::default().with_cursor(cursor));
        let mut request = ListToolsRequest { params, ..ListToolsRequest::default() };
        request.extensions.insert(mark.clone());
        let answer = peer.send_request(ClientRequest::ListToolsRequest(request));
        let answer = match tokio::time::timeout(limits.initialize, answer).await {
            Ok(Ok(ServerResult::ListToolsResult(page))) => page,
            Ok(Ok(_)) => return Err(McpFailure::protocol("it is not a list of tools")),
            Ok(Err(error)) => return Err(record.failure().unwrap_or_else(|| of_service(via, &error))),
            Err(_) => return Err(record.late("`tools/list`", limits.initialize)),
        };
        for tool in answer.tools {
            let tool = McpTool {
                name: tool.name.into_owned(),
                description: tool.description.map(std::borrow::Cow::into_owned),
                input_schema: Value::Object(tool.input_schema.as_ref().clone()),
            };
            left_bytes = left_bytes.checked_sub(size(&tool)).ok_or_else(|| too_many(limits))?;
            tools.push(tool);
        }
        if tools.len() > limits.tools {
            return Err(too_many(limits));
        }
        match answer.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok((tools, record.server_timing())),
        }
    }
    Err(too_many(limits))
}

fn size(tool: &McpTool) -> usize {
    tool.name.len() + tool.description.as_ref().map_or(0, String::len) + tool.input_schema.to_string().len()
}

fn too_many(limits: &Limits) -> McpFailure {
    let message = format!(
        "The MCP server lists more than {} tools, {} pages or {} MiB of them.",
        limits.tools,
        limits.tool_pages,
        limits.tools_bytes / (1024 * 1024)
    );
    McpFailure::new("too_many_tools", message, "Let the server offer fewer tools, or split it.")
}

/// Why a request has no result, before its record is asked.
enum Unsent {
    Timeout,
    Service(ServiceError),
}

/// Sends a request once and waits. Dropped before the answer, or out of time, the server is told that it is no longer
/// wanted.
async fn send_once(service: &Arc<Service>, request: ClientRequest, patience: Duration) -> Result<ServerResult, Unsent> {
    let sent = service.peer().send_cancellable_request(request, PeerRequestOptions::no_options()).await;
    let handle = sent.map_err(Unsent::Service)?;
    let mut wanted = Wanted { service: Some(Arc::clone(service)), id: handle.id.clone() };
    let answer = tokio::time::timeout(patience, handle.await_response()).await;
    match answer {
        Ok(answer) => {
            wanted.service = None;
            answer.map_err(Unsent::Service)
        }
        Err(_) => Err(Unsent::Timeout),
    }
}

/// Says `notifications/cancelled` when it is dropped with the answer still outstanding, best effort.
struct Wanted {
    service: Option<Arc<Service>>,
    id: RequestId,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let (Some(service), Ok(runtime)) = (self.service.take(), tokio::runtime::Handle::try_current()) else { return };
        let reason = "the call is no longer wanted".to_owned();
        let what = CancelledNotificationParam::new(Some(self.id.clone()), Some(reason));
        let notification = ClientNotification::CancelledNotification(CancelledNotification::new(what));
        runtime.spawn(async move {
            // The server may be gone, or busy with this very call.
            let _ = tokio::time::timeout(CANCEL_PATIENCE, service.peer().send_notification(notification)).await;
        });
    }
}
