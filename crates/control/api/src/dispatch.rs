//! The one path of every request: name it, find out who calls, check what the table says, read, handle, render.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, State};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::upgrade::OnUpgrade;
use postern_model::Problem;
use postern_model::ids::{InvalidId, RequestId, WorkspaceId};
use postern_store::answers::Once;
use serde::de::DeserializeOwned;
use zeroize::Zeroize;

use crate::app::App;
use crate::body;
use crate::caller::{Caller, Kind, OverOperatorSocket, WORKSPACE, authenticate, operator};
use crate::multipart::{Form, Raw};
use crate::once::{self, Keyed, Told};
use crate::query::Query;
use crate::reply::{Reply, refusal};
use crate::roles;
use crate::routes::{Answer, Beta, Method, NOT_IN_THIS_BUILD, ROUTES, Route};
use crate::scope;
use crate::serve::Answering;

/// What a handler gets: a request that passed every check of the table.
pub(crate) struct Call {
    pub(crate) app: App,
    pub(crate) caller: Caller,
    pub(crate) workspace: WorkspaceId,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    /// The connection itself, where the client offers to speak something else on it.
    pub(crate) upgrade: Option<OnUpgrade>,
    /// Set where the request shall have its effect once.
    pub(crate) once: Option<Once>,
    /// The same before its body is known.
    pub(crate) keyed: Option<Keyed>,
    /// The same with its body, where its handler reads that.
    pub(crate) told: Option<Told>,
    parameters: Vec<(String, String)>,
    body: Bytes,
    /// A form that its handler reads as it arrives. Locked by nobody: a body can be sent to another thread and not shared.
    upload: Mutex<Option<Body>>,
}

impl Call {
    /// The form, on a route that takes one.
    pub(crate) fn form(&mut self) -> Result<Form, Problem> {
        let upload = self.upload.get_mut().unwrap_or_else(PoisonError::into_inner);
        let body = upload.take().unwrap_or_default();
        Form::read(&self.headers, body, self.app.limits.upload_patience)
    }

    /// The bytes, on a route that takes them as they are.
    pub(crate) fn bytes(&mut self) -> Result<Raw, Problem> {
        let upload = self.upload.get_mut().unwrap_or_else(PoisonError::into_inner);
        Raw::read(&self.headers, upload.take().unwrap_or_default(), self.app.limits.upload_patience)
    }

    /// An id from the path. One of another form names nothing that exists.
    pub(crate) fn id<T: FromStr<Err = InvalidId>>(&self, name: &str, noun: &str) -> Result<T, Problem> {
        let text = self.parameter(name);
        text.parse().map_err(|_| Problem::not_found(format!("{noun} `{}` was not found.", shown(text))))
    }

    /// A segment of the path, decoded.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// The JSON body.
    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        body::parse(&self.body)
    }

    /// A JSON body that holds a secret: an error repeats no value of it, and its bytes are wiped where they are ours alone.
    pub(crate) fn confidential_body<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        let body = std::mem::take(&mut self.body);
        let parsed = body::parse_confidential(&body);
        if let Ok(mut bytes) = body.try_into_mut() {
            bytes.as_mut().zeroize();
        }
        parsed
    }

    /// The JSON body, where leaving it out means the default.
    pub(crate) fn optional_body<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        if self.body.trim_ascii().is_empty() { Ok(T::default()) } else { self.body() }
    }

    /// Refuses a body on a route that takes none, and parameters that the handler did not ask for.
    pub(crate) fn finish_without_body(self) -> Result<(), Problem> {
        self.expect_no_body()?;
        self.query.finish()
    }

    /// Refuses parameters that the handler did not ask for.
    pub(crate) fn finish_query(&mut self) -> Result<(), Problem> {
        std::mem::take(&mut self.query).finish()
    }

    /// Refuses a body on a route that takes none.
    pub(crate) fn expect_no_body(&self) -> Result<(), Problem> {
        body::expect_none(&self.body)
    }
}

/// The router over the whole table.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handler =
            move |State(app), parameters: Result<RawPathParams, RawPathParamsRejection>, request: Request<_>| {
                // The router takes HEAD for GET; a poll that nobody reads would still take an item from the queue.
                let route = Some(route).filter(|_| request.method() != http::Method::HEAD);
                answer(app, route, parameters, request)
            };
        router = router.route(route.path, on(filter(route.method), handler));
    }
    router.fallback(no_route).method_not_allowed_fallback(no_route).with_state(app)
}

async fn no_route(
    State(app): State<App>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    request: Request<Body>,
) -> Response<Body> {
    answer(app, None, parameters, request).await
}

fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Post | Method::Upload => MethodFilter::POST,
        Method::Patch => MethodFilter::PATCH,
        Method::Delete => MethodFilter::DELETE,
    }
}

