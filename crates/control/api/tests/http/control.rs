//! Control streams over real sockets: what is held outlives who was told, and how a tunnel's gateway stands.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_model::control::{
    Answer, CommandBody, CommandRefusal, ErrorNote, FromPerimeter, FromServer, GatewayStanding, Hello, PerimeterStatus,
    Reply, Role, RouteStanding, SessionStanding, SessionState,
};
use postern_model::ids::SessionId;
use serde_json::{Value, json};

use crate::support::{BETAS, Response, Server, connect};
use crate::work::polled_with_vaults;

/// A worker or gateway at the other end of a control stream.
pub(crate) struct Peer {
    stream: TcpStream,
}

impl Peer {
    pub(crate) fn connect(server: &Server, credential: &str, role: Role, sessions: &[&str]) -> Self {
        let mut stream = connect(server.address);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!(
            "GET /v1/perimeter/control HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
             upgrade: postern-control/1\r\nauthorization: Bearer {credential}\r\nanthropic-beta: {BETAS}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        let mut peer = Self { stream };
        let (version, name) = ("1".into(), "p\u{1b}[2J".into());
        let sessions = ids(sessions);
        peer.say(&FromPerimeter::Hello(Hello { role, version, name, sessions, perimeter_public_key: None }));
        peer
    }

    pub(crate) fn say(&mut self, word: &FromPerimeter) {
        let body = serde_json::to_vec(word).unwrap();
        self.stream.write_all(&u32::try_from(body.len()).unwrap().to_le_bytes()).unwrap();
        self.stream.write_all(&body).unwrap();
    }

    pub(crate) fn report(&mut self, sessions: &[&str]) {
        self.say(&FromPerimeter::Sessions { sessions: ids(sessions) });
    }

    pub(crate) fn command(&mut self) -> (u64, CommandBody) {
        loop {
            let mut length = [0; 4];
            self.stream.read_exact(&mut length).unwrap();
            let mut body = vec![0; u32::from_le_bytes(length) as usize];
            self.stream.read_exact(&mut body).unwrap();
            match serde_json::from_slice(&body).unwrap() {
                FromServer::Command(command) => return (command.id, command.body),
                FromServer::Ping => {}
                FromServer::Bye => panic!("the server ended the stream"),
            }
        }
    }

    /// The next command, where one comes within a moment.
    pub(crate) fn command_if_any(&mut self) -> Option<(u64, CommandBody)> {
        self.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.stream.read_exact(&mut body).unwrap();
        match serde_json::from_slice(&body).unwrap() {
            FromServer::Command(command) => Some((command.id, command.body)),
            FromServer::Ping | FromServer::Bye => None,
        }
    }

    /// Whether nothing but signs of life comes for a moment.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        self.stream.read_exact(&mut [0; 4]).is_err()
    }

    /// Answers the next command.
    fn does(&mut self, answer: impl Fn(&CommandBody) -> Reply) -> CommandBody {
        let (id, body) = self.command();
        self.say(&FromPerimeter::Answer(Answer { id, result: Ok(answer(&body)) }));
        body
    }

    /// The next command must be this; it is obeyed.
    fn obeys(&mut self, name: &str, session: &str) {
        let (id, body) = self.command();
        assert_eq!((body.name(), body.session().map(SessionId::as_str)), (name, Some(session)));
        self.say(&FromPerimeter::Answer(Answer { id, result: Ok(Reply::Done) }));
    }
}

fn ids(sessions: &[&str]) -> Vec<SessionId> {
    sessions.iter().map(|id| SessionId::parse(id).unwrap()).collect()
}

async fn say(server: &Server, session: &str, word: &str) -> Response {
    server.send(server.request("POST", &format!("/v1/sessions/{session}/{word}"))).await
}

