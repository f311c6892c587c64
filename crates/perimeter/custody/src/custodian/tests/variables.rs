//! Variables of vaults: what a zone gives of them, how far they go, and what becomes of them while a session runs.

use postern_secret::seal::{Binding, Places, Recipient, SealedCredential, SealedVariable, seal};

use super::*;
use crate::keys;
use crate::message::{Withheld, WithheldCode};

const ROTATED: &str = "A-r0tated-Value-of-the-crm";
const BOTH: Places = Places { body: true, header: true };

/// The zone of the other tests, and a variable that it gives to one host in a header, and another that no rule uses.
fn with_variables() -> Fixture {
    let added = r#"
[[zone.ledger.credential]]
name = "crm"
source = "api:CRM_TOKEN"
inject = [{ header = "authorization" }]

[[zone.ledger.credential]]
name = "idle"
source = "api:IDLE_TOKEN"
inject = [{ json = "/token" }]

[[zone.ledger.egress]]
host = "*.crm.example"
credential = "crm"
"#;
    fixture_of(&CONFIGURATION.replacen("[[zone.ledger.mcp]]", &format!("{added}[[zone.ledger.mcp]]"), 1))
}

fn binding(name: &str, hosts: &[&str]) -> Binding {
    Binding {
        client_id: None,
        credential: format!("vcrd_{name}"),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        injection: Some(BOTH),
        kind: "environment_variable".to_owned(),
        mcp_url: None,
        refresh: None,
        secret_name: Some(name.to_owned()),
        token_endpoint: None,
        vault: "vlt_1".to_owned(),
        workspace: "wrkspc_default".to_owned(),
    }
}

impl Fixture {
    fn seal(&self, binding: Binding, value: &str) -> SealedVariable {
        let to = [Recipient { perimeter_id: "pmtr_1".to_owned(), public_key: self.public_key.clone() }];
        let sealed = seal(&Secret::new(value.as_bytes().to_vec()), &binding, &to).unwrap();
        let (hosts, places) = (binding.hosts.clone(), binding.injection.unwrap_or(BOTH));
        SealedVariable { credential: SealedCredential { binding, sealed }, hosts, places, run: None }
    }

    fn crm(&self, value: &str) -> SealedVariable {
        self.seal(binding("CRM_TOKEN", &["eu.crm.example"]), value)
    }

    async fn open_with(&self, session: &str, variables: Vec<SealedVariable>) -> Opened {
        let open = OpenSession { variables, ..self.ask(session) };
        self.custodian.open(CallerKind::Worker, open).await.unwrap()
    }

    async fn refresh(&self, session: &str, variables: Vec<SealedVariable>) -> Vec<Withheld> {
        self.custodian.refresh(CallerKind::Worker, session, variables).await.unwrap()
    }
}

#[tokio::test]
async fn a_variable_that_the_zone_names_has_a_placeholder_and_goes_as_far_as_its_vault_says() {
    let fixture = with_variables();
    let opened = fixture.open_with("sesn_1", vec![fixture.crm(OTHER)]).await;
    let issued = opened.issued.iter().find(|issued| issued.credential == "crm").unwrap();
    assert_eq!((issued.env.as_deref(), issued.placeholder.as_str().len()), (Some("CRM_TOKEN"), OTHER.len()));
    assert_eq!(opened.withheld, []);
    let grant = fixture.asked("sesn_1", "crm", Purpose::Inject).await.unwrap();
    assert_eq!(text(&grant.secret), OTHER);
    let vault = grant.vault.unwrap();
    assert_eq!(vault.credential, "vcrd_CRM_TOKEN");
    assert_eq!(vault.reach.hosts, ["eu.crm.example"]);
    let used = fixture.recorder.records().pop().unwrap();
    assert_eq!((used.kind, used.credential.as_deref()), (Kind::CredentialUse, Some("crm")));
    assert_eq!(used.outcome.as_deref(), Some("vault credential vcrd_CRM_TOKEN"));
}

#[tokio::test]
async fn a_session_whose_vaults_have_it_not_goes_on_without() {
    let fixture = with_variables();
    let opened = fixture.open_with("sesn_1", Vec::new()).await;
    assert!(opened.issued.iter().all(|issued| issued.credential != "crm"));
    let refusal = fixture.asked("sesn_1", "crm", Purpose::Inject).await.unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::SourceMissing);
    assert_eq!(text(&fixture.grant("sesn_1", "ledger-api").await.unwrap()), VALUE, "the rest is as ever");
}

