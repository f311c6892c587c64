//! Turns with web tools: what is run, once, what the model gets, cancelling, crashes, and a server that has none.

use std::sync::{Arc, Mutex};

use postern_model::content::Block;
use postern_model::event::{Event, EventBody};
use postern_model::ids::EventId;
use postern_model::session::ServerToolUsage;
use postern_model::tool::web::WebTools;
use postern_session::{INTERRUPTED, Limits, OUTCOME_UNKNOWN, ResponseBlock, Stop, WebErrorCode, WebFailure, WebOrder};
use postern_upstream::web::{Running, Web};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::stage::{PATIENCE, Stage, calls, message, settings};
use crate::{Settings, Surroundings};

const SHOWN: &str = "https://a.example/x";

type Reply = oneshot::Sender<Result<String, WebFailure>>;

/// Hands each order to the test, which answers it.
struct Fake {
    orders: mpsc::UnboundedSender<(WebOrder, Reply)>,
    arrived: tokio::sync::Mutex<mpsc::UnboundedReceiver<(WebOrder, Reply)>>,
    ran: Mutex<Vec<WebOrder>>,
}

impl Fake {
    fn new() -> Arc<Self> {
        let (orders, arrived) = mpsc::unbounded_channel();
        Arc::new(Self { orders, arrived: tokio::sync::Mutex::new(arrived), ran: Mutex::default() })
    }

    async fn next(&self) -> (WebOrder, Reply) {
        timeout(PATIENCE, async { self.arrived.lock().await.recv().await.unwrap() }).await.expect("an order")
    }
}

/// The browser as the engine holds it.
struct Handle(Arc<Fake>);

impl Web for Handle {
    fn run(&self, order: WebOrder) -> Running<'_> {
        let (reply, answer) = oneshot::channel();
        self.0.ran.lock().unwrap().push(order.clone());
        self.0.orders.send((order, reply)).unwrap();
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(failure())) })
    }
}

fn failure() -> WebFailure {
    WebFailure::new(WebErrorCode::UrlNotAccessible, "The site answered 404.")
}

fn served(web: WebTools) -> Settings {
    Settings { limits: Limits { web, ..settings().limits }, ..settings() }
}

async fn stage(fake: &Arc<Fake>) -> Stage {
    let web: Option<Arc<dyn Web>> = Some(Arc::new(Handle(Arc::clone(fake))));
    let stage = Stage::new().await.among(Surroundings { web, ..Surroundings::default() }).await;
    stage.with(served(WebTools::Both)).await
}

fn fetch(url: &str) -> ResponseBlock {
    let Value::Object(input) = json!({"url": url}) else { panic!("an object") };
    ResponseBlock::ToolUse { name: "web_fetch".into(), input: Ok(input) }
}

fn search() -> ResponseBlock {
    let Value::Object(input) = json!({"query": "q"}) else { panic!("an object") };
    ResponseBlock::ToolUse { name: "web_search".into(), input: Ok(input) }
}

/// What this call was answered with, as text.
fn answer(log: &[Event], call: &EventId) -> Option<(String, bool)> {
    log.iter().find_map(|event| match &event.body {
        EventBody::AgentToolResult { tool_use_id, content: Some(content), is_error } if tool_use_id == call => {
            let [Block::Text { text }] = &content[..] else { panic!("one text: {content:?}") };
            Some((text.clone(), *is_error == Some(true)))
        }
        _ => None,
    })
}

