//! Plans for the attack program, and what it says of them. The texts that come back from a sandbox are a stranger's: read, bounded, never trusted.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_secret::decode::{Encoding, decode_bounded};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalogue::{Attempt, Outcome, Probe};
use crate::gateway::{Ask, Call};

/// The attack program: the same text inside and outside.
pub(crate) const PROGRAM: &str = include_str!("../data/attack.py");
/// The interpreter, where systems have it.
pub(crate) const INTERPRETER: &str = "/usr/bin/python3";

/// What one run of the program attempts, and what it needs to know for it.
#[derive(Serialize)]
pub(crate) struct Plan<'a> {
    pub(crate) namespace: bool,
    /// `inside` or `outside`: what requests say of where they come from.
    pub(crate) side: &'a str,
    /// The variable that holds the credential on this side.
    pub(crate) variable: &'a str,
    /// Outcomes of an exchange that show that an upstream took it.
    pub(crate) taken: &'a [&'a str],
    /// Outside: who plays which host.
    pub(crate) hosts: BTreeMap<String, String>,
    /// Outside: the file of the client certificate, for whoever asks for one.
    pub(crate) certificate: String,
    /// Outside: who tells where names lead.
    pub(crate) names: String,
    /// The user that the perimeter runs as.
    pub(crate) outer_uid: String,
    /// The neighbour's placeholder.
    pub(crate) neighbour: String,
    /// The canary of the API's credential, backwards: whoever searches what lies inside does not find it here.
    pub(crate) real: String,
    pub(crate) probes: Vec<Planned<'a>>,
}

/// One attempt of a plan.
#[derive(Serialize)]
pub(crate) struct Planned<'a> {
    pub(crate) id: &'a str,
    pub(crate) attempt: Attempt,
}

/// How one attempt ended, and what it brought back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) detail: Vec<u8>,
}

#[derive(Deserialize)]
struct Line {
    id: String,
    outcome: String,
    #[serde(default)]
    detail: String,
}

/// What a program printed, by probe. Lines that are none of its are passed over.
pub(crate) fn read(printed: &str) -> BTreeMap<String, Ended> {
    let lines = printed.lines().filter_map(|line| line.strip_prefix('@'));
    let lines = lines.filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let ended = lines.map(|line| {
        let outcome = Outcome::new(line.outcome.chars().take(LONGEST_OUTCOME).collect::<String>());
        (line.id, Ended { outcome, detail: STANDARD.decode(line.detail).unwrap_or_default() })
    });
    ended.collect()
}

/// Names in braces that stand for what is known only when the stand is up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    pub(crate) fn put(&mut self, name: &str, meaning: impl ToString) {
        self.0.insert(format!("{{{name}}}"), meaning.to_string());
    }

    /// The attempt with every name replaced.
    pub(crate) fn fill(&self, attempt: &Attempt) -> Attempt {
        Attempt(attempt.0.iter().map(|value| self.filled(value)).collect())
    }

    pub(crate) fn fill_text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, meaning)| text.replace(name, meaning))
    }

    fn filled(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill_text(text)),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.filled(item)).collect()),
            Value::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (key.clone(), self.filled(value))).collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
}

/// A shell command that has the program hold a connection to a host and leave marks, and returns when it does.
pub(crate) fn holding(plan: &Plan<'_>, host: &str) -> String {
    let plan = serde_json::to_string(plan).unwrap_or_default().replace('\'', r"'\''");
    format!(
        "cd /workspace; rm -f .go .held .marks; setsid {INTERPRETER} -I -S {INSIDE_PATH} hold '{plan}' {host} > .held 2>&1 & for i in $(seq 200); do grep -q first /workspace/.held && break; sleep 0.05; done; cat /workspace/.held"
    )
}

/// A shell command that has it go on, and says how that ended.
pub(crate) const GO_ON: &str =
    "cd /workspace; touch .go; for i in $(seq 200); do grep -q second .held && break; sleep 0.05; done; cat .held";

/// A shell command that runs a plan inside.
pub(crate) fn command(plan: &Plan<'_>) -> String {
    let plan = serde_json::to_string(plan).unwrap_or_default();
    format!("{INTERPRETER} -I -S {INSIDE_PATH} '{}'", plan.replace('\'', r"'\''"))
}

/// The tool of an attempt that is a tool use, and its input.
pub(crate) fn tool(attempt: &Attempt) -> Option<(&str, &Value)> {
    match &attempt.0[..] {
        [Value::String(kind), Value::String(name), input] if kind == "tool" => Some((name, input)),
        _ => None,
    }
}

/// The file tool and the path of an attempt that is a race.
pub(crate) fn race(attempt: &Attempt) -> Option<(&str, &str)> {
    match &attempt.0[..] {
        [Value::String(kind), Value::String(tool), Value::String(path)] if kind == "race" => Some((tool, path)),
        _ => None,
    }
}

