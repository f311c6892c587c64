//! Refreshing: for a listed endpoint and the parts of one credential alone, sealed again for whom the operator approved, and never lost on the way.

use postern_secret::seal::{
    Binding, PerimeterPublicKey, Recipient, RefreshTerms, SECOND_VERSION, SealedCredential, seal,
};

use super::*;
use crate::keys;
use crate::message::{FreshTokens, KeptAnswer, OauthParts, RefreshGrant, Renewed};

const ACCESS: &str = "access-token-0ne-0123456789";
const REFRESH: &str = "refresh-token-0ne-987654321";
const CLIENT: &str = "client-secret-0123456789abc";

fn terms() -> RefreshTerms {
    RefreshTerms { auth: "client_secret_basic".to_owned(), resource: Some("https://crm.example".to_owned()) }
}

impl Fixture {
    fn part(&self, value: &str, kind: &str, change: impl Fn(&mut Binding)) -> SealedCredential {
        self.part_for(value, kind, &[("pmtr_1", &self.public_key)], change)
    }

    fn part_for(
        &self,
        value: &str,
        kind: &str,
        to: &[(&str, &PerimeterPublicKey)],
        change: impl Fn(&mut Binding),
    ) -> SealedCredential {
        let mut binding = Binding {
            client_id: Some("client-1".to_owned()),
            credential: "vcrd_1".to_owned(),
            hosts: Vec::new(),
            injection: None,
            kind: kind.to_owned(),
            mcp_url: Some("https://crm.example/mcp".to_owned()),
            refresh: Some(terms()),
            secret_name: None,
            token_endpoint: Some("https://login.example/token".to_owned()),
            vault: "vlt_1".to_owned(),
            workspace: "wrkspc_default".to_owned(),
        };
        change(&mut binding);
        let recipient = |(id, key): &(&str, &PerimeterPublicKey)| Recipient {
            perimeter_id: (*id).to_owned(),
            public_key: (*key).clone(),
        };
        let to: Vec<_> = to.iter().map(recipient).collect();
        let sealed = seal(&Secret::new(value.as_bytes().to_vec()), &binding, &to).unwrap();
        SealedCredential { binding, sealed }
    }

    fn parts(&self, change: impl Fn(&mut Binding)) -> OauthParts {
        OauthParts {
            access: self.part(ACCESS, "mcp_oauth", &change),
            refresh: self.part(REFRESH, "mcp_oauth.refresh_token", &change),
            client_secret: Some(self.part(CLIENT, "mcp_oauth.client_secret", &change)),
        }
    }

    async fn ask_refresh(&self, parts: &OauthParts) -> Result<RefreshGranted, Refusal> {
        let grant = RefreshGrant { routes_digest: self.routes_digest.clone(), parts: parts.clone() };
        self.custodian.grant_refresh(CallerKind::Gateway, &grant).await
    }

    async fn fresh(&self, parts: &OauthParts, refresh: Option<&str>) -> Renewed {
        let wire = |text: &str| WireBytes::new(text.as_bytes().to_vec());
        let fresh = FreshTokens {
            routes_digest: self.routes_digest.clone(),
            parts: parts.clone(),
            access_token: wire("access-token-tw0-0123456789"),
            refresh_token: refresh.map(wire),
            expires_at_seconds: Some(1_900_000_000),
        };
        self.custodian.seal_fresh(CallerKind::Gateway, fresh).await.unwrap()
    }

    fn opened(&self, sealed: postern_secret::seal::Sealed, part: &SealedCredential) -> String {
        let credential = SealedCredential { binding: part.binding.clone(), sealed };
        text(&self.custodian.opener.open(&credential).unwrap()).to_owned()
    }
}

#[tokio::test]
async fn a_refresh_token_goes_out_for_its_listed_endpoint_after_the_use_is_on_record() {
    let fixture = fixture();
    let parts = fixture.parts(|_| {});
    let RefreshGranted::Secrets { refresh_token, client_secret } = fixture.ask_refresh(&parts).await.unwrap() else {
        panic!("nothing was kept")
    };
    assert_eq!((text(&refresh_token), text(&client_secret.unwrap())), (REFRESH, CLIENT));
    let record = fixture.recorder.records().pop().unwrap();
    assert_eq!((record.kind, record.decision), (Kind::CredentialUse, Decision::Allow));
    assert_eq!(record.credential.as_deref(), Some("vcrd_1"));
    assert_eq!(record.destination.unwrap().host.as_deref(), Some("login.example"));
    let public = OauthParts { client_secret: None, ..parts };
    assert!(matches!(fixture.ask_refresh(&public).await, Ok(RefreshGranted::Secrets { client_secret: None, .. })));
}

