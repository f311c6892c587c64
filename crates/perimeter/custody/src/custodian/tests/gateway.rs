//! What the gateway may ask, and what it is refused.

use postern_secret::seal::{Binding, Recipient, SealedCredential, seal};

use super::*;
use crate::message::{RouteGrant, RoutePurpose};

const TOKEN: &str = "the-user's-0wn-bearer-t0ken";
const CRM: &str = "https://crm.t1.tunnel.localhost/mcp";

impl Fixture {
    fn call(&self, route: &str) -> RouteGrant {
        RouteGrant {
            route: route.to_owned(),
            routes_digest: self.routes_digest.clone(),
            session: "sesn_1".to_owned(),
            agent: Some("agent_1@2".to_owned()),
            tool_use: Some("toolu_1".to_owned()),
            purpose: RoutePurpose::Call { zone: "ledger".to_owned(), policy_digest: self.digest.clone() },
            mcp_url: format!("https://{route}.t1.tunnel.localhost/mcp"),
            sealed: None,
        }
    }

    fn sealed(&self, change: impl FnOnce(&mut Binding)) -> SealedCredential {
        let mut binding = Binding {
            client_id: None,
            injection: None,
            refresh: None,
            secret_name: None,
            credential: "vcrd_1".to_owned(),
            hosts: Vec::new(),
            kind: "static_bearer".to_owned(),
            mcp_url: Some(CRM.to_owned()),
            token_endpoint: None,
            vault: "vlt_1".to_owned(),
            workspace: "wrkspc_default".to_owned(),
        };
        change(&mut binding);
        let to = [Recipient { perimeter_id: "pmtr_1".to_owned(), public_key: self.public_key.clone() }];
        let sealed = seal(&Secret::new(TOKEN.as_bytes().to_vec()), &binding, &to).unwrap();
        SealedCredential { binding, sealed }
    }

    async fn ask_route(&self, grant: RouteGrant) -> Result<SecretBytes, Refusal> {
        self.custodian.grant_route(CallerKind::Gateway, grant).await
    }

    fn known(&self, session: &str) -> Vec<String> {
        let known = self.custodian.known(CallerKind::Gateway, session).unwrap();
        known.iter().map(|secret| text(secret).to_owned()).collect()
    }
}

#[tokio::test]
async fn a_route_that_the_zone_names_gets_its_own_credential_after_the_use_is_on_record() {
    let fixture = fixture();
    assert_eq!(text(&fixture.ask_route(fixture.call("wiki")).await.unwrap()), WIKI);
    let records = fixture.recorder.records();
    let [used] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((used.kind, used.decision), (Kind::CredentialUse, Decision::Allow));
    assert_eq!(
        (used.session.as_deref(), used.agent.as_deref(), used.tool_use.as_deref()),
        (Some("sesn_1"), Some("agent_1@2"), Some("toolu_1"))
    );
    assert_eq!((used.zone.as_deref(), used.credential.as_deref()), (Some("ledger"), Some("wiki")));
    assert_eq!(used.destination.as_ref().unwrap().host.as_deref(), Some("wiki"));
    assert_eq!(used.digests["policy"], fixture.digest);
    assert_eq!(fixture.known("sesn_1"), [WIKI]);
}

#[tokio::test]
async fn a_vault_credential_opens_for_its_own_url_in_either_form_and_for_a_route_that_says_so() {
    let fixture = fixture();
    let calls = [
        (CRM, CRM),
        ("https://CRM.t1.tunnel.localhost:443/mcp/", CRM),
        ("https://crm.example/mcp", "https://crm.example/mcp"),
    ];
    for (bound, called) in calls {
        let mut call = fixture.call("crm");
        call.mcp_url = called.to_owned();
        call.sealed = Some(fixture.sealed(|binding| binding.mcp_url = Some(bound.to_owned())));
        assert_eq!(text(&fixture.ask_route(call).await.unwrap()), TOKEN, "{bound}");
        assert_eq!(fixture.recorder.records().pop().unwrap().credential.as_deref(), Some("vcrd_1"));
    }
}

