//! Deployments: what is refused, updates in three values, runs by hand, lists and their filters.

use serde_json::{Value, json};

use crate::support::{Server, issue_foreign_key};

struct Place {
    server: Server,
    agent: String,
    environment: String,
}

impl Place {
    async fn new() -> Self {
        let server = Server::start().await;
        let (agent, (environment, _)) = (server.agent().await, server.environment("here").await);
        Self { server, agent, environment }
    }

    fn body(&self, more: Value) -> Value {
        let mut body = json!({"agent": self.agent, "environment_id": self.environment, "name": "nightly",
            "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "go"}]}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    async fn create(&self, more: Value) -> Value {
        self.server.post("/v1/deployments", self.body(more)).await.ok()
    }
}

fn path(deployment: &Value) -> String {
    format!("/v1/deployments/{}", deployment["id"].as_str().unwrap())
}

fn cron(expression: &str) -> Value {
    json!({"type": "cron", "expression": expression, "timezone": "Europe/Berlin"})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_made_found_and_changed_in_three_values() {
    let place = Place::new().await;
    let created = place.create(json!({"schedule": cron("0 3 * * *"), "description": "d"})).await;
    let mut keys: Vec<&String> = created.as_object().unwrap().keys().collect();
    keys.sort();
    let expected = [
        "agent",
        "archived_at",
        "budget",
        "created_at",
        "description",
        "environment_id",
        "id",
        "initial_events",
        "metadata",
        "name",
        "paused_reason",
        "resources",
        "schedule",
        "status",
        "type",
        "updated_at",
        "vault_ids",
    ];
    assert_eq!(keys, expected);
    assert_eq!(created["agent"], json!({"type": "agent", "id": place.agent, "version": 1}));
    assert_eq!((&created["type"], &created["status"]), (&json!("deployment"), &json!("active")));
    assert_eq!(created["schedule"]["expression"], "0 3 * * *");
    assert_eq!(created["schedule"]["upcoming_runs_at"].as_array().unwrap().len(), 5);
    let path = path(&created);
    assert!(path.starts_with("/v1/deployments/depl_"));
    assert_eq!(place.server.get(&path).await.ok(), created);
    assert_eq!(place.server.post(&path, json!({})).await.ok(), created, "nothing changes");
    for (change, field, expected) in [
        (json!({"name": "weekly"}), "name", json!("weekly")),
        (json!({"description": ""}), "description", Value::Null),
        (json!({"metadata": {"a": "1"}}), "metadata", json!({"a": "1"})),
        (json!({"metadata": null}), "metadata", json!({})),
        (json!({"schedule": null}), "schedule", Value::Null),
    ] {
        assert_eq!(place.server.post(&path, change).await.ok()[field], expected, "{field}");
    }
    let agent = format!("/v1/agents/{}", place.agent);
    place.server.post(&agent, json!({"name": "other", "version": 1})).await.ok();
    assert_eq!(place.server.post(&path, json!({"name": "x"})).await.ok()["agent"]["version"], 1, "it stays pinned");
    assert_eq!(place.server.post(&path, json!({"agent": place.agent})).await.ok()["agent"]["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_session_could_be_is_refused_when_the_deployment_is_made() {
    let place = Place::new().await;
    let message = json!({"type": "user.message", "content": [{"type": "text", "text": "x"}]});
    for (more, status, part) in [
        (json!({"name": ""}), 400, "name"),
        (json!({"name": "x".repeat(257)}), 400, "name"),
        (json!({"description": "x".repeat(2049)}), 400, "description"),
        (json!({"initial_events": []}), 400, "initial_events"),
        (json!({"initial_events": vec![message; 51]}), 400, "initial_events"),
        (json!({"initial_events": [{"type": "user.interrupt"}]}), 400, "initial_events.0"),
        (json!({"initial_events": [{"type": "system.message", "content": []}]}), 400, "1 to 1000 text blocks"),
        (json!({"agent": "agent_unknown"}), 404, "agent_unknown"),
        (json!({"agent": {"type": "agent_with_overrides", "id": place.agent}}), 400, "agent.type"),
        (json!({"agent": {"type": "agent", "id": place.agent, "version": 9}}), 404, "was not found"),
        (json!({"environment_id": "env_unknown"}), 404, "env_unknown"),
        (json!({"vault_ids": ["vlt_unknown"]}), 400, "vault_ids[0]"),
        (json!({"schedule": cron("@daily")}), 400, "five fields"),
        (json!({"schedule": cron("0 0 30 2 *")}), 400, "never comes due"),
        (json!({"schedule": {"type": "cron", "expression": "* * * * *", "timezone": "Nowhere"}}), 400, "timezone"),
        (json!({"schedule": {"type": "rate"}}), 400, "schedule"),
        (json!({"surprise": 1}), 400, "surprise"),
    ] {
        let response = place.server.post("/v1/deployments", place.body(more.clone())).await;
        let kind = if status == 404 { "not_found_error" } else { "invalid_request_error" };
        let message = response.refused(status, kind);
        assert!(message.contains(part), "{more}: {message}");
    }
    assert_eq!(place.server.get("/v1/deployments").await.ok()["data"], json!([]));
    assert_eq!(place.server.get("/v1/sessions").await.ok()["data"], json!([]), "nothing is left of a rehearsal");
    let made = path(&place.create(json!({})).await);
    for field in ["agent", "environment_id", "initial_events", "name"] {
        let message = place.server.post(&made, json!({field: null})).await.refused(400, "invalid_request_error");
        assert!(message.contains(field), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_by_hand_begins_a_session_or_says_why_not() {
    let place = Place::new().await;
    let deployment = place.create(json!({})).await;
    let path = path(&deployment);
    let run = place.server.send(place.server.request("POST", &format!("{path}/run"))).await.ok();
    assert_eq!((&run["type"], &run["error"]), (&json!("deployment_run"), &Value::Null));
    assert_eq!(run["trigger_context"], json!({"type": "manual"}));
    let session = place.server.get(&format!("/v1/sessions/{}", run["session_id"].as_str().unwrap())).await.ok();
    assert_eq!(session["deployment_id"], deployment["id"]);
    let id = deployment["id"].as_str().unwrap();
    let found = place.server.get(&format!("/v1/sessions?deployment_id={id}")).await.ok();
    assert_eq!(found["data"][0]["id"], run["session_id"]);
    assert_eq!(place.server.get("/v1/sessions?deployment_id=depl_other").await.ok()["data"], json!([]));
    let again = place.server.get(&format!("/v1/deployment_runs/{}", run["id"].as_str().unwrap())).await.ok();
    assert_eq!(again, run);
    place
        .server
        .send(place.server.request("POST", &format!("/v1/environments/{}/archive", place.environment)))
        .await
        .ok();
    let failed = place.server.send(place.server.request("POST", &format!("{path}/run"))).await.ok();
    assert_eq!((&failed["session_id"], &failed["error"]["type"]), (&Value::Null, &json!("environment_archived_error")));
    for (query, expected) in [
        ("", 2),
        ("?has_error=true", 1),
        ("?has_error=false", 1),
        ("?trigger_type=schedule", 0),
        ("?trigger_type=manual&limit=1", 1),
        ("?deployment_id=depl_unknown", 0),
    ] {
        let listed = place.server.get(&format!("/v1/deployment_runs{query}")).await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), expected, "{query}");
    }
    for query in ["?has_error=1", "?trigger_type=moon", "?limit=1001", "?status=x"] {
        place.server.get(&format!("/v1/deployment_runs{query}")).await.refused(400, "invalid_request_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_archiving_and_lists_keep_to_their_states() {
    let place = Place::new().await;
    let (first, second) = (place.create(json!({"schedule": cron("0 3 * * *")})).await, place.create(json!({})).await);
    let act = async |deployment: &Value, what: &str| {
        place.server.send(place.server.request("POST", &format!("{}/{what}", path(deployment)))).await
    };
    assert_eq!(act(&first, "pause").await.ok()["paused_reason"], json!({"type": "manual"}));
    assert_eq!(act(&first, "pause").await.ok()["status"], "paused", "a second time changes nothing");
    for (query, expected) in [("?status=paused", &first), ("?status=active", &second)] {
        let listed = place.server.get(&format!("/v1/deployments{query}")).await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), 1);
        assert_eq!(listed["data"][0]["id"], expected["id"]);
    }
    let archived = act(&first, "archive").await.ok();
    assert_eq!((&archived["status"], &archived["paused_reason"]), (&json!("active"), &Value::Null));
    assert_eq!(archived["schedule"]["upcoming_runs_at"], json!([]));
    assert_eq!(act(&first, "archive").await.ok(), archived);
    for what in ["pause", "unpause", "run"] {
        act(&first, what).await.refused(400, "invalid_request_error");
    }
    place.server.post(&path(&first), json!({"name": "x"})).await.refused(400, "invalid_request_error");
    let listed = |query: &str| place.server.request("GET", &format!("/v1/deployments{query}"));
    assert_eq!(place.server.send(listed("")).await.ok()["data"].as_array().unwrap().len(), 1);
    let all = place.server.send(listed("?include_archived=true&limit=1")).await.ok();
    let next = all["next_page"].as_str().unwrap();
    let rest = place.server.send(listed(&format!("?include_archived=true&limit=1&page={next}"))).await.ok();
    assert_eq!((&all["data"][0]["id"], &rest["data"][0]["id"]), (&second["id"], &first["id"]));
    place.server.send(listed("?include_archived=true&status=active")).await.refused(400, "invalid_request_error");
    let agent = format!("?agent_id={}", place.agent);
    assert_eq!(place.server.send(listed(&agent)).await.ok()["data"].as_array().unwrap().len(), 1);
    assert_eq!(place.server.send(listed("?agent_id=agent_other")).await.ok()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_workspace_knows_nothing_of_a_deployment() {
    let place = Place::new().await;
    let path = path(&place.create(json!({})).await);
    let run = place.server.send(place.server.request("POST", &format!("{path}/run"))).await.ok();
    let run = format!("/v1/deployment_runs/{}", run["id"].as_str().unwrap());
    let foreign = issue_foreign_key(&place.server.store).await;
    for (method, path) in [
        ("GET", path.clone()),
        ("POST", path.clone()),
        ("POST", format!("{path}/archive")),
        ("POST", format!("{path}/pause")),
        ("POST", format!("{path}/unpause")),
        ("POST", format!("{path}/run")),
        ("GET", run),
    ] {
        let mut request = place.server.request_as(&foreign, method, &path);
        if method == "POST" && path.matches('/').count() == 3 {
            request = request.json(&json!({"name": "x"}));
        }
        place.server.send(request).await.refused(404, "not_found_error");
    }
    for list in ["/v1/deployments", "/v1/deployment_runs"] {
        let response = place.server.send(place.server.request_as(&foreign, "GET", list)).await;
        assert_eq!(response.ok()["data"], json!([]), "{list}");
    }
}

#[tokio::test]
async fn a_system_message_that_no_model_takes_is_refused_by_one_code_wherever_it_may_be_sent() {
    let place = Place::new().await;
    let system = json!({"type": "system.message", "content": [{"type": "text", "text": "be brief"}]});
    let message = json!({"type": "user.message", "content": [{"type": "text", "text": "go"}]});
    let body = place.body(json!({"initial_events": [message, system]}));
    let deployment = place.server.post("/v1/deployments", body).await;
    let session =
        json!({"agent": place.agent, "environment_id": place.environment, "initial_events": [message, system]});
    let begun = place.server.post("/v1/sessions", session.clone()).await;
    let mut plain = session;
    plain["initial_events"] = json!([]);
    let id = place.server.post("/v1/sessions", plain).await.ok()["id"].as_str().unwrap().to_owned();
    let sent = place.server.post(&format!("/v1/sessions/{id}/events"), json!({"events": [message, system]})).await;
    let why = begun.refused(400, "invalid_request_error");
    assert!(why.contains("only user.message and user.define_outcome"), "{why}");
    for refused in [deployment, sent] {
        let why = refused.refused(400, "invalid_request_error");
        assert!(why.contains("the agent's `system`"), "{why}");
        let code = &refused.body["error"]["details"]["error_code"];
        assert_eq!(code, "model_does_not_support_mid_conversation_system", "{}", refused.text);
    }
}