#[tokio::test]
async fn a_refresh_that_may_not_be_is_refused_on_record_and_opens_nothing() {
    use RefusalReason::*;
    let fixture = fixture();
    let sound = fixture.parts(|_| {});
    let all = |change: fn(&mut Binding)| fixture.parts(change);
    let edited = |change: fn(&mut OauthParts)| {
        let mut parts = sound.clone();
        change(&mut parts);
        parts
    };
    let foreign = fixture.parts(|binding| binding.credential = "vcrd_2".to_owned());
    let foreign_vault = fixture.parts(|binding| binding.vault = "vlt_2".to_owned());
    let table = [
        (
            "an endpoint that is not listed",
            all(|binding| binding.token_endpoint = Some("https://login.evil.example/token".to_owned())),
            TokenEndpointNotListed,
        ),
        ("no endpoint", all(|binding| binding.token_endpoint = None), TokenEndpointNotListed),
        (
            "the listed endpoint, said by whoever wrote to the database",
            {
                let mut parts =
                    all(|binding| binding.token_endpoint = Some("https://login.evil.example/token".to_owned()));
                let listed = Some("https://login.example/token".to_owned());
                parts.access.binding.token_endpoint.clone_from(&listed);
                parts.refresh.binding.token_endpoint.clone_from(&listed);
                parts.client_secret.as_mut().unwrap().binding.token_endpoint = listed;
                parts
            },
            CredentialUnopenable,
        ),
        (
            "another client",
            edited(|parts| {
                let other = Some("client-2".to_owned());
                parts.access.binding.client_id.clone_from(&other);
                parts.refresh.binding.client_id.clone_from(&other);
                parts.client_secret.as_mut().unwrap().binding.client_id = other;
            }),
            CredentialUnopenable,
        ),
        (
            "an MCP server of nobody here",
            all(|binding| binding.mcp_url = Some("https://elsewhere.example/mcp".to_owned())),
            NotGranted,
        ),
        (
            "a route that sends none of a vault's",
            all(|binding| binding.mcp_url = Some("https://open.t1.tunnel.localhost/mcp".to_owned())),
            NotGranted,
        ),
        (
            "another credential's refresh token",
            OauthParts { refresh: foreign.refresh, ..sound.clone() },
            CredentialUnopenable,
        ),
        (
            "another vault's client secret",
            OauthParts { client_secret: foreign_vault.client_secret, ..sound.clone() },
            CredentialUnopenable,
        ),
        (
            "an access token as the refresh token",
            OauthParts { refresh: sound.access.clone(), ..sound.clone() },
            CredentialKindUnsupported,
        ),
        (
            "an access token relabelled as the refresh token",
            edited(|parts| {
                parts.refresh.sealed = parts.access.sealed.clone();
            }),
            CredentialUnopenable,
        ),
        (
            "another resource",
            edited(|parts| edit_terms(parts, |terms| terms.resource = Some("https://payroll.example".to_owned()))),
            CredentialUnopenable,
        ),
        ("no resource", edited(|parts| edit_terms(parts, |terms| terms.resource = None)), CredentialUnopenable),
        (
            "another way to say who the client is",
            edited(|parts| edit_terms(parts, |terms| terms.auth = "client_secret_post".to_owned())),
            CredentialUnopenable,
        ),
        ("no terms bound", all(|binding| binding.refresh = None), CredentialKindUnsupported),
        (
            "said to be of a version that bound no terms",
            edited(|parts| {
                parts.refresh.sealed.version = SECOND_VERSION;
                parts.refresh.binding = parts.refresh.binding.in_version(SECOND_VERSION);
            }),
            CredentialUnopenable,
        ),
        ("no client bound", all(|binding| binding.client_id = None), CredentialKindUnsupported),
    ];
    for (what, parts, expected) in table {
        let before = fixture.recorder.records().len();
        let refused = fixture.ask_refresh(&parts).await.expect_err(what);
        assert_eq!(refused.reason, expected, "{what}: {refused}");
        let records = fixture.recorder.records().split_off(before);
        let [record] = &records[..] else { panic!("{what}: {records:?}") };
        assert_eq!((record.kind, record.decision), (expected.kind(), Decision::Deny), "{what}");
        assert_eq!(record.credential.as_deref(), Some(parts.refresh.binding.credential.as_str()), "{what}");
    }
    let other = RefreshGrant { routes_digest: "sha256:0".to_owned(), parts: sound };
    let refused = fixture.custodian.grant_refresh(CallerKind::Gateway, &other).await.unwrap_err();
    assert_eq!(refused.reason, DigestMismatch);
    for caller in [CallerKind::Worker, CallerKind::Egress] {
        let refused = fixture.custodian.grant_refresh(caller, &other).await.unwrap_err();
        assert_eq!(refused.reason, WrongConnection);
    }
}

