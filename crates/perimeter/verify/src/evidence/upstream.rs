//! What arrived at the upstreams: of what was attempted inside, and of the control runs, which say of themselves that they come from outside.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_secret::canary;
use postern_testkit::private_api::{GIT_USER, Seen};

use super::{Pair, word};
use crate::stand::Ended;

/// Whether a placeholder reached an upstream, in any rendering; the honest request's credential did.
pub(super) fn placeholder_upstream(ended: &Ended) -> Pair {
    let placeholders: Vec<&[u8]> =
        ended.placeholders.iter().map(String::as_bytes).filter(|one| one.len() > 8).collect();
    let inside: Vec<Seen> = ended.hosts.seen().into_iter().filter(from_inside).collect();
    let arrived = inside.iter().any(|seen| carries(seen, &placeholders) || said(seen).contains("pstn"));
    let at_home = ended.hosts.api.seen().iter().any(|seen| from_inside(seen) && seen.authorized);
    (word(arrived || placeholders.is_empty(), "made", "none"), word(at_home, "made", "none"))
}

/// Whether the attacker's own key reached an upstream: the control runs sent it without the boundary, and marked themselves.
pub(super) fn foreign_key_upstream(ended: &Ended) -> Pair {
    let seen = ended.hosts.api.seen();
    let carried = |inside: bool| seen.iter().any(|seen| from_inside(seen) == inside && carries(seen, &[FOREIGN]));
    (word(carried(true), "made", "none"), word(carried(false), "made", "none"))
}

/// Whether a request that no rule covers reached an upstream from inside; from outside some did.
pub(super) fn outside_rule(ended: &Ended) -> Pair {
    let seen = ended.hosts.seen();
    let reached = |inside: bool| seen.iter().any(|seen| from_inside(seen) == inside && !covered(&seen.line));
    (word(reached(true), "made", "none"), word(reached(false), "made", "none"))
}

/// Whether a rule of the run's own covers a request, whatever way its path takes.
fn covered(line: &str) -> bool {
    let Some((method, target)) = line.split_once(' ') else { return false };
    ["GET", "POST"].contains(&method) && resolved(target).starts_with("/v1/")
}

