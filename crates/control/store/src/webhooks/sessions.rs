//! What webhooks are told of a session's log: a few events of it, under the names that webhooks have for them.

use postern_model::Timestamp;
use postern_model::event::{EventBody, StopReason};
use postern_model::ids::{ThreadId, WorkspaceId};
use postern_model::webhook::{Happening, Subject};

use super::announce;
use crate::events::{Log, Placed};
use crate::{StoreError, Tx};

/// Notes what events of a session's log mean to webhooks, where they mean something and somebody listens.
///
/// # Errors
/// The database failed.
pub(crate) async fn announce_events(tx: &mut Tx, events: &[Placed<'_>]) -> Result<(), StoreError> {
    for (workspace, subject, at) in events.iter().filter(|placed| placed.is_news).flat_map(subjects) {
        announce(tx, workspace, subject, at).await?;
    }
    Ok(())
}

/// What webhooks hear of an event that took effect.
fn subjects<'a>(placed: &'a Placed<'_>) -> impl Iterator<Item = (&'a WorkspaceId, Subject, Timestamp)> {
    let Placed { log, event, .. } = placed;
    let of_session = happenings(&event.body).iter().map(|happening| Subject::new(*happening, &log.session));
    let of_thread =
        of_thread(log, &event.body).map(|(happening, thread)| Subject::new(happening, &log.session).of_thread(thread));
    let subjects = of_session.chain(of_thread);
    event
        .processed_at
        .into_iter()
        .flat_map(move |at| subjects.clone().map(move |subject| (&log.workspace, subject, at)))
}

/// What an event means of a thread that works for another; webhooks hear nothing of the primary one (contract 2.13).
fn of_thread<'a>(log: &Log, body: &'a EventBody) -> Option<(Happening, &'a ThreadId)> {
    match body {
        EventBody::ThreadCreated { session_thread_id, .. } => {
            Some((Happening::SessionThreadCreated, session_thread_id))
        }
        EventBody::ThreadStatusIdle { session_thread_id, .. } if log.parent.is_some() => {
            Some((Happening::SessionThreadIdled, session_thread_id))
        }
        EventBody::ThreadStatusTerminated { session_thread_id, .. } if log.parent.is_some() => {
            Some((Happening::SessionThreadTerminated, session_thread_id))
        }
        _ => None,
    }
}

fn happenings(body: &EventBody) -> &'static [Happening] {
    use Happening as H;
    match body {
        EventBody::StatusRunning {} => &[H::SessionStatusRunStarted, H::SessionRunning],
        EventBody::StatusRescheduled {} => &[H::SessionStatusRescheduled],
        EventBody::StatusTerminated {} => &[H::SessionStatusTerminated],
        EventBody::StatusIdle { stop_reason: StopReason::RequiresAction { .. }, .. } => {
            &[H::SessionStatusIdled, H::SessionIdled, H::SessionRequiresAction]
        }
        EventBody::StatusIdle { stop_reason: StopReason::BudgetReached {}, .. } => {
            &[H::SessionStatusIdled, H::SessionIdled, H::SessionBudgetReached]
        }
        EventBody::StatusIdle { .. } => &[H::SessionStatusIdled, H::SessionIdled],
        EventBody::SessionUpdated { .. } => &[H::SessionUpdated],
        EventBody::OutcomeEvaluationEnd { .. } => &[H::SessionOutcomeEvaluationEnded],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use postern_model::ids::{SessionId, WorkspaceId};

    use super::*;

    #[test]
    fn why_a_session_is_idle_is_told_where_webhooks_have_a_word_for_it() {
        for (stop_reason, told) in [
            (StopReason::EndTurn {}, None),
            (StopReason::RequiresAction { event_ids: Vec::new() }, Some(Happening::SessionRequiresAction)),
            (StopReason::BudgetReached {}, Some(Happening::SessionBudgetReached)),
        ] {
            let heard = happenings(&EventBody::StatusIdle { stop_reason, stop_details: None });
            assert_eq!(heard[..2], [Happening::SessionStatusIdled, Happening::SessionIdled]);
            assert_eq!(heard.get(2), told.as_ref());
        }
    }

    #[test]
    fn only_threads_that_work_for_another_are_told_of() {
        let thread = ThreadId::parse("sthr_2").unwrap();
        let primary = ThreadId::parse("sthr_1").unwrap();
        let log = |parent: Option<&ThreadId>| Log {
            workspace: WorkspaceId::default_workspace(),
            session: SessionId::parse("sesn_1").unwrap(),
            thread: thread.clone(),
            parent: parent.cloned(),
        };
        let (agent_name, session_thread_id) = ("scout".to_owned(), thread.clone());
        let named = || (agent_name.clone(), session_thread_id.clone());
        let idle = || {
            let (agent_name, session_thread_id) = named();
            let stop_reason = StopReason::EndTurn {};
            EventBody::ThreadStatusIdle { agent_name, session_thread_id, stop_reason, stop_details: None }
        };
        let ended = || {
            let (agent_name, session_thread_id) = named();
            EventBody::ThreadStatusTerminated { agent_name, session_thread_id }
        };
        for (body, happening) in
            [(idle(), Happening::SessionThreadIdled), (ended(), Happening::SessionThreadTerminated)]
        {
            assert_eq!(of_thread(&log(Some(&primary)), &body), Some((happening, &thread)));
            assert_eq!(of_thread(&log(None), &body), None, "the primary thread is its session");
        }
        let created = EventBody::ThreadCreated {
            agent_name: agent_name.clone(),
            session_thread_id: thread.clone(),
            workflow_run_id: None,
        };
        assert_eq!(of_thread(&log(None), &created), Some((Happening::SessionThreadCreated, &thread)));
    }
}
