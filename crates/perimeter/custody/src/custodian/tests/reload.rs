//! Another document while calls and sessions go on.

use std::time::{Duration, Instant};

use super::*;
use crate::message::{RouteGrant, RoutePurpose};

const NEW: &str = "the-new-wiki's-0wn-s3cret";
const PIPED: &str = "a-v4riable-of-the-operator";

/// What a gateway and a worker know of a document.
struct Read {
    text: String,
    zone: String,
    routes: String,
}

fn read(text: String) -> Read {
    let document = Document::parse("postern.toml", &text).unwrap();
    let names = BTreeMap::from([("default".to_owned(), "env_1".to_owned())]);
    let zone = Zones::load(&document, &names).unwrap().named("ledger").unwrap().digest().to_owned();
    Read { zone, routes: Routes::load(&document).unwrap().digest().to_owned(), text }
}

/// The wiki moved and has another secret; the CRM sends a variable of the operator's; a tool more.
fn other() -> Read {
    let text = CONFIGURATION.replacen("9300/mcp", "9399/mcp", 1);
    let text = text.replacen("store:wiki-token", "store:wiki-new", 1);
    let text = text.replacen(r#"source = "api:""#, r#"source = "env:CRM", header = "authorization""#, 1);
    read(text.replacen(r#"tools = ["search"]"#, r#"tools = ["search", "read"]"#, 1))
}

fn call(by: &Read, route: &str) -> RouteGrant {
    RouteGrant {
        route: route.to_owned(),
        routes_digest: by.routes.clone(),
        session: "sesn_1".to_owned(),
        agent: None,
        tool_use: None,
        purpose: RoutePurpose::Call { zone: "ledger".to_owned(), policy_digest: by.zone.clone() },
        mcp_url: format!("https://{route}.t1.tunnel.localhost/mcp"),
        sealed: None,
    }
}

fn fixture_with_new_secret() -> Fixture {
    let fixture = fixture();
    crate::store::Store::open(fixture.directory.path()).unwrap().set("wiki-new", NEW.into(), false).unwrap();
    fixture
}

impl Fixture {
    async fn reloads(&self, caller: CallerKind, to: &Read, variables: &[(&str, &str)]) {
        assert_eq!(self.custodian.reload(caller, reload(&to.text, variables)).await, Ok(Vec::new()));
    }

    async fn granted(&self, call: RouteGrant) -> Result<String, RefusalReason> {
        let granted = self.custodian.grant_route(CallerKind::Gateway, call).await;
        granted.map(|secret| text(&secret).to_owned()).map_err(|refusal| refusal.reason)
    }

    fn opens_by(&self, read: &Read) -> OpenSession {
        OpenSession { digest: read.zone.clone(), ..self.ask("sesn_1") }
    }
}

#[tokio::test]
async fn changed_and_new_credentials_of_routes_are_granted_after_a_reload_and_not_before() {
    let (fixture, other) = (fixture_with_new_secret(), other());
    assert_eq!(fixture.granted(call(&other, "wiki")).await, Err(RefusalReason::DigestMismatch));
    fixture.reloads(CallerKind::Gateway, &other, &[("CRM", PIPED)]).await;
    assert_eq!(fixture.granted(call(&other, "wiki")).await.as_deref(), Ok(NEW));
    assert_eq!(fixture.granted(call(&other, "crm")).await.as_deref(), Ok(PIPED));
    assert!(fixture.kinds().contains(&Kind::ConfigurationLoaded));
}

#[tokio::test]
async fn a_call_on_its_way_gets_the_credential_of_the_upstream_it_was_decided_for() {
    let (fixture, old, other) = (fixture_with_new_secret(), read(CONFIGURATION.to_owned()), other());
    fixture.reloads(CallerKind::Gateway, &other, &[("CRM", PIPED)]).await;
    assert_eq!(fixture.granted(call(&old, "wiki")).await.as_deref(), Ok(WIKI), "never the new secret to the old place");
    let mixed = RouteGrant { routes_digest: other.routes.clone(), ..call(&old, "wiki") };
    assert_eq!(fixture.granted(mixed).await, Err(RefusalReason::DigestMismatch));
    let later = Instant::now() + Duration::from_secs(16);
    assert_eq!(lock(&fixture.custodian.generations).for_calls(later).len(), 1);
}

#[tokio::test]
async fn a_document_with_an_error_changes_nothing_and_says_all_that_is_wrong() {
    let fixture = fixture();
    let broken = CONFIGURATION.replacen("config = 1", "config = 1\nfoo = 2", 1).replacen("9300/mcp", "99999/mcp", 1);
    let document = postern_policy::document::DocumentText {
        text: broken,
        ..Document::parse("postern.toml", CONFIGURATION).unwrap().text().clone()
    };
    let broken = Reload { document, ..reload(CONFIGURATION, &[]) };
    let problems = fixture.custodian.reload(CallerKind::Gateway, broken).await.unwrap();
    assert!(!problems.is_empty(), "{problems:?}");
    assert_eq!(fixture.granted(call(&read(CONFIGURATION.to_owned()), "wiki")).await.as_deref(), Ok(WIKI));
    assert!(!fixture.kinds().contains(&Kind::ConfigurationLoaded));
}

#[tokio::test]
async fn without_a_record_the_former_document_stays() {
    let (fixture, other) = (fixture_with_new_secret(), other());
    fixture.recorder.fail_with(Some(AuditError::Unwritable { reason: "full".to_owned() }));
    let refused = fixture.custodian.reload(CallerKind::Gateway, reload(&other.text, &[])).await.unwrap_err();
    assert_eq!(refused.reason, RefusalReason::AuditUnavailable);
    assert_eq!(lock(&fixture.custodian.generations).documents().len(), 1);
}

#[tokio::test]
async fn a_worker_goes_on_with_the_zones_it_knows_until_it_reads_the_new_document_itself() {
    let (fixture, old, other) = (fixture_with_new_secret(), read(CONFIGURATION.to_owned()), other());
    fixture.reloads(CallerKind::Gateway, &other, &[("CRM", PIPED)]).await;
    fixture.custodian.open(CallerKind::Worker, fixture.opens_by(&old)).await.unwrap();
    // The session keeps its zone and secrets, whatever is read later.
    lock(&fixture.custodian.generations).forget_former(Instant::now() + Duration::from_secs(60));
    let granted = fixture.custodian.grant(CallerKind::Egress, "sesn_1", "unused", &old.zone, Purpose::Recognise).await;
    assert!(granted.is_err_and(|refusal| refusal.reason == RefusalReason::NotGranted));
    let granted = fixture.custodian.grant(CallerKind::Egress, "sesn_1", "ledger-api", &old.zone, Purpose::Inject).await;
    assert_eq!(text(&granted.unwrap().secret), VALUE);
    fixture.custodian.close(CallerKind::Worker, "sesn_1").await.unwrap();
    let refused = fixture.custodian.open(CallerKind::Worker, fixture.opens_by(&old)).await.unwrap_err();
    assert_eq!(refused.reason, RefusalReason::DigestMismatch);
    fixture.custodian.open(CallerKind::Worker, fixture.opens_by(&other)).await.unwrap();
}

#[tokio::test]
async fn a_variable_that_does_not_come_along_keeps_its_value_while_it_is_named() {
    let (fixture, other) = (fixture_with_new_secret(), other());
    fixture.reloads(CallerKind::Gateway, &other, &[("CRM", PIPED)]).await;
    let issued = fixture.custodian.open(CallerKind::Worker, fixture.opens_by(&other)).await.unwrap();
    assert_eq!(
        issued.issued.iter().find(|one| one.credential == "unused").unwrap().placeholder.as_str().len(),
        OTHER.len()
    );
    fixture.reloads(CallerKind::Gateway, &read(CONFIGURATION.to_owned()), &[]).await;
    fixture.reloads(CallerKind::Gateway, &other, &[]).await;
    assert_eq!(fixture.granted(call(&other, "crm")).await, Err(RefusalReason::SourceMissing), "not named in between");
}

#[tokio::test]
async fn grants_of_unchanged_routes_stay_and_those_of_changed_ones_are_zeroed() {
    let fixture = fixture_with_new_secret();
    let old = read(CONFIGURATION.replacen(r#"tools = ["search"]"#, r#"tools = ["*"]"#, 1));
    fixture.reloads(CallerKind::Gateway, &old, &[]).await;
    fixture.granted(call(&old, "wiki")).await.unwrap();
    let known = || fixture.custodian.known(CallerKind::Gateway, "sesn_1").unwrap().len();
    let more = read(format!(
        "{}\n[[gateway.route]]\nhost = \"more\"\nupstream = \"http://127.0.0.1:9303/mcp\"\naddresses = [\"127.0.0.0/8\"]\n",
        old.text
    ));
    fixture.reloads(CallerKind::Gateway, &more, &[]).await;
    assert_eq!(known(), 1);
    fixture.reloads(CallerKind::Gateway, &other(), &[("CRM", PIPED)]).await;
    assert_eq!(known(), 0);
}

#[tokio::test]
async fn an_egress_connection_may_not_reload_nor_ask_for_documents() {
    let fixture = fixture();
    let refused = fixture.custodian.reload(CallerKind::Egress, reload(CONFIGURATION, &[])).await.unwrap_err();
    assert_eq!(refused.reason, RefusalReason::WrongConnection);
    assert!(fixture.custodian.documents(CallerKind::Egress).is_err());
    assert!(fixture.custodian.documents(CallerKind::Gateway).is_err());
}

#[tokio::test]
async fn records_of_a_session_are_as_safe_as_the_zone_in_force_wants_them() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    let last = || fixture.recorder.records().pop().unwrap().durability;
    assert_eq!(last(), postern_audit::Durability::Written);
    let on_disk = read(CONFIGURATION.replacen("[zone.ledger]\n", "[zone.ledger]\naudit = \"disk\"\n", 1));
    fixture.reloads(CallerKind::Worker, &on_disk, &[("UNUSED", OTHER)]).await;
    fixture.grant("sesn_1", "ledger-api").await.unwrap();
    assert_eq!(last(), postern_audit::Durability::Disk);
}

#[tokio::test]
async fn records_of_a_session_whose_zone_is_gone_are_on_the_disk() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    let renamed =
        Read { text: CONFIGURATION.replace("[zone.ledger", "[zone.renamed"), ..read(CONFIGURATION.to_owned()) };
    let renamed = Read { text: renamed.text.replace("[[zone.ledger", "[[zone.renamed"), ..renamed };
    fixture.reloads(CallerKind::Worker, &renamed, &[]).await;
    let before = fixture.recorder.records().len();
    let _whatever = fixture.grant("sesn_1", "ledger-api").await;
    let records = fixture.recorder.records();
    assert!(records.len() > before && records.last().unwrap().durability == postern_audit::Durability::Disk);
}
