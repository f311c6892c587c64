//! What a step of the rehearsal is: tool uses to play, and what must be true of their results.

use serde_json::{Value, json};

/// Whose work a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Work that must succeed.
    Honest,
    /// An attempt that must fail.
    Attack,
}

/// One thing the agent does, with what must be true of it afterwards.
pub(crate) struct Step {
    pub(crate) title: &'static str,
    pub(crate) intent: Intent,
    pub(crate) tool_uses: Vec<ToolUse>,
    pub(crate) expectations: Vec<Expectation>,
}

/// A tool use as the model asks for it.
pub(crate) struct ToolUse {
    pub(crate) name: &'static str,
    pub(crate) input: Value,
}

/// Something that must hold over all results of a step together.
#[derive(Clone, Debug)]
pub(crate) enum Expectation {
    /// The results contain this text: the attempt was really made, or the work really done.
    Contains(String),
    /// The results do not contain this text.
    Lacks(String),
    /// The boundary refused something for exactly this reason, and said so.
    Refused(&'static str),
    /// The number after this label in the results is at most the bound.
    AtMost(&'static str, u64),
    /// The number after this label in the results is at least the bound.
    AtLeast(&'static str, u64),
}

impl Step {
    pub(crate) fn honest(title: &'static str) -> Self {
        Self { title, intent: Intent::Honest, tool_uses: vec![], expectations: vec![] }
    }

    pub(crate) fn attack(title: &'static str) -> Self {
        Self { title, intent: Intent::Attack, tool_uses: vec![], expectations: vec![] }
    }

    pub(crate) fn bash(self, command: impl Into<String>) -> Self {
        let command: String = command.into();
        self.tool("bash", json!({ "command": command }))
    }

    pub(crate) fn tool(mut self, name: &'static str, input: Value) -> Self {
        self.tool_uses.push(ToolUse { name, input });
        self
    }

    pub(crate) fn contains(self, text: impl Into<String>) -> Self {
        self.expect(Expectation::Contains(text.into()))
    }

    pub(crate) fn lacks(self, text: impl Into<String>) -> Self {
        self.expect(Expectation::Lacks(text.into()))
    }

    pub(crate) fn refused(self, reason: &'static str) -> Self {
        self.expect(Expectation::Refused(reason))
    }

    pub(crate) fn at_most(self, label: &'static str, bound: u64) -> Self {
        self.expect(Expectation::AtMost(label, bound))
    }

    pub(crate) fn at_least(self, label: &'static str, bound: u64) -> Self {
        self.expect(Expectation::AtLeast(label, bound))
    }

    fn expect(mut self, expectation: Expectation) -> Self {
        self.expectations.push(expectation);
        self
    }

    /// The turn of the rehearsal model that plays this step.
    pub(crate) fn turn(&self) -> Value {
        let tool_uses: Vec<_> =
            self.tool_uses.iter().map(|tool| json!({"name": tool.name, "input": tool.input})).collect();
        json!({"text": self.title, "tool_uses": tool_uses})
    }
}

impl Expectation {
    /// `None` when it holds over `results`, else what is wrong.
    pub(crate) fn broken(&self, results: &str) -> Option<String> {
        match self {
            Self::Contains(text) => (!results.contains(text.as_str())).then(|| format!("'{text}' is missing")),
            Self::Lacks(text) => results.contains(text.as_str()).then(|| format!("'{text}' came back")),
            Self::Refused(reason) => {
                (!reasons(results).any(|found| found == *reason)).then(|| format!("no refusal with reason {reason}"))
            }
            Self::AtMost(label, bound) => out_of_bound(results, label, |found| found <= *bound),
            Self::AtLeast(label, bound) => out_of_bound(results, label, |found| found >= *bound),
        }
    }
}

/// Reason codes of all refusals in the results: answered as problem documents, or appended as lines where no answer was possible.
pub(crate) fn reasons(results: &str) -> impl Iterator<Item = &str> {
    let answered = results.split("\"reason\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let appended =
        results.lines().filter(|line| line.starts_with(APPENDED)).filter_map(|line| word_after(line, "reason="));
    answered.chain(appended)
}

/// What a person reads of each refusal: reason and next step.
pub(crate) fn refusals(results: &str) -> Vec<String> {
    let answered = results.split("\"reason\":\"").skip(1).filter_map(|rest| {
        let reason = rest.split('"').next()?;
        let next = rest.split("\"next_step\":\"").nth(1)?.split('"').next()?;
        Some(format!("{reason}: {next}"))
    });
    let appended = results.lines().filter_map(|line| line.strip_prefix(APPENDED)).filter_map(|line| {
        let next = line.split("next=").nth(1)?;
        Some(format!("{}: {next}", word_after(line, "reason=")?))
    });
    let mut all: Vec<String> = answered.chain(appended).collect();
    all.dedup();
    all
}

const APPENDED: &str = "[postern] refused ";

fn word_after<'a>(line: &'a str, label: &str) -> Option<&'a str> {
    line.split(label).nth(1)?.split_whitespace().next()
}

fn out_of_bound(results: &str, label: &str, holds: impl Fn(u64) -> bool) -> Option<String> {
    let Some(number) = results.split(label).nth(1) else { return Some(format!("no '{label}' in the results")) };
    let digits: String = number.trim_start_matches([':', ' ']).chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u64>() {
        Ok(found) if holds(found) => None,
        Ok(found) => Some(format!("{label} {found}")),
        Err(_) => Some(format!("no number after '{label}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expectation_says_what_is_missing() {
        let results = "processes: 12\n[postern] refused evil.example:443 reason=host_not_allowed next=ask\n{\"status\":403,\"reason\":\"path_not_allowed\",\"next_step\":\"stay\"}";
        let table = [
            (Expectation::Contains("processes".into()), true),
            (Expectation::Contains("absent".into()), false),
            (Expectation::Lacks("absent".into()), true),
            (Expectation::Lacks("processes".into()), false),
            (Expectation::Refused("host_not_allowed"), true),
            (Expectation::Refused("path_not_allowed"), true),
            (Expectation::Refused("port_not_allowed"), false),
            (Expectation::AtMost("processes:", 12), true),
            (Expectation::AtMost("processes:", 11), false),
            (Expectation::AtLeast("processes:", 13), false),
        ];
        for (expectation, holds) in table {
            assert_eq!(expectation.broken(results).is_none(), holds, "{expectation:?}");
        }
    }

    #[test]
    fn a_missing_number_breaks_a_bound() {
        assert!(Expectation::AtMost("processes:", 5).broken("nothing here").is_some());
    }
}