#[tokio::test]
async fn what_is_not_given_is_said_each_with_its_reason_and_the_line_to_add() {
    let fixture = with_variables();
    let elsewhere = keys::perimeter(tempfile::tempdir().unwrap().path()).unwrap();
    let named = || binding("CRM_TOKEN", &["eu.crm.example"]);
    let given = |change: fn(&mut SealedVariable)| {
        let mut variable = fixture.crm(OTHER);
        change(&mut variable);
        variable
    };
    let for_others = {
        let to = [Recipient { perimeter_id: "pmtr_2".to_owned(), public_key: elsewhere.public }];
        let sealed = seal(&Secret::new(OTHER.as_bytes().to_vec()), &named(), &to).unwrap();
        let credential = SealedCredential { binding: named(), sealed };
        SealedVariable { credential, hosts: named().hosts, places: BOTH, run: None }
    };
    let body = Places { body: true, header: false };
    use WithheldCode::{HostUnreachable, NoPlace, NotNamed, Unusable};
    let table = [
        ("no zone names it", fixture.seal(binding("ANOTHER", &["*"]), OTHER), NotNamed, "source = \"api:ANOTHER\""),
        ("no rule uses it", fixture.seal(binding("IDLE_TOKEN", &["*"]), OTHER), NotNamed, "credential = \"idle\""),
        (
            "no rule leads there",
            fixture.seal(binding("CRM_TOKEN", &["a.example"]), OTHER),
            HostUnreachable,
            "a.example",
        ),
        ("no place", fixture.seal(Binding { injection: Some(body), ..named() }, OTHER), NoPlace, "injection_location"),
        ("narrowed to no place", given(|one| one.places.header = false), NoPlace, "injection_location"),
        ("hosts widened beside it", given(|one| one.hosts = vec!["*".to_owned()]), Unusable, "further"),
        ("hosts widened in it", given(|one| one.credential.binding.hosts.push("*".to_owned())), Unusable, "changed"),
        ("renamed in it", given(|one| one.credential.binding.vault.push('x')), Unusable, "changed"),
        (
            "another kind",
            fixture.seal(Binding { kind: "static_bearer".to_owned(), ..named() }, OTHER),
            Unusable,
            "again",
        ),
        ("no places bound", fixture.seal(Binding { injection: None, ..named() }, OTHER), Unusable, "again"),
        ("first version", given(|one| one.credential.sealed.version = 1), Unusable, "again"),
        ("for others", for_others, Unusable, "before this perimeter"),
        ("too weak", fixture.seal(named(), "short"), Unusable, "too weak"),
    ];
    for (at, (what, variable, code, said)) in table.into_iter().enumerate() {
        let opened = fixture.open_with(&format!("sesn_{at}"), vec![variable]).await;
        assert!(opened.issued.iter().all(|issued| issued.credential != "crm"), "{what}");
        let [withheld] = &opened.withheld[..] else { panic!("{what}: {:?}", opened.withheld) };
        assert_eq!(withheld.code, code, "{what}: {}", withheld.message);
        assert!(
            withheld.message.contains(said) && withheld.message.contains("Next step"),
            "{what}: {}",
            withheld.message
        );
        assert!(!withheld.message.contains(OTHER));
    }
    assert!(fixture.kinds().contains(&Kind::Alarm), "what was changed is an alarm");
}

#[tokio::test]
async fn hosts_that_nothing_leads_to_are_said_and_the_others_are_reached() {
    let fixture = with_variables();
    let variable = fixture.seal(binding("CRM_TOKEN", &["eu.crm.example", "a.example"]), OTHER);
    let opened = fixture.open_with("sesn_1", vec![variable]).await;
    assert_eq!(opened.withheld[0].code, WithheldCode::HostUnreachable);
    assert!(opened.withheld[0].message.contains("a.example") && !opened.withheld[0].message.contains("eu.crm"));
    assert_eq!(text(&fixture.grant("sesn_1", "crm").await.unwrap()), OTHER);
}

#[tokio::test]
async fn of_two_with_one_name_the_first_counts() {
    let fixture = with_variables();
    let opened = fixture.open_with("sesn_1", vec![fixture.crm(OTHER), fixture.crm(ROTATED)]).await;
    assert_eq!(opened.withheld, []);
    assert_eq!(text(&fixture.grant("sesn_1", "crm").await.unwrap()), OTHER);
}

