//! `postern zone diff`: what a change of the configuration opens, for a person and for a script that guards it.

use std::path::Path;

use postern_policy::zone::diff::{Certainty, Change, Difference, Roles, RoutesDifference, Scope};
use serde_json::{Value, json};

use crate::config::{self, ANY_ENVIRONMENT, Configuration, DEFAULT_ENVIRONMENT};
use crate::failure::Failure;

/// Runs the verb.
///
/// # Errors
/// [`Failure::NotHeld`] when something becomes reachable or loses protection.
#[expect(clippy::print_stdout, reason = "the difference is the command's result")]
pub(crate) fn run(old: &Path, new: &Path, as_json: bool) -> Result<(), Failure> {
    let (before, after) = (config::read_file(old)?, config::read_file(new)?);
    let differences = before.zones.diff(&after.zones);
    let routes = before.routes.diff(&after.routes);
    let roles = roles_of(&before).diff(roles_of(&after));
    let wider = [&routes.wider, &roles.wider].into_iter().chain(differences.iter().map(|one| &one.wider));
    let wider = wider.map(Vec::len).sum::<usize>();
    if as_json {
        let all: Vec<Value> = differences.iter().map(json_of).collect();
        println!(
            "{}",
            json!({
                "wider": wider > 0,
                "differences": all,
                "routes": both_json(&routes.wider, &routes.narrower),
                "roles": both_json(&roles.wider, &roles.narrower),
            })
        );
    } else {
        let routes = besides("routes of the gateway", &routes, old, new);
        print!("{}{routes}{}", text(&differences, old, new), besides("server and gateway", &roles, old, new));
    }
    match wider {
        0 => Ok(()),
        1 => Err(Failure::NotHeld("wider in 1 thing".to_owned())),
        many => Err(Failure::NotHeld(format!("wider in {many} things"))),
    }
}

fn text(differences: &[Difference], old: &Path, new: &Path) -> String {
    let mut lines = Vec::new();
    for difference in differences {
        lines.push(format!("{}: {}", sessions(difference), zones(difference)));
        lines.extend(difference.wider.iter().map(|change| line("WIDER   ", change, new)));
        lines.extend(difference.narrower.iter().map(|change| line("narrower", &reversed(change), old)));
        if difference.wider.is_empty() && difference.narrower.is_empty() {
            lines.push("  same".to_owned());
        }
    }
    if differences.is_empty() {
        lines.push("no zone on either side: every session has deny-all".to_owned());
    }
    lines.join("\n") + "\n"
}

/// Nothing where nothing differs.
fn besides(of: &str, difference: &RoutesDifference, old: &Path, new: &Path) -> String {
    let wider = difference.wider.iter().map(|change| line("WIDER   ", change, new));
    let lines: Vec<String> =
        wider.chain(difference.narrower.iter().map(|change| line("narrower", &reversed(change), old))).collect();
    if lines.is_empty() { String::new() } else { format!("{of}:\n{}\n", lines.join("\n")) }
}

fn roles_of(configuration: &Configuration) -> Roles<'_> {
    Roles { server: &configuration.server, web: &configuration.web, gateway: &configuration.gateway }
}

fn sessions(difference: &Difference) -> String {
    let all = difference.sessions.iter().map(|one| format!("{}, {}", environment(&one.environment), one.agents));
    all.collect::<Vec<_>>().join("; ")
}

/// The environment `default` has an id of its own only where a server is.
pub(super) fn environment(id: &str) -> &str {
    if id == ANY_ENVIRONMENT { DEFAULT_ENVIRONMENT } else { id }
}

fn zones(difference: &Difference) -> String {
    let name = |zone: &Option<String>| zone.clone().unwrap_or_else(|| "no zone, does not start".to_owned());
    match (&difference.old, &difference.new) {
        (Some(old), Some(new)) if old == new => format!("zone {old}"),
        (old, new) => format!("{} -> {}", name(old), name(new)),
    }
}

fn line(word: &str, change: &Change, file: &Path) -> String {
    let Change { kind, what, values, rule, line, scope, certainty } = change;
    let values = values.as_ref().map(|(from, to)| format!(": {from} -> {to}")).unwrap_or_default();
    let example = scope.as_ref().map(|scope| format!(", for example {}", scope.example)).unwrap_or_default();
    let place = match (rule, line) {
        (Some(rule), Some(line)) => format!(" [{rule}, {}:{line}]", file.display()),
        (Some(rule), None) => format!(" [{rule}]"),
        (None, _) => String::new(),
    };
    let possibly = match certainty {
        Certainty::Shown => "",
        Certainty::Possible => "possibly ",
    };
    format!("  {word} {possibly}{kind}: {what}{values}{example}{place}")
}

/// As it reads from the newer side.
fn reversed(change: &Change) -> Change {
    Change { values: change.values.clone().map(|(from, to)| (to, from)), ..change.clone() }
}

fn json_of(difference: &Difference) -> Value {
    let sessions: Vec<Value> = difference
        .sessions
        .iter()
        .map(|one| json!({"environment": environment(&one.environment), "agents": one.agents}))
        .collect();
    let mut all = both_json(&difference.wider, &difference.narrower);
    all["sessions"] = sessions.into();
    all["old_zone"] = json!(difference.old);
    all["new_zone"] = json!(difference.new);
    all
}

fn both_json(wider: &[Change], narrower: &[Change]) -> Value {
    let narrower: Vec<Value> = narrower.iter().map(|change| change_json(&reversed(change))).collect();
    json!({"wider": wider.iter().map(change_json).collect::<Vec<_>>(), "narrower": narrower})
}

fn change_json(change: &Change) -> Value {
    let scope = change.scope.as_ref().map(|scope| {
        let Scope { host, port, scheme, methods, paths, example, injected } = scope;
        json!({
            "host": host, "port": port.number(), "scheme": scheme.as_str(), "methods": methods, "paths": paths,
            "example": example, "injected": injected,
        })
    });
    json!({
        "kind": change.kind.code(),
        "what": change.what,
        "from": change.values.as_ref().map(|(from, _)| from),
        "to": change.values.as_ref().map(|(_, to)| to),
        "rule": change.rule,
        "line": change.line,
        "possible": change.certainty == Certainty::Possible,
        "scope": scope,
    })
}
