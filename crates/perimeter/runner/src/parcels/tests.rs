use postern_net::{HttpClient, TlsRoots};
use serde_json::json;

use super::*;
use crate::hands::{Outcome, ToolCall};
use crate::place::Places;
use crate::remote::{Bearer, Remote};

fn file(path: &str) -> Value {
    json!({
        "type": "file", "id": "sesrsc_1", "file_id": "file_1", "mount_path": path,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    })
}

pub(super) fn store(mount_path: &str) -> Value {
    json!({
        "type": "memory_store", "memory_store_id": "memstore_1", "access": "read_write", "name": "n", "mount_path": mount_path,
    })
}

#[test]
fn files_are_wanted_by_where_they_go_and_anything_else_is_not_passed_over() {
    let session = |resources: Value| json!({"resources": resources});
    assert!(wanted(&json!({})).unwrap().files.is_empty());
    let two = wanted(&session(json!([file("/mnt/session/uploads/a"), file("/mnt/session/uploads/b/c")]))).unwrap();
    assert_eq!(
        two.files.into_iter().collect::<Vec<_>>(),
        [("a".to_owned(), "file_1".to_owned()), ("b/c".to_owned(), "file_1".to_owned())]
    );
    assert_eq!(wanted(&session(json!([store("/mnt/memory/team-notes")]))).unwrap().stores.len(), 1);
    for resource in [
        file("/mnt/session/uploads/../../../etc/cron.d/x"),
        file("/workspace/x"),
        store("/mnt/memory/../session/uploads"),
        store("/mnt/memory/"),
        store("/mnt/memory/a/b"),
        json!({"type": "something_newer"}),
        json!(7),
    ] {
        assert_eq!(wanted(&session(json!([resource]))).unwrap_err().code, "resource_unsupported", "{resource}");
    }
}

#[test]
fn a_server_whose_files_cannot_be_fetched_may_give_none() {
    assert!(nothing_given(&json!({"resources": []})).is_ok());
    assert_eq!(
        nothing_given(&json!({"resources": [file("/mnt/session/uploads/a")]})).unwrap_err().code,
        "resource_unsupported"
    );
}

#[test]
fn what_was_given_is_readable_by_the_sandboxs_user_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    let given = directory.path().join("given");
    make_readable(&given).unwrap();
    make_readable_below(&given, &given.join("uploads/a/b")).unwrap();
    for path in ["", "uploads", "uploads/a", "uploads/a/b"] {
        let mode = fs::metadata(given.join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{path}");
    }
}

/// Hands whose log takes nothing.
pub(super) struct Unrecorded;

impl Hands for Unrecorded {
    async fn run(&mut self, _call: &ToolCall, _ready: impl Future<Output = Result<(), Outcome>> + Send) -> Outcome {
        Outcome::failed("not asked for")
    }

    async fn passes(&mut self, _passage: Passage) -> Result<(), String> {
        Err("the log takes no records".to_owned())
    }

    async fn close(self) {}
}

#[tokio::test]
async fn nothing_passes_that_is_not_on_record() {
    let directory = tempfile::tempdir().unwrap();
    let place = Places::new(directory.path()).of("sesn_1").unwrap();
    let parcels = Parcels::new(place.clone(), None, true, Server::Ours).unwrap();
    fs::create_dir(&place.outputs).unwrap();
    fs::write(place.outputs.join("report.txt"), "text").unwrap();
    // A server that would take it: whoever asks it is found out.
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", server.local_addr().unwrap()).parse().unwrap();
    let http = HttpClient::new(postern_policy::permit::configured(&endpoint), &TlsRoots::Platform).unwrap();
    let (remote, key) = (Remote::new(http, "env_1", "worker"), Bearer::new("key".into()));
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let lines = parcels.take(subject, &mut Unrecorded).await;
    assert_eq!(lines, ["[postern] output not kept path=report.txt because the log takes no records"]);
    let asked = tokio::time::timeout(std::time::Duration::ZERO, server.accept()).await;
    assert!(asked.is_err(), "the server was asked");
    assert!(!place.sent.exists(), "it is tried again");
}

/// Hands that note what passes, and whether its place was there already.
pub(super) struct Noting {
    pub(super) at: std::path::PathBuf,
    pub(super) passed: Vec<Passage>,
}

impl Hands for Noting {
    async fn run(&mut self, _call: &ToolCall, _ready: impl Future<Output = Result<(), Outcome>> + Send) -> Outcome {
        Outcome::failed("not asked for")
    }

    async fn passes(&mut self, passage: Passage) -> Result<(), String> {
        assert!(!self.at.exists(), "it was shown before it was on record");
        self.passed.push(passage);
        Ok(())
    }

    async fn close(self) {}
}

/// A server that answers method and path, and what was sent, with a status and a text.
pub(crate) fn server(mut answer: impl FnMut(&str, &[u8]) -> (u16, Vec<u8>) + Send + 'static) -> Remote {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let head: Vec<String> =
                reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            let Some(first) = head.first() else { continue };
            let length =
                head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut sent = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut sent).unwrap();
            let (status, body) = answer(first.strip_suffix(" HTTP/1.1").unwrap(), &sent);
            write!(
                stream,
                "HTTP/1.1 {status} Said\r\nconnection: close\r\nretry-after: 0\r\ncontent-length: {}\r\n\r\n",
                body.len()
            )
            .unwrap();
            stream.write_all(&body).unwrap();
        }
    });
    let http = HttpClient::new(postern_policy::permit::configured(&endpoint), &TlsRoots::Platform).unwrap();
    Remote::new(http, "env_1", "worker")
}

