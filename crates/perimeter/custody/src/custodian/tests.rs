use std::collections::BTreeMap;
use std::path::Path;

use postern_audit::{AuditError, Memory};
use postern_exec::WireBytes;
use postern_policy::{Document, Routes, Zones};
use postern_secret::{Placeholder, Secret};

use super::*;
use crate::message::Reload;

mod gateway;
mod leases;
mod refresh;
mod reload;
mod repositories;
mod rewrap;
mod variables;

const VALUE: &str = "s3cret-Value-of-the-ledger";
const OTHER: &str = "Another-s3cret-0f-the-wiki";
const WIKI: &str = "the-wiki's-0wn-s3cret-token";
const CONFIGURATION: &str = r#"
config = 1

[zone.ledger]
environment = "default"
agents = ["*"]

[[zone.ledger.credential]]
name = "ledger-api"
source = "store:ledger-api"
env = "LEDGER_API_KEY"
inject = [{ header = "authorization" }]

[[zone.ledger.credential]]
name = "unused"
source = "env:UNUSED"
env = "UNUSED_KEY"
inject = [{ header = "authorization" }]

[[zone.ledger.egress]]
host = "api.ledger.internal"
scheme = "https"
ports = [443]
methods = ["GET"]
paths = ["/v1/**"]
credential = "ledger-api"

[[zone.ledger.mcp]]
server = "wiki"
tools = ["search"]

[[zone.ledger.mcp]]
server = "crm"
tools = ["*"]

[[zone.ledger.mcp]]
server = "open"
tools = ["*"]

[[gateway.route]]
host = "wiki"
upstream = "http://127.0.0.1:9300/mcp"
addresses = ["127.0.0.0/8"]
credential = { source = "store:wiki-token", header = "authorization", format = "Bearer {secret}" }

[[gateway.route]]
host = "crm"
upstream = "https://crm.internal/mcp"
addresses = ["10.0.0.0/8"]
credential = { source = "api:" }
url = "https://crm.example/mcp"

[[gateway.token_endpoint]]
url = "https://login.example/token"

[[gateway.route]]
host = "open"
upstream = "http://127.0.0.1:9301/mcp"
addresses = ["127.0.0.0/8"]

[[gateway.route]]
host = "unnamed"
upstream = "http://127.0.0.1:9302/mcp"
addresses = ["127.0.0.0/8"]
credential = { source = "store:wiki-token", header = "x-api-key", format = "{secret}" }
"#;

struct Fixture {
    directory: tempfile::TempDir,
    custodian: Custodian,
    recorder: Memory,
    digest: String,
    routes_digest: String,
    public_key: postern_secret::seal::PerimeterPublicKey,
}

fn store(directory: &Path) -> Store {
    Store::open(directory).unwrap()
}

fn reload(text: &str, variables: &[(&str, &str)]) -> Reload {
    let wire = |(name, value): &(&str, &str)| ((*name).to_owned(), WireBytes::new(value.as_bytes().to_vec()));
    Reload {
        document: Document::parse("postern.toml", text).unwrap().text().clone(),
        environments: BTreeMap::from([("default".to_owned(), "env_1".to_owned())]),
        snapshot: variables.iter().map(wire).collect(),
    }
}

fn fixture() -> Fixture {
    fixture_of(CONFIGURATION)
}

fn fixture_of(configuration: &str) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.set("ledger-api", VALUE.as_bytes().to_vec(), false).unwrap();
    store.set("wiki-token", WIKI.as_bytes().to_vec(), false).unwrap();
    let Reload { document, environments, snapshot } = reload(configuration, &[("UNUSED", OTHER)]);
    let generation = Generation::load(document, &environments, snapshot, &store, None).unwrap();
    let digest = generation.zones.named("ledger").unwrap().digest().to_owned();
    let routes_digest = generation.routes.digest().to_owned();
    let ledger = Ledger::open(directory.path(), Timestamp::now()).unwrap();
    let recorder = Memory::new();
    let pair = store.perimeter().unwrap();
    let custodian = Custodian::new(Parts {
        generation,
        store,
        opener: Opener::new(&pair),
        approved: Approved::at(directory.path()),
        ledger,
        holds: Holds::open(directory.path()).unwrap(),
        renewals: Renewals::open(directory.path()).unwrap(),
        recorder: Arc::new(recorder.clone()),
    });
    Fixture { directory, custodian, recorder, digest, routes_digest, public_key: pair.public }
}

