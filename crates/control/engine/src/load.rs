//! A session's way from the store into memory and its snapshots: what the log has come to, kept now and then so that a long
//! log is not read again from its beginning. The log is the truth: whatever is wrong with a snapshot, the log is read instead.

use std::sync::Arc;

use postern_model::ids::SessionId;
use postern_session::FOLD;
use postern_store::events::{self, WAITING};
use postern_store::snapshots::{self, Found, Snapshot};
use postern_store::{Connection, StoreError, mcp_calls, sessions};
use tracing::{info, warn};

use crate::actor::Actor;
use crate::shared::Shared;

/// A session with what its log says; `None` where there is none.
pub(crate) async fn load(shared: &Arc<Shared>, id: &SessionId) -> Result<Option<Actor>, StoreError> {
    let mut reader = shared.store.read().await?;
    let Some(record) = sessions::find(&mut reader, id).await? else { return Ok(None) };
    let mut actor = Actor::new(shared, record);
    actor.restore(&mut reader).await?;
    let entries = events::replay(&mut reader, id, actor.folded).await?;
    let started = mcp_calls::started(&mut reader, id).await?;
    drop(reader);
    for entry in entries {
        let next = if entry.seq < WAITING { &mut actor.next } else { &mut actor.next_waiting };
        *next = entry.seq + 1;
        actor.session.replay(&entry.thread, &entry.event, entry.kept);
    }
    actor.next_shown = actor.next;
    actor.lapses_at = actor.session.next_lapse();
    for call in &started {
        actor.session.replay_started(call);
    }
    Ok(Some(actor))
}

impl Actor {
    /// Takes in the snapshot that the session has, if it has one of use.
    async fn restore(&mut self, reader: &mut Connection) -> Result<(), StoreError> {
        match snapshots::find(reader, self.id(), FOLD).await? {
            Found::Nothing => {}
            Found::Unusable(reason) => {
                warn!(session = %self.id(), %reason, "a snapshot is not used: the whole log is read");
            }
            Found::Snapshot(snapshot) => match self.session.restore(&snapshot.state) {
                Ok(()) => {
                    self.folded = snapshot.place;
                    self.next = snapshot.place + 1;
                }
                Err(reason) => {
                    warn!(session = %self.id(), %reason, "a snapshot is not used: the whole log is read");
                }
            },
        }
        Ok(())
    }

    /// Keeps a snapshot when the log has grown by enough since the last one. After the input was answered for and its
    /// effects have begun: nobody waits for it, and without it the log is read.
    pub(crate) async fn keep_snapshot(&mut self) {
        let place = self.next - 1;
        let is_due = place - self.folded >= i64::from(self.shared.settings.events_between_snapshots);
        // The place of one that waits is still to change.
        if !is_due || self.session.has_waiting() {
            return;
        }
        self.folded = place;
        let Some(state) = self.session.snapshot() else {
            info!(session = %self.id(), "the session is too large for a snapshot: its whole log is read when it is loaded");
            return;
        };
        let snapshot = Snapshot { fold: FOLD.to_owned(), place, state };
        let kept = async {
            let mut tx = self.shared.store.write().await?;
            snapshots::keep(&mut tx, self.id(), &snapshot).await?;
            tx.commit().await
        };
        if let Err(error) = kept.await {
            warn!(session = %self.id(), error = &error as &dyn std::error::Error, "a snapshot was not kept");
        }
    }
}
