use std::collections::{BTreeSet, HashMap};

use jiff::SignedDuration;
use postern_model::Timestamp;
use postern_model::ids::{WebhookEventId, WebhookId, WorkspaceId};
use postern_model::webhook::{
    Delivery, DeliveryError, DeliveryState, DisabledReason, Happening, Subject, WebhookState,
};
use serde_json::json;

use super::*;
use crate::Store;

struct Place {
    store: Store,
    workspace: WorkspaceId,
    now: Timestamp,
    _directory: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("db")).await.unwrap();
        let now = "2026-11-01T00:00:00Z".parse().unwrap();
        Self { store, workspace: WorkspaceId::default(), now, _directory: directory }
    }

    async fn webhook(&self, events: &[&str]) -> WebhookId {
        let body = serde_json::from_value(json!({"url": "https://a.b/", "enabled_events": events})).unwrap();
        let id = WebhookId::generate();
        let mut tx = self.store.write().await.unwrap();
        create(&mut tx, &self.workspace, &id, body, self.now).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    async fn change(&self, id: &WebhookId, body: serde_json::Value) -> Webhook {
        let mut tx = self.store.write().await.unwrap();
        let body = serde_json::from_value(body).unwrap();
        let changed = update(&mut tx, &self.workspace, id, body, self.now).await.unwrap();
        tx.commit().await.unwrap();
        changed
    }

    async fn announce(&self, happening: Happening) {
        let mut tx = self.store.write().await.unwrap();
        announce(&mut tx, &self.workspace, Subject::new(happening, "x_1"), self.now).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn claim(&self, under_way: &[(&WebhookId, u32)], at_once: u32, most: u32) -> Vec<Due> {
        let under_way = under_way.iter().map(|(id, count)| ((*id).clone(), *count)).collect();
        let mut reader = self.store.read().await.unwrap();
        let waiting = waiting(&mut reader, self.now, &under_way, at_once, most).await.unwrap();
        drop(reader);
        let mut tx = self.store.write().await.unwrap();
        let until = self.now + SignedDuration::from_mins(1);
        let due = claim(&mut tx, &waiting, self.now, until).await.unwrap();
        tx.commit().await.unwrap();
        due
    }

    async fn settle(&self, due: &Due, outcome: Outcome) {
        let mut tx = self.store.write().await.unwrap();
        settle(&mut tx, due, outcome, self.now).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn told(&self, webhook: &WebhookId) -> Vec<Delivery> {
        let mut reader = self.store.read().await.unwrap();
        let query = ListQuery { limit: 100, ..ListQuery::default() };
        deliveries(&mut reader, webhook, &query, DeliveryFilter::default()).await.unwrap()
    }

    async fn find(&self, webhook: &WebhookId) -> Webhook {
        required(&mut self.store.read().await.unwrap(), &self.workspace, webhook).await.unwrap()
    }
}

fn error() -> DeliveryError {
    DeliveryError { kind: "status".into(), message: "The endpoint answered 503.".into(), status: Some(503) }
}

#[tokio::test]
async fn an_event_is_noted_for_those_who_want_it_and_with_what_happened_or_not_at_all() {
    let place = Place::new().await;
    let agents = place.webhook(&["agent.created", "agent.updated"]).await;
    let every = place.webhook(&["*"]).await;
    let off = place.webhook(&["*"]).await;
    place.change(&off, json!({"state": "disabled"})).await;
    place.announce(Happening::AgentCreated).await;
    place.announce(Happening::VaultCreated).await;
    let mut tx = place.store.write().await.unwrap();
    announce(&mut tx, &place.workspace, Subject::new(Happening::AgentUpdated, "x_1"), place.now).await.unwrap();
    drop(tx);
    let mut tx = place.store.write().await.unwrap();
    let body = serde_json::from_value(serde_json::json!({"name": "other"})).unwrap();
    let elsewhere = crate::workspaces::create(&mut tx, body, place.now).await.unwrap().id;
    announce(&mut tx, &elsewhere, Subject::new(Happening::AgentCreated, "x_1"), place.now).await.unwrap();
    tx.commit().await.unwrap();
    let kinds = |told: Vec<Delivery>| told.into_iter().map(|one| one.event.data.kind).collect::<BTreeSet<_>>();
    assert_eq!(kinds(place.told(&agents).await), BTreeSet::from(["agent.created".into()]));
    assert_eq!(kinds(place.told(&every).await), BTreeSet::from(["agent.created".into(), "vault.created".into()]));
    assert!(place.told(&off).await.is_empty());
    assert_eq!(place.find(&every).await.pending, 2);
}

#[tokio::test]
async fn what_is_due_is_claimed_once_fairly_and_again_when_the_claim_ends() {
    let mut place = Place::new().await;
    let (one, two) = (place.webhook(&["*"]).await, place.webhook(&["*"]).await);
    for _ in 0..5 {
        place.announce(Happening::AgentCreated).await;
    }
    let first = place.claim(&[], 2, 10).await;
    assert_eq!(first.len(), 4, "two of each");
    assert!(first.iter().all(|due| (due.attempt, due.generation, due.former) == (1, 1, false)));
    let others = place.claim(&[(&one, 2), (&two, 1)], 2, 10).await;
    assert!(others.len() == 1 && others[0].webhook == two, "none of a busy one, and as many as there is room for");
    let seen: BTreeSet<_> = first.iter().chain(&others).map(|due| (due.webhook.clone(), due.event.clone())).collect();
    assert_eq!(seen.len(), 5, "none is claimed twice");
    assert_eq!(place.claim(&[], 100, 3).await.len(), 3);
    assert_eq!(place.claim(&[], 100, 100).await.len(), 2);
    place.now += SignedDuration::from_mins(1);
    let again = place.claim(&[], 100, 100).await;
    assert!(again.len() == 10 && again.iter().all(|due| due.attempt == 2), "nobody came back with an outcome");
}

#[tokio::test]
async fn an_attempt_ends_a_delivery_or_sets_its_next_time_and_gone_stops_the_endpoint() {
    let place = Place::new().await;
    let id = place.webhook(&["*"]).await;
    for _ in 0..3 {
        place.announce(Happening::AgentCreated).await;
    }
    let due = place.claim(&[], 10, 10).await;
    let later = place.now + SignedDuration::from_secs(5);
    place.settle(&due[0], Outcome::Delivered).await;
    place.settle(&due[1], Outcome::Again(error(), later)).await;
    place.settle(&due[2], Outcome::Dead(error())).await;
    let mut reader = place.store.read().await.unwrap();
    assert_eq!(next_due(&mut reader, &HashMap::new(), 4).await.unwrap(), Some(later));
    let mut found = Vec::new();
    for due in &due {
        let delivery = find_delivery(&mut reader, &id, &due.event).await.unwrap();
        found.push((delivery.state, delivery.next_attempt_at, delivery.last_error));
    }
    drop(reader);
    let expected = [
        (DeliveryState::Delivered, None, None),
        (DeliveryState::Pending, Some(later), Some(error())),
        (DeliveryState::Dead, None, Some(error())),
    ];
    assert_eq!(found, expected);
    let webhook = place.find(&id).await;
    assert_eq!((webhook.pending, webhook.dead), (1, 1));

    place.announce(Happening::AgentCreated).await;
    let gone = place.claim(&[], 10, 10).await.remove(0);
    place.settle(&gone, Outcome::Gone(error())).await;
    let webhook = place.find(&id).await;
    assert_eq!((webhook.state, webhook.disabled_reason), (WebhookState::Disabled, Some(DisabledReason::Gone)));
    assert!(place.claim(&[], 10, 10).await.is_empty(), "what is pending waits");
    place.change(&id, json!({"state": "enabled"})).await;
    assert_eq!(place.claim(&[], 10, 10).await.len(), 1, "and goes on");
}

#[tokio::test]
async fn what_was_given_up_is_replayed_alone_or_whole_and_an_old_outcome_changes_nothing() {
    let place = Place::new().await;
    let id = place.webhook(&["*"]).await;
    for _ in 0..3 {
        place.announce(Happening::AgentCreated).await;
    }
    let due = place.claim(&[], 10, 10).await;
    for due in &due {
        place.settle(due, Outcome::Dead(error())).await;
    }
    let mut tx = place.store.write().await.unwrap();
    let replayed = replay(&mut tx, &id, &due[0].event, place.now).await.unwrap();
    assert_eq!((replayed.state, replayed.attempts), (DeliveryState::Pending, 0));
    let unknown = replay(&mut tx, &id, &WebhookEventId::generate(), place.now).await.unwrap_err();
    assert!(matches!(unknown, StoreError::Refused(problem) if problem.status() == 404));
    assert_eq!(replay_dead(&mut tx, &id, place.now).await.unwrap(), 2);
    tx.commit().await.unwrap();
    place.settle(&due[0], Outcome::Delivered).await;
    assert!(place.told(&id).await.iter().all(|one| one.state == DeliveryState::Pending), "that was another attempt");
    assert_eq!(place.claim(&[], 10, 10).await.len(), 3);
}

#[tokio::test]
async fn a_rotated_secret_signs_alone_after_a_day_and_an_endpoint_takes_its_deliveries_along() {
    let mut place = Place::new().await;
    let id = place.webhook(&["*"]).await;
    let mut tx = place.store.write().await.unwrap();
    assert_eq!(rotate_secret(&mut tx, &place.workspace, &id, place.now).await.unwrap(), 2);
    tx.commit().await.unwrap();
    place.announce(Happening::AgentCreated).await;
    let due = place.claim(&[], 10, 10).await.remove(0);
    assert_eq!((due.generation, due.former), (2, true));
    place.now += FORMER_SECRET;
    let due = place.claim(&[], 10, 10).await.remove(0);
    assert_eq!((due.generation, due.former), (2, false));
    let mut tx = place.store.write().await.unwrap();
    delete(&mut tx, &place.workspace, &id).await.unwrap();
    tx.commit().await.unwrap();
    assert!(place.told(&id).await.is_empty());
    place.settle(&due, Outcome::Delivered).await;
}

#[tokio::test]
async fn settled_deliveries_are_kept_a_week_or_a_month_and_pending_ones_for_good() {
    let mut place = Place::new().await;
    let id = place.webhook(&["*"]).await;
    for _ in 0..3 {
        place.announce(Happening::AgentCreated).await;
    }
    let due = place.claim(&[], 2, 10).await;
    place.settle(&due[0], Outcome::Delivered).await;
    place.settle(&due[1], Outcome::Dead(error())).await;
    for (days, left) in [(6, 3), (8, 2), (29, 2), (31, 1), (400, 1)] {
        let mut tx = place.store.write().await.unwrap();
        sweep(&mut tx, place.now + SignedDuration::from_hours(24 * days)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(place.told(&id).await.len(), left, "after {days} days");
    }
    place.now += SignedDuration::from_hours(1);
}

#[tokio::test]
async fn a_workspace_has_so_many_endpoints_and_no_more() {
    let place = Place::new().await;
    for _ in 0..MOST_WEBHOOKS {
        place.webhook(&["*"]).await;
    }
    let body = serde_json::from_value(json!({"url": "https://a.b/", "enabled_events": ["*"]})).unwrap();
    let mut tx = place.store.write().await.unwrap();
    let refused = create(&mut tx, &place.workspace, &WebhookId::generate(), body, place.now).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Refused(problem) if format!("{problem:?}").contains("webhook_limit_reached"))
    );
    drop(tx);
    let mut reader = place.store.read().await.unwrap();
    let query = ListQuery { limit: 20, ..ListQuery::default() };
    assert_eq!(list(&mut reader, &place.workspace, &query).await.unwrap().len(), 21, "one more than the page");
}

#[tokio::test]
async fn what_is_due_to_a_busy_endpoint_waits_and_what_is_no_longer_due_is_not_claimed() {
    let place = Place::new().await;
    let (busy, other) = (place.webhook(&["*"]).await, place.webhook(&["*"]).await);
    place.announce(Happening::AgentCreated).await;
    place.change(&other, json!({"state": "disabled"})).await;
    let mut reader = place.store.read().await.unwrap();
    let next = async |reader: &mut Connection, count| {
        next_due(reader, &HashMap::from([(busy.clone(), count)]), 4).await.unwrap()
    };
    assert_eq!(next(&mut reader, 3).await, Some(place.now));
    assert_eq!(next(&mut reader, 4).await, None, "nobody need look before one of its letters is settled");
    let seen = waiting(&mut reader, place.now, &HashMap::new(), 4, 10).await.unwrap();
    assert_eq!(seen.len(), 1);
    drop(reader);
    let claimed = async |now| {
        let mut tx = place.store.write().await.unwrap();
        let claimed = claim(&mut tx, &seen, now, now + SignedDuration::from_mins(1)).await.unwrap();
        tx.commit().await.unwrap();
        claimed.len()
    };
    assert_eq!(claimed(place.now).await, 1);
    assert_eq!(claimed(place.now).await, 0, "another server had it already");
    place.change(&busy, json!({"state": "disabled"})).await;
    assert_eq!(claimed(place.now + SignedDuration::from_mins(2)).await, 0, "it was disabled meanwhile");
}

#[tokio::test]
async fn a_backlog_is_not_looked_through_for_what_is_due() {
    let place = Place::new().await;
    let mut reader = place.store.read().await.unwrap();
    let plan = deliveries::plans::of_looking(&mut reader, place.now).await;
    for step in plan.iter().filter(|step| !step.ends_with(" w")) {
        assert!(!step.starts_with("SCAN"), "{plan:#?}");
    }
    let in_order = plan.iter().filter(|step| step.contains("webhook_deliveries_in_order (webhook_id=? AND state=?"));
    assert_eq!(in_order.count(), 2, "{plan:#?}");
    // The few that were found are put in order, and nothing else is.
    assert_eq!(plan.iter().filter(|step| step.contains("B-TREE FOR ORDER BY")).count(), 1, "{plan:#?}");
}
