//! Opening the database, transactions, and what can go wrong.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postern_model::Problem;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tracing::warn;

use crate::cipher::{Cipher, EventKeys};
use crate::clock::{self, Clock, Time};
use crate::{Connection, encrypted};

/// The schema, in order. A migration that was released is never edited.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "resources", include_str!("../migrations/sqlite/0001_resources.sql")),
    (2, "sessions", include_str!("../migrations/sqlite/0002_sessions.sql")),
    (3, "tunnels_and_vaults", include_str!("../migrations/sqlite/0003_tunnels_and_vaults.sql")),
    (4, "mcp_calls", include_str!("../migrations/sqlite/0004_mcp_calls.sql")),
    (5, "session_holds", include_str!("../migrations/sqlite/0005_session_holds.sql")),
    (10, "deployments", include_str!("../migrations/sqlite/0010_deployments.sql")),
    (20, "outcomes", include_str!("../migrations/sqlite/0020_outcomes.sql")),
    (21, "memory", include_str!("../migrations/sqlite/0021_memory.sql")),
    (22, "files", include_str!("../migrations/sqlite/0022_files.sql")),
    (40, "answers", include_str!("../migrations/sqlite/0040_answers.sql")),
    (41, "skills", include_str!("../migrations/sqlite/0041_skills.sql")),
    (45, "budgets", include_str!("../migrations/sqlite/0045_budgets.sql")),
    (49, "injection", include_str!("../migrations/sqlite/0049_injection.sql")),
    (53, "webhooks", include_str!("../migrations/sqlite/0053_webhooks.sql")),
    (54, "key_roles", include_str!("../migrations/sqlite/0054_key_roles.sql")),
    (55, "workspaces", include_str!("../migrations/sqlite/0055_workspaces.sql")),
    (56, "threads", include_str!("../migrations/sqlite/0056_threads.sql")),
    (57, "repositories", include_str!("../migrations/sqlite/0057_repositories.sql")),
    (59, "refresh_failed", include_str!("../migrations/sqlite/0059_refresh_failed.sql")),
    (63, "snapshots", include_str!("../migrations/sqlite/0063_snapshots.sql")),
    (64, "event_keys", include_str!("../migrations/sqlite/0064_event_keys.sql")),
    (65, "deployment_tokens", include_str!("../migrations/sqlite/0065_deployment_tokens.sql")),
    (75, "affinity", include_str!("../migrations/sqlite/0075_affinity.sql")),
    (80, "lease_clock", include_str!("../migrations/sqlite/0080_lease_clock.sql")),
    (81, "workflow_runs", include_str!("../migrations/sqlite/0081_workflow_runs.sql")),
    (82, "leases_of_keys", include_str!("../migrations/sqlite/0082_leases_of_keys.sql")),
    (83, "webhook_backlog", include_str!("../migrations/sqlite/0083_webhook_backlog.sql")),
    (84, "gone_sessions", include_str!("../migrations/sqlite/0084_gone_sessions.sql")),
    (85, "memory_bytes", include_str!("../migrations/sqlite/0085_memory_bytes.sql")),
    (86, "erased_workspaces", include_str!("../migrations/sqlite/0086_erased_workspaces.sql")),
];

const READERS: u32 = 8;
/// After how many commits the write-ahead log is moved into the file, beside the commits that follow.
const COMMITS_PER_CHECKPOINT: u32 = 128;
/// How many pages of 4 KiB it may grow to before a commit moves it itself: large ones outrun what is done beside them.
const MOST_LOGGED_PAGES: &str = "8000";
/// How long a statement waits for another process's lock before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The database, shared by cloning.
#[derive(Clone, Debug)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    checkpoints: Checkpoints,
    cipher: Cipher,
    clock: Clock,
    work: Arc<Notify>,
    told: Arc<Notify>,
}

/// A write transaction: one at a time, rolled back unless committed.
#[derive(Debug)]
pub struct Tx {
    inner: Connection,
    checkpoints: Checkpoints,
    work: Arc<Notify>,
    wakes_pollers: bool,
    told: Arc<Notify>,
    tells: bool,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state of the data forbids it; the problem is written for the caller.
    #[error("refused: {0}")]
    Refused(Problem),
    /// The database failed.
    #[error("query the database")]
    Database(#[source] sqlx::Error),
    /// The schema could not be brought up to date; a database of a newer build is refused here.
    #[error("migrate the database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// What is stored is encrypted under a key that was not given.
    #[error(
        "sessions are stored encrypted under the key {id}, which was not given: put it back into the file that [server] \
         event_key_file names, below the key in use"
    )]
    EventKeyMissing {
        /// The key's name.
        id: String,
    },
    /// A value could not be encrypted.
    #[error("encrypt {what}")]
    Unsealed {
        /// Table and column.
        what: &'static str,
    },
    /// A stored value does not read back.
    #[error("stored {what} does not read back")]
    Corrupt {
        /// Table and column.
        what: &'static str,
    },
}

