//! The verdict on a probe, from what was seen inside, outside and in the audit log. Pure: nothing here touches the system.

use std::collections::BTreeMap;

use crate::catalogue::{Against, Outcome, Probe};
use crate::report::Verdict;

/// Who runs the perimeter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Root,
    Ordinary,
}

/// What was seen of a probe.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// Inside; the reason when it did not come to an attempt.
    pub(crate) inside: Option<Outcome>,
    /// In the control run.
    pub(crate) outside: Option<Outcome>,
    /// The reasons of the refusals on record for its tool use.
    pub(crate) reasons: Vec<String>,
    /// Why it could not be attempted.
    pub(crate) hindrance: Option<String>,
}

/// The controls that this machine and this user cannot have, and why.
pub(crate) type Missing = BTreeMap<String, String>;

/// Judges a probe. One whose every control is missing here has nothing to test: whoever asks for all of them hears so.
pub(crate) fn judge(probe: &Probe, evidence: &Evidence, user: User, missing: &Missing) -> Verdict {
    let why = |control: &String| missing.get(control).map(|cause| format!("{control} is missing here: {cause}"));
    if let Some(causes) = probe.controls.iter().map(why).collect::<Option<Vec<_>>>() {
        return not_run(&causes.join("; "));
    }
    let Some(inside) = &evidence.inside else {
        return not_run(evidence.hindrance.as_deref().unwrap_or("the attempt inside brought no answer"));
    };
    if let Some(cause) = inside.skipped() {
        return not_run(cause);
    }
    if !probe.inside.contains(inside) {
        return Verdict::NotHeld {
            why: format!("inside it ended with \"{inside}\", not with {}", either(&probe.inside)),
        };
    }
    if let Some(reason) = &probe.record
        && !evidence.reasons.contains(reason)
    {
        return Verdict::NotHeld {
            why: format!("the refusal is not on record as {reason}; on record: {}", evidence.reasons.join(", ")),
        };
    }
    match control_run(probe, evidence, user) {
        Ok(()) => Verdict::Held,
        Err(cause) => not_run(&cause),
    }
}

/// Whether the control run shows that the attempt works where the boundary is not.
fn control_run(probe: &Probe, evidence: &Evidence, user: User) -> Result<(), String> {
    if probe.against == Against::Nowhere || (probe.root_only && user == User::Ordinary) {
        return Ok(());
    }
    let Some(outside) = &evidence.outside else {
        return Err(evidence.hindrance.clone().unwrap_or_else(|| "the control run brought no answer".to_owned()));
    };
    if let Some(cause) = outside.skipped() {
        return Err(format!("the control run: {cause}"));
    }
    let shows =
        if probe.outside.is_empty() { !probe.inside.contains(outside) } else { probe.outside.contains(outside) };
    match shows {
        true => Ok(()),
        false => Err(format!(
            "the control run ended with \"{outside}\", so what was seen inside proves nothing; it should be {}",
            if probe.outside.is_empty() { "another outcome than inside".to_owned() } else { either(&probe.outside) }
        )),
    }
}

fn not_run(cause: &str) -> Verdict {
    Verdict::NotRun { cause: cause.to_owned() }
}

fn either(outcomes: &[Outcome]) -> String {
    outcomes.iter().map(|outcome| format!("\"{outcome}\"")).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Attempt, Promise};

    fn probe() -> Probe {
        Probe {
            id: "area/name".into(),
            promise: Promise::P3,
            controls: vec!["netns".into()],
            tries: "tries".into(),
            attempt: Attempt(vec!["tcp".into()]),
            setup: None,
            inside: vec![Outcome::new("refused raw_address")],
            against: Against::Namespace,
            twin: None,
            outside: Vec::new(),
            because: None,
            root_only: false,
            record: Some("raw_address".into()),
            leak: false,
            alone: false,
        }
    }

    fn seen(inside: &str, outside: &str, reasons: &[&str]) -> Evidence {
        let outcome = |word: &str| (!word.is_empty()).then(|| Outcome::new(word));
        Evidence {
            inside: outcome(inside),
            outside: outcome(outside),
            reasons: reasons.iter().map(ToString::to_string).collect(),
            hindrance: None,
        }
    }

    #[test]
    fn a_probe_holds_only_when_inside_outside_and_record_agree() {
        let refused = "refused raw_address";
        let table = [
            (seen(refused, "made", &["raw_address"]), "held"),
            (seen("made", "made", &["raw_address"]), "not held"),
            (seen("ECONNREFUSED", "made", &["raw_address"]), "not held"),
            (seen(refused, "made", &[]), "not held"),
            (seen(refused, "made", &["host_not_allowed"]), "not held"),
            (seen(refused, refused, &["raw_address"]), "not run"),
            (seen(refused, "", &["raw_address"]), "not run"),
            (seen(refused, "skip no namespaces", &["raw_address"]), "not run"),
            (seen("skip no python", "made", &[]), "not run"),
            (seen("", "made", &[]), "not run"),
        ];
        for (evidence, wanted) in table {
            let verdict = judge(&probe(), &evidence, User::Root, &Missing::new());
            assert_eq!(verdict.word(), wanted, "{evidence:?}: {verdict:?}");
        }
    }

    #[test]
    fn a_control_run_must_end_as_the_catalogue_says_where_it_says_so() {
        let probe = Probe { outside: vec![Outcome::new("made")], record: None, ..probe() };
        assert_eq!(
            judge(&probe, &seen("refused raw_address", "ETIMEDOUT", &[]), User::Root, &Missing::new()).word(),
            "not run"
        );
        assert_eq!(
            judge(&probe, &seen("refused raw_address", "made", &[]), User::Root, &Missing::new()).word(),
            "held"
        );
    }

    #[test]
    fn a_probe_of_a_control_that_is_missing_here_is_not_a_pass_and_says_why() {
        let missing = Missing::from([("netns".to_owned(), "no namespaces".to_owned())]);
        let evidence = seen("refused raw_address", "made", &["raw_address"]);
        let verdict = judge(&probe(), &evidence, User::Root, &missing);
        assert_eq!(verdict.why(), Some("netns is missing here: no namespaces"));
        let two = Probe { controls: vec!["netns".into(), "seccomp".into()], ..probe() };
        assert_eq!(judge(&two, &evidence, User::Root, &missing).word(), "held");
    }

    #[test]
    fn what_only_root_can_show_is_shown_as_root() {
        let probe = Probe { root_only: true, record: None, ..probe() };
        let evidence = seen("refused raw_address", "refused raw_address", &[]);
        assert_eq!(judge(&probe, &evidence, User::Root, &Missing::new()).word(), "not run");
        assert_eq!(judge(&probe, &evidence, User::Ordinary, &Missing::new()).word(), "held");
    }
}
