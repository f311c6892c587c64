//! Tokens of repositories that sessions are given: the rule says whether, the repository says where.

use super::*;
use crate::reason::Reason;
use crate::repository::RepositoryToken;

const CODE: &str = r#"config = 1
[zone.code]
environment = "default"
[[zone.code.credential]]
name = "deploy"
source = "store:deploy"
inject = [{ basic = "password" }]
[[zone.code.egress]]
host = "git.example"
repositories = true
[[zone.code.egress]]
host = "git.example"
paths = ["/api/**"]
credential = "deploy"
[[zone.code.egress]]
host = "*.forge.example"
methods = ["GET"]
ports = [8443]
repositories = true
[[zone.code.egress]]
host = "plain.example"
"#;

fn token(url: &str) -> RepositoryToken {
    RepositoryToken::new("sesrsc_1", url.parse().unwrap())
}

/// A request that holds the token's placeholder there.
fn carrying(line: &str, token: &RepositoryToken, place: Place) -> Request {
    let value = FoundValue::Placeholder(Issued::ThisSession);
    Request {
        credentials_present: vec![Found { credential: token.credential().clone(), value, place }],
        ..request(line)
    }
}

fn password() -> Place {
    Place::At(Location::Basic(BasicPart::Password))
}

#[test]
fn a_token_goes_to_its_own_repository_by_git_s_own_requests_and_as_a_password() {
    let zone = zone(CODE);
    let token = token("https://git.example/team/ledger.git");
    let header = || Place::At(Location::Header("authorization".to_owned()));
    for (line, place, expected) in [
        ("GET https://git.example/team/ledger.git/info/refs", password(), Ok(())),
        ("POST https://git.example/team/ledger.git/git-upload-pack", password(), Ok(())),
        ("POST https://git.example/team/ledger.git/git-receive-pack", password(), Ok(())),
        ("GET https://git.example/team/ledger.git/info/refs", header(), Err(Reason::PlaceholderWrongLocation)),
        ("GET https://git.example/team/ledger.git/info/refs", Place::Query, Err(Reason::PlaceholderWrongLocation)),
        (
            "POST https://git.example/team/ledger.git/git-upload-pack",
            Place::Body,
            Err(Reason::PlaceholderWrongLocation),
        ),
        ("POST https://git.example/team/ledger.git/info/refs", password(), Err(Reason::PathNotAllowed)),
        ("GET https://git.example/team/ledger.git/git-upload-pack", password(), Err(Reason::PathNotAllowed)),
        ("GET https://git.example/team/ledger.git", password(), Err(Reason::PathNotAllowed)),
        ("GET https://git.example/team/ledger/info/refs", password(), Err(Reason::PathNotAllowed)),
        ("GET https://git.example/team/ledger.git.evil/info/refs", password(), Err(Reason::PathNotAllowed)),
        ("GET https://git.example/team/payroll.git/info/refs", password(), Err(Reason::PathNotAllowed)),
        ("GET https://git.example/api/user", password(), Err(Reason::PathNotAllowed)),
        ("GET https://plain.example/team/ledger.git/info/refs", password(), Err(Reason::PlaceholderWrongHost)),
        ("GET https://evil.example/team/ledger.git/info/refs", password(), Err(Reason::PlaceholderWrongHost)),
        ("GET https://git.example:8443/team/ledger.git/info/refs", password(), Err(Reason::PlaceholderWrongPort)),
        ("GET http://git.example:443/team/ledger.git/info/refs", password(), Err(Reason::PlaceholderWrongScheme)),
    ] {
        let decided = zone.request_of(&carrying(line, &token, place.clone()), std::slice::from_ref(&token));
        assert_eq!(decided.as_ref().map(|_| ()).map_err(|denial| denial.reason), expected, "{line} {place:?}");
        match decided {
            Ok(permit) => {
                assert_eq!(permit.injections().len(), 1);
                assert_eq!(permit.injections()[0].credential(), token.credential());
                assert_eq!(token.admits(&permit), Ok(()));
            }
            Err(denial) => assert!(denial.alarm, "{line}: no honest client does that"),
        }
    }
}

#[test]
fn what_the_rule_says_of_methods_and_paths_holds_for_tokens_too() {
    let zone = zone(CODE);
    let token = token("https://a.forge.example:8443/x");
    let decide = |line: &str| {
        let decided = zone.request_of(&carrying(line, &token, password()), std::slice::from_ref(&token));
        decided.map(drop).map_err(|denial| denial.reason)
    };
    assert_eq!(decide("GET https://a.forge.example:8443/x/info/refs"), Ok(()));
    assert_eq!(decide("POST https://a.forge.example:8443/x/git-upload-pack"), Err(Reason::MethodNotAllowed));
}

#[test]
fn a_zone_that_says_nothing_of_repositories_takes_no_token() {
    let zone = zone(&CODE.replace("repositories = true\n", ""));
    let token = token("https://git.example/team/ledger.git");
    let line = "GET https://git.example/team/ledger.git/info/refs";
    let denial = zone.request_of(&carrying(line, &token, password()), std::slice::from_ref(&token)).unwrap_err();
    assert_eq!(denial.reason, Reason::CustodyDenied);
    assert!(denial.next_step.contains("repositories = true"), "{}", denial.next_step);
    let denial = zone.grant_repository(&token).unwrap_err();
    assert!(denial.next_step.contains("repositories = true") && denial.next_step.contains("git.example"));
    assert!(zone.request(&request(line)).is_ok(), "without a token it is a request like another");
}

