//! Webhooks: an endpoint that does not answer.

use std::sync::Arc;
use std::time::Duration;

use postern_model::Timestamp;
use postern_secret::SecretBytes;
use postern_upstream::webhook::{Letter, Postman};

use crate::site::Site;

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_given_up_after_fifteen_seconds() {
    let site = Site::new().await;
    site.hang("/in");
    let letter = Letter {
        webhook: "wh_1".into(),
        event: "whe_1".into(),
        url: site.url("a", "/in"),
        payload: "{}".into(),
        generation: 1,
        former: false,
    };
    let postman = Postman::new(SecretBytes::new(vec![7; 32]), site.public(&["127.0.0.1/32"]));
    let seen = Arc::clone(&site.seen);
    let posting = tokio::spawn(async move { postman.post(&letter, Timestamp::now()).await });
    while seen.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(8)).await;
    tokio::task::yield_now().await;
    assert!(!posting.is_finished(), "it is given up too soon");
    tokio::time::advance(Duration::from_secs(7)).await;
    tokio::time::resume();
    let posted = tokio::time::timeout(Duration::from_secs(5), posting).await.expect("it is given up in time").unwrap();
    assert_eq!(posted.unwrap_err().error.kind, "timeout");
}
