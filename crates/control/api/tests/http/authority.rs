//! Who may do what to whose: every route of the table, by every worker's credential, with its own and with foreign
//! objects.

use postern_api::{Kind, Method, ROUTES, Route};
use serde_json::{Value, json};

use crate::support::{Response, Server};
use crate::work::{Polled, polled};

/// A place in the world of the tests: an environment with an item of it.
struct Place<'a> {
    environment: &'a str,
    item: &'a Polled,
}

fn method(route: &Route) -> &'static str {
    match route.method {
        Method::Get => "GET",
        Method::Post | Method::Upload => "POST",
        Method::Patch => "PATCH",
        Method::Delete => "DELETE",
    }
}

fn path(route: &Route, environment: &str, session: &str, work: &str) -> String {
    let path = route.path.replace("{environment}", environment).replace("{session}", session).replace("{work}", work);
    path.replace("{thread}", "sthr_x").replace("{file}", "file_x")
}

async fn call(server: &Server, credential: &str, route: &Route, path: &str, item: &Polled) -> Response {
    let mut request = server.request_as(credential, method(route), path);
    if route.path.ends_with("/events") && route.method == Method::Post {
        request = request.json(&json!({"events": [{"type": "user.tool_result", "tool_use_id": item.call}]}));
    }
    server.send(request).await
}

/// An answer with the ids that were asked for taken out, so that answers about different ids compare.
fn anonymous(response: &Response, ids: &[&str]) -> Value {
    let text = ids.iter().fold(response.body["error"].to_string(), |text, id| text.replace(id, "ID"));
    json!([response.status, serde_json::from_str::<Value>(&text).unwrap()])
}