/// As whoever writes to the database edits all parts alike.
fn edit_terms(parts: &mut OauthParts, change: impl Fn(&mut RefreshTerms)) {
    change(parts.access.binding.refresh.as_mut().unwrap());
    change(parts.refresh.binding.refresh.as_mut().unwrap());
    change(parts.client_secret.as_mut().unwrap().binding.refresh.as_mut().unwrap());
}

#[tokio::test]
async fn an_access_token_that_said_nothing_of_terms_is_renewed_as_one_that_opens_with_them() {
    let fixture = fixture();
    let mut parts = fixture.parts(|_| {});
    parts.access = fixture.part(ACCESS, "mcp_oauth", |binding| binding.refresh = None);
    assert!(fixture.ask_refresh(&parts).await.is_ok());
    let renewed = fixture.fresh(&parts, None).await;
    let with_terms = fixture.part(ACCESS, "mcp_oauth", |_| {});
    assert_eq!(fixture.opened(renewed.access, &with_terms), "access-token-tw0-0123456789");
}

#[tokio::test]
async fn new_tokens_are_sealed_for_a_gateway_alone_and_for_what_may_be_refreshed() {
    let fixture = fixture();
    let elsewhere =
        |binding: &mut Binding| binding.token_endpoint = Some("https://login.evil.example/token".to_owned());
    for (caller, parts, expected) in [
        (CallerKind::Worker, fixture.parts(|_| {}), RefusalReason::WrongConnection),
        (CallerKind::Egress, fixture.parts(|_| {}), RefusalReason::WrongConnection),
        (CallerKind::Gateway, fixture.parts(elsewhere), RefusalReason::TokenEndpointNotListed),
    ] {
        let fresh = FreshTokens {
            routes_digest: fixture.routes_digest.clone(),
            parts,
            access_token: WireBytes::new(b"access-token-tw0-0123456789".to_vec()),
            refresh_token: None,
            expires_at_seconds: None,
        };
        assert_eq!(fixture.custodian.seal_fresh(caller, fresh).await.unwrap_err().reason, expected);
    }
}

#[tokio::test]
async fn new_tokens_are_sealed_for_this_perimeter_and_those_approved_here_and_for_nobody_else() {
    let fixture = fixture();
    let pair = || keys::perimeter(tempfile::tempdir().unwrap().path()).unwrap();
    let (approved, stranger) = (pair(), pair());
    fixture.custodian.approved.add(&approved.public).unwrap();
    // A control plane wrote wraps for keys of its own into the row.
    let to = [("pmtr_1", &fixture.public_key), ("pmtr_2", &approved.public), ("pmtr_3", &stranger.public)];
    let parts = OauthParts {
        access: fixture.part_for(ACCESS, "mcp_oauth", &to, |_| {}),
        refresh: fixture.part_for(REFRESH, "mcp_oauth.refresh_token", &to, |_| {}),
        client_secret: None,
    };
    let renewed = fixture.fresh(&parts, Some("refresh-token-tw0-123456789")).await;
    let refresh = renewed.refresh.clone().unwrap();
    for sealed in [&renewed.access, &refresh] {
        let keys: Vec<_> = sealed.wraps.iter().map(|wrap| wrap.public_key.clone()).collect();
        assert_eq!(keys, [fixture.public_key.to_string(), approved.public.to_string()]);
    }
    assert_eq!(fixture.opened(renewed.access.clone(), &parts.access), "access-token-tw0-0123456789");
    assert_eq!(fixture.opened(refresh, &parts.refresh), "refresh-token-tw0-123456789");
    let credential = SealedCredential { binding: parts.access.binding.clone(), sealed: renewed.access };
    assert!(Opener::new(&approved).open(&credential).is_ok());
    assert!(Opener::new(&stranger).open(&credential).is_err());
    let record = fixture.recorder.records().pop().unwrap();
    assert_eq!(record.kind, Kind::CredentialRefreshed);
    assert_eq!((record.counts["perimeters"], record.counts["perimeters_not_approved"]), (2, 1));
}

