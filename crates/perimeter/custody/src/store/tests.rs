use std::os::unix::fs::PermissionsExt;

use super::*;

const VALUE: &[u8] = b"s3cret-Value-of-the-ledger";
const OTHER: &[u8] = b"Another-s3cret-0f-the-wiki";

fn opened() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("custody")).unwrap();
    (directory, store)
}

#[expect(clippy::disallowed_methods, reason = "the test compares what was stored")]
fn value(store: &Store, name: &str) -> Option<Vec<u8>> {
    store.read(name).unwrap().map(|(secret, _)| secret.expose().clone())
}

fn edit(store: &Store, change: impl FnOnce(&mut serde_json::Value)) {
    let mut contents = serde_json::from_slice(&std::fs::read(store.file()).unwrap()).unwrap();
    change(&mut contents);
    std::fs::write(store.file(), serde_json::to_vec(&contents).unwrap()).unwrap();
}

#[test]
fn what_is_set_is_found_again_by_another_opening_and_not_in_the_file() {
    let (_directory, store) = opened();
    assert_eq!(store.set("ledger", VALUE.to_vec(), false).unwrap(), 1);
    assert_eq!(store.set("wiki", OTHER.to_vec(), false).unwrap(), 2);
    let again = Store::open(&store.directory).unwrap();
    assert_eq!((value(&again, "ledger").unwrap(), value(&again, "wiki").unwrap()), (VALUE.to_vec(), OTHER.to_vec()));
    assert_eq!(value(&again, "absent"), None);
    let file = std::fs::read(store.file()).unwrap();
    assert!(!file.windows(8).any(|window| VALUE.windows(8).any(|part| part == window)));
}

