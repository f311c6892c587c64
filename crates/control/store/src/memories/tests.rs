//! The tree of paths against a plain reading of the contract, and what versions and contents outlive.

use std::collections::BTreeSet;
use std::time::Duration;

use postern_model::Timestamp;
use postern_model::ids::{MemoryId, MemoryStoreId, WorkspaceId};
use postern_model::memory::{
    Actor, CreateMemory, MAX_STORE_BYTES, Memory, MemoryListItem, PathPrefix, UpdateMemory, View,
};
use proptest::prelude::*;

use super::listing::{self, Depth, MemoryQuery};
use super::versions::{self, VersionFilter};
use super::{Change, create, delete, required, update};
use crate::list::ListQuery;
use crate::{Store, StoreError, Tx, memory_stores};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Stand {
    store: Store,
    workspace: WorkspaceId,
    id: MemoryStoreId,
    by: Actor,
    _directory: tempfile::TempDir,
}

impl Stand {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("control.db")).await.unwrap();
        let workspace = WorkspaceId::default();
        let mut tx = store.write().await.unwrap();
        let body = serde_json::from_value(serde_json::json!({"name": "s"})).unwrap();
        let id = memory_stores::create(&mut tx, &workspace, body, Timestamp::UNIX_EPOCH).await.unwrap().id;
        tx.commit().await.unwrap();
        let by = Actor::UserActor { user_id: "u".into() };
        Self { store, workspace, id, by, _directory: directory }
    }

    /// A change on a day.
    fn on(&self, day: u32) -> Change<'_> {
        let now = Timestamp::UNIX_EPOCH.saturating_add(DAY * day).unwrap();
        Change { workspace: &self.workspace, store: &self.id, by: &self.by, now }
    }

    async fn create(&self, tx: &mut Tx, day: u32, path: &str, content: &str) -> Memory {
        let body = CreateMemory { path: path.into(), content: Some(content.into()) };
        create(tx, self.on(day), body).await.unwrap()
    }

    async fn write(&self, tx: &mut Tx, day: u32, id: &MemoryId, content: &str) -> Memory {
        let body: UpdateMemory = serde_json::from_value(serde_json::json!({"content": content})).unwrap();
        update(tx, self.on(day), id, body).await.unwrap()
    }

    async fn versions(&self, tx: &mut Tx) -> usize {
        let query = ListQuery { limit: 100, ..ListQuery::default() };
        versions::list(tx, &self.id, &query, &VersionFilter::default(), View::Full).await.unwrap().len()
    }
}

async fn contents(tx: &mut Tx) -> Vec<String> {
    let sql = "SELECT content FROM memory_contents ORDER BY content";
    sqlx::query_scalar(sql).fetch_all(&mut **tx).await.unwrap()
}

#[tokio::test]
async fn a_text_is_kept_once_and_as_long_as_a_version_has_it() {
    let stand = Stand::new().await;
    let mut tx = stand.store.write().await.unwrap();
    let (a, b) = (stand.create(&mut tx, 0, "/a", "same").await, stand.create(&mut tx, 0, "/b", "same").await);
    stand.write(&mut tx, 0, &a.id, "other").await;
    assert_eq!(contents(&mut tx).await, ["other", "same"]);
    versions::redact(&mut tx, stand.on(0), &a.memory_version_id).await.unwrap();
    assert_eq!(contents(&mut tx).await, ["other", "same"], "/b has it still");
    delete(&mut tx, stand.on(0), &b.id, None).await.unwrap();
    versions::redact(&mut tx, stand.on(0), &b.memory_version_id).await.unwrap();
    assert_eq!(contents(&mut tx).await, ["other"]);
    assert_eq!(required(&mut tx, &stand.id, &a.id, View::Full).await.unwrap().content.as_deref(), Some("other"));
}

