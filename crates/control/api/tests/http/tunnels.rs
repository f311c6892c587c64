//! Tunnels, their tokens and certificates, and how the edge follows them.

use std::time::SystemTime;

use postern_model::ids::TunnelId;
use postern_secret::key::{KeyDigest, TunnelToken};
use postern_store::tunnels;
use postern_tunnel::certificate::{new_ca, new_leaf};
use serde_json::{Value, json};

use crate::support::{Response, Server, TUNNELS_BETA, issue_foreign_key};

async fn tunnel(server: &Server) -> Value {
    server.post("/v1/tunnels", json!({})).await.ok()
}

fn path(tunnel: &Value) -> String {
    format!("/v1/tunnels/{}", tunnel["id"].as_str().unwrap())
}

async fn act(server: &Server, tunnel: &Value, action: &str) -> Response {
    server.send(server.request("POST", &format!("{}/{action}", path(tunnel)))).await
}

fn ca(tunnel: &Value) -> String {
    new_ca(tunnel["domain"].as_str().unwrap(), SystemTime::now()).unwrap().certificate_pem
}

async fn register(server: &Server, tunnel: &Value, pem: &str) -> Response {
    server.post(&format!("{}/certificates", path(tunnel)), json!({"ca_certificate_pem": pem})).await
}

fn code(response: &Response) -> &str {
    response.body["error"]["details"]["error_code"].as_str().unwrap_or_default()
}

