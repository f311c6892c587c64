//! Agents, environments, sessions and models over the wire.

use serde_json::{Value, json};

use crate::support::Server;

fn texts<'a>(page: &'a Value, field: &str) -> Vec<&'a str> {
    page["data"].as_array().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_a_version_for_every_change_and_none_without() {
    let server = Server::start().await;
    let created = server.post("/v1/agents", json!({"name": "a", "model": "m-1", "system": "s"})).await.ok();
    assert_eq!(
        (&created["type"], &created["version"], &created["archived_at"]),
        (&json!("agent"), &json!(1), &Value::Null)
    );
    let path = format!("/v1/agents/{}", created["id"].as_str().unwrap());
    assert_eq!(server.post(&path, json!({"version": 1, "name": "a"})).await.ok(), created, "a no-op");
    let second = server.post(&path, json!({"version": 1, "system": null})).await.ok();
    assert_eq!(
        (&second["version"], &second["system"], &second["created_at"]),
        (&json!(2), &Value::Null, &created["created_at"])
    );

    let stale = server.post(&path, json!({"version": 1, "system": null})).await;
    assert!(stale.refused(409, "conflict_error").contains("version 2"));
    let never = server.post(&path, json!({"version": 0})).await;
    assert!(never.refused(400, "invalid_request_error").starts_with("version:"));
    assert_eq!(server.get(&format!("{path}?version=1")).await.ok(), created);
    assert_eq!(server.get(&path).await.ok(), second);
    server.get(&format!("{path}?version=3")).await.refused(404, "not_found_error");
    let versions = server.get(&format!("{path}/versions?limit=1")).await.ok();
    assert_eq!(versions["data"], json!([second]));
    let next = format!("{path}/versions?limit=1&page={}", versions["next_page"].as_str().unwrap());
    assert_eq!(server.get(&next).await.ok(), json!({"data": [created], "next_page": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_agent_is_found_listed_on_demand_and_fixed() {
    let server = Server::start().await;
    let id = server.agent().await;
    let path = format!("/v1/agents/{id}");
    let archived = server.post(&format!("{path}/archive"), json!({})).await.ok();
    assert!(archived["archived_at"].is_string());
    let again = server.send(server.request("POST", &format!("{path}/archive"))).await.ok();
    assert_eq!(again, archived);
    server.post(&path, json!({"name": "b"})).await.refused(400, "invalid_request_error");
    assert_eq!(server.get("/v1/agents").await.ok()["data"], json!([]));
    assert_eq!(texts(&server.get("/v1/agents?include_archived=true").await.ok(), "id"), [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_visit_every_agent_once_newest_first_and_cursors_keep_to_their_list() {
    let server = Server::start().await;
    for n in 0..5 {
        server.post("/v1/agents", json!({"name": format!("a{n}"), "model": "m-1"})).await.ok();
    }
    let (mut names, mut path) = (Vec::new(), "/v1/agents?limit=2".to_owned());
    let mut pages = 0;
    loop {
        let page = server.get(&path).await.ok();
        names.extend(texts(&page, "name").into_iter().map(str::to_owned));
        pages += 1;
        let Some(next) = page["next_page"].as_str() else { break };
        server.get(&format!("/v1/environments?page={next}")).await.refused(400, "invalid_request_error");
        path = format!("/v1/agents?limit=2&page={next}");
    }
    assert_eq!((pages, names), (3, ["a4", "a3", "a2", "a1", "a0"].map(str::to_owned).to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_selects_agents_by_age() {
    let server = Server::start().await;
    let first = server.post("/v1/agents", json!({"name": "a", "model": "m"})).await.ok();
    let second = server.post("/v1/agents", json!({"name": "b", "model": "m"})).await.ok();
    let at = second["created_at"].as_str().unwrap().replace(':', "%3A").replace('Z', "%2B00%3A00");
    let from = server.get(&format!("/v1/agents?created_at%5Bgte%5D={at}")).await.ok();
    assert_eq!(texts(&from, "id"), [second["id"].as_str().unwrap()]);
    let before = server.get(&format!("/v1/agents?created_at[lt]={at}")).await.ok();
    assert_eq!(texts(&before, "id"), [first["id"].as_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_self_hosted_unique_by_name_and_updated_three_valued() {
    let server = Server::start().await;
    let body = json!({"name": "e", "description": "d", "metadata": {"a": "1", "b": "2"}});
    let created = server.post("/v1/environments", body.clone()).await.ok();
    assert_eq!(created["config"], json!({"type": "self_hosted"}));
    server.post("/v1/environments", body).await.refused(409, "conflict_error");
    let path = format!("/v1/environments/{}", created["id"].as_str().unwrap());
    assert_eq!(server.post(&path, json!({})).await.ok(), created);
    for (change, field, expected) in [
        (json!({"description": ""}), "description", json!("")),
        (json!({"description": null}), "description", Value::Null),
        (json!({"metadata": {"a": "", "c": "3"}}), "metadata", json!({"b": "2", "c": "3"})),
        (json!({"name": "f"}), "name", json!("f")),
        (json!({"config": {"type": "self_hosted"}}), "config", json!({"type": "self_hosted"})),
    ] {
        assert_eq!(server.post(&path, change).await.ok()[field], expected, "{field}");
    }
    let change = server.post(&path, json!({"config": {"type": "cloud"}})).await;
    change.refused(400, "invalid_request_error");
    assert_eq!(change.body["error"]["details"]["error_code"], "invalid_config_type_change");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_descriptions_and_tools_have_bounds() {
    let server = Server::start().await;
    let tool = |number: usize| json!({"type": "custom", "name": format!("t{number}"), "description": "d", "input_schema": {"type": "object"}});
    let tools = |count: usize| json!({"name": "a", "model": "m", "tools": (0..count).map(tool).collect::<Vec<_>>()});
    let environment =
        |name: usize, description: usize| json!({"name": "x".repeat(name), "description": "x".repeat(description)});
    server.post("/v1/environments", environment(256, 2048)).await.ok();
    server.post("/v1/agents", tools(256)).await.ok();
    for (path, body, place) in [
        ("/v1/environments", environment(257, 1), "name"),
        ("/v1/environments", environment(1, 2049), "description"),
        ("/v1/agents", tools(257), "tools"),
    ] {
        let message = server.post(path, body).await.refused(400, "invalid_request_error");
        assert!(message.contains(place), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_environment_frees_its_name_and_takes_nothing() {
    let server = Server::start().await;
    let (id, _) = server.environment("e").await;
    let path = format!("/v1/environments/{id}");
    let archived = server.send(server.request("POST", &format!("{path}/archive"))).await.ok();
    assert!(archived["archived_at"].is_string());
    assert_eq!(server.send(server.request("POST", &format!("{path}/archive"))).await.ok(), archived);
    for (path, body) in [(path.clone(), json!({"name": "f"})), (format!("{path}/keys"), json!({}))] {
        let response = server.post(&path, body).await;
        response.refused(400, "invalid_request_error");
        assert_eq!(response.body["error"]["details"]["error_code"], "environment_archived");
    }
    server.environment("e").await;
    let agent = server.agent().await;
    let session = server.post("/v1/sessions", json!({"agent": agent, "environment_id": id})).await;
    session.refused(400, "invalid_request_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_deleted_only_without_sessions() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let agent = server.agent().await;
    let session = server.post("/v1/sessions", json!({"agent": agent, "environment_id": environment})).await.ok();
    let path = format!("/v1/environments/{environment}");
    server.send(server.request("DELETE", &path)).await.refused(409, "conflict_error");
    let gone =
        server.send(server.request("DELETE", &format!("/v1/sessions/{}", session["id"].as_str().unwrap()))).await;
    assert_eq!(gone.ok(), json!({"id": session["id"], "type": "session_deleted"}));
    let deleted = server.send(server.request("DELETE", &path)).await.ok();
    assert_eq!(deleted, json!({"id": environment, "type": "environment_deleted"}));
    server.get(&path).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_by_id_and_found() {
    let server = Server::start().await;
    let page = server.get("/v1/models?limit=2").await.ok();
    assert_eq!((texts(&page, "id"), &page["has_more"]), (vec!["m-3", "m-2"], &json!(true)));
    let rest = server.get("/v1/models?after_id=m-2&lifecycle[]=active").await.ok();
    assert_eq!((texts(&rest, "id"), &rest["has_more"]), (vec!["m-1"], &json!(false)));
    for (name, id) in [("m-1", "m-1"), ("m-latest", "m-3"), ("m-0", "m-0")] {
        assert_eq!(server.get(&format!("/v1/models/{name}")).await.ok()["id"], id);
    }
    server.get("/v1/models/m-none").await.refused(404, "not_found_error");
    let retired = server.get("/v1/models?lifecycle[]=retired").await.ok();
    assert_eq!(texts(&retired, "id"), ["m-0"]);
    server.get("/v1/models?lifecycle[]=new").await.refused(400, "invalid_request_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_thread_shows_its_session_s_log() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let (session, _) = server.session_with_open_call(&environment).await;
    let path = format!("/v1/sessions/{session}/threads");
    let threads = server.get(&path).await.ok();
    let thread = threads["data"][0].clone();
    assert_eq!((threads["data"].as_array().unwrap().len(), &thread["parent_thread_id"]), (1, &Value::Null));
    let one = format!("{path}/{}", thread["id"].as_str().unwrap());
    assert_eq!(server.get(&one).await.ok()["id"], thread["id"]);
    let log = server.get(&format!("{one}/events")).await.ok();
    assert_eq!(log, server.get(&format!("/v1/sessions/{session}/events")).await.ok());
    assert_eq!(server.get(&format!("{path}?statuses[]=terminated")).await.ok()["data"], json!([]));
    let unknown = server.get(&format!("{path}/sthr_unknown")).await;
    unknown.refused(404, "not_found_error");
}
