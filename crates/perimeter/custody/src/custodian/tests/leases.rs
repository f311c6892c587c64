//! What the egress proxy may use again without asking, and what ends that.

use std::os::unix::fs::PermissionsExt;

use super::*;

impl Fixture {
    async fn kept(&self, session: &str, credential: &str) -> Option<Kept> {
        let grant = self.asked(session, credential, Purpose::Inject).await.unwrap();
        grant.kept.map(|(kept, descriptors)| Kept::received(&kept, descriptors).unwrap())
    }
}

#[tokio::test]
async fn a_granted_secret_may_be_used_again_until_its_session_is_held_ended_or_left() {
    let owner = Asker { kind: CallerKind::Worker, connection: 7 };
    for ends in ["freeze", "revoke", "close", "the worker is gone", "another document"] {
        let fixture = fixture();
        fixture.custodian.open(owner, fixture.ask("sesn_1")).await.unwrap();
        fixture.open("sesn_2").await;
        let kept = fixture.kept("sesn_1", "ledger-api").await.unwrap();
        let other = fixture.kept("sesn_2", "ledger-api").await.unwrap();
        assert!(kept.counts() && other.counts(), "{ends}");
        let custodian = &fixture.custodian;
        match ends {
            "freeze" => custodian.freeze(CallerKind::Gateway, "sesn_1").await.unwrap(),
            "revoke" => custodian.revoke_grants(CallerKind::Worker, "sesn_1").await.unwrap(),
            "close" => custodian.close(CallerKind::Worker, "sesn_1").await.unwrap(),
            "the worker is gone" => custodian.left(7).await,
            _ => {
                let reload = reload(CONFIGURATION, &[("UNUSED", OTHER)]);
                assert!(custodian.reload(CallerKind::Worker, reload).await.unwrap().is_empty());
            }
        }
        assert!(!kept.counts(), "{ends}");
        assert_eq!(other.counts(), ends != "another document", "{ends}");
    }
}

#[tokio::test]
async fn a_hold_that_cannot_be_recorded_ends_what_is_kept_all_the_same() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    let kept = fixture.kept("sesn_1", "ledger-api").await.unwrap();
    fixture.recorder.fail_with(Some(AuditError::Unwritable { reason: "full".to_owned() }));
    fixture.custodian.freeze(CallerKind::Worker, "sesn_1").await.unwrap_err();
    assert!(!kept.counts());
}

#[tokio::test]
async fn a_stored_secret_that_is_replaced_or_removed_is_asked_for_again() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    let kept = fixture.kept("sesn_1", "ledger-api").await.unwrap();
    store(fixture.directory.path()).set("ledger-api", OTHER.into(), false).unwrap();
    assert!(!kept.counts() && kept.is_in_force(), "the session goes on");
    let kept = fixture.kept("sesn_1", "ledger-api").await.unwrap();
    assert!(kept.counts());
    store(fixture.directory.path()).remove("ledger-api").unwrap();
    assert!(!kept.counts());
}

#[tokio::test]
async fn what_is_frozen_gets_no_lease_that_outlasts_the_freeze() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    fixture.custodian.freeze(CallerKind::Worker, "sesn_1").await.unwrap();
    assert!(fixture.asked("sesn_1", "ledger-api", Purpose::Inject).await.is_err());
    assert!(fixture.asked("sesn_1", "ledger-api", Purpose::Recognise).await.unwrap().kept.is_none());
    fixture.custodian.thaw(CallerKind::Worker, "sesn_1").await.unwrap();
    assert!(fixture.kept("sesn_1", "ledger-api").await.unwrap().counts());
}

#[tokio::test]
async fn a_variable_does_not_change_and_a_file_is_asked_for_at_each_use() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, VALUE).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    for (source, is_kept) in [("env:UNUSED".to_owned(), true), (format!("file:{}", file.display()), false)] {
        let fixture = fixture();
        let text = CONFIGURATION.replace("env:UNUSED", &source);
        let text = text.replace("credential = \"ledger-api\"\n\n", "credential = \"unused\"\n\n");
        let taken_up = fixture.custodian.reload(CallerKind::Worker, reload(&text, &[("UNUSED", OTHER)])).await;
        assert!(taken_up.unwrap().is_empty());
        let digest = lock(&fixture.custodian.generations).now().zones.named("ledger").unwrap().digest().to_owned();
        let open = OpenSession { digest: digest.clone(), ..fixture.ask("sesn_1") };
        fixture.custodian.open(CallerKind::Worker, open).await.unwrap();
        let grant = fixture.custodian.grant(CallerKind::Egress, "sesn_1", "unused", &digest, Purpose::Inject).await;
        assert_eq!(grant.unwrap().kept.is_some(), is_kept, "{source}");
    }
}