#[tokio::test]
async fn a_routes_own_credential_is_not_replaced_by_one_that_came_along() {
    let fixture = fixture();
    let mut call = fixture.call("wiki");
    call.sealed = Some(fixture.sealed(|binding| binding.mcp_url = Some(call.mcp_url.clone())));
    assert_eq!(text(&fixture.ask_route(call).await.unwrap()), WIKI);
}

#[tokio::test]
async fn every_call_that_may_not_have_a_credential_is_refused_with_its_reason_on_record() {
    use RefusalReason::*;
    let fixture = fixture();
    let with = |change: fn(&Fixture, &mut RouteGrant), route: &str| {
        let mut call = fixture.call(route);
        change(&fixture, &mut call);
        call
    };
    let table = [
        ("no such route", with(|_, _| {}, "nothing"), RouteUnknown, Kind::CredentialDenied),
        ("a route the zone does not name", with(|_, _| {}, "unnamed"), NotGranted, Kind::CredentialDenied),
        ("a route without a credential", with(|_, _| {}, "open"), NotGranted, Kind::CredentialDenied),
        ("api: and nothing came", with(|_, _| {}, "crm"), NotGranted, Kind::CredentialDenied),
        (
            "a vault credential for a route that sends none",
            with(|fixture, call| call.sealed = Some(fixture.sealed(|_| {})), "open"),
            NotGranted,
            Kind::CredentialDenied,
        ),
        (
            "another zone",
            with(
                |fixture, call| {
                    call.purpose =
                        RoutePurpose::Call { zone: "other".to_owned(), policy_digest: fixture.digest.clone() };
                },
                "wiki",
            ),
            ZoneUnknown,
            Kind::CredentialDenied,
        ),
        (
            "another version of the zone",
            with(
                |_, call| {
                    call.purpose =
                        RoutePurpose::Call { zone: "ledger".to_owned(), policy_digest: "sha256:0".to_owned() };
                },
                "wiki",
            ),
            DigestMismatch,
            Kind::CredentialDenied,
        ),
        (
            "bound to another tunnel's host",
            with(
                |fixture, call| {
                    let other = "https://crm.t2.tunnel.localhost/mcp".to_owned();
                    call.sealed = Some(fixture.sealed(|binding| binding.mcp_url = Some(other)));
                },
                "crm",
            ),
            CredentialNotForRoute,
            Kind::Alarm,
        ),
        (
            "bound to another route, and called by its host",
            with(
                |fixture, call| {
                    let other = "https://wiki.t1.tunnel.localhost/mcp".to_owned();
                    call.mcp_url.clone_from(&other);
                    call.sealed = Some(fixture.sealed(|binding| binding.mcp_url = Some(other)));
                },
                "crm",
            ),
            CredentialNotForRoute,
            Kind::Alarm,
        ),
        (
            "bound to no URL",
            with(|fixture, call| call.sealed = Some(fixture.sealed(|binding| binding.mcp_url = None)), "crm"),
            CredentialNotForRoute,
            Kind::Alarm,
        ),
        (
            "a refresh token in the access token's place",
            with(
                |fixture, call| {
                    call.sealed = Some(fixture.sealed(|binding| binding.kind = "mcp_oauth.refresh_token".to_owned()));
                },
                "crm",
            ),
            CredentialKindUnsupported,
            Kind::CredentialDenied,
        ),
        (
            "an environment variable",
            with(
                |fixture, call| {
                    call.sealed = Some(fixture.sealed(|binding| binding.kind = "environment_variable".to_owned()));
                },
                "crm",
            ),
            CredentialKindUnsupported,
            Kind::CredentialDenied,
        ),
        (
            "moved to another row",
            with(
                |fixture, call| {
                    let mut moved = fixture.sealed(|_| {});
                    moved.binding.credential = "vcrd_2".to_owned();
                    call.sealed = Some(moved);
                },
                "crm",
            ),
            CredentialUnopenable,
            Kind::Alarm,
        ),
        (
            "its URL edited to the one called",
            with(
                |fixture, call| {
                    let mut edited =
                        fixture.sealed(|binding| binding.mcp_url = Some("https://elsewhere.example/mcp".to_owned()));
                    edited.binding.mcp_url = Some(CRM.to_owned());
                    call.sealed = Some(edited);
                },
                "crm",
            ),
            CredentialUnopenable,
            Kind::Alarm,
        ),
        (
            "a probe with a vault credential",
            with(
                |fixture, call| {
                    call.purpose = RoutePurpose::Probe;
                    call.sealed = Some(fixture.sealed(|_| {}));
                },
                "crm",
            ),
            NotGranted,
            Kind::CredentialDenied,
        ),
    ];
    for (what, call, reason, kind) in table {
        let refusal = fixture.ask_route(call).await.expect_err(what);
        assert_eq!(refusal.reason, reason, "{what}");
        assert!(!refusal.next_step.is_empty() && !format!("{refusal:?}").contains("0ken"), "{what}");
        let record = fixture.recorder.records().pop().unwrap();
        assert_eq!(
            (record.kind, record.decision, record.reason.as_deref(), record.session.as_deref()),
            (kind, Decision::Deny, Some(reason.code()), Some("sesn_1")),
            "{what}"
        );
    }
    assert_eq!(fixture.known("sesn_1"), Vec::<String>::new());
}

