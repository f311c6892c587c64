//! Whether client events are acceptable: all of a request or none, before anything changes.

use postern_model::Problem;
use postern_model::event::{ClientEvent, Verdict};
use postern_model::ids::EventId;
use postern_model::problem::Kind;
use postern_model::session::SessionStatus;

use crate::calls::{Calls, Owner, Progress};
use crate::input::Author;
use crate::session::Session;

pub(crate) fn check(session: &Session, events: &[ClientEvent], author: Author) -> Result<(), Problem> {
    if session.overall.status == SessionStatus::Terminated {
        return Err(Problem::invalid("The session is terminated and takes no events. Create a new session."));
    }
    let calls = session.threads.iter().map(|thread| thread.state.calls.clone()).collect();
    let mut after = After { session, calls, answered: Vec::new(), messages: 0, outcomes: 0 };
    events.iter().enumerate().try_for_each(|(index, event)| {
        after
            .check(event, author)
            .and_then(|()| match event {
                ClientEvent::SystemMessage { .. } => system(session, &events[..index], &events[index + 1..]),
                _ => Ok(()),
            })
            .map_err(|problem| Problem { message: format!("events.{index}: {}", problem.message), ..problem })
    })
}

/// Whether system text may stand between these events of its request (contract 3.1).
fn system(session: &Session, before: &[ClientEvent], after: &[ClientEvent]) -> Result<(), Problem> {
    if !session.hears_system {
        let message = "system.message: the agent's model is not named in `[model] system_messages` of this server as one that takes \
                       system text in mid-conversation; put it into the agent's `system` or into a user.message";
        return Err(Problem::invalid(message).with_code("model_does_not_support_mid_conversation_system"));
    }
    if !after.is_empty() {
        return Err(Problem::invalid("system.message: a request has at most one, as its last event"));
    }
    let of_primary = |call: &EventId| session.threads[0].state.calls.find(call).is_some();
    match before.last() {
        Some(ClientEvent::UserMessage { .. }) => Ok(()),
        Some(
            ClientEvent::UserToolResult { tool_use_id: call, .. }
            | ClientEvent::UserCustomToolResult { custom_tool_use_id: call, .. },
        ) if of_primary(call) => Ok(()),
        Some(ClientEvent::UserToolResult { .. } | ClientEvent::UserCustomToolResult { .. }) => Err(Problem::invalid(
            "system.message: it goes to the session's own thread; the result before it is of another's call",
        )),
        Some(_) | None => Err(Problem::invalid(
            "system.message: it stands directly after a user.message, user.tool_result or user.custom_tool_result",
        )),
    }
}

/// The calls of each thread as they would be after the events that were checked so far.
struct After<'a> {
    session: &'a Session,
    calls: Vec<Calls>,
    answered: Vec<EventId>,
    messages: usize,
    outcomes: usize,
}

