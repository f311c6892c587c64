//! Every refusal by its name, and that the server saw nothing of it.

use postern_audit::{AuditError, Decision, Kind};
use postern_policy::Reason;
use postern_tunnel::identity::{self, Purpose, Signer};
use serde_json::json;

use super::stand::{Call, DOMAIN, Stand, call_body, ok};
use crate::{limits, phases::record};

/// A tool call that the zone allows.
fn good() -> Call {
    Call::tool("search", &json!({"q": "x"}))
}

#[tokio::test]
async fn calls_of_nobody_are_refused_by_name() {
    let stand = Stand::answering().await;
    let signer = Signer::generate().unwrap();
    let now = identity::seconds(std::time::SystemTime::now());
    let table: Vec<(&str, Call, &str)> = vec![
        ("no token", good().token(""), "identity_missing"),
        ("no token of ours", good().token("a.b.c"), "identity_invalid"),
        ("two tokens", good().with(identity::HEADER, "a.b.c"), "identity_invalid"),
        ("another's key", good().token(signer.sign(&good().claims).unwrap()), "identity_invalid"),
        ("another tunnel's", good().claiming(|claims| claims.aud = "tnl_2".to_owned()), "identity_invalid"),
        (
            "an expired one",
            good().claiming(|claims| (claims.iat, claims.exp) = (now - 100, now - 50)),
            "identity_expired",
        ),
        (
            "one of the future",
            good().claiming(|claims| (claims.iat, claims.exp) = (now + 30, now + 60)),
            "identity_expired",
        ),
        ("one that lives too long", good().claiming(|claims| claims.exp = now + 3600), "identity_invalid"),
        ("another body's", good().claiming(|claims| claims.body = identity::body_digest(b"{}")), "identity_invalid"),
    ];
    for (what, call, reason) in table {
        let got = stand.send(call).await;
        assert_eq!((got.status, got.reason().as_deref()), (401, Some(reason)), "{what}");
        assert_eq!(got.headers["content-type"], "application/problem+json", "{what}");
    }
    assert!(stand.seen().is_empty());
    assert!(stand.custody.grants.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_identity_counts_once() {
    let stand = Stand::answering().await;
    let token = stand.signer.sign(&good().claims).unwrap();
    assert_eq!(stand.send(good().token(token.clone())).await.status, 200);
    // Another session's identity, taken from a request that passed.
    let got = stand.send(good().from("sesn_b").token(token)).await;
    assert_eq!((got.status, got.reason().as_deref()), (401, Some("identity_replayed")));
    assert_eq!(stand.records(Kind::Alarm)[0].reason.as_deref(), Some("identity_replayed"));
    assert_eq!(stand.seen().len(), 1);
}

#[tokio::test]
async fn what_the_zone_does_not_allow_is_a_tool_result_that_says_what_to_do() {
    let stand = Stand::answering().await;
    let table: Vec<(&str, Call, &str)> = vec![
        ("a tool outside the rule", Call::tool("delete_page", &json!({})), "tool_not_allowed"),
        (
            "an argument outside the rule",
            Call::tool("write_page", &json!({"path": "secret/x"})),
            "argument_not_allowed",
        ),
        ("an argument that is missing", Call::tool("write_page", &json!({})), "argument_not_allowed"),
        ("an argument of another type", Call::tool("write_page", &json!({"path": 7})), "argument_not_allowed"),
        ("a server without a rule", Call::on("secret", call_body("search", &json!({}))), "mcp_server_not_allowed"),
        (
            "an agent's other environment",
            good().claiming(|claims| claims.environment = "env_2".to_owned()),
            "mcp_server_not_allowed",
        ),
        ("an address outside `addresses`", Call::on("inner", call_body("x", &json!({}))), "address_loopback"),
        ("a server that is down", Call::on("down", call_body("x", &json!({}))), "upstream_unreachable"),
        ("an MCP session of nobody", good().with("mcp-session-id", "abc"), "mcp_session_unknown"),
        (
            "a vault credential that is none",
            Call::on("vault", call_body("x", &json!({}))).with("postern-credential", "e30"),
            "credential_unopenable",
        ),
    ];
    for (what, call, reason) in table {
        let got = stand.send(call).await;
        assert_eq!((got.status, got.reason().as_deref()), (200, Some(reason)), "{what}: {}", got.text());
        let json = got.json();
        assert_eq!((json["id"].as_i64(), json["result"]["isError"].as_bool()), (Some(7), Some(true)), "{what}");
        let text = json["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with("[postern] refused ") && text.contains(" next="), "{what}: {text}");
        assert_eq!(json["result"]["_meta"]["postern/started"], false, "{what}");
    }
    assert!(stand.seen().is_empty());
}

#[tokio::test]
async fn what_is_no_tool_call_is_refused_by_status() {
    let stand = Stand::answering().await;
    let listed = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let table: Vec<(&str, Call, u16, &str)> = vec![
        ("a server without a rule", Call::on("secret", listed), 403, "mcp_server_not_allowed"),
        (
            "a method without a rule",
            Call::on("wiki", r#"{"jsonrpc":"2.0","id":1,"method":"resources/list"}"#),
            403,
            "mcp_method_not_allowed",
        ),
        ("a route that is none", Call::on("nowhere", listed), 404, "route_unknown"),
        ("a server that is down", Call::on("down", listed), 502, "upstream_unreachable"),
        ("another path", Call::on("wiki", listed).target("/admin"), 403, "path_not_allowed"),
        ("a path below", Call::on("wiki", listed).target("/mcp/x"), 403, "path_not_allowed"),
        ("a path with dots", Call::on("wiki", listed).target("/x/../mcp"), 400, "path_ambiguous"),
        ("a path with encoded dots", Call::on("wiki", listed).target("/mcp/%2e%2e/admin"), 400, "path_ambiguous"),
        ("an encoded slash", Call::on("wiki", listed).target("/mcp%2fx"), 400, "path_ambiguous"),
        ("two slashes", Call::on("wiki", listed).target("//mcp"), 400, "path_ambiguous"),
        ("a query", Call::on("wiki", listed).target("/mcp?x=1"), 403, "path_not_allowed"),
        (
            "a URL that no route has",
            Call::on("wiki", listed).with("postern-route-url", "https://a.example/mcp"),
            404,
            "route_unknown",
        ),
        (
            "a URL that is not normal",
            Call::on("wiki", listed).with("postern-route-url", "https://A.example/mcp/"),
            403,
            "route_mismatch",
        ),
        ("a batch", Call::on("wiki", format!("[{listed}]")), 400, "request_malformed"),
        (
            "a key twice",
            Call::on("wiki", r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#),
            400,
            "request_malformed",
        ),
        (
            "a body too large",
            Call::on("wiki", format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(70_000))),
            413,
            "limit_body",
        ),
        ("another method", Call::on("wiki", "").method("PUT"), 405, "method_not_allowed"),
        (
            "a probe that calls a tool",
            Call::on("wiki", listed.replace("list", "call")).claiming(|claims| claims.purpose = Purpose::Probe),
            400,
            "request_malformed",
        ),
        (
            "a probe that lists resources",
            Call::on("wiki", r#"{"jsonrpc":"2.0","id":1,"method":"resources/list"}"#)
                .claiming(|claims| claims.purpose = Purpose::Probe),
            403,
            "mcp_method_not_allowed",
        ),
    ];
    for (what, call, status, reason) in table {
        let got = stand.send(call).await;
        assert_eq!((got.status, got.reason().as_deref()), (status, Some(reason)), "{what}: {}", got.text());
    }
    assert!(stand.seen().is_empty());
}

#[tokio::test]
async fn a_probe_lists_tools_of_a_route_that_no_zone_names() {
    let stand = Stand::answering().await;
    let call = Call::on("secret", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    assert_eq!(stand.send(call.claiming(|claims| claims.purpose = Purpose::Probe)).await.status, 200);
    assert_eq!(stand.records(Kind::McpCall)[0].rule.as_deref(), Some("gateway/probe"));
}

#[tokio::test]
async fn every_refusal_is_on_record_and_misuse_is_an_alarm() {
    let stand = Stand::answering().await;
    stand.send(Call::tool("delete_page", &json!({}))).await;
    stand.send(good().token("")).await;
    let denied: Vec<_> = stand
        .records(Kind::McpCall)
        .into_iter()
        .filter_map(|record| (record.decision == Decision::Deny).then(|| record.reason.unwrap()))
        .collect();
    assert_eq!(denied, ["tool_not_allowed", "identity_missing"]);
    let alarms: Vec<_> = stand.records(Kind::Alarm).into_iter().filter_map(|record| record.reason).collect();
    assert_eq!(alarms, ["identity_missing"]);
}

#[tokio::test]
async fn without_a_log_nothing_is_sent() {
    let stand = Stand::answering().await;
    stand.audit.fail_with(Some(AuditError::Gone));
    let got = stand.send(good()).await;
    assert_eq!((got.status, got.reason().as_deref()), (200, Some("audit_unavailable")));
    let listed = stand.send(Call::on("wiki", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#)).await;
    assert_eq!((listed.status, listed.reason().as_deref()), (503, Some("audit_unavailable")));
    assert!(stand.seen().is_empty());
    assert!(stand.custody.grants.lock().unwrap().is_empty());
    stand.audit.fail_with(None);
    assert_eq!(stand.send(good()).await.reason(), None);
}

#[tokio::test]
async fn what_custody_refuses_is_refused_in_its_words() {
    let stand = Stand::answering().await;
    for reason in [Reason::CustodyDenied, Reason::CredentialUnopenable, Reason::SessionFrozen, Reason::GrantsRevoked] {
        *stand.custody.refuses.lock().unwrap() = Some(reason);
        assert_eq!(stand.send(good()).await.reason().as_deref(), Some(reason.code()));
    }
    assert!(stand.seen().is_empty());
    let outcomes = stand.records(Kind::McpOutcome);
    assert!(outcomes.iter().all(|record| record.caused_by.is_some() && record.decision == Decision::Deny));
    assert_eq!(outcomes.len(), 4);
}

#[tokio::test]
async fn a_placeholder_of_any_session_is_refused_and_alarmed_wherever_it_stands() {
    let stand = Stand::answering().await;
    let (own, other, dead) = (
        stand.custody.issue("sesn_a", true),
        stand.custody.issue("sesn_b", true),
        stand.custody.issue("sesn_a", false),
    );
    let table: Vec<(&str, Call, &str)> = vec![
        ("one's own in an argument", Call::tool("search", &json!({"q": own})), "placeholder_wrong_location"),
        (
            "another's, deep",
            Call::tool("search", &json!({"q": [{"x": format!("a {other} b")}]})),
            "placeholder_wrong_session",
        ),
        ("a dead one", Call::tool("search", &json!({"q": dead})), "placeholder_wrong_session"),
        ("as a key", Call::tool("search", &json!({other.clone(): 1})), "placeholder_wrong_session"),
        ("in a header", good().with("x-note", other.clone()), "placeholder_wrong_session"),
        ("an unknown one in a header", good().with("last-event-id", "pstn0123456789ABCDEF"), "placeholder_unresolved"),
    ];
    for (what, call, reason) in table {
        assert_eq!(stand.send(call).await.reason().as_deref(), Some(reason), "{what}");
    }
    use base64::Engine as _;
    // Encoded ones are known once the list was read.
    let encoded = base64::engine::general_purpose::STANDARD.encode(&other);
    let got = stand.send(Call::tool("search", &json!({"q": encoded}))).await;
    assert_eq!(got.reason().as_deref(), Some("placeholder_wrong_session"));
    assert!(stand.seen().is_empty());
    assert_eq!(stand.records(Kind::Alarm).len(), 7);
    let log = format!("{:?}", stand.audit.records());
    for kept in [own, other, dead] {
        assert!(!log.contains(&kept), "the log keeps a placeholder");
    }
}

#[tokio::test]
async fn the_real_secret_in_an_argument_is_refused_even_by_the_first_call() {
    let stand = Stand::answering().await;
    for _ in 0..2 {
        let got = stand.send(Call::tool("search", &json!({"q": super::stand::SECRET}))).await;
        assert_eq!(got.reason().as_deref(), Some("real_secret_seen"));
    }
    assert!(stand.seen().is_empty());
    assert_eq!(stand.records(Kind::Alarm).len(), 2);
    assert!(!format!("{:?}", stand.audit.records()).contains(super::stand::SECRET));
}

#[tokio::test]
async fn a_route_s_own_credential_is_not_replaced_and_a_bare_route_takes_none() {
    use postern_secret::seal;
    let key = seal::PerimeterPublicKey::from_bytes(&X25519_BASE_POINT).unwrap();
    let binding = seal::Binding {
        client_id: None,
        injection: None,
        refresh: None,
        secret_name: None,
        credential: "vcred_1".into(),
        hosts: vec![],
        kind: "static_bearer".into(),
        mcp_url: Some(format!("https://wiki.{DOMAIN}/mcp")),
        token_endpoint: None,
        vault: "vlt_1".into(),
        workspace: "wrkspc_default".into(),
    };
    let recipient = seal::Recipient { perimeter_id: "per_1".into(), public_key: key };
    let value = postern_secret::Secret::new(b"a-vault-secret-0123456789".to_vec());
    let sealed = seal::seal(&value, &binding, &[recipient]).unwrap();
    let text = seal::SealedCredential { binding, sealed }.encode();

    let stand = Stand::new(|_| ok()).await;
    for (route, reason) in [("wiki", None), ("vault", None), ("plain", Some("credential_not_for_route"))] {
        let call = Call::on(route, call_body("search", &json!({}))).with("postern-credential", &text);
        assert_eq!(stand.send(call).await.reason().as_deref(), reason, "{route}");
    }
    let grants = stand.custody.grants.lock().unwrap();
    let sealed: Vec<_> = grants.iter().map(|grant| (grant.route.as_str(), grant.sealed.is_some())).collect();
    assert_eq!(sealed, [("wiki", false), ("vault", true)]);
}

#[tokio::test]
async fn a_vault_route_without_a_credential_is_tried_without() {
    let stand = Stand::answering().await;
    assert_eq!(stand.send(Call::on("vault", call_body("x", &json!({})))).await.reason(), None);
    assert!(!stand.seen()[0].head.contains("authorization"));
}

#[tokio::test]
async fn another_route_s_host_is_refused() {
    let stand = Stand::answering().await;
    let mut call = Call::tool("search", &json!({}));
    call.host = format!("secret.{DOMAIN}");
    let got = stand.send(call).await;
    assert_eq!((got.status, got.reason().as_deref()), (403, Some("authority_mismatch")));
    assert!(stand.seen().is_empty());
}

/// A valid point: what it is the key of does not matter here.
const X25519_BASE_POINT: [u8; 32] = {
    let mut point = [0; 32];
    point[0] = 9;
    point
};

#[tokio::test]
async fn an_identity_that_was_used_does_not_count_again_after_a_restart_and_a_later_one_does() {
    let stand = Stand::answering().await;
    let call = Call::tool("search", &json!({}));
    let token = stand.signer.sign(&call.claims).unwrap();
    assert_eq!(stand.send(call.token(token.clone())).await.reason(), None);
    let stand = stand.restarted();
    let again = Call::tool("search", &json!({})).token(token);
    assert_eq!(stand.send(again).await.reason().as_deref(), Some("identity_expired"));
    let later = Call::tool("search", &json!({})).claiming(|claims| claims.iat += 2);
    assert_eq!(stand.send(later).await.reason(), None);
    assert_eq!(stand.seen().len(), 2);
}

#[tokio::test]
async fn a_caller_that_is_refused_without_end_does_not_fill_the_log_and_nothing_is_passed_over() {
    let stand = Stand::answering().await;
    let beyond = 30;
    let burst = limits::REFUSALS_RECORDED as usize;
    let began = std::time::Instant::now();
    for _ in 0..burst + beyond {
        assert_eq!(
            stand.send(Call::tool("delete_page", &json!({}))).await.reason().as_deref(),
            Some("tool_not_allowed")
        );
    }
    let alone = stand.records(Kind::McpCall).len();
    assert!((burst..=burst + began.elapsed().as_secs() as usize).contains(&alone), "{alone}");
    // Another session's, and another reason's, are not in its way.
    stand.send(Call::tool("delete_page", &json!({})).from("sesn_b")).await;
    stand.send(Call::tool("write_page", &json!({}))).await;
    assert_eq!(stand.records(Kind::McpCall).len(), alone + 2);
    record::counted(&stand.gateway).await;
    let told = stand.records(Kind::McpCall).pop().expect("a count");
    assert_eq!(told.counts["refusals"] as usize, burst + beyond - alone);
    assert_eq!((told.session.as_deref(), told.reason.as_deref()), (Some("sesn_a"), Some("tool_not_allowed")));
}