#[tokio::test]
async fn a_sealed_value_that_is_too_weak_to_be_scrubbed_is_refused() {
    let fixture = fixture();
    let mut call = fixture.call("crm");
    let mut weak = fixture.sealed(|_| {});
    let to = [Recipient { perimeter_id: "pmtr_1".to_owned(), public_key: fixture.public_key.clone() }];
    weak.sealed = seal(&Secret::new(b"hunter2".to_vec()), &weak.binding, &to).unwrap();
    call.sealed = Some(weak);
    assert_eq!(fixture.ask_route(call).await.unwrap_err().reason, RefusalReason::SecretWeak);
}

#[tokio::test]
async fn a_probe_gets_the_routes_own_credential_without_a_zone() {
    let fixture = fixture();
    let call = RouteGrant { purpose: RoutePurpose::Probe, ..fixture.call("unnamed") };
    assert_eq!(text(&fixture.ask_route(call).await.unwrap()), WIKI);
    let record = fixture.recorder.records().pop().unwrap();
    assert_eq!((record.zone, record.outcome.as_deref()), (None, Some("for the operator's probe")));
}

#[tokio::test]
async fn no_other_connection_has_the_gateways_verbs_and_it_has_none_of_theirs() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    for caller in [CallerKind::Worker, CallerKind::Egress] {
        let refused = fixture.custodian.grant_route(caller, fixture.call("wiki")).await.unwrap_err();
        assert_eq!(refused.reason, RefusalReason::WrongConnection);
        assert_eq!(fixture.recorder.records().pop().unwrap().kind, Kind::Alarm);
        assert_eq!(fixture.custodian.known(caller, "sesn_1").unwrap_err().reason, RefusalReason::WrongConnection);
    }
    let gateway = CallerKind::Gateway;
    let opened = fixture.custodian.open(gateway, fixture.ask("sesn_2")).await.unwrap_err();
    let granted =
        fixture.custodian.grant(gateway, "sesn_1", "ledger-api", &fixture.digest, Purpose::Inject).await.unwrap_err();
    let revoked = fixture.custodian.revoke(gateway, "sesn_1", "ledger-api").await.unwrap_err();
    for refusal in [opened, granted, revoked] {
        assert_eq!(refusal.reason, RefusalReason::WrongConnection);
    }
    fixture.custodian.close(gateway, "sesn_1").await.unwrap();
    assert!(fixture.grant("sesn_1", "ledger-api").await.is_ok(), "the gateway closes no session of the worker's");
    assert!(fixture.custodian.placeholders(gateway).unwrap().len() == 2);
    for verb in ["freeze", "thaw", "revoke"] {
        let egress = CallerKind::Egress;
        let refused = match verb {
            "freeze" => fixture.custodian.freeze(egress, "sesn_1").await,
            "thaw" => fixture.custodian.thaw(egress, "sesn_1").await,
            _ => fixture.custodian.revoke_grants(egress, "sesn_1").await,
        };
        assert_eq!(refused.unwrap_err().reason, RefusalReason::WrongConnection, "{verb}");
    }
    assert!(fixture.grant("sesn_1", "ledger-api").await.is_ok());
}