async fn poll(server: &Server, environment: &str, key: &str) -> Value {
    let path = format!("/v1/environments/{environment}/work/poll");
    server.send(server.request_as(key, "GET", &path)).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_nobody_heard_holds_work_back_and_reaches_whoever_takes_the_session() {
    let server = Arc::new(Server::start().await);
    let (environment, key) = server.environment("e").await;
    let (session, _) = server.session_with_open_call(&environment).await;
    let frozen = say(&server, &session, "freeze").await.ok();
    assert_eq!((&frozen["hold"]["frozen"], &frozen["perimeters"]), (&json!(true), &json!([])), "{frozen}");
    assert!(poll(&server, &environment, &key).await.is_null(), "its work stays in the queue");
    let revoked = say(&server, &session, "revoke_grants").await.ok();
    assert_eq!(revoked["hold"], json!({"frozen": true, "grants_revoked": true}));

    let mut worker = Peer::connect(&server, &key, Role::Worker, &[]);
    let taken = Instant::now();
    worker.report(&[&session]);
    worker.obeys("freeze", &session);
    worker.obeys("revoke_grants", &session);
    assert!(taken.elapsed() < Duration::from_secs(10), "{:?}", taken.elapsed());
    worker.report(&[&session]);

    let thawing = tokio::spawn({
        let (server, session) = (Arc::clone(&server), session.clone());
        async move { say(&server, &session, "thaw").await.ok() }
    });
    worker.obeys("thaw", &session);
    let thawed = thawing.await.unwrap();
    assert_eq!(thawed["hold"], json!({"frozen": false, "grants_revoked": true}), "revoked for good");
    assert_eq!(thawed["perimeters"][0]["obeyed"], true);
    assert_eq!(poll(&server, &environment, &key).await["data"]["id"], session);

    // Whoever comes later is told of what still holds, and of nothing else.
    let mut other = Peer::connect(&server, &key, Role::Worker, &[&session]);
    other.obeys("revoke_grants", &session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_is_not_in_effect_while_somebody_has_the_session_who_was_not_told() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = crate::work::polled(&server, &environment, &key).await;
    for word in ["freeze", "revoke_grants"] {
        let refused = say(&server, &item.session, word).await;
        assert_eq!(refused.status, 503, "{}", refused.text);
        let details = &refused.body["error"]["details"];
        assert_eq!((&details["error_code"], &details["hold"]["frozen"]), (&json!("worker_none"), &json!(true)));
    }
    // It connects: under the same key, the session already in its hands.
    let mut worker = Peer::connect(&server, &key, Role::Worker, &[&item.session]);
    worker.obeys("freeze", &item.session);
    worker.obeys("revoke_grants", &item.session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_obey_is_told_again_and_a_worker_of_another_environment_never() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let (_, foreign) = server.environment("other").await;
    let item = crate::work::polled(&server, &environment, &key).await;
    say(&server, &item.session, "freeze").await;
    let mut worker = Peer::connect(&server, &key, Role::Worker, &[&item.session]);
    let (id, body) = worker.command();
    assert_eq!(body.name(), "freeze");
    let refusal = CommandRefusal::new("disk_full", "no room", "make room");
    worker.say(&FromPerimeter::Answer(Answer { id, result: Err(refusal) }));
    worker.obeys("freeze", &item.session);
    // A worker elsewhere that claims to hold it learns nothing about it.
    let mut liar = Peer::connect(&server, &foreign, Role::Worker, &[&item.session]);
    liar.stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| liar.command()));
    assert!(told.is_err(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_told_of_every_held_session_when_it_comes_and_says_how_it_stands() {
    let server = Arc::new(Server::start().await);
    let (environment, _) = server.environment("e").await;
    let (session, _) = server.session_with_open_call(&environment).await;
    say(&server, &session, "freeze").await.ok();
    let tunnel = server.post("/v1/tunnels", json!({})).await.ok()["id"].as_str().unwrap().to_owned();
    let status = format!("/v1/tunnels/{tunnel}/status");
    assert_eq!(server.get(&status).await.ok()["gateway"], Value::Null);
    let token = server.send(server.request("POST", &format!("/v1/tunnels/{tunnel}/reveal_token"))).await.ok();
    let mut gateway = Peer::connect(&server, token["tunnel_token"].as_str().unwrap(), Role::Gateway, &[]);
    gateway.obeys("freeze", &session);
    let asked = tokio::spawn({
        let (server, status) = (Arc::clone(&server), status.clone());
        async move { server.get(&status).await.ok() }
    });
    let (id, body) = gateway.command();
    assert_eq!(body, CommandBody::Status);
    gateway.say(&FromPerimeter::Answer(Answer { id, result: Ok(Reply::Status(Box::new(standing()))) }));
    let answer = asked.await.unwrap();
    let told = &answer["gateway"];
    assert_eq!((&told["name"], &told["leaf_days_left"]), (&json!("gate[2J"), &json!(89)), "{answer}");
    assert_eq!(told["routes"], json!([{"host": "wiki", "upstream": "http://127.0.0.1:9/mcp", "credential": "own"}]));
    assert_eq!(told["last_errors"][0]["code"], "upstream_unreachable");

    let asked = Instant::now();
    assert_eq!(server.get(&status).await.ok()["gateway"], Value::Null, "a gateway that says nothing");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_perimeter_s_status_names_no_session_that_a_key_of_certain_vaults_may_not_know() {
    let server = Arc::new(Server::start().await);
    let (environment, environment_key) = server.environment("e").await;
    let vault = async || {
        let made = server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
        made["id"].as_str().unwrap().to_owned()
    };
    let (mine, other) = (vault().await, vault().await);
    let own = polled_with_vaults(&server, &environment, &environment_key, &[&mine]).await.session;
    let hidden = polled_with_vaults(&server, &environment, &environment_key, &[&other]).await.session;
    let issued = server.operator_post("/v1/api_keys", json!({"role": "viewer", "vault_ids": [mine]})).await.ok();
    let both = [own.as_str(), hidden.as_str()];
    // What is held is told to whoever connects: then the server knows it.
    say(&server, &own, "freeze").await;
    let mut worker = Peer::connect(&server, &environment_key, Role::Worker, &both);
    while worker.does(|_| Reply::Done).name() != "freeze" {}
    for (key, expected) in [(issued["key"].as_str().unwrap(), vec![own.as_str()]), (&server.key, both.to_vec())] {
        let asked = tokio::spawn({
            let server = Arc::clone(&server);
            let request = server.request_as(key, "GET", "/v1/perimeter/status");
            async move { server.send(request).await.ok() }
        });
        let sessions = || ids(&both).into_iter().map(served).collect();
        let status = || PerimeterStatus { role: Role::Worker, sessions: sessions(), gateway: None, ..standing() };
        let answer = |body: &CommandBody| match body {
            CommandBody::Status => Reply::Status(Box::new(status())),
            _ => Reply::Done,
        };
        while worker.does(answer) != CommandBody::Status {}
        let answer = asked.await.unwrap();
        let told = answer["data"][0]["status"]["sessions"].as_array().unwrap();
        assert_eq!(told.iter().map(|one| one["session"].as_str().unwrap()).collect::<Vec<_>>(), expected);
        assert_eq!(answer["data"][0]["sessions_held"], expected.len());
    }
}

fn served(session: SessionId) -> SessionStanding {
    SessionStanding { session, zone: None, state: SessionState::Serving, grants_revoked: false }
}

fn standing() -> PerimeterStatus {
    PerimeterStatus {
        role: Role::Gateway,
        version: "1".into(),
        name: "gate\u{1b}[2J".into(),
        perimeter_public_key: None,
        sessions: Vec::new(),
        controls: Vec::new(),
        degraded: Vec::new(),
        audit_head: None,
        audit_key: None,
        gateway: Some(GatewayStanding {
            tunnel_id: "tnl_x".into(),
            domain: None,
            routes: vec![RouteStanding {
                name: "wiki".into(),
                upstream: "http://127.0.0.1:9/mcp".into(),
                credential: "own".into(),
            }],
            leaf_days_left: Some(89),
            connections: 2,
            last_errors: vec![ErrorNote {
                at: postern_model::Timestamp::now(),
                code: "upstream_unreachable".into(),
                message: "it did not answer".into(),
            }],
        }),
    }
}