#[tokio::test]
async fn versions_are_kept_for_thirty_days_and_the_newest_ten_for_ever() {
    let stand = Stand::new().await;
    let mut tx = stand.store.write().await.unwrap();
    let made = stand.create(&mut tx, 0, "/a", "0").await;
    for n in 1..=20 {
        stand.write(&mut tx, 0, &made.id, &n.to_string()).await;
    }
    stand.write(&mut tx, 30, &made.id, "in time").await;
    assert_eq!(stand.versions(&mut tx).await, 22);
    stand.write(&mut tx, 31, &made.id, "late").await;
    assert_eq!(stand.versions(&mut tx).await, 10);
    assert_eq!(contents(&mut tx).await.len(), 10);
}

#[tokio::test]
async fn what_is_left_of_a_deleted_memory_goes_after_thirty_days() {
    let stand = Stand::new().await;
    let mut tx = stand.store.write().await.unwrap();
    let (gone, stays) = (stand.create(&mut tx, 0, "/a", "gone").await, stand.create(&mut tx, 0, "/b", "stays").await);
    delete(&mut tx, stand.on(0), &gone.id, None).await.unwrap();
    stand.write(&mut tx, 30, &stays.id, "30").await;
    assert_eq!(stand.versions(&mut tx).await, 4);
    stand.write(&mut tx, 31, &stays.id, "31").await;
    assert_eq!(
        (stand.versions(&mut tx).await, contents(&mut tx).await),
        (3, vec!["30".into(), "31".into(), "stays".into()])
    );
}

#[tokio::test]
async fn a_store_holds_two_thousand_memories() {
    let stand = Stand::new().await;
    let mut tx = stand.store.write().await.unwrap();
    for n in 0..2000 {
        stand.create(&mut tx, 0, &format!("/{n}"), "x").await;
    }
    let body = CreateMemory { path: "/more".into(), content: Some("x".into()) };
    let refused = create(&mut tx, stand.on(0), body).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(problem) if problem.error_code == Some("memory_store_full")));
}

/// What the store is said to keep, and what it does.
async fn kept(tx: &mut Tx) -> (i64, i64) {
    let counted = sqlx::query_scalar("SELECT kept_bytes FROM memory_stores").fetch_one(&mut **tx).await.unwrap();
    let sql = "SELECT (SELECT COALESCE(SUM(LENGTH(CAST(content AS BLOB))), 0) FROM memory_contents) + \
               1024 * (SELECT COUNT(*) FROM memory_versions)";
    (counted, sqlx::query_scalar(sql).fetch_one(&mut **tx).await.unwrap())
}

#[tokio::test]
async fn a_store_keeps_versions_up_to_a_bound_and_what_is_redacted_makes_room() {
    let stand = Stand::new().await;
    let mut tx = stand.store.write().await.unwrap();
    let first = stand.create(&mut tx, 0, "/a", &"ä".repeat(1000)).await;
    for day in 0..12 {
        stand.write(&mut tx, day, &first.id, &format!("{day}{}", "x".repeat(500))).await;
    }
    let b = stand.create(&mut tx, 11, "/b", "gone").await;
    delete(&mut tx, stand.on(11), &b.id, None).await.unwrap();
    let (counted, real) = kept(&mut tx).await;
    assert_eq!(counted, real);
    assert_eq!(counted, 2000 + 2 * 502 + 10 * 501 + 4 + 15 * 1024);
    stand.write(&mut tx, 60, &first.id, "short").await;
    let (counted, real) = kept(&mut tx).await;
    assert_eq!((counted, counted), (real, 2 * 502 + 7 * 501 + 5 + 10 * 1024), "what is forgotten counts no more");
    tx.commit().await.unwrap();

    // As if there were so much more of it, and none of it old.
    let full = async |free: i64| {
        let mut tx = stand.store.write().await.unwrap();
        let most = i64::try_from(MAX_STORE_BYTES).unwrap();
        sqlx::query("UPDATE memory_stores SET kept_bytes = ?1").bind(most - free).execute(&mut *tx).await.unwrap();
        tx
    };
    let long = "y".repeat(1000);
    let body = |content: &str| serde_json::from_value(serde_json::json!({"content": content})).unwrap();
    let mut tx = full(2024).await;
    stand.write(&mut tx, 20, &first.id, &long).await;
    drop(tx);
    for what in ["a change", "a memory"] {
        let mut tx = full(2023).await;
        let refused = match what {
            "a change" => update(&mut tx, stand.on(20), &first.id, body(&long)).await.unwrap_err(),
            _ => {
                let new = CreateMemory { path: "/c".into(), content: Some(long.clone()) };
                create(&mut tx, stand.on(20), new).await.unwrap_err()
            }
        };
        assert!(
            matches!(&refused, StoreError::Refused(problem) if problem.error_code == Some("memory_store_full")),
            "{what}: {refused}"
        );
    }
    let mut tx = full(2023).await;
    let query = ListQuery { limit: 100, ..ListQuery::default() };
    let listed = versions::list(&mut tx, &stand.id, &query, &VersionFilter::default(), View::Basic).await.unwrap();
    versions::redact(&mut tx, stand.on(20), &listed.last().unwrap().id).await.unwrap();
    stand.write(&mut tx, 20, &first.id, &long).await;
    drop(tx);
    let mut tx = full(0).await;
    delete(&mut tx, stand.on(20), &first.id, None).await.unwrap();
}