/// What the trigger of every table says that belongs to workspaces.
const WORKSPACE_ERASED: &str = "workspace_erased";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error() {
            Some(said) if said.message() == WORKSPACE_ERASED => {
                Problem::not_found("The workspace was not found: it was erased.").into()
            }
            _ => Self::Database(error),
        }
    }
}

impl From<Problem> for StoreError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl Store {
    /// Opens the database file, making it where it is missing, and brings its schema up to date.
    ///
    /// # Errors
    /// The file cannot be opened or made, or a newer build has written it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, None).await
    }

    /// The same; what sessions say is encrypted under these keys from now on.
    ///
    /// # Errors
    /// As [`Store::open`]; or something is stored under a key that is not among them.
    pub async fn open_with(path: &Path, keys: Option<EventKeys>) -> Result<Self, StoreError> {
        Self::opened(path, keys, Clock::host()).await
    }

    /// The same under another clock than the host's.
    ///
    /// # Errors
    /// As [`Store::open_with`].
    pub async fn open_by(path: &Path, keys: Option<EventKeys>, time: Arc<dyn Time>) -> Result<Self, StoreError> {
        Self::opened(path, keys, Clock::of(time)).await
    }

    async fn opened(path: &Path, keys: Option<EventKeys>, clock: Clock) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // In WAL mode a commit then survives the death of every process; only a power cut can take the last ones.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            // What is purged is overwritten, not only forgotten: ciphertext of archived credentials too.
            .pragma("secure_delete", "ON")
            // The server can open no file but its own: what a statement would put into a temporary one stays in memory.
            .pragma("temp_store", "MEMORY")
            .pragma("wal_autocheckpoint", MOST_LOGGED_PAGES)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = pool(1).connect_with(options.clone()).await?;
        migrator().run(&writer).await?;
        let checkpoints = Checkpoints::new(pool(1).connect_lazy_with(options.clone()));
        let readers = pool(READERS).connect_with(options.read_only(true)).await?;
        let (work, told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let store = Self { writer, readers, checkpoints, cipher: Cipher::new(keys), clock, work, told };
        encrypted::check(&store).await?;
        let mut tx = store.write().await?;
        clock::begin(&mut tx).await?;
        tx.commit().await?;
        Ok(store)
    }

    /// Begins a write transaction. Waits for the one before it; dropping it rolls back.
    ///
    /// # Errors
    /// The database failed.
    pub async fn write(&self) -> Result<Tx, StoreError> {
        let begun = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let inner = Connection::writing(begun, self.cipher.clone(), self.clock.clone());
        let (work, told) = (Arc::clone(&self.work), Arc::clone(&self.told));
        let checkpoints = self.checkpoints.clone();
        Ok(Tx { inner, checkpoints, work, wakes_pollers: false, told, tells: false })
    }

    /// A connection that can only read. It sees everything committed before this call.
    ///
    /// # Errors
    /// The database failed.
    pub async fn read(&self) -> Result<Connection, StoreError> {
        Ok(Connection::reading(self.readers.acquire().await?, self.cipher.clone(), self.clock.clone()))
    }

    pub(crate) fn cipher(&self) -> &Cipher {
        &self.cipher
    }

    /// What time it is: the wall's, and the leases'.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Ends at the next commit that queued work. To miss none, enable it before looking at the queue.
    pub fn work_arrived(&self) -> OwnedNotified {
        Arc::clone(&self.work).notified_owned()
    }

    /// Ends once a commit noted something for webhooks, since the last call that ended.
    pub async fn webhooks_noted(&self) {
        self.told.notified().await;
    }

    /// Closes every connection; what was committed is in the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.checkpoints.pool.close().await;
        self.writer.close().await;
    }
}

impl Tx {
    /// Makes the changes durable, then wakes the pollers when work was queued.
    ///
    /// # Errors
    /// The database failed; nothing was changed.
    pub async fn commit(self) -> Result<(), StoreError> {
        postern_danger::point!("commit.before");
        self.inner.commit().await?;
        postern_danger::point!("commit.after");
        self.checkpoints.count();
        if self.wakes_pollers {
            self.work.notify_waiters();
        }
        if self.tells {
            self.told.notify_one();
        }
        Ok(())
    }

    /// Has the commit wake those who wait for work.
    pub(crate) fn wake_pollers(&mut self) {
        self.wakes_pollers = true;
    }

