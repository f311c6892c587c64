//! What becomes of memories that have no place here, and of changes that the server does not take, for now or for good.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::parcels::Server;
use crate::parcels::tests::{Noting, Unrecorded, store};
use crate::place::Places;
use crate::remote::{Bearer, Remote};
use crate::stand_in::saying;

/// What a server has, and how it answers the next writes; without any it takes them.
#[derive(Default)]
struct Behind {
    memories: Vec<(String, String)>,
    refusals: Vec<u16>,
    written: Vec<String>,
}

struct Stand {
    _directory: tempfile::TempDir,
    parcels: Parcels,
    at: PathBuf,
    behind: Arc<Mutex<Behind>>,
    remote: Remote,
    key: Bearer,
}

impl Stand {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Places::new(directory.path()).of("sesn_1").unwrap();
        let at = place.memory.join("notes");
        let parcels = Parcels::new(place, None, true, Server::Ours).unwrap();
        let behind = Arc::<Mutex<Behind>>::default();
        let answering = Arc::clone(&behind);
        let remote = saying(move |asked, sent| answer(&mut answering.lock().unwrap(), asked, sent));
        Self { _directory: directory, parcels, at, behind, remote, key: Bearer::new("key".into()) }
    }

    fn has(&self, memories: &[(&str, &str)]) {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        self.behind.lock().unwrap().memories = memories.iter().map(owned).collect();
    }

    fn refuses(&self, with: &[u16]) {
        self.behind.lock().unwrap().refusals = with.to_vec();
    }

    fn written(&self) -> Vec<String> {
        std::mem::take(&mut self.behind.lock().unwrap().written)
    }

    fn subject(&self) -> Subject<'_> {
        Subject { remote: &self.remote, key: &self.key, session: "sesn_1" }
    }

    async fn bring(&self) -> Result<Vec<String>, Refused> {
        let session = json!({"resources": [store("/mnt/memory/notes")]});
        self.parcels.bring(self.subject(), &session, &mut hands()).await
    }

    async fn take(&self) -> Vec<String> {
        self.parcels.take_memories(self.subject(), &mut hands()).await
    }

    fn here(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.at.join(path)).ok()
    }
}

fn hands() -> Noting {
    Noting { at: "/nowhere".into(), passed: Vec::new() }
}

fn answer(behind: &mut Behind, asked: &str, sent: &[u8]) -> (u16, Vec<u8>) {
    if asked.starts_with("GET ") {
        let memories: Vec<Value> = behind.memories.iter().map(|(path, text)| memory(path, text)).collect();
        return (200, json!({"data": memories, "next_page": null}).to_string().into_bytes());
    }
    if !behind.refusals.is_empty() {
        return (behind.refusals.remove(0), br#"{"error":{"message":"no"}}"#.to_vec());
    }
    let sent: Value = serde_json::from_slice(sent).unwrap();
    let text = sent["content"].as_str().unwrap();
    behind.written.push(text.to_owned());
    (200, memory("/written", text).to_string().into_bytes())
}

fn memory(path: &str, text: &str) -> Value {
    let sha256 = hex(digest(&SHA256, text.as_bytes()).as_ref());
    json!({"type": "memory", "id": format!("mem_{}", path.len()), "path": path, "content": text, "content_sha256": sha256})
}

#[tokio::test]
async fn a_memory_that_has_no_place_among_the_others_is_left_out_alone_and_named() {
    let stand = Stand::new();
    let long = format!("/{}", "n".repeat(256));
    stand.has(&[("/a", "a file"), ("/a/b", "below it"), (&long, "long"), ("/z/y", "another")]);
    for _ in 0..2 {
        let lines = stand.bring().await.unwrap();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("[postern] memory not kept path=/mnt/memory/notes/a/b because"), "{lines:?}");
        assert!(lines[1].contains("/nnnn"), "{lines:?}");
        assert_eq!((stand.here("a").as_deref(), stand.here("z/y").as_deref()), (Some("a file"), Some("another")));
    }
    assert_eq!(
        (stand.take().await, stand.written()),
        (Vec::new(), Vec::new()),
        "what is left out is not taken for removed"
    );
}

#[tokio::test]
async fn a_memory_takes_the_place_of_those_below_its_path_and_they_of_it() {
    let stand = Stand::new();
    for (path, memories) in
        [("a/b/c", [("/a/b/c", "deep")]), ("a", [("/a", "flat")]), ("a/d", [("/a/d", "deep again")])]
    {
        stand.has(&memories);
        assert_eq!(stand.bring().await.unwrap(), [""; 0]);
        assert_eq!(stand.here(path).as_deref(), Some(memories[0].1));
    }
}

#[tokio::test]
async fn what_the_session_puts_in_a_memorys_place_ends_nothing() {
    let stand = Stand::new();
    stand.has(&[("/a", "text"), ("/b/c", "text")]);
    stand.bring().await.unwrap();
    fs::remove_file(stand.at.join("a")).unwrap();
    fs::create_dir_all(stand.at.join("a/in/the/way")).unwrap();
    fs::remove_dir_all(stand.at.join("b")).unwrap();
    std::os::unix::fs::symlink("/etc", stand.at.join("b")).unwrap();
    fs::write(stand.at.join("kept"), "kept").unwrap();
    // The server has other texts by now, then none.
    stand.refuses(&[503; 10]);
    stand.has(&[("/a", "newer"), ("/b/c", "newer")]);
    assert!(stand.bring().await.is_ok());
    stand.has(&[]);
    assert!(stand.bring().await.is_ok());
}

#[tokio::test]
async fn a_change_that_cannot_be_sent_now_is_sent_later_and_one_that_is_refused_when_it_is_another() {
    let stand = Stand::new();
    stand.has(&[("/a", "text")]);
    stand.bring().await.unwrap();
    for refusals in [&[503; 4][..], &[429; 4], &[401], &[403]] {
        let text = format!("changed before {refusals:?}");
        fs::write(stand.at.join("b"), &text).unwrap();
        stand.refuses(refusals);
        let lines = stand.take().await;
        assert_eq!((lines.len(), stand.written().len()), (1, 0), "{lines:?}");
        assert_eq!((stand.take().await, stand.written()), (Vec::new(), vec![text]));
    }
    fs::write(stand.at.join("b"), "while the log takes nothing").unwrap();
    assert_eq!(stand.parcels.take_memories(stand.subject(), &mut Unrecorded).await.len(), 1);
    assert_eq!((stand.take().await, stand.written().len()), (Vec::new(), 1));

    fs::write(stand.at.join("b"), "refused for good").unwrap();
    stand.refuses(&[400]);
    assert_eq!(stand.take().await.len(), 1);
    assert_eq!((stand.take().await, stand.written().len()), (Vec::new(), 0));
    fs::write(stand.at.join("b"), "another text then").unwrap();
    assert_eq!((stand.take().await, stand.written().len()), (Vec::new(), 1));
}

#[tokio::test]
async fn what_becomes_of_a_change_of_an_earlier_turn_is_told_in_the_next() {
    let stand = Stand::new();
    stand.bring().await.unwrap();
    fs::write(stand.at.join("b"), "left unsent").unwrap();
    stand.refuses(&[400]);
    let lines = stand.bring().await.unwrap();
    assert!(lines.len() == 1 && lines[0].contains("path=/mnt/memory/notes/b because"), "{lines:?}");
}
