//! Telling webhooks: what of a session they hear, and that a slow one holds up no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postern_model::Timestamp;
use postern_model::ids::WebhookId;
use postern_model::webhook::{Delivery, DeliveryError, DeliveryState, WebhookEvent};
use postern_store::list::ListQuery;
use postern_store::webhooks::{self, DeliveryFilter};
use postern_upstream::webhook::{Letter, Undelivered};
use serde_json::json;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::stage::Stage;
use crate::{Messenger, Posting, Surroundings};

const PATIENCE: Duration = Duration::from_secs(20);

type Answer = oneshot::Sender<Result<(), Undelivered>>;

/// Hands letters to the test, which answers them.
struct Letterbox {
    letters: mpsc::UnboundedSender<(Letter, Answer)>,
}

impl Messenger for Letterbox {
    fn post<'a>(&'a self, letter: &'a Letter, _: Timestamp) -> Posting<'a> {
        let (answer, answered) = oneshot::channel();
        self.letters.send((letter.clone(), answer)).unwrap();
        Box::pin(async { answered.await.expect("the test answers each letter that it lets be posted") })
    }
}

struct Post {
    stage: Stage,
    letters: Mutex<mpsc::UnboundedReceiver<(Letter, Answer)>>,
}

impl Post {
    async fn new() -> Self {
        let (letters, received) = mpsc::unbounded_channel();
        let messenger: Arc<dyn Messenger> = Arc::new(Letterbox { letters });
        let surroundings = Surroundings { messenger: Some(messenger), ..Surroundings::default() };
        Self { stage: Stage::new().await.among(surroundings).await, letters: Mutex::new(received) }
    }

