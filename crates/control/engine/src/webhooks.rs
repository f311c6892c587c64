//! Tells webhooks what was noted for them: durably, each at its own pace, again and again for a day, never without trace.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use jiff::SignedDuration;
use postern_model::Timestamp;
use postern_model::ids::WebhookId;
use postern_store::webhooks::{self, Due, Outcome};
use postern_store::{StoreError, Tx};
use postern_upstream::webhook::{Letter, Postman, Undelivered};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::create::now;
use crate::perform::jitter;
use crate::shared::Shared;

/// How many letters are under way at once, to one endpoint and to all.
const AT_ONCE: u32 = 4;
const MOST: u32 = 32;
/// How long a letter is this process's: longer than posting it takes. Whoever dies leaves it to the next.
const CLAIM: SignedDuration = SignedDuration::from_secs(60);
/// It is looked at least this often: a clock may have jumped.
const LONGEST_NAP: SignedDuration = SignedDuration::from_mins(1);
/// The seconds between two attempts; after the last it is given up. Just under a day in all.
const WAITS: [i64; 12] = [5, 30, 120, 600, 1800, 3600, 7200, 10_800, 14_400, 14_400, 14_400, 14_400];

/// Who posts; tests bring their own.
pub trait Messenger: Send + Sync {
    /// Posts a letter once.
    fn post<'a>(&'a self, letter: &'a Letter, now: Timestamp) -> Posting<'a>;
}

/// A letter under way.
pub type Posting<'a> = Pin<Box<dyn Future<Output = Result<(), Undelivered>> + Send + 'a>>;

impl Messenger for Postman {
    fn post<'a>(&'a self, letter: &'a Letter, now: Timestamp) -> Posting<'a> {
        Box::pin(Postman::post(self, letter, now))
    }
}

type Letters = JoinSet<(Due, Result<(), Undelivered>)>;

/// Runs until the engine drains. Letters under way are dropped then: their claims end, and the next start posts them again.
pub(crate) async fn keep_telling(shared: Arc<Shared>, messenger: Arc<dyn Messenger>) {
    let mut letters = Letters::new();
    let mut under_way = HashMap::new();
    loop {
        let nap = match send_due(&shared, &messenger, &mut letters, &mut under_way).await {
            Ok(nap) => nap,
            Err(error) => {
                warn!(%error, "webhooks are not told for now: what is due cannot be read");
                shared.settings.recovery
            }
        };
        tokio::select! {
            biased;
            () = shared.drain.cancelled() => return,
            Some(done) = letters.join_next() => match done {
                Ok((due, result)) => {
                    settled(&mut under_way, &due.webhook);
                    if let Err(error) = settle(&shared, &due, result).await {
                        warn!(%error, webhook = %due.webhook, "what came of a letter could not be noted; it is posted again");
                    }
                }
                Err(error) => warn!(%error, "a letter's task broke; it is posted again when its claim ends"),
            },
            () = shared.store.webhooks_noted() => {}
            () = tokio::time::sleep(nap) => {}
        }
    }
}

/// Posts as much as may be under way. Returns when to look again, unless something happens before.
async fn send_due(
    shared: &Arc<Shared>,
    messenger: &Arc<dyn Messenger>,
    letters: &mut Letters,
    under_way: &mut HashMap<WebhookId, u32>,
) -> Result<std::time::Duration, StoreError> {
    let now = now();
    let room = MOST.saturating_sub(u32::try_from(letters.len()).unwrap_or(MOST));
    if room == 0 {
        // One of the letters wakes this.
        return Ok(LONGEST_NAP.unsigned_abs());
    }
    // All that is looked for is looked for beside the commits of others.
    let mut reader = shared.store.read().await?;
    let next = webhooks::next_due(&mut reader, under_way, AT_ONCE).await?;
    let wait = next.map_or(LONGEST_NAP, |next| next.duration_since(now)).min(LONGEST_NAP);
    if wait.is_positive() {
        return Ok(wait.unsigned_abs());
    }
    let waiting = webhooks::waiting(&mut reader, now, under_way, AT_ONCE, room).await?;
    drop(reader);
    let mut tx = shared.store.write().await?;
    let until = now.checked_add(CLAIM).unwrap_or(Timestamp::MAX);
    let due = webhooks::claim(&mut tx, &waiting, now, until).await?;
    tx.commit().await?;
    let nothing = due.is_empty();
    for due in due {
        *under_way.entry(due.webhook.clone()).or_default() += 1;
        let messenger = Arc::clone(messenger);
        letters.spawn(async move {
            postern_danger::point!("webhook.before");
            let result = messenger.post(&letter(&due), Timestamp::now()).await;
            postern_danger::point!("webhook.after");
            (due, result)
        });
    }
    // Another server was faster, or an endpoint was disabled meanwhile.
    Ok(if nothing { std::time::Duration::from_secs(1) } else { std::time::Duration::ZERO })
}

