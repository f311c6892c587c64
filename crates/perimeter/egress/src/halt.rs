//! What ends a session's traffic before the session ends: a freeze, until it is thawed, and the revocation of its
//! grants, for good. Both cut what is open; the tasks of a session run under the cut that was valid when they began.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use postern_policy::{Denial, Reason};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The state of one session.
#[derive(Debug, Default)]
pub(crate) struct Halt(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    frozen: bool,
    revoked: bool,
    cut: Cut,
}

/// Completes when what runs under it must end. Clones are the same cut.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    token: CancellationToken,
    tasks: TaskTracker,
    reason: Arc<Mutex<Option<Reason>>>,
}

impl Halt {
    /// What runs from now on runs under this. To be asked for before [`Halt::refusal`]: then nothing begins in between.
    pub(crate) fn cut(&self) -> Cut {
        self.lock().cut.clone()
    }

    /// Why nothing new may begin, if so.
    pub(crate) fn refusal(&self) -> Option<Denial> {
        self.lock().frozen.then(|| Denial::new(Reason::SessionFrozen))
    }

    /// Why no secret may be used, if so.
    pub(crate) fn without_grants(&self) -> Option<Denial> {
        self.lock().revoked.then(revoked)
    }

    /// Freezes; what is open has ended when this returns, or is computing.
    pub(crate) async fn freeze(&self) {
        let cut = {
            let mut state = self.lock();
            state.frozen = true;
            std::mem::take(&mut state.cut)
        };
        cut.end(Reason::SessionFrozen).await;
    }

    /// Lets traffic begin again.
    pub(crate) fn thaw(&self) {
        self.lock().frozen = false;
    }

    /// Revokes the grants; nothing that was open under them runs any more when this returns.
    pub(crate) async fn revoke(&self) {
        let cut = {
            let mut state = self.lock();
            state.revoked = true;
            std::mem::take(&mut state.cut)
        };
        cut.end(Reason::GrantsRevoked).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cut {
    /// Runs `work` until it ends or is cut. Counted from now on, polled or not.
    pub(crate) fn over<F: Future>(&self, work: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        self.over_telling(work, |_denial| {})
    }

    /// The same; whoever should know of a cut is told before the work, and with it any connection of it, is gone.
    pub(crate) fn over_telling<F, T>(&self, work: F, tell: T) -> impl Future<Output = Option<F::Output>> + use<F, T>
    where
        F: Future,
        T: FnOnce(&Denial),
    {
        let cut = self.clone();
        let counted = self.tasks.token();
        async move {
            let _counted = counted;
            tokio::pin!(work);
            tokio::select! {
                // The cut first: what is cut makes no further step.
                biased;
                () = cut.token.cancelled() => {
                    if let Some(denial) = cut.denial() {
                        tell(&denial);
                    }
                    None
                }
                output = &mut work => Some(output),
            }
        }
    }

    /// Why it was cut, if it was.
    pub(crate) fn denial(&self) -> Option<Denial> {
        let reason = *self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        reason.map(|reason| match reason {
            Reason::GrantsRevoked => revoked(),
            reason => Denial::new(reason),
        })
    }

    async fn end(self, reason: Reason) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.token.cancel();
        self.tasks.close();
        // They end at their next await; this bounds the wait for one that computes.
        let _late = tokio::time::timeout(ENDING, self.tasks.wait()).await;
    }
}

fn revoked() -> Denial {
    Denial::new(Reason::GrantsRevoked)
}

/// A command must be effective within a second.
const ENDING: Duration = Duration::from_millis(700);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_freeze_ends_what_runs_and_refuses_what_would_begin_until_the_thaw() {
        let halt = Halt::default();
        let cut = halt.cut();
        let running = tokio::spawn(cut.over(std::future::pending::<()>()));
        halt.freeze().await;
        assert_eq!(running.await.unwrap(), None);
        assert_eq!(cut.denial().map(|denial| denial.reason), Some(Reason::SessionFrozen));
        assert_eq!(halt.refusal().map(|denial| denial.reason), Some(Reason::SessionFrozen));
        halt.thaw();
        assert_eq!(halt.refusal(), None);
        assert_eq!(halt.cut().over(async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn a_revocation_cuts_once_and_is_for_good() {
        let halt = Halt::default();
        let cut = halt.cut();
        let running = tokio::spawn(cut.over(std::future::pending::<()>()));
        halt.revoke().await;
        assert_eq!(running.await.unwrap(), None);
        assert_eq!(halt.refusal(), None, "requests without a credential go on");
        halt.thaw();
        assert_eq!(halt.without_grants().map(|denial| denial.reason), Some(Reason::GrantsRevoked));
        assert_eq!(halt.cut().over(async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn what_was_counted_and_never_polled_does_not_hold_up_a_freeze_for_ever() {
        let halt = Halt::default();
        let never_polled = halt.cut().over(async {});
        halt.freeze().await;
        drop(never_polled);
        assert!(halt.refusal().is_some());
    }

    #[tokio::test]
    async fn whoever_should_know_of_a_cut_is_told_before_the_work_is_gone() {
        struct Gone(Arc<Mutex<Vec<&'static str>>>);
        impl Drop for Gone {
            fn drop(&mut self) {
                self.0.lock().unwrap().push("gone");
            }
        }
        let (halt, seen) = (Halt::default(), Arc::new(Mutex::new(Vec::new())));
        let (work, told) = (Gone(seen.clone()), seen.clone());
        let work = async move {
            let _until_dropped = work;
            std::future::pending::<()>().await;
        };
        let tell = move |denial: &Denial| {
            assert_eq!(denial.reason, Reason::SessionFrozen);
            told.lock().unwrap().push("told");
        };
        let running = halt.cut().over_telling(work, tell);
        let (ended, ()) = tokio::join!(running, halt.freeze());
        assert_eq!((ended, &seen.lock().unwrap()[..]), (None, &["told", "gone"][..]));
    }
}
