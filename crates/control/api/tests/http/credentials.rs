//! Credentials: sealed on arrival, shown without their secrets, changed only within what they are bound to.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_model::ids::{CredentialId, VaultId, WorkspaceId};
use postern_secret::canary;
use postern_secret::seal::{self, Binding, Sealed};
use postern_store::credentials::{StoredCredential, for_url};
use rustls::crypto::hpke::{EncapsulatedSecret, HpkePrivateKey};
use serde_json::{Value, json};

use crate::support::{Response, Server};

const TOKEN: &str = "canary-bearer-0123456789abcdef";
const OTHER: &str = "canary-other-fedcba9876543210";

pub(crate) fn bearer(url: &str) -> Value {
    json!({"auth": {"type": "static_bearer", "mcp_server_url": url, "token": TOKEN}})
}

fn oauth(url: &str, refresh: Value) -> Value {
    json!({"auth": {"type": "mcp_oauth", "mcp_server_url": url, "access_token": TOKEN, "refresh": refresh}})
}

fn refresh() -> Value {
    json!({"client_id": "c", "refresh_token": "canary-refresh-0123456789", "scope": "read", "resource": "r",
        "token_endpoint": "https://auth.example/token",
        "token_endpoint_auth": {"type": "client_secret_basic", "client_secret": "canary-client-0123456789"}})
}

pub(crate) fn variable(name: &str, networking: Value) -> Value {
    let auth =
        json!({"type": "environment_variable", "secret_name": name, "secret_value": TOKEN, "networking": networking});
    json!({"auth": auth})
}

fn code(response: &Response) -> &str {
    response.body["error"]["details"]["error_code"].as_str().unwrap_or_default()
}

struct Vault {
    server: Server,
    id: String,
    perimeter: Value,
    private: HpkePrivateKey,
}

impl Vault {
    async fn new() -> Self {
        let server = Server::start().await;
        let (perimeter, private) = server.perimeter().await;
        let vault = server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
        Self { id: vault["id"].as_str().unwrap().to_owned(), server, perimeter, private }
    }

    fn path(&self) -> String {
        format!("/v1/vaults/{}/credentials", self.id)
    }

    fn one(&self, credential: &Value) -> String {
        format!("{}/{}", self.path(), credential["id"].as_str().unwrap())
    }

    async fn create(&self, body: Value) -> Response {
        self.server.post(&self.path(), body).await
    }

    async fn change(&self, credential: &Value, body: Value) -> Response {
        self.server.post(&self.one(credential), body).await
    }

    async fn archive(&self, credential: &Value) -> Value {
        self.server.send(self.server.request("POST", &format!("{}/archive", self.one(credential)))).await.ok()
    }

    async fn stored(&self, url: &str) -> Option<StoredCredential> {
        let mut reader = self.server.store.read().await.unwrap();
        let vaults = [self.id.parse::<VaultId>().unwrap()];
        for_url(&mut reader, &WorkspaceId::default(), &vaults, url).await.unwrap()
    }

    /// What custody would do with its private key; `None` where it would refuse.
    fn open(&self, sealed: &Sealed, binding: &Binding) -> Option<Vec<u8>> {
        let wrap = sealed.wraps.iter().find(|wrap| wrap.perimeter_id == self.perimeter["id"]).unwrap();
        let (binding, bytes) = (binding.canonical(sealed.version)?, |text: &str| STANDARD.decode(text).unwrap());
        let aad = seal::wrap_aad(&binding, &wrap.perimeter_id);
        let enc = EncapsulatedSecret(bytes(&wrap.enc));
        let key =
            seal::suite().open(&enc, &seal::wrap_info(sealed.version), &aad, &bytes(&wrap.key), &self.private).ok()?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
        let nonce = Nonce::try_assume_unique_for_key(&bytes(&sealed.nonce)).unwrap();
        let mut value = bytes(&sealed.ciphertext);
        let padded = key.open_in_place(nonce, Aad::from(seal::value_aad(sealed.version, &binding)), &mut value).ok()?;
        let length = u32::from_be_bytes(padded[..4].try_into().unwrap()) as usize;
        Some(padded[4..][..length].to_vec())
    }

