//! The verdict on a probe, from what was seen inside, outside and in the audit log. Pure: nothing here touches the system.

use std::collections::BTreeMap;

use crate::catalogue::{Against, Outcome, Probe};
use crate::recorded;
use crate::report::{Cause, Verdict};

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
    /// The reasons of the alarms on record for it.
    pub(crate) alarms: Vec<String>,
    /// Why it could not be attempted.
    pub(crate) hindrance: Option<String>,
    /// What ended the run before it came to this.
    pub(crate) broken_off: Option<String>,
}

impl Evidence {
    /// Why there is no answer of this attempt, or of its control run.
    fn missing(&self, what: &str) -> Verdict {
        match (&self.broken_off, &self.hindrance) {
            (Some(what), _) => not_run(Cause::BrokenOff, &format!("the run was broken off before: {what}")),
            (None, Some(hindrance)) => not_run(Cause::NoAnswer, hindrance),
            (None, None) => not_run(Cause::NoAnswer, what),
        }
    }
}

/// The controls that this machine and this user cannot have, and why.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lacking {
    /// Not at all.
    pub(crate) missing: BTreeMap<String, String>,
    /// In a weaker form.
    pub(crate) weaker: BTreeMap<String, String>,
}

impl Lacking {
    fn why(&self, control: &str, whole: bool) -> Option<String> {
        if let Some(cause) = self.missing.get(control) {
            return Some(format!("{control} is missing: {cause}"));
        }
        let cause = self.weaker.get(control).filter(|_| whole)?;
        Some(format!("{control} is not whole: {cause}"))
    }
}

/// Judges a probe. One whose every control is missing here has nothing to test: whoever asks for all of them hears so.
pub(crate) fn judge(probe: &Probe, evidence: &Evidence, user: User, lacking: &Lacking) -> Verdict {
    let why = |control: &String| lacking.why(control, probe.whole);
    if let Some(causes) = probe.controls.iter().map(why).collect::<Option<Vec<_>>>() {
        return without_controls(probe, evidence, &causes.join("; "));
    }
    let Some(inside) = &evidence.inside else {
        return evidence.missing("the attempt inside brought no answer");
    };
    if let Some(cause) = inside.skipped() {
        return skipped(cause, cause);
    }
    if let Some(what) = &evidence.broken_off
        && !probe.outside.contains(inside)
        && (!probe.inside.contains(inside) || on_record(probe, evidence).is_err())
    {
        return cut_short(what, inside);
    }
    if !probe.inside.contains(inside) {
        return Verdict::NotHeld {
            why: format!("inside it ended with \"{inside}\", not with {}", either(&probe.inside)),
        };
    }
    if let Err(why) = on_record(probe, evidence) {
        return Verdict::NotHeld { why };
    }
    control_run(probe, evidence, user).unwrap_or(Verdict::Held)
}

/// An attempt that did not get through and did not end as it should either, when a part of the perimeter ended: that end may be what it saw.
fn cut_short(what: &str, inside: &Outcome) -> Verdict {
    not_run(Cause::BrokenOff, &format!("the run was broken off: {what}; inside it ended with \"{inside}\""))
}

/// What is to be said where no control of a probe is there: whether its attack succeeded, which is then nobody's failure.
fn without_controls(probe: &Probe, evidence: &Evidence, causes: &str) -> Verdict {
    match evidence.inside.as_ref().filter(|inside| inside.skipped().is_none() && !probe.inside.contains(inside)) {
        Some(inside) => not_run(
            Cause::Open,
            &not_here(&format!("{causes}; nothing stands in its way, and the attempt ended with \"{inside}\"")),
        ),
        None => not_run(Cause::NotHere, &not_here(causes)),
    }
}

/// Whether one of the right reasons is on record, and where that is an alarm, the alarm too.
fn on_record(probe: &Probe, evidence: &Evidence) -> Result<(), String> {
    if probe.record.is_empty() {
        return Ok(());
    }
    let mut recorded = probe.record.iter().filter(|reason| evidence.reasons.contains(reason)).peekable();
    if recorded.peek().is_none() {
        return Err(format!(
            "what came of it is not on record as {}; on record: {}",
            probe.record.join(" or "),
            evidence.reasons.join(", ")
        ));
    }
    let mut silent = recorded.filter(|reason| recorded::is_alarming(reason) && !evidence.alarms.contains(reason));
    match silent.next() {
        Some(reason) => Err(format!("{reason} is on record and raised no alarm")),
        None => Ok(()),
    }
}

