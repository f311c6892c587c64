//! Coming back to a stream, and paging a log that grows at two ends.

use postern_model::event::Event;
use postern_model::ids::SessionId;
use postern_model::page::Order;

use super::stage::{Stage, Watch, kinds};
use crate::{EventQuery, Frame, Of};

/// A session with a whole turn behind it and a second one that the model works at; a message waits behind that.
async fn busy(stage: &Stage) -> SessionId {
    let id = stage.session().await;
    let mut watch = stage.watch(&id, &[]).await;
    stage.say(&id, "first").await;
    stage.script.call().await.says("hi").await;
    watch.until("session.status_idle").await;
    stage.say(&id, "second").await;
    watch.until("span.model_request_start").await;
    stage.say(&id, "waits").await;
    watch.until("user.message").await;
    id
}

async fn read(watch: &mut Watch, count: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    while frames.len() < count {
        frames.push(watch.next().await.expect("the stream goes on"));
    }
    frames
}

fn event(frame: &Frame) -> Event {
    serde_json::from_str(&frame.data).unwrap()
}

#[tokio::test]
async fn a_reader_that_comes_back_gets_what_it_missed_then_what_waits_then_what_happens() {
    let stage = Stage::new().await;
    let id = busy(&stage).await;
    let log = stage.log(&id).await;
    for last in [0, 1, 4] {
        let mut watch = stage.watch_from(&id, last).await.unwrap();
        let missed = &log[usize::try_from(last).unwrap()..];
        let frames = read(&mut watch, missed.len()).await;
        assert_eq!(frames.iter().map(event).collect::<Vec<_>>(), missed);
        let places = (last + 1..).zip(missed).map(|(place, event)| event.processed_at.map(|_| place));
        assert_eq!(frames.iter().map(|frame| frame.id).collect::<Vec<_>>(), places.collect::<Vec<_>>());
        assert_eq!(frames.last().unwrap().id, None, "what waits has no place yet");
    }
    let mut watch = stage.watch_from(&id, 0).await.unwrap();
    read(&mut watch, log.len()).await;
    stage.script.call().await.says("there").await;
    let next = watch.until("user.message").await;
    let place = i64::try_from(log.len() - 1 + next.len()).unwrap();
    assert_eq!(next.last().unwrap().id, Some(place), "live frames go on where the log ends");
    assert_eq!(event(next.last().unwrap()).id, log.last().unwrap().id, "the one that waited, again, at its place");
}

#[tokio::test]
async fn a_place_that_the_log_has_not_reached_is_refused() {
    let stage = Stage::new().await;
    let id = busy(&stage).await;
    let places = i64::try_from(stage.log(&id).await.len()).unwrap() - 1;
    assert!(stage.watch_from(&id, places).await.is_ok());
    for place in [-1, places + 1, 1 << 40, i64::MAX] {
        let refused = stage.watch_from(&id, place).await.err().expect("no stream");
        assert_eq!((refused.status(), refused.message.contains("Last-Event-ID")), (400, true));
    }
}

#[tokio::test]
async fn more_than_a_page_that_was_missed_comes_whole_and_once() {
    let stage = Stage::new().await;
    let id = stage.session().await;
    let mut live = stage.watch(&id, &[]).await;
    let mut shown = Vec::new();
    while shown.len() < 600 {
        stage.say(&id, "again").await;
        stage.script.call().await.says("yes").await;
        shown.extend(live.until("session.status_idle").await);
    }
    let mut watch = stage.watch_from(&id, 3).await.unwrap();
    let replayed = read(&mut watch, shown.len() - 3).await;
    let ids = |frames: &[Frame]| frames.iter().map(|frame| frame.id).collect::<Vec<_>>();
    assert_eq!(ids(&replayed), ids(&shown[3..]));
}

#[tokio::test]
async fn pages_of_a_log_show_what_took_effect_behind_a_waiting_event() {
    let stage = Stage::new().await;
    let id = busy(&stage).await;
    let log = stage.log(&id).await;
    let query = EventQuery { limit: Some(u32::try_from(log.len()).unwrap()), ..EventQuery::default() };
    stage.say(&id, "waits too").await;
    let first = stage.engine.list_events(&stage.workspace, &id, Of::Session, &query).await.unwrap();
    assert_eq!(first.data.last().unwrap().processed_at, None, "the page ends on one that waits");
    let mut watch = stage.watch(&id, &[]).await;
    stage.script.call().await.says("there").await;
    watch.until("span.model_request_start").await;
    let next = EventQuery { page: first.next_page, ..query };
    let second = stage.engine.list_events(&stage.workspace, &id, Of::Session, &next).await.unwrap();
    let whole = stage.log(&id).await;
    assert_eq!(second.data, whole[log.len() - 1..], "nothing between the pages is left out");
    let newest = EventQuery { limit: Some(1), order: Order::Desc, ..EventQuery::default() };
    let mut page = stage.engine.list_events(&stage.workspace, &id, Of::Session, &newest).await.unwrap();
    let mut backwards = page.data.clone();
    while page.next_page.is_some() {
        let query = EventQuery { page: page.next_page, ..newest.clone() };
        page = stage.engine.list_events(&stage.workspace, &id, Of::Session, &query).await.unwrap();
        backwards.extend(page.data.clone());
    }
    backwards.reverse();
    assert_eq!(kinds(&backwards), kinds(&whole));
}
