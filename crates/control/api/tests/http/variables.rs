//! Variables of vaults on their way to a worker: sealed, to whoever serves the session, as the vault has them now.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_model::control::{Answer, CommandBody, FromPerimeter, Reply, Role, Withheld};
use postern_secret::canary;
use postern_secret::seal::{Places, SealedVariable};
use serde_json::{Value, json};

use crate::control::Peer;
use crate::credentials::{bearer, variable};
use crate::support::Server;

struct Stage {
    server: Server,
    environment: String,
    key: String,
    vaults: Vec<String>,
}

impl Stage {
    async fn new(vaults: usize) -> Self {
        let server = Server::start().await;
        server.perimeter().await;
        let (environment, key) = server.environment("e").await;
        let mut made = Vec::new();
        for _ in 0..vaults {
            let vault = server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
            made.push(vault["id"].as_str().unwrap().to_owned());
        }
        Self { server, environment, key, vaults: made }
    }

    async fn add(&self, vault: usize, body: Value) -> String {
        let path = format!("/v1/vaults/{}/credentials", self.vaults[vault]);
        self.server.post(&path, body).await.ok()["id"].as_str().unwrap().to_owned()
    }

    fn path(&self, credential: &str) -> String {
        format!("/v1/vaults/{}/credentials/{credential}", self.vaults[0])
    }

    async fn session(&self) -> String {
        let vaults: Vec<&str> = self.vaults.iter().map(String::as_str).collect();
        self.server.session_with_vaults_and_open_call(&self.environment, &vaults).await.0
    }

    /// What came in the secret of the next item, and all of that secret.
    async fn poll(&self, ours: bool) -> (Vec<SealedVariable>, Value) {
        let path = format!("/v1/environments/{}/work/poll?block_ms=999", self.environment);
        let mut request = self.server.request_as(&self.key, "GET", &path);
        if ours {
            request = request.header("user-agent", "postern/0.1.0");
        }
        let item = self.server.send(request).await.ok();
        let secret = URL_SAFE_NO_PAD.decode(item["secret"].as_str().unwrap()).unwrap();
        let secret: Value = serde_json::from_slice(&secret).unwrap();
        (read(secret["variables"].as_array().unwrap_or(&Vec::new())), secret)
    }

    async fn errors(&self, session: &str) -> Vec<Value> {
        let events = self.server.get(&format!("/v1/sessions/{session}/events")).await.ok();
        let events = events["data"].as_array().unwrap().clone();
        events
            .into_iter()
            .filter(|event| event["type"] == "session.error")
            .map(|event| event["error"].clone())
            .collect()
    }