/// What is wrong with the control run, unless it shows that the attempt works where the boundary is not.
fn control_run(probe: &Probe, evidence: &Evidence, user: User) -> Option<Verdict> {
    if probe.against == Against::Nowhere {
        return None;
    }
    let Some(outside) = &evidence.outside else {
        return Some(evidence.missing("the control run brought no answer"));
    };
    if let Some(cause) = outside.skipped() {
        return Some(skipped(cause, &format!("the control run: {cause}")));
    }
    if probe.outside.contains(outside) {
        return None;
    }
    if probe.absent.contains(outside) {
        let cause = format!("this machine has nothing of the kind, the control run ended with \"{outside}\"");
        return Some(not_run(Cause::NotHere, &not_here(&cause)));
    }
    if probe.root_only && user == User::Ordinary {
        let cause = format!(
            "this user is refused it outside as well, the control run ended with \"{outside}\"; a run as root shows it"
        );
        return Some(not_run(Cause::NotHere, &not_here(&cause)));
    }
    let cause = format!(
        "the control run ended with \"{outside}\", so what was seen inside proves nothing; it should be {}",
        either(&probe.outside)
    );
    Some(not_run(Cause::NotShown, &cause))
}

/// An attempt that says itself that it could not be made, and whether that is the machine's or the user's.
fn skipped(said: &str, cause: &str) -> Verdict {
    match said.starts_with(NOT_HERE) {
        true => not_run(Cause::NotHere, said),
        false => not_run(Cause::NoAnswer, cause),
    }
}

/// The machine, or the user, has nothing to test with. Not a pass, and not a run that went wrong.
fn not_here(cause: &str) -> String {
    format!("{NOT_HERE}{cause}")
}

fn not_run(kind: Cause, cause: &str) -> Verdict {
    Verdict::NotRun { kind, cause: cause.to_owned() }
}

fn either(outcomes: &[Outcome]) -> String {
    outcomes.iter().map(|outcome| format!("\"{outcome}\"")).collect::<Vec<_>>().join(" or ")
}

