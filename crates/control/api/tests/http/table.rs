//! What holds for every route of the table, walked.

use postern_api::{Beta, Kind, Method, ROUTES, Route};
use serde_json::json;

use crate::support::{Request, Response, Server};

/// What clients send that add a beta of their own.
const MEMORY_BETAS: &str = "managed-agents-2026-04-01,agent-memory-2026-07-22";

fn method(route: &Route) -> &'static str {
    match route.method {
        Method::Get => "GET",
        Method::Post | Method::Upload => "POST",
        Method::Patch => "PATCH",
        Method::Delete => "DELETE",
    }
}

/// The route's path with ids in place of its parameters.
fn path(route: &Route, environment: &str, session: &str, work: &str) -> String {
    route
        .path
        .replace("{agent}", "agent_x")
        .replace("{environment}", environment)
        .replace("{session}", session)
        .replace("{work}", work)
        .replace("{thread}", "sthr_x")
        .replace("{model}", "m-1")
        .replace("{key}", "apikey_x")
        .replace("{vault}", "vlt_x")
        .replace("{credential}", "vcrd_x")
        .replace("{tunnel}", "tnl_x")
        .replace("{certificate}", "tcrt_x")
        .replace("{perimeter}", "perim_x")
        .replace("{memory_store}", "memstore_x")
        .replace("{memory}", "mem_x")
        .replace("{memory_version}", "memver_x")
        .replace("{skill}", "skill_x")
        .replace("{skill_version}", "skillver_x")
}

async fn call(server: &Server, route: &Route, credential: Option<&str>, beta: bool) -> Response {
    let mut request = Request::new(method(route), &path(route, "env_x", "sesn_x", "work_x"));
    if let Some(credential) = credential {
        request = request.header("authorization", &format!("Bearer {credential}"));
    }
    if beta {
        request = request.header("anthropic-beta", crate::support::BETAS);
    }
    server.send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_answers_without_a_credential_of_this_server() {
    let server = Server::start().await;
    let foreign = postern_secret::key::ApiKey::issue();
    #[expect(clippy::disallowed_methods, reason = "a key that no server knows")]
    let foreign = foreign.secret().expose().as_str();
    for route in ROUTES {
        for credential in [None, Some(""), Some("sk-ant-api03-x"), Some("pst_api_short"), Some(foreign)] {
            let response = call(&server, route, credential, true).await;
            response.refused(401, "authentication_error");
            assert!(response.header("postern-version").is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_does_not_exist_without_its_beta() {
    let server = Server::start().await;
    for route in ROUTES {
        let response = call(&server, route, Some(&server.key), false).await;
        match route.beta {
            Beta::ManagedAgents => {
                assert!(response.refused(404, "not_found_error").contains(crate::support::BETA), "{}", route.path);
            }
            Beta::Tunnels => {
                let other = server.request(method(route), &path(route, "env_x", "sesn_x", "work_x"));
                let other = server.send(other.header("anthropic-beta", crate::support::BETA)).await;
                for response in [response, other] {
                    let message = response.refused(404, "not_found_error");
                    assert!(message.contains(crate::support::TUNNELS_BETA), "{}", route.path);
                }
            }
            Beta::Memory => {
                assert!(
                    response.refused(404, "not_found_error").contains(crate::support::MEMORY_BETA),
                    "{}",
                    route.path
                );
                for sent in [crate::support::MEMORY_BETA, crate::support::BETA, MEMORY_BETAS] {
                    let path = path(route, "env_x", "sesn_x", "work_x");
                    let request = server.request(method(route), &path).header("anthropic-beta", sent);
                    let answer = server.send(request).await;
                    assert!(!answer.text.contains("needs the header"), "{} with {sent}", route.path);
                }
                let other = server.request(method(route), &path(route, "env_x", "sesn_x", "work_x"));
                let other = server.send(other.header("anthropic-beta", crate::support::TUNNELS_BETA)).await;
                assert!(other.refused(404, "not_found_error").contains("needs the header"), "{}", route.path);
            }
            Beta::None => assert!(!response.text.contains("needs the header"), "{}", route.path),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_every_kind_of_credential_it_does_not_name() {
    let server = Server::start().await;
    let (environment, environment_key) = server.environment("e").await;
    let alive = crate::work::polled(&server, &environment, &environment_key).await;
    let ended = crate::work::polled(&server, &environment, &environment_key).await;
    let stop = format!("/v1/environments/{environment}/work/{}/stop", ended.work);
    server.send(server.request("POST", &stop).json(&json!({"force": true}))).await.ok();
    let mut refusals = 0;
    for route in ROUTES {
        for (kind, credential, item) in [
            (Kind::ApiKey, &server.key, &alive),
            (Kind::EnvironmentKey, &environment_key, &alive),
            (Kind::SessionToken, &alive.token, &alive),
            (Kind::EndedSessionToken, &ended.token, &ended),
        ] {
            if route.allowed.contains(&kind) {
                continue;
            }
            let path = path(route, &environment, &item.session, &item.work);
            let response = server.send(server.request_as(credential, method(route), &path)).await;
            match kind {
                Kind::EndedSessionToken => response.refused(401, "authentication_error"),
                _ => response.refused(403, "permission_error"),
            };
            refusals += 1;
        }
    }
    assert!(refusals > 100, "the walk refused {refusals} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_credentials_reach_nothing_but_the_queue_sessions_their_files_memories_and_skills() {
    for route in ROUTES {
        let worker = route.allowed.iter().any(|kind| !matches!(kind, Kind::Operator | Kind::ApiKey));
        let expected = route.path.contains("/work")
            || route.path == "/v1/perimeter/control"
            || (route.path.contains("/memories") && !route.allowed.contains(&Kind::EnvironmentKey))
            || (route.path.contains("{session}") && {
                let reads = route.method == Method::Get;
                let posts_events = route.method == Method::Post && route.path.ends_with("/events");
                let says_what_failed = route.path.ends_with("/failure");
                reads || posts_events || says_what_failed || route.path.ends_with("/outputs")
            })
            || route.path == "/v1/files/{file}/content"
            || (route.path.starts_with("/v1/skills/{skill}/versions/{skill_version}") && route.method == Method::Get);
        assert!(!worker || expected, "{} {}", method(route), route.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_contract_has_and_this_build_has_not_says_so() {
    let server = Server::start().await;
    for path in ["/v1/user_profiles", "/v1/dreams", "/v1/organizations/webhooks", "/v1/messages"] {
        for method in ["GET", "POST"] {
            let message = server.send(server.request(method, path)).await.refused(404, "not_found_error");
            assert!(message.contains("not in this build"), "{method} {path}: {message}");
        }
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1/agent"),
        ("PUT", "/v1/agents"),
        ("PATCH", "/v1/agents/agent_1"),
        ("DELETE", "/v1/agents/agent_1"),
    ] {
        let message = server.send(server.request(method, path)).await.refused(404, "not_found_error");
        assert!(message.contains("no route"), "{method} {path}: {message}");
    }
    server.send(Request::new("GET", "/v1/dreams")).await.refused(401, "authentication_error");
}
