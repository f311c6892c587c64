//! One object of each kind that a path can name, with the credentials that belong to them.

use std::time::SystemTime;

use postern_api::{Method, Route};
use postern_tunnel::certificate::new_ca;
use serde_json::{Value, json};

use crate::credentials::bearer;
use crate::files::upload;
use crate::memory_access::attach;
use crate::skills::{give, made};
use crate::support::{Request, Response, Server};
use crate::work::{Polled, polled_with_vaults};

pub(crate) struct Place {
    pub(crate) environment_key: String,
    pub(super) tunnel_token: String,
    pub(super) item: Polled,
    /// An item whose lease is over.
    pub(super) ended: Polled,
    ca: String,
    api_key: String,
    /// What stands for each parameter of a path.
    ids: Vec<(&'static str, String)>,
}

impl Place {
    pub(crate) async fn new(server: &Server) -> Self {
        let name = format!("{:?}", std::time::Instant::now());
        let (environment, environment_key) = server.environment(&name).await;
        let perimeter = id(&server.perimeter().await.0);
        // What uses a vault uses this one, which a key for others does not know.
        let vault_and_credential = vault(server).await;
        let vaults = [vault_and_credential[0].1.as_str()];
        let item = polled_with_vaults(server, &environment, &environment_key, &vaults).await;
        // Last: what is stopped goes back into the queue.
        let ended = polled_with_vaults(server, &environment, &environment_key, &vaults).await;
        let stop = format!("/v1/environments/{environment}/work/{}/stop", ended.work);
        server.post(&stop, json!({"force": true})).await.ok();
        let keys = server.get(&format!("/v1/environments/{environment}/keys")).await.ok();
        let threads = server.get(&format!("/v1/sessions/{}/threads", item.session)).await.ok();
        let mut ids = vec![
            ("{environment}", environment.clone()),
            ("{session}", item.session.clone()),
            ("{work}", item.work.clone()),
            ("{thread}", id(&threads["data"][0])),
            ("{key}", id(&keys["data"][0])),
            ("{perimeter}", perimeter),
            ("{agent}", server.agent().await),
        ];
        ids.extend(given(server, &item.session).await);
        ids.extend(deployment(server, &environment, &vaults).await);
        ids.extend(memory(server, &[&item, &ended]).await);
        ids.extend(vault_and_credential);
        ids.extend(webhook(server).await);
        let workspace = server.operator_post("/v1/workspaces", json!({"name": "w"})).await.ok();
        ids.push(("{workspace}", id(&workspace)));
        ids.extend(skill(server, &[&item, &ended]).await);
        let tunnel = server.post("/v1/tunnels", json!({})).await.ok();
        let ca = new_ca(tunnel["domain"].as_str().unwrap(), SystemTime::now()).unwrap().certificate_pem;
        let path = format!("/v1/tunnels/{}", id(&tunnel));
        let certificate = server.post(&format!("{path}/certificates"), json!({"ca_certificate_pem": ca})).await.ok();
        ids.extend([("{tunnel}", id(&tunnel)), ("{certificate}", id(&certificate))]);
        let token = server.send(server.request("POST", &format!("{path}/reveal_token"))).await.ok();
        let tunnel_token = token["tunnel_token"].as_str().unwrap().to_owned();
        let api_key = id(&server.operator_post("/v1/api_keys", json!({"name": name})).await.ok());
        Self { environment_key, tunnel_token, item, ended, ca, api_key, ids }
    }

    /// Gives back what a workspace has few of.
    pub(super) async fn leave(&self, server: &Server) {
        let id = |name: &str| &self.ids.iter().find(|(known, _)| *known == name).expect("each place has one").1;
        let tunnel = format!("/v1/tunnels/{}/archive", id("{tunnel}"));
        server.send(server.request("POST", &tunnel)).await.ok();
        let webhook = format!("/v1/webhooks/{}", id("{webhook}"));
        let left = server.send(server.request("DELETE", &webhook)).await;
        assert!(matches!(left.status, 200 | 404), "{}", left.text);
        let perimeter = format!("/v1/perimeters/{}", id("{perimeter}"));
        let left = server.operator(Request::new("DELETE", &perimeter)).await;
        assert!(matches!(left.status, 200 | 404), "{}", left.text);
    }

    /// The route's path with these objects in it.
    pub(crate) fn path(&self, route: &Route, of_ended_lease: bool) -> String {
        let mut path = route.path.replace("{model}", "m-1");
        if of_ended_lease {
            path = path.replace("{session}", &self.ended.session).replace("{work}", &self.ended.work);
        }
        if path.starts_with("/v1/api_keys") {
            path = path.replace("{key}", &self.api_key);
        }
        let path = self.ids.iter().fold(path, |path, (name, id)| path.replace(name, id));
        assert!(!path.contains('{'), "{}: the matrix needs an object for each parameter", route.path);
        path
    }

    /// The same path with objects that nobody has.
    pub(super) fn missing(&self, path: &str) -> String {
        self.ids.iter().fold(path.to_owned(), |path, (_, id)| path.replace(id.as_str(), &nothing(id)))
    }

    /// The same path with nothing in place of these parameters.
    pub(super) fn without(&self, path: &str, names: &[&str]) -> String {
        let named = self.ids.iter().filter(|(name, _)| names.contains(name));
        named.fold(path.to_owned(), |path, (_, id)| path.replace(id.as_str(), &nothing(id)))
    }

    /// A refusal without the ids of what was asked for.
    pub(super) fn anonymous(&self, answer: &Response) -> (u16, String) {
        (answer.status, self.missing(&answer.body["error"].to_string()))
    }

