-- Tokens of repositories that sessions were given: ciphertext, and what it is sealed to besides the row's own ids. Gone when
-- its session is archived.
CREATE TABLE repository_tokens (
    workspace_id TEXT NOT NULL,
    session_id   TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    resource_id  TEXT NOT NULL PRIMARY KEY,
    host         TEXT NOT NULL,
    url          TEXT NOT NULL,
    -- Null once its resource was removed, so that a worker that was away then is told when it comes back.
    sealed       TEXT,
    updated_at   BIGINT NOT NULL
);
CREATE INDEX repository_tokens_by_session ON repository_tokens (session_id);
CREATE INDEX repository_tokens_by_workspace ON repository_tokens (workspace_id);
