use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use postern_policy::CredentialName;

use super::*;

const VALUE: &str = "s3cret-Value-of-the-ledger";

fn credential(source: Source) -> Credential {
    Credential { name: CredentialName::new("ledger-api"), source, env: None, inject: Vec::new() }
}

fn sources(directory: &Path) -> Sources {
    let snapshot = [("GOOD", VALUE), ("WEAK", "hunter2")];
    let snapshot = snapshot.map(|(name, value)| (name.to_owned(), Secret::new(value.as_bytes().to_vec())));
    Sources { store: Store::open(directory).unwrap(), snapshot: snapshot.into() }
}

#[test]
fn each_source_delivers_its_secret_or_a_typed_reason_with_the_next_step() {
    let directory = tempfile::tempdir().unwrap();
    let sources = sources(directory.path());
    sources.store.set("good", VALUE.as_bytes().to_vec(), false).unwrap();
    sources.store.set("knowingly-weak", b"hunter2".to_vec(), true).unwrap();
    let with_mode = |name: &str, text: &[u8], mode: u32| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Source::File(path)
    };
    let file = |name: &str, text: &[u8]| with_mode(name, text, 0o600);
    let open = |name: &str, mode: u32| with_mode(name, VALUE.as_bytes(), mode);
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let store = |name: &str| Source::Store(name.to_owned());
    let env = |name: &str| Source::Env(name.to_owned());
    let long = vec![b'x'; LARGEST_FILE + 1];
    type Expected = Result<usize, (RefusalReason, &'static str)>;
    let table: Vec<(Source, Expected)> = vec![
        (store("good"), Ok(VALUE.len())),
        (store("knowingly-weak"), Ok(7)),
        (store("absent"), Err((RefusalReason::SourceMissing, "postern secrets set absent"))),
        (env("GOOD"), Ok(VALUE.len())),
        (env("ABSENT"), Err((RefusalReason::SourceMissing, "variable ABSENT"))),
        (env("WEAK"), Err((RefusalReason::SecretWeak, "postern secrets set ledger-api --danger-short"))),
        (file("good", format!("{VALUE}\r\n").as_bytes()), Ok(VALUE.len())),
        (open("of-the-group", 0o440), Ok(VALUE.len())),
        (open("of-everybody", 0o644), Err((RefusalReason::SourceExposed, "chmod 600"))),
        (open("changed-by-the-group", 0o660), Err((RefusalReason::SourceExposed, "has mode 0660"))),
        (file("two-lines", format!("{VALUE}\n\n").as_bytes()), Ok(VALUE.len() + 1)),
        (file("empty", b""), Err((RefusalReason::SecretWeak, "--danger-short"))),
        (file("long", &long), Err((RefusalReason::SourceUnreadable, "cannot be read"))),
        (Source::File(pipe), Err((RefusalReason::SourceUnreadable, "cannot be read"))),
        (Source::File(directory.path().to_owned()), Err((RefusalReason::SourceUnreadable, "cannot be read"))),
        (Source::File(PathBuf::from("/nonexistent")), Err((RefusalReason::SourceMissing, "/nonexistent"))),
    ];
    for (source, expected) in table {
        match (sources.resolve(&credential(source.clone())), expected) {
            (Ok(secret), Ok(length)) => assert_eq!(secret.len(), length, "{source}"),
            (Err(refusal), Err((reason, next))) => {
                assert_eq!(refusal.reason, reason, "{source}");
                assert!(refusal.next_step.contains(next), "{source}: {refusal}");
                assert_eq!(refusal.credential.as_deref(), Some("ledger-api"));
                assert!(!format!("{refusal:?}").contains("hunter2"));
            }
            (outcome, expected) => panic!("{source}: {outcome:?}, not {expected:?}"),
        }
    }
}