    /// A body that the route takes, so that what decides is who asks.
    pub(super) fn body(&self, route: &Route) -> Option<Value> {
        match route.path {
            _ if !matches!(route.method, Method::Post | Method::Patch) => None,
            "/v1/memory_stores/{memory_store}/memories" => Some(json!({"path": "/other", "content": ""})),
            "/v1/agents/{agent}" => Some(json!({"version": 1})),
            "/v1/sessions/{session}/events" => {
                Some(json!({"events": [{"type": "user.tool_result", "tool_use_id": self.item.call}]}))
            }
            "/v1/sessions/{session}/resources" => {
                let file = &self.ids.iter().find(|(name, _)| *name == "{file}").expect("each place has one").1;
                Some(json!({"type": "file", "file_id": file}))
            }
            "/v1/sessions/{session}/resources/{resource}" => Some(json!({"authorization_token": "t"})),
            "/v1/sessions/{session}/resources/{resource}/failure" => {
                Some(json!({"type": "repository_clone_error", "message": "m"}))
            }
            "/v1/vaults/{vault}/credentials" => Some(bearer("https://other.example/mcp")),
            "/v1/tunnels/{tunnel}/certificates" => Some(json!({"ca_certificate_pem": self.ca})),
            // Creates stop at their body: a workspace that is empty stays so.
            "/v1/tunnels" => Some(json!({"display_name": ""})),
            "/v1/tunnels/{tunnel}/probe" => Some(json!({"route": "wiki"})),
            "/v1/environments/{environment}/work/{work}" => Some(json!({"metadata": {}})),
            path if path.ends_with('}') || path.ends_with("/keys") || path.ends_with("/stop") => Some(json!({})),
            _ => None,
        }
    }
}

async fn vault(server: &Server) -> [(&'static str, String); 2] {
    let vault = server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
    let path = format!("/v1/vaults/{}/credentials", id(&vault));
    let credential = server.post(&path, bearer("https://mcp.example/mcp")).await.ok();
    [("{vault}", id(&vault)), ("{credential}", id(&credential))]
}

/// A file that the session was given: its own copy.
async fn given(server: &Server, session: &str) -> [(&'static str, String); 2] {
    let upload = server.send(upload(server.request("POST", "/v1/files"), &[("file", Some("a.txt"), b"a")])).await.ok();
    let body = json!({"type": "file", "file_id": id(&upload)});
    let resource = server.post(&format!("/v1/sessions/{session}/resources"), body).await.ok();
    let file = resource["file_id"].as_str().unwrap().to_owned();
    [("{file}", file), ("{resource}", id(&resource))]
}

async fn deployment(server: &Server, environment: &str, vaults: &[&str]) -> [(&'static str, String); 2] {
    let start = json!([{"type": "user.message", "content": [{"type": "text", "text": "go"}]}]);
    let agent = server.agent().await;
    let mut body = json!({"agent": agent, "environment_id": environment, "name": "d", "initial_events": start});
    body["vault_ids"] = json!(vaults);
    let deployment = server.post("/v1/deployments", body).await.ok();
    let path = format!("/v1/deployments/{}/run", id(&deployment));
    let run = server.send(server.request("POST", &path)).await.ok();
    [("{deployment}", id(&deployment)), ("{run}", id(&run))]
}

/// A store that the sessions have, with a memory and a version of it that is not its head.
async fn memory(server: &Server, items: &[&Polled]) -> [(&'static str, String); 3] {
    let store = id(&server.post("/v1/memory_stores", json!({"name": "s"})).await.ok());
    let path = format!("/v1/memory_stores/{store}/memories");
    let memory = server.post(&path, json!({"path": "/a", "content": "1"})).await.ok();
    for item in items {
        attach(server, &item.session, &store, "read_write").await;
    }
    let change = server.request_as(&items[0].token, "POST", &format!("{path}/{}", id(&memory)));
    let written = server.send(change.json(&json!({"content": "2"}))).await.ok();
    server.post(&format!("{path}/{}", id(&memory)), json!({"content": "3"})).await.ok();
    let version = written["memory_version_id"].as_str().unwrap().to_owned();
    [("{memory_store}", store), ("{memory}", id(&memory)), ("{memory_version}", version)]
}

/// A webhook, and an event that it is told of.
async fn webhook(server: &Server) -> [(&'static str, String); 2] {
    let body = json!({"url": "https://hooks.example/", "enabled_events": ["agent.created"]});
    let webhook = id(&server.post("/v1/webhooks", body).await.ok());
    server.agent().await;
    let told = server.get(&format!("/v1/webhooks/{webhook}/deliveries")).await.ok();
    [("{webhook}", webhook), ("{event}", id(&told["data"][0]["event"]))]
}

/// A skill that the sessions have.
async fn skill(server: &Server, items: &[&Polled]) -> [(&'static str, String); 2] {
    let name = format!("s{}", items[0].work.bytes().map(|byte| format!("{byte:02x}")).collect::<String>());
    let skill = made(server, &name[name.len() - 40..]).await;
    for item in items {
        give(server, &item.session, &skill).await;
    }
    let version = skill["latest_version_id"].as_str().unwrap().to_owned();
    [("{skill}", id(&skill)), ("{skill_version}", version)]
}

fn id(object: &Value) -> String {
    object["id"].as_str().unwrap_or_else(|| panic!("an object with an id: {object}")).to_owned()
}

/// An id of the same form that nothing has.
fn nothing(id: &str) -> String {
    let (form, _) = id.rsplit_once('_').expect("an id has its kind in front");
    format!("{form}_none")
}
