//! What a restart knows, wherever the crash fell.

use super::*;

fn outcome(text: &str) -> Outcome {
    Outcome { is_error: false, content: vec![Block::text(text)] }
}

fn journal() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    (directory, path)
}

#[tokio::test]
async fn what_was_started_done_and_posted_is_known_after_a_restart() {
    let (_directory, path) = journal();
    let mut journal = Journal::open(&path).expect("opened");
    for id in ["a", "b", "c"] {
        journal.started(id, "bash").await.expect("noted");
    }
    journal.done("b", &outcome("b's")).expect("noted");
    journal.done("c", &outcome("c's")).expect("noted");
    journal.posted("c").expect("noted");
    drop(journal);
    let journal = Journal::open(&path).expect("opened again");
    assert_eq!(journal.standing("a"), Some(&Standing::Started));
    assert_eq!(journal.standing("b"), Some(&Standing::Done(outcome("b's"))));
    assert_eq!(journal.standing("c"), Some(&Standing::Posted));
    assert_eq!(journal.standing("d"), None);
}

#[tokio::test]
async fn a_torn_last_line_is_cut_wherever_it_tore() {
    let (_directory, path) = journal();
    let mut journal = Journal::open(&path).expect("opened");
    journal.started("a", "bash").await.expect("noted");
    let whole = std::fs::metadata(&path).expect("there").len();
    journal.done("a", &outcome("text")).expect("noted");
    drop(journal);
    let bytes = std::fs::read(&path).expect("read");
    for length in usize::try_from(whole).expect("small")..bytes.len() {
        std::fs::write(&path, &bytes[..length]).expect("torn");
        let mut journal = Journal::open(&path).expect("a torn line is no error");
        assert_eq!(journal.standing("a"), Some(&Standing::Started), "torn at {length}");
        journal.posted("a").expect("noted after the cut");
        drop(journal);
        assert_eq!(Journal::open(&path).expect("whole again").standing("a"), Some(&Standing::Posted));
    }
}

#[test]
fn a_line_that_does_not_read_in_the_middle_stops_the_session() {
    let (_directory, path) = journal();
    std::fs::write(&path, "{\"started\":{\"id\":\"a\",\"tool\":\"bash\"}}\nnonsense\n{\"posted\":{\"id\":\"a\"}}\n")
        .expect("written");
    assert!(matches!(Journal::open(&path), Err(JournalError::Garbled { line: 2, .. })));
}

#[test]
fn two_workers_cannot_hold_one_journal() {
    let (_directory, path) = journal();
    let first = Journal::open(&path).expect("opened");
    assert!(matches!(Journal::open(&path), Err(JournalError::Held { .. })));
    drop(first);
    assert!(Journal::open(&path).is_ok());
}