#[tokio::test]
async fn nothing_is_left_of_a_deleted_store() {
    let stand = Stand::new().await;
    let mut tx = stand.store.write().await.unwrap();
    let made = stand.create(&mut tx, 0, "/a", "1").await;
    stand.write(&mut tx, 0, &made.id, "2").await;
    memory_stores::delete(&mut tx, &stand.workspace, &stand.id, Timestamp::now()).await.unwrap();
    for table in ["memory_stores", "memories", "memory_versions", "memory_contents"] {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        let left: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *tx).await.unwrap();
        assert_eq!(left, 0, "{table}");
    }
}

/// Names that sort round `/`: what comes before it, after it, and beyond ASCII.
fn path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "a-", "a0", "b", " ", "\u{e9}", "a.b"]);
    prop::collection::vec(segment, 1..=4).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// What the contract says the whole list is, one item after the other.
fn reference(paths: &BTreeSet<String>, prefix: &str, depth: Depth) -> Vec<String> {
    let below = paths.iter().filter(|path| path.starts_with(prefix));
    let shown = below.map(|path| match (depth, path[prefix.len()..].find('/')) {
        (Depth::All, _) | (Depth::Children, None) => path.clone(),
        (Depth::Children, Some(slash)) => path[..prefix.len() + slash + 1].to_owned(),
    });
    shown.collect::<BTreeSet<String>>().into_iter().collect()
}

async fn pages(stand: &Stand, prefix: &PathPrefix, depth: Depth, limit: u32) -> Vec<String> {
    let mut reader = stand.store.read().await.unwrap();
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let query = MemoryQuery { prefix: prefix.clone(), depth, after, limit, view: View::Full };
        let items = listing::list(&mut reader, &stand.id, &query).await.unwrap();
        let more = items.len() > limit as usize;
        assert!(items.len() <= limit as usize + 1);
        for item in items.iter().take(limit as usize) {
            if let MemoryListItem::Memory(memory) = item {
                assert_eq!(memory.content.as_deref(), Some(memory.path.as_str()));
            }
            assert!(
                all.last().is_none_or(|last: &String| last.as_str() < item.path()),
                "pages go on: {all:?}, {}",
                item.path()
            );
            all.push(item.path().to_owned());
        }
        match more {
            true => after = all.last().cloned(),
            false => return all,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_pages_of_any_tree_are_what_the_contract_says(
        paths in prop::collection::btree_set(path(), 0..30),
        prefix in prop_oneof![Just("/".to_owned()), path().prop_map(|path| path + "/")],
        children in any::<bool>(),
        limit in 1..6_u32,
    ) {
        let depth = if children { Depth::Children } else { Depth::All };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listed = runtime.block_on(async {
            let stand = Stand::new().await;
            let mut tx = stand.store.write().await.unwrap();
            for path in &paths {
                stand.create(&mut tx, 0, path, path).await;
            }
            tx.commit().await.unwrap();
            pages(&stand, &PathPrefix::parse(&prefix).unwrap(), depth, limit).await
        });
        prop_assert_eq!(listed, reference(&paths, &prefix, depth));
    }
}
