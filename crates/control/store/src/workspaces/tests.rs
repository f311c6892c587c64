use std::collections::BTreeSet;

use crate::Store;

use super::*;

async fn store() -> (Store, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Store::open(&directory.path().join("db")).await.unwrap(), directory)
}

#[tokio::test]
async fn whatever_belongs_to_a_workspace_is_erased_with_it() {
    let (store, _directory) = store().await;
    let mut reader = store.read().await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'workspace_id'",
    )
    .fetch_all(&mut *reader)
    .await
    .unwrap();
    let erased: BTreeSet<&str> = ERASED.iter().copied().chain(["blobs"]).collect();
    assert_eq!(tables.iter().map(String::as_str).collect::<BTreeSet<_>>(), erased, "a table was forgotten");
    // Whatever has no such column goes with what it refers to.
    let others: Vec<String> = sqlx::query_scalar(
        "SELECT m.name FROM sqlite_master m WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' \
         AND m.name NOT IN ('workspaces', '_sqlx_migrations', 'blob_chunks', 'event_keys', 'lease_clock') \
         AND NOT EXISTS (SELECT 1 FROM pragma_table_info(m.name) c WHERE c.name = 'workspace_id') \
         AND NOT EXISTS (SELECT 1 FROM pragma_foreign_key_list(m.name) f WHERE f.on_delete = 'CASCADE')",
    )
    .fetch_all(&mut *reader)
    .await
    .unwrap();
    assert!(others.is_empty(), "belongs to nobody: {others:?}");
}

#[tokio::test]
async fn an_erased_workspace_is_gone_and_the_others_stay() {
    let (store, _directory) = store().await;
    let now = Timestamp::now();
    let body = |name: &str| serde_json::from_value(serde_json::json!({"name": name})).unwrap();
    let mut tx = store.write().await.unwrap();
    let made = create(&mut tx, body("legal"), now).await.unwrap();
    let vault = serde_json::json!({"display_name": "v"});
    for workspace in [&made.id, &WorkspaceId::default()] {
        crate::vaults::create(&mut tx, workspace, serde_json::from_value(vault.clone()).unwrap(), now).await.unwrap();
    }
    erase(&mut tx, &made.id).await.unwrap();
    tx.commit().await.unwrap();
    let mut reader = store.read().await.unwrap();
    assert!(
        matches!(required(&mut reader, &made.id).await, Err(StoreError::Refused(problem)) if problem.status() == 404)
    );
    let left: Vec<String> =
        sqlx::query_scalar("SELECT workspace_id FROM vaults").fetch_all(&mut *reader).await.unwrap();
    assert_eq!(left, ["wrkspc_default"]);
}

#[tokio::test]
async fn nothing_comes_into_a_workspace_that_was_erased() {
    let (store, _directory) = store().await;
    let mut tx = store.write().await.unwrap();
    for table in ERASED.iter().copied().chain(["blobs"]) {
        let late = format!("INSERT INTO {table} (workspace_id) VALUES ('wrkspc_gone')");
        let refused = sqlx::query(sqlx::AssertSqlSafe(late)).execute(&mut **tx).await.unwrap_err();
        match StoreError::from(refused) {
            StoreError::Refused(problem) => assert_eq!(problem.status(), 404, "{table}"),
            other => panic!("{table}: {other:?}"),
        }
    }
}