#[test]
fn custody_hands_out_a_token_only_where_a_rule_takes_it_at_its_host_and_port() {
    let zone = zone(CODE);
    for (url, given) in [
        ("https://git.example/a/b", true),
        ("https://a.forge.example:8443/a/b", true),
        ("https://a.forge.example/a/b", false),
        ("https://git.example:8443/a/b", false),
        ("https://plain.example/a/b", false),
        ("https://elsewhere.example/a/b", false),
    ] {
        assert_eq!(zone.grant_repository(&token(url)).is_ok(), given, "{url}");
        assert_eq!(zone.explain_repository(&url.parse().unwrap()).decided.is_ok(), given, "{url}");
    }
}

#[test]
fn a_session_s_token_is_no_other_session_s_and_no_zone_s() {
    let zone = zone(CODE);
    let (ours, theirs) = (
        token("https://git.example/a/b"),
        RepositoryToken::new("sesrsc_2", "https://git.example/a/b".parse().unwrap()),
    );
    let request = carrying("GET https://git.example/a/b/info/refs", &theirs, password());
    assert!(zone.request_of(&request, std::slice::from_ref(&ours)).is_err(), "a name that the session has not");
    assert!(zone.request(&request).is_err());
    // A name of the zone's is not the token's, whatever it is called.
    assert_ne!(*ours.credential(), CredentialName::new("deploy"));
    assert!(zone.credential(ours.credential()).is_none());
}

#[test]
fn another_s_keys_are_refused_where_tokens_are_taken_and_wildcards_of_strangers_take_none() {
    let zone = zone(CODE);
    let foreign = Request {
        foreign: vec![ForeignCredential::Header("authorization".to_owned())],
        ..request("GET https://git.example/team/ledger.git/info/refs")
    };
    assert_eq!(zone.request(&foreign).unwrap_err().reason, Reason::ForeignCredential);
    let errors = listed(&load(&CODE.replace("*.forge.example", "*.github.io")).unwrap_err());
    assert!(errors.contains("name the host exactly"), "{errors}");
    let errors = listed(&load(&CODE.replace("ports = [8443]", "scheme = \"http\"")).unwrap_err());
    assert!(errors.contains("not sent in the clear"), "{errors}");
}

#[test]
fn a_token_goes_in_the_clear_to_loopback_alone_and_where_both_the_rule_and_the_url_say_so() {
    let local = r#"[[zone.code.egress]]
host = "forge.local"
scheme = "http"
ports = [3000]
addresses = ["127.0.0.0/8"]
repositories = true
"#;
    let zones = load(&format!("{CODE}{local}")).unwrap_or_else(|errors| panic!("{}", listed(&errors)));
    assert!(zones.warnings().iter().any(|warning| warning.message.contains("in the clear")));
    let zone = zones.named("code").unwrap();
    let token = token("http://forge.local:3000/team/ledger");
    assert!(zone.grant_repository(&token).is_ok());
    let decide =
        |line: &str| zone.request_of(&carrying(line, &token, password()), std::slice::from_ref(&token)).map(drop);
    assert_eq!(decide("GET http://forge.local:3000/team/ledger/info/refs"), Ok(()));
    let denied = decide("GET https://forge.local:3000/team/ledger/info/refs").unwrap_err();
    assert_eq!(denied.reason, Reason::PlaceholderWrongScheme);
    let secure = RepositoryToken::new("sesrsc_1", "https://forge.local:3000/team/ledger".parse().unwrap());
    assert!(zone.grant_repository(&secure).unwrap_err().next_step.contains("scheme https, port 3000"));
    let told = zone.explain_repository(secure.url());
    assert!(
        told.rules.iter().all(|rule| rule.matchers.contains(&("scheme", rule.rule == "none"))),
        "the line is named"
    );
    for elsewhere in ["10.0.0.0/8", "127.0.0.0/8\", \"10.0.0.0/8"] {
        let errors = listed(&load(&format!("{CODE}{}", local.replace("127.0.0.0/8", elsewhere))).unwrap_err());
        assert!(errors.contains("not sent in the clear"), "{errors}");
    }
}

#[test]
fn a_policy_file_can_forbid_the_use_of_every_token() {
    let text = CODE.replace("environment = \"default\"", "environment = \"default\"\npolicy_file = \"forbid.cedar\"");
    let forbid = r#"@id("no-push") forbid (principal, action == Postern::Action::"credential.use", resource == Postern::Credential::"repository:token") when { context.path like "*/git-receive-pack" };"#;
    let mut document = Document::parse("postern.toml", &text).unwrap();
    document.attach("forbid.cedar", forbid);
    let zone = Zones::load(&document, &names()).unwrap().named("code").unwrap();
    let token = token("https://git.example/a/b");
    let decide =
        |line: &str| zone.request_of(&carrying(line, &token, password()), std::slice::from_ref(&token)).map(drop);
    assert!(decide("POST https://git.example/a/b/git-upload-pack").is_ok());
    assert_eq!(decide("POST https://git.example/a/b/git-receive-pack").unwrap_err().reason, Reason::PolicyForbidden);
}
