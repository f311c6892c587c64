//! The bounds of what a caller hands to the writer, and of its patience.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test says what it expects by failing")]

use postern_audit::{AuditError, Client, Decision, Kind, Record};
use postern_exec::asynchronous::Channel;

#[tokio::test(start_paused = true)]
async fn a_writer_that_does_not_answer_is_waited_for_ten_seconds() {
    let (ours, _theirs) = Channel::pair().unwrap();
    let client = Client::new(ours);
    let began = tokio::time::Instant::now();
    let appended = client.append(&Record::new(Kind::ToolUse, Decision::Allow)).await;
    assert_eq!(appended.err(), Some(AuditError::Late));
    assert_eq!(began.elapsed().as_secs(), 10);
}
