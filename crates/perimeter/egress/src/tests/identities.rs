//! Client certificates towards upstreams: presented where the rule names them and nowhere else, kept apart, replaced
//! while the session runs, gone with its grants.

use std::sync::atomic::Ordering;

use postern_audit::Kind;

use super::{
    stand::{More, Stand, Way},
    upstream::Upstream,
};
use crate::{limits::Bounds, message::Question};

const PRESENTED: More = More { zone: presented, secrets: &[] };

fn presented(upstream: &Upstream) -> String {
    let local = format!("connect = \"{}\"\naddresses = [\"127.0.0.0/8\"]\nca_file = \"ca.pem\"\n", upstream.https);
    format!(
        "[[zone.t.credential]]\nname = \"machine\"\nsource = \"env:MACHINE\"\ninject = [{{ client_certificate = true }}]\n\
         [[zone.t.egress]]\nhost = \"places.test\"\nclient_certificate = \"machine\"\n{local}"
    )
}

async fn stand() -> Stand {
    Stand::with_more(Bounds::default(), PRESENTED).await
}

fn grant(stand: &Stand, pem: &str) {
    stand.custody.secrets.lock().unwrap().insert("machine".to_owned(), pem.to_owned());
}

#[tokio::test]
async fn a_client_certificate_is_presented_to_its_host_and_to_no_other() {
    let stand = stand().await;
    let (certificate, pem) = stand.upstream.client_certificate("machine.one");
    grant(&stand, &pem);
    for _ in 0..2 {
        let from = stand.audit.records().len();
        let seen = stand.get(Way::Redirect, "https", "places.test", 443, "/v1/x", &[]).await;
        assert_eq!(seen.status, 200, "{}", seen.text());
        let record = stand.record(Kind::EgressRequest, from).unwrap();
        assert_eq!(record.credential.as_deref(), Some("machine"));
    }
    assert_eq!(stand.get(Way::Redirect, "https", "other.test", 443, "/", &[]).await.status, 200);
    let presented: Vec<_> = stand.upstream.received().into_iter().map(|request| request.presented).collect();
    assert_eq!(presented, [Some(certificate.clone()), Some(certificate), None]);
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 2, "one for each host");
}

#[tokio::test]
async fn a_replaced_client_certificate_is_presented_on_a_connection_of_its_own() {
    let stand = stand().await;
    let mut expected = Vec::new();
    for name in ["machine.one", "machine.two"] {
        let (certificate, pem) = stand.upstream.client_certificate(name);
        grant(&stand, &pem);
        assert_eq!(stand.get(Way::Redirect, "https", "places.test", 443, "/v1/x", &[]).await.status, 200);
        expected.push(Some(certificate));
    }
    let presented: Vec<_> = stand.upstream.received().into_iter().map(|request| request.presented).collect();
    assert_eq!(presented, expected);
}

#[tokio::test]
async fn without_a_usable_certificate_nothing_is_dialled() {
    let stand = stand().await;
    let (one, other) = (stand.upstream.client_certificate("one").1, stand.upstream.client_certificate("other").1);
    let key_at = |pem: &str| pem.find("-----BEGIN PRIVATE KEY").unwrap();
    let crossed = format!("{}{}", &one[..key_at(&one)], &other[key_at(&other)..]);
    for pem in ["not PEM, but long enough", &one[..key_at(&one)], &one[key_at(&one)..], &crossed] {
        grant(&stand, pem);
        let seen = stand.get(Way::Redirect, "https", "places.test", 443, "/v1/x", &[]).await;
        assert_eq!(seen.reason().as_deref(), Some("custody_denied"), "{}", seen.text());
        assert!(seen.text().contains("certificate chain and its private key"), "{}", seen.text());
    }
    stand.custody.secrets.lock().unwrap().remove("machine");
    let seen = stand.get(Way::Redirect, "https", "places.test", 443, "/v1/x", &[]).await;
    assert_eq!(seen.reason().as_deref(), Some("custody_denied"));
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_revocation_ends_the_use_of_a_client_certificate_and_its_connections() {
    let stand = stand().await;
    grant(&stand, &stand.upstream.client_certificate("machine.one").1);
    assert_eq!(stand.get(Way::Redirect, "https", "places.test", 443, "/v1/x", &[]).await.status, 200);
    stand.ask(Question::Revoke { session: super::stand::SESSION.to_owned() }).await;
    assert!(stand.custody.revoked.lock().unwrap().contains(&"machine".to_owned()));
    let seen = stand.get(Way::Redirect, "https", "places.test", 443, "/v1/x", &[]).await;
    assert_eq!(seen.reason().as_deref(), Some("grants_revoked"));
    assert_eq!(stand.upstream.received().len(), 1);
}