async fn everything(server: &Server, places: &[&Place<'_>]) -> Vec<Value> {
    let mut all = Vec::new();
    for place in places {
        all.push(server.get(&format!("/v1/sessions/{}/events", place.item.session)).await.ok());
        all.push(server.get(&format!("/v1/environments/{}/work", place.environment)).await.ok());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_learns_of_a_foreign_object_exactly_what_it_learns_of_none() {
    let server = Server::start().await;
    let (here, key) = server.environment("here").await;
    let (there, other_key) = server.environment("there").await;
    let mine = polled(&server, &here, &key).await;
    let neighbour = polled(&server, &here, &key).await;
    let foreign = polled(&server, &there, &other_key).await;
    let (next, far) = (Place { environment: &here, item: &neighbour }, Place { environment: &there, item: &foreign });
    let before = everything(&server, &[&next, &far]).await;
    let nothing = ["env_none", "sesn_none", "work_none"];
    let mut compared = 0;
    for route in ROUTES.iter().filter(|route| route.path.contains("{session}") || route.path.contains("{environment}"))
    {
        for (kind, credential, place) in [
            (Kind::SessionToken, &mine.token, &next),
            (Kind::SessionToken, &mine.token, &far),
            (Kind::EnvironmentKey, &key, &far),
        ] {
            // Reads of its own environment's queue are not foreign to a token; the items in it are.
            if !route.allowed.contains(&kind) {
                continue;
            }
            let ids = [place.environment, &place.item.session, &place.item.work];
            let answer = call(&server, credential, route, &path(route, ids[0], ids[1], ids[2]), place.item).await;
            answer.refused(404, "not_found_error");
            let unknown_environment = if place.environment == here { here.as_str() } else { nothing[0] };
            let unknown = path(route, unknown_environment, nothing[1], nothing[2]);
            let unknown = call(&server, credential, route, &unknown, place.item).await;
            let ids: Vec<&str> = ids.into_iter().chain(nothing).collect();
            assert_eq!(anonymous(&answer, &ids), anonymous(&unknown, &ids), "{} {}", method(route), route.path);
            compared += 1;
        }
    }
    assert!(compared > 25, "the walk compared {compared} answers");
    assert_eq!(everything(&server, &[&next, &far]).await, before, "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_opens_no_route() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let keys = format!("/v1/environments/{environment}/keys");
    let id = server.get(&keys).await.ok()["data"][0]["id"].as_str().unwrap().to_owned();
    server.send(server.request("DELETE", &format!("{keys}/{id}"))).await.ok();
    for route in ROUTES {
        let path = path(route, &environment, &item.session, &item.work);
        server.send(server.request_as(&key, method(route), &path)).await.refused(401, "authentication_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_what_it_is_in_whichever_header_and_two_are_none() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let session = format!("/v1/sessions/{}", item.session);
    for (credential, path, status) in [
        (&key, session.clone(), 200),
        (&item.token, session.clone(), 200),
        (&key, "/v1/agents".to_owned(), 403),
        (&item.token, "/v1/agents".to_owned(), 403),
        (&server.key, format!("/v1/environments/{environment}/work/poll"), 403),
    ] {
        let bearer = server.request_as(credential, "GET", &path);
        let header = bearer.clone().without("authorization").header("x-api-key", credential);
        let both = bearer.clone().header("x-api-key", credential);
        for request in [bearer, header, both] {
            assert_eq!(server.send(request).await.status, status, "{path}");
        }
        for other in [&key, &item.token, &server.key, &String::new()].into_iter().filter(|other| *other != credential) {
            let two = server.request_as(credential, "GET", &path).header("x-api-key", other);
            server.send(two).await.refused(401, "authentication_error");
        }
        let basic = server.request_as(credential, "GET", &path).header("authorization", &format!("Basic {credential}"));
        server.send(basic).await.refused(401, "authentication_error");
        let query = server.request("GET", &format!("{path}?api_key={credential}")).without("authorization");
        server.send(query).await.refused(401, "authentication_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_answers_open_calls_of_its_session_once_and_no_others() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let other = polled(&server, &environment, &key).await;
    let path = format!("/v1/sessions/{}/events", item.session);
    let result = |call: &str| json!({"events": [{"type": "user.tool_result", "tool_use_id": call}]});
    for credential in [&key, &item.token] {
        for call in [other.call.as_str(), "sevt_none"] {
            let request = server.request_as(credential, "POST", &path).json(&result(call));
            let message = server.send(request).await.refused(400, "invalid_request_error");
            assert!(message.contains("no tool use of this session"), "{message}");
        }
        let twice = json!({"events": [result(&item.call)["events"][0], result(&item.call)["events"][0]]});
        let request = server.request_as(credential, "POST", &path).json(&twice);
        server.send(request).await.refused(400, "invalid_request_error");
        let custom = json!({"events": [{"type": "user.custom_tool_result", "custom_tool_use_id": item.call}]});
        let request = server.request_as(credential, "POST", &path).json(&custom);
        server.send(request).await.refused(400, "invalid_request_error");
    }
    let answer = || server.send(server.request_as(&item.token, "POST", &path).json(&result(&item.call)));
    answer().await.ok();
    let message = answer().await.refused(400, "invalid_request_error");
    assert!(message.contains("already answered"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_session_can_be_read_and_deleted_and_a_deleted_one_is_gone() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let session = format!("/v1/sessions/{}", item.session);
    let events = format!("{session}/events");
    let result = json!({"events": [{"type": "user.tool_result", "tool_use_id": item.call}]});
    let message = json!({"events": [{"type": "user.message", "content": [{"type": "text", "text": "still there?"}]}]});
    server.send(server.request("POST", &format!("{session}/archive"))).await.ok();
    for credential in [&server.key, &key] {
        for path in [&session, &events, &format!("{session}/threads")] {
            server.send(server.request_as(credential, "GET", path)).await.ok();
        }
        let request = server.request_as(credential, "POST", &events).json(&result);
        server.send(request).await.refused(400, "invalid_request_error");
    }
    for body in [&message, &json!({"events": [{"type": "user.interrupt"}]})] {
        server.post(&events, body.clone()).await.refused(400, "invalid_request_error");
    }
    server.post(&session, json!({"title": "t"})).await.refused(400, "invalid_request_error");
    for path in [&session, &events] {
        server.send(server.request_as(&item.token, "GET", path)).await.refused(401, "authentication_error");
    }
    server.send(server.request("DELETE", &session)).await.ok();
    for credential in [&server.key, &key] {
        for path in [&session, &events, &format!("{events}/stream"), &format!("{session}/threads")] {
            server.send(server.request_as(credential, "GET", path)).await.refused(404, "not_found_error");
        }
        let request = server.request_as(credential, "POST", &events).json(&result);
        server.send(request).await.refused(404, "not_found_error");
    }
    server.send(server.request("POST", &format!("{session}/archive"))).await.refused(404, "not_found_error");
    server.send(server.request("DELETE", &session)).await.refused(404, "not_found_error");
    server.send(server.request_as(&item.token, "GET", &session)).await.refused(401, "authentication_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_environment_s_key_opens_nothing() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let path = format!("/v1/environments/{environment}");
    server.send(server.request("DELETE", &path)).await.ok();
    let poll = format!("{path}/work/poll");
    server.send(server.request_as(&key, "GET", &poll)).await.refused(401, "authentication_error");
}
