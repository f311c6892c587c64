-- Sessions, their threads and their logs. Instants are microseconds since 1970; JSON is text.

CREATE TABLE sessions (
    workspace_id   TEXT NOT NULL,
    id             TEXT NOT NULL PRIMARY KEY,
    environment_id TEXT NOT NULL REFERENCES environments (id),
    thread_id      TEXT NOT NULL,
    agent_id       TEXT NOT NULL,
    agent_version  BIGINT NOT NULL,
    -- The snapshot: what the agent said when the session began, or was changed to since.
    agent          TEXT NOT NULL,
    title          TEXT,
    metadata       TEXT NOT NULL,
    status         TEXT NOT NULL,
    usage          TEXT NOT NULL,
    -- Set while the session runs: since when.
    active_since   BIGINT,
    has_run        BOOLEAN NOT NULL,
    has_been_idle  BOOLEAN NOT NULL,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    archived_at    BIGINT
);
CREATE INDEX sessions_by_age ON sessions (workspace_id, created_at, id);
CREATE INDEX sessions_by_environment ON sessions (environment_id);
CREATE INDEX sessions_by_status ON sessions (status);

CREATE TABLE threads (
    workspace_id TEXT NOT NULL,
    id           TEXT NOT NULL PRIMARY KEY,
    session_id   TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    parent_id    TEXT,
    created_at   BIGINT NOT NULL
);
CREATE INDEX threads_by_session ON threads (session_id);

CREATE TABLE session_events (
    workspace_id TEXT NOT NULL,
    session_id   TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    thread_id    TEXT NOT NULL,
    -- The order of the log. An event that was accepted and waits stands beyond 2^40 until it takes effect.
    seq          BIGINT NOT NULL,
    id           TEXT NOT NULL,
    type         TEXT NOT NULL,
    body         TEXT NOT NULL,
    accepted_at  BIGINT NOT NULL,
    processed_at BIGINT,
    PRIMARY KEY (session_id, seq)
);
CREATE UNIQUE INDEX session_events_by_id ON session_events (session_id, id);

-- What the model said word for word, thinking and its signatures included: goes back to the model and to nobody else.
CREATE TABLE model_blocks (
    workspace_id TEXT NOT NULL,
    session_id   TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    thread_id    TEXT NOT NULL,
    event_id     TEXT NOT NULL,
    blocks       TEXT NOT NULL,
    PRIMARY KEY (session_id, event_id)
);
