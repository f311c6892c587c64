//! Passing on to a second perimeter: only to one that the operator here approved, only what opens here, and never the value itself.

use postern_secret::seal::{Binding, Recipient, Sealed, SealedCredential, seal};

use super::*;
use crate::keys::{self, PerimeterPair};

fn second() -> (PerimeterPair, Recipient) {
    let pair = keys::perimeter(tempfile::tempdir().unwrap().path()).unwrap();
    let recipient = Recipient { perimeter_id: "pmtr_2".to_owned(), public_key: pair.public.clone() };
    (pair, recipient)
}

fn sealed(fixture: &Fixture, credential: &str) -> SealedCredential {
    let binding = Binding {
        client_id: None,
        credential: credential.to_owned(),
        hosts: Vec::new(),
        injection: None,
        kind: "static_bearer".to_owned(),
        mcp_url: Some("https://crm.example/mcp".to_owned()),
        refresh: None,
        secret_name: None,
        token_endpoint: None,
        vault: "vlt_1".to_owned(),
        workspace: "wrkspc_default".to_owned(),
    };
    let to = [Recipient { perimeter_id: "pmtr_1".to_owned(), public_key: fixture.public_key.clone() }];
    let sealed = seal(&Secret::new(VALUE.as_bytes().to_vec()), &binding, &to).unwrap();
    SealedCredential { binding, sealed }
}

#[tokio::test]
async fn a_perimeter_that_was_approved_here_opens_what_was_sealed_before_it_came() {
    let fixture = fixture();
    let (pair, to) = second();
    let mut value = sealed(&fixture, "vcrd_1");
    assert!(Opener::new(&pair).open(&value).is_err());
    fixture.custodian.approved.add(&to.public_key).unwrap();
    let wraps = fixture.custodian.rewrap(CallerKind::Worker, std::slice::from_ref(&value), &to).await.unwrap();
    let [Some(wrap)] = &wraps[..] else { panic!("{wraps:?}") };
    value.sealed.wraps.push(wrap.clone());
    assert_eq!(text(&Opener::new(&pair).open(&value).unwrap()), VALUE);
    let record = fixture.recorder.records().pop().unwrap();
    assert_eq!((record.kind, record.credential.as_deref()), (Kind::CredentialGranted, Some("vcrd_1")));
    assert!(record.outcome.unwrap().contains(&to.public_key.to_string()));
    let mut moved = value.clone();
    moved.binding.vault.push('x');
    assert!(Opener::new(&pair).open(&moved).is_err(), "with the very binding, and no other");
}

#[tokio::test]
async fn the_token_of_a_repository_is_passed_on_with_its_session_and_url_and_with_no_others() {
    let fixture = fixture();
    let (pair, to) = second();
    fixture.custodian.approved.add(&to.public_key).unwrap();
    let (host, url) = ("git.example", "https://git.example/team/ledger");
    let binding = Binding::of_repository("wrkspc_default", "sesn_1", "sesrsc_1", host, url);
    let first = [Recipient { perimeter_id: "pmtr_1".to_owned(), public_key: fixture.public_key.clone() }];
    let sealed = seal(&Secret::new(VALUE.as_bytes().to_vec()), &binding, &first).unwrap();
    let mut token = SealedCredential { binding, sealed };
    let wraps = fixture.custodian.rewrap(CallerKind::Worker, std::slice::from_ref(&token), &to).await.unwrap();
    token.sealed.wraps.extend(wraps.into_iter().flatten());
    assert_eq!(text(&Opener::new(&pair).open(&token).unwrap()), VALUE);
    assert_eq!(fixture.recorder.records().pop().unwrap().credential.as_deref(), Some("sesrsc_1"));
    let elsewhere = |change: fn(&mut Binding)| {
        let mut moved = token.clone();
        change(&mut moved.binding);
        Opener::new(&pair).open(&moved).is_err()
    };
    assert!(elsewhere(|binding| binding.vault = "sesn_2".to_owned()), "to another session");
    assert!(elsewhere(|binding| binding.credential = "sesrsc_2".to_owned()), "to another resource");
    assert!(
        elsewhere(|binding| binding.mcp_url = Some("https://git.example/team/payroll".to_owned())),
        "to another URL"
    );
}

#[tokio::test]
async fn whom_the_operator_did_not_approve_gets_nothing_whoever_asks() {
    let fixture = fixture();
    let (_, to) = second();
    let value = sealed(&fixture, "vcrd_1");
    let refused = fixture.custodian.rewrap(CallerKind::Worker, std::slice::from_ref(&value), &to).await.unwrap_err();
    assert_eq!(refused.reason, RefusalReason::PerimeterNotApproved);
    assert!(refused.next_step.contains(&format!("postern perimeter approve {}", to.public_key)));
    assert_eq!(fixture.kinds(), [Kind::Alarm]);
    fixture.custodian.approved.add(&to.public_key).unwrap();
    for caller in [CallerKind::Egress, CallerKind::Gateway] {
        let refused = fixture.custodian.rewrap(caller, std::slice::from_ref(&value), &to).await.unwrap_err();
        assert_eq!(refused.reason, RefusalReason::WrongConnection);
    }
    fixture.custodian.approved.remove(&to.public_key).unwrap();
    assert!(fixture.custodian.rewrap(CallerKind::Worker, &[value], &to).await.is_err());
}

#[tokio::test]
async fn what_does_not_open_here_is_not_passed_on() {
    let fixture = fixture();
    let (_, to) = second();
    fixture.custodian.approved.add(&to.public_key).unwrap();
    let good = sealed(&fixture, "vcrd_1");
    let mut moved = sealed(&fixture, "vcrd_2");
    moved.binding.credential = "vcrd_3".to_owned();
    let mut foreign = sealed(&fixture, "vcrd_4");
    foreign.sealed = Sealed { wraps: Vec::new(), ..foreign.sealed };
    let wraps = fixture.custodian.rewrap(CallerKind::Worker, &[moved, good, foreign], &to).await.unwrap();
    assert_eq!(wraps.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false]);
}

#[tokio::test]
async fn nothing_is_passed_on_that_is_not_on_record() {
    let fixture = fixture();
    let (_, to) = second();
    fixture.custodian.approved.add(&to.public_key).unwrap();
    let value = sealed(&fixture, "vcrd_1");
    fixture.recorder.fail_with(Some(AuditError::Unwritable { reason: "full".to_owned() }));
    let refused = fixture.custodian.rewrap(CallerKind::Worker, &[value], &to).await.unwrap_err();
    assert_eq!(refused.reason, RefusalReason::AuditUnavailable);
}
