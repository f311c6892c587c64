-- What an operator holds back of a session. Outlives every process that was told: whoever comes later is told too.
CREATE TABLE session_holds (
    workspace_id      TEXT NOT NULL,
    session_id        TEXT NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    -- Cleared by a thaw.
    frozen_at         BIGINT,
    -- For good.
    grants_revoked_at BIGINT
);
CREATE INDEX session_holds_by_workspace ON session_holds (workspace_id, session_id);
