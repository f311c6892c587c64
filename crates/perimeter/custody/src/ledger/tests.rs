use super::*;

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn hours(hours: i64) -> Timestamp {
    now() + SignedDuration::from_hours(hours)
}

fn issue(ledger: &mut Ledger, session: &str, at: Timestamp) -> Placeholder {
    let placeholder = Placeholder::issue(24, None);
    ledger.issue(session, &[("ledger-api".to_owned(), placeholder.clone())], at).unwrap();
    placeholder
}

#[test]
fn a_placeholder_is_known_for_a_day_after_its_session_and_as_long_as_it_lives() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(directory.path(), now()).unwrap();
    let ended = issue(&mut ledger, "ended", now());
    let alive = issue(&mut ledger, "alive", now());
    ledger.end("ended", hours(1)).unwrap();
    let known: Vec<_> = ledger.known(hours(24)).into_iter().map(|known| (known.placeholder, known.alive)).collect();
    assert_eq!(known, [(ended, false), (alive.clone(), true)]);
    let known: Vec<_> = ledger.known(hours(48)).into_iter().map(|known| known.placeholder).collect();
    assert_eq!(known, [alive]);
}

#[test]
fn a_restart_remembers_all_and_calls_them_dead() {
    let directory = tempfile::tempdir().unwrap();
    let placeholder = issue(&mut Ledger::open(directory.path(), now()).unwrap(), "session", now());
    let known = Ledger::open(directory.path(), hours(1)).unwrap().known(hours(2));
    assert_eq!(known.len(), 1);
    assert_eq!((&known[0].placeholder, known[0].alive, known[0].session.as_str()), (&placeholder, false, "session"));
}

#[test]
fn over_the_bound_the_oldest_dead_go_first_and_the_living_stay() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(directory.path(), now()).unwrap();
    let entry = |n: usize, ended| Entry {
        placeholder: Placeholder::issue(16, None),
        session: n.to_string(),
        credential: "c".to_owned(),
        issued: now(),
        ended,
    };
    ledger.entries = (0..MOST + 10).map(|n| entry(n, (n % 2 == 0).then(now))).collect();
    let known = ledger.known(now());
    assert_eq!(known.len(), MOST);
    assert_eq!(known.iter().filter(|known| known.alive).count(), (MOST + 10) / 2);
    assert_eq!(known[0].session, "1");
}

#[test]
fn a_ledger_that_cannot_be_written_issues_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(directory.path(), now()).unwrap();
    ledger.file = directory.path().join("gone").join("placeholders.json");
    assert!(ledger.issue("session", &[("c".to_owned(), Placeholder::issue(16, None))], now()).is_err());
    assert!(ledger.known(now()).is_empty());
}

#[test]
fn a_damaged_ledger_is_not_taken_for_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(LEDGER_FILE), "[{").unwrap();
    assert!(Ledger::open(directory.path(), now()).is_err());
}