#[tokio::test]
async fn the_model_is_offered_the_tools_and_given_what_they_bring() {
    let fake = Fake::new();
    let stage = stage(&fake).await;
    let id = stage.session().await;
    stage.say(&id, &format!("read {SHOWN}")).await;
    let call = stage.script.call().await;
    let names: Vec<_> = call.body["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert!(names.contains(&json!("web_fetch")) && names.contains(&json!("web_search")), "{names:?}");
    call.answers(vec![fetch(SHOWN), search(), fetch("https://a.example/composed")], Stop::ToolUse).await;
    for _ in 0..2 {
        let (order, reply) = fake.next().await;
        reply
            .send(match order {
                WebOrder::Fetch { .. } => Ok("x".repeat(100_001)),
                WebOrder::Search { .. } => Err(failure()),
            })
            .unwrap();
    }
    let call = stage.script.call().await;
    let log = stage.log(&id).await;
    let answers: Vec<_> = calls(&log).iter().map(|use_| answer(&log, &use_.id).unwrap()).collect();
    assert!(answers[0].0.contains("characters left out") && !answers[0].1, "a long page is shown by its ends");
    assert_eq!(answers[1], ("url_not_accessible: The site answered 404.".into(), true));
    assert!(answers[2].0.starts_with("url_not_in_prior_context") && answers[2].1);
    call.answers(vec![search()], Stop::ToolUse).await;
    fake.next().await.1.send(Ok("results".into())).unwrap();
    stage.script.call().await.says("done").await;
    let mut watch = stage.watch(&id, &[]).await;
    if stage.engine.session(&stage.workspace, &id).await.unwrap().usage.server_tool_use.is_none() {
        watch.until("session.status_idle").await;
    }
    let usage = stage.engine.session(&stage.workspace, &id).await.unwrap().usage.server_tool_use;
    assert_eq!(usage, Some(ServerToolUsage { web_fetch_requests: 0, web_search_requests: 1 }));
}

#[tokio::test]
async fn an_interrupt_drops_what_runs() {
    let fake = Fake::new();
    let stage = stage(&fake).await;
    let id = stage.session().await;
    stage.say(&id, SHOWN).await;
    stage.script.call().await.answers(vec![fetch(SHOWN), search()], Stop::ToolUse).await;
    let (first, second) = (fake.next().await, fake.next().await);
    stage.send(&id, json!([{"type": "user.interrupt"}])).await.unwrap();
    for (_, mut reply) in [first, second] {
        timeout(PATIENCE, reply.closed()).await.expect("nobody waits for it any more");
    }
    let log = stage.log(&id).await;
    for call in calls(&log) {
        assert!(answer(&log, &call.id).unwrap().0.starts_with(INTERRUPTED));
    }
}

#[tokio::test]
async fn after_a_crash_at_any_commit_each_order_went_out_once_at_most_and_is_answered_once() {
    let (mut crashes, mut unknown) = (0, 0);
    for fuse in 1..=5 {
        let fake = Fake::new();
        let mut stage = stage(&fake).await;
        let id = stage.session().await;
        *stage.engine.shared.fuse.lock().unwrap() = Some(fuse);
        drop(stage.send(&id, message(SHOWN)).await);
        drive(&stage, &fake).await;
        if stage.engine.shared.drain.is_cancelled() {
            crashes += 1;
            stage.restart_with(served(WebTools::Both)).await;
            if stage.log(&id).await.is_empty() {
                stage.send(&id, message(SHOWN)).await.unwrap();
            } else {
                // Whoever looks at a session that was at work wakes it.
                drop(stage.watch(&id, &[]).await);
            }
            drive(&stage, &fake).await;
        }
        let log = stage.log(&id).await;
        let uses = calls(&log);
        for use_ in &uses {
            let answers = log.iter().filter(|event| matches!(&event.body, EventBody::AgentToolResult { tool_use_id, .. } if *tool_use_id == use_.id));
            assert_eq!(answers.count(), 1, "fuse {fuse}");
            unknown += usize::from(answer(&log, &use_.id).unwrap().0 == OUTCOME_UNKNOWN);
        }
        assert!(fake.ran.lock().unwrap().len() <= uses.len(), "fuse {fuse}: nothing goes out twice");
    }
    assert!(crashes >= 3, "the journey has several commits: {crashes}");
    assert!(unknown > 0, "a crash came between the mark of a call and its result");
}

/// Plays model and web until the turn is over or the engine is dead.
async fn drive(stage: &Stage, fake: &Fake) {
    let mut asked = 0;
    loop {
        tokio::select! {
            biased;
            () = stage.engine.shared.drain.cancelled() => return,
            (_, reply) = fake.next() => drop(reply.send(Ok("a page".into()))),
            call = stage.script.call() => {
                let is_over = call.body["messages"].as_array().unwrap().len() > 1;
                asked += 1;
                assert!(asked < 10, "the turn ends");
                match is_over {
                    false => call.answers(vec![fetch(SHOWN)], Stop::ToolUse).await,
                    true => {
                        call.says("done").await;
                        return;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_session_whose_agent_names_a_tool_that_the_server_has_not_is_not_made() {
    let mut stage = Stage::new().await.with(served(WebTools::Fetch)).await;
    let named = |name: &str, enabled: bool| {
        json!({"model": "m", "name": "a", "tools": [{"type": "agent_toolset_20260401",
            "configs": [{"name": name, "enabled": enabled}]}]})
    };
    stage.use_agent(named("web_search", true)).await;
    let problem = stage.create(json!({})).await.unwrap_err();
    assert_eq!(problem.error_code, Some("web_tool_unavailable"), "{}", problem.message);
    assert!(problem.message.contains("[web.search]"), "{}", problem.message);
    for definition in [named("web_search", false), named("web_fetch", true)] {
        stage.use_agent(definition).await;
        stage.create(json!({})).await.unwrap();
    }
}
