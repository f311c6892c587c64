//! The shipped list, judged without the kernel: every call on every line changes what some call is answered. What a sandbox really answers to each is
//! tried in the boundary tests.

use postern_confine::list::entries;

use super::{COUNTED, INSIDE, NEVER};

/// What the filter says to a call.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Made,
    Denied,
    Unknown,
}

/// One call of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule<'a> {
    action: &'a str,
    call: &'a str,
    conditions: Vec<&'a str>,
}

fn rules() -> Vec<Rule<'static>> {
    let mut rules = Vec::new();
    for entry in [INSIDE, COUNTED, NEVER].into_iter().flat_map(entries) {
        let (conditions, calls): (Vec<&str>, Vec<&str>) = entry.words[1..].iter().partition(|word| word.contains('='));
        for call in calls {
            rules.push(Rule { action: entry.words[0], call, conditions: conditions.clone() });
        }
    }
    rules
}

fn answer(rules: &[Rule<'_>], call: &str, arguments: [u64; 3]) -> Answer {
    let says = |action| {
        rules.iter().any(|rule| {
            rule.action == action
                && rule.call == call
                && rule.conditions.iter().all(|condition| holds(condition, arguments))
        })
    };
    match (says("deny"), says("allow")) {
        (true, _) => Answer::Denied,
        (false, true) => Answer::Made,
        (false, false) => Answer::Unknown,
    }
}

fn holds(condition: &str, arguments: [u64; 3]) -> bool {
    let (left, value) = condition.split_once('=').expect("a condition");
    let value = number(value).expect("a number");
    let argument = |left: &str| arguments[left.trim_start_matches("arg").parse::<usize>().expect("an argument")];
    match (left.strip_suffix('!'), left.split_once('&')) {
        (Some(left), _) => argument(left) != value,
        (None, Some((left, mask))) => argument(left) & number(mask).expect("a mask") == value,
        (None, None) => argument(left) == value,
    }
}

/// Arguments worth trying: those that some condition names, and some that none does.
fn samples() -> impl Iterator<Item = [u64; 3]> {
    let named: Vec<u64> = rules()
        .iter()
        .flat_map(|rule| &rule.conditions)
        .filter_map(|condition| number(condition.rsplit_once('=')?.1))
        .chain([0, 1, 40, 255])
        .collect();
    let few = [0, 1, 255];
    let also = named.clone();
    named.into_iter().flat_map(move |first| {
        also.clone().into_iter().flat_map(move |second| few.map(move |third| [first, second, third]))
    })
}

#[test]
fn every_call_of_every_line_changes_an_answer() {
    let all = rules();
    let samples: Vec<_> = samples().collect();
    for (number, rule) in all.iter().enumerate() {
        let mut without = all.clone();
        without.remove(number);
        let changes = samples
            .iter()
            .any(|arguments| answer(&all, rule.call, *arguments) != answer(&without, rule.call, *arguments));
        assert!(changes, "{rule:?} is dead: no call is answered otherwise without it");
    }
}

#[test]
fn the_judge_finds_a_dead_line() {
    let mut all = rules();
    all.push(Rule { action: "deny", call: "mount", conditions: vec!["arg0=1"] });
    let without = rules();
    assert!(samples().all(|arguments| answer(&all, "mount", arguments) == answer(&without, "mount", arguments)));
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