/// The role, the attempt and its argument of an attempt that a role of ours makes.
pub(crate) fn confined(attempt: &Attempt) -> Option<(&str, Vec<&str>)> {
    let words: Vec<&str> = attempt.0.iter().filter_map(Value::as_str).collect();
    match words[..] {
        ["confined", role, ref rest @ ..] if !rest.is_empty() => Some((role, rest.to_vec())),
        _ => None,
    }
}

/// The call of an attempt that goes through a tunnel.
pub(crate) fn gateway(attempt: &Attempt) -> Option<Call> {
    match &attempt.0[..] {
        [Value::String(kind), call] if kind == "gateway" => serde_json::from_value(call.clone()).ok(),
        _ => None,
    }
}

/// What an attempt over a control stream asks for, or looks at afterwards.
pub(crate) fn renewal(attempt: &Attempt) -> Option<Ask> {
    match &attempt.0[..] {
        [Value::String(kind), Value::String(seen)] if kind == "renewal" => {
            serde_json::from_value(seen.as_str().into()).ok().map(Ask::Aftermath)
        }
        [Value::String(kind), asked] if kind == "renewal" => {
            serde_json::from_value(asked.clone()).ok().map(Ask::Renewal)
        }
        _ => None,
    }
}

/// Whether the attempt is made in a sandbox.
pub(crate) fn made_inside(probe: &Probe) -> bool {
    let elsewhere = ["check", "confined", "gateway", "renewal", "held", "named", "lend", "lent"];
    !probe.attempt.0.first().and_then(Value::as_str).is_some_and(|kind| elsewhere.contains(&kind))
}

/// What a session is held by, and what is looked at, of an attempt to go on while it is.
pub(crate) fn held(attempt: &Attempt) -> Option<(&str, &str)> {
    match &attempt.0[..] {
        [Value::String(kind), Value::String(hold), Value::String(looked)] if kind == "held" => Some((hold, looked)),
        _ => None,
    }
}

/// Whether the attempt is to be lent something, or to load a zone that would lend it.
pub(crate) fn lends(attempt: &Attempt) -> bool {
    matches!(attempt.0.first().and_then(Value::as_str), Some("named" | "lend"))
}

/// What is attempted in the sandbox of a zone that lends directories.
pub(crate) fn lent(attempt: &Attempt) -> Option<Attempt> {
    match &attempt.0[..] {
        [Value::String(kind), Value::Array(inner)] if kind == "lent" => Some(Attempt(inner.clone())),
        _ => None,
    }
}

/// The check of an attempt that is one of ours, made when everything has run.
pub(crate) fn check(probe: &Probe) -> Option<&str> {
    match &probe.attempt.0[..] {
        [Value::String(kind), Value::String(name)] if kind == "check" => Some(name),
        _ => None,
    }
}

/// The body of an HTTP answer, where it says that it is encoded: one encoding hides what is searched for.
pub(crate) fn decoded(answer: &[u8]) -> Option<Vec<u8>> {
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..at]).to_ascii_lowercase();
    let token = head.lines().find_map(|line| line.strip_prefix("content-encoding:"))?.trim().to_owned();
    decode_bounded(Encoding::from_token(&token)?, &answer[at + 4..], LONGEST_BODY).ok()
}

/// Where the program lies inside.
pub(crate) const INSIDE_PATH: &str = "/workspace/.postern-verify.py";
const LONGEST_OUTCOME: usize = 120;
const LONGEST_BODY: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sandbox_prints_besides_is_passed_over() {
        let printed = "noise\n@{\"id\":\"a/b\",\"outcome\":\"EPERM\",\"detail\":\"aGk=\"}\n@not json\n";
        let ended = read(printed);
        assert_eq!(ended.len(), 1);
        assert_eq!(ended["a/b"], Ended { outcome: Outcome::new("EPERM"), detail: b"hi".to_vec() });
    }

    #[test]
    fn names_are_replaced_everywhere_and_other_braces_stay() {
        let mut names = Names::default();
        names.put("port", 7);
        let attempt = Attempt(vec!["tcp".into(), serde_json::json!({"at": "{port} {key}"})]);
        assert_eq!(names.fill(&attempt).0[1], serde_json::json!({"at": "7 {key}"}));
    }

    #[test]
    fn a_plan_survives_the_shell() {
        let attempt = Attempt(vec!["read".into(), "it's".into()]);
        let probes = vec![Planned { id: "a/b", attempt }];
        let plan = Plan {
            namespace: false,
            side: "inside",
            variable: "V",
            taken: &[],
            hosts: BTreeMap::new(),
            certificate: String::new(),
            names: String::new(),
            outer_uid: String::new(),
            neighbour: String::new(),
            real: String::new(),
            probes,
        };
        assert!(command(&plan).contains(r#""it'\''s""#));
    }
}
