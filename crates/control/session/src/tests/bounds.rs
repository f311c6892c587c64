//! How much of a session those are shown who judge, grade or advise, and how much may be asked of them.

use serde_json::{Value, json};

use super::judge::judged_agent;
use super::world::{World, advised, ask, call, limits, text, tool};
use crate::{Counsellor, Limits, Stop};

fn judged() -> World {
    World::of(judged_agent(), Limits { judge: Counsellor::Present, ..limits() })
}

/// What whoever is asked about the work is shown.
fn consulted(world: &World) -> Value {
    let (_, asked) = world.consulting.as_ref().expect("somebody is asked");
    serde_json::from_str(&asked.text).unwrap()
}

#[test]
fn a_judge_is_shown_the_last_eight_messages_four_thousand_characters_of_each() {
    let mut world = judged();
    for number in 0..9 {
        world.say(&format!("{number}{}", "\u{e9}".repeat(5_000)));
        if number < 8 {
            world.answer(vec![text("noted")], Stop::EndTurn);
        }
    }
    world.answer(vec![call("bash")], Stop::ToolUse);
    let shown = consulted(&world)["intent"].clone();
    let intent: Vec<&str> = shown.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert_eq!(intent.iter().map(|one| &one[..1]).collect::<String>(), "12345678");
    assert!(intent.iter().all(|one| one.chars().count() == 4_000));
}

#[test]
fn an_input_is_judged_up_to_sixteen_thousand_bytes() {
    for (length, is_judged) in [(16_000, true), (16_001, false)] {
        let mut world = judged();
        world.say("go");
        let frame = json!({"command": ""}).to_string().len();
        world.answer(vec![tool("bash", json!({"command": "x".repeat(length - frame)}))], Stop::ToolUse);
        assert_eq!(world.consulting.is_some(), is_judged, "{length}");
    }
}

/// Work of which the end is a quarter of a megabyte, in texts of 25,000 characters.
fn works(world: &mut World) {
    world.send(json!([{"type": "user.message", "content": [{"type": "text", "text": "the beginning"}]}])).unwrap();
    for number in 0..12 {
        world.answer(vec![text(&format!("{number:02}{}", "x".repeat(25_000)))], Stop::EndTurn);
        let picture = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}});
        let content = json!([{"type": "text", "text": format!("go on after {number}")}, picture]);
        world.send(json!([{"type": "user.message", "content": content}])).unwrap();
    }
}

/// What is shown of such work: its end, 200,000 bytes at most, each text cut.
fn assert_is_its_end(transcript: &Value) {
    let entries = transcript.as_array().unwrap();
    let size: usize = entries.iter().map(|entry| entry.to_string().len()).sum();
    assert!((180_000..=200_000).contains(&size), "{size}");
    let texts: Vec<&str> = entries.iter().filter_map(|entry| entry["text"].as_str()).collect();
    assert!(texts.iter().all(|text| text.len() <= 20_000) && texts.iter().any(|text| text.len() == 20_000));
    assert!(!transcript.to_string().contains("QUJD"), "no pictures");
    assert!(texts.contains(&"go on after 11") && !texts.contains(&"the beginning"));
}

#[test]
fn a_grader_is_shown_the_end_of_the_work() {
    let mut world = World::new();
    works(&mut world);
    world.answer(vec![text("rest")], Stop::EndTurn);
    let rubric = json!({"type": "text", "content": "c"});
    world.send(json!([{"type": "user.define_outcome", "description": "d", "rubric": rubric}])).unwrap();
    world.answer(vec![text("done")], Stop::EndTurn);
    assert_is_its_end(&consulted(&world)["transcript"]);
}

#[test]
fn an_advisor_is_shown_the_end_of_the_work() {
    let mut world = World::of(advised(), limits());
    works(&mut world);
    world.answer(vec![ask("which way?")], Stop::ToolUse);
    let asked = world.session.asked(&world.session.children()[0]);
    let first = asked.messages()[0].content[0]["text"].as_str().unwrap().to_owned();
    let shown: Value = serde_json::from_str(&first).unwrap();
    assert_is_its_end(&shown["work"]);
}

#[test]
fn a_question_has_a_hundred_thousand_characters_at_most() {
    for (length, is_asked) in [(100_000, true), (100_001, false)] {
        let mut world = World::of(advised(), limits());
        world.say("go");
        world.answer(vec![ask(&"\u{e9}".repeat(length))], Stop::ToolUse);
        assert_eq!(world.session.children().len(), usize::from(is_asked), "{length}");
        let told = world.answer_of(&world.calls()[0]);
        assert_eq!(told.is_some_and(|(text, is_error)| is_error && text.contains("100000")), !is_asked, "{length}");
    }
}

#[test]
fn an_explanation_of_a_grader_is_passed_on_up_to_ten_thousand_characters() {
    let mut world = World::new();
    let rubric = json!({"type": "text", "content": "c"});
    world.send(json!([{"type": "user.define_outcome", "description": "d", "rubric": rubric}])).unwrap();
    world.answer(vec![text("done")], Stop::EndTurn);
    world.consult(Some(&json!({"result": "needs_revision", "explanation": "\u{e9}".repeat(10_001)}).to_string()));
    let said = world.session.primary().state().outcomes()[0].explanation.clone().unwrap();
    assert_eq!(said.chars().count(), 10_000);
}

#[test]
fn an_outcome_has_a_bounded_description_rubric_and_count() {
    let sent = |description: usize, rubric: usize, iterations: u32| {
        let rubric = json!({"type": "text", "content": "r".repeat(rubric)});
        World::new().send(json!([{"type": "user.define_outcome", "description": "d".repeat(description),
            "rubric": rubric, "max_iterations": iterations}]))
    };
    sent(100_000, 262_144, 20).unwrap();
    for (description, rubric, iterations, place) in
        [(100_001, 1, 1, "description"), (1, 262_145, 1, "rubric.content"), (1, 1, 21, "max_iterations")]
    {
        let problem = sent(description, rubric, iterations).unwrap_err();
        assert!(problem.message.contains(place), "{}", problem.message);
    }
}