fn settled(under_way: &mut HashMap<WebhookId, u32>, webhook: &WebhookId) {
    if let Some(count) = under_way.get_mut(webhook) {
        *count -= 1;
        if *count == 0 {
            under_way.remove(webhook);
        }
    }
}

fn letter(due: &Due) -> Letter {
    Letter {
        webhook: due.webhook.to_string(),
        event: due.event.to_string(),
        url: due.url.clone(),
        payload: due.payload.clone(),
        generation: due.generation,
        former: due.former,
    }
}

async fn settle(shared: &Shared, due: &Due, result: Result<(), Undelivered>) -> Result<(), StoreError> {
    let now = now();
    let outcome = outcome(due.attempt, result, now, jitter());
    match &outcome {
        Outcome::Delivered | Outcome::Again(..) => {}
        Outcome::Dead(error) => {
            warn!(webhook = %due.webhook, event = %due.event, reason = error.kind, "an event was given up; it can be replayed");
        }
        Outcome::Gone(_) => info!(webhook = %due.webhook, "the endpoint answered 410 and is disabled"),
    }
    let mut tx: Tx = shared.store.write().await?;
    webhooks::settle(&mut tx, due, outcome, now).await?;
    tx.commit().await
}

/// What comes of an attempt. `jitter` from 0 to 1 makes a wait up to a fifth longer.
fn outcome(attempt: u32, result: Result<(), Undelivered>, now: Timestamp, jitter: f64) -> Outcome {
    let Err(Undelivered { error, is_gone }) = result else { return Outcome::Delivered };
    if is_gone {
        return Outcome::Gone(error);
    }
    let place = usize::try_from(attempt).unwrap_or(usize::MAX).saturating_sub(1);
    match WAITS.get(place) {
        None => Outcome::Dead(error),
        Some(seconds) => {
            let wait = SignedDuration::from_secs(*seconds).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 5.0);
            Outcome::Again(error, now.checked_add(wait).unwrap_or(Timestamp::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_model::webhook::DeliveryError;

    use super::*;

    fn failed(is_gone: bool) -> Result<(), Undelivered> {
        let error = DeliveryError { kind: "status".into(), message: "503".into(), status: Some(503) };
        Err(Undelivered { error, is_gone })
    }

    #[test]
    fn a_letter_is_tried_for_most_of_a_day_and_then_given_up() {
        let mut now: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        let start = now;
        for attempt in 1..=12 {
            match outcome(attempt, failed(false), now, 0.0) {
                Outcome::Again(_, at) => now = at,
                other => panic!("attempt {attempt}: {other:?}"),
            }
        }
        let hours = now.duration_since(start).as_hours();
        assert_eq!(hours, 22);
        assert!(matches!(outcome(13, failed(false), now, 0.0), Outcome::Dead(_)));
        assert!(matches!(outcome(u32::MAX, failed(false), now, 0.0), Outcome::Dead(_)));
        assert!(matches!(outcome(1, failed(true), now, 0.0), Outcome::Gone(_)));
        assert_eq!(outcome(13, Ok(()), now, 0.0), Outcome::Delivered);
    }

    #[test]
    fn jitter_only_makes_a_wait_longer() {
        let now: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        let wait = |jitter| match outcome(2, failed(false), now, jitter) {
            Outcome::Again(_, at) => at.duration_since(now).as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!([wait(0.0), wait(0.5), wait(1.0), wait(7.0)], [30, 33, 36, 36]);
    }
}