/// A server of one skill, `pdf`, with this archive; how often it is asked.
fn skill_server(archive: Vec<u8>) -> (Remote, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let asked = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let count = std::sync::Arc::clone(&asked);
    let remote = server(move |asked, _| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        match asked {
            "GET /v1/skills/skill_1/versions/skillver_1" => (200, br#"{"id":"skillver_1","name":"pdf"}"#.to_vec()),
            "GET /v1/skills/skill_1/versions/skillver_1/content" => (200, archive.clone()),
            _ => (404, br#"{"error":{"message":"it is gone"}}"#.to_vec()),
        }
    });
    (remote, asked)
}

fn archive(members: &[(&str, &str)]) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, text) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::DEFAULT).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn of_skills(versions: &[(&str, &str)]) -> Value {
    let skill = |(id, version): &(&str, &str)| json!({"type": "custom", "skill_id": id, "version": version});
    json!({"agent": {"skills": versions.iter().map(skill).collect::<Vec<_>>()}})
}

#[tokio::test]
async fn a_skill_is_on_record_before_it_is_shown_and_goes_with_its_agent() {
    let directory = tempfile::tempdir().unwrap();
    let place = Places::new(directory.path()).of("sesn_1").unwrap();
    let (remote, asked) = skill_server(archive(&[("pdf/SKILL.md", "read me")]));
    let key = Bearer::new("key".into());
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let session = of_skills(&[("skill_1", "skillver_1")]);
    let at = place.given.join("skills/pdf");
    for server in [Server::Ours, Server::Another] {
        let parcels = Parcels::new(place.clone(), None, true, server).unwrap();
        let refused = parcels.bring(subject, &session, &mut Unrecorded).await.unwrap_err();
        assert_eq!((refused.code.as_str(), at.exists()), ("audit_unavailable", false));

        let mut hands = Noting { at: at.clone(), passed: Vec::new() };
        assert_eq!(parcels.bring(subject, &session, &mut hands).await.unwrap(), [""; 0]);
        assert_eq!(fs::read(at.join("SKILL.md")).unwrap(), b"read me");
        let Passage { way, path, .. } = hands.passed.pop().unwrap();
        assert_eq!((way, path.as_str(), hands.passed.len()), (Way::In, "/mnt/session/skills/pdf", 0));
        // What is there is not asked for again.
        let before = asked.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(parcels.bring(subject, &session, &mut Unrecorded).await.unwrap(), [""; 0]);
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), before);
        parcels.bring(subject, &of_skills(&[]), &mut hands).await.unwrap();
        assert!(!at.exists(), "it goes with the agent that had it");
    }
}

#[tokio::test]
async fn a_skill_that_cannot_be_had_is_named_and_the_others_are_there() {
    let directory = tempfile::tempdir().unwrap();
    let place = Places::new(directory.path()).of("sesn_1").unwrap();
    let key = Bearer::new("key".into());
    let session = of_skills(&[("skill_2", "skillver_2"), ("skill_1", "skillver_1")]);
    for (members, expected) in [
        (
            &[("pdf/SKILL.md", "read me")][..],
            &["skill=skill_2 because read a skill: the server answered 404: it is gone;"][..],
        ),
        (
            &[("pdf/x", "no instructions")],
            &["skill=skill_2 because", "skill=skill_1 because its archive has no SKILL.md"],
        ),
    ] {
        let (remote, _) = skill_server(archive(members));
        let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
        let parcels = Parcels::new(place.clone(), None, true, Server::Ours).unwrap();
        let mut hands = Noting { at: place.given.join("skills/pdf"), passed: Vec::new() };
        let lines = parcels.bring(subject, &session, &mut hands).await.unwrap();
        assert_eq!(lines.len(), expected.len(), "{lines:?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.contains(expected), "{expected}: {line}");
        }
        let is_there = place.given.join("skills/pdf/SKILL.md").exists();
        assert_eq!((is_there, hands.passed.len()), (expected.len() == 1, usize::from(expected.len() == 1)));
        parcels.bring(subject, &of_skills(&[]), &mut hands).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_takes_the_place_of_a_directory_in_which_others_lay() {
    let directory = tempfile::tempdir().unwrap();
    let place = Places::new(directory.path()).of("sesn_1").unwrap();
    let parcels = Parcels::new(place.clone(), None, true, Server::Ours).unwrap();
    let remote = server(|_, _| (200, b"text".to_vec()));
    let key = Bearer::new("key".into());
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let uploads = place.given.join("uploads");
    for (before, path) in [("none", "data/x/y/z"), ("data/x/y/z", "data"), ("data", "data/z")] {
        let mut hands = Noting { at: uploads.join("none"), passed: Vec::new() };
        let session = json!({"resources": [file(&format!("/mnt/session/uploads/{path}"))]});
        assert_eq!(parcels.bring(subject, &session, &mut hands).await.unwrap(), [""; 0], "{path}");
        assert_eq!((fs::read(uploads.join(path)).unwrap(), uploads.join(before).is_file()), (b"text".to_vec(), false));
    }
    // An earlier build left directories.
    fs::create_dir(uploads.join("left")).unwrap();
    let session = json!({"resources": [file("/mnt/session/uploads/left")]});
    let mut hands = Noting { at: uploads.join("none"), passed: Vec::new() };
    parcels.bring(subject, &session, &mut hands).await.unwrap();
    assert!(uploads.join("left").is_file());
}