impl Fixture {
    fn ask(&self, session: &str) -> OpenSession {
        OpenSession {
            session: session.to_owned(),
            agent: None,
            zone: "ledger".to_owned(),
            digest: self.digest.clone(),
            variables: Vec::new(),
        }
    }

    async fn open(&self, session: &str) -> Vec<Issued> {
        self.custodian.open(CallerKind::Worker, self.ask(session)).await.unwrap().issued
    }

    async fn grant(&self, session: &str, credential: &str) -> Result<SecretBytes, Refusal> {
        self.asked(session, credential, Purpose::Inject).await.map(|grant| grant.secret)
    }

    async fn asked(&self, session: &str, credential: &str, purpose: Purpose) -> Result<Grant, Refusal> {
        self.custodian.grant(CallerKind::Egress, session, credential, &self.digest, purpose).await
    }

    fn kinds(&self) -> Vec<Kind> {
        self.recorder.records().into_iter().map(|record| record.kind).collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "the test compares what was granted")]
fn text(secret: &SecretBytes) -> &str {
    std::str::from_utf8(secret.expose()).unwrap()
}

#[tokio::test]
async fn an_open_session_has_placeholders_as_long_as_its_secrets_and_gets_what_its_zone_names() {
    let fixture = fixture();
    let issued = fixture.open("sesn_1").await;
    let seen: Vec<_> =
        issued.iter().map(|i| (i.credential.as_str(), i.env.as_deref(), i.placeholder.as_str().len())).collect();
    assert_eq!(
        seen,
        [("ledger-api", Some("LEDGER_API_KEY"), VALUE.len()), ("unused", Some("UNUSED_KEY"), OTHER.len())]
    );
    assert_eq!(text(&fixture.grant("sesn_1", "ledger-api").await.unwrap()), VALUE);
    assert_eq!(fixture.kinds(), [Kind::SessionOpened, Kind::CredentialUse]);
    let used = &fixture.recorder.records()[1];
    assert_eq!(
        (used.credential.as_deref(), used.zone.as_deref(), used.decision),
        (Some("ledger-api"), Some("ledger"), Decision::Allow)
    );
    assert_eq!(used.digests["policy"], fixture.digest);
}

#[tokio::test]
async fn every_wrong_question_for_a_secret_is_refused_and_recorded() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    fixture.open("sesn_2").await;
    fixture.custodian.close(CallerKind::Worker, "sesn_2").await.unwrap();
    let digest = fixture.digest.as_str();
    let table = [
        (CallerKind::Worker, "sesn_1", "ledger-api", digest, RefusalReason::WrongConnection, Kind::Alarm),
        (CallerKind::Egress, "sesn_2", "ledger-api", digest, RefusalReason::SessionNotOpen, Kind::CredentialDenied),
        (CallerKind::Egress, "sesn_3", "ledger-api", digest, RefusalReason::SessionNotOpen, Kind::CredentialDenied),
        (CallerKind::Egress, "", "ledger-api", digest, RefusalReason::SessionNotOpen, Kind::CredentialDenied),
        (CallerKind::Egress, "sesn_1", "ledger-api", "sha256:0", RefusalReason::DigestMismatch, Kind::CredentialDenied),
        (CallerKind::Egress, "sesn_1", "ledger-api", "", RefusalReason::DigestMismatch, Kind::CredentialDenied),
        (CallerKind::Egress, "sesn_1", "unused", digest, RefusalReason::NotGranted, Kind::CredentialDenied),
        (CallerKind::Egress, "sesn_1", "another", digest, RefusalReason::NotGranted, Kind::CredentialDenied),
    ];
    for (caller, session, credential, digest, reason, kind) in table {
        let refusal =
            fixture.custodian.grant(caller, session, credential, digest, Purpose::Inject).await.expect_err("refused");
        assert_eq!(refusal.reason, reason, "{caller:?} {session} {credential}");
        assert!(!refusal.next_step.is_empty() && !format!("{refusal:?} {refusal}").contains("s3cret"));
        let record = fixture.recorder.records().pop().unwrap();
        assert_eq!(
            (record.kind, record.decision, record.reason.as_deref()),
            (kind, Decision::Deny, Some(reason.code()))
        );
    }
}

