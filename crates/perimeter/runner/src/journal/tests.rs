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

/// Bounds that a few lines reach.
const SMALL: Bounds = Bounds { rewritten_at_opening: 1000, rewritten: 4000, unposted_bytes: 2000, tool_uses: 30 };

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).expect("there").len()
}

async fn used(journal: &mut Journal, id: &str, text: &str) {
    journal.started(id, "bash").await.expect("noted");
    journal.done(id, &outcome(text)).expect("noted");
    journal.posted(id).expect("noted");
}

#[tokio::test]
async fn of_what_the_server_has_nothing_but_ids_is_kept_while_it_runs_and_when_it_is_opened() {
    let (_directory, path) = journal();
    let mut journal = Journal::open_within(&path, SMALL).expect("opened");
    journal.started("open", "bash").await.expect("noted");
    journal.started("owed", "bash").await.expect("noted");
    journal.done("owed", &outcome("owed to the server")).expect("noted");
    for number in 0..20 {
        used(&mut journal, &format!("id-{number}"), &"x".repeat(900)).await;
        assert!(length(&path) < 4000 + 1100, "{}", length(&path));
        assert!(matches!(Journal::open(&path), Err(JournalError::Held { .. })), "whichever file is there is held");
    }
    drop(journal);
    let journal = Journal::open_within(&path, SMALL).expect("opened again");
    assert!(length(&path) < 1000, "{}", length(&path));
    assert_eq!(journal.standing("open"), Some(&Standing::Started));
    assert_eq!(journal.standing("owed"), Some(&Standing::Done(outcome("owed to the server"))));
    assert!((0..20).all(|number| journal.standing(&format!("id-{number}")) == Some(&Standing::Posted)));
}

#[tokio::test]
async fn a_death_while_it_is_written_anew_leaves_the_old_one_or_the_new_one() {
    let (_directory, path) = journal();
    let mut journal = Journal::open(&path).expect("opened");
    used(&mut journal, "a", &"x".repeat(2000)).await;
    journal.started("b", "bash").await.expect("noted");
    drop(journal);
    let old = std::fs::read(&path).expect("read");
    drop(Journal::open_within(&path, SMALL).expect("written anew"));
    let new = std::fs::read(&path).expect("read");
    assert!(new.len() < old.len());
    // Before the new one took the old one's place some of it was written, or all; and it may have been longer than this one.
    for part in (0..=new.len()).map(|part| &new[..part]).chain([&old[..]]) {
        std::fs::write(&path, &old).expect("written");
        std::fs::write(path.with_extension("new"), part).expect("written");
        let journal = Journal::open_within(&path, SMALL).expect("opened");
        assert_eq!((journal.standing("a"), journal.standing("b")), (Some(&Standing::Posted), Some(&Standing::Started)));
        assert_eq!(length(&path), new.len() as u64, "what was left over is in nobody's way");
    }
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_anew_goes_on_as_it_is() {
    let (_directory, path) = journal();
    let mut journal = Journal::open(&path).expect("opened");
    used(&mut journal, "a", &"x".repeat(2000)).await;
    drop(journal);
    std::fs::create_dir(path.with_extension("new")).expect("in the way");
    let mut journal = Journal::open_within(&path, SMALL).expect("opened");
    used(&mut journal, "b", "").await;
    drop(journal);
    let journal = Journal::open_within(&path, SMALL).expect("opened");
    assert!(["a", "b"].iter().all(|id| journal.standing(id) == Some(&Standing::Posted)));
}

#[tokio::test]
async fn a_file_that_was_replaced_before_it_was_held_is_not_taken_for_the_journal() {
    let (_directory, path) = journal();
    let mut journal = Journal::open_within(&path, SMALL).expect("opened");
    // What a second worker opened just before.
    let replaced = std::os::fd::OwnedFd::from(File::open(&path).expect("opened"));
    journal.rewrite().expect("written anew");
    drop(journal);
    let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&replaced));
    assert!(matches!(Journal::open(Path::new(&by_descriptor)), Err(JournalError::Held { .. })));
    assert!(Journal::open(&path).is_ok());
}

#[tokio::test]
async fn no_tool_use_begins_beyond_what_is_kept_in_mind() {
    let (_directory, path) = journal();
    let mut journal = Journal::open_within(&path, SMALL).expect("opened");
    for id in ["a", "b", "c"] {
        journal.started(id, "bash").await.expect("noted");
        journal.done(id, &outcome(&"x".repeat(900))).expect("noted");
    }
    assert!(matches!(journal.started("d", "bash").await, Err(JournalError::Full(_))));
    drop(journal);
    // As much of a file that nobody bounded is kept in mind.
    let fewer = Bounds { unposted_bytes: 1000, ..SMALL };
    let mut journal = Journal::open_within(&path, fewer).expect("opened again");
    assert_eq!(journal.standing("b"), Some(&Standing::Done(outcome(&"x".repeat(900)))));
    assert_eq!(journal.standing("c"), Some(&Standing::Started), "not run again: its outcome is unknown");
    journal.posted("a").expect("noted");
    journal.started("d", "bash").await.expect("there is room again");
    for number in 4..30 {
        used(&mut journal, &number.to_string(), "").await;
    }
    assert!(matches!(journal.started("one more", "bash").await, Err(JournalError::Full(_))));
    drop(journal);
    assert!(matches!(Journal::open_within(&path, SMALL), Err(JournalError::Full(_))));
}
