//! Sessions that are frozen, thawed or revoked by the control stream, and what the gateway says of itself.

use std::sync::Arc;

use http_body_util::BodyExt;
use postern_custody::keeper::Standing;
use postern_model::{
    control::{CommandBody, Reply},
    ids::SessionId,
};
use postern_net::control::ControlHandler;
use serde_json::json;

use super::stand::{Call, Reply as Answer, SSE, Stand, call_body, chunks};
use crate::control::Handler;

fn handler(stand: &Stand) -> Handler {
    let standing =
        Standing { audit_key: "a".to_owned(), perimeter_public_key: "b".to_owned(), degraded: vec!["c".to_owned()] };
    Handler::new(Arc::clone(&stand.gateway), "host".to_owned(), &standing)
}

fn good(session: &SessionId) -> Call {
    Call::tool("search", &json!({})).from(session.as_ref())
}

#[tokio::test]
async fn a_frozen_session_is_refused_until_it_is_thawed_and_a_running_stream_ends_with_the_reason() {
    let stand = Stand::new(|seen| {
        if seen.head.contains("authorization") {
            super::stand::ok()
        } else {
            Answer::Hang(chunks(SSE, &[b": hello\n\n"], false))
        }
    })
    .await;
    let (handler, session, other) = (handler(&stand), SessionId::generate(), SessionId::generate());
    let call = Call::on("plain", call_body("x", &json!({}))).from(session.as_ref());
    let mut body = stand.begin(call).await.into_body();
    body.frame().await.unwrap().unwrap();

    assert_eq!(handler.obey(CommandBody::Freeze { session: session.clone() }).await, Ok(Reply::Done));
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&rest).contains("session_frozen"), "{rest:?}");
    assert_eq!(stand.send(good(&session)).await.reason().as_deref(), Some("session_frozen"));
    assert_eq!(stand.send(good(&other)).await.reason(), None);

    assert_eq!(handler.obey(CommandBody::Thaw { session: session.clone() }).await, Ok(Reply::Done));
    assert_eq!(stand.send(good(&session)).await.reason(), None);
    assert_eq!(*stand.custody.said.lock().unwrap(), [format!("freeze {session}"), format!("thaw {session}")]);
}

#[tokio::test]
async fn revoked_grants_stay_revoked() {
    let stand = Stand::answering().await;
    let (handler, session) = (handler(&stand), SessionId::generate());
    assert_eq!(stand.send(good(&session)).await.reason(), None);
    handler.obey(CommandBody::RevokeGrants { session: session.clone() }).await.unwrap();
    handler.obey(CommandBody::Thaw { session: session.clone() }).await.unwrap();
    assert_eq!(stand.send(good(&session)).await.reason().as_deref(), Some("grants_revoked"));
}

#[tokio::test]
async fn status_tells_routes_leaf_and_troubles_and_files_are_not_taken() {
    let stand = Stand::answering().await;
    let handler = handler(&stand);
    stand.send(Call::on("down", call_body("x", &json!({})))).await;
    let Ok(Reply::Status(status)) = handler.obey(CommandBody::Status).await else { panic!("a status") };
    let gateway = status.gateway.unwrap();
    assert_eq!(gateway.routes.len(), 7);
    assert!(gateway.leaf_days_left.is_some_and(|days| (89..=90).contains(&days)));
    assert_eq!((gateway.routes[0].name.as_str(), gateway.routes[0].credential.as_str()), ("wiki", "own"));
    assert!(gateway.last_errors.iter().any(|error| error.code == "upstream_unreachable"), "{:?}", gateway.last_errors);
    let file = CommandBody::PutFile {
        session: SessionId::generate(),
        path: "/workspace/.results/x".to_owned(),
        bytes: postern_model::control::Base64(vec![]),
        mode: 0o644,
    };
    assert_eq!(handler.obey(file).await.unwrap_err().code, "command_unsupported");
}