#[tokio::test]
async fn only_the_worker_opens_and_closes_and_only_egress_lists_placeholders() {
    let fixture = fixture();
    let wrong = |refusal: Refusal| assert_eq!(refusal.reason, RefusalReason::WrongConnection);
    wrong(fixture.custodian.open(CallerKind::Egress, fixture.ask("sesn_1")).await.unwrap_err());
    fixture.open("sesn_1").await;
    wrong(fixture.custodian.close(CallerKind::Egress, "sesn_1").await.unwrap_err());
    wrong(fixture.custodian.placeholders(CallerKind::Worker).unwrap_err());
    wrong(fixture.custodian.revoke(CallerKind::Worker, "sesn_1", "ledger-api").await.unwrap_err());
    assert!(fixture.grant("sesn_1", "ledger-api").await.is_ok());
}

#[tokio::test]
async fn a_session_is_not_opened_for_another_zone_version_or_twice() {
    let fixture = fixture();
    let mut unknown = fixture.ask("sesn_1");
    unknown.zone = "other".to_owned();
    assert_eq!(
        fixture.custodian.open(CallerKind::Worker, unknown).await.unwrap_err().reason,
        RefusalReason::ZoneUnknown
    );
    let mut older = fixture.ask("sesn_1");
    older.digest = "sha256:0".to_owned();
    assert_eq!(
        fixture.custodian.open(CallerKind::Worker, older).await.unwrap_err().reason,
        RefusalReason::DigestMismatch
    );
    fixture.open("sesn_1").await;
    let again = fixture.custodian.open(CallerKind::Worker, fixture.ask("sesn_1")).await.unwrap_err();
    assert_eq!(again.reason, RefusalReason::SessionOpen);
    assert!(fixture.grant("sesn_1", "ledger-api").await.is_ok(), "the open session is not disturbed");
}

#[tokio::test]
async fn closing_makes_placeholders_dead_and_the_session_can_be_opened_anew() {
    let fixture = fixture();
    let first = fixture.open("sesn_1").await;
    fixture.custodian.close(CallerKind::Worker, "sesn_1").await.unwrap();
    assert!(fixture.custodian.sessions().is_empty(), "the secrets were dropped, which zeroes them");
    let second = fixture.open("sesn_1").await;
    assert_ne!(first[0].placeholder, second[0].placeholder);
    let known = fixture.custodian.placeholders(CallerKind::Egress).unwrap();
    let alive = |placeholder: &Placeholder| known.iter().find(|known| known.placeholder == *placeholder).unwrap().alive;
    assert!(!alive(&first[0].placeholder) && alive(&second[0].placeholder));
}

#[tokio::test]
async fn without_a_record_there_is_no_secret_and_no_session() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    fixture.recorder.fail_with(Some(AuditError::Unwritable { reason: "full".to_owned() }));
    assert_eq!(fixture.grant("sesn_1", "ledger-api").await.err().unwrap().reason, RefusalReason::AuditUnavailable);
    let refused = fixture.custodian.open(CallerKind::Worker, fixture.ask("sesn_2")).await.unwrap_err();
    assert_eq!(refused.reason, RefusalReason::AuditUnavailable);
    fixture.recorder.fail_with(None);
    assert_eq!(fixture.grant("sesn_2", "ledger-api").await.err().unwrap().reason, RefusalReason::SessionNotOpen);
    assert!(fixture.grant("sesn_1", "ledger-api").await.is_ok());
}

#[tokio::test]
async fn a_new_value_is_used_from_the_next_use_on_behind_the_same_placeholder() {
    let fixture = fixture();
    let issued = fixture.open("sesn_1").await;
    let set = |value: &str| store(fixture.directory.path()).set("ledger-api", value.into(), false).unwrap();
    for value in [OTHER, VALUE, "A-much-l0nger-s3cret-than-any-before-it"] {
        set(value);
        assert_eq!(text(&fixture.grant("sesn_1", "ledger-api").await.unwrap()), value);
    }
    let known = fixture.custodian.placeholders(CallerKind::Egress).unwrap();
    let of_the_session: Vec<_> = known.iter().filter(|known| known.credential == "ledger-api").collect();
    assert_eq!((of_the_session.len(), &of_the_session[0].placeholder), (1, &issued[0].placeholder));
}

