//! Ending in good order: one signal that work should end, and a wait until it has.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
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

    /// Does a task as whoever waits for it would, and to its end even where nobody waits any more: what is left of it then is a task that
    /// [`Drain::finish`] waits for.
    pub fn outlasting<F>(&self, task: F) -> Outlasting<F>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Outlasting { tasks: self.tasks.clone(), task: Some(Box::pin(task)) }
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

/// See [`Drain::outlasting`].
pub struct Outlasting<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tasks: TaskTracker,
    task: Option<Pin<Box<F>>>,
}

impl<F> Future for Outlasting<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(task) = &mut self.task else { return Poll::Pending };
        let done = task.as_mut().poll(context);
        if done.is_ready() {
            self.task = None;
        }
        done
    }
}

impl<F> Drop for Outlasting<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            self.tasks.spawn(task);
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
    async fn what_outlasts_whoever_waits_is_done_to_its_end() {
        let drain = Drain::new();
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let task = |name: &'static str| {
            let said = said.clone();
            async move {
                tokio::task::yield_now().await;
                said.send(name).unwrap();
                name
            }
        };
        assert_eq!(drain.outlasting(task("waited for")).await, "waited for");
        let mut given_up = Box::pin(drain.outlasting(task("given up")));
        assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(given_up);
        drop(drain.outlasting(task("never begun")));
        assert_eq!(drain.finish(Duration::from_secs(20)).await, Drained::Clean);
        let all: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
        assert_eq!(all, ["waited for", "given up", "never begun"]);
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