#[tokio::test]
async fn a_new_value_counts_from_the_next_use_on_and_one_that_is_gone_is_used_no_more() {
    let fixture = with_variables();
    let issued = fixture.open_with("sesn_1", vec![fixture.crm(OTHER)]).await.issued;
    assert_eq!(text(&fixture.grant("sesn_1", "crm").await.unwrap()), OTHER);

    assert_eq!(fixture.refresh("sesn_1", vec![fixture.crm(ROTATED)]).await, []);
    assert_eq!(text(&fixture.grant("sesn_1", "crm").await.unwrap()), ROTATED);
    let known = fixture.custodian.placeholders(CallerKind::Egress).unwrap();
    let of_it: Vec<_> = known.iter().filter(|known| known.credential == "crm").collect();
    let before = issued.iter().find(|issued| issued.credential == "crm").unwrap();
    assert_eq!((of_it.len(), &of_it[0].placeholder), (1, &before.placeholder), "behind the same placeholder");

    let mut narrowed = fixture.crm(ROTATED);
    narrowed.hosts = vec!["none.crm.example".to_owned()];
    let withheld = fixture.refresh("sesn_1", vec![narrowed]).await;
    assert_eq!(withheld[0].code, WithheldCode::Unusable, "narrower is what lies within");

    fixture.refresh("sesn_1", Vec::new()).await;
    let refusal = fixture.asked("sesn_1", "crm", Purpose::Inject).await.unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::SourceMissing);
    let revoked =
        fixture.recorder.records().into_iter().filter(|record| record.kind == Kind::CredentialRevoked).count();
    assert_eq!(revoked, 2, "each change is on record");
    fixture.refresh("sesn_1", vec![fixture.crm(OTHER)]).await;
    assert_eq!(text(&fixture.grant("sesn_1", "crm").await.unwrap()), OTHER, "and comes back behind its placeholder");
}

#[tokio::test]
async fn what_egress_may_use_again_ends_with_the_value() {
    let fixture = with_variables();
    fixture.open_with("sesn_1", vec![fixture.crm(OTHER)]).await;
    let take = async || {
        let grant = fixture.asked("sesn_1", "crm", Purpose::Inject).await.unwrap();
        let (kept, descriptors) = grant.kept.unwrap();
        Kept::received(&kept, descriptors).unwrap()
    };
    let word = take().await;
    assert!(word.counts());
    fixture.refresh("sesn_1", vec![fixture.crm(ROTATED)]).await;
    assert!(!word.counts());
    let word = take().await;
    fixture.refresh("sesn_1", Vec::new()).await;
    assert!(!word.counts());
}

#[tokio::test]
async fn a_variable_that_came_later_waits_for_the_next_time() {
    let fixture = with_variables();
    fixture.open_with("sesn_1", Vec::new()).await;
    assert_eq!(fixture.refresh("sesn_1", vec![fixture.crm(OTHER)]).await, []);
    let refusal = fixture.asked("sesn_1", "crm", Purpose::Inject).await.unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::SourceMissing);
}

#[tokio::test]
async fn only_the_worker_brings_variables_and_to_an_open_session_alone() {
    let fixture = with_variables();
    fixture.open_with("sesn_1", Vec::new()).await;
    for caller in [CallerKind::Egress, CallerKind::Gateway] {
        let refusal = fixture.custodian.refresh(caller, "sesn_1", vec![fixture.crm(OTHER)]).await.unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::WrongConnection);
    }
    let refusal = fixture.custodian.refresh(CallerKind::Worker, "sesn_2", Vec::new()).await.unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::SessionNotOpen);
}

/// Answers that a use is on record when it is let to.
struct Slow {
    memory: Memory,
    uses: Arc<tokio::sync::Semaphore>,
}

impl Recorder for Slow {
    fn record_all(&self, records: Vec<Record>) -> postern_audit::Recording<'_> {
        Box::pin(async move {
            let is_use = records.iter().any(|record| record.kind == Kind::CredentialUse);
            let written = self.memory.record_all(records).await;
            if is_use {
                let _let_go = self.uses.acquire().await;
            }
            written
        })
    }
}

#[tokio::test]
async fn a_value_that_was_replaced_while_its_use_was_recorded_goes_as_far_as_it_was_sealed_for_itself() {
    let mut fixture = with_variables();
    let uses = Arc::new(tokio::sync::Semaphore::new(0));
    fixture.custodian.recorder = Arc::new(Slow { memory: fixture.recorder.clone(), uses: Arc::clone(&uses) });
    fixture.open_with("sesn_1", vec![fixture.crm(OTHER)]).await;
    let mut asked = std::pin::pin!(fixture.asked("sesn_1", "crm", Purpose::Inject));
    let polled = asked.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    assert!(polled.is_pending(), "its use is being recorded");
    let another = fixture.seal(binding("CRM_TOKEN", &["*"]), ROTATED);
    assert_eq!(fixture.refresh("sesn_1", vec![another]).await, []);
    uses.add_permits(tokio::sync::Semaphore::MAX_PERMITS);

    let grant = asked.await.unwrap();
    assert_eq!(
        (text(&grant.secret), &grant.vault.unwrap().reach.hosts[..]),
        (OTHER, &["eu.crm.example".to_owned()][..])
    );
    assert!(grant.kept.is_none(), "and is used this once");
    let next = fixture.asked("sesn_1", "crm", Purpose::Inject).await.unwrap();
    assert_eq!((text(&next.secret), &next.vault.unwrap().reach.hosts[..]), (ROTATED, &["*".to_owned()][..]));
}