async fn answer(
    app: App,
    route: Option<&'static Route>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    request: Request<Body>,
) -> Response<Body> {
    let request_id = RequestId::generate();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (ping_every, shares) = (app.limits.ping_every, app.shares.clone());
    let (client, table) = (client(request.headers()), route.map_or("", |route| route.path));
    let mut caller = None;
    let result = serve(app, route, parameters, request, &mut caller).await;
    let who = caller.as_ref().map(Caller::log_name).unwrap_or_default();
    // A reader who takes its time holds a connection, whoever it is.
    let result = result.and_then(|reply| {
        let Some(caller) = caller.as_ref().filter(|_| reply.lasts()) else { return Ok((reply, None)) };
        let share = shares.take(caller);
        // What was done is said in any case, a poll's item too.
        let only_reads = method == http::Method::GET && !table.ends_with("/work/poll");
        let share = if only_reads { share? } else { share.unwrap_or_default() };
        Ok((reply, share))
    });
    let mut response = match result {
        Ok((reply, None)) => reply.into_response(ping_every),
        Ok((reply, share)) => reply.into_response(ping_every).map(|body| Body::new(Answering::new(body, share))),
        Err(problem) => {
            tracing::debug!(%request_id, %method, path, who, status = problem.status(), %problem, "refused");
            refusal(&problem, request_id.as_str())
        }
    };
    let status = response.status().as_u16();
    tracing::debug!(%request_id, %method, path, route = table, who, client, status, "answered");
    let headers = response.headers_mut();
    headers.insert("postern-version", HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    insert(headers, "request-id", request_id.as_str());
    if let Some(caller) = caller {
        insert(headers, WORKSPACE, caller.workspace().as_str());
    }
    response
}

async fn serve(
    app: App,
    route: Option<&'static Route>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    request: Request<Body>,
    authenticated: &mut Option<Caller>,
) -> Result<Reply, Problem> {
    let (mut parts, stream) = request.into_parts();
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let caller = match parts.extensions.get::<OverOperatorSocket>() {
        Some(OverOperatorSocket) => operator(&app, &parts.headers).await?,
        None => authenticate(&app, &parts.headers).await?,
    };
    *authenticated = Some(caller.clone());
    let Some(route) = route else { return Err(unknown_route(&parts.method, parts.uri.path())) };
    check_beta(route, &parts.headers)?;
    check_kind(route, &caller)?;
    if let Some(role) = caller.role() {
        roles::check(role, route)?;
    }
    let workspace = check_workspace(&caller, &parts.headers)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let parameters = path_parameters(parameters)?;
    // Whoever sends a body slowly holds a connection as well. What has none holds nothing: it may always be asked.
    let arriving = match route.method {
        Method::Get => None,
        Method::Upload => app.shares.take(&caller)?,
        Method::Post | Method::Patch | Method::Delete if stream.is_end_stream() => None,
        Method::Post | Method::Patch | Method::Delete => app.shares.take_body(&caller)?,
    };
    // Only now: nobody unknown makes the server hold a body.
    let (body, upload) = match route.method {
        Method::Get => (Bytes::new(), None),
        Method::Upload => (Bytes::new(), Some(stream)),
        Method::Post | Method::Patch | Method::Delete => {
            (body::read(&parts.headers, stream, app.limits.body_bytes, app.limits.body_time).await?, None)
        }
    };
    // Of an upload until its handler is done with it.
    let _arriving = arriving.filter(|_| upload.is_some());
    scope::check(&app, &caller, &workspace, route, &parameters, &body).await?;
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let keyed = once::of(route, &caller, &parts.headers, target)?;
    // A form's handler knows its body, and asks then.
    let told = keyed.as_ref().filter(|_| upload.is_none()).map(|keyed| Told::new(&app, keyed, &body)).transpose()?;
    if let Some(told) = &told
        && let Some(reply) = told.earlier(&app).await?
    {
        return Ok(reply);
    }
    let (served, once) = (app.clone(), told.as_ref().map(|told| told.once.clone()));
    let ends = until_refused(app.clone(), route, caller.clone(), parts.headers.clone());
    let headers = parts.headers;
    let answer = (route.handler)(Call {
        app,
        caller,
        workspace,
        headers,
        query,
        upgrade,
        once,
        keyed,
        told: None,
        parameters,
        body,
        upload: Mutex::new(upload),
    });
    match route.method {
        Method::Get => Ok(answer.await?.until(Box::pin(ends))),
        Method::Post | Method::Upload | Method::Patch | Method::Delete => {
            let answered = to_the_end(answer).await;
            postern_danger::point!("answer.before");
            let settled = match &told {
                Some(told) => told.settle(&served, answered).await,
                None => answered,
            };
            postern_danger::point!("answer.after");
            settled
        }
    }
}

/// Completes when the caller could not make its request any more: its key was revoked, its lease is over. Nobody who
/// opened a stream in time may read on for ever.
async fn until_refused(app: App, route: &'static Route, caller: Caller, headers: HeaderMap) {
    if matches!(caller, Caller::Operator(_)) {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(app.limits.ping_every).await;
        match authenticate(&app, &headers).await {
            Ok(caller)
                if check_kind(route, &caller).is_ok()
                    && caller.role().is_none_or(|role| roles::check(role, route).is_ok()) => {}
            // Trouble of our own is not the caller's.
            Err(problem) if problem.kind != postern_model::problem::Kind::Authentication => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Lets a change run to its end although the client hangs up in the middle: some have a second step.
async fn to_the_end(answer: Answer) -> Result<Reply, Problem> {
    tokio::spawn(answer).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a handler ended without an answer");
        Err(Problem::internal())
    })
}

/// A missing beta makes the route not exist, as on the hosted platform.
fn check_beta(route: &Route, headers: &HeaderMap) -> Result<(), Problem> {
    let accepted = route.beta.accepted();
    let Some(needed) = accepted.first() else { return Ok(()) };
    if betas(headers).any(|beta| accepted.contains(&beta)) {
        return Ok(());
    }
    Err(Problem::not_found(format!("This route needs the header `anthropic-beta: {needed}`.")))
}

/// The betas that a request names.
pub(crate) fn betas(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let sent = headers.get_all("anthropic-beta").iter().filter_map(|value| value.to_str().ok());
    sent.flat_map(|list| list.split(',')).map(str::trim)
}

fn check_kind(route: &Route, caller: &Caller) -> Result<(), Problem> {
    let kind = caller.kind();
    if route.allowed.contains(&kind) {
        return Ok(());
    }
    Err(match kind {
        Kind::EndedSessionToken => Problem::authentication("This session token ended with its lease."),
        Kind::ApiKey if route.allowed == [Kind::Operator] => {
            Problem::permission("Only the operator may do this, over the operator's socket in the data directory.")
        }
        Kind::Operator | Kind::ApiKey => Problem::permission("This route takes an environment key or a session token."),
        Kind::EnvironmentKey => Problem::permission("An environment key may not do this."),
        Kind::SessionToken => Problem::permission("A session token may not do this."),
        Kind::TunnelToken => Problem::permission("A tunnel token may not do this."),
    })
}

fn check_workspace(caller: &Caller, headers: &HeaderMap) -> Result<WorkspaceId, Problem> {
    let own = caller.workspace();
    match headers.get(WORKSPACE) {
        Some(sent) if sent.as_bytes() != own.as_str().as_bytes() => Err(Problem::permission(format!(
            "The credential belongs to workspace {own}; `anthropic-workspace-id` names another one."
        ))),
        _ => Ok(own),
    }
}

fn path_parameters(
    parameters: Result<RawPathParams, RawPathParamsRejection>,
) -> Result<Vec<(String, String)>, Problem> {
    let parameters = parameters.map_err(|_| Problem::not_found("The path is not UTF-8."))?;
    Ok(parameters.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn unknown_route(method: &http::Method, path: &str) -> Problem {
    let absent = NOT_IN_THIS_BUILD.iter().find(|absent| absent.matches(path));
    match absent {
        Some(absent) => Problem::not_found(format!("{} are not in this build.", absent.noun)),
        None => Problem::not_found(format!("There is no route {method} {}.", shown(path))),
    }
}

/// What the client says it is.
fn client(headers: &HeaderMap) -> String {
    let said = headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
    shown(said.unwrap_or_default())
}

/// Text of a caller's, bounded before it is repeated.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

impl Beta {
    /// The values of the header any of which will do, the one to name first; none where no beta is needed.
    pub(crate) fn accepted(self) -> &'static [&'static str] {
        match self {
            Self::ManagedAgents => &["managed-agents-2026-04-01"],
            Self::Tunnels => &["mcp-tunnels-2026-06-22"],
            Self::Memory => &["agent-memory-2026-07-22", "managed-agents-2026-04-01"],
            Self::None => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_change_goes_on_when_the_client_hangs_up() {
        let (begun, has_begun) = oneshot::channel();
        let (open, gate) = oneshot::channel::<()>();
        let (ended, has_ended) = oneshot::channel();
        let request = tokio::spawn(to_the_end(Box::pin(async move {
            begun.send(()).unwrap();
            gate.await.unwrap();
            ended.send(()).unwrap();
            Reply::json(&())
        })));
        has_begun.await.unwrap();
        request.abort();
        assert!(request.await.is_err_and(|error| error.is_cancelled()));
        open.send(()).unwrap();
        has_ended.await.unwrap();
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_with_500() {
        let problem = to_the_end(Box::pin(async { panic!("a bug") })).await.err().unwrap();
        assert_eq!(problem.status(), 500);
    }
}
