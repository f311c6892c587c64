//! Another configuration under a session that runs: a narrowing counts at its next request, a widening does not.

use std::collections::BTreeMap;

use postern_audit::{Durability, Kind};
use postern_policy::{Document, Zones, document::DocumentText};

use tokio::io::AsyncWriteExt;

use super::stand::{SESSION, Stand, WAYS, Way, bearer, read_head, read_response};
use crate::message::{Answer, Question, Selected};

/// Has the stand's egress take up its configuration with something replaced; answers what is wrong with it.
async fn reload(stand: &Stand, replace: impl Fn(&str) -> String, covered: Covered) -> Vec<String> {
    let document = DocumentText { text: replace(&stand.document.text), ..stand.document.clone() };
    let environments = BTreeMap::from([("default".to_owned(), "env_one".to_owned())]);
    let zones = Document::from_text(document.clone()).and_then(|document| Zones::load(&document, &environments));
    let selected = match (covered, zones.ok().and_then(|zones| zones.named("t"))) {
        (Covered::Yes, Some(zone)) => Selected::Zone { name: "t".to_owned(), digest: zone.digest().to_owned() },
        _ => Selected::Nothing { next_step: "no zone covers it".to_owned() },
    };
    let selected = BTreeMap::from([(SESSION.to_owned(), selected)]);
    match stand.registry.answer(Question::Reload { document, environments, selected }, Vec::new()).await {
        Answer::Reloaded { problems } => problems,
        other => panic!("{other:?}"),
    }
}

#[derive(Clone, Copy)]
enum Covered {
    Yes,
    No,
}

/// The reason of a refusal, or nothing.
async fn reason(stand: &Stand, way: Way, host: &str, path: &str) -> Option<String> {
    let placeholder = bearer(stand);
    let headers = if host == "api.test" { vec![("authorization", placeholder.as_str())] } else { Vec::new() };
    stand.get(way, "https", host, 443, path, &headers).await.reason()
}

#[tokio::test]
async fn a_narrowing_counts_at_the_next_request_and_a_widening_does_not() {
    let stand = Stand::start().await;
    for way in WAYS {
        assert_eq!(reason(&stand, way, "api.test", "/v1/data").await, None);
    }
    let wider = |text: &str| {
        text.replace("\"/v1/**\"", "\"/v1/data\", \"/v2/**\"") + "[[zone.t.egress]]\nhost = \"new.test\"\n"
    };
    assert_eq!(reload(&stand, wider, Covered::Yes).await, Vec::<String>::new());
    for way in WAYS {
        assert_eq!(reason(&stand, way, "api.test", "/v1/data").await, None);
        assert_eq!(reason(&stand, way, "api.test", "/v1/more").await.as_deref(), Some("path_not_allowed"));
        assert_eq!(reason(&stand, way, "api.test", "/v2/x").await.as_deref(), Some("path_not_allowed"));
        assert_eq!(reason(&stand, way, "new.test", "/").await.as_deref(), Some("host_not_allowed"));
    }
    assert_eq!(reload(&stand, str::to_owned, Covered::Yes).await, Vec::<String>::new());
    assert_eq!(reason(&stand, Way::Redirect, "api.test", "/v1/more").await, None, "as it was opened");
}

#[tokio::test]
async fn a_request_whose_body_was_on_its_way_is_asked_again_when_the_zone_has_changed_meanwhile() {
    let stand = Stand::start().await;
    let without_posts = |text: &str| text.replace("\"GET\", \"POST\", \"PUT\", \"HEAD\"", "\"GET\"");
    // Within what is looked at first, and longer than that.
    for length in [5, 1_000_000] {
        assert_eq!(reload(&stand, str::to_owned, Covered::Yes).await, Vec::<String>::new());
        let stream = stand.towards(Way::Redirect, "api.test", 443).await;
        let mut stream = stand.tls(stream, "api.test").await.unwrap();
        let placeholder = bearer(&stand);
        let head = format!(
            "POST /v1/x HTTP/1.1\r\nhost: api.test\r\nauthorization: {placeholder}\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.contains("100"), "its head was allowed");
        assert_eq!(reload(&stand, without_posts, Covered::Yes).await, Vec::<String>::new());
        // The answer may come before the whole body is taken.
        let _early = stream.write_all(&vec![b'a'; length]).await;
        assert_eq!(read_response(&mut stream).await.reason().as_deref(), Some("method_not_allowed"), "{length}");
    }
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn records_are_as_safe_as_the_zone_in_force_wants_them() {
    let stand = Stand::start().await;
    let on_disk = |text: &str| text.replacen("[zone.t]\n", "[zone.t]\naudit = \"disk\"\n", 1);
    for (replace, expected) in
        [(&str::to_owned as &dyn Fn(&str) -> String, Durability::Written), (&on_disk, Durability::Disk)]
    {
        assert_eq!(reload(&stand, replace, Covered::Yes).await, Vec::<String>::new());
        let at = stand.audit.records().len();
        assert_eq!(reason(&stand, Way::Redirect, "api.test", "/v1/data").await, None);
        assert_eq!(stand.record(Kind::EgressRequest, at).unwrap().durability, expected);
    }
}

#[tokio::test]
async fn a_connection_that_was_kept_is_not_used_where_the_zone_leads_elsewhere_now() {
    let stand = Stand::start().await;
    assert_eq!(reason(&stand, Way::Redirect, "other.test", "/").await, None);
    let connections = stand.upstream.received().len();
    let https = stand.upstream.https;
    let elsewhere = |text: &str| text.replace(&format!("connect = \"{https}\""), "connect = \"127.0.0.9:9\"");
    assert_eq!(reload(&stand, elsewhere, Covered::Yes).await, Vec::<String>::new());
    assert_eq!(reason(&stand, Way::Redirect, "other.test", "/").await.as_deref(), Some("address_not_allowed"));
    assert_eq!(stand.upstream.received().len(), connections);
}

#[tokio::test]
async fn a_session_that_no_zone_covers_any_more_is_refused_and_a_broken_configuration_changes_nothing() {
    let stand = Stand::start().await;
    let broken = |text: &str| text.replace("zone.t", "zone.T");
    assert!(!reload(&stand, broken, Covered::Yes).await.is_empty());
    assert_eq!(reason(&stand, Way::Redirect, "api.test", "/v1/data").await, None);
    assert_eq!(reload(&stand, str::to_owned, Covered::No).await, Vec::<String>::new());
    for way in WAYS {
        assert_eq!(reason(&stand, way, "api.test", "/v1/data").await.as_deref(), Some("zone_none"));
    }
}