#[test]
fn files_are_their_owners_alone() {
    let (_directory, store) = opened();
    store.set("ledger", VALUE.to_vec(), false).unwrap();
    assert_eq!(std::fs::metadata(&store.directory).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&store.directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn setting_and_removing_grow_the_generation_and_listing_opens_nothing() {
    let (_directory, store) = opened();
    store.set("b", VALUE.to_vec(), false).unwrap();
    store.set("a", b"short".to_vec(), true).unwrap();
    assert_eq!(store.set("b", OTHER.to_vec(), false).unwrap(), 3);
    let listed: Vec<_> =
        store.list().unwrap().into_iter().map(|row| (row.name, row.generation, row.danger_short)).collect();
    assert_eq!(listed, [("a".to_owned(), 2, true), ("b".to_owned(), 3, false)]);
    assert_eq!((store.remove("a").unwrap(), store.remove("a").unwrap()), (Removed::Gone, Removed::Absent));
    assert_eq!(store.generation().unwrap(), 4);
}

#[test]
fn weak_values_and_odd_names_change_nothing() {
    let (_directory, store) = opened();
    assert!(matches!(store.set("ledger", b"short".to_vec(), false), Err(StoreError::Weak(_))));
    for name in ["", "a b", "../x", "é", &"x".repeat(129)] {
        assert!(matches!(store.set(name, VALUE.to_vec(), false), Err(StoreError::Name { .. })), "{name}");
    }
    assert_eq!(store.generation().unwrap(), 0);
}

#[test]
fn a_row_that_was_swapped_or_edited_in_any_part_does_not_open() {
    type Edit = fn(&mut serde_json::Value);
    let table: [(&str, Edit); 6] = [
        ("rows swapped", |c| {
            let ledger = c["rows"]["ledger"].take();
            c["rows"]["ledger"] = std::mem::replace(&mut c["rows"]["wiki"], ledger);
        }),
        ("ciphertext swapped", |c| c["rows"]["ledger"]["sealed"] = c["rows"]["wiki"]["sealed"].clone()),
        ("seal and nonce swapped", |c| {
            c["rows"]["ledger"]["sealed"] = c["rows"]["wiki"]["sealed"].clone();
            c["rows"]["ledger"]["nonce"] = c["rows"]["wiki"]["nonce"].clone();
        }),
        ("generation edited", |c| c["rows"]["ledger"]["generation"] = 2.into()),
        ("admission edited", |c| c["rows"]["ledger"]["danger_short"] = true.into()),
        ("nonce not base64", |c| c["rows"]["ledger"]["nonce"] = "***".into()),
    ];
    for (what, change) in table {
        let (_directory, store) = opened();
        store.set("ledger", VALUE.to_vec(), false).unwrap();
        store.set("wiki", OTHER.to_vec(), false).unwrap();
        edit(&store, change);
        let error = store.read("ledger").err().unwrap_or_else(|| panic!("{what}"));
        assert!(matches!(error, StoreError::RowChanged { .. }), "{what}: {error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
}

#[test]
fn a_missing_exposed_or_broken_key_is_refused_and_never_replaced() {
    let (_directory, store) = opened();
    store.set("ledger", VALUE.to_vec(), false).unwrap();
    let key = store.directory.join("master.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Store::open(&store.directory), Err(StoreError::Key(KeyError::Exposed { .. }))));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, b"too short").unwrap();
    assert!(matches!(store.read("ledger"), Err(StoreError::Key(KeyError::Broken { .. }))));
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(Store::open(&store.directory), Err(StoreError::KeyMissing { .. })));
    assert!(!key.exists());
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let (_directory, store) = opened();
    for text in
        ["", "{}", "{\"format\":2,\"generation\":0,\"rows\":{}}", "{\"format\":1,\"generation\":0,\"rows\":{},\"x\":1}"]
    {
        std::fs::write(store.file(), text).unwrap();
        assert!(matches!(store.list(), Err(StoreError::Unreadable { .. })), "{text}");
    }
}

#[test]
fn writers_at_once_lose_nothing() {
    let (_directory, store) = opened();
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let store = store.clone();
            std::thread::spawn(move || store.set(&format!("secret-{n}"), VALUE.to_vec(), false).unwrap())
        })
        .collect();
    threads.into_iter().for_each(|thread| assert!(thread.join().unwrap() > 0));
    assert_eq!((store.list().unwrap().len(), store.generation().unwrap()), (8, 8));
}

#[test]
fn the_perimeters_public_key_stays_the_same() {
    let (_directory, store) = opened();
    let first = store.perimeter_public_key().unwrap();
    assert_eq!(Store::open(&store.directory).unwrap().perimeter_public_key().unwrap(), first);
    assert_eq!(first.to_string().len(), 64);
}

#[test]
fn a_perimeters_key_that_is_gone_is_not_made_anew_where_something_may_be_sealed_to_it() {
    let (_directory, store) = opened();
    let [key, public, renewed] =
        ["perimeter.key", "perimeter.pub", "renewed.json"].map(|name| store.directory.join(name));
    let seed = std::fs::read(&key).unwrap();
    let first = store.perimeter_public_key().unwrap();
    assert_eq!(std::fs::read_to_string(&public).unwrap().trim(), first.to_string());
    for traces in [&public, &renewed] {
        std::fs::write(traces, "[]").unwrap();
        std::fs::remove_file(&key).unwrap();
        let refused = Store::open(&store.directory).unwrap_err();
        assert!(
            matches!(&refused, StoreError::Key(KeyError::Missing { traces: said, .. }) if said == traces),
            "{refused}"
        );
        assert!(!key.exists());
        // A directory of an earlier build, whose key is there: it is told from then on.
        drop(std::fs::remove_file(&public));
        std::fs::write(&key, &seed).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(store.perimeter_public_key().unwrap(), first);
        std::fs::remove_file(&public).unwrap();
    }
    for gone in [&key, &renewed] {
        std::fs::remove_file(gone).unwrap();
    }
    Store::open(&store.directory).unwrap();
    assert_ne!(store.perimeter_public_key().unwrap(), first, "where nothing says that there was one, one is made");
}

#[test]
fn another_process_that_changes_or_removes_a_secret_is_believed_at_once() {
    let (_directory, store) = opened();
    let elsewhere = Store::open(&store.directory).unwrap();
    elsewhere.set("ledger", VALUE.to_vec(), false).unwrap();
    for _ in 0..50 {
        assert_eq!(value(&store, "ledger").unwrap(), VALUE);
        elsewhere.set("ledger", OTHER.to_vec(), false).unwrap();
        assert_eq!(value(&store, "ledger").unwrap(), OTHER);
        // Of the same size and under the number of a file that is gone.
        elsewhere.set("ledger", OTHER.to_vec(), false).unwrap();
        elsewhere.set("ledger", VALUE.to_vec(), false).unwrap();
        assert_eq!(value(&store, "ledger").unwrap(), VALUE);
    }
    elsewhere.remove("ledger").unwrap();
    assert_eq!(value(&store, "ledger"), None);
    elsewhere.set("ledger", VALUE.to_vec(), false).unwrap();
    assert_eq!(value(&store, "ledger").unwrap(), VALUE);
    std::fs::remove_file(store.file()).unwrap();
    assert_eq!(value(&store, "ledger"), None);
}

#[test]
fn a_row_that_is_edited_after_it_was_read_does_not_open() {
    let (_directory, store) = opened();
    store.set("ledger", VALUE.to_vec(), false).unwrap();
    assert!(value(&store, "ledger").is_some());
    edit(&store, |contents| contents["rows"]["ledger"]["generation"] = 77.into());
    assert!(matches!(store.read("ledger"), Err(StoreError::RowChanged { .. })));
}
