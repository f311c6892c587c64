-- Memory stores, their memories, and every change of these. Instants are microseconds since 1970; JSON is text.

CREATE TABLE memory_stores (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    name         TEXT NOT NULL,
    description  TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    archived_at  BIGINT
);
CREATE INDEX memory_stores_by_age ON memory_stores (workspace_id, created_at, id);

-- Each text once, for all the versions that have it. Gone with the last of them.
CREATE TABLE memory_contents (
    workspace_id    TEXT NOT NULL,
    memory_store_id TEXT NOT NULL REFERENCES memory_stores (id) ON DELETE CASCADE,
    sha256          TEXT NOT NULL,
    content         TEXT NOT NULL,
    PRIMARY KEY (memory_store_id, sha256)
);

CREATE TABLE memories (
    workspace_id    TEXT NOT NULL,
    id              TEXT NOT NULL PRIMARY KEY,
    memory_store_id TEXT NOT NULL REFERENCES memory_stores (id) ON DELETE CASCADE,
    -- The head: the version that this row says again.
    version_id      TEXT NOT NULL,
    path            TEXT NOT NULL,
    content_sha256  TEXT NOT NULL,
    content_size    BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL
);
-- Ordered by bytes: what begins with a directory stands together.
CREATE UNIQUE INDEX memories_by_path ON memories (memory_store_id, path);

CREATE TABLE memory_versions (
    workspace_id    TEXT NOT NULL,
    id              TEXT NOT NULL PRIMARY KEY,
    memory_store_id TEXT NOT NULL REFERENCES memory_stores (id) ON DELETE CASCADE,
    -- Of which memory, deleted ones too.
    memory_id       TEXT NOT NULL,
    operation       TEXT NOT NULL,
    -- Null once redacted; the two after it of a deletion too.
    path            TEXT,
    content_sha256  TEXT,
    content_size    BIGINT,
    created_by      TEXT NOT NULL,
    -- What a list is filtered by.
    api_key_id      TEXT,
    session_id      TEXT,
    created_at      BIGINT NOT NULL,
    redacted_at     BIGINT,
    redacted_by     TEXT
);
CREATE INDEX memory_versions_by_age ON memory_versions (memory_store_id, created_at, id);
CREATE INDEX memory_versions_by_memory ON memory_versions (memory_id, created_at, id);
CREATE INDEX memory_versions_by_content ON memory_versions (memory_store_id, content_sha256);

-- The stores that a session has as resources, with what it may do there: what its workers' tokens reach.
CREATE TABLE session_memory_stores (
    session_id      TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    memory_store_id TEXT NOT NULL REFERENCES memory_stores (id) ON DELETE CASCADE,
    -- read_only or read_write.
    access          TEXT NOT NULL,
    PRIMARY KEY (session_id, memory_store_id)
);
CREATE INDEX session_memory_stores_by_store ON session_memory_stores (memory_store_id);
