//! What a session has spent and what it may: before a model request beyond that, it pauses until its budget is changed.
//!
//! The price of a request is noted beside its start (`marks`), so that the log alone says what a session has cost, whatever
//! a later configuration says.

use postern_model::event::{EventBody, ModelUsage, StopReason};
use postern_model::ids::EventId;
use postern_model::money::{BudgetLimit, Cost, MonetaryAmount, Price};
use postern_model::session::SessionStatus;
use serde::{Deserialize, Serialize};

use crate::input::Counsel;
use crate::machine::Step;
use crate::marks::{self, Mark};
use crate::session::Session;

/// What the models cost that a session asks; `None` where nobody said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// The agent's own.
    pub agent: Option<Price>,
    /// The judge of calls.
    pub judge: Option<Price>,
    /// The grader of outcomes.
    pub grader: Option<Price>,
}

impl Prices {
    pub(crate) fn of(&self, counsel: Counsel) -> Option<Price> {
        match counsel {
            Counsel::Judge => self.judge,
            Counsel::Grader => self.grader,
        }
    }
}

/// What a session has spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spending {
    /// No model was asked whose price is known.
    #[default]
    Nothing,
    /// Exactly this.
    Known(Cost),
    /// It used tokens that have no price.
    Unknown,
}

impl Spending {
    /// With these tokens at this price.
    #[must_use]
    pub(crate) fn with(self, price: Option<&Price>, tokens: &ModelUsage) -> Self {
        match (self, price) {
            (Self::Unknown, _) => Self::Unknown,
            (_, None) if *tokens == ModelUsage::default() => self,
            (_, None) => Self::Unknown,
            (Self::Nothing, Some(price)) => Self::Known(price.of(tokens)),
            (Self::Known(cost), Some(price)) => Self::Known(cost.plus(price.of(tokens))),
        }
    }

    /// What two have spent.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Nothing, known) | (known, Self::Nothing) => known,
            (Self::Known(one), Self::Known(other)) => Self::Known(one.plus(other)),
        }
    }

    /// As clients are shown it.
    pub fn shown(self) -> Option<MonetaryAmount> {
        match self {
            Self::Known(cost) => Some(cost.shown()),
            Self::Nothing | Self::Unknown => None,
        }
    }

    /// Whether a budget allows nothing more. One that cannot be measured allows nothing.
    pub fn reaches(self, budget: BudgetLimit) -> bool {
        match self {
            Self::Nothing => false,
            Self::Known(cost) => cost >= budget.max_list_cost.cost(),
            Self::Unknown => true,
        }
    }
}

impl Session {
    /// Whether the session has spent what it may.
    pub(crate) fn is_at_cap(&self) -> bool {
        self.budget.is_some_and(|budget| self.spending().reaches(budget))
    }
}

impl Step<'_> {
    /// Whether the session will have spent what it may, with these tokens of the request of this thread.
    pub(crate) fn will_be_at_cap(&self, tokens: &ModelUsage) -> bool {
        let spending = self.session.spending().with(self.state().price.as_ref(), tokens);
        self.session.budget.is_some_and(|budget| spending.reaches(budget))
    }

    /// Pauses where the next model request would come, at the cap.
    pub(crate) fn pause(&mut self) {
        if let Some(call) = self.question() {
            return self.advised_nothing(&call, "The session's budget is spent.");
        }
        self.rest_runs();
        // What waited is in the conversation: the request that comes when the budget allows it takes it along.
        self.flush();
        self.idle(StopReason::BudgetReached {}, None);
    }

    /// The same where the next request would be the grader's. A note says so.
    pub(crate) fn pause_before_grading(&mut self) {
        self.rest_runs();
        self.flush();
        self.idle_with(StopReason::BudgetReached {}, None, Some(Mark::Ungraded));
    }

    /// Goes on where the budget paused the turn.
    pub(crate) fn resume_paused(&mut self) {
        if self.session.is_at_cap() {
            return;
        }
        // Who heard something new meanwhile works on before its work is graded.
        let is_graded = self.state().ungraded && !self.state().has_mail();
        self.run();
        // A dormant session has no worker any more.
        self.ensure_work();
        if is_graded { self.end_of_turn() } else { self.settle() }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state().status == SessionStatus::Idle && self.state().stop == Some(StopReason::BudgetReached {})
    }

    /// Appends the start of something that costs: its price is noted beside it.
    pub(crate) fn begin_costly(&mut self, body: EventBody, mark: Option<Mark>, price: Option<Price>) -> EventId {
        let kept: Vec<_> = mark.into_iter().flat_map(Mark::kept).chain(price.map(marks::price)).collect();
        if kept.is_empty() { self.append(body) } else { self.append_with(body, kept) }
    }
}