fn ids(page: &Value) -> Vec<String> {
    page["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// Whether the edge lets a connector in with this token.
fn opens(server: &Server, token: &str) -> bool {
    server.edge.directory().by_token(&KeyDigest::of(token)).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_has_a_name_or_none_and_a_domain_of_its_own() {
    let server = Server::start().await;
    let plain = server.send(server.request("POST", "/v1/tunnels")).await.ok();
    let mut keys: Vec<&String> = plain.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["archived_at", "created_at", "display_name", "domain", "id", "type"]);
    assert_eq!(
        (&plain["type"], &plain["display_name"], &plain["archived_at"]),
        (&json!("tunnel"), &Value::Null, &Value::Null)
    );
    let named = server.post("/v1/tunnels", json!({"display_name": "office"})).await.ok();
    assert_eq!(named["display_name"], "office");
    assert_ne!(plain["domain"], named["domain"]);
    let domain = named["domain"].as_str().unwrap();
    let label = domain.strip_suffix(".tunnel.localhost").unwrap();
    assert!(label.len() == 16 && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
    assert_eq!(server.get(&path(&named)).await.ok(), named);
    assert!(server.edge.directory().by_host(&format!("wiki.{domain}")).is_some(), "the edge knows it");
    for body in [json!({"display_name": ""}), json!({"display_name": "x".repeat(256)}), json!({"domain": "x"})] {
        server.post("/v1/tunnels", body).await.refused(400, "invalid_request_error");
    }
    server.post(&path(&named), json!({"display_name": "x"})).await.refused(404, "not_found_error");
    server.send(server.request("DELETE", &path(&named))).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_are_listed_newest_first_in_pages_of_up_to_a_thousand() {
    let server = Server::start().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(tunnel(&server).await["id"].as_str().unwrap().to_owned());
    }
    made.reverse();
    let first = server.get("/v1/tunnels?limit=2").await.ok();
    let next = format!("/v1/tunnels?limit=2&page={}", first["next_page"].as_str().unwrap());
    let second = server.get(&next).await.ok();
    assert_eq!([ids(&first), ids(&second)].concat(), made);
    assert_eq!(second["next_page"], Value::Null);
    assert_eq!(ids(&server.get("/v1/tunnels?limit=1000").await.ok()), made);
    server.get("/v1/tunnels?limit=1001").await.refused(400, "invalid_request_error");
    server.send(server.request("POST", &format!("/v1/tunnels/{}/archive", made[0]))).await.ok();
    assert_eq!(ids(&server.get("/v1/tunnels").await.ok()), made[1..]);
    assert_eq!(ids(&server.get("/v1/tunnels?include_archived=true").await.ok()), made);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_tunnels_are_active_at_once_and_an_archived_one_makes_room() {
    let server = Server::start().await;
    let first = tunnel(&server).await;
    for _ in 1..10 {
        tunnel(&server).await;
    }
    let refused = server.post("/v1/tunnels", json!({})).await;
    refused.refused(400, "invalid_request_error");
    assert_eq!(code(&refused), "tunnel_limit_reached");
    act(&server, &first, "archive").await.ok();
    tunnel(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_revealed_the_same_until_rotated_and_only_the_new_one_opens() {
    let server = Server::start().await;
    let tunnel = tunnel(&server).await;
    let response = act(&server, &tunnel, "reveal_token").await;
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let revealed = response.ok();
    let mut keys: Vec<&String> = revealed.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(
        (keys, &revealed["type"]),
        (
            ["id", "tunnel_token", "type"].iter().map(|k| k.to_string()).collect::<Vec<_>>().iter().collect(),
            &json!("tunnel_token")
        )
    );
    assert_eq!(act(&server, &tunnel, "reveal_token").await.ok(), revealed);
    let old = revealed["tunnel_token"].as_str().unwrap();
    assert!(old.starts_with(TunnelToken::PREFIX) && opens(&server, old));

    let rotate = format!("{}/rotate_token", path(&tunnel));
    let rotated = server.post(&rotate, json!({"reason": "a laptop was lost"})).await.ok();
    let new = rotated["tunnel_token"].as_str().unwrap();
    assert_ne!((&rotated["id"], new), (&revealed["id"], old));
    assert_eq!(act(&server, &tunnel, "reveal_token").await.ok(), rotated);
    assert!(opens(&server, new) && !opens(&server, old));
    for body in [json!({}), json!({"reason": null})] {
        server.post(&rotate, body).await.ok();
    }
    server.send(server.request("POST", &rotate)).await.ok();
    for body in [json!({"reason": "x".repeat(1025)}), json!({"reason": 1}), json!({"why": "x"})] {
        server.post(&rotate, body).await.refused(400, "invalid_request_error");
    }
    let status = server.get(&format!("{}/status", path(&tunnel))).await.ok();
    assert_eq!(status["token"]["generation"], 5);
    for token in [old, new] {
        let body = &token.as_bytes()[TunnelToken::PREFIX.len()..];
        assert!(!server.database().windows(body.len()).any(|window| window == body), "only digests are stored");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_opens_nothing_until_another_is_issued() {
    let server = Server::start().await;
    let tunnel = tunnel(&server).await;
    let token = act(&server, &tunnel, "reveal_token").await.ok();
    let revoked = act(&server, &tunnel, "revoke_token").await.ok();
    assert_eq!(
        (&revoked["type"], &revoked["id"], &revoked["tunnel_id"]),
        (&json!("tunnel_token_revoked"), &token["id"], &tunnel["id"])
    );
    assert_eq!(act(&server, &tunnel, "revoke_token").await.ok(), revoked, "again");
    assert!(!opens(&server, token["tunnel_token"].as_str().unwrap()));
    let refused = act(&server, &tunnel, "reveal_token").await;
    refused.refused(409, "conflict_error");
    assert_eq!(code(&refused), "tunnel_token_revoked");
    let next = act(&server, &tunnel, "rotate_token").await.ok();
    assert!(opens(&server, next["tunnel_token"].as_str().unwrap()));
    assert!(server.get(&path(&tunnel)).await.ok()["archived_at"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_tunnel_takes_its_certificates_and_token_with_it() {
    let server = Server::start().await;
    let tunnel = tunnel(&server).await;
    let certificate = register(&server, &tunnel, &ca(&tunnel)).await.ok();
    let token = act(&server, &tunnel, "reveal_token").await.ok();
    let archived = act(&server, &tunnel, "archive").await.ok();
    assert!(archived["archived_at"].is_string());
    assert_eq!(act(&server, &tunnel, "archive").await.ok(), archived, "again");
    assert!(!opens(&server, token["tunnel_token"].as_str().unwrap()));
    let host = format!("wiki.{}", tunnel["domain"].as_str().unwrap());
    assert!(server.edge.directory().by_host(&host).is_none());
    let certificate = format!("{}/certificates/{}", path(&tunnel), certificate["id"].as_str().unwrap());
    assert_eq!(server.get(&certificate).await.ok()["archived_at"], archived["archived_at"]);
    for (action, body) in [
        ("reveal_token", json!({})),
        ("rotate_token", json!({})),
        ("certificates", json!({"ca_certificate_pem": ca(&tunnel)})),
        ("probe", json!({"route": "wiki"})),
    ] {
        let refused = server.post(&format!("{}/{action}", path(&tunnel)), body).await;
        refused.refused(400, "invalid_request_error");
        assert_eq!(code(&refused), "tunnel_archived", "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_certificates_are_trusted_at_once_and_the_last_may_go() {
    let server = Server::start().await;
    let tunnel = tunnel(&server).await;
    let pem = ca(&tunnel);
    let first = register(&server, &tunnel, &pem).await.ok();
    let mut keys: Vec<&String> = first.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["archived_at", "created_at", "expires_at", "fingerprint", "id", "tunnel_id", "type"]);
    let fingerprint = first["fingerprint"].as_str().unwrap();
    assert!(fingerprint.len() == 64 && fingerprint.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    assert!(first["expires_at"].is_string());
    register(&server, &tunnel, &pem).await.refused(409, "conflict_error");
    let second = register(&server, &tunnel, &ca(&tunnel)).await.ok();
    let third = register(&server, &tunnel, &ca(&tunnel)).await;
    third.refused(400, "invalid_request_error");
    assert_eq!(code(&third), "certificate_limit_reached");

    let all = format!("{}/certificates", path(&tunnel));
    assert_eq!(ids(&server.get(&all).await.ok()), [second["id"].as_str().unwrap(), first["id"].as_str().unwrap()]);
    assert_eq!(trusted(&server, &tunnel), 2);
    for (certificate, left) in [(&first, 1), (&second, 0)] {
        let one = format!("{all}/{}", certificate["id"].as_str().unwrap());
        assert_eq!(&server.get(&one).await.ok(), certificate);
        let archived = server.send(server.request("POST", &format!("{one}/archive"))).await.ok();
        assert!(archived["archived_at"].is_string());
        let again = server.send(server.request("POST", &format!("{one}/archive"))).await.ok();
        assert_eq!((again, trusted(&server, &tunnel)), (archived, left));
    }
    assert_eq!(server.get(&all).await.ok()["data"], json!([]));
    assert_eq!(ids(&server.get(&format!("{all}?include_archived=true&limit=1000")).await.ok()).len(), 2);
    register(&server, &tunnel, &pem).await.ok();
}

fn trusted(server: &Server, tunnel: &Value) -> usize {
    server.edge.directory().by_id(tunnel["id"].as_str().unwrap()).unwrap().certificates.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_authority_is_not_trusted_and_nothing_of_it_is_repeated() {
    let server = Server::start().await;
    let tunnel = tunnel(&server).await;
    let domain = tunnel["domain"].as_str().unwrap();
    let own = new_ca(domain, SystemTime::now()).unwrap();
    let leaf = new_leaf(&own, domain, SystemTime::now()).unwrap().certificate_pem;
    #[expect(clippy::disallowed_methods, reason = "a caller sends a key by mistake")]
    let key = own.key_pem.expose().clone();
    let own = own.certificate_pem;
    for (pem, expected) in [
        (String::new(), "certificate_not_one_pem"),
        ("x".repeat(9000), "certificate_too_large"),
        (format!("{own}{own}"), "certificate_not_one_pem"),
        (format!("{own}{key}"), "certificate_has_private_key"),
        (key.clone(), "certificate_has_private_key"),
        (leaf, "certificate_not_ca"),
    ] {
        let refused = register(&server, &tunnel, &pem).await;
        refused.refused(400, "invalid_request_error");
        assert_eq!(code(&refused), expected);
        assert!(!refused.text.contains(key.lines().nth(1).unwrap()));
    }
    let wrong = json!({"ca_certificate_pem": [key]});
    let refused = server.post(&format!("{}/certificates", path(&tunnel)), wrong).await;
    refused.refused(400, "invalid_request_error");
    assert!(!refused.text.contains(key.lines().nth(1).unwrap()));
    assert_eq!(trusted(&server, &tunnel), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_probe_say_what_is_there() {
    let server = Server::start().await;
    let tunnel = tunnel(&server).await;
    let certificate = register(&server, &tunnel, &ca(&tunnel)).await.ok();
    let status = server.get(&format!("{}/status", path(&tunnel))).await.ok();
    assert_eq!((&status["connections"], &status["last_errors"]), (&json!([]), &json!([])));
    assert_eq!((&status["domain"], &status["token"]["generation"]), (&tunnel["domain"], &json!(1)));
    let shown = &status["certificates"][0];
    assert_eq!(shown["id"], certificate["id"]);
    assert!((1800..1830).contains(&shown["days_left"].as_i64().unwrap()), "{shown}");
    let probe = format!("{}/probe", path(&tunnel));
    let found = server.post(&probe, json!({"route": "Wiki"})).await.ok();
    assert_eq!(found["host"], format!("wiki.{}", tunnel["domain"].as_str().unwrap()));
    for body in [json!({}), json!({"route": "a.b"}), json!({"route": ""}), json!({"route": "wiki", "x": 1})] {
        server.post(&probe, body).await.refused(400, "invalid_request_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_of_another_workspace_is_not_there() {
    let server = Server::start().await;
    let tunnel = tunnel(&server).await;
    let certificate = register(&server, &tunnel, &ca(&tunnel)).await.ok();
    let foreign = issue_foreign_key(&server.store).await;
    let (path, id) = (path(&tunnel), certificate["id"].as_str().unwrap());
    for (method, path, body) in [
        ("GET", path.clone(), None),
        ("GET", format!("{path}/status"), None),
        ("POST", format!("{path}/archive"), None),
        ("POST", format!("{path}/reveal_token"), None),
        ("POST", format!("{path}/rotate_token"), None),
        ("POST", format!("{path}/revoke_token"), None),
        ("POST", format!("{path}/probe"), Some(json!({"route": "wiki"}))),
        ("GET", format!("{path}/certificates"), None),
        ("POST", format!("{path}/certificates"), Some(json!({"ca_certificate_pem": ca(&tunnel)}))),
        ("GET", format!("{path}/certificates/{id}"), None),
        ("POST", format!("{path}/certificates/{id}/archive"), None),
    ] {
        let request = server.request_as(&foreign, method, &path);
        let request = body.iter().fold(request, |request, body| request.json(body));
        server.send(request).await.refused(404, "not_found_error");
    }
    assert_eq!(server.send(server.request_as(&foreign, "GET", "/v1/tunnels")).await.ok()["data"], json!([]));
    assert_eq!(server.get(&path).await.ok(), tunnel, "untouched");
    assert_eq!(trusted(&server, &tunnel), 1);
    // A certificate is found in its own tunnel alone.
    let other = self::tunnel(&server).await;
    let elsewhere = format!("{}/certificates/{id}", self::path(&other));
    server.get(&elsewhere).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_starts_again_knows_what_stands_and_nothing_that_was_archived() {
    let server = Server::start().await;
    let (kept, gone, mute) = (tunnel(&server).await, tunnel(&server).await, tunnel(&server).await);
    register(&server, &kept, &ca(&kept)).await.ok();
    let token = act(&server, &kept, "rotate_token").await.ok();
    act(&server, &gone, "archive").await.ok();
    act(&server, &mute, "revoke_token").await.ok();
    let again = server.edge_after_a_restart().await;
    for (tunnel, expected) in [(&kept, true), (&mute, true), (&gone, false)] {
        let host = format!("wiki.{}", tunnel["domain"].as_str().unwrap());
        assert_eq!(again.directory().by_host(&host).is_some(), expected, "{tunnel}");
        let id = tunnel["id"].as_str().unwrap();
        let before = server.edge.directory().by_id(id).filter(|entry| !entry.archived);
        assert_eq!(again.directory().by_id(id), before);
    }
    let digest = KeyDigest::of(token["tunnel_token"].as_str().unwrap());
    assert_eq!(again.directory().by_token(&digest).unwrap().id, kept["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_live_token_of_a_tunnel_opens_something() {
    let server = Server::start().await;
    let tunnel = tunnel(&server).await;
    let shown = |token: Value| token["tunnel_token"].as_str().unwrap().to_owned();
    let first = shown(act(&server, &tunnel, "reveal_token").await.ok());
    assert_eq!(granted(&server, &first).await.as_deref(), tunnel["id"].as_str());
    let second = shown(act(&server, &tunnel, "rotate_token").await.ok());
    assert_eq!(
        (granted(&server, &first).await, granted(&server, &second).await.as_deref()),
        (None, tunnel["id"].as_str())
    );
    act(&server, &tunnel, "revoke_token").await.ok();
    assert_eq!(granted(&server, &second).await, None);
    let third = shown(act(&server, &tunnel, "rotate_token").await.ok());
    act(&server, &tunnel, "archive").await.ok();
    assert_eq!(granted(&server, &third).await, None);
}

async fn granted(server: &Server, token: &str) -> Option<String> {
    let mut reader = server.store.read().await.unwrap();
    let grant = tunnels::find_token(&mut reader, KeyDigest::of(token).as_str()).await.unwrap();
    grant.map(|grant| grant.tunnel.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_server_key_that_was_replaced_is_not_shown_but_rotated() {
    let server = Server::start().await;
    let tunnel = tunnel(&server).await;
    let mut tx = server.store.write().await.unwrap();
    sqlx::query("UPDATE tunnel_tokens SET digest = 'of another key'").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let refused = act(&server, &tunnel, "reveal_token").await;
    refused.refused(409, "conflict_error");
    assert_eq!(code(&refused), "tunnel_token_lost");
    let rotated = act(&server, &tunnel, "rotate_token").await.ok();
    assert_eq!(act(&server, &tunnel, "reveal_token").await.ok(), rotated);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tunnels_beta_alone_is_enough() {
    let server = Server::start().await;
    let request = server.request("GET", "/v1/tunnels").header("anthropic-beta", TUNNELS_BETA);
    server.send(request).await.ok();
    server.get(&format!("/v1/tunnels/{}", TunnelId::generate())).await.refused(404, "not_found_error");
}
