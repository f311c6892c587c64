//! Bounds of requests: what just fits is taken, one more is refused with its place.

mod files;

use serde_json::{Value, json};

use crate::credentials::variable;
use crate::support::{Response, Server, hex};
use crate::work::{polled, work_path};

/// A bound of a request.
struct Bound {
    path: String,
    /// The body that just fits; none where the bound is of a query.
    fits: Option<Value>,
    /// The same with one more: a body, or the path with a query.
    beyond: Result<Value, String>,
    /// What the refusal names.
    place: &'static str,
}

impl Bound {
    /// A body's, of so much.
    fn body(path: &str, place: &'static str, most: usize, body: impl Fn(usize) -> Value) -> Self {
        Self { path: path.to_owned(), fits: Some(body(most)), beyond: Ok(body(most + 1)), place }
    }

    /// A query's.
    fn query(place: &'static str, most: usize, path: impl Fn(usize) -> String) -> Self {
        Self { path: path(most), fits: None, beyond: Err(path(most + 1)), place }
    }
}

/// Sends all of them, and says which are not kept.
async fn kept(server: &Server, bounds: Vec<Bound>) {
    let mut wrong = Vec::new();
    for Bound { path, fits, beyond, place } in bounds {
        let beyond = match beyond {
            Ok(body) => server.post(&path, body).await,
            Err(path) => server.get(&path).await,
        };
        let fits = match fits {
            Some(body) => server.post(&path, body).await,
            None => server.get(&path).await,
        };
        wrong.extend(misjudged(&path, place, &fits, &beyond));
    }
    assert_eq!(wrong, [""; 0]);
}

