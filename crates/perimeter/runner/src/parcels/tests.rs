use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::hands::{Outcome, ToolCall};
use crate::place::Places;
use crate::remote::{Bearer, Remote};
use crate::stand_in::{remote_of, saying, server};

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
fn files_of_which_one_lies_where_the_other_does_are_refused_and_both_are_named() {
    for (one, other) in [("data", "data/x"), ("data/x/y", "data"), ("data", "data")] {
        let resources = [one, other].map(|path| file(&format!("/mnt/session/uploads/{path}")));
        let refused = wanted(&json!({"resources": resources})).unwrap_err();
        assert_eq!(refused.code, "resource_unsupported");
        for path in [one, other] {
            let named = format!("/mnt/session/uploads/{path} ");
            assert!(refused.message.replace('.', " ").contains(&named), "{path}: {}", refused.message);
        }
    }
    let apart = ["data/x", "data/xy", "data-x"].map(|path| file(&format!("/mnt/session/uploads/{path}")));
    assert_eq!(wanted(&json!({"resources": apart})).unwrap().files.len(), 3);
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
    let (remote, key) = (remote_of(server.local_addr().unwrap()), Bearer::new("key".into()));
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let lines = parcels.take(subject, &mut Unrecorded).await;
    assert_eq!(lines, ["[postern] output not kept path=report.txt because the log takes no records"]);
    let asked = tokio::time::timeout(Duration::ZERO, server.accept()).await;
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

/// A server of one skill, `pdf`, with this archive; how often it is asked.
fn skill_server(archive: Vec<u8>) -> (Remote, Arc<AtomicUsize>) {
    server(move |path| match path {
        "/v1/skills/skill_1/versions/skillver_1" => ("200 OK", br#"{"id":"skillver_1","name":"pdf"}"#.to_vec()),
        "/v1/skills/skill_1/versions/skillver_1/content" => ("200 OK", archive.clone()),
        _ => ("404 Not Found", br#"{"error":{"message":"it is gone"}}"#.to_vec()),
    })
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
        let before = asked.load(Ordering::SeqCst);
        assert_eq!(parcels.bring(subject, &session, &mut Unrecorded).await.unwrap(), [""; 0]);
        assert_eq!(asked.load(Ordering::SeqCst), before);
        parcels.bring(subject, &of_skills(&[]), &mut hands).await.unwrap();
        assert!(!at.exists(), "it goes with the agent that had it");
    }
}

#[tokio::test]
async fn a_skill_that_has_another_name_by_now_lies_there_once() {
    let directory = tempfile::tempdir().unwrap();
    let place = Places::new(directory.path()).of("sesn_1").unwrap();
    let parcels = Parcels::new(place.clone(), None, true, Server::Ours).unwrap();
    let archive = archive(&[("x/SKILL.md", "read me")]);
    let (remote, _) = server(move |path| match path {
        "/v1/skills/skill_1/versions/1" => ("200 OK", br#"{"id":"skillver_1","name":"pdf"}"#.to_vec()),
        "/v1/skills/skill_1/versions/2" => ("200 OK", br#"{"id":"skillver_2","name":"paper"}"#.to_vec()),
        _ => ("200 OK", archive.clone()),
    });
    let key = Bearer::new("key".into());
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let skills = place.given.join("skills");
    for (version, name) in [("1", "pdf"), ("2", "paper"), ("1", "pdf")] {
        let mut hands = Noting { at: skills.join(name), passed: Vec::new() };
        parcels.bring(subject, &of_skills(&[("skill_1", version)]), &mut hands).await.unwrap();
        let there: Vec<_> = fs::read_dir(&skills).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(there, [name]);
    }
    // Shown, and its worker was killed before it could note it.
    fs::create_dir(skills.join("paper")).unwrap();
    parcels.bring(subject, &of_skills(&[("skill_1", "1")]), &mut Unrecorded).await.unwrap();
    assert!(skills.join("pdf/SKILL.md").exists() && !skills.join("paper").exists());
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
async fn all_files_of_a_session_have_eight_gibibytes_on_the_workers_disk() {
    let session = json!({"resources": [file("/mnt/session/uploads/large"), file("/mnt/session/uploads/small")]});
    for (bytes, fits) in [(4, true), (5, false)] {
        let directory = tempfile::tempdir().unwrap();
        let place = Places::new(directory.path()).of("sesn_1").unwrap();
        let parcels = Parcels::new(place.clone(), None, true, Server::Ours).unwrap();
        let uploads = place.given.join("uploads");
        // Takes no room on the disk itself.
        fs::File::create(uploads.join("large")).unwrap().set_len((8 << 30) - 4).unwrap();
        write(&place.manifest, &Manifest::from([("large".to_owned(), "file_1".to_owned())])).unwrap();
        let ((remote, _), key) = (server(move |_| ("200 OK", vec![b'x'; bytes])), Bearer::new("key".into()));
        let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
        let mut hands = Noting { at: uploads.join("small"), passed: Vec::new() };
        let brought = parcels.bring(subject, &session, &mut hands).await;
        assert_eq!((brought.is_ok(), uploads.join("small").exists()), (fits, fits), "{bytes}");
        if let Err(refused) = brought {
            assert_eq!(refused.code, "resource_unavailable");
            assert!(refused.message.contains("file too large"), "{}", refused.message);
        }
    }
}

#[tokio::test]
async fn a_file_is_asked_for_and_sent_four_times_and_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let place = Places::new(directory.path()).of("sesn_1").unwrap();
    let parcels = Parcels::new(place.clone(), None, true, Server::Ours).unwrap();
    let ((remote, asked), key) = (server(|_| ("503 Service Unavailable", Vec::new())), Bearer::new("key".into()));
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let mut hands = Noting { at: place.given.join("uploads/a"), passed: Vec::new() };
    let session = json!({"resources": [file("/mnt/session/uploads/a")]});
    let given_up = async {
        let refused = parcels.bring(subject, &session, &mut hands).await.unwrap_err();
        assert_eq!((refused.code.as_str(), asked.load(Ordering::SeqCst)), ("resource_unavailable", 4));
        fs::create_dir(&place.outputs).unwrap();
        fs::write(place.outputs.join("report.txt"), "text").unwrap();
        let lines = parcels.take(subject, &mut hands).await;
        assert!(lines[0].starts_with("[postern] output not kept path=report.txt because"), "{lines:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 8);
    };
    tokio::time::timeout(Duration::from_secs(20), given_up).await.expect("it is not tried for ever");
}

/// Hands in whose sandbox no repository can be cloned; how often it was tried.
struct Cloneless(usize);

impl Hands for Cloneless {
    async fn run(&mut self, _call: &ToolCall, _ready: impl Future<Output = Result<(), Outcome>> + Send) -> Outcome {
        self.0 += 1;
        Outcome::failed("[postern] clone: 10")
    }

    async fn passes(&mut self, _passage: Passage) -> Result<(), String> {
        Ok(())
    }

    async fn close(self) {}
}

#[tokio::test]
async fn a_repository_that_failed_is_tried_again_once_whenever_the_session_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let place = Places::new(directory.path()).of("sesn_1").unwrap();
    let parcels = Parcels::new(place, None, true, Server::Ours).unwrap();
    let ((remote, told), key) = (server(|_| ("200 OK", Vec::new())), Bearer::new("key".into()));
    let subject = Subject { remote: &remote, key: &key, session: "sesn_1" };
    let session = json!({"resources": [{
        "type": "github_repository", "id": "sesrsc_1", "url": "https://git.example/x", "mount_path": "/workspace/x",
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    }]});
    let mut hands = Cloneless(0);
    for read in 1..=2 {
        parcels.bring(subject, &session, &mut hands).await.unwrap();
        let before_the_first = parcels.clone_repositories(subject, &mut hands).await;
        let before_the_second = parcels.clone_repositories(subject, &mut hands).await;
        assert_eq!((before_the_first.len(), before_the_second.len()), (1, 0));
        assert_eq!((hands.0, told.load(Ordering::SeqCst)), (read, read));
    }
}

#[tokio::test]
async fn a_file_takes_the_place_of_a_directory_in_which_others_lay() {
    let directory = tempfile::tempdir().unwrap();
    let place = Places::new(directory.path()).of("sesn_1").unwrap();
    let parcels = Parcels::new(place.clone(), None, true, Server::Ours).unwrap();
    let remote = saying(|_, _| (200, b"text".to_vec()));
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
