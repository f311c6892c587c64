-- Where a session's MCP credentials are looked for: a JSON array of vault ids, in order.
ALTER TABLE sessions ADD COLUMN vault_ids TEXT NOT NULL DEFAULT '[]';

-- The journal of MCP calls: a row is committed before its call begins, so a call without one has certainly not run.
CREATE TABLE mcp_calls (
    workspace_id TEXT NOT NULL,
    session_id   TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    thread_id    TEXT NOT NULL,
    -- The `agent.mcp_tool_use` event that asks for the call.
    event_id     TEXT NOT NULL,
    started_at   BIGINT NOT NULL,
    PRIMARY KEY (session_id, event_id)
);
