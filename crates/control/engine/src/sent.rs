//! Events that come with an idempotency key: accepted once, and found again in the log when they come again.

use postern_model::event::{ClientEvent, Event};
use postern_model::ids::{EventId, SessionId};
use postern_model::{Problem, Timestamp};
use postern_session::{Author, Input};
use postern_store::answers::{self, Once};
use serde::{Deserialize, Serialize};

use crate::actor::{Actor, Failure};
use crate::perform::accepted;
use crate::problem;

/// Which events a request with a key was answered with. Their texts lie in the log alone.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sent {
    pub(crate) session: SessionId,
    pub(crate) events: Vec<EventId>,
}

impl Actor {
    /// Accepts events that come with a key: which they are is stored for it in their own transaction.
    pub(crate) async fn send_once(
        &mut self,
        sent: Vec<ClientEvent>,
        author: Author,
        once: &Once,
    ) -> Result<Vec<Event>, Failure> {
        self.session.check(&sent, author)?;
        let mut tx = self.write().await?;
        // Before the state is ahead of the log: that one is answered as it was.
        if answers::earlier(&mut tx, once, Timestamp::now()).await.map_err(problem)?.is_some() {
            return Err(Problem::conflict("A request with this Idempotency-Key was answered meanwhile.").into());
        }
        let deeds = self.decide(Input::Events(sent));
        let said = Sent { session: self.record.id.clone(), events: accepted(&deeds) };
        let stored = async {
            self.store(&mut tx, &deeds).await?;
            answers::remember(&mut tx, once, &said, Timestamp::now()).await?;
            tx.commit().await
        };
        stored.await.map_err(|error| self.fail(&error))?;
        #[cfg(test)]
        self.burn_fuse()?;
        Ok(self.show_and_begin(deeds).accepted)
    }
}