    async fn webhook(&self, events: &[&str]) -> WebhookId {
        let body = serde_json::from_value(json!({"url": "https://a.b/", "enabled_events": events})).unwrap();
        let id = WebhookId::generate();
        let mut tx = self.stage.engine.shared.store.write().await.unwrap();
        webhooks::create(&mut tx, &self.stage.workspace, &id, body, Timestamp::now()).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    async fn letter(&self) -> (Letter, Answer) {
        timeout(PATIENCE, async { self.letters.lock().await.recv().await.unwrap() }).await.expect("a letter is posted")
    }

    async fn told(&self, webhook: &WebhookId) -> Vec<Delivery> {
        let mut reader = self.stage.engine.shared.store.read().await.unwrap();
        let query = ListQuery { limit: 100, ..ListQuery::default() };
        webhooks::deliveries(&mut reader, webhook, &query, DeliveryFilter::default()).await.unwrap()
    }

    /// Waits until the endpoint's deliveries are in this state, by their events.
    async fn until(&self, webhook: &WebhookId, state: DeliveryState) -> Vec<Delivery> {
        let settled = async {
            loop {
                let told = self.told(webhook).await;
                if told.iter().all(|one| one.state == state) {
                    return told;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, settled).await.expect("the deliveries settle")
    }
}

fn refused() -> Result<(), Undelivered> {
    let error =
        DeliveryError { kind: "status".into(), message: "The endpoint answered 503.".into(), status: Some(503) };
    Err(Undelivered { error, is_gone: false })
}

#[tokio::test]
async fn a_session_tells_its_turns_in_the_words_of_webhooks_and_nothing_of_what_was_said() {
    let post = Post::new().await;
    let webhook = post.webhook(&["*"]).await;
    let id = post.stage.session().await;
    let mut watch = post.stage.watch(&id, &[]).await;
    post.stage.say(&id, "a secret plan").await;
    post.stage.script.call().await.says("of course").await;
    watch.until("session.status_idle").await;
    let mut kinds = BTreeMap::new();
    for _ in 0..5 {
        let (letter, answer) = post.letter().await;
        answer.send(Ok(())).unwrap();
        assert!(!letter.payload.contains("secret plan") && !letter.payload.contains("of course"));
        let event: WebhookEvent = serde_json::from_str(&letter.payload).unwrap();
        assert_eq!((event.data.id, event.id.to_string()), (id.to_string(), letter.event));
        *kinds.entry(event.data.kind).or_insert(0) += 1;
    }
    let expected = ["created", "idled", "running", "status_idled", "status_run_started"];
    assert_eq!(kinds, expected.map(|word| (format!("session.{word}"), 1)).into());
    let told = post.until(&webhook, DeliveryState::Delivered).await;
    assert!(told.iter().all(|one| one.attempts == 1 && one.next_attempt_at.is_none()));
}

#[tokio::test]
async fn a_session_that_says_again_that_it_rests_is_no_news_to_webhooks() {
    let post = Post::new().await;
    let id = post.stage.session().await;
    let mut watch = post.stage.watch(&id, &[]).await;
    let webhook = post.webhook(&["*"]).await;
    post.stage.say(&id, "hi").await;
    post.stage.script.call().await.says("done").await;
    watch.until("session.status_idle").await;
    // As an endpoint might that keeps in mind when a session last rested: it would be told of that for ever.
    for title in ["at one", "at two"] {
        let change = serde_json::from_value(json!({"title": title})).unwrap();
        post.stage.engine.update_session(&post.stage.workspace, &id, change).await.unwrap();
        watch.until("session.status_idle").await;
    }
    post.stage.send(&id, json!([{"type": "user.interrupt"}])).await.unwrap();
    watch.until("session.status_idle").await;
    let mut kinds = BTreeMap::new();
    for delivery in post.told(&webhook).await {
        *kinds.entry(delivery.event.data.kind).or_insert(0) += 1;
    }
    let expected = [("idled", 1), ("running", 1), ("status_idled", 1), ("status_run_started", 1), ("updated", 2)];
    assert_eq!(kinds, expected.map(|(word, count)| (format!("session.{word}"), count)).into());
}

#[tokio::test]
async fn an_endpoint_that_never_answers_holds_up_no_other_and_a_refusal_is_tried_again() {
    let post = Post::new().await;
    let (slow, quick) = (post.webhook(&["session.created"]).await, post.webhook(&["session.created"]).await);
    for _ in 0..6 {
        post.stage.session().await;
    }
    let (mut held, mut quickly) = (Vec::new(), 0);
    while held.len() < 4 || quickly < 6 {
        let (letter, answer) = post.letter().await;
        if letter.webhook == slow.as_str() {
            held.push(answer);
        } else {
            quickly += 1;
            answer.send(Ok(())).unwrap();
        }
    }
    assert_eq!(post.until(&quick, DeliveryState::Delivered).await.len(), 6);
    assert_eq!(held.len(), 4, "no more than four are under way to one endpoint");
    held.remove(0).send(refused()).unwrap();
    let (letter, last) = post.letter().await;
    assert_eq!(letter.webhook, slow.as_str(), "the place is another letter's");
    let told = post.told(&slow).await;
    let again: Vec<_> = told.iter().filter(|one| one.last_error.is_some()).collect();
    assert_eq!((again.len(), again[0].state, again[0].attempts), (1, DeliveryState::Pending, 1));
    assert!(again[0].next_attempt_at.unwrap() > again[0].updated_at);
    drop(held.into_iter().map(|answer| answer.send(Ok(()))).collect::<Vec<_>>());
    drop(last.send(Ok(())));
}

#[tokio::test]
async fn a_letter_that_was_under_way_when_the_process_ended_is_still_to_be_delivered() {
    let mut post = Post::new().await;
    let webhook = post.webhook(&["session.created"]).await;
    post.stage.session().await;
    let (letter, answer) = post.letter().await;
    post.stage.restart().await;
    drop(answer.send(Ok(())));
    let told = post.told(&webhook).await;
    assert_eq!(
        (told.len(), told[0].event.id.as_str(), told[0].state),
        (1, letter.event.as_str(), DeliveryState::Pending)
    );
    let claim = told[0].next_attempt_at.unwrap().duration_since(told[0].updated_at);
    assert_eq!(claim.as_secs(), 60, "it is posted again when its claim ends");
}

#[tokio::test]
async fn no_more_than_thirty_two_letters_are_under_way_to_all_endpoints() {
    let post = Post::new().await;
    let mut webhooks = Vec::new();
    for _ in 0..9 {
        webhooks.push(post.webhook(&["session.created"]).await);
    }
    for _ in 0..4 {
        post.stage.session().await;
    }
    let mut held = Vec::new();
    while held.len() < 32 {
        held.push(post.letter().await.1);
    }
    // Time enough for those that are due as well.
    for webhook in &webhooks {
        assert!(post.told(webhook).await.iter().all(|one| one.state == DeliveryState::Pending));
    }
    assert!(post.letters.lock().await.try_recv().is_err(), "the rest waits");
    for answer in held {
        answer.send(Ok(())).unwrap();
    }
    for _ in 0..4 {
        post.letter().await.1.send(Ok(())).unwrap();
    }
}
