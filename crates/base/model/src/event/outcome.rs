//! Outcomes: what a user wants to hold at the end, and what a grader makes of the work (contract 2.6 and 3.14).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::OutcomeId;
use crate::{Problem, Timestamp};

/// How often an outcome is graded unless the user says.
pub const DEFAULT_ITERATIONS: u32 = 3;
/// How often at most.
const MOST_ITERATIONS: u32 = 20;
/// The longest rubric, in characters.
pub const LONGEST_RUBRIC: usize = 262_144;
/// The longest description, in characters.
const LONGEST_DESCRIPTION: usize = 100_000;

/// What the work is measured by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rubric {
    /// A text.
    Text {
        /// It.
        content: String,
    },
}

impl Rubric {
    /// Reads the rubric of a request.
    ///
    /// # Errors
    /// 400: it is none, is too long, or is a file that nobody has read.
    pub fn parse(sent: &Value) -> Result<Self, Problem> {
        if sent["type"] == "file" {
            return Err(Problem::invalid_at("rubric", "file rubrics are read before an event is checked"));
        }
        let rubric: Self = serde_json::from_value(sent.clone())
            .map_err(|_| Problem::invalid_at("rubric", "must be {\"type\":\"text\",\"content\":TEXT}"))?;
        let Self::Text { content } = &rubric;
        length("rubric.content", content, LONGEST_RUBRIC)?;
        Ok(rubric)
    }

    /// Its text.
    pub fn text(&self) -> &str {
        let Self::Text { content } = self;
        content
    }
}

pub(super) fn check(description: &str, rubric: &Value, max_iterations: Option<u32>) -> Result<(), Problem> {
    length("description", description, LONGEST_DESCRIPTION)?;
    Rubric::parse(rubric)?;
    match max_iterations {
        Some(count) if !(1..=MOST_ITERATIONS).contains(&count) => {
            Err(Problem::invalid_at("max_iterations", format!("must be 1 to {MOST_ITERATIONS}, is {count}")))
        }
        Some(_) | None => Ok(()),
    }
}

fn length(at: &str, text: &str, most: usize) -> Result<(), Problem> {
    if text.trim().is_empty() || text.chars().count() > most {
        return Err(Problem::invalid_at(at, format!("must have 1 to {most} characters that are not all white space")));
    }
    Ok(())
}

/// What a grading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeResult {
    /// The outcome holds.
    Satisfied,
    /// Not yet: the work goes on.
    NeedsRevision,
    /// Not, and it is not graded again.
    MaxIterationsReached,
    /// It cannot be graded.
    Failed,
    /// The user ended it.
    Interrupted,
}

/// How far an outcome has come, as a session shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeProgress {
    /// Work at it has not begun.
    Pending,
    /// It is worked at.
    Running,
    /// It is graded.
    Evaluating,
    /// It holds.
    Satisfied,
    /// It did not hold when it was graded last.
    MaxIterationsReached,
    /// It cannot be graded.
    Failed,
    /// The user ended it.
    Interrupted,
}

/// One outcome of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "outcome_evaluation")]
pub struct OutcomeEvaluation {
    /// The outcome.
    pub outcome_id: OutcomeId,
    /// What the user wants.
    pub description: String,
    /// Counts from 0.
    pub iteration: u32,
    /// How far it has come.
    pub result: OutcomeProgress,
    /// What the grader said last.
    pub explanation: Option<String>,
    /// When it was over.
    pub completed_at: Option<Timestamp>,
}
