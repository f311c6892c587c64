//! Ending in good order: one signal that work should end, and a wait until it has.

use std::future::Future;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Owns a set of tasks; `Clone` gives another handle to the same set.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    token: CancellationToken,
    tasks: TaskTracker,
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every task ended by itself.
    Clean,
    /// So many tasks were still running when time was up.
    Late(usize),
}

impl Drain {
    /// A fresh set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task that [`Drain::finish`] waits for. The task listens to [`Drain::started`] itself.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Does at once what a task does before it first waits; the rest is a task that [`Drain::finish`] waits for. What is begun one after the other
    /// is begun in that order.
    pub fn begin<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Its first step is never put off for fairness' sake.
        let mut task = Box::pin(tokio::task::unconstrained(task));
        if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.tasks.spawn(task);
        }
    }

    /// Runs a task that simply ends at its next await when the drain starts; nothing after that await happens.
    pub fn spawn_until_drain<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let token = self.token.clone();
        self.tasks.spawn(async move { token.run_until_cancelled_owned(task).await })
    }

    /// Completes once the drain has started. Cancel-safe.
    pub async fn started(&self) {
        self.token.cancelled().await;
    }

    /// Whether the drain has started.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Starts the drain without waiting.
    pub fn start(&self) {
        self.token.cancel();
    }

    /// The signal, for code that takes a token.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts the drain and waits for the tasks, at most `patience`.
    pub async fn finish(&self, patience: Duration) -> Drained {
        self.token.cancel();
        self.tasks.close();
        match tokio::time::timeout(patience, self.tasks.wait()).await {
            Ok(()) => Drained::Clean,
            Err(_) => Drained::Late(self.tasks.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_begun_is_begun_at_once_in_order_and_waited_for() {
        let drain = Drain::new();
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        for name in ["one", "two"] {
            let said = said.clone();
            drain.begin(async move {
                said.send((name, "begun")).unwrap();
                tokio::task::yield_now().await;
                said.send((name, "ended")).unwrap();
            });
        }
        assert_eq!(heard.try_recv().unwrap(), ("one", "begun"));
        assert_eq!(heard.try_recv().unwrap(), ("two", "begun"));
        assert!(heard.try_recv().is_err());
        assert_eq!(drain.finish(Duration::from_secs(20)).await, Drained::Clean);
        assert_eq!([heard.try_recv().unwrap(), heard.try_recv().unwrap()].map(|(_, what)| what), ["ended"; 2]);
    }

    #[tokio::test]
    async fn tasks_that_listen_end_cleanly() {
        let drain = Drain::new();
        let listener = drain.clone();
        let task = drain.spawn(async move { listener.started().await });
        let endless = drain.spawn_until_drain(std::future::pending::<()>());
        assert!(!drain.is_started());
        assert_eq!(drain.finish(Duration::from_secs(30)).await, Drained::Clean);
        task.await.unwrap();
        assert_eq!(endless.await.unwrap(), None);
    }

    #[tokio::test]
    async fn tasks_that_do_not_listen_are_counted_when_time_is_up() {
        let drain = Drain::new();
        let stubborn = drain.spawn(std::future::pending::<()>());
        assert_eq!(drain.finish(Duration::from_millis(1)).await, Drained::Late(1));
        stubborn.abort();
    }
}
