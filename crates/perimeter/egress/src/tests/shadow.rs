//! A zone in shadow: its word stands in the record of what was decided, and changes nothing that leaves.

use postern_audit::{Decision, Kind, Shadow};

use super::stand::{More, SECRET, SESSION, Stand, Way};
use crate::{
    limits::{self, Bounds},
    message::Question,
};

const CANDIDATE: More = More {
    zone: |_| {
        let rule = "[[zone.next.egress]]\nhost = \"open.test\"\nscheme = \"http\"\nports = [80]\n";
        let evil = "[[zone.next.egress]]\nhost = \"evil.test\"\nscheme = \"http\"\nports = [80]\n";
        format!("[zone.next]\nmode = \"shadow\"\nof = \"t\"\n{rule}{evil}")
    },
    secrets: &[],
};

fn recorded(stand: &Stand, host: &str) -> (Decision, Option<Shadow>) {
    let of_host = |record: &&postern_audit::Record| {
        record.kind == Kind::EgressRequest
            && record.destination.as_ref().and_then(|destination| destination.host.as_deref()) == Some(host)
    };
    let record = stand.audit.records().iter().rfind(of_host).cloned().unwrap();
    (record.decision, record.shadow)
}

#[tokio::test]
async fn what_a_candidate_would_have_done_is_on_record_and_is_not_done() {
    let stand = Stand::with_more(Bounds::default(), CANDIDATE).await;
    assert_eq!(stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await.status, 200);
    assert_eq!(recorded(&stand, "open.test"), (Decision::Allow, None), "both allow it");

    let bearer = format!("Bearer {}", stand.placeholder);
    let allowed = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]).await;
    assert_eq!(allowed.status, 200, "the candidate would refuse it");
    assert_eq!(stand.upstream.received().pop().unwrap().header("authorization"), Some(format!("Bearer {SECRET}")));
    let (decision, shadow) = recorded(&stand, "api.test");
    let shadow = shadow.unwrap();
    assert_eq!((decision, shadow.decision, shadow.zone.as_str()), (Decision::Allow, Decision::Deny, "next"));
    assert_eq!(shadow.reason.as_deref(), Some("placeholder_unresolved"));

    let sent = stand.upstream.received().len();
    assert_eq!(stand.get(Way::Redirect, "http", "evil.test", 80, "/", &[]).await.status, 403);
    let (decision, shadow) = recorded(&stand, "evil.test");
    let shadow = shadow.unwrap();
    assert_eq!(
        (decision, shadow.decision, shadow.rule.as_deref()),
        (Decision::Deny, Decision::Allow, Some("next/egress/2"))
    );
    assert_eq!(stand.upstream.received().len(), sent, "nothing leaves on a candidate's word");
}

#[tokio::test]
async fn refusals_that_are_told_by_their_number_keep_a_candidates_word() {
    let stand = Stand::with_more(Bounds::default(), CANDIDATE).await;
    for _ in 0..limits::REFUSALS_RECORDED + 20 {
        assert_eq!(stand.get(Way::Redirect, "http", "evil.test", 80, "/", &[]).await.status, 403);
    }
    stand.ask(Question::Close { session: SESSION.to_owned() }).await;
    let records = stand.audit.records();
    let counted = records.iter().find(|record| record.counts.contains_key("refusals")).expect("a count");
    let shadow = counted.shadow.as_ref().expect("the candidate's word");
    assert_eq!((shadow.decision, shadow.rule.as_deref()), (Decision::Allow, Some("next/egress/2")));
}
