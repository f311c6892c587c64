use std::sync::atomic::Ordering;

use super::*;
use crate::stand_in::server;

#[tokio::test]
async fn a_history_whose_pages_do_not_end_is_given_up() {
    let (remote, asked) = server(|_| ("200 OK", br#"{"data":[],"next_page":"again"}"#.to_vec()));
    let (key, (inputs, _taken)) = (Bearer::new("key".into()), mpsc::channel(INPUTS));
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let reading = tokio::time::timeout(Duration::from_secs(20), history(subject, &inputs, 20));
    assert!(reading.await.expect("it ends").unwrap_err().is_garbled());
    assert_eq!(asked.load(Ordering::SeqCst), 20);
    assert_eq!(PAGES, 10_000, "of a thousand events each");
}
