-- Deployments and what came of their runs. Instants are microseconds since 1970; JSON is text.

CREATE TABLE deployments (
    workspace_id   TEXT NOT NULL,
    id             TEXT NOT NULL PRIMARY KEY,
    name           TEXT NOT NULL,
    description    TEXT,
    agent_id       TEXT NOT NULL,
    agent_version  BIGINT NOT NULL,
    environment_id TEXT NOT NULL,
    initial_events TEXT NOT NULL,
    resources      TEXT NOT NULL,
    vault_ids      TEXT NOT NULL,
    metadata       TEXT NOT NULL,
    budget         TEXT,
    schedule       TEXT,
    status         TEXT NOT NULL,
    paused_reason  TEXT,
    last_run_at    BIGINT,
    -- The next time by the schedule, and when it is acted on: a little later, so that not all start at the full hour.
    -- Both null while it is paused, archived or without a schedule.
    scheduled_at   BIGINT,
    fires_at       BIGINT,
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    archived_at    BIGINT
);
CREATE INDEX deployments_by_age ON deployments (workspace_id, created_at, id);
CREATE INDEX deployments_by_agent ON deployments (agent_id);
CREATE INDEX deployments_by_time ON deployments (fires_at);

CREATE TABLE deployment_runs (
    workspace_id  TEXT NOT NULL,
    id            TEXT NOT NULL PRIMARY KEY,
    deployment_id TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    agent_id      TEXT NOT NULL,
    agent_version BIGINT NOT NULL,
    trigger_type  TEXT NOT NULL,
    scheduled_at  BIGINT,
    session_id    TEXT,
    error         TEXT,
    created_at    BIGINT NOT NULL
);
CREATE INDEX deployment_runs_by_age ON deployment_runs (workspace_id, created_at, id);
CREATE INDEX deployment_runs_by_deployment ON deployment_runs (deployment_id, created_at, id);
-- A scheduled time runs once, whoever acts on it.
CREATE UNIQUE INDEX deployment_runs_once ON deployment_runs (deployment_id, scheduled_at);

ALTER TABLE sessions ADD COLUMN deployment_id TEXT;
CREATE INDEX sessions_by_deployment ON sessions (deployment_id);
