use serde_json::json;

use super::*;

fn create(url: &str, events: &[&str]) -> Result<CreateWebhook, Problem> {
    let events = events.iter().map(|word| (*word).to_owned()).collect();
    CreateWebhook { url: url.to_owned(), enabled_events: events, description: None }.checked()
}

#[test]
fn an_endpoint_is_an_https_url_without_a_user_or_a_fragment() {
    for url in ["https://hooks.example.com", "https://hooks.example.com:8443/in?from=postern", "https://[2001:db8::1]/"]
    {
        assert!(create(url, &["*"]).is_ok(), "{url}");
    }
    let long = format!("https://hooks.example.com/{}", "x".repeat(2048));
    for url in [
        "http://hooks.example.com",
        "https://",
        "https:///x",
        "https://me@host/",
        "https://host/#x",
        "https://host/a b",
        &long,
    ] {
        assert!(create(url, &["*"]).unwrap_err().message.starts_with("url: "), "{url}");
    }
}

#[test]
fn the_events_are_known_ones_each_once_or_every_one() {
    let made = create("https://a.b", &["vault.created", "agent.created", "vault.created"]).unwrap();
    assert_eq!(made.enabled_events, ["agent.created", "vault.created"]);
    assert_eq!(create("https://a.b", &["agent.created", "*"]).unwrap().enabled_events, ["*"]);
    for wrong in [&[][..], &["session.status_running"], &["agent.exploded"], &["agent.created", "x"]] {
        assert!(create("https://a.b", wrong).unwrap_err().message.starts_with("enabled_events: "), "{wrong:?}");
    }
}

#[test]
fn a_payload_has_ids_and_the_place_that_its_type_needs() {
    let now: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
    let id = WebhookEventId::parse("whe_1").unwrap();
    let subject = Subject::new(Happening::VaultCredentialCreated, "vcrd_1").in_vault("vlt_1");
    let told = serde_json::to_value(event(id, &WorkspaceId::default(), subject, now)).unwrap();
    let data = json!({"type": "vault_credential.created", "id": "vcrd_1", "organization_id": "org_default",
        "workspace_id": "wrkspc_default", "vault_id": "vlt_1"});
    assert_eq!(told, json!({"id": "whe_1", "type": "event", "created_at": "2026-11-01T00:00:00Z", "data": data}));
}

#[test]
fn a_change_keeps_what_it_does_not_name_and_enabling_forgets_why_it_was_disabled() {
    let webhook: Webhook = serde_json::from_value(json!({
        "id": "wh_1", "type": "webhook", "url": "https://a.b", "description": "d", "enabled_events": ["*"],
        "state": "disabled", "disabled_reason": "gone", "pending": 1, "dead": 0,
        "created_at": "2026-11-01T00:00:00Z", "updated_at": "2026-11-01T00:00:00Z"}))
    .unwrap();
    let change = |body| serde_json::from_value::<UpdateWebhook>(body).unwrap().applied_to(&webhook);
    assert_eq!(change(json!({})).unwrap(), webhook);
    let enabled = change(json!({"state": "enabled", "description": null})).unwrap();
    assert_eq!((enabled.state, enabled.disabled_reason, enabled.description), (WebhookState::Enabled, None, None));
    for field in ["url", "enabled_events", "state"] {
        assert!(change(json!({field: null})).unwrap_err().message.starts_with(field), "{field}");
    }
}
