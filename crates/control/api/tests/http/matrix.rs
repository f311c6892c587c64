//! Authorization as a table for review: every route of the API by every role, on its own object and on a foreign one.
//!
//! The table is committed (`authorization.txt`). A new route, and an answer that changes, fail until somebody has read
//! the new row and committed it.

pub(crate) mod place;

use std::fmt::Write as _;
use std::path::Path;

use postern_api::{Kind, Method, ROUTES, Route};
use postern_model::key::KeyRole;
use serde_json::json;

use crate::support::{BETAS, Request, Response, Server, connect, issue_foreign_key};
use place::Place;

const COMMITTED: &str = include_str!("authorization.txt");

/// Who calls: the columns. Where it says `foreign`, the object in the path belongs to somebody else.
const ROLES: [(Role, &str); 15] = [
    (Role::Operator, "operator"),
    (Role::ApiKey, "api-key"),
    (Role::Limited(KeyRole::Developer), "developer's api-key"),
    (Role::Limited(KeyRole::Viewer), "viewer's api-key"),
    (Role::Limited(KeyRole::Worker), "worker's api-key"),
    (Role::OtherVaults, "other vaults' api-key"),
    (Role::ForeignApiKey, "foreign api-key"),
    (Role::EnvironmentKey, "environment-key"),
    (Role::ForeignEnvironmentKey, "foreign environment-key"),
    (Role::SessionToken, "session-token"),
    (Role::ForeignSessionToken, "foreign session-token"),
    (Role::EndedSessionToken, "ended session-token"),
    (Role::TunnelToken, "tunnel-token"),
    (Role::ForeignTunnelToken, "foreign tunnel-token"),
    (Role::Nobody, "nobody"),
];

/// What names an object that uses a vault, or that tells of one that does.
const USES_A_VAULT: [&str; 7] =
    ["{vault}", "{session}", "{work}", "{deployment}", "{run}", "{file}", "{memory_version}"];
/// Lists of nothing but these.
const NAME_WHO_USES_A_VAULT: [&str; 4] =
    ["/v1/sessions", "/v1/deployments", "/v1/deployment_runs", "/v1/environments/{environment}/work"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Operator,
    ApiKey,
    /// An API key with a role that may not do everything.
    Limited(KeyRole),
    /// An administrator's, for a vault that nothing here uses.
    OtherVaults,
    /// Of another workspace.
    ForeignApiKey,
    EnvironmentKey,
    ForeignEnvironmentKey,
    SessionToken,
    ForeignSessionToken,
    EndedSessionToken,
    TunnelToken,
    ForeignTunnelToken,
    Nobody,
}

impl Role {
    fn kind(self) -> Option<Kind> {
        match self {
            Self::Operator => Some(Kind::Operator),
            Self::ApiKey | Self::Limited(_) | Self::OtherVaults | Self::ForeignApiKey => Some(Kind::ApiKey),
            Self::EnvironmentKey | Self::ForeignEnvironmentKey => Some(Kind::EnvironmentKey),
            Self::SessionToken | Self::ForeignSessionToken => Some(Kind::SessionToken),
            Self::EndedSessionToken => Some(Kind::EndedSessionToken),
            Self::TunnelToken | Self::ForeignTunnelToken => Some(Kind::TunnelToken),
            Self::Nobody => None,
        }
    }

    fn is_foreign(self) -> bool {
        use Role::{ForeignApiKey, ForeignEnvironmentKey, ForeignSessionToken, ForeignTunnelToken, Nobody};
        matches!(self, ForeignApiKey | ForeignEnvironmentKey | ForeignSessionToken | ForeignTunnelToken | Nobody)
    }
}

struct World {
    server: Server,
    here: Place,
    there: Place,
    foreign_key: String,
    limited_keys: Vec<(KeyRole, String)>,
    key_of_other_vaults: String,
}

impl World {
    async fn new() -> Self {
        let server = Server::start().await;
        let (here, there) = (Place::new(&server).await, Place::new(&server).await);
        let foreign_key = issue_foreign_key(&server.store).await;
        let mut limited_keys = Vec::new();
        for role in KeyRole::ALL {
            let issued = server.operator_post("/v1/api_keys", json!({"name": role.as_str(), "role": role})).await.ok();
            limited_keys.push((role, issued["key"].as_str().unwrap().to_owned()));
        }
        let vault = server.post("/v1/vaults", json!({"display_name": "other"})).await.ok();
        let body = json!({"name": "other", "vault_ids": [vault["id"]]});
        let issued = server.operator_post("/v1/api_keys", body).await.ok();
        let key_of_other_vaults = issued["key"].as_str().unwrap().to_owned();
        Self { server, here, there, foreign_key, limited_keys, key_of_other_vaults }
    }

    /// What the role shows when it asks for an object of `here`.
    fn credential<'a>(&'a self, here: &'a Place, role: Role) -> Option<&'a str> {
        match role {
            Role::Operator | Role::Nobody => None,
            Role::ApiKey => Some(&self.server.key),
            Role::Limited(role) => self.limited_keys.iter().find(|(of, _)| *of == role).map(|(_, key)| key.as_str()),
            Role::OtherVaults => Some(&self.key_of_other_vaults),
            Role::ForeignApiKey => Some(&self.foreign_key),
            Role::EnvironmentKey => Some(&here.environment_key),
            Role::ForeignEnvironmentKey => Some(&self.there.environment_key),
            Role::SessionToken => Some(&here.item.token),
            Role::ForeignSessionToken => Some(&self.there.item.token),
            Role::EndedSessionToken => Some(&here.ended.token),
            Role::TunnelToken => Some(&here.tunnel_token),
            Role::ForeignTunnelToken => Some(&self.there.tunnel_token),
        }
    }