/// A path as the most generous upstream reads it: decoded as often as it can be, backslashes taken for slashes, dots resolved.
fn resolved(target: &str) -> String {
    let mut path = target.split('?').next().unwrap_or_default().to_owned();
    for _ in 0..MOST_DECODED {
        path = decoded(&path);
    }
    let mut steps = Vec::new();
    for step in path.split(['/', '\\']) {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    format!("/{}/", steps.join("/"))
}

/// With each percent sign and its two digits taken for the byte that they stand for.
fn decoded(path: &str) -> String {
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let (mut bytes, mut left) = (Vec::new(), path.as_bytes());
    while let Some((first, rest)) = left.split_first() {
        let meant = (*first == b'%').then(|| rest.get(..2).and_then(byte)).flatten();
        bytes.push(meant.unwrap_or(*first));
        left = if meant.is_some() { &rest[2..] } else { rest };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Requests of the control runs say of themselves that they come from outside; a smuggled one says nothing.
fn from_inside(seen: &Seen) -> bool {
    !seen.headers.contains("x-side: outside")
}

/// Whether what the neighbour's vaults have was sent for the attacker; for the neighbour it was.
pub(super) fn vault_granted(ended: &Ended) -> Pair {
    let sent_for =
        |who: &str| ended.hosts.vault.seen().iter().any(|seen| seen.authorized && seen.headers.contains(who));
    (word(sent_for("x-note: another-session"), "made", "none"), word(sent_for("x-note: own-session"), "made", "none"))
}

/// Whether the credential reached the host it is for, and whether any secret reached a host that it is not for.
pub(super) fn injected(ended: &Ended) -> Pair {
    let api = ended.secrets.last().cloned().into_iter().collect::<Vec<_>>();
    let hosts = &ended.hosts;
    let own: [(&[String], _); 6] = [
        (&api, &hosts.api),
        (&ended.vaults, &hosts.vault),
        (&ended.tokens, &hosts.git),
        (&[], &hosts.other),
        (&[], &hosts.certified),
        (&[], &hosts.bare),
    ];
    let elsewhere = own.iter().any(|(own, host)| {
        let others: Vec<&[u8]> =
            ended.secrets.iter().filter(|secret| !own.contains(secret)).map(String::as_bytes).collect();
        host.seen().iter().any(|seen| from_inside(seen) && carries(seen, &others))
    });
    let at_home = hosts.api.seen().iter().any(|seen| from_inside(seen) && seen.authorized);
    (word(elsewhere, "made", "none"), word(at_home, "made", "none"))
}

/// Whether a repository's token was sent elsewhere than to its own URL, or for another session; to its own URL it was.
pub(super) fn repository_sent(ended: &Ended) -> Pair {
    let basic = ended.tokens.iter().map(|token| STANDARD.encode(format!("{GIT_USER}:{token}")));
    let tokens: Vec<String> = ended.tokens.iter().cloned().chain(basic).collect();
    let tokens: Vec<&[u8]> = tokens.iter().map(String::as_bytes).collect();
    let own = |seen: &Seen| seen.authorized && seen.line.starts_with("GET /v1/repository/info/refs");
    let elsewhere = ended.hosts.seen().iter().any(|seen| carries(seen, &tokens) && !own(seen));
    let home = ended.hosts.git.seen().iter().any(|seen| own(seen) && carries(seen, &tokens));
    (word(elsewhere, "made", "none"), word(home, "made", "none"))
}

/// Whether one of these requests brought these bytes.
pub(super) fn has(seen: &[Seen], needle: &[u8]) -> bool {
    seen.iter().any(|seen| carries(seen, &[needle]))
}

/// Whether a request brought one of these, in its line, its head or its body, in any rendering.
fn carries(seen: &Seen, needles: &[&[u8]]) -> bool {
    let parts = [seen.line.as_bytes(), seen.headers.as_bytes(), &seen.body];
    !needles.is_empty() && parts.iter().any(|part| !canary::search(part, needles).is_empty())
}

/// All of it as text.
fn said(seen: &Seen) -> String {
    [&*seen.line, &*seen.headers, &*String::from_utf8_lossy(&seen.body)].concat()
}

/// What the attacker's own key begins with.
const FOREIGN: &[u8] = b"attackers-own-key";
/// Nobody decodes a path more often.
const MOST_DECODED: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_climbs_out_of_the_rule_in_any_way_is_not_covered() {
        for line in ["GET /v1/accounts", "POST /v1/entries?note=..", "GET /v1/a/../b", "GET //v1/./x"] {
            assert!(covered(line), "{line}");
        }
        for line in [
            "GET /admin",
            "GET /v1/../admin",
            "GET /v1/%2e%2e/admin",
            "GET /v1/..%2fadmin",
            "GET /v1/..%252fadmin",
            "GET /v1/..\\admin",
            "GET /v10/x",
            "DELETE /v1/accounts",
            "nonsense",
        ] {
            assert!(!covered(line), "{line}");
        }
    }

    #[test]
    fn what_a_request_brings_is_found_in_its_line_its_head_and_its_body_in_any_rendering() {
        let secret = "postern-canary-0123456789abcdef";
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let seen = |line: &str, headers: &str, body: &str| Seen {
            line: line.to_owned(),
            authorized: false,
            headers: headers.to_owned(),
            body: body.as_bytes().to_vec(),
        };
        for (line, headers, body) in [(secret, "", ""), ("", secret, ""), ("", "", secret), ("", "", &hex)] {
            assert!(carries(&seen(line, headers, body), &[secret.as_bytes()]), "{line} {headers} {body}");
        }
        assert!(carries(&seen("", &STANDARD.encode(format!("user:{secret}")), ""), &[secret.as_bytes()]));
        assert!(!carries(&seen("GET /", "x: y", "z"), &[secret.as_bytes()]));
        assert!(!carries(&seen(secret, "", ""), &[]));
    }
}
