-- Agents, environments, keys and the work queue. Instants are microseconds since 1970; JSON is text.

CREATE TABLE agents (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    version      BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    archived_at  BIGINT
);
CREATE INDEX agents_by_age ON agents (workspace_id, created_at, id);

CREATE TABLE agent_versions (
    workspace_id TEXT NOT NULL,
    agent_id     TEXT NOT NULL REFERENCES agents (id),
    version      BIGINT NOT NULL,
    definition   TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (agent_id, version)
);

CREATE TABLE environments (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    name         TEXT NOT NULL,
    description  TEXT,
    config       TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    archived_at  BIGINT
);
CREATE INDEX environments_by_age ON environments (workspace_id, created_at, id);
-- Two creations at the same instant cannot both take a name.
CREATE UNIQUE INDEX environments_by_name ON environments (workspace_id, name) WHERE archived_at IS NULL;

CREATE TABLE environment_keys (
    workspace_id   TEXT NOT NULL,
    id             TEXT NOT NULL PRIMARY KEY,
    environment_id TEXT NOT NULL REFERENCES environments (id),
    name           TEXT NOT NULL,
    hint           TEXT NOT NULL,
    digest         TEXT NOT NULL UNIQUE,
    created_at     BIGINT NOT NULL,
    revoked_at     BIGINT
);
CREATE INDEX environment_keys_by_environment ON environment_keys (environment_id, created_at, id);

CREATE TABLE api_keys (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    name         TEXT NOT NULL,
    hint         TEXT NOT NULL,
    digest       TEXT NOT NULL UNIQUE,
    created_at   BIGINT NOT NULL,
    revoked_at   BIGINT
);
CREATE INDEX api_keys_by_age ON api_keys (workspace_id, created_at, id);

CREATE TABLE work (
    workspace_id        TEXT NOT NULL,
    id                  TEXT NOT NULL PRIMARY KEY,
    environment_id      TEXT NOT NULL REFERENCES environments (id),
    session_id          TEXT NOT NULL,
    state               TEXT NOT NULL,
    metadata            TEXT NOT NULL,
    created_at          BIGINT NOT NULL,
    queued_at           BIGINT NOT NULL,
    -- Set while a worker has the item: from the poll to the stop.
    polled_at           BIGINT,
    lease_expires_at    BIGINT,
    attempts            BIGINT NOT NULL,
    acknowledged_at     BIGINT,
    started_at          BIGINT,
    latest_heartbeat_at BIGINT,
    -- The very text the worker must echo.
    last_heartbeat      TEXT,
    stop_requested_at   BIGINT,
    stopped_at          BIGINT,
    -- Why a worker could not serve it, as JSON.
    failure             TEXT,
    -- Whether the session has been told that the item stopped: a server may die between the two.
    reported            BOOLEAN NOT NULL
);
CREATE INDEX work_by_queue ON work (environment_id, state, queued_at, id);
CREATE INDEX work_by_age ON work (environment_id, created_at, id);
CREATE INDEX work_by_session ON work (session_id, state);
CREATE INDEX work_unreported ON work (environment_id) WHERE state = 'stopped' AND NOT reported;

-- One token for each time an item was handed out; it dies with that lease, or when the item is handed out again.
CREATE TABLE session_tokens (
    workspace_id TEXT NOT NULL,
    digest       TEXT NOT NULL PRIMARY KEY,
    work_id      TEXT NOT NULL REFERENCES work (id),
    session_id   TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    superseded   BOOLEAN NOT NULL
);
CREATE INDEX session_tokens_by_work ON session_tokens (work_id);
