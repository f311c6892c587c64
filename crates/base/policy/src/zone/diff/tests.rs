use super::*;
use crate::document::Document;
use crate::zone::Zones;
use std::collections::BTreeMap;

mod keys;
mod properties;

fn zones(text: &str) -> Zones {
    let names = BTreeMap::from([("default".to_owned(), "env_1".to_owned())]);
    let document = Document::parse("postern.toml", text).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
    Zones::load(&document, &names).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"))
}

/// One zone with these lines.
fn with(lines: &str) -> Zones {
    zones(&format!("config = 1\n[zone.a]\nenvironment = \"default\"\n{lines}"))
}

fn rule(lines: &str) -> String {
    format!("[[zone.a.egress]]\n{}\n", lines.replace("; ", "\n"))
}

fn rules(rules: &[&str]) -> String {
    rules.iter().map(|lines| rule(lines)).collect()
}

fn kinds(changes: &[Change]) -> Vec<&'static str> {
    let mut kinds: Vec<_> = changes.iter().map(|change| change.kind.code()).collect();
    kinds.dedup();
    kinds
}

/// What is wider and what narrower from one to the other.
fn both(old: &str, new: &str) -> (Vec<&'static str>, Vec<&'static str>) {
    let differences = with(old).diff(&with(new));
    let [difference] = differences.as_slice() else { panic!("{differences:?}") };
    (kinds(&difference.wider), kinds(&difference.narrower))
}

const KEY: &str = "[[zone.a.credential]]\nname = \"k\"\nsource = \"store:k\"\nenv = \"KEY\"\ninject = [{ header = \"authorization\" }]\n";
const NONE: &[&str] = &[];

#[test]
fn each_thing_that_becomes_reachable_is_named_by_what_is_new_about_it() {
    let base = "host = 'a.example'; methods = ['GET']; paths = ['/v1/**']";
    let table = [
        ("host = 'b.example'", "host"),
        ("host = '*.example.org'", "host"),
        ("host = 'a.example'; ports = [8443]", "port"),
        ("host = 'a.example'; scheme = 'http'; ports = [443]", "scheme"),
        ("host = 'a.example'; methods = ['GET']; paths = ['/v2/*']", "path"),
        ("host = 'a.example'; methods = ['POST']; paths = ['/v1/**']", "method"),
    ];
    for (more, kind) in table {
        assert_eq!(both(&rules(&[base]), &rules(&[base, more])), (vec![kind], vec![]), "{more}");
        assert_eq!(both(&rules(&[base, more]), &rules(&[base])), (vec![], vec![kind]), "{more}");
    }
}

#[test]
fn a_rule_inside_another_is_no_difference() {
    let base = "host = '*.example.org'; methods = ['GET', 'POST']; paths = ['/v1/**', '/pub*/x']";
    for more in [
        "host = 'a.example.org'; methods = ['GET']; paths = ['/v1/a/b']",
        "host = '*.deep.example.org'; paths = ['/v1/*', '/v1/x/**']; methods = ['POST']",
        "host = '*.example.org'; paths = ['/public/x']; methods = ['GET']",
    ] {
        assert_eq!(both(&rules(&[base]), &rules(&[base, more])), (NONE.to_vec(), NONE.to_vec()), "{more}");
    }
    let outside = "host = '*.example.org'; paths = ['/pub/x']; methods = ['GET']";
    assert_eq!(both(&rules(&[base]), &rules(&[base, outside])).0, ["path"], "a star stands for one character at least");
}