    async fn until_errors(&self, session: &str, count: usize) -> Vec<Value> {
        loop {
            let errors = self.errors(session).await;
            if errors.len() >= count {
                return errors;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn read(texts: &[Value]) -> Vec<SealedVariable> {
    texts.iter().map(|text| SealedVariable::decode(text.as_str().unwrap()).unwrap()).collect()
}

fn names(variables: &[SealedVariable]) -> Vec<(String, String)> {
    let named = |one: &SealedVariable| {
        let binding = &one.credential.binding;
        (binding.secret_name.clone().unwrap(), binding.credential.clone())
    };
    variables.iter().map(named).collect()
}

fn unrestricted(name: &str) -> Value {
    variable(name, json!({"type": "unrestricted"}))
}

/// The next command about variables; the others are obeyed.
fn told(worker: &mut Peer) -> (u64, String, Vec<SealedVariable>) {
    loop {
        match worker.command() {
            (id, CommandBody::Variables { session, sealed }) => {
                let sealed: Vec<Value> = sealed.into_iter().map(Value::from).collect();
                return (id, session.to_string(), read(&sealed));
            }
            (id, _) => worker.say(&FromPerimeter::Answer(Answer { id, result: Ok(Reply::Done) })),
        }
    }
}

fn answer(worker: &mut Peer, id: u64, withheld: Vec<Withheld>) {
    worker.say(&FromPerimeter::Answer(Answer { id, result: Ok(Reply::Variables { withheld }) }));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_worker_gets_a_session_s_variables_with_its_item_sealed_and_of_two_names_the_first_vault_s() {
    let stage = Stage::new(2).await;
    let first = stage.add(0, unrestricted("A_TOKEN")).await;
    stage.add(0, bearer("https://mcp.example/mcp")).await;
    let gone = stage.add(0, unrestricted("GONE")).await;
    stage.server.send(stage.server.request("POST", &format!("{}/archive", stage.path(&gone)))).await.ok();
    stage.add(1, unrestricted("A_TOKEN")).await;
    let limited = json!({"auth": {"type": "environment_variable", "secret_name": "B_TOKEN",
        "secret_value": "canary-bearer-0123456789abcdef", "injection_location": {"header": true},
        "networking": {"type": "limited", "allowed_hosts": ["b.example"]}}});
    let second = stage.add(1, limited).await;
    let session = stage.session().await;
    let (variables, secret) = stage.poll(true).await;
    assert_eq!(names(&variables), [("A_TOKEN".to_owned(), first), ("B_TOKEN".to_owned(), second)]);
    assert_eq!(variables[0].hosts, ["*"]);
    assert_eq!(
        (variables[1].hosts.clone(), variables[1].places),
        (vec!["b.example".to_owned()], Places { body: false, header: true })
    );
    assert_eq!(variables[1].credential.binding.injection, Some(Places { body: false, header: true }));
    assert_eq!(canary::search(secret.to_string().as_bytes(), &[b"canary-bearer-0123456789abcdef".as_slice()]), []);
    assert_eq!(stage.errors(&session).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_brings_no_variables_gets_none_and_the_session_is_told() {
    let stage = Stage::new(1).await;
    stage.add(0, unrestricted("A_TOKEN")).await;
    let session = stage.session().await;
    let (variables, secret) = stage.poll(false).await;
    assert_eq!(variables, []);
    assert_eq!(secret.as_object().unwrap().len(), 1, "exactly what official workers know");
    let errors = stage.errors(&session).await;
    assert_eq!(errors.len(), 1);
    let message = errors[0]["message"].as_str().unwrap();
    assert!(message.contains("credential_kind_unsupported") && message.contains("Next step"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_session_may_have_stays_behind_and_the_session_is_told_which() {
    let stage = Stage::new(4).await;
    for vault in 0..4 {
        for number in 0..20 {
            stage.add(vault, unrestricted(&format!("TOKEN_{vault}_{number}"))).await;
        }
    }
    let session = stage.session().await;
    let (variables, _) = stage.poll(true).await;
    assert!(variables.len() <= 64 && variables.len() > 20, "{}", variables.len());
    let errors = stage.errors(&session).await;
    assert_eq!(errors.len(), 80 - variables.len(), "each is named");
    assert!(errors[0]["message"].as_str().unwrap().contains("limit_session_variables"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_session_is_told_what_its_vaults_have_when_it_takes_it_and_whenever_they_change() {
    let stage = Stage::new(1).await;
    let credential = stage.add(0, unrestricted("A_TOKEN")).await;
    let session = stage.session().await;
    stage.poll(true).await;
    let mut worker = Peer::connect(&stage.server, &stage.key, Role::Worker, &[]);
    worker.report(&[&session]);
    let (id, about, first) = told(&mut worker);
    assert_eq!((about.as_str(), first.len()), (session.as_str(), 1));
    answer(&mut worker, id, Vec::new());

    let change = json!({"auth": {"type": "environment_variable", "secret_value": "canary-other-fedcba9876543210"}});
    stage.server.post(&stage.path(&credential), change).await.ok();
    let (id, _, rotated) = told(&mut worker);
    assert_ne!(rotated[0].credential.sealed.ciphertext, first[0].credential.sealed.ciphertext);
    answer(&mut worker, id, Vec::new());

    let narrower = json!({"auth": {"type": "environment_variable",
        "networking": {"type": "limited", "allowed_hosts": ["a.example"]}}});
    stage.server.post(&stage.path(&credential), narrower).await.ok();
    let (id, _, narrowed) = told(&mut worker);
    assert_eq!(narrowed[0].hosts, ["a.example"]);
    assert_eq!(narrowed[0].credential, rotated[0].credential, "what was sealed stays what it was");
    answer(&mut worker, id, Vec::new());

    stage.server.send(stage.server.request("POST", &format!("{}/archive", stage.path(&credential)))).await.ok();
    let (id, _, archived) = told(&mut worker);
    assert_eq!(archived, []);
    answer(&mut worker, id, Vec::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_withholds_is_told_to_the_session_once() {
    let stage = Stage::new(1).await;
    let credential = stage.add(0, unrestricted("A_TOKEN")).await;
    let session = stage.session().await;
    let withheld = |host_unreachable, message: &str| Withheld {
        credential_id: credential.parse().unwrap(),
        vault_id: stage.vaults[0].parse().unwrap(),
        host_unreachable,
        message: message.to_owned(),
    };
    for _ in 0..2 {
        // Whoever takes the session is told, and answers, anew.
        let mut worker = Peer::connect(&stage.server, &stage.key, Role::Worker, &[&session]);
        let (id, ..) = told(&mut worker);
        answer(&mut worker, id, vec![withheld(true, "nothing leads to b.example"), withheld(false, "is not named")]);
        stage.until_errors(&session, 2).await;
    }
    let errors = stage.errors(&session).await;
    assert_eq!(errors.len(), 2, "once: {errors:?}");
    assert_eq!(errors[0]["type"], "credential_host_unreachable_error");
    assert_eq!((&errors[0]["credential_id"], &errors[0]["vault_id"]), (&json!(credential), &json!(stage.vaults[0])));
    assert_eq!(errors[1]["type"], "unknown_error");
    assert!(errors[1]["message"].as_str().unwrap().contains("is not named"));
    assert_eq!(errors[1].get("credential_id"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_environment_is_told_nothing_whatever_it_says_it_holds() {
    let stage = Stage::new(1).await;
    stage.add(0, unrestricted("A_TOKEN")).await;
    let session = stage.session().await;
    let (_, key) = stage.server.environment("another").await;
    let mut stranger = Peer::connect(&stage.server, &key, Role::Worker, &[]);
    stranger.report(&[&session]);
    let mut worker = Peer::connect(&stage.server, &stage.key, Role::Worker, &[&session]);
    let (id, ..) = told(&mut worker);
    answer(&mut worker, id, Vec::new());
    // Whatever would have been said to it was said by now; a change is told again to whoever is told at all.
    stage.add(0, unrestricted("B_TOKEN")).await;
    let (id, ..) = told(&mut worker);
    answer(&mut worker, id, Vec::new());
    assert!(stranger.is_silent(), "the session of another environment is none of its business");
}
