//! Who watches a session, and showing them what happened.

use std::collections::HashSet;
use std::sync::Arc;

use postern_model::event::{Audience, Event, Preview, Previewable};
use postern_model::ids::{EventId, ThreadId};
use postern_store::events::Of;
use serde::Serialize;
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::warn;

use crate::missed::Missed;

/// How many frames may wait for a reader. A reader that falls further behind loses its stream: it would have to list
/// what it missed anyway.
const WAITING_FRAMES: usize = 1024;
/// Previews are left out for a reader that has less room than this.
const ROOM_FOR_PREVIEWS: usize = WAITING_FRAMES / 2;

/// One frame of a stream: the name of the SSE event and its JSON.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The `id:` line: the place of an event that took effect in its session's log. A preview and an event that waits
    /// have none, so that a reader comes back to the last place before them.
    pub id: Option<i64>,
    /// The `event:` line; equal to the data's `type`.
    pub event: &'static str,
    /// The `data:` line.
    pub data: Arc<str>,
}

/// An open stream of one session. Ends when the session is deleted, the engine drains, or this reader is too slow.
#[derive(Debug)]
pub struct Subscription {
    /// What the reader missed, shown before what happens now.
    missed: Option<Missed>,
    frames: mpsc::Receiver<Frame>,
}

impl Subscription {
    /// The next frame; `None` when the stream is over.
    pub async fn next(&mut self) -> Option<Frame> {
        while let Some(missed) = &mut self.missed {
            match missed.next().await {
                Ok(Some(entry)) => {
                    let place = entry.event.processed_at.is_some().then_some(entry.seq);
                    return Some(frame(&entry.event, place));
                }
                Ok(None) => self.missed = None,
                // Without what was missed the rest would have a gap. The reader comes again.
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "a stream ends: what it missed cannot be read");
                    return None;
                }
            }
        }
        self.frames.recv().await
    }
}

/// Where something happens, and who is shown it.
pub(crate) struct Scene<'a> {
    pub(crate) thread: &'a ThreadId,
    pub(crate) audience: Audience,
}

/// Everyone who watches one session or one of its threads.
#[derive(Debug, Default)]
pub(crate) struct Subscribers(Vec<Subscriber>);

#[derive(Debug)]
struct Subscriber {
    of: Of,
    frames: mpsc::Sender<Frame>,
    previews: HashSet<Previewable>,
    /// Events whose preview this reader follows without a gap.
    following: HashSet<EventId>,
}

impl Subscribers {
    pub(crate) fn add(&mut self, of: Of, previews: HashSet<Previewable>, missed: Option<Missed>) -> Subscription {
        let (frames, receiver) = mpsc::channel(WAITING_FRAMES);
        self.0.push(Subscriber { of, frames, previews, following: HashSet::new() });
        Subscription { missed, frames: receiver }
    }

    pub(crate) fn is_empty(&mut self) -> bool {
        self.0.retain(|subscriber| !subscriber.frames.is_closed());
        self.0.is_empty()
    }

    /// Shows an event to those whom it concerns.
    pub(crate) fn show(&mut self, event: &Event, place: Option<i64>, scene: &Scene<'_>) {
        self.show_where(event, place, |subscriber| subscriber.watches(scene));
    }

    /// Shows an event to everyone.
    pub(crate) fn show_all(&mut self, event: &Event) {
        self.show_where(event, None, |_| true);
    }

    fn show_where(&mut self, event: &Event, place: Option<i64>, is_shown: impl Fn(&Subscriber) -> bool) {
        if self.0.is_empty() {
            return;
        }
        let frame = frame(event, place);
        self.0.retain_mut(|subscriber| {
            if !is_shown(subscriber) {
                return true;
            }
            subscriber.following.remove(&event.id);
            // Full means too slow, closed means gone: dropping the sender ends the stream either way.
            subscriber.frames.try_send(frame.clone()).is_ok()
        });
    }

    pub(crate) fn preview(&mut self, preview: &Preview, scene: &Scene<'_>) {
        if self.0.iter().all(|subscriber| subscriber.previews.is_empty()) {
            return;
        }
        let name = match preview {
            Preview::EventStart { .. } => "event_start",
            Preview::EventDelta { .. } => "event_delta",
        };
        let frame = Frame { id: None, event: name, data: json(preview) };
        for subscriber in self.0.iter_mut().filter(|subscriber| subscriber.watches(scene)) {
            subscriber.preview(preview, &frame);
        }
    }
}

impl Subscriber {
    fn watches(&self, scene: &Scene<'_>) -> bool {
        match &self.of {
            Of::Session => scene.audience == Audience::Session,
            Of::Thread(thread) => thread == scene.thread,
        }
    }

    fn preview(&mut self, preview: &Preview, frame: &Frame) {
        let id = match preview {
            Preview::EventStart { event } if self.previews.contains(&event.kind) => {
                self.following.insert(event.id.clone());
                &event.id
            }
            Preview::EventDelta { event_id, .. } if self.following.contains(event_id) => event_id,
            Preview::EventStart { .. } | Preview::EventDelta { .. } => return,
        };
        let has_room = self.frames.capacity() >= ROOM_FOR_PREVIEWS;
        if !has_room || matches!(self.frames.try_send(frame.clone()), Err(TrySendError::Full(_))) {
            // With one piece missing the rest would be no prefix of the text: the event itself will tell it all.
            self.following.remove(id);
        }
    }
}

fn frame(event: &Event, place: Option<i64>) -> Frame {
    Frame { id: place, event: event.body.kind(), data: json(event) }
}

fn json(value: &impl Serialize) -> Arc<str> {
    serde_json::to_string(value).expect("events have string keys and no failing serializer").into()
}
