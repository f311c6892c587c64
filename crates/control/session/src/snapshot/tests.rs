//! What a snapshot holds, and which ones a session does not take. That it says what the log says: `crate::tests`.

use serde_json::json;

use super::*;
use crate::tests::world::World;

#[test]
fn a_session_takes_its_own_snapshot_and_no_other_s() {
    let mut world = World::new();
    world.say("hello");
    let snapshot = world.session.snapshot().unwrap();
    let mut again = World::new().session;
    again.restore(&snapshot).unwrap();
    assert_eq!(again.primary().state(), world.session.primary().state());
    assert_eq!(again.snapshot().unwrap(), snapshot);
    let mut other = World::new().session;
    other.threads[0].id = ThreadId::parse("sthr_other").unwrap();
    assert!(matches!(other.restore(&snapshot), Err(Unfit::Stranger)));
    assert_eq!(*other.primary().state(), State::default());
}

#[test]
fn what_is_no_snapshot_changes_nothing() {
    let mut world = World::new();
    world.say("hello");
    let mut snapshot: serde_json::Value = serde_json::from_str(&world.session.snapshot().unwrap()).unwrap();
    let threads = snapshot["threads"].as_array_mut().unwrap();
    let mut second = threads[0].clone();
    second["agent"] = json!("nobody");
    threads.push(second);
    let mut session = World::new().session;
    assert!(matches!(session.restore(&snapshot.to_string()), Err(Unfit::Agent)));
    snapshot["threads"][0]["state"].as_object_mut().unwrap().remove("conversation");
    assert!(matches!(session.restore(&snapshot.to_string()), Err(Unfit::Shape(_))));
    assert!(matches!(session.restore(r#"{"overall": 1}"#), Err(Unfit::Shape(_))));
    assert_eq!(*session.primary().state(), State::default());
    assert_eq!(*session.overall(), Overall::default());
}

#[test]
fn an_event_that_waits_is_known() {
    let mut world = World::new();
    world.say("first");
    assert!(!world.session.has_waiting());
    world.say("second, while the model is asked");
    assert!(world.session.has_waiting());
}

#[test]
fn a_conversation_that_is_larger_than_a_snapshot_may_be_has_none() {
    let mut world = World::new();
    world.say(&"x".repeat(MOST_BYTES / 2));
    assert!(world.session.snapshot().is_some());
    let mut world = World::new();
    world.say(&"x".repeat(MOST_BYTES));
    assert!(world.session.snapshot().is_none());
}

#[test]
fn the_name_of_the_fold_is_that_of_its_sources() {
    assert_eq!(FOLD.len(), 16);
    assert!(FOLD.bytes().all(|byte| byte.is_ascii_hexdigit()));
}