#[test]
fn splitting_merging_and_reordering_rules_is_no_difference() {
    let whole = rules(&["host = 'a.example'; ports = [443, 8443]; methods = ['GET', 'PUT']; paths = ['/a/**', '/b']"]);
    let mut parts = Vec::new();
    for port in [8443, 443] {
        for method in ["PUT", "GET"] {
            for path in ["/b", "/a/**"] {
                parts.push(format!("host = 'a.example'; ports = [{port}]; methods = ['{method}']; paths = ['{path}']"));
            }
        }
    }
    let parts = rules(&parts.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(both(&whole, &parts), (vec![], vec![]));
    assert_eq!(both(&parts, &whole), (vec![], vec![]));
}

#[test]
fn a_credential_that_goes_further_is_wider() {
    let plain = rules(&["host = 'a.example'; paths = ['/v1/**']", "host = 'b.example'"]);
    let here =
        format!("{KEY}{}", rules(&["host = 'a.example'; paths = ['/v1/**']; credential = 'k'", "host = 'b.example'"]));
    assert_eq!(both(&plain, &here).0, ["variable", "credential"]);
    let there = here.replace("host = 'b.example'", "host = 'b.example'\ncredential = 'k'");
    assert_eq!(both(&here, &there), (vec!["credential"], vec!["foreign_credentials"]));
    let wider = here.replace("\"authorization\" }", "\"authorization\" }, { basic = \"password\" }");
    assert_eq!(both(&here, &wider), (vec!["credential"], vec![]));
    let another = here.replace("store:k", "store:other");
    assert_eq!(both(&here, &another), (vec!["credential"], vec!["credential"]));
    let foreign = here.replace("credential = 'k'", "credential = 'k'\nforeign_credentials = 'allow'");
    assert_eq!(both(&here, &foreign), (vec!["foreign_credentials"], vec![]));
}

#[test]
fn a_destination_that_leads_elsewhere_is_wider() {
    let to = |more: &str| rules(&[&format!("host = 'a.example'{more}")]);
    let table = [
        ("", "; addresses = ['93.184.216.0/24']", vec![], vec!["addresses"]),
        ("; addresses = ['10.0.0.0/8']", "; addresses = ['10.3.0.0/24']", vec![], vec!["addresses"]),
        ("; addresses = ['10.0.0.0/24', '10.0.1.0/24']", "; addresses = ['10.0.0.0/23']", vec![], vec![]),
        ("", "; addresses = ['10.3.0.0/24']", vec!["addresses"], vec!["addresses"]),
        (
            "; addresses = ['169.254.0.0/16']",
            "; addresses = ['169.254.169.254/32']",
            vec!["addresses"],
            vec!["addresses"],
        ),
        ("", "; connect = '93.184.216.34:443'", vec![], vec!["addresses"]),
        ("", "; connect = '93.184.216.34:8443'", vec!["addresses"], vec!["addresses"]),
    ];
    for (old, new, wider, narrower) in table {
        assert_eq!(both(&to(old), &to(new)), (wider, narrower), "{old} {new}");
    }
    let address = rules(&["host = '93.184.216.34'"]);
    let at = |port: u16| rules(&[&format!("host = '93.184.216.34'; connect = '93.184.216.34:{port}'")]);
    assert_eq!(both(&address, &at(443)), (vec![], vec![]));
    assert_eq!(both(&address, &at(22)), (vec!["addresses"], vec!["addresses"]));
}

#[test]
fn what_is_loose_about_a_new_reach_is_said_beside_it() {
    let certificate =
        "[[zone.a.credential]]\nname = \"c\"\nsource = \"store:c\"\ninject = [{ client_certificate = true }]\n";
    let base = format!("{KEY}{certificate}{}", rules(&["host = 'a.example'; methods = ['GET']; credential = 'k'"]));
    let table = [
        ("host = 'b.example'; addresses = ['93.184.216.0/24']", vec!["host"]),
        ("host = 'b.example'; addresses = ['169.254.169.254/32']", vec!["host", "addresses"]),
        ("host = 'b.example'; connect = '93.184.216.34:22'", vec!["host", "addresses"]),
        ("host = 'b.example'; client_certificate = 'c'", vec!["host", "credential"]),
        (
            "host = 'b.example'; client_certificate = 'c'; foreign_credentials = 'allow'",
            vec!["host", "foreign_credentials", "credential"],
        ),
        ("host = 'b.example'; foreign_credentials = 'allow'", vec!["host"]),
        ("host = 'b.example'; inspect = false; addresses = ['10.3.0.0/24']", vec!["host", "addresses"]),
        (
            "host = 'a.example'; methods = ['POST']; foreign_credentials = 'allow'",
            vec!["method", "foreign_credentials"],
        ),
        ("host = 'a.example'; methods = ['POST']; websocket = true", vec!["method", "websocket"]),
    ];
    for (more, mut kinds) in table {
        let (mut wider, narrower) = both(&base, &format!("{base}{}", rule(more)));
        wider.sort_unstable();
        kinds.sort_unstable();
        assert_eq!((wider, narrower), (kinds, vec![]), "{more}");
    }
    let private =
        |methods: &str| rules(&[&format!("host = 'a.example'; methods = [{methods}]; addresses = ['10.3.0.0/24']")]);
    assert_eq!(both(&private("'GET'"), &private("'GET', 'POST'")), (vec!["method"], vec![]), "it was so there before");
    let trusting = |row: &str| keys::changes("{zone}", row).iter().map(|change| change.kind.code()).collect::<Vec<_>>();
    assert_eq!(trusting("{host}ca_file = 'ca.pem'"), ["authority", "host"]);
}

#[test]
fn a_rule_that_decides_first_now_is_compared_with_the_one_that_did() {
    let near = "host = 'a.example.org'; addresses = ['10.3.0.0/24']";
    let far = "host = '*.example.org'; methods = ['GET']";
    assert_eq!(both(&rules(&[near, far]), &rules(&[far, near])), (vec!["addresses"], vec!["addresses"]));
}

#[test]
fn what_passes_through_unseen_is_wider_than_anything_that_is_looked_at() {
    let (seen, unseen) = (rules(&["host = 'a.example'"]), rules(&["host = 'a.example'; inspect = false"]));
    assert_eq!(both(&seen, &unseen), (vec!["inspection"], vec![]));
    assert_eq!(both("", &unseen), (vec!["host"], vec![]));
    assert_eq!(both(&unseen, &unseen), (vec![], vec![]));
    let with_key = format!("{KEY}{}", rules(&["host = 'a.example'; credential = 'k'"]));
    assert_eq!(both(&unseen, &with_key), (vec!["variable", "credential"], vec!["inspection"]));
}

#[test]
fn a_request_that_may_become_a_websocket_is_wider() {
    let (plain, socket) = (rules(&["host = 'a.example'"]), rules(&["host = 'a.example'; websocket = true"]));
    assert_eq!(both(&plain, &socket), (vec!["websocket"], vec![]));
    assert_eq!(both("", &socket), (vec!["host", "websocket"], vec![]));
}

#[test]
fn mcp_rules_are_compared_by_what_they_cover() {
    let mcp = |lines: &str| format!("[[zone.a.mcp]]\n{}\n", lines.replace("; ", "\n"));
    let base = mcp("server = 'wiki'; tools = ['search', 'read_*']; methods = ['resources/*']");
    let args = |text: &str| mcp(&format!("server = 'w'; tools = ['read']; arguments = {{ {text} }}"));
    let table = [
        (
            base.clone(),
            mcp("server = 'wiki'; tools = ['read_page']; methods = ['resources/read']"),
            vec![],
            vec!["mcp_method", "mcp_tool"],
        ),
        (base.clone(), base.clone() + &mcp("server = 'wiki'; tools = ['read_a*', 's?arch']"), vec!["mcp_tool"], vec![]),
        (base.clone(), base.clone() + &mcp("server = 'files'; tools = ['x']"), vec!["mcp_server", "mcp_tool"], vec![]),
        (args("path = { glob = 'docs/**' }"), args("path = { glob = 'docs/*.md' }"), vec![], vec!["mcp_arguments"]),
        (args("path = { glob = 'docs/*' }"), args("path = { glob = 'docs/**' }"), vec!["mcp_arguments"], vec![]),
        (args("n = { range = [1, 10] }"), args("n = { range = [2, 5] }"), vec![], vec!["mcp_arguments"]),
        (args("n = { range = [1, 10] }"), args("n = { in = [1, 7] }, m = { eq = 'x' }"), vec![], vec!["mcp_arguments"]),
        (args("p = { eq = 'a' }") + &args("p = { eq = 'b' }"), args("p = { in = ['a', 'b'] }"), vec![], vec![]),
        (
            args("p = { in = ['a', 'b'] }"),
            args("p = { in = ['a', 'c'] }"),
            vec!["mcp_arguments"],
            vec!["mcp_arguments"],
        ),
        (args("p = { absent = true }"), args("p = { eq = 'a' }"), vec!["mcp_arguments"], vec!["mcp_arguments"]),
        (
            args("t = { each = { in = ['a', 'b'] } }"),
            args("t = { each = { eq = 'a' } }"),
            vec![],
            vec!["mcp_arguments"],
        ),
        (
            args("p = { glob = 'https://*.a.example/**' }"),
            args("p = { glob = 'https://x.a.example/y' }"),
            vec![],
            vec!["mcp_arguments"],
        ),
        (
            args("p = { glob = 'https://*.a.example/**' }"),
            args("p = { glob = 'https://**' }"),
            vec!["mcp_arguments"],
            vec!["mcp_arguments"],
        ),
    ];
    for (old, new, wider, narrower) in table {
        assert_eq!(both(&old, &new), (wider, narrower), "{old}\n{new}");
    }
}

#[test]
fn a_looser_sandbox_is_wider() {
    let sandbox = |lines: &str| format!("[zone.a.sandbox]\n{lines}\n");
    let table = [
        ("memory = '1GiB'", "memory = '2GiB'", vec!["sandbox_limit"], vec![]),
        ("cpus = 2.0\nprocesses = 10", "cpus = 1.0\nprocesses = 20", vec!["sandbox_limit"], vec!["sandbox_limit"]),
        ("", "disk = '1GiB'", vec!["sandbox_limit"], vec!["sandbox_limit"]),
        ("require = ['seccomp', 'netns']", "require = ['netns']", vec!["sandbox_control"], vec![]),
        ("", "mounts = [{ host = '/srv/a', at = '/a' }]", vec!["sandbox_mount"], vec![]),
        (
            "mounts = [{ host = '/srv/d', at = '/d' }]",
            "mounts = [{ host = '/srv/d/a', at = '/d/a' }]",
            vec![],
            vec!["sandbox_mount"],
        ),
        (
            "mounts = [{ host = '/srv/d', at = '/d' }]",
            "mounts = [{ host = '/srv/d', at = '/d', access = 'write' }]",
            vec!["sandbox_mount"],
            vec![],
        ),
        (
            "system = { image = '/srv/i' }\nmounts = [{ host = '/srv/d', at = '/d' }]",
            "system = { image = '/srv/i' }",
            vec!["sandbox_system"],
            vec!["sandbox_mount"],
        ),
    ];
    for (old, new, wider, narrower) in table {
        assert_eq!(both(&sandbox(old), &sandbox(new)), (wider, narrower), "{old} | {new}");
    }
}

#[test]
fn a_forbid_that_is_gone_is_a_protection_lost() {
    let load = |policy: &str| {
        let text = "config = 1\n[zone.a]\nenvironment = \"default\"\npolicy_file = \"a.cedar\"\n";
        let mut document = Document::parse("postern.toml", text).unwrap();
        document.attach("a.cedar", policy);
        Zones::load(&document, &BTreeMap::from([("default".to_owned(), "env_1".to_owned())])).unwrap()
    };
    let one = "@id(\"one\") forbid (principal, action == Postern::Action::\"tool.use\", resource) when { context.tool == \"bash\" };";
    let two = "@id(\"two\") forbid (principal, action == Postern::Action::\"tool.use\", resource) when { context.tool == \"read\" };";
    let (both, only) = (load(&format!("{one}\n{two}")), load(two));
    let difference = &both.diff(&only)[0];
    assert_eq!((kinds(&difference.wider), kinds(&difference.narrower)), (vec!["policy"], vec![]));
    assert!(difference.wider[0].what.contains("a/policy/one"));
    assert_eq!(kinds(&both.diff(&load(&format!("{two}{one}")))[0].wider), NONE);
}

#[test]
fn agents_that_a_zone_covers_newly_are_told_with_all_that_they_reach() {
    let zone = |name: &str, agents: &str, host: &str| {
        format!(
            "[zone.{name}]\nenvironment = \"default\"\nagents = [{agents}]\n[[zone.{name}.egress]]\nhost = \"{host}\"\n"
        )
    };
    let old = zones(&format!("config = 1\n{}", zone("one", "\"agent_a\"", "a.example")));
    let new = zones(&format!("config = 1\n{}", zone("one", "\"agent_a\", \"agent_b@2\"", "a.example")));
    let wider: Vec<_> = old.diff(&new).into_iter().filter(|difference| !difference.wider.is_empty()).collect();
    let [difference] = wider.as_slice() else { panic!("{wider:?}") };
    assert_eq!((difference.old.as_deref(), difference.new.as_deref()), (None, Some("one")));
    assert_eq!(difference.sessions.iter().map(|one| one.agents.as_str()).collect::<Vec<_>>(), ["agent_b@2"]);
    assert_eq!(kinds(&difference.wider), ["sessions", "host"]);
    let renamed = zones(&format!("config = 1\n{}", zone("other", "\"agent_a\"", "a.example")));
    assert!(old.diff(&renamed).iter().all(|difference| difference.wider.is_empty() && difference.narrower.is_empty()));
    let swapped =
        format!("config = 1\n{}{}", zone("one", "\"agent_b\"", "a.example"), zone("two", "\"agent_a\"", "b.example"));
    let found = old.diff(&zones(&swapped));
    let of_a = found.iter().find(|difference| difference.new.as_deref() == Some("two")).unwrap();
    assert_eq!((kinds(&of_a.wider), kinds(&of_a.narrower)), (vec!["host"], vec!["host"]));
}

#[test]
fn what_is_too_complex_to_compare_is_possibly_wider_and_never_silent() {
    let tangled = |last: char| {
        let globs: Vec<String> =
            (0..10).map(|n| format!("'/*{}*{}*{last}*/x'", char::from(b'a' + n), char::from(b'z' - n))).collect();
        rules(&[&format!("host = 'a.example'; paths = [{}]", globs.join(", "))])
    };
    let difference = &with(&tangled('q')).diff(&with(&tangled('w')))[0];
    assert!(difference.wider.iter().any(|change| change.certainty == Certainty::Possible), "{difference:?}");
    assert!(with(&tangled('q')).diff(&with(&tangled('q')))[0].wider.is_empty());
}

#[test]
fn where_paths_cannot_be_compared_all_that_decides_about_their_requests_is() {
    let globs: Vec<String> =
        (0..10).map(|n| format!("'/*{}*{}*q*/x'", char::from(b'a' + n), char::from(b'z' - n))).collect();
    let tangled = format!("host = 'a.example'; paths = [{}]", globs.join(", "));
    let used = format!("{KEY}{}", rule(&format!("{tangled}; credential = 'k'")));
    let elsewhere =
        |more: &str| format!("{KEY}{}{}", rule(&tangled), rule(&format!("host = 'a.example'; ports = [8443]{more}")));
    let table = [
        (used.clone(), used.replace("\"authorization\" }", "\"authorization\" }, { query = \"key\" }")),
        (used.clone(), used.replace("store:k", "env:ADMIN_TOKEN")),
        // Only because of the other rule are keys from elsewhere refused.
        (elsewhere("; credential = 'k'"), elsewhere("")),
    ];
    for (old, new) in table {
        let wider = with(&old).diff(&with(&new)).remove(0).wider;
        assert!(wider.iter().any(|change| change.certainty == Certainty::Possible), "{new}: {wider:?}");
        let same = with(&new).diff(&with(&new)).remove(0).wider;
        assert_eq!(same, [], "{new}");
    }
}

#[test]
fn so_many_kinds_of_paths_are_told_apart_at_a_depth() {
    // Each letter of the first segment and each of the second halves all paths once more.
    let halved = |letters: [&str; 2], methods: &str| {
        let first = letters[0].chars().map(|letter| format!("'/*{letter}*/*'"));
        let second = letters[1].chars().map(|letter| format!("'/*/*{letter}*'"));
        let globs: Vec<String> = first.chain(second).collect();
        rules(&[&format!("host = 'a.example'; methods = [{methods}]; paths = [{}]", globs.join(", "))])
    };
    for (letters, certainty) in [(["abc", "def"], Certainty::Shown), (["abcdef", "ghijk"], Certainty::Possible)] {
        let difference = &with(&halved(letters, "'GET'")).diff(&with(&halved(letters, "'GET', 'PUT'")))[0];
        let told: Vec<_> = difference.wider.iter().map(|change| change.certainty).collect();
        assert!(!told.is_empty() && told.iter().all(|told| *told == certainty), "{letters:?}: {told:?}");
    }
}

#[test]
fn so_many_listed_values_are_taken_one_by_one() {
    let taking = |numbers: std::ops::Range<usize>| {
        let listed: Vec<String> = numbers.map(|number| number.to_string()).collect();
        format!(
            "[[zone.a.mcp]]\nserver = 'w'\ntools = ['read']\narguments = {{ n = {{ in = [{}] }} }}\n",
            listed.join(", ")
        )
    };
    for (most, wider) in [(256, vec![]), (257, vec!["mcp_arguments"])] {
        let halves = taking(0..100) + &taking(100..most);
        assert_eq!(both(&halves, &taking(0..most)).0, wider, "{most}");
    }
}

#[test]
fn a_record_that_need_not_be_on_disk_any_more_is_a_protection_lost() {
    assert_eq!(both("audit = \"disk\"\n", ""), (vec!["audit"], vec![]));
    assert_eq!(both("", "audit = \"disk\"\n"), (vec![], vec!["audit"]));
}

#[test]
fn a_candidate_opens_nothing_and_becomes_a_difference_when_it_decides() {
    let next = "[zone.next]\nmode = \"shadow\"\nof = \"a\"\n[[zone.next.egress]]\nhost = \"b.example\"\n";
    assert_eq!(both("", next), (vec![], vec![]));
    let decides = "config = 1\n[zone.next]\nenvironment = \"default\"\n[[zone.next.egress]]\nhost = \"b.example\"\n";
    let differences = with(next).diff(&zones(decides));
    assert_eq!(kinds(&differences[0].wider), ["host"]);
}

#[test]
fn a_cache_that_others_may_write_is_a_protection_lost() {
    let mount = |access: &str| {
        format!("[zone.a.sandbox]\nmounts = [{{ host = \"/srv/cache\", at = \"/cache\", access = \"{access}\" }}]\n")
    };
    assert_eq!(both(&mount("cache"), &mount("read")).0, ["sandbox_mount"]);
    assert_eq!(both(&mount("read"), &mount("cache")).0, NONE);
}