    async fn sql(&self, statement: &'static str, values: &[&str]) {
        let mut tx = self.server.store.write().await.unwrap();
        let query = values.iter().fold(sqlx::query(statement), |query, value| query.bind(*value));
        query.execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// No planted secret is in the database, in any rendering.
    fn assert_no_plaintext(&self) {
        let needles: [&[u8]; 4] =
            [TOKEN.as_bytes(), OTHER.as_bytes(), b"canary-refresh-0123456789", b"canary-client-0123456789"];
        assert_eq!(canary::search(&self.server.database(), &needles), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_perimeter_nothing_is_stored_and_the_answer_names_the_command() {
    let server = Server::start().await;
    let vault = server.post("/v1/vaults", json!({"display_name": "v"})).await.ok();
    let path = format!("/v1/vaults/{}/credentials", vault["id"].as_str().unwrap());
    let refused = server.post(&path, bearer("https://wiki.example/mcp")).await;
    let message = refused.refused(400, "invalid_request_error");
    assert!(message.contains("postern perimeter register"), "{message}");
    assert_eq!(code(&refused), "perimeter_none");
    let (perimeter, _) = server.perimeter().await;
    server.post(&path, bearer("https://wiki.example/mcp")).await.ok();
    let archive = format!("/v1/environments/{}/archive", perimeter["environment_id"].as_str().unwrap());
    server.send(server.request("POST", &archive)).await.ok();
    let refused = server.post(&path, bearer("https://other.example/mcp")).await;
    assert_eq!(code(&refused), "perimeter_none", "one that serves nothing any more does not count");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_is_shown_without_its_secrets() {
    let vault = Vault::new().await;
    let expires = "2199-01-01T00:00:00Z";
    let mut with_expiry = oauth("https://oauth.example/mcp/", refresh());
    with_expiry["auth"]["expires_at"] = json!("2199-01-01T01:00:00+01:00");
    let limited = json!({"type": "limited", "allowed_hosts": ["API.example.com", "*.example.org", "192.0.2.1"]});
    for (body, expected) in [
        (
            bearer("HTTPS://Wiki.example:443/mcp"),
            json!({"type": "static_bearer", "mcp_server_url": "HTTPS://Wiki.example:443/mcp"}),
        ),
        (
            with_expiry,
            json!({"type": "mcp_oauth", "mcp_server_url": "https://oauth.example/mcp/", "expires_at": expires,
                "refresh": {"client_id": "c", "token_endpoint": "https://auth.example/token",
                    "token_endpoint_auth": {"type": "client_secret_basic"}, "resource": "r", "scope": "read"}}),
        ),
        (
            oauth("https://plain.example/mcp", Value::Null),
            json!({"type": "mcp_oauth", "mcp_server_url": "https://plain.example/mcp", "expires_at": null, "refresh": null}),
        ),
        (
            variable("API_KEY", limited),
            json!({"type": "environment_variable", "secret_name": "API_KEY",
                "networking": {"type": "limited", "allowed_hosts": ["api.example.com", "*.example.org", "192.0.2.1"]},
                "injection_location": {"header": true, "body": true}}),
        ),
        (
            variable("OTHER", json!({"type": "unrestricted"})),
            json!({"type": "environment_variable", "secret_name": "OTHER", "networking": {"type": "unrestricted"},
                "injection_location": {"header": true, "body": true}}),
        ),
    ] {
        let made = vault.create(body).await.ok();
        assert_eq!(made["auth"], expected);
        assert_eq!((&made["type"], &made["vault_id"]), (&json!("vault_credential"), &json!(vault.id)));
        assert_eq!((&made["archived_at"], &made["metadata"]), (&Value::Null, &json!({})));
        assert_eq!(vault.server.get(&vault.one(&made)).await.ok(), made);
    }
    let listed = vault.server.get(&vault.path()).await;
    assert!(!listed.text.contains("canary"));
    assert_eq!(listed.ok()["data"].as_array().unwrap().len(), 5);
    vault.assert_no_plaintext();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_credential_cannot_be_is_refused_with_its_place_and_no_secret() {
    let vault = Vault::new().await;
    let url = "https://a.example/mcp";
    let limited = |hosts: Value| variable("A", json!({"type": "limited", "allowed_hosts": hosts}));
    let location = |location: Value| {
        let mut body = variable("A", json!({"type": "unrestricted"}));
        body["auth"]["injection_location"] = location;
        body
    };
    let with = |field: &str, value: Value| {
        let mut body = bearer(url);
        body["auth"][field] = value;
        body
    };
    let refreshed = |field: &str, value: Value| {
        let mut refresh = refresh();
        refresh[field] = value;
        oauth(url, refresh)
    };
    let mut expired = oauth(url, Value::Null);
    expired["auth"]["expires_at"] = json!("2020-01-01T00:00:00Z");
    let mut naive = oauth(url, Value::Null);
    naive["auth"]["expires_at"] = json!("2199-01-01T00:00:00");
    let many: Vec<String> = (0..17).map(|n| format!("h{n}.example")).collect();
    for (body, place) in [
        (json!({}), "auth"),
        (json!({"auth": null}), "auth"),
        (json!({"auth": TOKEN}), "auth"),
        (json!({"auth": [TOKEN]}), "auth"),
        (json!({"auth": {"token": TOKEN}}), "type"),
        (json!({"auth": {"type": TOKEN}}), "auth.type"),
        (json!({"auth": {"type": {"static_bearer": TOKEN}}}), "auth.type"),
        (json!({"auth": {"type": "static_bearer", "token": TOKEN}}), "auth.mcp_server_url"),
        (json!({"auth": {"type": "static_bearer", "mcp_server_url": url}}), "auth.token"),
        (with("token", json!(null)), "auth.token"),
        (with("token", json!({"value": TOKEN})), "auth.token"),
        (with("token", json!([TOKEN])), "auth.token"),
        (with("token", json!("short")), "auth.token"),
        (with("token", json!("aaaaaaaaaaaaaaaaaaaaaaaa")), "auth.token"),
        (with("token", json!(format!("{TOKEN}\r\nx: y"))), "auth.token"),
        (with("token", json!("x".repeat(20_000))), "auth.token"),
        (with("mcp_server_url", json!("ftp://a.example")), "auth.mcp_server_url"),
        (with("mcp_server_url", json!("https://u:p@a.example/mcp")), "auth.mcp_server_url"),
        (with("access_token", json!(TOKEN)), "auth.access_token"),
        (with("networking", json!({"type": "unrestricted"})), "auth.networking"),
        (with("colour", json!(TOKEN)), "auth.colour"),
        (json!({"auth": bearer(url)["auth"], "display_name": "x".repeat(256)}), "display_name"),
        (json!({"auth": bearer(url)["auth"], "metadata": {"k": 1}}), "metadata"),
        (expired, "auth.expires_at"),
        (naive, "auth.expires_at"),
        (refreshed("client_id", json!("")), "auth.refresh.client_id"),
        (refreshed("token_endpoint", json!("auth.example")), "auth.refresh.token_endpoint"),
        (refreshed("token_endpoint_auth", json!({"type": "jwt"})), "auth.refresh.token_endpoint_auth.type"),
        (refreshed("token_endpoint_auth", json!({"type": "client_secret_post"})), "client_secret"),
        (refreshed("token_endpoint_auth", json!({"type": "none", "client_secret": TOKEN})), "client_secret"),
        (refreshed("refresh_token", json!(null)), "auth.refresh.refresh_token"),
        (refreshed("token", json!(TOKEN)), "auth.refresh.token"),
        (variable("1A", json!({"type": "unrestricted"})), "auth.secret_name"),
        (variable("A=B", json!({"type": "unrestricted"})), "auth.secret_name"),
        (variable("A", json!(null)), "auth.networking"),
        (variable("A", json!({"type": "some"})), "auth.networking.type"),
        (variable("A", json!({"type": "limited"})), "auth.networking.allowed_hosts"),
        (variable("A", json!({"type": "unrestricted", "allowed_hosts": []})), "auth.networking.allowed_hosts"),
        (limited(json!([])), "auth.networking.allowed_hosts"),
        (limited(json!(many)), "auth.networking.allowed_hosts"),
        (limited(json!(["https://a.example"])), "auth.networking.allowed_hosts[0]"),
        (limited(json!(["a.example", "a.example:443"])), "auth.networking.allowed_hosts[1]"),
        (limited(json!(["::1"])), "auth.networking.allowed_hosts[0]"),
        (limited(json!(["*"])), "auth.networking.allowed_hosts[0]"),
        (limited(json!([{"a": 1}])), "allowed_hosts"),
        (location(json!(null)), "auth.injection_location"),
        (location(json!({})), "auth.injection_location"),
        (location(json!({"header": false})), "auth.injection_location"),
        (location(json!({"header": null})), "auth.injection_location.header"),
        (location(json!({"header": true, "query": true})), "auth.injection_location.query"),
    ] {
        let response = vault.create(body.clone()).await;
        let message = response.refused(400, "invalid_request_error");
        assert!(message.contains(place), "{body}: {message}");
        assert!(!response.text.contains(TOKEN), "{body}: {message}");
    }
    assert_eq!(vault.server.get(&vault.path()).await.ok()["data"], json!([]));
    let one = location(json!({"header": true}));
    let made = vault.create(one).await.ok();
    assert_eq!(made["auth"]["injection_location"], json!({"header": true, "body": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_opens_with_its_binding_and_with_no_other() {
    let vault = Vault::new().await;
    vault.create(bearer("https://Wiki.example:443/mcp/")).await.ok();
    vault
        .create(json!({"auth": {"type": "static_bearer", "mcp_server_url": "https://b.example", "token": OTHER}}))
        .await
        .ok();
    let stored = vault.stored("https://wiki.example/mcp").await.unwrap();
    assert_eq!(stored.binding.mcp_url.as_deref(), Some("https://wiki.example/mcp"));
    assert_eq!(stored.binding.workspace, "wrkspc_default");
    assert_eq!((stored.binding.vault.as_str(), stored.binding.kind.as_str()), (vault.id.as_str(), "static_bearer"));
    assert_eq!(vault.open(&stored.sealed, &stored.binding).as_deref(), Some(TOKEN.as_bytes()));
    assert_eq!(vault.stored("https://wiki.example").await, None);

    let other = vault.stored("https://b.example").await.unwrap();
    assert_eq!(vault.open(&other.sealed, &stored.binding), None, "the ciphertext of another row");
    for (statement, url) in [
        ("UPDATE vault_credentials SET hosts = '[\"*\"]' WHERE id = ?1", "https://wiki.example/mcp"),
        (
            "UPDATE vault_credentials SET hosts = '[]', token_endpoint = 'https://evil.example' WHERE id = ?1",
            "https://wiki.example/mcp",
        ),
        (
            "UPDATE vault_credentials SET token_endpoint = NULL, mcp_url = 'https://evil.example' WHERE id = ?1",
            "https://evil.example",
        ),
    ] {
        vault.sql(statement, &[stored.id.as_str()]).await;
        let edited = vault.stored(url).await.unwrap();
        assert_eq!(vault.open(&edited.sealed, &edited.binding), None, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_sealed_to_every_perimeter_of_the_workspace() {
    let vault = Vault::new().await;
    let (second, _) = vault.server.perimeter().await;
    vault.create(bearer("https://a.example/mcp")).await.ok();
    let stored = vault.stored("https://a.example/mcp").await.unwrap();
    let mut wraps: Vec<&str> = stored.sealed.wraps.iter().map(|wrap| wrap.perimeter_id.as_str()).collect();
    let mut expected = [vault.perimeter["id"].as_str().unwrap(), second["id"].as_str().unwrap()];
    wraps.sort_unstable();
    expected.sort_unstable();
    assert_eq!(wraps, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_vault_that_has_a_credential_for_the_url_lends_it() {
    let vault = Vault::new().await;
    let other = vault.server.post("/v1/vaults", json!({"display_name": "w"})).await.ok();
    let other = other["id"].as_str().unwrap().to_owned();
    let first = vault.create(bearer("https://a.example/mcp")).await.ok();
    let path = format!("/v1/vaults/{other}/credentials");
    let second = vault.server.post(&path, bearer("https://a.example/mcp")).await.ok();
    let mut reader = vault.server.store.read().await.unwrap();
    let (one, two): (VaultId, VaultId) = (vault.id.parse().unwrap(), other.parse().unwrap());
    for (vaults, expected) in [([one.clone(), two.clone()], &first), ([two, one], &second)] {
        let found = for_url(&mut reader, &WorkspaceId::default(), &vaults, "https://a.example/mcp").await.unwrap();
        assert_eq!(found.unwrap().id.as_str(), expected["id"]);
        let foreign = for_url(&mut reader, &WorkspaceId::generate(), &vaults, "https://a.example/mcp").await.unwrap();
        assert_eq!(foreign, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_taken_once_and_twenty_are_the_most() {
    let vault = Vault::new().await;
    let made = vault.create(bearer("https://a.example/mcp")).await.ok();
    vault.create(variable("A", json!({"type": "unrestricted"}))).await.ok();
    for body in [
        bearer("https://A.example:443/mcp/"),
        oauth("https://a.example/mcp", Value::Null),
        variable("A", json!({"type": "unrestricted"})),
    ] {
        let refused = vault.create(body).await;
        refused.refused(409, "conflict_error");
        assert_eq!(code(&refused), "credential_key_taken");
    }
    for n in 2..20 {
        vault.create(bearer(&format!("https://a.example/{n}"))).await.ok();
    }
    let refused = vault.create(bearer("https://a.example/21")).await;
    refused.refused(400, "invalid_request_error");
    assert_eq!(code(&refused), "credential_limit_reached");
    vault.archive(&made).await;
    vault.create(bearer("https://a.example/mcp")).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_is_sealed_to_the_same_binding() {
    let vault = Vault::new().await;
    let made = vault.create(bearer("https://a.example/mcp")).await.ok();
    assert_eq!(vault.change(&made, json!({})).await.ok(), made, "nothing changes");
    let same = json!({"auth": {"type": "static_bearer"}});
    assert_eq!(vault.change(&made, same).await.ok(), made);
    let before = vault.stored("https://a.example/mcp").await.unwrap();
    let named = vault.change(&made, json!({"display_name": "n", "metadata": {"k": "v"}})).await.ok();
    assert_eq!((&named["display_name"], &named["metadata"]), (&json!("n"), &json!({"k": "v"})));
    assert_eq!(vault.stored("https://a.example/mcp").await.unwrap(), before, "no new secret, no new ciphertext");
    let cleared = vault.change(&made, json!({"display_name": null, "metadata": null})).await.ok();
    assert_eq!((&cleared["display_name"], &cleared["metadata"]), (&Value::Null, &json!({})));

    let changed = vault.change(&made, json!({"auth": {"type": "static_bearer", "token": OTHER}})).await;
    assert!(!changed.text.contains(OTHER));
    changed.ok();
    let after = vault.stored("https://a.example/mcp").await.unwrap();
    assert_eq!(after.binding, before.binding);
    assert_eq!(vault.open(&after.sealed, &after.binding).as_deref(), Some(OTHER.as_bytes()));
    vault.assert_no_plaintext();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fixed_at_creation_cannot_be_changed() {
    let vault = Vault::new().await;
    let fixed = vault.create(bearer("https://a.example/mcp")).await.ok();
    let renewed = vault.create(oauth("https://b.example/mcp", refresh())).await.ok();
    let plain = vault.create(oauth("https://c.example/mcp", Value::Null)).await.ok();
    let mut open = refresh();
    open["token_endpoint_auth"] = json!({"type": "none"});
    let open = vault.create(oauth("https://d.example/mcp", open)).await.ok();
    let shown = vault.create(variable("A", json!({"type": "unrestricted"}))).await.ok();
    let bearer = |field: &str, value: Value| json!({"auth": {"type": "static_bearer", field: value}});
    let oauth = |field: &str, value: Value| json!({"auth": {"type": "mcp_oauth", field: value}});
    let refresh = |field: &str, value: Value| oauth("refresh", json!({field: value}));
    let variable = |field: &str, value: Value| json!({"auth": {"type": "environment_variable", field: value}});
    let basic = json!({"type": "client_secret_basic", "client_secret": OTHER});
    for (credential, change, place) in [
        (&fixed, json!({"auth": null}), "auth"),
        (&fixed, json!({"auth": {"token": OTHER}}), "type"),
        (&fixed, json!({"auth": {"type": "mcp_oauth", "access_token": OTHER}}), "auth.type"),
        (&fixed, bearer("mcp_server_url", json!("https://evil.example")), "auth.mcp_server_url"),
        (&fixed, bearer("token", json!(null)), "auth.token"),
        (&fixed, bearer("token", json!("short")), "auth.token"),
        (&fixed, json!({"display_name": ""}), "display_name"),
        (&fixed, json!({"vault_id": "vlt_x"}), "vault_id"),
        (&renewed, oauth("mcp_server_url", json!("https://evil.example")), "auth.mcp_server_url"),
        (&renewed, oauth("access_token", json!(null)), "auth.access_token"),
        (&renewed, oauth("expires_at", json!("2020-01-01T00:00:00Z")), "auth.expires_at"),
        (&renewed, oauth("refresh", json!(null)), "auth.refresh"),
        (&renewed, refresh("client_id", json!("x")), "auth.refresh.client_id"),
        (&renewed, refresh("token_endpoint", json!("https://evil.example")), "auth.refresh.token_endpoint"),
        (&renewed, refresh("resource", json!("x")), "auth.refresh.resource"),
        (&renewed, refresh("refresh_token", json!(null)), "auth.refresh.refresh_token"),
        (&renewed, refresh("token_endpoint_auth", json!({"type": "none"})), "auth.refresh.token_endpoint_auth"),
        (&plain, refresh("refresh_token", json!(OTHER)), "auth.refresh"),
        (&open, refresh("token_endpoint_auth", basic), "auth.refresh.token_endpoint_auth"),
        (&shown, variable("secret_name", json!("B")), "auth.secret_name"),
        (&shown, variable("networking", json!(null)), "auth.networking"),
        (&shown, variable("injection_location", json!(null)), "auth.injection_location"),
        (&shown, variable("injection_location", json!({"header": false, "body": false})), "auth.injection_location"),
    ] {
        let response = vault.change(credential, change.clone()).await;
        let message = response.refused(400, "invalid_request_error");
        assert!(message.contains(place) && !response.text.contains(OTHER), "{change}: {message}");
        assert_eq!(&vault.server.get(&vault.one(credential)).await.ok(), credential, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_secret_of_an_oauth_credential_is_replaced_alone() {
    let vault = Vault::new().await;
    let made = vault.create(oauth("https://a.example/mcp", refresh())).await.ok();
    let before = vault.stored("https://a.example/mcp").await.unwrap();
    let post = json!({"type": "client_secret_post", "client_secret": OTHER});
    let change = json!({"auth": {"type": "mcp_oauth", "expires_at": "2199-01-01T00:00:00Z",
        "refresh": {"refresh_token": OTHER, "scope": "", "token_endpoint_auth": post}}});
    let changed = vault.change(&made, change).await.ok();
    let shown = &changed["auth"]["refresh"];
    assert_eq!((&shown["scope"], &shown["token_endpoint_auth"]["type"]), (&Value::Null, &json!("client_secret_basic")));
    assert_eq!(changed["auth"]["expires_at"], "2199-01-01T00:00:00Z");
    let kept = vault.stored("https://a.example/mcp").await.unwrap();
    assert_eq!((kept.sealed, kept.binding), (before.sealed, before.binding), "the access token stays");
    let kept = vault.change(&made, json!({"auth": {"type": "mcp_oauth", "access_token": OTHER}})).await.ok();
    assert_eq!(kept["auth"]["expires_at"], "2199-01-01T00:00:00Z", "an expiry that is not sent again stays");
    let after = vault.stored("https://a.example/mcp").await.unwrap();
    assert_eq!(vault.open(&after.sealed, &after.binding).as_deref(), Some(OTHER.as_bytes()));
    let cleared = vault.change(&made, json!({"auth": {"type": "mcp_oauth", "expires_at": null}})).await.ok();
    assert_eq!(cleared["auth"]["expires_at"], Value::Null);
    // A refresh token put where the access token belongs does not open as one.
    vault
        .sql(
            "UPDATE credential_secrets SET sealed = (SELECT sealed FROM credential_secrets WHERE credential_id = ?1 \
             AND part = 'refresh_token') WHERE credential_id = ?1 AND part = 'value'",
            &[after.id.as_str()],
        )
        .await;
    let swapped = vault.stored("https://a.example/mcp").await.unwrap();
    assert_eq!(vault.open(&swapped.sealed, &swapped.binding), None);
    vault.assert_no_plaintext();
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_narrow_freely_and_widen_only_with_the_secret() {
    let vault = Vault::new().await;
    let limited = |hosts: &[&str]| json!({"type": "limited", "allowed_hosts": hosts});
    let made = vault.create(variable("A", limited(&["a.example", "*.b.example"]))).await.ok();
    let change = |networking: Value| json!({"auth": {"type": "environment_variable", "networking": networking}});
    let narrowed = vault.change(&made, change(limited(&["x.b.example"]))).await.ok();
    assert_eq!(narrowed["auth"]["networking"], limited(&["x.b.example"]));
    vault.change(&made, change(limited(&["a.example"]))).await.ok();
    for wider in [limited(&["c.example"]), limited(&["b.example"]), json!({"type": "unrestricted"})] {
        let refused = vault.change(&made, change(wider)).await;
        refused.refused(400, "invalid_request_error");
        assert_eq!(code(&refused), "credential_widened");
    }
    let mut with_secret = change(limited(&["c.example"]));
    with_secret["auth"]["secret_value"] = json!(OTHER);
    vault.change(&made, with_secret).await.ok();
    let back = vault.change(&made, change(limited(&["a.example"]))).await;
    assert_eq!(code(&back), "credential_widened", "sealed anew, bound anew");
    let body = json!({"auth": {"type": "environment_variable", "injection_location": {"body": false}}});
    let header = vault.change(&made, body).await.ok();
    assert_eq!(header["auth"]["injection_location"], json!({"header": true, "body": false}));
    vault.assert_no_plaintext();
}

#[tokio::test(flavor = "multi_thread")]
async fn places_narrow_freely_and_widen_only_with_the_secret() {
    let vault = Vault::new().await;
    let unrestricted = json!({"type": "unrestricted"});
    let mut both = variable("A", unrestricted.clone());
    both["auth"]["injection_location"] = json!({"header": true, "body": true});
    let made = vault.create(both).await.ok();
    let change = |place: Value| json!({"auth": {"type": "environment_variable", "injection_location": place}});
    vault.change(&made, change(json!({"body": false}))).await.ok();
    let back = vault.change(&made, change(json!({"body": true}))).await.ok();
    assert_eq!(back["auth"]["injection_location"], json!({"header": true, "body": true}), "it is sealed for both");
    let mut header_alone = change(json!({"body": false}));
    header_alone["auth"]["secret_value"] = json!(OTHER);
    vault.change(&made, header_alone).await.ok();
    for wider in [json!({"body": true}), json!({"header": false, "body": true})] {
        let refused = vault.change(&made, change(wider)).await;
        let message = refused.refused(400, "invalid_request_error");
        assert_eq!(code(&refused), "credential_widened");
        assert!(message.contains("secret_value"), "{message}");
    }
    let mut with_secret = change(json!({"body": true}));
    with_secret["auth"]["secret_value"] = json!(OTHER);
    vault.change(&made, with_secret).await.ok();
    vault.assert_no_plaintext();
}

#[tokio::test(flavor = "multi_thread")]
async fn archive_purges_the_secret_frees_the_key_and_keeps_the_record() {
    let vault = Vault::new().await;
    let made = vault.create(bearer("https://a.example/mcp")).await.ok();
    let sealed = vault.stored("https://a.example/mcp").await.unwrap().sealed;
    let found = |bytes: &[u8]| !canary::search(bytes, &[sealed.ciphertext.as_bytes()]).is_empty();
    assert!(found(&vault.server.database()), "while it is stored it is found");
    let archived = vault.archive(&made).await;
    assert!(archived["archived_at"].is_string());
    assert_eq!(vault.archive(&made).await, archived, "again");
    assert_eq!(vault.stored("https://a.example/mcp").await, None);
    let refused = vault.change(&made, json!({"display_name": "x"})).await;
    refused.refused(400, "invalid_request_error");
    assert_eq!(code(&refused), "credential_archived");
    assert_eq!(vault.server.get(&vault.path()).await.ok()["data"], json!([]));
    let all = vault.server.get(&format!("{}?include_archived=true", vault.path())).await.ok();
    assert_eq!(all["data"], json!([archived]));
    let mut reader = vault.server.store.read().await.unwrap();
    let rest = sqlx::query("SELECT 1 FROM credential_secrets").fetch_all(&mut *reader).await.unwrap();
    assert!(rest.is_empty());
    drop(reader);
    // Once the log of the database is folded in, not even the ciphertext is in its file.
    vault.server.store.close().await;
    assert!(!found(&vault.server.database()));
}

#[tokio::test(flavor = "multi_thread")]
async fn archiving_or_deleting_a_vault_takes_every_secret_with_it() {
    let vault = Vault::new().await;
    let made = vault.create(bearer("https://a.example/mcp")).await.ok();
    vault.create(oauth("https://b.example/mcp", refresh())).await.ok();
    let path = format!("/v1/vaults/{}", vault.id);
    let archived = vault.server.send(vault.server.request("POST", &format!("{path}/archive"))).await.ok();
    assert_eq!(vault.server.get(&vault.one(&made)).await.ok()["archived_at"], archived["archived_at"]);
    assert_eq!(vault.stored("https://a.example/mcp").await, None);
    vault.server.send(vault.server.request("DELETE", &path)).await.ok();
    vault.server.get(&vault.one(&made)).await.refused(404, "not_found_error");
    for table in ["SELECT 1 FROM vault_credentials", "SELECT 1 FROM credential_secrets"] {
        let rows = sqlx::query(table).fetch_all(&mut *vault.server.store.read().await.unwrap()).await.unwrap();
        assert!(rows.is_empty(), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_credential_is_gone_and_one_of_another_vault_is_not_found() {
    let vault = Vault::new().await;
    let made = vault.create(bearer("https://a.example/mcp")).await.ok();
    let other = vault.server.post("/v1/vaults", json!({"display_name": "w"})).await.ok();
    let elsewhere =
        format!("/v1/vaults/{}/credentials/{}", other["id"].as_str().unwrap(), made["id"].as_str().unwrap());
    for method in ["GET", "DELETE"] {
        vault.server.send(vault.server.request(method, &elsewhere)).await.refused(404, "not_found_error");
    }
    let deleted = vault.server.send(vault.server.request("DELETE", &vault.one(&made))).await.ok();
    assert_eq!(deleted, json!({"id": made["id"], "type": "vault_credential_deleted"}));
    vault.server.get(&vault.one(&made)).await.refused(404, "not_found_error");
    assert_eq!(vault.stored("https://a.example/mcp").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_listed_newest_first_in_pages_bound_to_their_vault() {
    let vault = Vault::new().await;
    for n in 0..3 {
        vault.create(bearer(&format!("https://a.example/{n}"))).await.ok();
    }
    let url = |page: &Value, n: usize| page["data"][n]["auth"]["mcp_server_url"].clone();
    let first = vault.server.get(&format!("{}?limit=2", vault.path())).await.ok();
    assert_eq!((url(&first, 0), url(&first, 1)), (json!("https://a.example/2"), json!("https://a.example/1")));
    let next = first["next_page"].as_str().unwrap();
    let second = vault.server.get(&format!("{}?limit=2&page={next}", vault.path())).await.ok();
    assert_eq!((url(&second, 0), &second["next_page"]), (json!("https://a.example/0"), &Value::Null));
    let other = vault.server.post("/v1/vaults", json!({"display_name": "w"})).await.ok();
    let other = format!("/v1/vaults/{}/credentials", other["id"].as_str().unwrap());
    vault.server.get(&format!("{other}?page={next}")).await.refused(400, "invalid_request_error");
    vault.server.get(&format!("{other}?limit=101")).await.refused(400, "invalid_request_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_perimeter_a_validation_says_that_nobody_knows_and_why() {
    let vault = Vault::new().await;
    for (body, has_refresh_token) in
        [(oauth("https://a.example/mcp", refresh()), true), (oauth("https://b.example/mcp", Value::Null), false)]
    {
        let made = vault.create(body).await.ok();
        let path = format!("{}/mcp_oauth_validate", vault.one(&made));
        let response = vault.server.send(vault.server.request("POST", &path)).await;
        assert_eq!(response.header("postern-reason"), Some("gateway_none"));
        let validation = response.ok();
        assert_eq!(
            (&validation["type"], &validation["status"]),
            (&json!("vault_credential_validation"), &json!("unknown"))
        );
        assert_eq!(validation["has_refresh_token"], has_refresh_token);
        assert_eq!(validation["mcp_probe"], json!({"method": "initialize", "http_response": null}));
        assert_eq!(validation["refresh"], Value::Null);
        assert_eq!(validation["credential_id"], made["id"]);
    }
    let made = vault.create(bearer("https://c.example/mcp")).await.ok();
    let path = format!("{}/mcp_oauth_validate", vault.one(&made));
    vault.server.send(vault.server.request("POST", &path)).await.refused(400, "invalid_request_error");
}

/// As a client seals that chose the credential's id.
fn sealed_by_client(vault: &Vault, id: &str, public_key: &str) -> Sealed {
    let binding = Binding {
        client_id: None,
        credential: id.to_owned(),
        hosts: vec!["a.example".to_owned()],
        injection: Some(seal::Places { body: false, header: true }),
        kind: "environment_variable".to_owned(),
        mcp_url: None,
        refresh: None,
        secret_name: Some("KEY".to_owned()),
        token_endpoint: None,
        vault: vault.id.clone(),
        workspace: "wrkspc_default".to_owned(),
    };
    let perimeter_id = vault.perimeter["id"].as_str().unwrap().to_owned();
    let to = [seal::Recipient { perimeter_id, public_key: public_key.parse().unwrap() }];
    seal::seal(&postern_secret::Secret::new(TOKEN.as_bytes().to_vec()), &binding, &to).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_its_client_sealed_is_taken_as_it_is_and_opens_with_what_is_shown() {
    let vault = Vault::new().await;
    let (id, key) = (CredentialId::generate().to_string(), vault.perimeter["public_key"].as_str().unwrap().to_owned());
    let sealed = sealed_by_client(&vault, &id, &key);
    let body = |id: &str, sealed: &Sealed| {
        json!({"id": id, "auth": {"type": "environment_variable", "secret_name": "KEY", "sealed": sealed,
            "networking": {"type": "limited", "allowed_hosts": ["a.example"]}, "injection_location": {"header": true}}})
    };
    let made = vault.create(body(&id, &sealed)).await.ok();
    assert_eq!(made["id"], json!(id));
    assert_eq!(made["auth"].get("sealed"), None, "no ciphertext is shown");
    let mut reader = vault.server.store.read().await.unwrap();
    let vaults = [vault.id.parse().unwrap()];
    let stored = postern_store::credentials::variables(&mut reader, &WorkspaceId::default(), &vaults).await.unwrap();
    let variable = seal::SealedVariable::decode(&stored[0].sealed).unwrap();
    let opened = vault.open(&variable.credential.sealed, &variable.credential.binding);
    assert_eq!(opened.as_deref(), Some(TOKEN.as_bytes()), "with the binding that the server has by itself");
    drop(reader);

    let another = CredentialId::generate().to_string();
    let (stranger, _) = seal::suite().generate_key_pair().unwrap();
    let stranger: String = stranger.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let old = Sealed { version: 1, ..sealed.clone() };
    let nobody = Sealed { wraps: Vec::new(), ..sealed.clone() };
    for (what, wrong) in [
        ("for another key", sealed_by_client(&vault, &another, &stranger)),
        ("of another version", old),
        ("for nobody", nobody),
    ] {
        let refused = vault.create(body(&another, &wrong)).await;
        refused.refused(400, "invalid_request_error");
        assert_eq!(code(&refused), "sealed_unusable", "{what}");
    }
    let mut twice = body(&another, &sealed);
    twice["auth"]["secret_value"] = json!(OTHER);
    vault.create(twice).await.refused(400, "invalid_request_error");
    vault.archive(&made).await;
    let taken = vault.create(body(&id, &sealed)).await;
    taken.refused(409, "conflict_error");
    assert_eq!(code(&taken), "credential_id_taken");
    vault.assert_no_plaintext();
}