    /// Has the commit wake whoever delivers to webhooks.
    pub(crate) fn wake_deliverer(&mut self) {
        self.tells = true;
    }
}

impl Deref for Tx {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.inner
    }
}

/// Moves the write-ahead log into the file beside the commits, so that none of them waits for the disk.
#[derive(Clone, Debug)]
struct Checkpoints {
    pool: SqlitePool,
    /// How many commits there were since the last one; none are counted while one is under way.
    commits: Arc<AtomicU32>,
}

impl Checkpoints {
    fn new(pool: SqlitePool) -> Self {
        Self { pool, commits: Arc::default() }
    }

    /// Counts a commit.
    fn count(&self) {
        if self.commits.fetch_add(1, Ordering::Relaxed) + 1 == COMMITS_PER_CHECKPOINT {
            let checkpoints = self.clone();
            tokio::spawn(async move {
                // It waits for no reader and no writer: what it leaves, the next one moves.
                let moved = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&checkpoints.pool).await;
                if let Err(error) = moved {
                    warn!(error = &error as &dyn std::error::Error, "the write-ahead log was not moved into the file");
                }
                checkpoints.commits.store(0, Ordering::Relaxed);
            });
        }
    }
}

/// A connection to a file does not go away meanwhile: it is not asked whether it is there each time that it is taken,
/// and does not grow old.
fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, sqlx::SqlStr::from_static(sql), false)
    });
    Migrator { migrations: migrations.collect::<Vec<_>>().into(), ..Migrator::DEFAULT }
}

#[cfg(test)]
mod tests {
    use postern_model::ids::WorkspaceId;

    use super::*;
    use crate::list::ListQuery;

    async fn names(store: &Store) -> Vec<String> {
        let query = ListQuery { limit: 10, ..ListQuery::default() };
        let mut reader = store.read().await.unwrap();
        let found = crate::environments::list(&mut reader, &WorkspaceId::default(), &query).await.unwrap();
        found.into_iter().map(|environment| environment.name).collect()
    }

    async fn insert(tx: &mut Tx, name: &str) {
        let body = serde_json::from_value(serde_json::json!({ "name": name })).unwrap();
        let now = postern_model::Timestamp::UNIX_EPOCH;
        crate::environments::create(tx, &WorkspaceId::default(), body, now).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening_and_the_rest_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.db");
        let store = Store::open(&path).await.unwrap();
        let mut kept = store.write().await.unwrap();
        insert(&mut kept, "kept").await;
        kept.commit().await.unwrap();
        let mut dropped = store.write().await.unwrap();
        insert(&mut dropped, "dropped").await;
        drop(dropped);
        // Not closed: as after a kill, the file is all there is.
        assert_eq!(names(&Store::open(&path).await.unwrap()).await, ["kept"]);
    }

    #[tokio::test]
    async fn what_is_committed_moves_into_the_file_long_before_a_commit_has_to_move_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.db");
        let store = Store::open(&path).await.unwrap();
        let most: u64 = MOST_LOGGED_PAGES.parse().unwrap();
        for number in 0.. {
            let mut tx = store.write().await.unwrap();
            insert(&mut tx, &format!("environment-{number}")).await;
            tx.commit().await.unwrap();
            let file = std::fs::read(&path).unwrap();
            if file.windows(13).any(|at| at == b"environment-0") {
                break;
            }
            let logged = std::fs::metadata(directory.path().join("control.db-wal")).unwrap().len();
            assert!(logged < most * 4096 / 2, "nobody moves it");
        }
    }

    #[tokio::test]
    async fn a_reader_cannot_write() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("control.db")).await.unwrap();
        let mut reader = store.read().await.unwrap();
        assert!(sqlx::query("DELETE FROM environments").execute(&mut *reader).await.is_err());
    }

    #[tokio::test]
    async fn the_database_of_a_newer_build_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.db");
        let store = Store::open(&path).await.unwrap();
        let mut tx = store.write().await.unwrap();
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'later', TRUE, X'00', 0)",
        )
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        store.close().await;
        assert!(matches!(Store::open(&path).await, Err(StoreError::Migrate(_))));
    }

    #[tokio::test]
    async fn two_environments_cannot_take_one_name_even_past_the_check() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("control.db")).await.unwrap();
        let mut tx = store.write().await.unwrap();
        insert(&mut tx, "taken").await;
        let copy = "INSERT INTO environments (workspace_id, id, name, config, metadata, created_at, updated_at) \
                    SELECT workspace_id, 'env_copy', name, config, metadata, created_at, updated_at FROM environments";
        assert!(sqlx::query(copy).execute(&mut *tx).await.is_err());
    }
}
