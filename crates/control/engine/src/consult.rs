//! Asking a model that is not in the conversation: one question, one answer, both bounded in time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postern_model::event::ModelUsage;
use postern_model::ids::{EventId, ThreadId};
use postern_session::{Backoff, Consultation, Counsel, Input, ModelEvent, Response, ResponseBlock, Stop};
use postern_upstream::Model;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, interval_at, timeout};
use tracing::warn;

use crate::actor::Actor;

/// How long a judge may think; then a person is asked.
const JUDGE_TIME: Duration = Duration::from_secs(60);
/// How much it may say.
const JUDGE_TOKENS: u32 = 4_096;
/// The same for a grader, all its tries together; then the outcome cannot be graded.
const GRADER_TIME: Duration = Duration::from_secs(600);
const GRADER_TOKENS: u32 = 16_000;
const GRADER_TRIES: u32 = 4;

/// The consultation of one thread that runs, if one does.
#[derive(Default)]
pub(crate) struct Consults {
    tasks: JoinSet<Input>,
    current: Option<EventId>,
    /// When watchers are next told that it still runs.
    heartbeat: Option<Interval>,
}

impl Consults {
    /// What became of it; waits for ever while nobody is asked.
    pub(crate) async fn next(&mut self) -> Input {
        loop {
            let ended = tokio::select! {
                Some(ended) = self.tasks.join_next() => ended,
                start = heartbeat(&mut self.heartbeat, self.current.as_ref()) => return Input::Consulting(start),
                else => std::future::pending().await,
            };
            match (ended, self.current.take()) {
                // Cancelled before it could be heard.
                (_, None) => {}
                (Ok(input), Some(_)) => return input,
                (Err(_), Some(start)) => {
                    warn!(%start, "the task of a consultation broke down");
                    return Input::Consulted { start, answer: Err("The consultation broke down.".into()) };
                }
            }
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    pub(crate) fn cancel(&mut self) {
        self.current = None;
        self.heartbeat = None;
        self.tasks = JoinSet::new();
    }
}

impl Actor {
    pub(crate) fn consult(&mut self, thread: &ThreadId, start: EventId, consultation: Consultation) {
        let settings = &self.shared.settings;
        let of_agent = || self.session.thread(thread).map(|thread| thread.agent().model.id.clone()).unwrap_or_default();
        let (model, time, max_tokens, tries) = match consultation.counsel {
            // The session asks no judge where none is configured.
            Counsel::Judge => (settings.judge.clone().unwrap_or_default(), JUDGE_TIME, JUDGE_TOKENS, 1),
            Counsel::Grader => {
                (settings.grader.clone().unwrap_or_else(of_agent), GRADER_TIME, GRADER_TOKENS, GRADER_TRIES)
            }
        };
        let backoff = settings.limits.backoff;
        let body = postern_upstream::question(&model, consultation.system, &consultation.text, max_tokens);
        let endpoint = Arc::clone(&self.shared.model);
        let every = settings.heartbeat;
        let consults = &mut self.under_way(thread).consults;
        consults.cancel();
        consults.current = Some(start.clone());
        consults.heartbeat = Some(interval_at(Instant::now() + every, every));
        consults.tasks.spawn(async move {
            postern_danger::point!("consult.before");
            let answer = timeout(time, ask(endpoint.as_ref(), body, tries, backoff)).await;
            postern_danger::point!("consult.after");
            let answer = answer.unwrap_or_else(|_| Err("There was no answer in time.".into()));
            if let Err(reason) = &answer {
                warn!(%start, reason, "a consultation failed");
            }
            Input::Consulted { start, answer }
        });
    }
}

/// Comes due again and again while somebody is asked.
async fn heartbeat(heartbeat: &mut Option<Interval>, current: Option<&EventId>) -> EventId {
    match (heartbeat, current) {
        (Some(heartbeat), Some(start)) => {
            heartbeat.tick().await;
            start.clone()
        }
        _ => std::future::pending().await,
    }
}

async fn ask(model: &dyn Model, body: Bytes, tries: u32, backoff: Backoff) -> Result<(String, ModelUsage), String> {
    let mut tried = 1;
    loop {
        match ask_once(model, body.clone()).await {
            Err(_) if tried < tries => tokio::time::sleep(backoff.delay(tried, None, 1.0)).await,
            answer => return answer,
        }
        tried += 1;
    }
}

async fn ask_once(model: &dyn Model, body: Bytes) -> Result<(String, ModelUsage), String> {
    let mut news = model.start(body);
    loop {
        match news.recv().await {
            Some(ModelEvent::Finished(Response { stop: Stop::Refusal(_), .. })) => return Err("It refused.".into()),
            Some(ModelEvent::Finished(response)) => return Ok((text_of(response.blocks), response.usage)),
            Some(ModelEvent::Failed(failure)) => return Err(failure.message),
            Some(ModelEvent::Counted(_) | ModelEvent::ThinkingStarted { .. } | ModelEvent::Text { .. }) => {}
            None => return Err("The request ended without an answer.".into()),
        }
    }
}

fn text_of(blocks: Vec<(usize, ResponseBlock)>) -> String {
    let text = |(_, block)| match block {
        ResponseBlock::Text(text) => Some(text),
        ResponseBlock::Thinking(_) | ResponseBlock::ToolUse { .. } | ResponseBlock::Other(_) => None,
    };
    blocks.into_iter().filter_map(text).collect()
}
