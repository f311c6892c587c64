-- Workspaces, and for how long each keeps what was said in it. Instants are microseconds since 1970.

CREATE TABLE workspaces (
    id             TEXT   NOT NULL PRIMARY KEY,
    name           TEXT   NOT NULL,
    -- Sessions that rested for so many days are deleted; null keeps them.
    retention_days BIGINT,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL
);
INSERT INTO workspaces (id, name, created_at, updated_at) VALUES ('wrkspc_default', 'default', 0, 0);
CREATE INDEX sessions_at_rest ON sessions (workspace_id, status, updated_at);
