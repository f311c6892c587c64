use std::io::Write;
use std::os::unix::net::UnixStream;

use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_hello_is_waited_for_five_seconds() {
    let (ours, _silent) = UnixStream::pair().unwrap();
    let began = Instant::now();
    let joining = join(ours.into(), CallerKind::Worker, "");
    let joining = tokio::time::timeout(Duration::from_secs(60), joining).await.expect("it is given up");
    assert!(matches!(joining, Joining::Nobody));
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn the_answer_to_a_hello_is_read_up_to_a_bound() {
    for (length, is_read) in [(64 << 10, true), ((64 << 10) + 1, false)] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let refused = r#"{"refused":"other_version"}"#;
        let blanks = vec![b' '; length - refused.len()];
        let frame = [&u32::try_from(length).unwrap().to_le_bytes(), refused.as_bytes(), &blanks].concat();
        theirs.write_all(&frame).unwrap();
        match join(ours.into(), CallerKind::Worker, "").await {
            Joining::Refused(refusal) => assert!(is_read && refusal == JoinRefusal::OtherVersion, "{length}"),
            Joining::Nobody => assert!(!is_read, "{length}"),
            Joining::Joined { .. } => panic!("{length}"),
        }
    }
}
