-- Bytes, their files, and what sessions are given. Instants are microseconds since 1970; JSON is text.

CREATE TABLE blobs (
    id           TEXT NOT NULL PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    size_bytes   BIGINT NOT NULL,
    begun_at     BIGINT NOT NULL,
    -- Null while its bytes still arrive.
    complete_at  BIGINT
);
CREATE INDEX blobs_by_workspace ON blobs (workspace_id, size_bytes);

-- Of one length but for the last: an offset is a number.
CREATE TABLE blob_chunks (
    blob_id TEXT NOT NULL,
    number  BIGINT NOT NULL,
    bytes   BLOB NOT NULL,
    PRIMARY KEY (blob_id, number)
);

CREATE TABLE files (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    blob_id      TEXT NOT NULL REFERENCES blobs (id),
    filename     TEXT NOT NULL,
    mime_type    TEXT NOT NULL,
    size_bytes   BIGINT NOT NULL,
    downloadable BOOLEAN NOT NULL,
    -- The session whose copy or output it is.
    session_id   TEXT REFERENCES sessions (id) ON DELETE CASCADE,
    -- Where it lay in the session, of an output.
    output_path  TEXT,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT
);
CREATE INDEX files_by_age ON files (workspace_id, created_at, id);
CREATE INDEX files_by_session ON files (session_id);
CREATE INDEX files_by_blob ON files (blob_id);
CREATE INDEX files_by_expiry ON files (expires_at);
CREATE UNIQUE INDEX files_by_output ON files (session_id, output_path);

ALTER TABLE sessions ADD COLUMN resources TEXT NOT NULL DEFAULT '[]';