#[tokio::test]
async fn a_refresh_token_that_was_used_up_is_not_sent_again_and_what_came_of_it_is_not_lost() {
    let fixture = fixture();
    let parts = fixture.parts(|_| {});
    let renewed = fixture.fresh(&parts, Some("refresh-token-tw0-123456789")).await;
    let kept = |granted: Result<RefreshGranted, Refusal>| match granted.unwrap() {
        RefreshGranted::Kept(kept) => Some(*kept),
        RefreshGranted::Secrets { .. } => None,
    };
    assert_eq!(kept(fixture.ask_refresh(&parts).await), Some(renewed.clone()));
    let mut wrapped = parts.clone();
    wrapped.refresh.sealed.wraps.push(wrapped.refresh.sealed.wraps[0].clone());
    assert_eq!(
        kept(fixture.ask_refresh(&wrapped).await),
        Some(renewed.clone()),
        "another wrap makes it no other token"
    );
    let patched = OauthParts { access: fixture.part(ACCESS, "mcp_oauth", |_| {}), ..parts.clone() };
    assert_eq!(
        kept(fixture.ask_refresh(&patched).await),
        Some(renewed.clone()),
        "it is used up, whichever token it replaced"
    );
    let reopened = Renewals::open(fixture.directory.path()).unwrap();
    assert_eq!(reopened.of(&parts, Timestamp::now()), Some(renewed.clone()), "it outlives the process");
    let on_disk = std::fs::read_to_string(fixture.directory.path().join("renewed.json")).unwrap();
    assert!(!on_disk.contains("token-tw0"), "{on_disk}");
    let next = OauthParts {
        access: SealedCredential { sealed: renewed.access, ..parts.access.clone() },
        refresh: SealedCredential { sealed: renewed.refresh.unwrap(), ..parts.refresh.clone() },
        ..parts.clone()
    };
    assert_eq!(kept(fixture.ask_refresh(&next).await), None, "the control plane has them: the next exchange");
    let later = Timestamp::now() + jiff::SignedDuration::from_hours(25);
    lock(&fixture.custodian.renewals).forget_old(later).unwrap();
    assert_eq!(kept(fixture.ask_refresh(&parts).await), None, "for a day");
}

#[tokio::test]
async fn an_endpoint_that_does_not_rotate_is_asked_again_for_the_next_access_token() {
    let fixture = fixture();
    let parts = fixture.parts(|_| {});
    let renewed = fixture.fresh(&parts, None).await;
    assert!(matches!(fixture.ask_refresh(&parts).await, Ok(RefreshGranted::Kept(_))));
    let next = OauthParts { access: SealedCredential { sealed: renewed.access, ..parts.access.clone() }, ..parts };
    assert!(matches!(fixture.ask_refresh(&next).await, Ok(RefreshGranted::Secrets { .. })));
}

#[tokio::test]
async fn a_kept_answer_is_sealed_for_its_own_credential_and_opened_for_no_other() {
    let fixture = fixture();
    let parts = fixture.parts(|_| {});
    let access = |change: fn(&mut Binding)| fixture.part("access-token-tw0-0123456789", "mcp_oauth", change);
    let refresh =
        |change: fn(&mut Binding)| Some(fixture.part("refresh-token-tw0-98765432", "mcp_oauth.refresh_token", change));
    let seal_kept = |caller, access, refresh| {
        let answer = KeptAnswer { parts: parts.clone(), access, refresh, expires_at_seconds: Some(1_900_000_000) };
        fixture.custodian.seal_kept(caller, fixture.routes_digest.clone(), answer)
    };
    let own: fn(&mut Binding) = |_| {};
    let foreign: fn(&mut Binding) = |binding| binding.vault = "vlt_2".to_owned();
    for (access, refresh) in [(access(foreign), refresh(own)), (access(own), refresh(foreign))] {
        let refused = seal_kept(CallerKind::Gateway, access, refresh).await.unwrap_err();
        assert_eq!(refused.reason, RefusalReason::CredentialUnopenable);
    }
    assert!(seal_kept(CallerKind::Worker, access(own), refresh(own)).await.is_err());
    assert!(matches!(fixture.ask_refresh(&parts).await, Ok(RefreshGranted::Secrets { .. })), "nothing came of these");
    let renewed = seal_kept(CallerKind::Gateway, access(own), refresh(own)).await.unwrap();
    assert_eq!(fixture.opened(renewed.access, &parts.access), "access-token-tw0-0123456789");
    assert_eq!(fixture.opened(renewed.refresh.unwrap(), &parts.refresh), "refresh-token-tw0-98765432");
    assert!(matches!(fixture.ask_refresh(&parts).await, Ok(RefreshGranted::Kept(_))));
}