fn misjudged(path: &str, place: &str, fits: &Response, beyond: &Response) -> Vec<String> {
    let path: String = path.chars().take(80).collect();
    let mut wrong = Vec::new();
    if fits.status != 200 {
        wrong.push(format!("{path}: what fits got {} {}", fits.status, fits.text));
    }
    let message = beyond.body["error"]["message"].as_str().unwrap_or_default();
    if beyond.status != 400 || !message.contains(place) {
        wrong.push(format!("{path}: more than fits got {} {message:?}, not `{place}`", beyond.status));
    }
    wrong
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_urls_and_descriptions_have_bounds() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let webhook =
        |url: String, description: String| json!({"url": url, "description": description, "enabled_events": ["*"]});
    let address = |length: usize| format!("https://h.example/{}", text(length - "https://h.example/".len()));
    kept(
        &server,
        vec![
            Bound::body("/v1/webhooks", "url", 2048, |length| webhook(address(length), text(1))),
            Bound::body("/v1/webhooks", "description", 1024, |length| webhook(address(30), text(length))),
            Bound::body("/v1/tunnels", "display_name", 255, |length| json!({"display_name": text(length)})),
            Bound::body("/v1/vaults", "display_name", 255, |length| json!({"display_name": text(length)})),
        ],
    )
    .await;
    let perimeter =
        |length: usize| json!({"name": text(length), "public_key": hex(&[7; 32]), "environment_id": environment});
    let beyond = server.operator_post("/v1/perimeters", perimeter(256)).await;
    let fits = server.operator_post("/v1/perimeters", perimeter(255)).await;
    assert_eq!(misjudged("/v1/perimeters", "name", &fits, &beyond), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_a_credential_have_bounds() {
    let server = Server::start().await;
    server.perimeter().await;
    let vault = server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
    let path = format!("/v1/vaults/{}/credentials", vault["id"].as_str().unwrap());
    let oauth = |name: &str, value: String| {
        let mut refresh = json!({"client_id": "c", "refresh_token": "refresh-0123456789-abc", "scope": "read",
            "resource": "r", "token_endpoint": "https://auth.example/token", "token_endpoint_auth": {"type": "none"}});
        refresh[name] = json!(value);
        let url = format!("https://{}.example/mcp", name.replace('_', "-"));
        json!({"auth": {"type": "mcp_oauth", "mcp_server_url": url, "access_token": "access-0123456789-abc",
            "refresh": refresh}})
    };
    let bearer = |url: String| json!({"auth": {"type": "static_bearer", "mcp_server_url": url, "token": "bearer-0123456789-abcdef"}});
    let address = |length: usize| format!("https://a.example/{}", text(length - "https://a.example/".len()));
    let unrestricted = || json!({"type": "unrestricted"});
    kept(
        &server,
        vec![
            Bound::body(&path, "auth.refresh.client_id", 2048, |length| oauth("client_id", text(length))),
            Bound::body(&path, "auth.refresh.scope", 2048, |length| oauth("scope", text(length))),
            Bound::body(&path, "auth.refresh.resource", 2048, |length| oauth("resource", text(length))),
            Bound::body(&path, "auth.refresh.token_endpoint", 2048, |length| oauth("token_endpoint", address(length))),
            Bound::body(&path, "auth.mcp_server_url", 2048, |length| bearer(address(length))),
            Bound::body(&path, "auth.secret_name", 255, |length| variable(&text(length), unrestricted())),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_or_a_deployment_begins_with_has_bounds() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let agent = server.agent().await;
    let mut vaults = Vec::new();
    for _ in 0..51 {
        vaults.push(server.post("/v1/vaults", json!({"display_name": "v"})).await.ok()["id"].clone());
    }
    let mut stores = Vec::new();
    for number in 0..9 {
        let store = server.post("/v1/memory_stores", json!({"name": format!("store {number}")})).await.ok();
        stores.push(json!({"type": "memory_store", "memory_store_id": store["id"]}));
    }
    let file = crate::files::uploaded(&server, "a", b"a").await;
    let given = |number: usize| json!({"type": "file", "file_id": file["id"], "mount_path": format!("/mnt/session/uploads/{number}")});
    let files = |count: usize| (0..count).map(given).collect::<Value>();
    let message = json!({"type": "user.message", "content": [{"type": "text", "text": "go"}]});
    let session = |name: &str, value: Value| json!({"agent": agent, "environment_id": environment, name: value});
    let deployment = |name: &str, value: Value| {
        let mut body = json!({"agent": agent, "environment_id": environment, "name": "d", "initial_events": [message]});
        body[name] = value;
        body
    };
    // As many minutes as it takes, of which the first is the same each time.
    let cron = |length: usize| {
        let minutes = format!("{}{}", &"0".repeat(2 - length % 2), ",0".repeat((length - 9) / 2));
        let expression = format!("{minutes} 3 * * *");
        assert_eq!(expression.len(), length);
        json!({"type": "cron", "expression": expression, "timezone": "UTC"})
    };
    kept(
        &server,
        vec![
            Bound::body("/v1/sessions", "initial_events", 50, |n| {
                session("initial_events", vec![message.clone(); n].into())
            }),
            Bound::body("/v1/sessions", "vault_ids", 50, |n| session("vault_ids", vaults[..n].into())),
            Bound::body("/v1/sessions", "resources", 500, |n| session("resources", files(n))),
            Bound::body("/v1/sessions", "memory stores", 8, |n| session("resources", stores[..n].into())),
            Bound::body("/v1/deployments", "initial_events", 50, |n| {
                deployment("initial_events", vec![message.clone(); n].into())
            }),
            Bound::body("/v1/deployments", "resources", 500, |n| deployment("resources", files(n))),
            Bound::body("/v1/deployments", "schedule.expression", 256, |n| deployment("schedule", cron(n))),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_in_a_query_has_bounds() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let session = server.post("/v1/sessions", json!({"agent": server.agent().await, "environment_id": environment}));
    let session = format!("/v1/sessions/{}", session.await.ok()["id"].as_str().unwrap());
    let ids = |count: usize| (0..count).map(|n| format!("ids[]=file_{n}")).collect::<Vec<_>>().join("&");
    kept(
        &server,
        vec![
            Bound::query("limit", 1000, |limit| format!("/v1/sessions?limit={limit}")),
            Bound::query("limit", 1000, |limit| format!("{session}/events?limit={limit}")),
            Bound::query("limit", 1000, |limit| format!("{session}/threads?limit={limit}")),
            Bound::query("ids", 100, |count| format!("/v1/files?{}", ids(count))),
        ],
    )
    .await;
    let poll = async |ms: usize| {
        let path = format!("/v1/environments/{environment}/work/poll?reclaim_older_than_ms={ms}");
        server.send(server.request_as(&key, "GET", &path)).await
    };
    let (fits, beyond) = (poll(86_400_000).await, poll(86_400_001).await);
    assert_eq!(misjudged("poll", "reclaim_older_than_ms", &fits, &beyond), [""; 0]);
    // A stream that is taken has no end: of one value too many it is said that they are too many, not what one is.
    for (count, expected) in [(100, "must be `agent.message`"), (101, "at most 100 values")] {
        let stream = format!("{session}/events/stream?{}", vec!["event_deltas[]=x"; count].join("&"));
        let message = server.get(&stream).await.refused(400, "invalid_request_error");
        assert!(message.contains(expected), "{count}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_a_thousand_events_or_twenty_sessions_unless_asked() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let body = json!({"agent": server.agent().await, "environment_id": environment});
    for _ in 0..20 {
        server.post("/v1/sessions", body.clone()).await.ok();
    }
    let session = server.post("/v1/sessions", body).await.ok();
    let page = server.get("/v1/sessions").await.ok();
    assert_eq!((page["data"].as_array().unwrap().len(), page["next_page"].is_string()), (20, true));
    let events = format!("/v1/sessions/{}/events", session["id"].as_str().unwrap());
    let message = json!({"type": "user.message", "content": [{"type": "text", "text": "hi"}]});
    let mut sent = 0;
    while sent < 1001 {
        // Refused while 200 wait.
        let answer = server.post(&events, json!({"events": vec![message.clone(); 50]})).await;
        sent += if answer.status == 200 { 50 } else { 0 };
    }
    let page = server.get(&events).await.ok();
    assert_eq!((page["data"].as_array().unwrap().len(), page["next_page"].is_string()), (1000, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_says_of_its_failure_has_bounds() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let stop = work_path(&environment, &item, "/stop");
    let said = |code: usize, message: usize| {
        let error = json!({"code": text(code), "message": "\u{e9}".repeat(message)});
        server.request_as(&key, "POST", &stop).json(&json!({"force": true, "error": error}))
    };
    for (code, message, place) in [(65, 1, "error.code"), (1, 2001, "error.message")] {
        let refusal = server.send(said(code, message)).await.refused(400, "invalid_request_error");
        assert!(refusal.contains(place), "{refusal}");
    }
    server.send(said(64, 2000)).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roster_has_one_to_twenty_agents_an_advisor_among_them() {
    let server = Server::start().await;
    let mut agents = Vec::new();
    for number in 0..21 {
        let agent = server.post("/v1/agents", json!({"name": format!("a{number}"), "model": "m-1"})).await.ok();
        agents.push(agent["id"].clone());
    }
    let advisor = || json!({"type": "advisor", "model": "m-2"});
    let team = |agents: Vec<Value>| json!({"type": "coordinator", "agents": agents});
    let parts = |agents: &[Value]| {
        let subagents = json!({"type": "enabled", "predefined_agents": agents});
        json!({"type": "multiagent_20261001", "workflows": {"type": "disabled"}, "subagents": subagents})
    };
    let chief = |multiagent: Value| json!({"name": "chief", "model": "m-1", "multiagent": multiagent});
    let with_advisor = |count: usize| [&agents[..count - 1], &[advisor()]].concat();
    kept(
        &server,
        vec![
            Bound::body("/v1/agents", "multiagent.agents", 20, |count| chief(team(agents[..count].to_vec()))),
            Bound::body("/v1/agents", "multiagent.agents", 20, |count| chief(team(with_advisor(count)))),
            Bound::body("/v1/agents", "predefined_agents", 20, |count| chief(parts(&agents[..count]))),
        ],
    )
    .await;
    server.post("/v1/agents", chief(parts(&[]))).await.ok();
    let named = server.post("/v1/agents", json!({"name": "a0", "model": "m-1"})).await.ok()["id"].clone();
    let chief_of = server.post("/v1/agents", chief(team(vec![agents[0].clone()]))).await.ok()["id"].clone();
    for (agents, part) in [
        (vec![], "1 to 20 agents"),
        (vec![advisor(), advisor()], "at most one advisor"),
        (vec![agents[0].clone(), agents[0].clone()], "each is named once"),
        (vec![agents[0].clone(), named], "is called `a0` too"),
        (vec![chief_of], "a roster of its own"),
    ] {
        let message = server.post("/v1/agents", chief(team(agents))).await.refused(400, "invalid_request_error");
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_deployments_of_a_workspace_have_a_schedule() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let agent = server.agent().await;
    let message = json!({"type": "user.message", "content": [{"type": "text", "text": "go"}]});
    let deployment = |schedule: Value| {
        json!({"agent": agent, "environment_id": environment, "name": "d", "initial_events": [message],
            "schedule": schedule})
    };
    let daily = || json!({"type": "cron", "expression": "0 3 * * *", "timezone": "UTC"});
    let first = server.post("/v1/deployments", deployment(daily())).await.ok();
    let mut tx = server.store.write().await.unwrap();
    for statement in [
        "CREATE TEMPORARY TABLE others AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 998) \
           SELECT d.*, i FROM deployments d, n",
        "UPDATE others SET id = id || 'x' || i",
        "ALTER TABLE others DROP COLUMN i",
        "INSERT INTO deployments SELECT * FROM others",
        "DROP TABLE others",
    ] {
        sqlx::query(statement).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    let last = server.post("/v1/deployments", deployment(daily())).await.ok();
    let unscheduled = server.post("/v1/deployments", deployment(Value::Null)).await.ok();
    let update = format!("/v1/deployments/{}", unscheduled["id"].as_str().unwrap());
    for (path, body) in [("/v1/deployments", deployment(daily())), (&update, json!({"schedule": daily()}))] {
        let message = server.post(path, body).await.refused(400, "invalid_request_error");
        assert!(message.contains("schedule: 1000 deployments"), "{message}");
    }
    // One that has a schedule may get another, and one that is archived makes room.
    server.post(&format!("/v1/deployments/{}", last["id"].as_str().unwrap()), json!({"schedule": daily()})).await.ok();
    let archive = format!("/v1/deployments/{}/archive", first["id"].as_str().unwrap());
    server.send(server.request("POST", &archive)).await.ok();
    server.post(&update, json!({"schedule": daily()})).await.ok();
}
