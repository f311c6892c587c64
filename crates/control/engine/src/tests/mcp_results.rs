//! Results that are too long to be shown whole: a file where one of our workers holds the session, else a note.

use postern_model::content::Block;
use postern_model::control::{
    Answer, CommandBody, CommandRefusal, FRAME_BYTES, FromPerimeter, FromServer, Hello, Reply, Role,
};
use postern_model::ids::{EnvironmentId, SessionId};
use postern_net::frames::{FrameReader, FrameWriter};
use postern_upstream::mcp::ToolResult;
use serde_json::json;
use tokio::sync::mpsc;

use super::fake_mcp::Fake;
use super::mcp::{answer, make};
use super::stage::{PATIENCE, Stage, calls};
use crate::control::{ControlHub, Owner};

const READ: &str = "mcp__docs__read";

/// Has a call answered with this content; returns what is in the log.
async fn shown(stage: &Stage, fake: &Fake, id: &SessionId, content: Vec<Block>) -> (String, String) {
    make(stage, id, &[READ]).await;
    fake.call().await.answers(Ok(ToolResult { content, is_error: false }));
    let next = stage.script.call().await;
    let log = stage.log(id).await;
    let call = calls(&log).last().unwrap().id.clone();
    let (text, _) = answer(&log, &call).unwrap();
    let results = next.body["messages"].as_array().unwrap().last().unwrap();
    assert_eq!(results["content"][0]["content"][0]["text"], json!(text), "the model reads what everyone sees");
    (call.to_string(), text)
}

fn long() -> Vec<Block> {
    vec![Block::text(format!("<{}", "\u{e9}".repeat(70_000))), Block::text(format!("{}>", "x".repeat(40_000)))]
}

#[tokio::test]
async fn a_long_result_shows_its_ends_and_says_that_the_rest_was_not_kept() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    let (_, text) = shown(&stage, &fake, &id, long()).await;
    assert!(text.starts_with('<') && text.ends_with('>'));
    assert!(text.contains("[102003 of 110003 characters left out. The rest was not kept: "), "{}", &text[4000..]);
    assert!(text.chars().count() < 8_400);
}

#[tokio::test]
async fn a_long_result_is_put_into_the_workspace_by_the_worker_that_holds_the_session() {
    let fake = Fake::new();
    let hub = ControlHub::default();
    let stage = fake.stage_with(Some(hub.clone())).await;
    let id = stage.session().await;
    let mut files = worker(&stage, &hub, &id, true).await;
    let (call, text) = shown(&stage, &fake, &id, long()).await;
    let path = format!("/workspace/.results/{call}.txt");
    assert!(text.contains(&format!("The whole result is in {path}: read it")), "{}", &text[4000..]);
    let (stored, bytes) = files.recv().await.unwrap();
    assert_eq!(stored, path);
    let whole = String::from_utf8(bytes).unwrap();
    assert_eq!(whole.chars().count(), 110_003);
    assert!(whole.starts_with('<') && whole.ends_with('>'));
}

#[tokio::test]
async fn a_worker_that_refuses_the_file_is_named_in_the_note() {
    let fake = Fake::new();
    let hub = ControlHub::default();
    let stage = fake.stage_with(Some(hub.clone())).await;
    let id = stage.session().await;
    let _files = worker(&stage, &hub, &id, false).await;
    let (_, text) = shown(&stage, &fake, &id, long()).await;
    assert!(text.contains("The rest was not kept: no worker took it (disk_full: "), "{}", &text[4000..]);
}

#[tokio::test]
async fn a_result_of_a_hundred_thousand_characters_is_shown_whole() {
    let fake = Fake::new();
    let stage = fake.stage().await;
    let id = stage.session().await;
    let whole = "\u{20ac}".repeat(100_000);
    let (_, text) = shown(&stage, &fake, &id, vec![Block::text(&whole)]).await;
    assert_eq!(text, whole);
}

/// A worker of ours on the hub that holds the session: the files that it is given.
async fn worker(stage: &Stage, hub: &ControlHub, id: &SessionId, obeys: bool) -> mpsc::Receiver<(String, Vec<u8>)> {
    let owner = Owner::Environment(EnvironmentId::parse(&stage.environment).unwrap());
    let seat = hub.seat(&stage.workspace, &owner).unwrap();
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let attached = hub.clone();
    tokio::spawn(async move { attached.attach(seat, theirs, std::future::pending()).await });
    let (reader, writer) = tokio::io::split(ours);
    let mut reader = FrameReader::new(reader, FRAME_BYTES, PATIENCE);
    let mut writer = FrameWriter::new(writer, FRAME_BYTES, PATIENCE);
    let sessions = vec![id.clone()];
    let (version, name) = ("1".into(), "w".into());
    let hello = Hello { role: Role::Worker, version, name, sessions, perimeter_public_key: None };
    writer.send(&FromPerimeter::Hello(hello)).await.unwrap();
    let (files, received) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok(Some(said)) = reader.next::<FromServer>().await {
            let FromServer::Command(command) = said else { continue };
            let CommandBody::PutFile { path, bytes, .. } = command.body else { panic!("only files are put") };
            let result = match obeys {
                true => Ok(Reply::Done),
                false => Err(CommandRefusal {
                    code: "disk_full".into(),
                    message: "no room".into(),
                    next_step: "make room".into(),
                }),
            };
            files.send((path, bytes.0)).await.unwrap();
            writer.send(&FromPerimeter::Answer(Answer { id: command.id, result })).await.unwrap();
        }
    });
    while hub.peers(&stage.workspace).is_empty() {
        tokio::task::yield_now().await;
    }
    received
}