    async fn call(&self, here: &Place, role: Role, route: &Route, path: &str) -> Response {
        let mut request = Request::new(method(route), path).header("anthropic-beta", BETAS);
        if let Some(credential) = self.credential(here, role) {
            request = request.header("authorization", &format!("Bearer {credential}"));
        }
        if let Some(body) = here.body(route) {
            request = request.json(&body);
        }
        let (address, socket) = (self.server.address, self.server.socket.clone());
        let ask = move || match role {
            #[expect(clippy::disallowed_methods, reason = "the test is the client")]
            Role::Operator => first_answer(std::os::unix::net::UnixStream::connect(socket).unwrap(), &request),
            _ => first_answer(connect(address), &request),
        };
        tokio::task::spawn_blocking(ask).await.unwrap()
    }

    /// What the role learns. A change that is allowed is made to objects of its own, which nobody asks for again.
    async fn cell(&self, role: Role, route: &Route) -> &'static str {
        let is_allowed = role.kind().is_some_and(|kind| route.allowed.contains(&kind));
        let is_change = route.method != Method::Get || route.path.ends_with("/poll");
        if let Role::Limited(_) | Role::OtherVaults = role {
            // What a role forbids it forbids whatever the object: no fresh one is needed to learn that.
            let nothing = self.here.missing(&self.here.path(route, false));
            if verdict(&self.call(&self.here, role, route, &nothing).await) == "forbidden" {
                return "forbidden";
            }
        }
        let is_of_other_vaults = role == Role::OtherVaults && USES_A_VAULT.iter().any(|name| route.path.contains(name));
        let fresh = match is_allowed && is_change && !role.is_foreign() && !is_of_other_vaults {
            true => Some(Place::new(&self.server).await),
            false => None,
        };
        let here = fresh.as_ref().unwrap_or(&self.here);
        let path = here.path(route, role == Role::EndedSessionToken);
        let answer = self.call(here, role, route, &path).await;
        let what = verdict(&answer);
        let place = format!("{} {} by {role:?}: {}", method(route), route.path, answer.text);
        let is_object = route.path.contains('{') && !route.path.contains("{model}");
        assert!(is_allowed || matches!(what, "unknown" | "forbidden"), "not in the table of routes: {place}");
        if is_object && is_allowed && (role.is_foreign() || is_of_other_vaults) {
            assert_eq!(what, "hidden", "{place}");
            let nothing = match is_of_other_vaults {
                true => here.without(&path, &USES_A_VAULT),
                false => here.missing(&path),
            };
            let missing = self.call(here, role, route, &nothing).await;
            assert_eq!(here.anonymous(&answer), here.anonymous(&missing), "404 tells of a foreign object: {place}");
        }
        // What no workspace owns is anybody's to list.
        let is_common = route.path == "/v1/models";
        let is_list = route.method == Method::Get && NAME_WHO_USES_A_VAULT.contains(&route.path);
        let names_a_user = is_list && role == Role::OtherVaults;
        assert!(!names_a_user || what == "lists none", "what uses another vault is listed: {place}");
        assert!(is_common || !role.is_foreign() || what != "lists", "the foreign workspace is empty: {place}");
        if let Some(fresh) = &fresh {
            fresh.leave(&self.server).await;
        }
        what
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_by_every_role_is_as_reviewed() {
    let world = World::new().await;
    let mut table = String::new();
    for route in ROUTES {
        writeln!(table, "{} {}", method(route), route.path).unwrap();
        for (role, name) in ROLES {
            writeln!(table, "    {name}: {}", world.cell(role, route).await).unwrap();
        }
    }
    let seen = Path::new(env!("CARGO_TARGET_TMPDIR")).join("authorization.txt");
    std::fs::write(&seen, &table).unwrap();
    let differs = table.lines().zip(COMMITTED.lines()).find(|(now, before)| now != before);
    assert!(
        table == COMMITTED,
        "the table is not the reviewed one, first at {differs:?}: read {} and commit it as tests/http/authorization.txt",
        seen.display()
    );
}

/// The whole answer, or the head of one that has no end.
fn first_answer(mut stream: impl std::io::Read + std::io::Write, request: &Request) -> Response {
    stream.write_all(&request.bytes()).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut piece).unwrap();
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer);
        if count == 0 || text.contains("text/event-stream") && text.contains("\r\n\r\n") {
            return Response::parse(&answer);
        }
    }
}

fn verdict(answer: &Response) -> &'static str {
    match answer.status {
        401 => "unknown",
        403 => "forbidden",
        404 => "hidden",
        200 if answer.body["data"] == json!([]) => "lists none",
        200 if answer.body["data"].is_array() => "lists",
        status => {
            assert!(status < 500 || status == 503, "{}", answer.text);
            "reached"
        }
    }
}

fn method(route: &Route) -> &'static str {
    match route.method {
        Method::Get => "GET",
        Method::Post | Method::Upload => "POST",
        Method::Patch => "PATCH",
        Method::Delete => "DELETE",
    }
}