impl After<'_> {
    fn check(&mut self, event: &ClientEvent, author: Author) -> Result<(), Problem> {
        event.check()?;
        self.affordable(event)?;
        match event {
            ClientEvent::UserToolResult { tool_use_id, .. } => self.result(tool_use_id, Owner::Worker),
            ClientEvent::UserCustomToolResult { custom_tool_use_id, .. } => {
                self.result(custom_tool_use_id, Owner::Custom)
            }
            _ if author == Author::Worker => Err(Problem::permission(
                "a worker's credential may only send user.tool_result and user.custom_tool_result; use an API key",
            )),
            ClientEvent::UserToolConfirmation { tool_use_id, result, .. } => self.confirmation(tool_use_id, *result),
            ClientEvent::UserInterrupt { session_thread_id: None } => {
                (0..self.calls.len()).for_each(|at| self.interrupt(at));
                Ok(())
            }
            ClientEvent::UserInterrupt { session_thread_id: Some(thread) } => match self.session.position(thread) {
                Some(at) if self.session.is_of_open_run(&self.session.threads[at]) => Err(Problem::invalid(
                    "the thread is of a workflow run that is open; interrupt the session, or ask its agent to stop the run",
                )
                .with_code("workflow_run_open")),
                Some(at) => {
                    self.interrupt(at);
                    Ok(())
                }
                None => Err(Problem::not_found("the session has no such thread").with_code("thread_not_found")),
            },
            ClientEvent::UserMessage { .. } => {
                self.messages += 1;
                if self.session.threads[0].state.queue.len() + self.messages > self.session.limits.queued_messages {
                    return Err(Problem::new(
                        Kind::RateLimited,
                        "too many messages wait already; wait for the session to go idle",
                    ));
                }
                Ok(())
            }
            ClientEvent::UserDefineOutcome { .. } => self.outcome(),
            // Where it stands decides.
            ClientEvent::SystemMessage { .. } => Ok(()),
        }
    }

    /// The calls of this thread are closed.
    fn interrupt(&mut self, at: usize) {
        let calls = std::mem::take(&mut self.calls[at]);
        self.answered.extend(calls.iter().map(|call| call.id.clone()));
    }

    fn affordable(&self, event: &ClientEvent) -> Result<(), Problem> {
        let settles = matches!(
            event,
            ClientEvent::UserToolConfirmation { .. }
                | ClientEvent::UserToolResult { .. }
                | ClientEvent::UserCustomToolResult { .. }
                | ClientEvent::UserInterrupt { .. }
        );
        if settles || !self.session.is_at_cap() {
            return Ok(());
        }
        let message = "the session has spent its budget and takes only user.tool_confirmation, user.tool_result, \
                       user.custom_tool_result and user.interrupt; raise or remove `budget` of the session to go on";
        Err(Problem::invalid(message).with_code("budget_reached"))
    }

    fn outcome(&mut self) -> Result<(), Problem> {
        let state = &self.session.threads[0].state;
        self.outcomes += 1;
        if state.outcome.is_some() || self.outcomes > 1 {
            return Err(Problem::invalid(
                "an outcome is being worked at, and a session has one at a time; wait for its end, or send a user.interrupt",
            ));
        }
        if self.session.overall.status != SessionStatus::Idle || self.calls.iter().any(|calls| !calls.is_empty()) {
            return Err(Problem::invalid(
                "an outcome is defined while the session is idle and no call waits for an answer; wait for that",
            ));
        }
        Ok(())
    }

    fn result(&mut self, id: &EventId, owner: Owner) -> Result<(), Problem> {
        let call = self.open(id)?;
        if call.0 != owner {
            let right = match call.0 {
                Owner::Worker => "user.tool_result",
                Owner::Custom => "user.custom_tool_result",
                Owner::Server | Owner::Advisor => {
                    let message = format!("`{id}` is a call that this server makes itself, and answers");
                    return Err(Problem::invalid(message));
                }
            };
            return Err(Problem::invalid(format!("`{id}` is answered with {right}")));
        }
        if call.1 == Progress::Asking {
            return Err(Problem::invalid(format!(
                "`{id}` waits for a user.tool_confirmation and may not run before it"
            )));
        }
        self.answer(id);
        Ok(())
    }

    fn confirmation(&mut self, id: &EventId, verdict: Verdict) -> Result<(), Problem> {
        if self.open(id)?.1 != Progress::Asking {
            return Err(Problem::invalid(format!("`{id}` does not wait for a confirmation")));
        }
        match verdict {
            Verdict::Allow => self.calls.iter_mut().for_each(|calls| calls.confirm(id)),
            Verdict::Deny => self.answer(id),
        }
        Ok(())
    }

    fn open(&self, id: &EventId) -> Result<(Owner, Progress), Problem> {
        if let Some(call) = self.calls.iter().find_map(|calls| calls.find(id)) {
            return Ok((call.owner, call.progress));
        }
        if self.answered.contains(id) || self.session.threads.iter().any(|thread| thread.state.answered.contains(id)) {
            return Err(Problem::invalid(format!("`{id}` is already answered; the first answer counts")));
        }
        Err(Problem::invalid(format!("`{id}` is no tool use of this session")))
    }

    fn answer(&mut self, id: &EventId) {
        self.calls.iter_mut().for_each(|calls| calls.close(id));
        self.answered.push(id.clone());
    }
}