/// What the causes begin with that are the machine's or the user's.
const NOT_HERE: &str = "not here: ";

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
            outside: vec![Outcome::new("made")],
            absent: vec![Outcome::new("ENOSYS")],
            says: BTreeMap::new(),
            because: None,
            root_only: false,
            whole: false,
            record: vec!["raw_address".into()],
            leak: false,
            alone: false,
        }
    }

    fn seen(inside: &str, outside: &str, reasons: &[&str]) -> Evidence {
        let outcome = |word: &str| (!word.is_empty()).then(|| Outcome::new(word));
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        Evidence {
            inside: outcome(inside),
            outside: outcome(outside),
            // Whatever of them is an alarm raised it.
            alarms: reasons.clone(),
            reasons,
            ..Evidence::default()
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
            (seen(refused, "ENOSYS", &["raw_address"]), "not run"),
            (seen("", "made", &[]), "not run"),
        ];
        for (evidence, wanted) in table {
            let verdict = judge(&probe(), &evidence, User::Root, &Lacking::default());
            assert_eq!(verdict.word(), wanted, "{evidence:?}: {verdict:?}");
        }
    }

    #[test]
    fn a_control_run_must_end_as_the_catalogue_says_where_it_says_so() {
        let probe = Probe { record: Vec::new(), ..probe() };
        assert_eq!(
            judge(&probe, &seen("refused raw_address", "ETIMEDOUT", &[]), User::Root, &Lacking::default()).word(),
            "not run"
        );
        assert_eq!(
            judge(&probe, &seen("refused raw_address", "made", &[]), User::Root, &Lacking::default()).word(),
            "held"
        );
    }

    #[test]
    fn a_probe_of_a_control_that_is_missing_here_is_not_a_pass_and_says_why() {
        let missing = BTreeMap::from([("netns".to_owned(), "no namespaces".to_owned())]);
        let missing = Lacking { missing, ..Lacking::default() };
        let evidence = seen("refused raw_address", "made", &["raw_address"]);
        let verdict = judge(&probe(), &evidence, User::Root, &missing);
        assert_eq!(verdict.why(), Some("not here: netns is missing: no namespaces"));
        let two = Probe { controls: vec!["netns".into(), "seccomp".into()], ..probe() };
        assert_eq!(judge(&two, &evidence, User::Root, &missing).word(), "held");
    }

    #[test]
    fn an_attack_that_succeeds_where_its_control_is_missing_is_said_to_be_open() {
        let missing = BTreeMap::from([("netns".to_owned(), "no namespaces".to_owned())]);
        let missing = Lacking { missing, ..Lacking::default() };
        let kind = |inside: &str| match judge(&probe(), &seen(inside, "made", &[]), User::Root, &missing) {
            Verdict::NotRun { kind, cause } => (kind, cause),
            other => panic!("{other:?}"),
        };
        let (open, why) = kind("made");
        assert_eq!(open, Cause::Open);
        assert!(why.starts_with("not here: netns is missing: no namespaces; ") && why.contains("\"made\""), "{why}");
        for inside in ["refused raw_address", "skip no python", ""] {
            assert_eq!(kind(inside).0, Cause::NotHere, "{inside}");
        }
    }

    #[test]
    fn a_reason_that_is_an_alarm_wants_the_alarm_on_record_too() {
        let refused = "refused real_secret_seen";
        let probe = Probe { record: vec!["real_secret_seen".into()], inside: vec![Outcome::new(refused)], ..probe() };
        let word = |alarms: &[&str]| {
            let alarms = alarms.iter().map(ToString::to_string).collect();
            let evidence = Evidence { alarms, ..seen(refused, "made", &["real_secret_seen"]) };
            judge(&probe, &evidence, User::Root, &Lacking::default()).word()
        };
        assert_eq!(word(&["real_secret_seen"]), "held");
        assert_eq!(word(&[]), "not held");
        assert_eq!(word(&["placeholder_wrong_host"]), "not held");
    }

    #[test]
    fn what_did_not_run_says_whether_that_is_the_machines() {
        let probe = Probe { record: Vec::new(), ..probe() };
        let refused = "refused raw_address";
        let kind = |evidence: &Evidence| match judge(&probe, evidence, User::Root, &Lacking::default()) {
            Verdict::NotRun { kind, .. } => Some(kind),
            Verdict::Held | Verdict::NotHeld { .. } => None,
        };
        let broken_off =
            |inside, outside| Evidence { broken_off: Some("egress ended".into()), ..seen(inside, outside, &[]) };
        assert_eq!(kind(&seen("skip not here: no such call", "made", &[])), Some(Cause::NotHere));
        assert_eq!(kind(&seen(refused, "skip not here: no such call", &[])), Some(Cause::NotHere));
        assert_eq!(kind(&seen(refused, "ENOSYS", &[])), Some(Cause::NotHere));
        assert_eq!(kind(&seen("skip no python", "made", &[])), Some(Cause::NoAnswer));
        assert_eq!(kind(&seen("", "made", &[])), Some(Cause::NoAnswer));
        assert_eq!(kind(&seen(refused, "", &[])), Some(Cause::NoAnswer));
        assert_eq!(kind(&seen(refused, "ETIMEDOUT", &[])), Some(Cause::NotShown));
        assert_eq!(kind(&broken_off("", "made")), Some(Cause::BrokenOff));
        assert_eq!(kind(&broken_off(refused, "")), Some(Cause::BrokenOff));
        assert_eq!(kind(&broken_off(refused, "made")), None);
        assert_eq!(kind(&broken_off("ECONNREFUSED", "made")), Some(Cause::BrokenOff));
        assert_eq!(kind(&broken_off("made", "made")), None, "what got through is no cut attempt");
        assert_eq!(kind(&seen("ECONNREFUSED", "made", &[])), None);
    }

    #[test]
    fn a_weaker_form_of_a_control_is_not_the_one_that_a_probe_wants_whole() {
        let weaker = BTreeMap::from([("netns".to_owned(), "half of it".to_owned())]);
        let lacking = Lacking { weaker, ..Lacking::default() };
        let evidence = seen("refused raw_address", "made", &["raw_address"]);
        assert_eq!(judge(&probe(), &evidence, User::Root, &lacking).word(), "held");
        let whole = Probe { whole: true, ..probe() };
        let verdict = judge(&whole, &evidence, User::Root, &lacking);
        assert_eq!(verdict.why(), Some("not here: netns is not whole: half of it"));
    }

    #[test]
    fn one_of_several_reasons_on_record_is_enough_and_none_is_not() {
        let probe = Probe { record: vec!["raw_address".into(), "address_metadata".into()], ..probe() };
        let word = |reasons: &[&str]| {
            judge(&probe, &seen("refused raw_address", "made", reasons), User::Root, &Lacking::default()).word()
        };
        assert_eq!(word(&["address_metadata"]), "held");
        assert_eq!(word(&["host_not_allowed"]), "not held");
        assert_eq!(word(&[]), "not held");
    }

    #[test]
    fn what_this_machine_or_this_user_cannot_show_is_not_a_pass_and_says_so() {
        let refused = "refused raw_address";
        let probe = Probe { root_only: true, record: Vec::new(), ..probe() };
        let why = |outside: &str, user| {
            let verdict = judge(&probe, &seen(refused, outside, &[]), user, &Lacking::default());
            verdict.why().unwrap_or_default().to_owned()
        };
        assert!(why("ENOSYS", User::Root).starts_with("not here: this machine has nothing of the kind"));
        assert!(why(refused, User::Ordinary).starts_with("not here: this user is refused it outside as well"));
        assert!(why(refused, User::Root).starts_with("the control run ended with"));
        assert_eq!(why("made", User::Ordinary), "");
    }
}