#[tokio::test]
async fn a_frozen_session_gets_nothing_to_inject_until_it_is_thawed() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    for holder in [CallerKind::Worker, CallerKind::Gateway] {
        fixture.custodian.freeze(holder, "sesn_1").await.unwrap();
        assert_eq!(fixture.ask_route(fixture.call("wiki")).await.unwrap_err().reason, RefusalReason::SessionFrozen);
        assert_eq!(fixture.grant("sesn_1", "ledger-api").await.unwrap_err().reason, RefusalReason::SessionFrozen);
        let recognise =
            fixture.custodian.grant(CallerKind::Egress, "sesn_1", "ledger-api", &fixture.digest, Purpose::Recognise);
        assert!(recognise.await.is_ok(), "what comes back is still scrubbed");
        let other = RouteGrant { session: "sesn_2".to_owned(), ..fixture.call("wiki") };
        assert!(fixture.ask_route(other).await.is_ok(), "another session goes on");
        fixture.custodian.thaw(holder, "sesn_1").await.unwrap();
        assert!(fixture.ask_route(fixture.call("wiki")).await.is_ok());
        assert!(fixture.grant("sesn_1", "ledger-api").await.is_ok());
    }
}

#[tokio::test]
async fn revoked_grants_are_zeroed_and_never_come_back() {
    let fixture = fixture();
    fixture.open("sesn_1").await;
    fixture.ask_route(fixture.call("wiki")).await.unwrap();
    fixture.custodian.revoke_grants(CallerKind::Gateway, "sesn_1").await.unwrap();
    assert!(fixture.kinds().contains(&Kind::GrantsRevoked));
    assert_eq!(fixture.known("sesn_1"), Vec::<String>::new());
    assert!(fixture.custodian.sessions().is_empty());
    fixture.custodian.thaw(CallerKind::Worker, "sesn_1").await.unwrap();
    let reasons = [
        fixture.ask_route(fixture.call("wiki")).await.map(drop).unwrap_err(),
        fixture.grant("sesn_1", "ledger-api").await.map(drop).unwrap_err(),
        fixture.custodian.open(CallerKind::Worker, fixture.ask("sesn_1")).await.map(drop).unwrap_err(),
    ];
    for refusal in reasons {
        assert_eq!(refusal.reason, RefusalReason::GrantsRevoked);
    }
}

#[tokio::test]
async fn what_worker_and_gateway_are_both_told_is_on_record_once() {
    let fixture = fixture();
    let (worker, gateway) = (CallerKind::Worker, CallerKind::Gateway);
    let count = |kind: Kind| fixture.kinds().iter().filter(|other| **other == kind).count();
    let both = tokio::join!(fixture.custodian.freeze(worker, "sesn_1"), fixture.custodian.freeze(gateway, "sesn_1"));
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(count(Kind::SessionFrozen), 1);
    let both = tokio::join!(fixture.custodian.thaw(worker, "sesn_1"), fixture.custodian.thaw(gateway, "sesn_1"));
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(count(Kind::SessionThawed), 1);
    for caller in [worker, gateway, worker] {
        fixture.custodian.revoke_grants(caller, "sesn_1").await.unwrap();
    }
    assert_eq!(count(Kind::GrantsRevoked), 1);
    fixture.custodian.freeze(gateway, "sesn_1").await.unwrap();
    assert_eq!(count(Kind::SessionFrozen), 2, "a session without grants can be frozen");
    assert_eq!(fixture.ask_route(fixture.call("wiki")).await.unwrap_err().reason, RefusalReason::GrantsRevoked);
}

