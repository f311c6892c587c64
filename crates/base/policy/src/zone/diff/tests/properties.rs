use super::*;
use crate::credential::{CredentialName, Location};
use crate::request::{Found, FoundValue, Issued, Place, Request};
use crate::zone::Zone;
use crate::{ForeignCredential, HostPattern, PathGlob, Upgrade};
use proptest::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;

const KEYS: &str = "[[zone.a.credential]]\nname = \"k\"\nsource = \"store:k\"\ninject = [{ header = \"authorization\" }, { basic = \"password\" }]\n[[zone.a.credential]]\nname = \"l\"\nsource = \"store:l\"\ninject = [{ header = \"x-key\" }]\n";

/// Words of rules, overlapping on purpose.
const HOSTS: &[&str] = &["a.example", "b.example", "*.example.org", "*.x.example.org", "y.x.example.org"];
const PATHS: &[&str] = &["/**", "/", "/v1/**", "/v1/*", "/*/a", "/v*/a*", "/v1/a", "/v1/**", "/v1/", "/*a*/**", "/a*b"];
const METHODS: &[&str] = &["GET", "POST"];

fn some_of(words: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<&'static str>>> {
    prop::option::of(prop::sample::subsequence(words, 1..=3.min(words.len())))
}

/// One rule's lines.
fn rule_lines() -> impl Strategy<Value = String> {
    let terms = prop::sample::select(vec![
        "",
        "",
        "",
        "credential = \"k\"",
        "credential = \"l\"",
        "foreign_credentials = \"allow\"",
        "addresses = [\"10.3.0.0/24\"]",
        "addresses = [\"10.0.0.0/8\", \"93.184.216.0/24\"]",
        "connect = \"93.184.216.34:443\"",
        "credential = \"k\"\nforeign_credentials = \"allow\"",
    ]);
    let ports = prop::sample::select(vec!["443", "443, 8443", "8443"]);
    (prop::sample::select(HOSTS.to_vec()), ports, some_of(METHODS), some_of(PATHS), terms).prop_map(
        |(host, ports, methods, paths, terms)| {
            let list = |key: &str, words: Option<Vec<&str>>| {
                words.map_or(String::new(), |words| format!("{key} = {words:?}\n"))
            };
            format!(
                "[[zone.a.egress]]\nhost = \"{host}\"\nports = [{ports}]\n{}{}{terms}\n",
                list("methods", methods),
                list("paths", paths)
            )
        },
    )
}

fn rule_sets() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(rule_lines(), 0..5)
}

fn load(rules: &[String]) -> (Zones, Arc<Zone>) {
    let zones = with(&format!("{KEYS}{}", rules.concat()));
    let zone = zones.named("a").unwrap();
    (zones, zone)
}

fn asked() -> impl Strategy<Value = Request> {
    let hosts = prop::sample::select(vec![
        "a.example",
        "b.example",
        "q.example.org",
        "q.x.example.org",
        "y.x.example.org",
        "example.org",
    ]);
    let paths = prop::sample::select(vec![
        "/", "/v1", "/v1/", "/v1/a", "/v1/a/b", "/v2/a", "/vx/abc", "/xay/z", "/ab", "/axb", "/v1/a/",
    ]);
    let methods = prop::sample::select(vec!["GET", "POST", "DELETE"]);
    let ports = prop::sample::select(vec![443u16, 8443]);
    let header = |name: &str| Place::At(Location::Header(name.to_owned()));
    let carried = prop::option::of(prop::sample::select(vec![
        ("k", header("authorization")),
        ("l", header("x-key")),
        ("k", header("x-key")),
    ]));
    (hosts, paths, methods, ports, carried, any::<bool>()).prop_map(|(host, path, method, port, carried, foreign)| {
        Request {
            host: host.parse().unwrap(),
            port: Port::new(port).unwrap(),
            scheme: Scheme::Https,
            method: method.parse().unwrap(),
            path: path.parse().unwrap(),
            query: None,
            credentials_present: carried
                .into_iter()
                .map(|(name, place)| Found {
                    credential: CredentialName::new(name),
                    value: FoundValue::Placeholder(Issued::ThisSession),
                    place,
                })
                .collect(),
            foreign: if foreign { vec![ForeignCredential::Cookie] } else { Vec::new() },
            overrides: Vec::new(),
            upgrade: Upgrade::None,
        }
    })
}

