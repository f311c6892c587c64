//! Deployments run by themselves: once for each time, never for one that is long past, and not at all when paused.

use std::sync::Arc;

use jiff::SignedDuration;
use postern_model::Timestamp;
use postern_model::deployment::{
    CreateDeployment, Deployment, DeploymentRun, DeploymentRunTag, DeploymentStatus, PausedReason, RunError,
    RunErrorType, Trigger,
};
use postern_model::ids::{AgentId, DeploymentRunId};
use postern_model::webhook::Happening;
use postern_store::deployments::{self, Next, Record, runs};
use postern_store::list::ListQuery;
use postern_store::{Store, agents, environments};
use postern_upstream::Model;
use serde_json::{Value, json};

use super::stage::{PATIENCE, Stage, settings};
use crate::deployments::{fire, note_failed};
use crate::{Engine, Turn};

async fn deploy(stage: &Stage, more: Value) -> Deployment {
    let mut body = json!({"agent": stage.agent, "environment_id": stage.environment, "name": "nightly",
        "initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "go"}]}],
        "schedule": {"type": "cron", "expression": "0 3 * * *", "timezone": "Europe/Berlin"}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body: CreateDeployment = serde_json::from_value(body).unwrap();
    stage.engine.create_deployment(&stage.workspace, body, None).await.unwrap()
}

async fn stored(store: &Store, stage: &Stage, deployment: &Deployment) -> Record {
    let mut reader = store.read().await.unwrap();
    deployments::required(&mut reader, &stage.workspace, &deployment.id).await.unwrap()
}

/// Lets its next time have come so long ago, and wakes the clock.
async fn let_come_due(stage: &Stage, deployment: &Deployment, ago: SignedDuration) -> Timestamp {
    let store = &stage.engine.shared.store;
    let record = stored(store, stage, deployment).await;
    let at = Timestamp::now().checked_sub(ago).unwrap();
    let at = Timestamp::from_microsecond(at.as_microsecond()).unwrap();
    let mut tx = store.write().await.unwrap();
    let next = Some(Next { scheduled_at: at, fires_at: at });
    deployments::save(&mut tx, &Record { next, ..record }, Happening::DeploymentUpdated).await.unwrap();
    tx.commit().await.unwrap();
    stage.engine.shared.deployments_changed.notify_one();
    at
}

async fn runs_of(stage: &Stage) -> Vec<DeploymentRun> {
    let mut reader = stage.engine.shared.store.read().await.unwrap();
    let query = ListQuery { limit: 100, ..ListQuery::default() };
    runs::list(&mut reader, &stage.workspace, &query, &runs::RunFilter::default()).await.unwrap()
}

/// Waits until the clock has set another next time than this, or none.
async fn acted(stage: &Stage, deployment: &Deployment, than: Timestamp) -> Record {
    let wait = async {
        loop {
            let record = stored(&stage.engine.shared.store, stage, deployment).await;
            if record.next.is_none_or(|next| next.scheduled_at != than) {
                return record;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the clock acts on what is due")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_comes_due_begins_one_session_whoever_keeps_time() {
    let stage = Stage::new().await;
    // A second server on the same database.
    let other =
        Engine::start(stage.engine.shared.store.clone(), Arc::clone(&stage.script) as Arc<dyn Model>, settings());
    let other = other.await.unwrap();
    let deployment = deploy(&stage, json!({})).await;
    let at = let_come_due(&stage, &deployment, SignedDuration::from_secs(1)).await;
    other.shared.deployments_changed.notify_one();
    stage.script.call().await.says("done").await;
    let record = acted(&stage, &deployment, at).await;
    let [run] = &runs_of(&stage).await[..] else { panic!("one run") };
    assert_eq!(run.trigger_context, Trigger::Schedule { scheduled_at: at });
    let session = stage.engine.session(&stage.workspace, run.session_id.as_ref().unwrap()).await.unwrap();
    assert_eq!(session.deployment_id, Some(deployment.id));
    assert!(record.next.unwrap().scheduled_at > Timestamp::now());
    assert_eq!(record.deployment.schedule.unwrap().last_run_at, Some(run.created_at));
    assert!(!stage.script.is_called().await, "no second session runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_begins_from_the_deployment_as_it_is_then_and_not_as_it_was_read() {
    let stage = Stage::new().await;
    let deployment = deploy(&stage, json!({})).await;
    let read = stored(&stage.engine.shared.store, &stage, &deployment).await;
    let changed = json!({"initial_events": [{"type": "user.message", "content": [{"type": "text", "text": "stay"}]}]});
    let changed = serde_json::from_value(changed).unwrap();
    stage.engine.update_deployment(&stage.workspace, &deployment.id, changed).await.unwrap();
    fire(&stage.engine.shared, &read).await.unwrap();
    let call = stage.script.call().await;
    assert!(call.body["messages"].to_string().contains("stay"), "{}", call.body["messages"]);
    let read = stored(&stage.engine.shared.store, &stage, &deployment).await;
    stage.engine.turn_deployment(&stage.workspace, &deployment.id, Turn::Archive).await.unwrap();
    fire(&stage.engine.shared, &read).await.unwrap();
    assert_eq!(runs_of(&stage).await.len(), 1, "what was archived meanwhile does not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_passed_while_no_server_ran_is_not_made_up_for() {
    let stage = Stage::new().await;
    let deployment = deploy(&stage, json!({})).await;
    let at = let_come_due(&stage, &deployment, SignedDuration::from_mins(11)).await;
    let record = acted(&stage, &deployment, at).await;
    assert!(record.next.unwrap().scheduled_at > Timestamp::now());
    assert!(runs_of(&stage).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_deployment_has_no_next_time_and_runs_by_hand() {
    let stage = Stage::new().await;
    let deployment = deploy(&stage, json!({})).await;
    let paused = stage.engine.turn_deployment(&stage.workspace, &deployment.id, Turn::Pause).await.unwrap();
    assert_eq!((paused.status, paused.paused_reason), (DeploymentStatus::Paused, Some(PausedReason::Manual)));
    assert_eq!(stored(&stage.engine.shared.store, &stage, &deployment).await.next, None);
    let run = stage.engine.run_deployment(&stage.workspace, &deployment.id, None).await.unwrap();
    assert_eq!((run.trigger_context, run.error), (Trigger::Manual, None));
    stage.script.call().await.says("done").await;
    let going = stage.engine.turn_deployment(&stage.workspace, &deployment.id, Turn::Unpause).await.unwrap();
    assert_eq!((going.status, going.paused_reason), (DeploymentStatus::Active, None));
    assert!(stored(&stage.engine.shared.store, &stage, &deployment).await.next.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_no_later_one_could_better_pauses_the_deployment() {
    let stage = Stage::new().await;
    let deployment = deploy(&stage, json!({})).await;
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    let environment = stage.environment.parse().unwrap();
    environments::archive(&mut tx, &stage.workspace, &environment, Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
    let at = let_come_due(&stage, &deployment, SignedDuration::from_secs(1)).await;
    let record = acted(&stage, &deployment, at).await;
    let [run] = &runs_of(&stage).await[..] else { panic!("one run") };
    assert_eq!(run.session_id, None);
    assert_eq!(run.error.as_ref().unwrap().kind, RunErrorType::EnvironmentArchived);
    assert_eq!((record.next, record.deployment.status), (None, DeploymentStatus::Paused));
    assert!(matches!(record.deployment.paused_reason, Some(PausedReason::Error { error })
        if error.kind == RunErrorType::EnvironmentArchived));
    assert!(!stage.script.is_called().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_was_corrected_while_a_run_failed_goes_on() {
    for is_corrected in [true, false] {
        let stage = Stage::new().await;
        let deployment = deploy(&stage, json!({})).await;
        let read = stored(&stage.engine.shared.store, &stage, &deployment).await;
        if is_corrected {
            let changed = serde_json::from_value(json!({"description": "with another environment"})).unwrap();
            stage.engine.update_deployment(&stage.workspace, &deployment.id, changed).await.unwrap();
        }
        let run = DeploymentRun {
            id: DeploymentRunId::generate(),
            kind: DeploymentRunTag::DeploymentRun,
            deployment_id: deployment.id.clone(),
            agent: deployment.agent.clone(),
            trigger_context: Trigger::Schedule { scheduled_at: read.next.unwrap().scheduled_at },
            session_id: None,
            error: Some(RunError { kind: RunErrorType::EnvironmentArchived, message: "It is archived.".into() }),
            created_at: Timestamp::now(),
        };
        let noted = note_failed(&stage.engine.shared, &read, &run).await.unwrap().unwrap();
        noted.commit().await.unwrap();
        let record = stored(&stage.engine.shared.store, &stage, &deployment).await;
        let status = if is_corrected { DeploymentStatus::Active } else { DeploymentStatus::Paused };
        assert_eq!((record.deployment.status, record.next.is_some()), (status, is_corrected));
        assert_eq!(runs_of(&stage).await.len(), 1, "what failed is on record");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployments_of_an_archived_agent_are_archived_with_it() {
    let stage = Stage::new().await;
    let deployment = deploy(&stage, json!({})).await;
    let agent = AgentId::parse(&stage.agent).unwrap();
    let mut tx = stage.engine.shared.store.write().await.unwrap();
    agents::archive(&mut tx, &stage.workspace, &agent, Timestamp::now()).await.unwrap();
    tx.commit().await.unwrap();
    let record = stored(&stage.engine.shared.store, &stage, &deployment).await;
    assert!(record.deployment.archived_at.is_some() && record.next.is_none());
    let refused = stage.engine.run_deployment(&stage.workspace, &deployment.id, None).await.unwrap_err();
    assert!(refused.message.contains("archived"), "{refused}");
}