#[tokio::test]
async fn a_value_that_was_removed_or_damaged_is_used_no_more() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    store(fixture.directory.path()).remove("ledger-api").unwrap();
    let refusal = fixture.grant("sesn_1", "ledger-api").await.err().unwrap();
    assert_eq!(refusal.reason, RefusalReason::SourceMissing);
    let record = fixture.recorder.records().pop().unwrap();
    assert_eq!((record.kind, record.reason.as_deref()), (Kind::CredentialDenied, Some("source_missing")));
    store(fixture.directory.path()).set("ledger-api", OTHER.as_bytes().to_vec(), false).unwrap();
    assert_eq!(text(&fixture.grant("sesn_1", "ledger-api").await.unwrap()), OTHER);
}

#[tokio::test]
async fn a_missing_secret_refuses_the_session_and_leaves_nothing_open() {
    let fixture = fixture();
    store(fixture.directory.path()).remove("ledger-api").unwrap();
    let refusal = fixture.custodian.open(CallerKind::Worker, fixture.ask("sesn_1")).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.credential.as_deref()), (RefusalReason::SourceMissing, Some("ledger-api")));
    assert!(refusal.next_step.contains("postern secrets set ledger-api"));
    assert!(fixture.custodian.sessions().is_empty());
    store(fixture.directory.path()).set("ledger-api", VALUE.as_bytes().to_vec(), false).unwrap();
    fixture.open("sesn_1").await;
}

#[tokio::test]
async fn swapped_rows_are_refused_and_alarmed() {
    let fixture = fixture();
    store(fixture.directory.path()).set("wiki", OTHER.as_bytes().to_vec(), false).unwrap();
    let file = fixture.directory.path().join("store.json");
    let mut contents: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    contents["rows"]["ledger-api"] = contents["rows"]["wiki"].clone();
    std::fs::write(&file, contents.to_string()).unwrap();
    let refusal = fixture.custodian.open(CallerKind::Worker, fixture.ask("sesn_1")).await.unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::StoreRowChanged);
    let alarm = fixture.recorder.records().pop().unwrap();
    assert_eq!((alarm.kind, alarm.reason.as_deref()), (Kind::Alarm, Some("store_row_changed")));
    assert_eq!(alarm.credential.as_deref(), Some("ledger-api"));
}

#[tokio::test]
async fn a_secret_handed_out_for_recognition_is_not_recorded_as_a_use() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    let asked =
        fixture.custodian.grant(CallerKind::Egress, "sesn_1", "ledger-api", &fixture.digest, Purpose::Recognise);
    assert_eq!(text(&asked.await.unwrap().secret), VALUE);
    assert_eq!(fixture.kinds(), [Kind::SessionOpened, Kind::CredentialGranted]);
}

#[tokio::test]
async fn a_caller_that_is_refused_without_end_does_not_fill_the_log_and_nothing_is_passed_over() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    let digest = fixture.digest.clone();
    let ask = async |session: &str| {
        let custodian = &fixture.custodian;
        custodian.grant(CallerKind::Egress, session, "another", &digest, Purpose::Inject).await.expect_err("refused")
    };
    let denied = || fixture.recorder.records().into_iter().filter(|record| record.kind == Kind::CredentialDenied);
    let (burst, beyond, began) = (REFUSALS_RECORDED as usize, 30, std::time::Instant::now());
    for _ in 0..burst + beyond {
        ask("sesn_1").await;
    }
    let alone = denied().count();
    assert!((burst..=burst + began.elapsed().as_secs() as usize).contains(&alone), "{alone}");
    ask("sesn_2").await;
    assert_eq!(denied().count(), alone + 1, "another session's are not in its way");
    fixture.custodian.record_counted().await;
    let told = denied().next_back().expect("a count");
    assert_eq!(told.counts["refusals"] as usize, burst + beyond - alone);
    assert_eq!((told.session.as_deref(), told.reason.as_deref()), (Some("sesn_1"), Some("not_granted")));
}
