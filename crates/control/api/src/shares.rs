//! What holds a connection for long, counted by credential: a stream, a download, an upload; apart from these a poll that
//! waits for work, and apart from both a body that still arrives, for whoever has no more streams must still be able to stop
//! a session. There are so many connections, and no caller has them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_model::Problem;
use postern_model::problem::Kind;
use postern_store::keys::Lease;

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
    /// Polls of all, before who has a few already gets another.
    pub polls_of_all: usize,
    /// Polls that a key gets beyond that.
    pub few_polls: usize,
    /// Room for those.
    pub for_few: usize,
    /// Of all, and polls.
    pub with_polls: usize,
    /// Bodies of one session token.
    pub bodies_of_session: usize,
    /// Bodies of one key of any other kind.
    pub bodies_of_key: usize,
    /// Bodies of all.
    pub bodies_of_all: usize,
}

impl Default for Lasting {
    fn default() -> Self {
        Self {
            of_session: 32,
            of_key: 384,
            of_all: 768,
            polls_of_key: 256,
            polls_of_all: 512,
            few_polls: 8,
            for_few: 64,
            with_polls: 896,
            bodies_of_session: 16,
            bodies_of_key: 48,
            bodies_of_all: 96,
        }
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
    bodies: usize,
    by_credential: HashMap<(String, Of), usize>,
}

/// What a share is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    Lasting,
    Poll,
    Body,
}

impl Of {
    fn words(self) -> &'static str {
        match self {
            Self::Lasting => "streams, downloads and uploads",
            Self::Poll => "polls",
            Self::Body => "bodies on their way",
        }
    }
}

impl Taken {
    fn count(&mut self, of: Of) -> &mut usize {
        match of {
            Of::Lasting => &mut self.all,
            Of::Poll => &mut self.polls,
            Of::Body => &mut self.bodies,
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
        self.take_either(caller, Of::Lasting, self.most.of_session, self.most.of_key)
    }

    /// One more body of this caller's.
    ///
    /// # Errors
    /// 429, as above.
    pub(crate) fn take_body(&self, caller: &Caller) -> Result<Option<Share>, Problem> {
        self.take_either(caller, Of::Body, self.most.bodies_of_session, self.most.bodies_of_key)
    }

    /// One more poll of this caller's.
    ///
    /// # Errors
    /// 429, as above.
    pub(crate) fn take_poll(&self, caller: &Caller) -> Result<Share, Problem> {
        self.take_of((named(caller), Of::Poll), self.most.polls_of_key)
    }

    fn take_either(&self, caller: &Caller, of: Of, of_session: usize, of_key: usize) -> Result<Option<Share>, Problem> {
        let most = match caller {
            Caller::Operator(_) => return Ok(None),
            Caller::Session(_) => of_session,
            Caller::ApiKey(_) | Caller::Environment(_) | Caller::Tunnel(_) => of_key,
        };
        self.take_of((named(caller), of), most).map(Some)
    }

    fn take_of(&self, credential: (String, Of), most: usize) -> Result<Share, Problem> {
        let of = credential.1;
        let mut taken = lock(&self.taken);
        let with_polls = (taken.all + taken.polls, self.most.with_polls, "streams, downloads, uploads and polls");
        let own = taken.by_credential.get(&credential).copied().unwrap_or_default();
        let bounds = match of {
            Of::Lasting => vec![(taken.all, self.most.of_all, of.words()), with_polls],
            Of::Poll => {
                let more = if own < self.most.few_polls { self.most.for_few } else { 0 };
                let beyond = |(has, most, what): (usize, usize, &'static str)| (has, most + more, what);
                vec![beyond((taken.polls, self.most.polls_of_all, of.words())), beyond(with_polls)]
            }
            Of::Body => vec![(taken.bodies, self.most.bodies_of_all, of.words())],
        };
        for (has, most, what) in bounds {
            if has >= most {
                return Err(full("The server's callers have", most, what));
            }
        }
        if own >= most {
            return Err(full("This credential has", most, of.words()));
        }
        taken.by_credential.insert(credential.clone(), own + 1);
        *taken.count(of) += 1;
        drop(taken);
        Ok(Share { credential, taken: Arc::clone(&self.taken) })
    }
}

/// Whose. Tokens that open nothing any more have one share for all: they take nothing from whoever holds their item now.
fn named(caller: &Caller) -> String {
    match caller {
        Caller::Session(grant) if grant.lease != Lease::Alive => "ended tokens".to_owned(),
        caller => caller.log_name(),
    }
}

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
        let others = polls(&second);
        assert_eq!(others.len(), 256, "another key has its own");
        let third = environment();
        let few = polls(&third);
        assert_eq!(few.len(), 8, "who has none gets a few, whatever others have");
        assert!(shares.take_poll(&third).unwrap_err().message.contains("512 polls"));
        drop(few);
        let streams = all_of(&shares, &first);
        assert_eq!(streams.len(), 384, "polls leave room for what lasts");
        let few: Vec<_> = (0..9).flat_map(|_| polls(&environment())).collect();
        assert_eq!(few.len(), 64, "and there is some for the first of everybody");
        drop(few);
        assert_eq!(shares.take(&second).unwrap_err().status(), 429, "and all together for the rest");
        drop(others);
        let (lasting, again) = (all_of(&shares, &second), polls(&second));
        assert_eq!((lasting.len(), again.len()), (896 - 256 - 384, 8));
        drop((held, streams, lasting, again));
        assert!(lock(&shares.taken).by_credential.is_empty());
        assert_eq!(polls(&first).len(), 256, "what is dropped is free again");
    }

    #[test]
    fn who_has_all_that_lasts_leaves_bodies_to_others_and_of_bodies_too_nobody_has_all() {
        let shares = Shares::new(Lasting::default());
        let streams: Vec<_> = (0..2).map(|_| all_of(&shares, &environment())).collect();
        assert_eq!(streams.iter().map(Vec::len).sum::<usize>(), 768);
        let bodies = |of: &Caller| std::iter::from_fn(|| shares.take_body(of).ok()).take(2000).collect::<Vec<_>>();
        let (first, second) = (bodies(&environment()), bodies(&session("work_1")));
        assert_eq!((first.len(), second.len()), (48, 16));
        assert!(shares.take_body(&session("work_1")).unwrap_err().message.contains("16 bodies"));
        let rest = bodies(&environment());
        assert_eq!(rest.len(), 96 - 48 - 16);
        assert_eq!(shares.take_body(&environment()).unwrap_err().status(), 429);
        assert!(shares.take_body(&Caller::Operator(WorkspaceId::default())).unwrap().is_none());
        drop((streams, first, second, rest));
        assert!(lock(&shares.taken).by_credential.is_empty());
    }

    #[test]
    fn a_token_that_has_ended_takes_nothing_from_who_holds_its_item_now() {
        let shares = Shares::new(Lasting::default());
        let ended = |work: &str, lease: Lease| match session(work) {
            Caller::Session(grant) => Caller::Session(postern_store::keys::SessionGrant { lease, ..grant }),
            other => other,
        };
        let take = |of: &Caller| std::iter::from_fn(|| shares.take_body(of).ok()).take(2000).collect::<Vec<_>>();
        let held = take(&ended("work_1", Lease::Superseded));
        assert_eq!(held.len(), 16);
        assert_eq!(take(&ended("work_2", Lease::Revoked)).len(), 0, "they share one");
        assert_eq!(take(&session("work_1")).len(), 16);
    }
}