/// Whether a change speaks of this request.
fn covers(change: &Change, request: &Request) -> bool {
    change.scope.as_ref().is_some_and(|scope| {
        let method = request.method.to_string();
        let placeholder = request.credentials_present.first().map(|found| found.credential.to_string());
        scope.host.parse::<HostPattern>().unwrap().covers(&request.host)
            && (scope.port, scope.scheme) == (request.port, request.scheme)
            && scope.methods.iter().any(|one| *one == method || one == "*")
            && scope.paths.iter().any(|glob| glob.parse::<PathGlob>().unwrap().covers(&request.path))
            && (scope.injected.is_none()
                || scope.injected.as_ref().map(|what| what.split(' ').next().unwrap_or_default().to_owned())
                    == placeholder)
    })
}

const ADDRESSES: &[&str] = &["10.3.0.7", "10.4.0.1", "93.184.216.34", "8.8.8.8", "127.0.0.1"];

/// Everything that a zone lets this request do.
fn freedom(zone: &Zone, request: &Request) -> Vec<String> {
    let Ok(permit) = zone.request(request) else { return Vec::new() };
    let dials = ADDRESSES.iter().filter_map(|address| permit.dial(address.parse::<IpAddr>().unwrap()).ok());
    dials.map(|dial| dial.address().to_string()).chain(["leaves".to_owned()]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_the_new_zone_permits_and_the_old_does_not_is_reported(
        old in rule_sets(), new in rule_sets(), requests in prop::collection::vec(asked(), 24),
    ) {
        let ((old, before), (new, after)) = (load(&old), load(&new));
        let difference = &old.diff(&new)[0];
        for request in &requests {
            let (had, has) = (freedom(&before, request), freedom(&after, request));
            if has.iter().any(|one| !had.contains(one)) {
                prop_assert!(difference.wider.iter().any(|change| covers(change, request)), "{request:?} in {difference:#?}");
            }
        }
    }

    #[test]
    fn each_new_reach_is_one_by_its_own_example(old in rule_sets(), new in rule_sets()) {
        let ((old, before), (new, after)) = (load(&old), load(&new));
        for change in &old.diff(&new)[0].wider {
            let Some(scope) = &change.scope else { continue };
            let reach = [ChangeKind::Host, ChangeKind::Port, ChangeKind::Path, ChangeKind::Method].contains(&change.kind);
            let (Ok(path), None, true) = (scope.example.parse(), &scope.injected, reach) else { continue };
            let request = Request {
                host: scope.host.replace("*.", "unlisted.").parse().unwrap(),
                port: scope.port,
                scheme: scope.scheme,
                method: scope.methods[0].replace('*', "DELETE").parse().unwrap(),
                path,
                query: None,
                credentials_present: Vec::new(),
                foreign: Vec::new(),
                overrides: Vec::new(),
                upgrade: Upgrade::None,
            };
            prop_assert!(after.request(&request).is_ok(), "{change:#?}");
            // A change that several methods share has the example of the first cell, so only its first method is asked.
            prop_assert!(before.request(&request).is_err() || scope.methods.len() > 1, "{change:#?}");
        }
    }

    #[test]
    fn a_zone_differs_from_itself_in_nothing(rules in rule_sets()) {
        let (zones, _) = load(&rules);
        let difference = &zones.diff(&zones)[0];
        prop_assert!(difference.wider.is_empty() && difference.narrower.is_empty());
    }

    #[test]
    fn the_order_of_rules_that_differ_only_in_reach_is_no_difference(rules in rule_sets(), turn in 0usize..5) {
        let plain: Vec<String> = rules
            .iter()
            .map(|rule| rule.lines().filter(|line| !["cred", "fore", "addr", "conn"].iter().any(|key| line.starts_with(key))).map(|line| format!("{line}\n")).collect())
            .collect();
        let mut turned = plain.clone();
        turned.rotate_left(turn % plain.len().max(1));
        let ((old, _), (new, _)) = (load(&plain), load(&turned));
        prop_assert_eq!(&old.diff(&new)[0].wider, &[]);
    }
}
