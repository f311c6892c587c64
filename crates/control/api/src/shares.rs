//! What holds a connection for long, counted by credential: a stream, a download, a body that still arrives, and, apart from
//! these, a poll that waits for work. There are so many connections, and no caller has them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_model::Problem;
use postern_model::problem::Kind;

use crate::caller::Caller;

/// How many of them may be at once. Fewer in all than there are connections: the rest is for what is answered at once.
#[derive(Clone, Copy, Debug)]
pub struct Lasting {
    /// Of one session token.
    pub of_session: usize,
    /// Of one key of any other kind.
    pub of_key: usize,
    /// Of all.
    pub of_all: usize,
    /// Polls of one environment key.
    pub polls_of_key: usize,
    /// Of all, and polls.
    pub with_polls: usize,
}

impl Default for Lasting {
    fn default() -> Self {
        Self { of_session: 32, of_key: 384, of_all: 768, polls_of_key: 256, with_polls: 960 }
    }
}

/// Who has how many. `Clone` gives another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    most: Lasting,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    polls: usize,
    by_credential: HashMap<(String, Of), usize>,
}

/// What a share is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    Lasting,
    Poll,
}

impl Taken {
    fn count(&mut self, of: Of) -> &mut usize {
        match of {
            Of::Lasting => &mut self.all,
            Of::Poll => &mut self.polls,
        }
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    credential: (String, Of),
    taken: Arc<Mutex<Taken>>,
}

impl Shares {
    pub(crate) fn new(most: Lasting) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// One more of this caller's; the operator has connections of its own.
    ///
    /// # Errors
    /// 429 when the caller, or all callers together, have as many as there may be.
    pub(crate) fn take(&self, caller: &Caller) -> Result<Option<Share>, Problem> {
        let most = match caller {
            Caller::Operator(_) => return Ok(None),
            Caller::Session(_) => self.most.of_session,
            Caller::ApiKey(_) | Caller::Environment(_) | Caller::Tunnel(_) => self.most.of_key,
        };
        self.take_of((caller.log_name(), Of::Lasting), most).map(Some)
    }

    /// One more poll of this caller's.
    ///
    /// # Errors
    /// 429, as above.
    pub(crate) fn take_poll(&self, caller: &Caller) -> Result<Share, Problem> {
        self.take_of((caller.log_name(), Of::Poll), self.most.polls_of_key)
    }

    fn take_of(&self, credential: (String, Of), most: usize) -> Result<Share, Problem> {
        let of = credential.1;
        let mut taken = lock(&self.taken);
        if of == Of::Lasting && taken.all >= self.most.of_all {
            return Err(full("The server's callers have", self.most.of_all, LASTING));
        }
        if taken.all + taken.polls >= self.most.with_polls {
            return Err(full(
                "The server's callers have",
                self.most.with_polls,
                "streams, downloads, bodies and polls",
            ));
        }
        let own = taken.by_credential.get(&credential).copied().unwrap_or_default();
        if own >= most {
            return Err(full("This credential has", most, if of == Of::Poll { "polls" } else { LASTING }));
        }
        taken.by_credential.insert(credential.clone(), own + 1);
        *taken.count(of) += 1;
        drop(taken);
        Ok(Share { credential, taken: Arc::clone(&self.taken) })
    }
}

const LASTING: &str = "streams, downloads and bodies";

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        let count = taken.count(self.credential.1);
        *count = count.saturating_sub(1);
        match taken.by_credential.get_mut(&self.credential) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => {
                taken.by_credential.remove(&self.credential);
            }
        }
    }
}

fn full(who: &str, most: usize, what: &str) -> Problem {
    let message =
        format!("{who} {most} {what} under way, the most that may be. Close one that is not needed, then ask again.");
    Problem::new(Kind::RateLimited, message).with_code("limit_requests_under_way")
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use postern_model::ids::{SessionId, WorkspaceId};

    use super::*;

    fn session(work: &str) -> Caller {
        Caller::Session(postern_store::keys::SessionGrant {
            workspace: WorkspaceId::default(),
            environment: postern_model::ids::EnvironmentId::generate(),
            session: SessionId::generate(),
            work: postern_model::ids::WorkId::parse(work).unwrap(),
            lease: postern_store::keys::Lease::Alive,
        })
    }

    fn environment() -> Caller {
        Caller::Environment(postern_store::keys::EnvironmentGrant {
            workspace: WorkspaceId::default(),
            environment: postern_model::ids::EnvironmentId::generate(),
            key: postern_model::ids::EnvironmentKeyId::generate(),
        })
    }

    /// As many as this caller gets.
    fn all_of(shares: &Shares, caller: &Caller) -> Vec<Option<Share>> {
        std::iter::from_fn(|| shares.take(caller).ok()).take(2000).collect()
    }

    #[test]
    fn a_token_has_few_a_key_more_and_all_together_leave_room_for_what_is_answered_at_once() {
        let shares = Shares::new(Lasting::default());
        let mut held = all_of(&shares, &session("work_1"));
        assert_eq!(held.len(), 32);
        let refused = shares.take(&session("work_1")).unwrap_err();
        assert_eq!((refused.status(), refused.error_code), (429, Some("limit_requests_under_way")));
        assert_eq!(all_of(&shares, &session("work_2")).len(), 32, "another token has its own");
        for (key, count) in [384, 352].into_iter().enumerate() {
            let own = all_of(&shares, &environment());
            assert_eq!(own.len(), count, "key {key}");
            held.extend(own);
        }
        assert_eq!(held.len(), 768);
        assert!(shares.take(&session("work_2")).is_err());
        assert!(shares.take(&Caller::Operator(WorkspaceId::default())).unwrap().is_none());
        held.clear();
        assert_eq!(all_of(&shares, &session("work_1")).len(), 32, "what is dropped is free again");
        assert!(lock(&shares.taken).by_credential.is_empty(), "nothing is kept of who has none");
    }
    #[test]
    fn polls_have_a_share_of_their_own_and_one_key_has_not_all_of_it() {
        let shares = Shares::new(Lasting::default());
        let (first, second) = (environment(), environment());
        let polls = |of: &Caller| std::iter::from_fn(|| shares.take_poll(of).ok()).take(2000).collect::<Vec<_>>();
        let held = polls(&first);
        assert_eq!(held.len(), 256);
        let refused = shares.take_poll(&first).unwrap_err();
        assert_eq!((refused.status(), refused.error_code), (429, Some("limit_requests_under_way")));
        assert!(refused.message.contains("256 polls"), "{refused}");
        let streams = all_of(&shares, &first);
        assert_eq!(streams.len(), 384, "what lasts is counted apart");
        assert_eq!(polls(&second).len(), 256, "another key has its own");
        let (own, others) = (polls(&second), polls(&environment()));
        assert_eq!(own.len() + others.len(), 960 - 256 - 384, "and all together leave room for the rest");
        assert_eq!(shares.take(&second).unwrap_err().status(), 429);
        drop((held, streams, own, others));
        assert!(lock(&shares.taken).by_credential.is_empty());
        assert_eq!(polls(&first).len(), 256, "what is dropped is free again");
    }
}