#[tokio::test]
async fn a_freeze_that_could_not_be_recorded_is_recorded_when_it_is_asked_for_again() {
    let fixture = fixture();
    fixture.recorder.fail_with(Some(AuditError::Unwritable { reason: "full".to_owned() }));
    assert!(fixture.custodian.freeze(CallerKind::Worker, "sesn_1").await.is_err());
    fixture.recorder.fail_with(None);
    for _ in 0..2 {
        fixture.custodian.freeze(CallerKind::Gateway, "sesn_1").await.unwrap();
    }
    assert_eq!(fixture.kinds().iter().filter(|kind| **kind == Kind::SessionFrozen).count(), 1);
}

#[tokio::test]
async fn a_thaw_that_cannot_be_recorded_does_not_happen_and_a_freeze_does() {
    let fixture = fixture();
    fixture.recorder.fail_with(Some(AuditError::Unwritable { reason: "full".to_owned() }));
    assert!(fixture.custodian.freeze(CallerKind::Gateway, "sesn_1").await.is_err());
    assert!(fixture.custodian.thaw(CallerKind::Gateway, "sesn_1").await.is_err());
    fixture.recorder.fail_with(None);
    assert_eq!(fixture.ask_route(fixture.call("wiki")).await.unwrap_err().reason, RefusalReason::SessionFrozen);
}

#[tokio::test]
async fn without_a_record_the_gateway_gets_nothing() {
    let fixture = fixture();
    fixture.recorder.fail_with(Some(AuditError::Unwritable { reason: "full".to_owned() }));
    assert_eq!(fixture.ask_route(fixture.call("wiki")).await.unwrap_err().reason, RefusalReason::AuditUnavailable);
    assert_eq!(fixture.known("sesn_1"), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_granted_is_dropped_when_its_session_closes_goes_idle_or_its_gateway_leaves() {
    let fixture = fixture();
    let hour = std::time::Duration::from_secs(3600);
    for what in ["idle", "gone"] {
        fixture.ask_route(fixture.call("wiki")).await.unwrap();
        fixture.custodian.forget_idle(std::time::Instant::now());
        assert_eq!(fixture.known("sesn_1"), [WIKI]);
        match what {
            "idle" => fixture.custodian.forget_idle(std::time::Instant::now() + hour),
            _ => fixture.custodian.route_grants().left(0),
        }
        assert_eq!(fixture.known("sesn_1"), Vec::<String>::new(), "{what}");
    }
    fixture.ask_route(fixture.call("wiki")).await.unwrap();
    fixture.custodian.close(CallerKind::Gateway, "sesn_1").await.unwrap();
    assert_eq!(fixture.known("sesn_1"), Vec::<String>::new());
    assert_eq!(fixture.kinds().pop(), Some(Kind::CredentialRevoked));
}

#[tokio::test]
async fn sessions_end_with_the_worker_that_opened_them_and_no_others() {
    let fixture = fixture();
    let (one, two) =
        (Asker { kind: CallerKind::Worker, connection: 1 }, Asker { kind: CallerKind::Worker, connection: 2 });
    fixture.custodian.open(one, fixture.ask("sesn_1")).await.unwrap();
    fixture.custodian.open(two, fixture.ask("sesn_2")).await.unwrap();
    fixture.custodian.left(1).await;
    assert_eq!(fixture.grant("sesn_1", "ledger-api").await.unwrap_err().reason, RefusalReason::SessionNotOpen);
    assert!(fixture.grant("sesn_2", "ledger-api").await.is_ok());
    assert!(fixture.custodian.open(one, fixture.ask("sesn_3")).await.is_err(), "nothing opens for who is gone");
    let known = fixture.custodian.placeholders(CallerKind::Egress).unwrap();
    assert!(known.iter().all(|known| known.alive == (known.session == "sesn_2")));
    fixture.open("sesn_1").await;
}
