//! Budgets: which sessions can have one, and changing it.

use std::collections::BTreeMap;

use postern_model::money::BudgetLimit;
use postern_model::session::SessionAgent;
use postern_model::{Field, Problem};
use postern_session::{Prices, Spending};
use serde_json::Value;

use crate::Settings;
use crate::actor::Actor;

impl Settings {
    /// What the models cost that a session with this agent asks.
    pub(crate) fn prices_of(&self, agent: &SessionAgent) -> Prices {
        let price = |model: &str| self.prices.get(model).copied();
        Prices {
            agent: price(&agent.model.id),
            judge: self.judge.as_deref().and_then(price),
            grader: price(self.grader.as_deref().unwrap_or(&agent.model.id)),
        }
    }

    /// The same for the other agents of its session and its advisor, by the names of their models.
    pub(crate) fn prices_of_roster(&self, agent: &SessionAgent) -> BTreeMap<String, Prices> {
        let advisor = agent.advisor().map(|model| {
            let prices = Prices { agent: self.prices.get(model).copied(), ..Prices::default() };
            (model.to_owned(), prices)
        });
        // Agents that it defines itself may have its own model.
        let members = agent.others().chain([agent]);
        let members = members.map(|member| (member.model.id.clone(), self.prices_of(member)));
        // An agent that has the advisor's model is asked for by a judge and a grader too.
        advisor.into_iter().chain(members).collect()
    }

    /// Checks that whatever a session with this agent can spend can be counted.
    fn must_be_budgetable(&self, agent: &SessionAgent) -> Result<(), Problem> {
        let own = [Some(agent.model.id.as_str()), self.judge.as_deref(), self.grader.as_deref()];
        let others = agent.others().map(|other| other.model.id.as_str());
        match own
            .into_iter()
            .flatten()
            .chain(others)
            .chain(agent.advisor())
            .find(|model| !self.prices.contains_key(*model))
        {
            None => Ok(()),
            Some(model) => Err(not_budgetable(&format!(
                "the model `{model}`, which the session can use, has no price: give it one in the server's configuration, in \
                 [model.price.\"{model}\"], or leave the budget out"
            ))),
        }
    }
}

/// The budget of a session that is created.
pub(crate) fn created(
    settings: &Settings,
    agent: &SessionAgent,
    sent: Field<Value>,
) -> Result<Option<BudgetLimit>, Problem> {
    match sent {
        Field::Absent => Ok(None),
        Field::Null => Err(Problem::invalid_at("budget", "must not be null; leave it out")),
        Field::Value(sent) => {
            let budget = BudgetLimit::parse(&sent)?;
            settings.must_be_budgetable(agent)?;
            Ok(Some(budget))
        }
    }
}

impl Actor {
    /// What an update makes of the budget; absent where it stays.
    pub(crate) fn changed_budget(&self, sent: &Field<Value>) -> Result<Field<BudgetLimit>, Problem> {
        let sent = match sent {
            Field::Absent => return Ok(Field::Absent),
            Field::Null if self.record.budget.is_none() => return Ok(Field::Absent),
            Field::Null => return Ok(Field::Null),
            Field::Value(sent) => sent,
        };
        if self.record.budget.is_none() {
            let message = "only a session that was created with a budget can have one, and one that was removed does not come \
                           back; create a new session with it";
            return Err(Problem::invalid_at("budget", message).with_code("budget_create_only"));
        }
        let budget = BudgetLimit::parse(sent)?;
        self.shared.settings.must_be_budgetable(&self.record.agent)?;
        let spending = self.session.spending();
        if spending == Spending::Unknown {
            return Err(not_budgetable(
                "the session has used a model without a price, which no budget can measure; remove it",
            ));
        }
        if spending.reaches(budget) {
            let message = "must be above what the session has spent, which `usage.list_cost` shows in whole cents";
            return Err(Problem::invalid_at("budget.max_list_cost.amount", message).with_code("budget_not_raised"));
        }
        Ok(if self.record.budget == Some(budget) { Field::Absent } else { Field::Value(budget) })
    }
}

fn not_budgetable(message: &str) -> Problem {
    Problem::invalid_at("budget", message).with_code("model_not_budgetable")
}
