//! What runs for the threads of a session: model requests, consultations, calls to MCP servers, timers.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use postern_model::ids::{EventId, ThreadId};
use postern_session::{Input, ModelEvent};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::actor::Actor;
use crate::consult::Consults;
use crate::mcp::Servers;

/// What runs for one thread.
#[derive(Default)]
pub(crate) struct UnderWay {
    pub(crate) request: Option<(EventId, mpsc::Receiver<ModelEvent>)>,
    pub(crate) retry_at: Option<Instant>,
    pub(crate) mcp: Servers,
    pub(crate) consults: Consults,
}

/// Something that came of it.
pub(crate) enum News {
    /// Of the model request; `None` where its task ended without a word.
    Model(Option<ModelEvent>),
    /// Of anything else.
    Other(Input),
}

impl UnderWay {
    pub(crate) fn is_busy(&self) -> bool {
        self.request.is_some() || self.retry_at.is_some() || self.mcp.is_busy() || self.consults.is_busy()
    }

    pub(crate) fn cancel_model(&mut self) {
        self.request = None;
        self.consults.cancel();
    }

    async fn next(&mut self) -> News {
        tokio::select! {
            biased;
            news = of_model(&mut self.request) => News::Model(news),
            input = self.mcp.next() => News::Other(input),
            input = self.consults.next() => News::Other(input),
        }
    }
}

async fn of_model(request: &mut Option<(EventId, mpsc::Receiver<ModelEvent>)>) -> Option<ModelEvent> {
    match request {
        Some((_, news)) => news.recv().await,
        None => std::future::pending().await,
    }
}

/// The next thing that comes of what runs for any thread; waits for ever while nothing does.
pub(crate) async fn next(threads: &mut BTreeMap<ThreadId, UnderWay>) -> (ThreadId, News) {
    let mut waiting: Vec<_> = threads.iter_mut().map(|(id, under_way)| (id, Box::pin(under_way.next()))).collect();
    poll_fn(move |context| {
        for (id, news) in &mut waiting {
            if let Poll::Ready(news) = Pin::as_mut(news).poll(context) {
                return Poll::Ready((id.clone(), news));
            }
        }
        Poll::Pending
    })
    .await
}

/// The thread that is the next to try again, and when.
pub(crate) fn next_retry(threads: &BTreeMap<ThreadId, UnderWay>) -> Option<(Instant, ThreadId)> {
    threads.iter().filter_map(|(id, under_way)| Some((under_way.retry_at?, id.clone()))).min()
}

impl Actor {
    /// What runs for this thread.
    pub(crate) fn under_way(&mut self, thread: &ThreadId) -> &mut UnderWay {
        self.under_way.entry(thread.clone()).or_default()
    }
}
